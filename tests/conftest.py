"""What every test stands on: eight virtual CPU devices, quick compilation, a compile cache,
hypothesis settings."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parents[1]

# A test run on an accelerator names it: JAX_PLATFORMS=cuda pytest -m gpu.
if "jax" not in sys.modules:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    # Most of the suite's time would be spent on good code for programs that run for milliseconds:
    # LLVM's passes, and XLA's newer emitters, which go through MLIR (three times the compilation
    # of a training step). tests/launching/test_launch_command.py trains with what users have.
    defaults = {
        "xla_force_host_platform_device_count": 8,
        "xla_backend_optimization_level": 0,
        "xla_cpu_use_fusion_emitters": "false",
    }
    flags = os.environ.get("XLA_FLAGS", "").split()
    flags += [f"--{name}={value}" for name, value in defaults.items()
              if not any(flag.startswith(f"--{name}") for flag in flags)]
    os.environ["XLA_FLAGS"] = " ".join(flags)
    cache = os.environ.get("HAT_TEST_CACHE") or str(ROOT / ".build" / "xla")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", cache)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

# The same examples every time, however slow the machine: a failure that is found is found again.
# HYPOTHESIS_PROFILE=explore draws new ones.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.register_profile("explore", deadline=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_collection_finish() -> None:
    """Keeps the garbage collector off what has been imported, and lets it come less often: tracing
    makes millions of small objects, and it took a seventh of the time of tests of training."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 5)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips tests marked `gpu` or `tpu` where there is none."""
    marked = [(item, kind) for item in items for kind in ("gpu", "tpu")
              if item.get_closest_marker(kind)]
    if not marked:
        return
    import jax

    for item, kind in marked:
        if jax.default_backend() != kind:
            reason = f"needs a {kind.upper()}; JAX runs on {jax.default_backend()} here"
            item.add_marker(pytest.mark.skip(reason=reason))


# Every compiled program takes memory mappings, of which Linux gives a process 65,530 by default; where
# there are no more, the process dies.
MOST_MAPPINGS = 30_000


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Between two files, drops programs where there are many: the cache on disk has them."""
    if nextitem is None or nextitem.path == item.path or "jax" not in sys.modules:
        return
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > MOST_MAPPINGS:
        sys.modules["jax"].clear_caches()
        gc.collect()


@pytest.fixture(scope="module")
def quick_runs():
    """Runs of this process train on the first device alone, with programs that they share."""
    import jax

    from hat.training import loop
    from tests.training.shared_program import SharedProgram

    first = jax.devices()[:1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *args: first)
        patch.setattr(loop, "Program", SharedProgram)
        yield
