"""Llama to bytes: three ways to begin, compared at equal bytes, and the last at half of them.

A HAT learns the text that a small Llama writes: from random parameters; from the Llama's blocks by
the published recipe (frozen for the first tenth, then a tenth of the rate); and in stages, taught by
the Llama itself. That last way runs a second time over half of the bytes, with a schedule of that
length, since how low a run is before its rate has fallen says little about how low it could be by
then. The line to reach is the Llama's own bits per byte on the same held-out text.

All ways have the same words. --words tokens: the Llama's tokens, in a HAT that predicts where its
words end (arXiv 2501.10322). The stages are then: the encoder learns the Llama's embeddings from
their spellings, without any text; then the decoder learns the Llama's next token, read byte by byte,
under blocks that stay as they are. --words rule: those of the word rule (arXiv 2603.15953), several
tokens each. The encoder, the blocks and the decoder then learn together: the states of the Llama at
the ends of words, after every block, and its next token.

With --teacher PATH the Llama is yours: a Hugging Face folder or a llama2.c .bin file (with its
tokenizer, or --tokenizer FILE), or a run; it writes the text, unless --text names some. Otherwise a
small one is first trained on the text, which is Python's standard library then if --text is not
given. What is finished in --out is not repeated.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from pathlib import Path

from hat.commands.arguments import positive_int
from hat.errors import UserError

ARMS = ("random", "published", "staged", "half")
WORDS = ("tokens", "rule")
TEACHER_TOKENS = 512
BYTES_PER_TOKEN = 1.75  # for which rows have room, at least


@dataclasses.dataclass(frozen=True)
class Size:
    """How large the experiment is.

    num_bytes: that every way reads; the teacher writes a half of them, which are read twice.
    row_length: in ids; a document that the teacher writes fits into a row.
    teacher_steps, teacher_layers: of the Llama that is trained on the spot. word_steps: of the
    encoder, before any text. byte_width: of encoder and decoder.
    """

    num_bytes: int = 500_000
    heldout_bytes: int = 40_000
    row_length: int = 1024
    teacher_steps: int = 4000
    evaluations: int = 5
    teacher_layers: int = 4
    word_steps: int = 600
    byte_width: int = 128
    encoder_layers: int = 2
    decoder_layers: int = 2

    @property
    def text_bytes(self) -> int:
        return self.num_bytes // 2


SMOKE = Size(8_000, 3_000, 256, 10, 1, teacher_layers=1, word_steps=10, byte_width=32,
             encoder_layers=1, decoder_layers=1)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--teacher", metavar="PATH", type=Path, help="a Llama or its run")
    parser.add_argument("--tokenizer", metavar="FILE", type=Path, help="of a --teacher without one")
    parser.add_argument("--words", choices=WORDS, default="tokens",
                        help="of the HAT: the teacher's tokens, or by rule (default: tokens)")
    parser.add_argument("--text", metavar="PATH", type=Path,
                        help="train and hold out this, not text that the teacher writes")
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("runs", "llama-to-hat"),
                        help="(default: runs/llama-to-hat)")
    parser.add_argument("--bytes", metavar="N", type=positive_int, default=Size().num_bytes,
                        help=f"that every way trains on (default: {Size().num_bytes})")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="(default: 0)")
    parser.add_argument("--smoke", action="store_true", help="tiny and short: only that it runs")


def run(arguments: argparse.Namespace) -> dict:
    from hat.data.config import DataConfig
    from hat.inference.run import load_run
    from hat.reproduce.finish import finish, settle
    from hat.reproduce.teacher_text import bits_per_byte, heldout_documents

    out = arguments.out
    size = SMOKE if arguments.smoke else dataclasses.replace(Size(), num_bytes=arguments.bytes)
    settings = {
        "teacher": arguments.teacher and str(arguments.teacher.resolve()),
        "text": arguments.text and str(arguments.text.resolve()),
        "words": arguments.words,
        "seed": arguments.seed,
        **dataclasses.asdict(size),
    }
    settle(out, settings)
    text = arguments.text and str(arguments.text)
    if arguments.teacher is None:
        text = text or "stdlib"
        teacher_folder = train_teacher(out / "teacher", text, size)
    else:
        teacher_folder = make_teacher(out, arguments.teacher, arguments.tokenizer)
    teacher = load_run(teacher_folder)
    source, fraction = make_text(out, teacher, text, size, arguments.seed)

    stack = teacher.experiment.model.stack
    data = DataConfig(source=source, row_length=size.row_length, heldout_fraction=fraction)
    model, data = make_hat(arguments.words, stack, teacher_folder, data, size)
    experiments = {
        arm: make_experiment(arm, model, data, teacher_folder, out, size, arguments.seed)
        for arm in ARMS
    }
    convert_blocks(teacher_folder, experiments["published"], out / "blocks")
    if arguments.words == "tokens":
        convert_blocks(teacher_folder, experiments["staged"], out / "words", size.word_steps)
    for arm, experiment in experiments.items():
        _say(f"{arm}: {experiment.training.steps} steps")
        finish(experiment, out / arm)

    documents = heldout_documents(source, fraction)
    line = bits_per_byte(teacher, documents)
    curves = {arm: read_curve(out / arm) for arm in ARMS}
    final = {arm: curve[-1][1] for arm, curve in curves.items()}
    result = settings | {
        "teacher_bits_per_byte": line,
        "heldout_bytes": sum(map(len, documents)),
        "bits_per_byte": final,
        "above_teacher": {arm: bits / line - 1 for arm, bits in final.items()},
        "curves": curves,
        "half_over_published": final["half"] / final["published"] - 1,
        "share_of_bytes_to_reach_published": reached(curves["staged"], curves["published"]),
        "plot": str(out / "curves.png"),
    }
    plot(curves, line, out / "curves.png")
    show(result)
    from hat.training.run_folder import write_atomically

    write_atomically(out / "result.json", json.dumps(result, indent=2) + "\n")
    return result


# --- teacher and text -----------------------------------------------------------------------------


def make_teacher(out: Path, path: Path, tokenizer: Path | None) -> Path:
    """The folder of the teacher's run: what is given, or what it is converted to."""
    from hat.commands.conversions import convert, open_source
    from hat.inference.generation import generate
    from hat.inference.run import load_run
    from hat.reproduce.teacher_text import MOST_BYTES, ending_id

    folder, source = out / "teacher", open_source(path, tokenizer)
    if source.tokenizer is None:
        raise UserError(f"{path} has no tokenizer.json or tokenizer.model; give --tokenizer FILE")
    if source.kind == "run":
        return path
    if (folder / "config.json").exists():
        return folder
    first = out / "teacher-as-is"
    shutil.rmtree(first, ignore_errors=True)
    convert(path, "native", first, tokenizer=tokenizer)
    run = load_run(first)
    texts = generate(run, [b""], samples=16, num_bytes=MOST_BYTES, temperature=1.0)
    end = ending_id(run, [result.text for result in texts if result.stopped])
    _say(f"the teacher ends texts with id {end}")
    convert(path, "native", folder, tokenizer=tokenizer, changes=[f"model.eot_id={end}"])
    shutil.rmtree(first)
    return folder


