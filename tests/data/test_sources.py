"""Every kind of file gives its documents; every kind of damage gives one line or a count."""

from __future__ import annotations

import gzip
import json
import os

import numpy as np
import pytest
import zstandard
from array_record.python.array_record_module import ArrayRecordWriter

from hat.data.records import encode_row
from hat.data.sources import Document, Skipped, Source
from hat.errors import UserError
from hat.text.rows import Row

LINES = [b'{"text": "one"}', b'{"text": "zwei \\u00fc", "x": 1}', b"", b'{"text": ""}']
JSONL = b"\n".join(LINES) + b"\n"


def read(path, field="text", **kwargs) -> tuple[list[Document], Skipped]:
    skipped = Skipped(**kwargs)
    return list(Source(str(path), field).documents(skipped)), skipped


def compressed(data: bytes, suffix: str) -> bytes:
    if suffix == ".gz":
        return gzip.compress(data)
    if suffix == ".zst":  # two frames, as a concatenation of archives has
        half = len(data) // 2
        frame = zstandard.ZstdCompressor().compress
        return frame(data[:half]) + frame(data[half:])
    return data


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_jsonl(tmp_path, suffix):
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(compressed(JSONL, suffix))
    documents, skipped = read(path)
    assert [(d.data, d.name) for d in documents] == [
        (b"one", f"{path.name}:1"), ("zwei ü".encode(), f"{path.name}:2")
    ]  # fmt: skip
    assert skipped.counts == {"empty documents": 2}


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_text_file(tmp_path, suffix):
    path = tmp_path / f"a.txt{suffix}"
    data = "schön\r\n".encode() * 400_000  # more than one chunk
    path.write_bytes(compressed(data, suffix))
    documents, _ = read(path)
    assert [(d.data, d.name) for d in documents] == [(data, path.name)]


def test_long_lines_across_chunks(tmp_path):
    path = tmp_path / "a.jsonl"
    texts = ["x" * 3_000_000, "y", "z" * 1_500_000]
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    assert [d.data.decode() for d in read(path)[0]] == texts


