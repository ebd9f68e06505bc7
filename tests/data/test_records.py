from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hat.data import records
from hat.text.rows import Row


@settings(max_examples=200, deadline=None)
@given(
    ids=st.lists(st.integers(0, 200_000), max_size=30),
    lags=st.lists(st.integers(0, 100_000), min_size=30, max_size=30),
    with_words=st.booleans(), data=st.data(),
)  # fmt: skip
def test_round_trip(ids, lags, with_words, data):
    count = len(ids)
    lengths = np.array([count], np.int32)
    starts = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)), bool)
    row = Row(np.array(ids, np.int32), lengths)
    if with_words:
        row = Row(row.ids, lengths, starts, np.array(lags[:count], np.int32))
    found = records.decode_row(records.encode_row(row))
    for name in ("ids", "lengths", "starts", "lags"):
        wanted, got = getattr(row, name), getattr(found, name)
        if wanted is None:
            assert got is None
        else:
            assert got.dtype == wanted.dtype and (got == wanted).all()


def test_a_row_of_bytes_is_compact():
    ids = np.arange(1000, dtype=np.int32) % 259
    row = Row(ids, np.array([1000], np.int32), ids % 5 == 0, np.ones(1000, np.int32))
    assert len(records.encode_row(row)) < 3100


def test_damage_is_noticed():
    ids = np.arange(20, dtype=np.int32)
    record = records.encode_row(Row(ids, np.array([20], np.int32)))
    for index in range(len(record)):
        changed = bytearray(record)
        changed[index] ^= 1
        with pytest.raises(ValueError):
            records.decode_row(bytes(changed))
    for size in range(len(record)):
        with pytest.raises(ValueError):
            records.decode_row(record[:size])


def test_shards(tmp_path, monkeypatch):
    from array_record.python.array_record_module import ArrayRecordReader

    monkeypatch.setattr(records, "IDS_PER_SHARD", 8)
    writer = records.ShardWriter(tmp_path, "train", row_length=4)
    for number in range(5):
        writer.write(Row(np.array([number], np.int32), np.array([1], np.int32)))
    names = writer.finish()
    assert names == [f"train-{n:05d}-of-00003.arrayrecord" for n in range(3)]
    assert writer.shard_rows == [2, 2, 1]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    found = []
    for name in names:
        reader = ArrayRecordReader(str(tmp_path / name))
        found += [records.decode_row(record).ids[0] for record in reader.read_all()]
    assert found == [0, 1, 2, 3, 4]


def test_no_rows_no_shards(tmp_path):
    assert records.ShardWriter(tmp_path, "train", 4).finish() == []
