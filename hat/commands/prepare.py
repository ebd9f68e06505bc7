"""`hat prepare SOURCE --out DIR`: text to packed rows."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import shlex
from collections.abc import Iterator
from pathlib import Path

# What the errors of the data packages call a field is an argument here.
ARGUMENTS = {
    "data.source": "SOURCE",
    "data.splitter": "--splitter",
    "data.tokenizer": "--tokenizer",
    "data.row_length": "--row-length",
    "data.row_words": "--row-words",
    "data.heldout_fraction": "--heldout",
    "data.validation_fraction": "--validation",
    "data.format": "--format",
    "data.text_field": "--text-field",
    "data.strict": "--strict",
    "data.buckets": "--buckets",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from hat.data.config import FORMATS, DataConfig

    default = {field.name: field.default for field in dataclasses.fields(DataConfig)}
    parser.add_argument(
        "source", metavar="SOURCE",
        help='a text or .jsonl file (.gz, .zst), .parquet, .arrayrecord, a folder, or "stdlib"',
    )  # fmt: skip
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder of the corpus")
    parser.add_argument(
        "--splitter", default=default["splitter"],
        help='"words", "whitespace", "spacebyte", "stride:8", or with bytes that words of scripts '
        'without spaces reach, "words:han=6,thai=12"',
    )  # fmt: skip
    parser.add_argument(
        "--tokenizer", help='rows of tokens: "bytes", "bpe:4096" or a tokenizer file'
    )
    parser.add_argument(
        "--row-length", type=int, default=default["row_length"], metavar="T", help="ids in a row"
    )
    parser.add_argument(
        "--row-words", type=int, default=default["row_words"], metavar="N", help="words in a row"
    )
    parser.add_argument(
        "--buckets", type=int, nargs="+", default=[], metavar="T",
        help="cut training documents into pieces of these many ids, powers of two, the last one "
        "--row-length; the corpus of each is DIR/T",
    )  # fmt: skip
    parser.add_argument(
        "--heldout", type=float, default=default["heldout_fraction"], metavar="F",
        help="share of the bytes, the last ones, that are held out",
    )  # fmt: skip
    parser.add_argument(
        "--validation", type=float, default=default["validation_fraction"], metavar="F",
        help="share of the bytes before them that validate",
    )  # fmt: skip
    parser.add_argument(
        "--format", choices=FORMATS, default=default["format"],
        help='"chat": JSONL conversations, of which the answers alone are learned; "preference": '
        "JSONL pairs of answers",
    )  # fmt: skip
    parser.add_argument(
        "--text-field", default=default["text_field"], metavar="NAME",
        help="the JSONL field or Parquet column that holds the text",
    )  # fmt: skip
    parser.add_argument("--strict", action="store_true", help="stop at the first bad line")
    large = parser.add_argument_group(
        "large corpora",
        "Any of these shuffles the documents by a hash into shards, each packed by itself. The "
        "shards are the same bytes whoever packs them, and the same command goes on after a kill.",
    )
    large.add_argument(
        "--shards", type=int, metavar="K",
        help="of each split; one is held in memory by each worker (default: by the source's size)",
    )  # fmt: skip
    large.add_argument(
        "--deduplicate", action="store_true",
        help="keep only the first, in source order, of documents that are equal byte for byte",
    )  # fmt: skip
    large.add_argument("--workers", type=int, metavar="W", help="processes on this machine")
    large.add_argument(
        "--runner", choices=("local", "beam"), default="local",
        help="this machine (default), or an Apache Beam pipeline (extra [beam])",
    )  # fmt: skip
    large.add_argument(
        "--beam-options", metavar="TEXT",
        help='of the pipeline: --beam-options="--runner=FlinkRunner --flink_master=HOST:8081"; '
        "all its workers must see SOURCE and DIR under the same paths",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> dict:
    """Prepares the corpus, prints its table, and returns the content of corpus.json; with buckets
    those of all, the longest first."""
    from hat.data.config import BucketConfig, DataConfig
    from hat.data.mixture import of_length
    from hat.data.prepare import prepare
    from hat.training.progress import Stages, warn

    with _argument_names():
        config = DataConfig(
            source=arguments.source,
            splitter=arguments.splitter,
            tokenizer=arguments.tokenizer,
            row_length=arguments.row_length,
            row_words=arguments.row_words,
            heldout_fraction=arguments.heldout,
            validation_fraction=arguments.validation,
            format=arguments.format,
            text_field=arguments.text_field,
            strict=arguments.strict,
            buckets=tuple(BucketConfig(length=length) for length in arguments.buckets),
        )
        how = _sharding(arguments)
        infos = []
        for length in arguments.buckets[::-1] or [config.row_length]:
            out = Path(arguments.out, str(length)) if arguments.buckets else arguments.out
            with Stages("B") as progress:
                made = of_length(config, config.source, length)
                corpus = prepare(made, out, progress, warn, *how)
            print(f"{corpus.folder}\n{table(corpus.info)}")
            infos.append(dataclasses.asdict(corpus.info))
    return {"buckets": infos} if arguments.buckets else infos[0]


def _sharding(arguments: argparse.Namespace) -> tuple:
    """What `prepare` takes as sharding and runner; None and None for rows in source order."""
    from hat.data.corpus import Sharding
    from hat.data.local_runner import LocalRunner
    from hat.errors import UserError

    on_beam = arguments.runner == "beam"
    if arguments.beam_options is not None and not on_beam:
        raise UserError("--beam-options is of --runner beam: add that, or leave it out")
    if arguments.workers is not None and on_beam:
        raise UserError("--workers is of --runner local: say it in --beam-options")
    wanted = (arguments.shards, arguments.workers, arguments.deduplicate or on_beam or None)
    if all(value is None for value in wanted):
        return None, None
    sharding = Sharding(arguments.shards, arguments.deduplicate)
    if not on_beam:
        return sharding, LocalRunner(1 if arguments.workers is None else arguments.workers)
    from hat.data.beam_runner import BeamRunner

    return sharding, BeamRunner(shlex.split(arguments.beam_options or ""))


@contextlib.contextmanager
def _argument_names() -> Iterator[None]:
    from hat.errors import UserError

    try:
        yield
    except UserError as error:
        text = str(error)
        for field, argument in ARGUMENTS.items():
            text = text.replace(field, argument)
        raise UserError(text) from None


def table(info) -> str:
    """One line for each split, and one for each reason to skip."""
    lines = [
        f"{'split':<11}{'documents':>10}{'MB':>10}{'rows':>9}{'mean piece':>12}"
        f"{'ids used':>10}{'words used':>12}"
    ]
    for name, split in info.splits.items():
        words = "-" if split.word_fill is None else f"{split.word_fill:.1%}"
        lines.append(
            f"{name:<11}{split.documents:>10,}{split.bytes / 1e6:>10.2f}{split.rows:>9,}"
            f"{split.mean_piece_bytes:>10.0f} B{split.position_fill:>10.1%}{words:>12}"
        )
    lines += [f"skipped: {count} {reason}" for reason, count in info.skipped.items()]
    return "\n".join(lines)