def train_teacher(folder: Path, text: str, size: Size) -> Path:
    """The folder of a Llama over 512 byte-pair tokens, trained here."""
    from hat.data.config import DataConfig
    from hat.models.layers import StackConfig
    from hat.models.llama import LlamaConfig
    from hat.reproduce.finish import finish
    from hat.training.experiment import Experiment

    _say(f"a teacher for {text}: {size.teacher_steps} steps")
    stack = StackConfig(
        hidden_size=64, num_layers=size.teacher_layers, num_heads=4, intermediate_size=172,
        num_kv_heads=2,
    )  # fmt: skip
    model = LlamaConfig(stack, 512, tie_embeddings=True, dtype="float32", scan_layers=False)
    data = DataConfig(
        source=text, tokenizer="bpe:512", row_length=TEACHER_TOKENS, heldout_fraction=0.01
    )
    training = _training(size.teacher_steps, 1, 0)
    finish(Experiment("teacher", model, data, training), folder)
    return folder


def make_text(out: Path, teacher, text: str | None, size: Size, seed: int) -> tuple[str, float]:
    """The text to train on and hold out, and the fraction of it that is held out."""
    from hat.data.sources import Skipped, Source
    from hat.reproduce.teacher_text import write_text

    if text is None:
        source = out / "sampled.arrayrecord"
        if not source.exists():
            write_text(teacher, source, size.text_bytes + size.heldout_bytes, seed, _say)
        text = str(source)
        total = sum(len(document.data) for document in Source(text).documents(Skipped()))
    else:
        total = sum(file.size for file in Source(text).files)
    if total < 2 * size.heldout_bytes:
        raise UserError(f"--text {text} has {total:,} bytes; give at least {2 * size.heldout_bytes:,}")
    return text, size.heldout_bytes / total


