# make quickstart   train a small HAT on this machine's own Python sources: 8 minutes on 2 cores
# make test         run every test that needs no accelerator
# make install      only create .venv; then .venv/bin/hat --help
# make clean        remove what these made (never runs/)
#
# PYTHON=python3.12 chooses the interpreter (3.11 or later), WORKERS=8 the test processes.

PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# A CPU run frees and takes hundreds of megabytes a step: keep them, in huge pages. About a sixth
# of the processor time of a step; other systems ignore it.
HEAP := glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=8589934592:glibc.malloc.trim_threshold=8589934592

# Products as small as those of a step are quicker in Eigen than in YNNPACK, to which XLA's CPU
# backend gives them since jax 0.10: a seventh of the time of a step (hat bench train).
PRODUCTS := --xla_cpu_experimental_ynn_fusion_type=

.PHONY: help install quickstart test clean

help:
	@sed -n 's/^# \{0,1\}//p' Makefile

install: .venv/installed

quickstart: .venv/installed
	GLIBC_TUNABLES=$(HEAP) XLA_FLAGS="$(PRODUCTS) $$XLA_FLAGS" $(BIN)/hat train configs/quickstart.py --out runs/quickstart --json

test: .venv/installed-dev
	HAT_TEST_CACHE=$(CURDIR)/.build/xla $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --durations=25

clean:
	rm -rf .venv .build build dist *.egg-info .pytest_cache .hypothesis
	find hat tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps are written last, so that an interrupted installation is done again.
.venv/installed: pyproject.toml constraints.txt | .venv/pyvenv.cfg
	$(PIP_INSTALL) -e .
	@touch $@

.venv/installed-dev: pyproject.toml constraints.txt | .venv/pyvenv.cfg
	$(PIP_INSTALL) -e '.[dev]'
	@touch .venv/installed $@

.venv/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'hat needs Python 3.11 or later: make PYTHON=/path/to/python3.11' >&2; exit 1; }
	$(PYTHON) -m venv .venv
