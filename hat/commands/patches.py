"""Makes a splitter of a small byte model: a word ends where the model is unsure of the next byte.

Entropy patches, as in the Byte Latent Transformer. RUN is the output folder of a flat byte-level
Llama with a window (configs/quickstart_bytes.py). --bytes-per-word finds the threshold at which the
text of --text has so many bytes a word; --threshold gives it. OUT is a file, and the splitter is
entropy:OUT (hat train --set data.splitter=entropy:OUT). It holds the model too: RUN is not needed
any more.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from hat.commands.files import check_output, read_input
from hat.errors import UserError

ALMOST_EVERY_BYTE = 1.25  # bytes a word: below, a backbone costs what a flat byte model does


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", type=Path, help="the output folder of hat train")
    parser.add_argument("--text", metavar="FILE", type=Path, nargs="+", required=True,
                        help="text to find the threshold on, or to count its words")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--bytes-per-word", type=float, metavar="X", help="what the text is to have")
    which.add_argument("--threshold", type=float, metavar="NATS", help="the threshold itself")
    parser.add_argument("--kind", choices=("global", "monotonic"), default="global",
                        help="compare the entropy, or by how much it rises (default: global)")
    parser.add_argument("--max-word-bytes", type=int, default=64, metavar="N",
                        help="longer words are cut (default: 64)")
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="such as en.npz")
    parser.add_argument("--force", action="store_true", help="replace FILE where it is there already")


def run(arguments: argparse.Namespace) -> dict:
    check_output(arguments.out, arguments.force)
    texts = [read_input(path) for path in arguments.text]
    if not any(texts):
        raise UserError("--text holds no byte: give a file with text")
    import numpy as np

    from hat.inference.entropy import byte_model
    from hat.inference.run import load_run
    from hat.text.entropy import EntropyPatches, find_threshold, ratio
    from hat.training.progress import warn

    model, window = byte_model(load_run(arguments.run))
    threshold = 0.0 if arguments.threshold is None else arguments.threshold
    splitter = EntropyPatches(model, window, arguments.kind, threshold, arguments.max_word_bytes)
    rises = [splitter.rises(np.frombuffer(text, np.uint8)) for text in texts]
    if arguments.threshold is None:
        splitter = find_threshold(splitter, rises, arguments.bytes_per_word)
    found = ratio(splitter, rises)
    if found < ALMOST_EVERY_BYTE:
        warn(f"almost every byte becomes a word: {found:.2f} bytes a word; raise the threshold")
    elif arguments.threshold is None and abs(found / arguments.bytes_per_word - 1) > 0.02:
        warn(f"{found:.2f} bytes a word is the nearest that this text can have")
    splitter.save(arguments.out)
    # A model that reads beyond its window as it never did shows in the words after it.
    inside = ratio(splitter, [text[:window] for text in rises if len(text)])
    print(f"threshold {splitter.threshold:.4f} nats ({arguments.kind}): {found:.3f} bytes a word, "
          f"{inside:.3f} within the first {window} bytes; words of at most "
          f"{arguments.max_word_bytes}")
    print(arguments.out)
    return {
        "out": arguments.out, "splitter": splitter.name, "threshold": splitter.threshold,
        "bytes_per_word": found, "bytes_per_word_in_window": inside, "window": window,
    }  # fmt: skip
