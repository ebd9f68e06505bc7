"""Reads the items that lie beside the task files."""

from __future__ import annotations

from pathlib import Path

import datasets


def _read(name: str) -> datasets.DatasetDict:
    path = Path(__file__).with_name(name)
    return datasets.DatasetDict(test=datasets.Dataset.from_json(str(path), keep_in_memory=True))


def agreement(**_) -> datasets.DatasetDict:
    return _read("agreement.jsonl")


def prose(**_) -> datasets.DatasetDict:
    return _read("prose.jsonl")


def spelling(**_) -> datasets.DatasetDict:
    return _read("spelling.jsonl")
