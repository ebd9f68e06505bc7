"""Stores the exact next-byte distributions of a teacher for all training text of a config.

CONFIG distils (training.objective names the teacher), and training reads what is stored with the
term ByteProbabilities(stored=DIR), in every epoch, at no cost of the teacher. The same command
goes on where it was stopped, and adds what another config reads.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from hat.commands.arguments import add_experiment, read_experiment
from hat.errors import UserError

ROWS_AT_ONCE = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_experiment(parser)
    parser.add_argument("--out", required=True, metavar="DIR", type=Path,
                        help="a new folder, or one to go on with")
    parser.add_argument("--law", default="canonical", help="canonical (default) or last-free")
    parser.add_argument("--floor", metavar="P", type=float, default=1e-5,
                        help="drop bytes less likely than this (default: 1e-5)")


def run(arguments: argparse.Namespace) -> dict:
    experiment = read_experiment(arguments)
    from hat.training.distill_config import DistillConfig

    if not isinstance(experiment.training.objective, DistillConfig):
        raise UserError(
            f"{arguments.config} names no teacher: set training.objective to a DistillConfig"
        )
    if arguments.law not in ("canonical", "last-free"):
        raise UserError(f"--law {arguments.law}: canonical and last-free can be stored")
    return store(experiment, arguments.out, arguments.law, arguments.floor)


def store(experiment, out: Path, law: str, floor: float) -> dict:
    """What `run` does with an experiment that distils."""
    from hat.commands.byte_teachers import ExactTeacher
    from hat.text.tokenizers import ByteTokenizer, load_tokenizer
    from hat.training.distillation import origin_of
    from hat.training.loop import prepare_corpus
    from hat.training.progress import Progress
    from hat.training.run_folder import read_experiment
    from hat.training.stored_probabilities import write_probabilities

    folder = Path(experiment.training.objective.teacher)
    teacher = read_experiment(folder)
    flat = teacher.data.tokenizer == "bytes"
    tokenizer = ByteTokenizer() if flat else load_tokenizer(folder)
    exact = ExactTeacher(folder, law)
    corpus = prepare_corpus(experiment)
    texts, num_bytes = 0, 0
    with Progress("storing", unit="B") as progress:

        def say(now_texts: int, now_bytes: int) -> None:
            nonlocal texts, num_bytes
            texts, num_bytes = now_texts, now_bytes
            progress.update(num_bytes, texts=texts)

        write_probabilities(
            out, training_texts(corpus), exact.logprobs_of,
            origin_of(teacher, tokenizer) | {"law": law}, floor=floor, say=say,
        )  # fmt: skip
    size = sum(path.stat().st_size for path in out.iterdir())
    print(f"{out}: {texts:,} new texts, {num_bytes:,} bytes; {size / 1e6:.1f} MB in all")
    return {"out": str(out), "law": law, "texts": texts, "bytes": num_bytes, "stored_bytes": size}


def training_texts(mixture) -> Iterator[bytes]:
    """Every document, or piece of one, of the rows that are trained on, in their order."""
    import numpy as np

    from hat.training.distillation import row_texts

    for bucket in mixture.corpora:
        for corpus in bucket:
            rows = corpus.num_rows("train")
            for first in range(0, rows, ROWS_AT_ONCE):
                batch = corpus.rows("train", np.arange(first, min(first + ROWS_AT_ONCE, rows)))
                yield from (text for _, _, text in row_texts(batch))
