"""Compiler flags by device: the one place where launches take them from.

Flags belong to a version of the compiler, and an unknown one aborts the process at start. A test
tries the GPU table against the installed jaxlib; the TPU tables were accepted by libtpu 0.0.42.1,
compiling ahead of time. An entry of `environment` in a run description replaces a variable as a
whole.
"""

from __future__ import annotations

from collections.abc import Mapping

# Collectives are split into start and done, and matmuls scheduled between the two.
_TPU = (
    "--xla_tpu_enable_async_collective_fusion=true",
    "--xla_tpu_enable_async_collective_fusion_fuse_all_gather=true",
    "--xla_tpu_enable_async_collective_fusion_multiple_steps=true",
    "--xla_tpu_overlap_compute_collective_tc=true",
    "--xla_enable_async_all_gather=true",
)
TPU: Mapping[str, tuple[str, ...]] = {
    "v5e": _TPU,
    "v5p": _TPU,
    # More vector memory for fusions: v6e has 128 MiB, of which the default scopes 16.
    "v6e": (*_TPU, "--xla_tpu_scoped_vmem_limit_kib=98304"),
}

# The latency-hiding scheduler overlaps collectives with compute; gathers and reductions of FSDP
# are pipelined over the layers of a scan, and combined up to 256 MiB.
GPU = (
    "--xla_gpu_enable_latency_hiding_scheduler=true",
    "--xla_gpu_enable_pipelined_all_gather=true",
    "--xla_gpu_enable_pipelined_reduce_scatter=true",
    "--xla_gpu_enable_pipelined_all_reduce=true",
    "--xla_gpu_enable_while_loop_double_buffering=true",
    "--xla_gpu_all_gather_combine_threshold_bytes=268435456",
    "--xla_gpu_reduce_scatter_combine_threshold_bytes=268435456",
    "--xla_gpu_all_reduce_combine_threshold_bytes=268435456",
)


def tpu_environment(generation: str) -> dict[str, str]:
    """Environment variables for a TPU of `generation`, such as "v5p"."""
    return {"LIBTPU_INIT_ARGS": " ".join(TPU[generation])}


def gpu_environment() -> dict[str, str]:
    """Environment variables for NVIDIA GPUs."""
    return {"XLA_FLAGS": " ".join(GPU)}


def cpu_environment(devices: int) -> dict[str, str]:
    """Environment variables for a process that has `devices` virtual CPU devices."""
    return {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
