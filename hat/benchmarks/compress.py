"""`hat bench compress`: tables, coders and the file codec, beside the compressors that one would use.

Four parts, one run: a static table there and back; the window code with the model running; files
through the model in both arithmetics, beside gzip, bzip2, xz, zstd, and what of brotli, PPMd
(pyppmd, order 6 and 16) and zpaq is installed; and the entropy coder alone, beside `constriction`
where it is installed and a coder bit by bit in Python, as the reference code of "Language modeling
is compression" (arXiv 2309.10668) has it. Processor seconds; speeds are worth their ratios alone.

Every text is what the model has not been trained on only if you say so: name texts with --text. The
model's parameters are in no file, and are shown beside the sizes.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import importlib.util
import lzma
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hat.benchmarks.split import MEGABYTE, fastest, standard_library
from hat.commands.arguments import positive_int
from hat.commands.files import read_input
from hat.compression import codec, range_coder
from hat.compression.build import build_table
from hat.compression.live import LiveCoder
from hat.compression.predictor import LlamaPredictor
from hat.compression.probabilities import cumulative
from hat.compression.run import load_m1
from hat.compression.sessions import load_predictor
from hat.compression.windows import WindowConfig
from hat.errors import UserError
from hat.text.window_table import TableTokenizer

ROWS = 128
SYMBOLS = 60_000  # for the entropy coders; the one in Python gets a twentieth


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="M1", type=Path,
                        help="a run of hat equal-info train-m1 (default: one trained for 30 s)")
    parser.add_argument("--text", metavar="FILE", type=Path, action="append", default=[],
                        help="compress this file too (repeatable)")
    parser.add_argument("--bytes", metavar="N", type=positive_int, default=40_000,
                        help="of each text, through the model (default: 40000)")
    parser.add_argument("--megabytes", metavar="N", type=float, default=8.0,
                        help="through the table (default: 8)")
    parser.add_argument("--repeats", metavar="N", type=positive_int, default=3,
                        help="of the table; the fastest counts (default: 3)")
    parser.add_argument("--window-bits", metavar="W", type=positive_int, default=16,
                        help="of the table (default: 16)")


def run(arguments: argparse.Namespace) -> dict:
    size = int(arguments.megabytes * MEGABYTE)
    texts = {"standard library": standard_library(max(size, arguments.bytes))}
    for path in arguments.text:
        texts[path.name] = read_input(path)
        if not texts[path.name]:
            raise UserError(f"--text {path} is empty; give one with bytes")
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model or train_m1(Path(folder, "m1"))
        predictor, context = load_m1(model, ROWS)
        result = {
            "table": table_speed(
                predictor, WindowConfig(arguments.window_bits, context=context),
                texts["standard library"][:size], arguments.repeats,
            ),
            "live": live_speed(predictor, context, texts["standard library"][: arguments.bytes]),
            "files": {
                name: files(model, data[: arguments.bytes]) for name, data in texts.items()
            },
            "entropy_coders": entropy_coders(),
        }  # fmt: skip
    return result


def train_m1(folder: Path) -> Path:
    """Half as wide as configs/equal_info_m1.py, for half a minute."""
    from hat.reproduce.equal_info import Size, m1_experiment
    from hat.training.loop import train

    train(m1_experiment("stdlib", Size(m1_steps=150), 0), folder)
    return folder


def table_speed(
    predictor: LlamaPredictor, config: WindowConfig, data: bytes, repeats: int
) -> dict:
    tokenizer = TableTokenizer(build_table(predictor, config))
    codes = tokenizer.encode(data)
    if tokenizer.decode(codes) != data:
        raise AssertionError("the table does not return the text")
    row = {
        "bytes": len(data), "bytes_per_token": len(data) / len(codes),
        "encode_megabytes_per_second":
            len(data) / fastest(lambda: tokenizer.encode(data), repeats) / MEGABYTE,
        "decode_megabytes_per_second":
            len(data) / fastest(lambda: tokenizer.decode(codes), repeats) / MEGABYTE,
    }  # fmt: skip
    print(f"table of {config.bits} bits: {row['bytes_per_token']:.3f} bytes a token, encode "
          f"{row['encode_megabytes_per_second']:.1f} MB/s, decode "
          f"{row['decode_megabytes_per_second']:.1f} MB/s")
    return row


def live_speed(predictor: LlamaPredictor, context: int, data: bytes) -> list[dict]:
    """Windows with the model running, texts of a row's length side by side."""
    rows = []
    size = -(-len(data) // predictor.rows)
    texts = [data[i : i + size] for i in range(0, len(data), size)]
    for bits in (24, 64):
        coder = LiveCoder(predictor, WindowConfig(bits, context=context))
        begin = time.process_time()
        codes = coder.encode(texts)
        middle = time.process_time()
        if coder.decode(codes) != texts:
            raise AssertionError("the live coder does not return the texts")
        row = {
            "window_bits": bits,
            "bytes_per_bit": len(data) / (bits * sum(map(len, codes))) ,
            "encode_bytes_per_second": len(data) / (middle - begin),
            "decode_bytes_per_second": len(data) / (time.process_time() - middle),
        }
        rows.append(row)
        print(f"live coder, {bits} bits: {8 * row['bytes_per_bit']:.3f} bytes for every 8 bits, "
              f"encode {row['encode_bytes_per_second']:,.0f} B/s, decode "
              f"{row['decode_bytes_per_second']:,.0f} B/s")
    return rows


# --- files ----------------------------------------------------------------------------------------


def files(model: Path, data: bytes) -> dict[str, dict]:
    """A line a compressor: size, bits per byte, and bytes a second there and back."""
    rows = {}
    for name, (pack, unpack) in compressors().items():
        rows[name] = timed(name, pack, unpack, data)
    from hat.commands.compress import model_bytes

    for name, portable in (("hat", False), ("hat --portable", True)):
        make, most_rows = load_predictor(model, portable)
        packed = {}

        def pack(data, make=make, portable=portable, most_rows=most_rows, packed=packed):
            packed["it"] = codec.compress(data, make, portable=portable, most_rows=most_rows)
            return packed["it"].content

        def unpack(content, make=make):
            from hat.compression.container import unpack as parts

            return codec.decompress(*parts(content), make)

        rows[name] = timed(name, pack, unpack, data)
        rows[name]["model_bytes"] = model_bytes(model)
        if packed["it"].ideal_bits:
            coded = 8 * packed["it"].coded_bytes
            rows[name]["above_the_ideal"] = coded / packed["it"].ideal_bits - 1
    print(f"{len(data):,} bytes{'':12}{'bytes':>9}{'bits/byte':>11}{'pack B/s':>12}"
          f"{'unpack B/s':>12}")
    for name, row in rows.items():
        beside = f"   and a model of {row['model_bytes']:,}" if "model_bytes" in row else ""
        if "above_the_ideal" in row:
            beside += f"; {row['above_the_ideal']:.3%} above the model's ideal"
        print(f"{name:20}{row['bytes']:>11,}{row['bits_per_byte']:11.3f}"
              f"{row['pack_bytes_per_second']:12,.0f}{row['unpack_bytes_per_second']:12,.0f}{beside}")
    return rows


def timed(name: str, pack: Callable, unpack: Callable, data: bytes) -> dict:
    """Once each, in processor seconds of this process and its children."""
    begin = _processor_seconds()
    content = pack(data)
    middle = _processor_seconds()
    if unpack(content) != data:
        raise AssertionError(f"{name} does not return the text")
    end = _processor_seconds()
    return {
        "bytes": len(content), "bits_per_byte": 8 * len(content) / len(data),
        "pack_bytes_per_second": len(data) / max(middle - begin, 1e-6),
        "unpack_bytes_per_second": len(data) / max(end - middle, 1e-6),
    }  # fmt: skip


def _processor_seconds() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def compressors() -> dict[str, tuple[Callable, Callable]]:
    """Those that are installed."""
    import zstandard

    xz = lzma.PRESET_EXTREME | 9
    found = {
        "gzip -9": (lambda data: gzip.compress(data, 9), gzip.decompress),
        "bzip2 -9": (bz2.compress, bz2.decompress),
        "zstd -19": (zstandard.ZstdCompressor(19).compress, zstandard.decompress),
        "xz -9e": (lambda data: lzma.compress(data, preset=xz), lzma.decompress),
    }
    if importlib.util.find_spec("brotli"):
        import brotli

        found["brotli -q 11"] = (brotli.compress, brotli.decompress)
    if importlib.util.find_spec("pyppmd"):
        import pyppmd

        for order in (6, 16):
            how = dict(max_order=order, mem_size=64 << 20)
            found[f"PPMd -o {order}"] = (
                lambda data, how=how: pyppmd.compress(data, **how),
                lambda data, how=how: pyppmd.decompress(data, **how),
            )
    if shutil.which("zpaq"):
        found["zpaq -m5"] = (_zpaq_pack, _zpaq_unpack)
    return found


def _zpaq_pack(data: bytes) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "it").write_bytes(data)
        subprocess.run(["zpaq", "a", "it.zpaq", "it", "-m5"], cwd=folder, check=True,
                       capture_output=True)  # fmt: skip
        return Path(folder, "it.zpaq").read_bytes()


