"""Converts a synthetic bf16 Llama to a run and back: seconds, GB/s and the peak of host memory.

The checkpoint has the shapes of Llama 3.2 1B (2.5 GB) unless --layers or --hidden make it smaller.
Every conversion runs in a process of its own; its peak is the largest resident set that the
system saw, libraries and file pages included, and is printed over the bytes of the checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hat.commands.arguments import positive_int
from hat.errors import UserError

# Runs `hat convert` and tells the peak of its own memory, in bytes.
_CHILD = r"""
import json, pathlib, re, resource, sys
from hat.cli import main
status = main(sys.argv[1:])
found = pathlib.Path("/proc/self/status")
if found.exists():  # ru_maxrss begins with what the process that started this one has held
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", found.read_text()).group(1)) * 1024
else:
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
print(json.dumps({"peak": peak}))
sys.exit(status)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--layers", metavar="L", type=positive_int, default=16,
                        help="(default: 16)")
    parser.add_argument("--hidden", metavar="D", type=positive_int, default=2048,
                        help="width, a multiple of 64 (default: 2048)")
    parser.add_argument("--vocab", metavar="V", type=positive_int, default=128_256,
                        help="rows of the tied embedding (default: 128256)")
    parser.add_argument("--out", metavar="DIR", type=Path,
                        help="where three checkpoints fit (default: the system's temporary folder)")


def run(arguments: argparse.Namespace) -> dict:
    if arguments.hidden % 64:
        raise UserError(f"--hidden {arguments.hidden} is no multiple of 64")
    with tempfile.TemporaryDirectory(dir=arguments.out) as name:
        folder = Path(name)
        size = write_llama(folder / "llama", arguments.layers, arguments.hidden, arguments.vocab)
        steps = {
            "to native": convert(folder / "llama", "native", folder / "native"),
            "to hf": convert(folder / "native", "hf", folder / "back"),
        }
        same = same_bytes(folder / "llama", folder / "back")
    print(f"{size / 1e9:.3f} GB of bfloat16, back {'bit for bit' if same else 'CHANGED'}")
    print(f"{'conversion':12} {'seconds':>8} {'GB/s':>7} {'peak GB':>8} {'peak/bytes':>11}")
    rows = {}
    for step, (seconds, peak) in steps.items():
        rows[step] = {
            "seconds": seconds,
            "gigabytes_per_second": size / 1e9 / seconds,
            "peak_bytes": peak,
            "peak_over_bytes": peak / size,
        }
        print(f"{step:12} {seconds:8.2f} {size / 1e9 / seconds:7.3f} {peak / 1e9:8.3f} "
              f"{peak / size:11.2f}")
    return {"bytes": size, "same": same, "conversions": rows}


def write_llama(folder: Path, layers: int, hidden: int, vocab: int) -> int:
    """A random Llama in two or more shards, written tensor by tensor; its bytes."""
    import ml_dtypes
    import numpy as np

    from hat.conversion.hf_config import CONFIG_FILE, write_llama
    from hat.conversion.leaves import written_specs
    from hat.conversion.llama import llama_leaves, write_json
    from hat.conversion.tensor_files import write_folder
    from hat.models.layers import RopeScaling, StackConfig
    from hat.models.llama import LlamaConfig

    stack = StackConfig(
        hidden_size=hidden,
        num_layers=layers,
        num_heads=hidden // 64,
        num_kv_heads=max(1, hidden // 256),
        intermediate_size=4 * hidden,
        rope_theta=500_000.0,
        rope_scaling=RopeScaling(factor=32.0),
    )
    config = LlamaConfig(stack, vocab, eot_id=vocab - 1, tie_embeddings=True)
    bfloat16 = np.dtype(ml_dtypes.bfloat16)
    specs = {
        name: spec._replace(dtype=bfloat16)
        for name, spec in written_specs(
            llama_leaves(config, vocab), config.build().abstract_params()
        ).items()
    }
    rng = np.random.default_rng(0)

    def tensors():
        for name, spec in specs.items():
            # Any finite bits; random ones, so that nothing on the way can compress them.
            bits = rng.integers(0, 2**14, spec.shape, np.uint16)
            yield name, bits.view(bfloat16)

    size = sum(spec.nbytes for spec in specs.values())
    folder.mkdir()
    fields = write_llama(config, vocab, "bfloat16", {}) | {"eos_token_id": vocab - 1}
    write_json(folder / CONFIG_FILE, fields)
    write_folder(folder, specs, tensors(), shard_bytes=size // 2 + 1)
    return size


def convert(source: Path, to: str, out: Path) -> tuple[float, int]:
    """Seconds and peak bytes of one `hat convert`."""
    words = ["convert", str(source), "--to", to, "--out", str(out)]
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _CHILD, *words], capture_output=True, text=True, env=os.environ
    )
    if done.returncode:
        raise UserError(f"hat {' '.join(words)} failed: {done.stderr.strip().splitlines()[-1]}")
    return time.perf_counter() - began, json.loads(done.stdout.splitlines()[-1])["peak"]


def same_bytes(one: Path, other: Path) -> bool:
    """Whether two folders hold the same tensors, compared one after the other."""
    import numpy as np

    from hat.conversion.tensor_files import open_folder

    a, b = open_folder(one), open_folder(other)
    if a.specs != b.specs:
        return False
    for name in a.specs:
        if not np.array_equal(a.read(name).view(np.uint16), b.read(name).view(np.uint16)):
            return False
        a.release()
        b.release()
    return True
