"""What every test stands on: eight virtual CPU devices, quick compilation, a compile cache,
hypothesis settings."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).resolve().parents[1]

# A test run on an accelerator names it: JAX_PLATFORMS=cuda pytest -m gpu.
if "jax" not in sys.modules:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    # Half of the suite's time would be LLVM's passes over programs that run for milliseconds. What
    # tests start as processes of their own is optimised as usual.
    defaults = {"xla_force_host_platform_device_count": 8, "xla_backend_optimization_level": 0}
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
