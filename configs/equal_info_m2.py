"""M2 of equal-info compression: a Llama over windows of 16 bits, the tokens of a static table.

    hat equal-info train-m1 --data TEXT --out m1
    hat equal-info build m1 --out table
    hat train configs/equal_info_m2.py --set data.source=TEXT data.tokenizer=table

The shape is that of quickstart_bpe.py, so that bits per byte compare; its embedding and head are
sixteen times as large. The code that spells nothing is the end of a text.
"""

import dataclasses
from pathlib import Path

from hat.config import load
from hat.training.experiment import Experiment

WINDOWS = 1 << 16


def config() -> Experiment:
    base = load(Path(__file__).with_name("quickstart_bpe.py"))
    return dataclasses.replace(
        base,
        name="equal_info_m2",
        model=dataclasses.replace(base.model, num_tokens=WINDOWS, eot_id=WINDOWS - 1),
        data=dataclasses.replace(base.data, tokenizer="table"),
    )
