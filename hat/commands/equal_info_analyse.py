"""How equal the information of windows is, how stable their tokens, how random their bits.

Three questions of arXiv 2404.03626, section 6, asked of a model, its table and a text; --out is a
folder that then holds analysis.png and analysis.json. Stability: one sentence after many one-word
beginnings; the mean edit distance of the tokens of two such texts, over their length.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from hat.commands.arguments import positive_int
from hat.commands.files import check_new_folder, read_input
from hat.errors import UserError

GRAMS = (1, 2, 4, 8, 12, 16)
ROWS = 128


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="M1", type=Path, help="a run of hat equal-info train-m1")
    parser.add_argument("table", metavar="TABLE", type=Path, help="of it, by hat equal-info build")
    parser.add_argument("--text", metavar="FILE", type=Path, required=True, help="to analyse")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="a new folder")
    parser.add_argument("--bytes", metavar="N", type=positive_int, default=100_000,
                        help="of the text (default: 100000)")
    parser.add_argument("--beginnings", metavar="N", type=positive_int, default=60,
                        help="texts that end alike (default: 60)")


def run(arguments: argparse.Namespace) -> dict:
    out = arguments.out
    check_new_folder(out)
    text = read_input(arguments.text)[: arguments.bytes]
    if len(text.split()) < 2:
        raise UserError(f"{arguments.text} has no two words: give a longer text")
    import json

    import numpy as np

    from hat.compression import analysis
    from hat.compression.run import load_m1, load_table
    from hat.compression.windows import WindowConfig
    from hat.data.records import appearing

    tokenizer = load_table(arguments.table)
    predictor, _ = load_m1(arguments.model, ROWS)
    its = tokenizer.table
    if predictor.model_hash != its.model:
        raise UserError(f"{arguments.table} is not the table of {arguments.model}")
    codes = tokenizer.encode(text)
    windows = tokenizer.windows(text)
    config = WindowConfig(its.bits, its.mode, its.context)
    found = analysis.information(predictor, config, windows)
    stream = analysis.as_stream(predictor, text)
    random = np.random.default_rng(0)
    bits = {
        "text": analysis.bits_of(text),
        "windows": analysis.window_bits(codes, its.bits),
        "arithmetic coding": analysis.bits_of(stream),
    }
    bits["random"] = random.integers(0, 2, min(map(len, bits.values()))).astype(np.uint8)
    shortest = len(bits["random"])  # equal lengths, so that what chance gives is equal
    uniformity = {
        name: {n: analysis.distance_from_uniform(its_bits[:shortest], n) for n in GRAMS}
        for name, its_bits in bits.items()
    }
    texts = beginnings(text, arguments.beginnings)

    def in_pairs(content: bytes):
        return np.frombuffer(content + b"\0" * (len(content) % 2), ">u2")

    stability = {
        "bytes": analysis.instability(list, texts),
        "windows": analysis.instability(tokenizer.encode, texts),
        "arithmetic coding": analysis.instability(
            lambda one: in_pairs(streams[one]), texts
        ) if (streams := coded(predictor, texts)) else None,
    }
    result = {
        "text": str(arguments.text), "bytes": len(text), "table": tokenizer.name,
        "windows": len(windows), "bytes_per_window": len(text) / len(windows),
        "information_bits": {"mean": float(found.mean()), "deviation": float(found.std())},
        "information_bits_of_as_many_bytes": float(equal_lengths(found, windows)),
        "instability": stability, "bits_lacking_of_n_grams": uniformity,
    }  # fmt: skip
    with appearing(out) as folder:
        plot(found, its.bits, stability, uniformity, folder / "analysis.png")
        (folder / "analysis.json").write_text(json.dumps(result, indent=2) + "\n")
    show(result, its.bits)
    return result | {"plot": str(out / "analysis.png")}


def coded(predictor, texts: list[bytes]) -> dict[bytes, bytes]:
    """Each text as a stream of its own."""
    from hat.compression.codec import encode_group

    found = {}
    for begin in range(0, len(texts), predictor.rows):
        group = texts[begin : begin + predictor.rows]
        found |= dict(zip(group, encode_group(predictor, group)[0]))
    return found


def beginnings(text: bytes, count: int) -> list[bytes]:
    """One passage of the text, each time after another of its words."""
    middle = len(text) // 2
    passage = text[middle : middle + 200]
    words = list(dict.fromkeys(word for word in text.split() if len(word) < 20))[:count]
    return [word + b" " + passage for word in words]


def equal_lengths(found, windows: list[bytes]):
    """The deviation of the information of stretches that all have the mean length of a window:
    what windows of equal text would have."""
    import numpy as np

    lengths = np.array([len(window) for window in windows])
    per_byte = np.repeat(found / lengths, lengths)
    size = max(1, round(float(lengths.mean())))
    whole = len(per_byte) // size * size
    return per_byte[:whole].reshape(-1, size).sum(axis=1).std()


def show(result: dict, bits: int) -> None:
    information = result["information_bits"]
    print(f"{result['windows']:,} windows of {result['bytes_per_window']:.2f} bytes: "
          f"{information['mean']:.2f} of {bits} bits, deviation {information['deviation']:.2f}; "
          f"in stretches of equal length {result['information_bits_of_as_many_bytes']:.2f}")
    print("share of tokens that another first word changes: "
          + ", ".join(f"{name} {share:.1%}" for name, share in result["instability"].items()))
    lacking = result["bits_lacking_of_n_grams"]
    print(f"{'bits lacking, n =':20}" + "".join(f"{n:>9}" for n in GRAMS))
    for name, row in lacking.items():
        print(f"{name:20}" + "".join(f"{row[n]:9.4f}" for n in GRAMS))


def plot(found, bits: int, stability: dict, uniformity: dict, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3)
    left.hist(found, bins=60, color="#2563eb")
    left.axvline(bits, color="#1f2933", linestyle="--")
    left.set_xlabel("information of a window, bits")
    left.set_ylabel("windows")
    middle.bar(list(stability), list(stability.values()), color="#2563eb")
    middle.set_ylabel("share of tokens that another first word changes")
    for name, row in uniformity.items():
        right.plot(list(row), [max(value, 1e-7) for value in row.values()], "o-", label=name)
    right.set_yscale("log")
    right.set_xlabel("bits of an n-gram")
    right.set_ylabel("bits that it lacks of random ones")
    right.legend(frameon=False)
    for axes in (left, middle, right):
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    figure.savefig(path, format="png")