def test_parquet(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet

    path = tmp_path / "a.parquet"
    table = pa.table({"body": ["one", None, "", "zwei ü"], "n": [1, 2, 3, 4]})
    pyarrow.parquet.write_table(table, path, row_group_size=2)
    documents, skipped = read(path, "body")
    assert [(d.data, d.line) for d in documents] == [(b"one", 1), ("zwei ü".encode(), 4)]
    assert skipped.counts == {"empty documents": 1, "rows without text": 1}
    with pytest.raises(UserError, match="no column 'text', but body, n"):
        read(path)
    with pytest.raises(UserError, match="column 'n' holds int64"):
        read(path, "n")


def test_folder(tmp_path):
    for name, data in {
        "b.txt": b"bee", "a/z.py": b"zed", "a/c.md": b"sea", "a.txt": b"dot", "d.jsonl": JSONL,
        "picture.png": b"x", "archive.tar.gz": b"x", "nul.txt": b"a\0b", "empty.txt": b"",
        ".hidden": b"x", ".git/config": b"x", "e.txt.gz": gzip.compress(b"eee"),
        "nul.txt.gz": gzip.compress(b"\0"),
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    os.mkfifo(tmp_path / "pipe")
    documents, skipped = read(tmp_path)
    assert [d.name for d in documents] == [
        "a.txt", "a/c.md", "a/z.py", "b.txt", "d.jsonl:1", "d.jsonl:2", "e.txt.gz"
    ]  # fmt: skip
    assert skipped.counts == {
        "files with a binary suffix": 2, "files with a NUL byte": 2, "hidden files": 1,
        "special files": 1, "empty documents": 3,
    }  # fmt: skip


def test_order_and_hashes_do_not_depend_on_the_place(tmp_path):
    for place in ("one", "two/deeper"):
        (tmp_path / place).mkdir(parents=True)
        for name in "cab":
            (tmp_path / place / name).write_text(name)
    first, second = Source(str(tmp_path / "one")), Source(str(tmp_path / "two/deeper"))
    assert [f.name for f in first.files] == ["a", "b", "c"]
    assert [(f.name, f.sha256) for f in first.files] == [(f.name, f.sha256) for f in second.files]


def test_standard_library():
    files = Source("stdlib").files
    names = [file.name for file in files]
    assert names == sorted(names)
    assert {"argparse.py", "json/decoder.py"} <= set(names)
    assert not [n for n in names if {"test", "tests", "site-packages"} & set(n.split("/")[:-1])]
    assert sum(file.size for file in files) > 8e6


BAD = [
    (b"{nope", "lines that are not JSON", "not JSON"),
    (b"[1]", "lines that are not an object", "not a JSON object but a list"),
    (b'{"body": "x"}', "lines without 'text'", "no field 'text', only body"),
    (b'{"text": 3}', "lines whose 'text' is not text", "is not a string"),
    (b'{"text": "\\ud800"}', "lines whose 'text' is not Unicode", "half a surrogate pair"),
    (b'{"text": "\xff"}', "lines that are not JSON", "not JSON"),
    (b"[" * 100_000, "lines that are not JSON", "not JSON"),
]


@pytest.mark.parametrize(("line", "kind", "reason"), BAD, ids=[bad[0][:12] for bad in BAD])
def test_bad_line_is_counted_reported_and_skipped(tmp_path, line, kind, reason):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "one"}\n' + line + b'\n{"text": "two"}')
    told = []
    documents, skipped = read(path, warn=told.append)
    assert [d.data for d in documents] == [b"one", b"two"]
    assert skipped.counts == {kind: 1}
    assert len(told) == 1 and told[0].startswith("skipped a.jsonl:2: ") and reason in told[0]
    with pytest.raises(UserError, match="a.jsonl:2: .*strict"):
        read(path, strict=True)


def test_only_the_first_bad_lines_are_told(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"bad\n" * 100 + b'{"text": "one"}')
    told = []
    _, skipped = read(path, warn=told.append)
    assert skipped.counts.total() == 100
    assert len(told) == 6 and "more lines" in told[-1]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.txt.gz", "a.jsonl.zst", "a.txt.zst"])
@pytest.mark.parametrize("damage", ["cut", "changed", "not an archive", "empty"])
def test_damaged_archive(tmp_path, name, damage):
    path = tmp_path / name
    data = bytearray(compressed(JSONL * 1000, path.suffix))
    if path.suffix == ".zst":  # with the checksum that the command-line tool writes
        data = bytearray(zstandard.ZstdCompressor(write_checksum=True).compress(JSONL * 1000))
    if damage == "cut":
        del data[len(data) // 2 :]
    elif damage == "changed":
        data[len(data) // 2] ^= 0xFF
    elif damage == "not an archive":
        data[:] = JSONL
    else:
        data.clear()
    path.write_bytes(data)
    with pytest.raises(UserError, match=rf"{name}: (damaged or cut short|the file is empty)"):
        read(path)


def test_damaged_parquet(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1nonsense")
    with pytest.raises(UserError, match="a.parquet: damaged or cut short"):
        read(tmp_path / "a.parquet")


def test_nothing_to_read(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        Source(str(tmp_path / "none"))
    with pytest.raises(UserError, match="neither a file nor a folder"):
        Source(os.devnull)
    with pytest.raises(UserError, match="no text in this folder"):
        Source(str(tmp_path))
    (tmp_path / "x.png").write_bytes(b"x")
    with pytest.raises(UserError, match="no text in this folder; 1 files with a binary suffix"):
        Source(str(tmp_path))
    with pytest.raises(UserError, match="not text: a binary suffix"):
        Source(str(tmp_path / "x.png"))
    (tmp_path / "x.txt").write_bytes(b"")
    with pytest.raises(UserError, match="the file is empty"):
        Source(str(tmp_path / "x.txt"))
    (tmp_path / "x.txt").write_bytes(b"a\0")
    with pytest.raises(UserError, match="not text: a NUL byte"):
        Source(str(tmp_path / "x.txt"))


def test_dangling_link_in_a_folder(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").symlink_to(tmp_path / "gone")
    documents, skipped = read(tmp_path)
    assert len(documents) == 1 and skipped.counts == {"special files": 1}


def write_records(path, records, options="group_size:3"):
    writer = ArrayRecordWriter(str(path), options)
    for record in records:
        writer.write(record)
    writer.close()


@pytest.mark.parametrize("options", ["group_size:1", "group_size:3,zstd:1", "group_size:100"])
def test_array_records(tmp_path, options):
    texts = ["ünï", "", *(f"document {number}" for number in range(10))]
    path = tmp_path / "a.arrayrecord"
    write_records(path, [text.encode() for text in texts], options)
    documents, skipped = read(path)
    assert [(d.data.decode(), d.name) for d in documents] == [
        (text, f"a.arrayrecord:{number}") for number, text in enumerate(texts, start=1) if text
    ]
    assert skipped.counts == {"empty documents": 1}


def test_array_records_in_a_folder(tmp_path):
    write_records(tmp_path / "b.arrayrecord", [b"two"])
    (tmp_path / "a.txt").write_text("one")
    write_records(tmp_path / "c.arrayrecord", [])
    assert [d.data for d in read(tmp_path)[0]] == [b"one", b"two"]


def test_damaged_array_records(tmp_path):
    path = tmp_path / "a.arrayrecord"
    write_records(path, [b"text " * 1000] * 100, "group_size:10,uncompressed")
    whole = path.read_bytes()
    middle = bytearray(whole)
    middle[len(whole) // 3] ^= 0xFF
    for damaged in (whole[: len(whole) // 2], b"", b"no records at all", bytes(middle)):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="arrayrecord: (damaged or cut short|the file is empty)"):
            read(path)


def test_rows_are_no_documents(tmp_path):
    path = tmp_path / "a.arrayrecord"
    row = Row(np.arange(3, dtype=np.int32), np.array([3], np.int32))
    write_records(path, [encode_row(row)])
    with pytest.raises(UserError, match="a.arrayrecord: rows of a prepared corpus: give the text"):
        read(path)
