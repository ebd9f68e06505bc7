"""What is on disk as what coders use: trained M1s, and tables."""

from __future__ import annotations

from pathlib import Path

from hat.compression.predictor import LlamaPredictor, check_m1
from hat.compression.windows import MODES, Mode, WindowConfig
from hat.errors import UserError
from hat.inference.run import load_run
from hat.text.tokenizers import load_tokenizer
from hat.text.window_table import MAX_BITS, TableTokenizer


def load_m1(path: Path, rows: int) -> tuple[LlamaPredictor, int]:
    """A trained flat byte-level Llama, and the bytes that it has been trained to read: one less
    than its rows, or than its window, in which BOS must stay. UserError: no such run, a HAT."""
    run = load_run(path)
    check_m1(run.experiment.model, path)
    context = min(run.experiment.data.row_length, run.model.config.stack.window or 65_535) - 1
    return LlamaPredictor(run.model, run.params, rows, context), context


def window_config(bits: int, mode: Mode, context: int) -> WindowConfig:
    """UserError where no window of a static table is like this."""
    if mode not in MODES:
        raise UserError(f"--mode {mode}: choose from {', '.join(MODES)}")
    if not 8 <= bits <= MAX_BITS:
        raise UserError(f"--window-bits {bits}: give 8 to {MAX_BITS}")
    return WindowConfig(bits, mode, context)


def load_table(path: Path) -> TableTokenizer:
    """UserError: no table there, another tokenizer, a damaged one."""
    tokenizer = load_tokenizer(path)
    if not isinstance(tokenizer, TableTokenizer):
        raise UserError(f"{path} is no table of windows: make one with hat equal-info build")
    return tokenizer
