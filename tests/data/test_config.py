from __future__ import annotations

import pytest

from hat.data.config import DataConfig
from hat.errors import UserError


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"source": ""}, "data.source is empty"),
        ({"row_length": 2}, "data.row_length is 2"),
        ({"row_words": 0}, "data.row_words is 0"),
        ({"heldout_fraction": 1.0}, "data.heldout_fraction is 1.0"),
        ({"validation_fraction": -0.1}, "data.validation_fraction is -0.1"),
        ({"heldout_fraction": float("nan")}, "data.heldout_fraction is nan"),
        ({"heldout_fraction": 0.5, "validation_fraction": 0.5}, "leave no training"),
        ({"text_field": ""}, "data.text_field is empty"),
        ({"tokenizer": "bpe:many"}, "write it as bpe:4096"),
    ],
)
def test_invalid_fields(fields, message):
    with pytest.raises(UserError, match=message):
        DataConfig(**fields)


def test_defaults_and_the_edge_are_valid():
    assert DataConfig().source == "stdlib"
    DataConfig(row_length=3, row_words=3, heldout_fraction=0.0, tokenizer="bpe:256")
