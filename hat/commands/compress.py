"""Compresses a file with a trained byte model and plain arithmetic coding.

The model may be a flat byte-level Llama (hat equal-info train-m1), a HAT, or a tokenized model,
through its exact byte probabilities. hat decompress needs the same model: the file holds its hash,
not its parameters. What is written has been decoded first. Only with --portable does a file
decompress on any machine: a flat byte-level Llama then computes in whole numbers.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from hat.commands.files import check_output, read_input, write_output

SUFFIX = ".hatz"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="any bytes")
    parser.add_argument("--model", metavar="RUN", type=Path,
                        help="a folder of hat train (default: $HAT_COMPRESS_MODEL)")
    parser.add_argument("--out", metavar="FILE", type=Path, help=f"default: FILE{SUFFIX}")
    parser.add_argument("--portable", action="store_true",
                        help="whole numbers alone: decompresses on any machine")
    parser.add_argument("--force", action="store_true", help="replace --out where it is there")


def run(arguments: argparse.Namespace) -> dict:
    out = arguments.out or arguments.file.with_name(arguments.file.name + SUFFIX)
    check_output(out, arguments.force, arguments.file)
    model = chosen_model(arguments.model)
    data = read_input(arguments.file)
    from hat.compression.codec import compress
    from hat.compression.sessions import load_predictor
    from hat.training.progress import Progress

    make, most_rows = load_predictor(model, arguments.portable)
    with Progress("compressing and verifying", total=2 * len(data), unit="B") as progress:
        packed = compress(
            data, make, portable=arguments.portable, most_rows=most_rows, progress=progress.update
        )
    write_output(out, packed.content)
    size = len(packed.content)
    share = size / len(data) if data else None
    rate = f" ({share:.1%}, {8 * share:.3f} bits a byte)" if data else ""
    print(f"{out}: {len(data):,} bytes to {size:,}{rate}; the model, which is not in it, has "
          f"{model_bytes(model):,} bytes")
    if packed.raw_chunks:
        print(f"{packed.raw_chunks} chunks are kept as they were: the model does not know them")
    return {
        "out": str(out), "bytes": len(data), "compressed_bytes": size,
        "bits_per_byte": 8 * share if data else None, "ideal_bits": packed.ideal_bits,
        "coded_bytes": packed.coded_bytes, "raw_chunks": packed.raw_chunks,
        "model_bytes": model_bytes(model), "portable": arguments.portable,
    }  # fmt: skip


def chosen_model(path: Path | None) -> Path:
    """UserError where none is named."""
    from hat.errors import UserError

    path = path or os.environ.get("HAT_COMPRESS_MODEL")
    if not path:
        raise UserError("no model; give --model RUN, or set HAT_COMPRESS_MODEL: hat equal-info "
                        "train-m1 trains one")
    return Path(path)


def model_bytes(path: Path) -> int:
    """Of the parameters in float32."""
    from hat.training.run_folder import read_experiment

    return 4 * sum(read_experiment(path).model.build().parameter_counts().values())
