"""How far the three laws of bytes are apart on trained models, and what mid-token prompts gain.

Trains a Llama over 4,096 byte-pair tokens (configs/quickstart_bpe.py) on --text and --prose, and
takes a second Llama with --llama. On held-out pieces of prose, code and noisy prose it measures,
at every prefix, the total variation between the laws, what they lose, the nodes that are alive, and
bits per byte. Then it splits held-out code at random bytes and compares exact-byte generation with
prompting in tokens and with token healing.

About ten minutes on two cores. Whatever is finished is not repeated: the same command resumes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np

from hat.byte_exact.laws import LAWS
from hat.byte_exact.model import lost, normalized
from hat.byte_exact.run import byte_model
from hat.byte_exact.tokenized import TokenizedModel, read_together
from hat.commands.arguments import positive_int, raw
from hat.config import load as load_config
from hat.data.records import write_file
from hat.errors import UserError
from hat.evaluation.perturbations import perturb
from hat.evaluation.streams import Stream
from hat.inference.run import load_run
from hat.reproduce.finish import finish, kept, settle
from hat.reproduce.prompt_ends import compare, table_of_ends
from hat.reproduce.robustness import divide, on_text, shrink, with_steps

PIECE = 400  # bytes
NOISE, NOISE_RATE = "keyboard", 0.1
HELDOUT = 0.05


@dataclasses.dataclass(frozen=True)
class Size:
    """pieces: of each text; prompts: of held-out code; steps: of training; beam: of law all."""

    pieces: int = 5
    piece: int = PIECE
    prompts: int = 100
    steps: int = 2000
    beam: int = 32


SMOKE = Size(pieces=1, piece=24, prompts=1, steps=4, beam=3)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("runs", "byte-laws"),
                        help="(default: runs/byte-laws)")
    parser.add_argument("--text", metavar="SOURCE", default="stdlib",
                        help="code, as of hat train (default: stdlib)")
    parser.add_argument("--prose", metavar="SOURCE", help="prose (default: none)")
    parser.add_argument("--llama", metavar="PATH", type=Path,
                        help="a second model: a run, or what hat convert reads")
    parser.add_argument("--tokenizer", metavar="FILE", type=Path, help="of --llama without one")
    parser.add_argument("--llama-prose", metavar="FILE", type=Path,
                        help="prose for --llama (default: --prose)")
    parser.add_argument("--llama-given", metavar="TEXT", default=" ",
                        help="stands before each text of --llama (default: a space)")
    parser.add_argument("--configs", metavar="DIR", type=Path, default=Path("configs"),
                        help="the folder of quickstart_bpe.py (default: configs)")
    parser.add_argument("--pieces", metavar="N", type=positive_int, default=Size.pieces,
                        help=f"of {PIECE} bytes of each text (default: {Size.pieces})")
    parser.add_argument("--prompts", metavar="N", type=positive_int, default=Size.prompts,
                        help=f"of held-out code (default: {Size.prompts})")
    parser.add_argument("--steps", metavar="N", type=positive_int, default=Size.steps,
                        help=f"of training (default: {Size.steps})")
    parser.add_argument("--smoke", action="store_true", help="tiny and short: does it run at all?")


def run(arguments: argparse.Namespace) -> dict:
    """Trains, measures, and prints the tables."""
    size = Size(arguments.pieces, PIECE, arguments.prompts, arguments.steps)
    size = SMOKE if arguments.smoke else size
    out: Path = arguments.out
    names = ("text", "prose", "llama", "llama_prose", "llama_given")
    settle(out, {name: str(getattr(arguments, name)) for name in names} | dataclasses.asdict(size))
    code = divide(arguments.text, HELDOUT, out / "text" / "code")
    parts, texts = [code], {"code": b"\n".join(code.heldout)}
    if arguments.prose:
        prose = divide(arguments.prose, HELDOUT, out / "text" / "prose")
        parts.append(prose)
        texts = {"prose": b"\n".join(prose.heldout)} | texts
    bpe = train(arguments.configs, [part.train for part in parts], out, size, arguments.smoke)
    models = {"bpe": (bpe, texts, b"")}
    if arguments.llama is not None:
        if arguments.llama_prose is not None:
            texts = texts | {"prose": read(arguments.llama_prose)}
        folder = converted(arguments.llama, arguments.tokenizer, out / "llama")
        models["llama"] = (folder, texts, raw(arguments.llama_given))

    laws = {}
    for name, (folder, its_texts, given) in models.items():
        model = byte_model(load_run(folder), "canonical")
        laws[name] = {}
        for text, pieces in cut(its_texts, size).items():
            path = out / f"laws-{name}-{text.replace(' ', '-')}.json"
            laws[name][text] = kept(path, lambda: measure(model, pieces, given, size.beam))
    exact = byte_model(load_run(bpe), "canonical")
    ends = compare(exact, texts["code"], size.prompts, out / "prompts.json", min(16, size.beam))
    result = {"laws": laws, "prompts": ends}
    print("\n".join([*table_of_laws(laws), "", *table_of_ends(ends)]))
    return result


# --- models and texts ---------------------------------------------------------------------------


def train(configs: Path, parts: list[Path], out: Path, size: Size, smoke: bool) -> Path:
    """The folder of the Llama that is trained on all parts."""
    text = out / "text" / "train.jsonl"
    if not text.exists():
        write_file(text, b"".join(part.read_bytes() for part in parts))
    experiment = load_config(configs / "quickstart_bpe.py")
    experiment = shrink(experiment) if smoke else experiment
    finish(with_steps(on_text(experiment, text, 0), size.steps), out / "bpe")
    done = json.loads((out / "bpe" / "result.json").read_text(encoding="utf-8"))["step"]
    if done < size.steps:  # a signal has ended it
        raise UserError(f"training stopped at step {done} of {size.steps}; the same command resumes")
    return out / "bpe"


def converted(path: Path, tokenizer: Path | None, folder: Path) -> Path:
    """The folder of a run: what is given, or what it is converted to."""
    from hat.commands.conversions import convert, open_source

    if open_source(path, tokenizer).kind == "run":
        return path
    if not (folder / "config.json").exists():
        convert(path, "native", folder, tokenizer=tokenizer)
    return folder


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give a readable file") from None


def cut(texts: dict[str, bytes], size: Size) -> dict[str, list[bytes]]:
    """Pieces of each text, drawn by a fixed seed, that begin at lines; and of the first, with noise,
    the same pieces."""
    pieces = {}
    for name, text in texts.items():
        if len(text) < 4 * size.piece:
            raise UserError(f"the held-out {name} has only {len(text)} bytes; give more text")
        places = Stream(0, "byte-laws", name).below(0, size.pieces, len(text) - 2 * size.piece)
        starts = [text.find(b"\n", place) + 1 for place in places.tolist()]
        pieces[name] = [whole(text[start : start + size.piece]) for start in starts]
    first = next(iter(texts))
    pieces[f"noisy {first}"] = [
        perturb(piece, NOISE, NOISE_RATE, 0, number).text
        for number, piece in enumerate(pieces[first])
    ]
    return pieces


def whole(text: bytes) -> bytes:
    """The characters of a piece that are whole."""
    return text.decode("utf-8", "ignore").encode()


# --- the laws -----------------------------------------------------------------------------------


def measure(model: TokenizedModel, pieces: list[bytes], given: bytes, beam: int) -> dict:
    """Of all prefixes of all pieces: means, and the most where that is another thing."""
    texts = [given + piece for piece in pieces]
    rows = {law: model.with_law(law).logprobs_of(texts) for law in LAWS if law != "all"}
    rows["all"], alive, dropped = follow(model.with_law("all", beam), texts)
    size = sum(map(len, pieces))
    skip = len(given)
    result = {"bytes": size, "law": {}, "total_variation": {}}
    for law in LAWS:
        its = [r[skip:] for r in rows[law]]
        every = np.concatenate(its)
        nats = [bits(r, piece) for r, piece in zip(its, pieces)]
        equal = [bits(normalized(r), piece) for r, piece in zip(its, pieces)]
        result["law"][law] = {
            "bits_per_byte": sum(nats) / size,
            "normalised_bits_per_byte": sum(equal) / size,
            "mean_lost": float(lost(every).mean()),
            "most_lost": float(lost(every).max()),
        }
    for first, second in (("all", "canonical"), ("all", "last-free"), ("canonical", "last-free")):
        a, b = (np.exp(normalized(np.concatenate([r[skip:] for r in rows[law]])))
                for law in (first, second))
        apart = np.abs(a - b).sum(axis=1) / 2
        result["total_variation"][f"{first}, {second}"] = {
            "mean": float(apart.mean()), "most": float(apart.max()),
            "share_above_0.01": float((apart > 0.01).mean()),
        }
    trees = [model.tree(text) for text in texts]
    living = np.concatenate([live(tree)[skip:] for tree in trees])
    result["canonical_nodes"] = {
        "new_per_byte": sum(len(t.tokens) - 1 for t in trees) / sum(map(len, texts)),
        "live_mean": float(living.mean()), "live_most": int(living.max()),
    }
    result["all_nodes"] = {
        "beam": beam, "live_mean": float(np.mean(alive)), "live_most": int(np.max(alive)),
        "dropped_mean": float(np.mean(dropped)), "dropped_most": float(np.max(dropped)),
    }
    result["bytes_per_token"] = size / sum(
        len(model.vocabulary.tokenizer.encode(piece)) for piece in pieces
    )
    return result


def bits(rows: np.ndarray, piece: bytes) -> float:
    """What the bytes of a piece cost; not its end, which is none."""
    return float(-rows[np.arange(len(piece)), np.frombuffer(piece, np.uint8)].sum() / np.log(2))


def live(tree) -> np.ndarray:
    """int [T + 1]: after each prefix, the nodes that the next byte may still go through."""
    count = np.zeros(len(tree.paths), int)
    for end in tree.ends.tolist():
        reach = int((tree.paths[end] >= 0).sum())
        count[end : end + reach] += 1
    return count


def follow(model: TokenizedModel, texts: list[bytes]) -> tuple[list[np.ndarray], list, list]:
    """The rows of each text under law all; after every byte, how many states were followed and
    which share of the probability was dropped."""
    sessions = [model.session() for _ in texts]
    rows: list[list[np.ndarray]] = [[] for _ in texts]
    alive, dropped = [], []
    for t in range(max(map(len, texts)) + 1):
        active = [i for i, text in enumerate(texts) if t <= len(text)]
        read_together([sessions[i] for i in active])
        for i in active:
            rows[i].append(sessions[i].logprobs())
            if t < len(texts[i]):
                sessions[i].push(texts[i][t])
                alive.append(len(sessions[i].states))
                dropped.append(sessions[i].dropped)
    return [np.stack(its) for its in rows], alive, dropped


def table_of_laws(laws: dict) -> list[str]:
    lines = ["| model | text | bits per byte: canonical | all | last-free | TV all, canonical: mean "
             "(most) | TV canonical, last-free: mean (most) | lost: canonical | last-free | "
             "live nodes: canonical | new a byte |", "|" + "---|" * 11]
    for model, texts in laws.items():
        for text, found in texts.items():
            law, apart, nodes = found["law"], found["total_variation"], found["canonical_nodes"]
            cells = [model, text]
            cells += [f"{law[name]['bits_per_byte']:.4f}" for name in ("canonical", "all")]
            cells.append(f"{law['last-free']['normalised_bits_per_byte']:.4f}")
            for pair in ("all, canonical", "canonical, last-free"):
                cells.append(f"{apart[pair]['mean']:.1e} ({apart[pair]['most']:.2f})")
            cells += [f"{law[name]['mean_lost']:.1e}" for name in ("canonical", "last-free")]
            cells += [f"{nodes['live_mean']:.1f} ({nodes['live_most']})",
                      f"{nodes['new_per_byte']:.2f}"]
            lines.append("| " + " | ".join(cells) + " |")
    return lines