def _zpaq_unpack(content: bytes) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "it.zpaq").write_bytes(content)
        subprocess.run(["zpaq", "x", "it.zpaq"], cwd=folder, check=True, capture_output=True)
        return Path(folder, "it").read_bytes()


# --- entropy coders -------------------------------------------------------------------------------


def entropy_coders() -> dict[str, dict]:
    """Symbols a second of coders alone, on the same symbols and tables; there only."""
    rng = np.random.default_rng(0)
    weights = (rng.random((SYMBOLS, 256)) ** 20 * 2**24).astype(np.int64)
    tables = cumulative(weights, codec.CDF_BITS)
    draw = rng.integers(0, 1 << codec.CDF_BITS, SYMBOLS)
    symbols = (tables <= draw[:, None]).sum(axis=1) - 1
    at = np.arange(SYMBOLS)
    low, high = tables[at, symbols], tables[at, symbols + 1]
    ideal = float((codec.CDF_BITS - np.log2(high - low)).sum())
    few = SYMBOLS // 20

    def ours() -> int:
        return 8 * len(range_coder.encode(low, high, codec.CDF_BITS))

    def bitwise() -> int:
        return _encode_bitwise(low[:few].tolist(), high[:few].tolist(), codec.CDF_BITS)

    coders = {"hat": (ours, SYMBOLS, ideal)}
    if importlib.util.find_spec("constriction"):
        coders["constriction"] = (_constriction(weights, symbols), SYMBOLS, ideal)
    coders["bit by bit, Python"] = (
        bitwise, few, float((codec.CDF_BITS - np.log2(high[:few] - low[:few])).sum())
    )  # fmt: skip
    rows = {}
    for name, (encode, count, its_ideal) in coders.items():
        seconds = fastest(encode, 1)
        rows[name] = {"symbols_per_second": count / seconds, "over_ideal": encode() / its_ideal - 1}
        print(f"{name:20}{count / seconds / 1e6:9.3f} million symbols/s, "
              f"{rows[name]['over_ideal']:+.4%} of the ideal length")
    return rows


