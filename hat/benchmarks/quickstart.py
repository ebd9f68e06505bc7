"""Trains quickstart configs one after the other and compares their held-out bits per byte.

Every run has the same seconds of training on the same machine and the same held-out bytes; what
differs is the config and the seed. A finished run is not repeated, so that the benchmark resumes.
Nothing else should run beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from hat.commands.arguments import positive_int
from hat.errors import UserError

# As `make quickstart` sets them: glibc keeps the memory of a step, in huge pages, and small products
# are Eigen's.
ENVIRONMENT = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=8589934592"
    ":glibc.malloc.trim_threshold=8589934592",
    "XLA_FLAGS": "--xla_cpu_experimental_ynn_fusion_type=",
}
CONFIGS = ("quickstart", "quickstart_bpe", "quickstart_bytes")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("configs", metavar="CONFIG", nargs="*", type=Path,
                        default=[Path("configs", f"{name}.py") for name in CONFIGS],
                        help="default: the HAT, the subword and the flat byte model")
    parser.add_argument("--seeds", metavar="N", type=positive_int, default=3,
                        help="runs of each config (default: 3)")
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("runs", "bench-quickstart"),
                        help="(default: runs/bench-quickstart)")
    parser.add_argument("--set", metavar="A.B=C", nargs="+", action="extend", default=[],
                        help="change fields of every config, such as training.seconds=60")


def run(arguments: argparse.Namespace) -> dict:
    results: dict[str, list[dict]] = {}
    for seed in range(arguments.seeds):  # seeds outside: a table of fewer seeds is whole early
        for config in arguments.configs:
            folder = arguments.out / f"{config.stem}-seed{seed}"
            results.setdefault(config.stem, []).append(
                train(config, folder, [*arguments.set, f"training.seed={seed}"])
            )
    rows = {name: summary(runs) for name, runs in results.items()}
    print(f"{'config':20} {'bits/byte':>9} {'spread':>8} {'seeds':>24} {'steps':>7} {'bytes/s':>8}")
    for name, row in rows.items():
        seeds = " ".join(f"{bits:.4f}" for bits in row["bits_per_byte"])
        print(f"{name:20} {row['mean']:9.4f} {row['spread']:8.4f} {seeds:>24} "
              f"{row['steps']:7.0f} {row['bytes_per_second']:8.0f}")
    return {"results": rows}


def train(config: Path, folder: Path, changes: list[str]) -> dict:
    """The result of `hat train`, from the folder if the run there is finished."""
    result = folder / "result.json"
    if not (result.exists() and json.loads(result.read_text(encoding="utf-8"))["finished"]):
        command = [sys.executable, "-m", "hat", "train", str(config), "--out", str(folder)]
        status = subprocess.run(
            [*command, "--set", *changes], stdout=subprocess.DEVNULL, env=ENVIRONMENT | os.environ
        ).returncode
        if status:
            raise UserError(f"{config} ended with status {status}; its message stands above")
    return json.loads(result.read_text(encoding="utf-8"))


def summary(runs: list[dict]) -> dict:
    """Mean and spread (highest minus lowest) over the seeds."""
    bits = [run["heldout_bits_per_byte"] for run in runs]
    return {
        "bits_per_byte": bits,
        "mean": statistics.mean(bits),
        "spread": max(bits) - min(bits),
        "heldout_bytes": runs[0]["heldout_bytes"],
        "seconds": statistics.mean(run["seconds"] for run in runs),
        "steps": statistics.mean(run["step"] for run in runs),
        "bytes_per_second": statistics.mean(run["bytes_per_second"] for run in runs),
    }