# --- the three ways -------------------------------------------------------------------------------


def make_hat(words: str, stack, teacher: Path, data, size: Size):
    """A HAT around a Llama's stack, and its data: the same for every arm."""
    from hat.models.hat import ConnectorConfig, HatConfig
    from hat.models.hat_2025 import Hat2025Config
    from hat.models.layers import StackConfig
    from hat.text.splitters import make_splitter

    width, length = size.byte_width, size.row_length
    byte_stack = dict(
        hidden_size=width, num_heads=width // 32, intermediate_size=width * 11 // 4,
        residual_init=0.0,
    )  # fmt: skip
    if words == "rule":
        byte_stack |= dict(window=32)
    encoder = StackConfig(num_layers=size.encoder_layers, **byte_stack)
    decoder = StackConfig(num_layers=size.decoder_layers, **byte_stack)
    common = dict(embedding_std=1.0, dtype="float32", scan_layers=False)
    if words == "rule":
        connector = ConnectorConfig(hidden_size=width, num_heads=width // 32)
        model = HatConfig(encoder, connector, stack, decoder, guide_init=0.0, **common)
        return model, dataclasses.replace(data, row_words=length // 3)
    splitter = f"tokens:{teacher}"
    longest = make_splitter(splitter).max_word_bytes
    model = Hat2025Config(encoder, stack, decoder, word_bytes=longest, **common)
    row_words = int(length / BYTES_PER_TOKEN)
    return model, dataclasses.replace(data, splitter=splitter, row_words=row_words)


def make_experiment(arm: str, model, data, teacher: Path, out: Path, size: Size, seed: int):
    """The experiment of an arm: they differ in `init`, the rates of the parts, the loss, and the
    last one in its length."""
    from hat.training.config import PartConfig
    from hat.training.distill_config import DistillConfig, NextBytes, WordEmbeddings
    from hat.training.experiment import Experiment

    steps = max(10, size.num_bytes // size.row_length // (2 if arm == "half" else 1))
    training = _training(steps, 1, seed)
    training = dataclasses.replace(
        training, evaluate_every_steps=max(1, steps // size.evaluations)
    )
    parts, init, terms = (), out / "blocks", ()
    if arm == "random":
        init = None
    elif arm == "published":
        parts = (PartConfig("backbone", multiplier=0.1, freeze_until_step=steps // 10),)
    elif data.splitter.startswith("tokens:"):
        init, terms = out / "words", (NextBytes(),)
        parts = (PartConfig("encoder", multiplier=0.0), PartConfig("backbone", multiplier=0.0))
    else:
        layers = model.backbone.num_layers
        parts = (PartConfig("backbone", freeze_until_step=steps // 50),)
        words = (WordEmbeddings(layers=done) for done in range(layers))
        terms = (*words, WordEmbeddings(layers=layers, weight=3.0), NextBytes())
    if terms:
        objective = DistillConfig(str(teacher), terms, bytes_per_token=BYTES_PER_TOKEN)
        training = dataclasses.replace(training, objective=objective)
    optimizer = dataclasses.replace(training.optimizer, parts=parts)
    training = dataclasses.replace(training, optimizer=optimizer)
    return Experiment(arm, model, data, training, init and str(init))


def _training(steps: int, batch_size: int, seed: int):
    """The recipe of configs/quickstart.py for a number of steps."""
    from hat.training.config import OptimizerConfig, ScheduleConfig, TrainingConfig

    return TrainingConfig(
        steps=steps,
        batch_size=batch_size,
        seed=seed,
        optimizer=OptimizerConfig(
            name="muon", learning_rate=8e-3, muon_steps=3, weight_decay=0.0
        ),
        schedule=ScheduleConfig(
            name="wsd", warmup_fraction=0.02, decay_fraction=0.5, final_fraction=0.0
        ),
        log_every_steps=max(1, steps // 200),
    )


def convert_blocks(teacher: Path, experiment, folder: Path, word_steps: int = 0) -> None:
    """A HAT around the teacher's blocks, as a run to begin with; word_steps: of its encoder."""
    from hat.commands.conversions import convert

    if not folder.exists():
        done = convert(teacher, "hat", folder, config=experiment, word_steps=word_steps)
        if word_steps:
            _say(f"words, without any text: {done['word_distance']:.2g} of the squared length of the "
                 "teacher's embeddings away from them")


# --- the result -----------------------------------------------------------------------------------


def read_curve(folder: Path) -> list[tuple[int, float]]:
    """(bytes trained on, held-out bits per byte) at every evaluation of a run."""
    from hat.training.metrics import METRICS_FILE, read_metrics

    found = {
        entry["bytes"]: entry["heldout_bits_per_byte"]
        for entry in read_metrics(folder / METRICS_FILE)
        if entry.get("heldout_bits_per_byte") is not None
    }
    return sorted(found.items())


def reached(curve: list[tuple[int, float]], other: list[tuple[int, float]]) -> float | None:
    """The share of the other curve's bytes after which a curve is as low as the other ends; between
    two evaluations by a straight line. None: it never is."""
    goal, last = other[-1][1], other[-1][0]
    for (before, high), (after, low) in zip(curve, curve[1:]):
        if low <= goal:
            share = (high - goal) / (high - low) if high > goal else 0.0
            return (before + share * (after - before)) / last
    return None


def show(result: dict) -> None:
    line = result["teacher_bits_per_byte"]
    print(f"{'':10} {'bits per byte':>13} {'above the teacher':>18}")
    print(f"{'teacher':10} {line:13.4f}")
    for arm, bits in result["bits_per_byte"].items():
        print(f"{arm:10} {bits:13.4f} {result['above_teacher'][arm]:17.1%}")
    share = result["share_of_bytes_to_reach_published"]
    when = "never reaches it" if share is None else f"reaches it after {share:.0%} of the bytes"
    print(f"what the published recipe ends with: the staged one {when}; after half of them, with a "
          f"schedule of that length, it is {result['half_over_published']:+.1%} from there")
    print(f"curves: {result['plot']}")


COLOURS = {"random": "#7b8794", "published": "#d9480f", "staged": "#2563eb", "half": "#60a5fa"}


def plot(curves: dict[str, list[tuple[int, float]]], line: float, path: Path) -> None:
    """Held-out bits per byte against bytes, a PNG of 1600 x 1000 pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for arm, curve in curves.items():
        bytes_, bits = zip(*curve)
        axes.plot([b / 1e6 for b in bytes_], bits, "o-", color=COLOURS[arm], markersize=3,
                  label=f"{arm}  {bits[-1]:.3f}")
    axes.axhline(line, color="#1f2933", linestyle="--", label=f"the Llama itself  {line:.3f}")
    shown = [bits for curve in curves.values() for _, bits in curve[len(curve) // 10 :]]
    low, high = min(line, *shown), max(shown)
    axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    axes.set_xlabel("bytes trained on (MB)")
    axes.set_ylabel("held-out bits per byte")
    axes.grid(color="#e4e7eb")
    axes.legend(frameon=False)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    temporary = path.with_suffix(".tmp")
    figure.savefig(temporary, format="png")
    temporary.replace(path)


def _say(text: str) -> None:
    from hat.training.progress import warn

    warn(text)
