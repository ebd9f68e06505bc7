"""Safetensors read and written, against the library; files that are damaged."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from hat.conversion import tensor_files
from hat.conversion.tensor_files import INDEX_FILE, SafeTensors, Spec, open_folder, write_folder
from hat.errors import UserError

TENSORS = {
    "a": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "b": torch.randn(5, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16),
    "c": torch.linspace(-1, 1, 8).to(torch.float16).reshape(2, 2, 2),
}


def bits(array) -> bytes:
    return np.ascontiguousarray(array).tobytes()


def test_what_the_library_writes_is_read(tmp_path):
    save_file(TENSORS, tmp_path / "any.safetensors")
    found = open_folder(tmp_path)
    assert {name: str(spec) for name, spec in found.specs.items()} == {
        "a": "float32[3, 4]", "b": "bfloat16[5]", "c": "float16[2, 2, 2]",
    }  # fmt: skip
    for name, tensor in TENSORS.items():
        assert bits(found.read(name)) == tensor.view(torch.uint8).numpy().tobytes()
    view = found.read("a")
    found.release()
    assert view[2, 3] == 11  # views outlive the release


@pytest.mark.parametrize(("shard_bytes", "files"), [(10**9, 1), (20, 3), (60, 2)])
def test_what_is_written_the_library_reads(tmp_path, shard_bytes, files):
    save_file(TENSORS, tmp_path / "source.safetensors")
    source = SafeTensors(tmp_path, [tmp_path / "source.safetensors"])
    out = tmp_path / "out"
    out.mkdir()
    write_folder(
        out, source.specs, ((name, source.read(name)) for name in source.specs), shard_bytes
    )
    found = {}
    for path in out.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            assert file.metadata() == {"format": "pt"}
            found |= {name: file.get_tensor(name) for name in file.keys()}
    assert set(found) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)
    assert len(list(out.glob("*.safetensors"))) == files
    assert (out / INDEX_FILE).exists() == (files > 1)
    assert dict(open_folder(out).specs) == source.specs


def test_a_tensor_that_is_not_the_one_due_is_a_mistake_of_ours(tmp_path):
    specs = {"a": Spec(np.dtype(np.float32), (2,))}
    with pytest.raises(ValueError, match="is due"):
        write_folder(tmp_path, specs, iter([("a", np.zeros(3, np.float32))]))



def garbled(header: dict, data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


ENTRY = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "cut short"),
        (b"PK\x03\x04" * 9, "cut short"),
        (struct.pack("<Q", 2) + b"[]", "damaged header"),
        (struct.pack("<Q", 2) + b"{{", "damaged header"),
        (garbled({"a": ENTRY}), "it has"),
        (garbled({"a": ENTRY}, b"12345"), "it has"),
        (garbled({"a": ENTRY | {"shape": [2]}}, b"1234"), "damaged header"),
        (garbled({"a": ENTRY | {"data_offsets": [-4, 0]}}, b"1234"), "damaged header"),
        (garbled({"a": ENTRY | {"dtype": "F8_E4M3"}}, b"1234"), "F8_E4M3"),
        (garbled({"a": {}}), "damaged header"),
    ],
)
def test_damaged_files(tmp_path, content, said):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=said) as error:
        open_folder(tmp_path)
    assert "model.safetensors" in str(error.value) and "\n" not in str(error.value)


@pytest.fixture
def sharded(tmp_path):
    """A folder of two shards and their index."""
    for number, names in (("1", "ab"), ("2", "c")):
        save_file({name: TENSORS[name] for name in names}, tmp_path / f"{number}.safetensors")
    write_index(tmp_path, a="1", b="1", c="2")
    return tmp_path


def write_index(folder, **places):
    weight_map = {name: f"{file}.safetensors" for name, file in places.items()}
    (folder / INDEX_FILE).write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize(
    ("places", "said"),
    [
        (dict(a="1", b="1"), "no weight|fit"),
        (dict(a="1", c="2"), "b of 1.safetensors has no entry"),
        (dict(a="1", b="2", c="2"), "b is not in 2.safetensors"),
        (dict(a="1", b="1", c="2", d="2"), "d is not in 2.safetensors"),
        (dict(a="1", b="1", c="3"), "3.safetensors: No such file"),
        (dict(a="1", b="1", c="../2"), "outside the folder"),
        (dict(a="1", b="1", c="/tmp/2"), "outside the folder"),
    ],
)
def test_an_index_that_does_not_fit(sharded, places, said):
    write_index(sharded, **places)
    if places == dict(a="1", b="1"):  # a shard that the index does not name is not looked at
        assert set(open_folder(sharded).specs) == {"a", "b"}
        return
    with pytest.raises(UserError, match=said):
        open_folder(sharded)


def test_folders_without_what_is_needed(sharded):
    (sharded / INDEX_FILE).write_text("{}")
    with pytest.raises(UserError, match="no weight_map"):
        open_folder(sharded)
    (sharded / INDEX_FILE).unlink()
    with pytest.raises(UserError, match="2 safetensors files and no"):
        open_folder(sharded)
    for path in sharded.iterdir():
        path.unlink()
    with pytest.raises(UserError, match="no .safetensors file"):
        open_folder(sharded)
    (sharded / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match="is a pickle.*save_pretrained"):
        open_folder(sharded)


def test_two_files_with_one_tensor(tmp_path):
    save_file(TENSORS, tmp_path / "a.safetensors")
    save_file(TENSORS, tmp_path / "b.safetensors")
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    with pytest.raises(UserError, match="both hold"):
        tensor_files.SafeTensors(tmp_path, paths)