def _constriction(weights: np.ndarray, symbols: np.ndarray) -> Callable[[], int]:
    import constriction

    chances = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    its = symbols.astype(np.int32)
    family = constriction.stream.model.Categorical(perfect=False)

    def encode() -> int:
        encoder = constriction.stream.queue.RangeEncoder()
        encoder.encode(its, family, chances)
        return 32 * len(encoder.get_compressed())

    return encode


def _encode_bitwise(low: list[int], high: list[int], bits: int, precision: int = 48) -> int:
    """The length in bits by the coder of Witten, Neal and Cleary (1987): halves and quarters of an
    interval of whole numbers, a bit at a time."""
    begin, end, pending, written = 0, (1 << precision) - 1, 0, 0
    half, quarter = 1 << (precision - 1), 1 << (precision - 2)
    for a, b in zip(low, high):
        span = end - begin + 1
        begin, end = begin + (span * a >> bits), begin + (span * b >> bits) - 1
        while True:
            if end < half or begin >= half:
                written, pending = written + 1 + pending, 0
                shift = half if begin >= half else 0
            elif begin >= quarter and end < half + quarter:
                pending, shift = pending + 1, quarter
            else:
                break
            begin, end = 2 * (begin - shift), 2 * (end - shift) + 1
    return written + pending + 2
