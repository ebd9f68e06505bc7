"""Train, validation and heldout together are the source, in order, with the shares asked for."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hat.data.splits import SPLITS, plan_splits


def divide(documents: list[bytes], heldout: float, validation: float) -> dict[str, list[bytes]]:
    plan = plan_splits([len(d) for d in documents], heldout, validation)
    parts: dict[str, list[bytes]] = {split: [] for split in SPLITS}
    for index, document in enumerate(documents):
        for split, part in plan.divide(index, document):
            parts[split].append(part)
    return parts


@settings(max_examples=300, deadline=None)
@given(
    documents=st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=8),
    heldout=st.sampled_from([0.0, 0.05, 0.3]), validation=st.sampled_from([0.0, 0.1, 0.4]),
)  # fmt: skip
def test_nothing_is_lost_and_order_is_kept(documents, heldout, validation):
    parts = divide(documents, heldout, validation)
    joined = b"".join(b"".join(parts[split]) for split in SPLITS)
    assert joined == b"".join(documents)
    assert all(part for split in SPLITS for part in parts[split])
    for name, share in (("heldout", heldout), ("validation", validation)):
        if not share:
            assert parts[name] == []


def test_borders_are_the_nearest_between_documents():
    parts = divide([b"x" * 10] * 10, 0.22, 0.19)
    assert {split: len(found) for split, found in parts.items()} == {
        "train": 6, "validation": 2, "heldout": 2
    }  # fmt: skip
    assert len(divide([b"x" * 90, b"y" * 3, b"z" * 7], 0.05, 0.0)["heldout"][0]) == 7


def test_one_document_is_cut_at_a_line():
    parts = divide([b"0123456\n" * 100], 0.05, 0.1)
    assert [len(parts[split][0]) for split in SPLITS] == [680, 80, 40]


def test_without_lines_the_cut_is_between_characters():
    text = "天" * 100
    parts = divide([text.encode()], 0.05, 0.0)
    assert "".join(parts[split][0].decode() for split in ("train", "heldout")) == text
    assert len(parts["heldout"][0]) == 15


def test_very_unequal_documents_are_cut():
    """The nearest border would leave nothing held out."""
    parts = divide([b"a" * 10, b"b" * 990], 0.1, 0.0)
    assert [len(part) for part in parts["train"]] == [10, 890]
    assert [len(part) for part in parts["heldout"]] == [100]


def test_everything_trains_without_fractions():
    assert divide([b"a", b"b"], 0.0, 0.0)["train"] == [b"a", b"b"]


@pytest.mark.parametrize("documents", [[b"a" * 1000], [b"a" * 10] * 100])
def test_shares(documents):
    parts = divide(documents, 0.05, 0.2)
    sizes = [sum(map(len, parts[split])) for split in SPLITS]
    assert sizes == [750, 200, 50]
