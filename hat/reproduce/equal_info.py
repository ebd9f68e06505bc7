"""Can a model learn from compressed text? Small models of equal training FLOPs, nine spellings.

Trains M1 on a text, makes tables of windows of it, and then the same Llama over bytes, BPE and
SentencePiece tokens, plain arithmetic coding, the published window code and the lossless one of
stop cells, in tokens of 8 and of 16 bits; and over windows of 12 bits, whose vocabulary is as
large as that of BPE. Prints and plots held-out bits per byte against bytes per token.

About half an hour on two cores. What is finished in --out is not repeated: the same command goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hat.commands.arguments import positive_int
from hat.compression.build import build_table
from hat.compression.run import load_m1
from hat.compression.windows import WindowConfig
from hat.data.config import DataConfig
from hat.errors import UserError
from hat.inference.run import load_run
from hat.inference.scoring import score_documents
from hat.models.flops import TRAINING_FACTOR
from hat.models.layers import StackConfig
from hat.models.llama import LlamaConfig
from hat.reproduce import equal_info_text as text
from hat.reproduce.equal_info_ratios import ratios, sentence
from hat.reproduce.finish import finish, settle
from hat.text.tokenizers import (
    ByteTokenizer,
    Tokenizer,
    load_tokenizer,
    train_bpe,
    train_sentencepiece,
)
from hat.text.window_table import TableTokenizer
from hat.training.config import OptimizerConfig, ScheduleConfig, TrainingConfig
from hat.training.experiment import Experiment
from hat.training.progress import Progress, warn
from hat.training.run_folder import write_atomically

TABLE_ROWS = 128
ROW_LENGTH = 257  # BOS and 256 tokens: where a code is two tokens, rows hold whole codes


@dataclasses.dataclass(frozen=True)
class Size:
    """train_bytes: that the text has; flops: of training, for every model; m1_steps: of 512 bytes."""

    train_bytes: int = 3_000_000
    heldout_bytes: int = 120_000
    ratio_bytes: int = 60_000  # of them, through the coders with the model running
    flops: float = 2e12
    m1_steps: int = 2000
    vocabulary: int = 4096
    hidden_size: int = 128
    num_layers: int = 4
    rows: int = 1  # of a step, and four times as many of M1's shorter ones


ARMS = ("bytes", "bpe", "sentencepiece", "stop-12", "stop-16-in-8", "greedy-16-in-8",
        "arithmetic-in-8", "stop-16", "greedy-16")  # fmt: skip
SMOKE = Size(60_000, 3_000, 1_000, 1e8, 3, 400, 16, 1, 8)


@dataclasses.dataclass(frozen=True)
class Arm:
    """A spelling of the text. tokenizer: "bytes" or the folder of one; train: an ArrayRecord file
    of documents as the model reads them; heldout: documents likewise."""

    tokenizer: str
    train: Path
    heldout: list[bytes]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("runs", "equal-info"),
                        help="(default: runs/equal-info)")
    parser.add_argument("--text", metavar="SOURCE", default="stdlib",
                        help="as data.source of hat train (default: stdlib)")
    parser.add_argument("--flops", metavar="N", type=float, default=Size().flops,
                        help=f"of training, for every model (default: {Size().flops:g})")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="(default: 0)")
    parser.add_argument("--m1-steps", metavar="N", type=positive_int, default=Size().m1_steps,
                        help=f"(default: {Size().m1_steps})")
    parser.add_argument("--arms", metavar="NAME", nargs="+", default=list(ARMS),
                        help=f"the spellings to train (default: all of {', '.join(ARMS)})")
    parser.add_argument("--smoke", action="store_true", help="tiny and short: only that it runs")


def run(arguments: argparse.Namespace) -> dict:
    out, seed = arguments.out, arguments.seed
    size = dataclasses.replace(Size(), flops=arguments.flops, m1_steps=arguments.m1_steps)
    size = SMOKE if arguments.smoke else size
    settings = {"text": arguments.text, "seed": seed, **dataclasses.asdict(size)}
    unknown = set(arguments.arms) - set(ARMS)
    if unknown:
        raise UserError(f"--arms {unknown.pop()}: choose from {', '.join(ARMS)}")
    settle(out, settings)
    texts = text.draw_texts(arguments.text, size.train_bytes, size.heldout_bytes, seed)
    text.write_documents(out / "text.arrayrecord", texts.train)
    finish(m1_experiment(out / "text.arrayrecord", size, seed), out / "m1")
    spellings = Spellings(out, texts, size)
    results = {}
    for name in (name for name in ARMS if name in arguments.arms):
        arm = spellings.arm(name)
        path = out / "models" / name / "measured.json"
        if not path.exists():
            warn(f"{name}: training")
            found = measure(name, arm, texts, size, seed, out / "models" / name)
            write_atomically(path, json.dumps(found, indent=2) + "\n")
        results[name] = json.loads(path.read_text(encoding="utf-8"))
    path = out / "ratios.json"
    if not path.exists():
        found = ratios(out / "m1", texts.heldout, size.ratio_bytes)
        write_atomically(path, json.dumps(found, indent=2) + "\n")
    held = json.loads(path.read_text(encoding="utf-8"))
    plot(results, out / "equal_info.png")
    print(table(results))
    print(sentence(held))
    print(f"plot: {out / 'equal_info.png'}")
    result = settings | {"results": results, "ratios": held, "plot": str(out / "equal_info.png")}
    write_atomically(out / "result.json", json.dumps(result, indent=2) + "\n")
    write_atomically(out / "equal_info.md", report(result))
    return result


# --- the spellings --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Spellings:
    """Makes what an arm reads, in the folder `out`, where it is not there."""

    out: Path
    texts: text.Texts
    size: Size

    def arm(self, name: str) -> Arm:
        kind, _, rest = name.partition("-")
        if name == "bytes":
            return Arm("bytes", self.out / "text.arrayrecord", self.texts.heldout)
        if name == "arithmetic-in-8":
            return self._streams()
        if kind in ("stop", "greedy"):
            bits, _, halves = rest.partition("-")
            mode = "stop-cell" if kind == "stop" else "paper"
            arm = self._tokens(f"{kind}-{bits}", lambda: self._windows(int(bits), mode))
            return self._halves(name, arm) if halves else arm
        make = train_bpe if name == "bpe" else train_sentencepiece
        return self._tokens(
            name, lambda: make(text.first(self.texts.train), self.size.vocabulary)
        )

    def _tokens(self, name: str, make: Callable[[], Tokenizer]) -> Arm:
        folder = text.save_tokenizer(self.out / name, make)
        return Arm(str(folder), self.out / "text.arrayrecord", self.texts.heldout)

    def _windows(self, bits: int, mode: str) -> Tokenizer:
        predictor, context = load_m1(self.out / "m1", TABLE_ROWS)
        with Progress(f"{mode} {bits}", unit="windows") as progress:
            built = build_table(predictor, WindowConfig(bits, mode, context), progress.update)
        return TableTokenizer(built)

    def _halves(self, name: str, its: Arm) -> Arm:
        path, tokenizer = self.out / f"{name}.arrayrecord", load_tokenizer(its.tokenizer)
        if not path.exists():
            text.write_documents(path, text.in_halves(tokenizer, self.texts.train))
        return Arm("bytes", path, text.in_halves(tokenizer, self.texts.heldout))

    def _streams(self) -> Arm:
        path, m1 = self.out / "streams.arrayrecord", load_run(self.out / "m1")
        if not path.exists():
            total = sum(map(len, self.texts.train))
            with Progress("arithmetic coding", total=total, unit="B") as progress:
                coded = text.as_streams(m1, self.texts.train, progress.update)
            text.write_documents(path, coded)
        heldout = text.as_streams(m1, self.texts.heldout, lambda done: None)
        return Arm("bytes", path, heldout)


# --- the models -----------------------------------------------------------------------------------


def m1_experiment(source: Path, size: Size, seed: int) -> Experiment:
    """M1 as in configs/equal_info_m1.py, of half its width, in rows of 128 bytes alone."""
    stack = StackConfig(
        hidden_size=size.hidden_size, num_layers=3, num_heads=2, num_kv_heads=1,
        intermediate_size=size.hidden_size * 8 // 3, qk_norm=True, residual_init=0.0,
    )  # fmt: skip
    return _experiment("m1", stack, 256, 257, "bytes", source, 128, 4 * size.rows, size.m1_steps, seed)


def m2_experiment(name: str, arm: Arm, size: Size, seed: int) -> Experiment:
    """The same Llama for every spelling; it takes as many steps as the FLOPs allow."""
    stack = StackConfig(
        hidden_size=size.hidden_size, num_layers=size.num_layers, num_heads=2,
        intermediate_size=size.hidden_size * 8 // 3, qk_norm=True, residual_init=0.0,
    )  # fmt: skip
    tokenizer = ByteTokenizer() if arm.tokenizer == "bytes" else load_tokenizer(arm.tokenizer)
    experiment = _experiment(
        name, stack, tokenizer.vocab_size, tokenizer.eot, arm.tokenizer, arm.train, ROW_LENGTH,
        size.rows, 1, seed,
    )  # fmt: skip
    steps = max(1, round(size.flops / step_flops(experiment)))
    return dataclasses.replace(
        experiment, training=dataclasses.replace(
            experiment.training, steps=steps, log_every_steps=max(1, steps // 50)
        )
    )  # fmt: skip


def step_flops(experiment: Experiment) -> float:
    """Of one full batch, its head over the whole vocabulary included."""
    length, rows = experiment.data.row_length, experiment.training.batch_size
    parts = experiment.model.build().flops(num_tokens=rows * length, context_tokens=length)
    return TRAINING_FACTOR * sum(float(np.sum(flops)) for flops in parts.values())


def _experiment(
    name: str, stack: StackConfig, num_tokens: int, eot: int, tokenizer: str, source: Path,
    length: int, rows: int, steps: int, seed: int,
) -> Experiment:  # fmt: skip
    return Experiment(
        name,
        LlamaConfig(
            stack, num_tokens, eot_id=eot, embedding_std=1.0, dtype="float32", scan_layers=False
        ),
        DataConfig(
            source=str(source), tokenizer=tokenizer, row_length=length, heldout_fraction=0.0
        ),
        TrainingConfig(
            steps=steps, batch_size=rows, seed=seed, log_every_steps=max(1, steps // 50),
            optimizer=OptimizerConfig(
                name="muon", learning_rate=8e-3, muon_steps=3, weight_decay=0.0
            ),
            schedule=ScheduleConfig(
                name="wsd", warmup_fraction=0.02, decay_fraction=0.5, final_fraction=0.0
            ),
        ),
    )  # fmt: skip


def measure(
    name: str, arm: Arm, texts: text.Texts, size: Size, seed: int, folder: Path
) -> dict:
    """Trains a model, and scores the held-out documents as it reads them: nats of the codes, over
    the bytes of the text."""
    experiment = m2_experiment(name, arm, size, seed)
    finish(experiment, folder)
    run = load_run(folder)
    few = run.model.config.num_ids > 10_000
    scores = score_documents(
        run.model, run.params, run.rule, arm.heldout, row_length=experiment.data.row_length,
        row_words=0, batch_size=1 if few else 8,
    )  # fmt: skip
    tokens = sum(score.words for score in scores)
    bits = sum(float(score.nats.sum(dtype=np.float64)) for score in scores) / math.log(2)
    num_bytes = sum(map(len, texts.heldout))
    its = [run.tokenizer.encode(document) for document in arm.heldout]
    counts = np.bincount(np.concatenate(its), minlength=run.tokenizer.vocab_size)
    shares = counts[counts > 0] / counts.sum()
    steps, flops = experiment.training.steps, step_flops(experiment)
    ids = experiment.data.row_length * experiment.training.batch_size  # of a step
    forward = flops / TRAINING_FACTOR / ids
    return {
        "bits_per_byte": bits / num_bytes,
        "bytes_per_token": num_bytes / tokens,
        "unigram_bits_per_byte": -float((shares * np.log2(shares)).sum()) * tokens / num_bytes,
        "uniform_bits_per_byte": math.log2(run.tokenizer.vocab_size) * tokens / num_bytes,
        "vocabulary": run.tokenizer.vocab_size,
        "steps": steps,
        "tokens_trained_on": steps * ids,
        "bytes_trained_on": round(steps * ids * num_bytes / tokens),
        "training_flops": steps * flops,
        "forward_flops_per_byte": forward * tokens / num_bytes,
        "lossless": not name.startswith("greedy"),
        "heldout_bytes": num_bytes,
    }


# --- the result -----------------------------------------------------------------------------------


def table(results: dict[str, dict]) -> str:
    """A line a spelling, the best bits per byte first."""
    lines = [f"{'':16}{'bits/byte':>10}{'uniform':>9}{'unigram':>9}{'bytes/token':>12}"
             f"{'vocabulary':>11}{'MB read':>9}{'MFLOP/byte':>11}"]  # fmt: skip
    for name, row in sorted(results.items(), key=lambda item: item[1]["bits_per_byte"]):
        note = "" if row["lossless"] else "  not lossless"
        lines.append(
            f"{name:16}{row['bits_per_byte']:10.3f}{row['uniform_bits_per_byte']:9.3f}"
            f"{row['unigram_bits_per_byte']:9.3f}{row['bytes_per_token']:12.2f}"
            f"{row['vocabulary']:11,}{row['bytes_trained_on'] / 1e6:9.2f}"
            f"{row['forward_flops_per_byte'] / 1e6:11.2f}{note}"
        )
    return "\n".join(lines)


def report(result: dict) -> str:
    """The result as a page: what was asked, the table, and who wins."""
    results = result["results"]
    ranked = sorted(results, key=lambda name: results[name]["bits_per_byte"])
    lines = [
        "# Can a model learn from compressed text?", "",
        f"`hat reproduce equal-info --flops {result['flops']:g} --m1-steps {result['m1_steps']} "
        f"--seed {result['seed']}`, text: {result['text']}.", "",
        f"The same Llama ({result['num_layers']} layers, width {result['hidden_size']}), trained "
        f"for {result['flops']:.3g} FLOPs, its head included, on each spelling of the same "
        f"{result['train_bytes']:,} bytes; scored on {next(iter(results.values()))['heldout_bytes']:,} "
        "others, ends of text included. One seed. A row of 8-bit tokens is called in-8. `unigram` "
        "is the entropy of the held-out tokens by their own frequencies, which a model that learns "
        "nothing of their order cannot beat; `greedy` is the published code, not lossless, whose "
        "bits do not bound those of the text.", "",
        "| spelling | bits per byte | uniform | unigram | bytes per token | vocabulary | MB read | "
        "MFLOP per byte, forward |", "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name in ranked:
        row = results[name]
        lines.append(
            f"| {name} | {row['bits_per_byte']:.3f} | {row['uniform_bits_per_byte']:.3f} | "
            f"{row['unigram_bits_per_byte']:.3f} | {row['bytes_per_token']:.2f} | "
            f"{row['vocabulary']:,} | {row['bytes_trained_on'] / 1e6:.2f} | "
            f"{row['forward_flops_per_byte'] / 1e6:.2f} |"
        )
    lines += ["", *verdict(ranked, results)]
    lines += ["", sentence(result["ratios"])]
    return "\n".join(lines) + "\n"


def verdict(ranked: list[str], results: dict[str, dict]) -> list[str]:
    """Who wins among the lossless spellings that a model has learned from; what it has not."""
    lossless = [name for name in ranked if results[name]["lossless"]]
    learned = [name for name in lossless if has_learned(results[name])]
    lines = []
    if learned:
        lines.append(
            f"Of the lossless spellings from which a model has learned more than how often each "
            f"token is, {learned[0]} has the fewest bits per byte; then come "
            f"{', '.join(learned[1:]) or 'no others'}."
        )
    for name in lossless:
        row = results[name]
        if name not in learned:
            lines.append(
                f"From {name} the model has learned nothing, in {row['steps']:,} steps: its "
                f"{row['bits_per_byte']:.3f} bits per byte are no better than the tokens' "
                f"frequencies ({row['unigram_bits_per_byte']:.3f}). What they are below 8 is the "
                "tokens' doing, and of M1, whose training is not in the FLOPs."
            )
    return lines


def has_learned(row: dict) -> bool:
    """Whether a model is better than the frequencies of the held-out tokens, by more than 1 %."""
    return row["bits_per_byte"] < 0.99 * row["unigram_bits_per_byte"]


def plot(results: dict[str, dict], path: Path) -> None:
    """Held-out bits per byte against bytes per token, a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, row in results.items():
        colour = "#d9480f" if not row["lossless"] else "#2563eb" if "-" in name else "#1f2933"
        point = row["bytes_per_token"], row["bits_per_byte"]
        axes.plot(*point, "o", color=colour)
        axes.annotate(name, point, xytext=(6, 4), textcoords="offset points", color=colour)
    axes.set_xlabel("bytes per token")
    axes.set_ylabel("held-out bits per byte, at equal training FLOPs")
    axes.margins(x=0.15)
    axes.grid(color="#e4e7eb")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    temporary = path.with_suffix(".tmp")
    figure.savefig(temporary, format="png")
    temporary.replace(path)
