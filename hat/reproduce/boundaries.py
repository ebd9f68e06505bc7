"""Where should words end? HATs with every kind of word boundary, at equal FLOPs a byte.

For every text a HAT is trained on the same bytes with each kind of boundary of --kinds, and its
backbone is made as deep and wide as equal forward FLOPs for every byte allow: longer words pay for
a larger backbone, and entropy patches for their own small model. Prints held-out bits per byte (the
boundaries charged where they look ahead), bytes a word, and training bytes a second.

--text NAME=SOURCE names the texts, sources as of `hat train`; without it, Python's standard library.
About two minutes a model on two cores. What is finished in --out is not repeated: the same command goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import statistics
from pathlib import Path

import numpy as np

from hat.commands.arguments import positive_int
from hat.data.config import DataConfig
from hat.data.sources import Skipped, Source
from hat.errors import UserError
from hat.inference.entropy import byte_model
from hat.inference.run import load_run
from hat.inference.scoring import score_documents, summary
from hat.models.hat import ConnectorConfig, HatConfig
from hat.models.hat_2025 import Hat2025Config
from hat.models.hat_learned import BoundaryConfig, LearnedHatConfig
from hat.models.layers import StackConfig
from hat.models.llama import LlamaConfig
from hat.models.model import LanguageModel
from hat.reproduce.equal_info_text import write_documents
from hat.reproduce.finish import finish, settle
from hat.text.entropy import EntropyPatches, find_threshold
from hat.text.splitters import Splitter, make_splitter
from hat.training.config import OptimizerConfig, ScheduleConfig, TrainingConfig
from hat.training.experiment import Experiment
from hat.training.metrics import METRICS_FILE, read_metrics
from hat.training.progress import warn
from hat.training.run_folder import RESULT_FILE, write_atomically

LENGTHS = "han=9,kana=9,thai=9,lao=9,khmer=9,myanmar=9,tibetan=9"
KINDS = {
    "words": "words",
    "words-lengths": f"words:{LENGTHS}",  # Scripts without spaces alone are split otherwise.
    "whitespace": "whitespace",
    "spacebyte": "spacebyte",
    "stride": "stride",
    "merges": "words+merges=30",
    "entropy-global": "entropy",
    "entropy-monotonic": "entropy",
    "hat-2025": f"words:{LENGTHS}",
    "learned": f"words:{LENGTHS}",  # The rule packs the rows alone.
}
DOCUMENT_BYTES = 2000  # texts are cut into documents of about so many, after a line
SAMPLE_BYTES = 60_000  # of the training text, on which words are counted and thresholds found
BASE_WIDTH = 344  # of the backbone's MLP; depth and width are as near it as the FLOPs allow


@dataclasses.dataclass(frozen=True)
class Size:
    """train_bytes: that every model reads, of a text that may be shorter. patcher_steps: of the
    model whose entropies make patches. word_layers: of the backbone from whose HAT the FLOPs are."""

    train_bytes: int = 600_000
    heldout_bytes: int = 40_000
    patcher_steps: int = 1500
    row_length: int = 512
    byte_width: int = 96
    word_width: int = 128
    word_layers: int = 3
    decoder_layers: int = 3


SMOKE = Size(3_000, 1_500, 3, 128, 16, 32, word_layers=1, decoder_layers=2)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--text", metavar="NAME=SOURCE", nargs="+", default=["code=stdlib"],
                        help="texts to train on, each a model of its own: a file, a folder, or "
                        "stdlib (default: code=stdlib)")  # fmt: skip
    parser.add_argument("--kinds", metavar="KIND", nargs="+", default=list(KINDS),
                        help=f"(default: all of {', '.join(KINDS)})")
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("runs", "boundaries"),
                        help="(default: runs/boundaries)")
    parser.add_argument("--bytes", metavar="N", type=positive_int, default=Size().train_bytes,
                        help=f"that every model reads (default: {Size().train_bytes})")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="(default: 0)")
    parser.add_argument("--smoke", action="store_true", help="tiny and short: only that it runs")


def run(arguments: argparse.Namespace) -> dict:
    if unknown := set(arguments.kinds) - set(KINDS):
        raise UserError(f"--kinds {unknown.pop()}: choose from {', '.join(KINDS)}")
    texts = read_texts(arguments.text)
    out = arguments.out
    size = dataclasses.replace(Size(), train_bytes=arguments.bytes)
    size = SMOKE if arguments.smoke else size
    settings = {"texts": arguments.text, "seed": arguments.seed, **dataclasses.asdict(size)}
    settle(out, settings)
    results: dict[str, dict] = {}
    for name, text in texts.items():
        arms = Arms(out / name, documents_of(name, text, size, arguments.seed), size, arguments.seed)
        results[name] = {kind: arms.measured(kind) for kind in KINDS if kind in arguments.kinds}
    page = report(results, size)
    print(page)
    result = settings | {"results": results}
    write_atomically(out / "result.json", json.dumps(result, indent=2) + "\n")
    write_atomically(out / "boundaries.md", page)
    return result


def read_texts(named: list[str]) -> dict[str, bytes]:
    texts = {}
    for item in named:
        name, equals, source = item.partition("=")
        if not (equals and name.isidentifier() and source):
            raise UserError(f"--text {item}: write it as NAME=SOURCE, such as english=book.txt")
        if name in texts:
            raise UserError(f"--text {item}: {name} is named twice; give each text a name of its own")
        try:
            documents = Source(source).documents(Skipped())
        except UserError as error:
            raise UserError(str(error).replace("data.source", "--text")) from None
        texts[name] = b"\n".join(document.data for document in documents)
    return texts


@dataclasses.dataclass(frozen=True)
class Documents:
    train: list[bytes]
    heldout: list[bytes]

    @property
    def sample(self) -> np.ndarray:
        return np.frombuffer(b"".join(self.train)[:SAMPLE_BYTES], np.uint8)


def documents_of(name: str, text: bytes, size: Size, seed: int) -> Documents:
    """Documents in an order drawn by the seed, some of them held out. UserError: too few bytes."""
    cut, start = [], 0
    while start < len(text):
        end = text.find(b"\n", start + DOCUMENT_BYTES) + 1 or len(text)
        end = min(end, start + 2 * DOCUMENT_BYTES)
        cut.append(text[start:end])
        start = end
    heldout, train, sizes = [], [], [0, 0]
    for number in np.random.default_rng(seed).permutation(len(cut)).tolist():
        if sizes[0] < size.heldout_bytes:
            heldout.append(cut[number])
            sizes[0] += len(cut[number])
        elif sizes[1] < size.train_bytes:
            train.append(cut[number])
            sizes[1] += len(cut[number])
    if sizes[1] < 2 * size.heldout_bytes:
        least = 3 * size.heldout_bytes
        raise UserError(f"--text {name} has {len(text):,} bytes: give one of {least:,} or more")
    return Documents(train, heldout)


@dataclasses.dataclass(frozen=True)
class Arms:
    """The models of one text, in its folder."""

    folder: Path
    documents: Documents
    size: Size
    seed: int

    def measured(self, kind: str) -> dict:
        path = self.folder / kind / "measured.json"
        if not path.exists():
            warn(f"{self.folder.name}, {kind}: training")
            write_documents_in(self.folder, self.documents)
            write_atomically(path, json.dumps(self.measure(kind), indent=2) + "\n")
        return json.loads(path.read_text(encoding="utf-8"))

    def measure(self, kind: str) -> dict:
        folder = self.folder / kind
        folder.mkdir(exist_ok=True)
        spec, patcher_flops = self.splitter(kind, folder)
        ratio = bytes_per_word(make_splitter(spec), self.documents.sample)
        target = target_flops(self.size)
        model = fitted(self.size, kind, target - patcher_flops, ratio)
        experiment = self.experiment(kind, model, spec, ratio)
        finish(experiment, folder)
        run = load_run(folder)
        scores = score_documents(
            run.model, run.params, run.rule, self.documents.heldout,
            row_length=experiment.data.row_length, row_words=experiment.data.row_words,
        )  # fmt: skip
        trained = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))
        measured = [line for line in read_metrics(folder / METRICS_FILE) if "loss" in line]
        if kind == "learned":  # its own words, of the last steps
            ratio = measured[-1]["bytes_per_word"]
        scored = summary(sum(map(len, self.documents.heldout)), scores)
        return {
            "bits_per_byte": scored["bits_per_byte"],
            "bytes_per_word": ratio if kind == "learned" else scored["bytes_per_word"],
            "splitter": run.splitter.name,
            "causality": run.splitter.causality.kind,
            "heldout_bytes": scored["bytes"],
            "bytes_trained_on": trained["bytes"],
            "bytes_per_second": statistics.median(line["bytes_per_second"] for line in measured),
            "flops_per_byte": flops_per_byte(run.model, self.size, ratio) + patcher_flops,
            "backbone_layers": run.model.config.backbone.num_layers,
            "parameters": sum(run.model.parameter_counts().values()),
        }

    def splitter(self, kind: str, folder: Path) -> tuple[str, float]:
        """Its name, and the FLOPs a byte of its own model."""
        reference = make_splitter(KINDS["words-lengths"])
        wanted = bytes_per_word(reference, self.documents.sample)
        if kind == "stride":
            return f"stride:{round(wanted)}", 0.0
        if KINDS[kind] != "entropy":
            return KINDS[kind], 0.0
        path, patcher = folder / "found.npz", self.patcher()
        finish(patcher, self.folder / "patcher")
        model, window = byte_model(load_run(self.folder / "patcher"))
        patches = EntropyPatches(model, window, kind.removeprefix("entropy-"), 0.0)
        find_threshold(patches, [patches.rises(self.documents.sample)], wanted).save(path)
        length = self.size.row_length
        parts = patcher.model.build().flops(num_tokens=length, context_tokens=length)
        return f"entropy:{path}", sum(parts.values()) / length

    def patcher(self) -> Experiment:
        """A flat byte model of one layer, which sees 64 bytes."""
        width = self.size.byte_width // 16 * 8
        stack = StackConfig(
            hidden_size=width, num_layers=1, num_heads=1, intermediate_size=2 * width, window=64,
            qk_norm=True, residual_init=0.0,
        )  # fmt: skip
        model = LlamaConfig(
            stack, 256, embedding_std=1.0, dtype="float32", scan_layers=False
        )
        data = self.data(tokenizer="bytes")
        return Experiment("patcher", model, data, self.training(self.size.patcher_steps))

    def experiment(self, kind: str, model, spec: str, ratio: float) -> Experiment:
        length = self.size.row_length
        words = 8 + math.ceil(1.3 * length / ratio)  # both caps fill where words are short
        data = self.data(splitter=spec, row_words=min(words, length))
        steps = math.ceil(self.size.train_bytes / length)
        return Experiment(f"{self.folder.name}-{kind}", model, data, self.training(steps))

    def data(self, **options) -> DataConfig:
        source = self.folder / "train.arrayrecord"
        length = self.size.row_length
        return DataConfig(source=str(source), row_length=length, heldout_fraction=0.0, **options)

    def training(self, steps: int) -> TrainingConfig:
        return TrainingConfig(
            steps=steps, batch_size=1, seed=self.seed, log_every_steps=max(1, steps // 50),
            optimizer=OptimizerConfig(
                name="muon", learning_rate=8e-3, muon_steps=3, weight_decay=0.0
            ),
            schedule=ScheduleConfig(
                name="wsd", warmup_fraction=0.02, decay_fraction=0.5, final_fraction=0.0
            ),
        )  # fmt: skip


def write_documents_in(folder: Path, documents: Documents) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_documents(folder / "train.arrayrecord", documents.train)


# --- equal FLOPs ----------------------------------------------------------------------------------


def bytes_per_word(splitter: Splitter, data: np.ndarray) -> float:
    return len(data) / int(splitter.split(data).starts.sum())


def target_flops(size: Size) -> float:
    """Forward FLOPs of a byte: those of the small HAT of configs/quickstart.py at 5.5 bytes a word."""
    config = model_config(size, "words", size.word_layers, BASE_WIDTH, 5.5)
    return flops_per_byte(config.build(), size, 5.5)


def flops_per_byte(model: LanguageModel, size: Size, ratio: float) -> float:
    """Forward, in full rows; ratio: bytes a word."""
    length, words = size.row_length, size.row_length / ratio
    parts = model.flops(
        num_bytes=length, num_words=words, context_bytes=length, context_words=words
    )
    return sum(map(float, parts.values())) / length


def fitted(size: Size, kind: str, target: float, ratio: float):
    """The config of a kind whose FLOPs of a byte are nearest to the target: of all depths, the one whose MLP
    is then nearest to BASE_WIDTH. The smallest there is where the byte stacks alone cost more."""

    def cost(layers: int, width: int) -> float:
        return flops_per_byte(model_config(size, kind, layers, width, ratio).build(), size, ratio)

    # The cost is linear in the depth, and in depth times width.
    narrow, wide, deep = cost(1, 64), cost(1, 128), cost(2, 64)
    best = (1, 64)
    for layers in range(1, 25):
        left = target - narrow - (layers - 1) * (deep - narrow)
        width = 64 + 8 * round(left / layers / (wide - narrow) * 64 / 8)
        if width < 64:
            break
        if layers == 1 or abs(width - BASE_WIDTH) < abs(best[1] - BASE_WIDTH):
            best = layers, width
    return model_config(size, kind, *best, ratio)


def model_config(size: Size, kind: str, layers: int, width: int, ratio: float):
    shared = dict(qk_norm=True, residual_init=0.0)
    byte_stack = dict(
        hidden_size=size.byte_width, num_heads=2, intermediate_size=size.byte_width * 8 // 3, **shared
    )  # fmt: skip
    backbone = StackConfig(
        hidden_size=size.word_width, num_layers=layers, num_heads=2, intermediate_size=width, **shared
    )  # fmt: skip
    rest = dict(embedding_std=1.0, dtype="float32", scan_layers=False)
    if kind == "hat-2025":
        # A layer less, as they have a position more for every word.
        encoder, decoder = (
            StackConfig(num_layers=n, **byte_stack) for n in (1, size.decoder_layers - 1)
        )
        return Hat2025Config(encoder, backbone, decoder, **rest)
    encoder, decoder = (
        StackConfig(num_layers=n, window=32, **byte_stack) for n in (1, size.decoder_layers)
    )
    connector = ConnectorConfig(hidden_size=size.word_width, num_heads=2)
    stacks = encoder, connector, backbone, decoder
    if kind == "learned":
        boundaries = BoundaryConfig(bytes_per_word=ratio)
        return LearnedHatConfig(*stacks, guide_init=0.0, boundaries=boundaries, **rest)
    return HatConfig(*stacks, guide_init=0.0, **rest)


# --- the result -----------------------------------------------------------------------------------


def report(results: dict[str, dict], size: Size) -> str:
    """The result as a page: a table a text, the best bits per byte first."""
    lines = [
        "# Where should words end?", "",
        f"HATs of equal forward FLOPs a byte ({target_flops(size) / 1e6:.2f} million), each trained "
        f"on the same {size.train_bytes:,} bytes of a text. One seed. `merges` look ahead: what it "
        "costs to tell its words is charged. `hat-2025` predicts its words' ends. FLOPs of entropy "
        "patches include those of their own model; those of `learned` are of the bytes a word that "
        "it is drawn to, and its bytes a word are of the end of training.", "",
    ]  # fmt: skip
    for text, rows in results.items():
        lines += [
            f"## {text}", "",
            "| kind | bits per byte | bytes per word | kB/s | MFLOP per byte | backbone layers |",
            "|---|---|---|---|---|---|",
        ]  # fmt: skip
        for kind, row in sorted(rows.items(), key=lambda item: item[1]["bits_per_byte"]):
            lines.append(
                f"| {kind} | {row['bits_per_byte']:.3f} | {row['bytes_per_word']:.2f} | "
                f"{row['bytes_per_second'] / 1e3:.1f} | {row['flops_per_byte'] / 1e6:.2f} | "
                f"{row['backbone_layers']} |"
            )
        lines.append("")
    return "\n".join(lines)
