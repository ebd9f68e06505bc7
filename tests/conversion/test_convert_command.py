"""`hat convert` as a user runs it: what other commands take of it, and mistakes in one line."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from hat.cli import main
from hat.inference.run import load_run
from tests.conversion import folders
from tests.training import tiny


@pytest.fixture(scope="module")
def work(tmp_path_factory, quick_runs):
    """llama: a Hugging Face folder; native: it as a run; config.py: a HAT around it."""
    folder = tmp_path_factory.mktemp("convert")
    os.environ["HAT_CACHE"] = str(folder / "cache")
    folders.save_transformer(folder / "llama", folders.transformer("qwen3"), "30KB")
    assert main(["convert", f"{folder}/llama", "--to", "native", "--out", f"{folder}/native"]) == 0
    tiny.text(folder)
    stack = (
        "num_layers=3", "num_heads=4", "num_kv_heads=2", "head_dim=6", "intermediate_size=48",
        "qk_norm=true", "residual_init=0.0",
    )  # fmt: skip
    changes = [f"model.backbone.{field}" for field in stack]
    changes += ["training.steps=2", "training.samples.max_bytes=4"]
    (folder / "config.py").write_text(
        "from pathlib import Path\n"
        "from tests.training import tiny\n"
        "def config():\n"
        f"    return tiny.experiment(Path({str(folder)!r}), *{changes!r})\n"
    )
    return folder


def call(capsys, *words) -> dict:
    capsys.readouterr()
    status = main([*map(str, words), "--json"])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    return json.loads(captured.out)


def test_a_converted_llama_generates_and_scores(work, capsys):
    result = call(capsys, "generate", work / "native", "--prompt", "the cat", "--bytes", 24)
    sample = result["samples"][0]
    # An id that spells nothing takes the room of a byte, so that these are fewer than 24.
    assert len(bytes.fromhex(sample["text_hex"])) >= 6 or sample["ended"]
    result = call(capsys, "evaluate", "bits-per-byte", work / "native", work / "text.txt")
    assert np.isfinite(result["bits_per_byte"]) and result["bits_per_byte"] > 0


def test_a_hat_around_it_is_trained(work, capsys, tmp_path):
    """The backbone is the Llama's, bit for bit; training begins with it; the rest is new."""
    words = ("--to", "hat", "--config", work / "config.py", "--set", "training.seed=3", "--out")
    result = call(capsys, "convert", work / "llama", *words, tmp_path / "hat")
    assert result["model"] == "HAT"
    hat, llama = load_run(tmp_path / "hat"), load_run(work / "native")
    assert result["parameters"] == sum(hat.model.parameter_counts().values())
    jax.tree.map(
        np.testing.assert_array_equal, hat.params["backbone"]["layers"], llama.params["backbone"]
    )
    fresh = hat.model.init(jax.random.key(3))
    for part in ("encoder", "connector", "decoder", "head"):
        # Drawn in another program, which may round otherwise.
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
            hat.params[part], fresh[part],
        )  # fmt: skip
    call(capsys, "convert", work / "native", *words, tmp_path / "again")
    jax.tree.map(np.testing.assert_array_equal, load_run(tmp_path / "again").params, hat.params)

    frozen = "training.optimizer.learning_rate=1e-30"
    call(capsys, "train", work / "config.py", "--out", tmp_path / "run",
         "--set", f"init={tmp_path / 'hat'}", frozen)  # fmt: skip
    # A step of 1e-30 moves nothing that float32 can show.
    jax.tree.map(np.testing.assert_array_equal, load_run(tmp_path / "run").params, hat.params)


def test_a_config_of_another_backbone_is_fitted(work, capsys, tmp_path):
    """What is written is a run whose folder is a config to train, with the Llama's own backbone."""
    other = ("--config", work / "config.py", "--set", "model.backbone.num_layers=7", "--fit")
    call(capsys, "convert", work / "llama", "--to", "hat", *other, "--out", tmp_path / "hat")
    hat, llama = load_run(tmp_path / "hat"), load_run(work / "native")
    assert hat.model.config.backbone == llama.model.config.stack
    counted = call(capsys, "params", tmp_path / "hat", "--set", f"init={tmp_path / 'hat'}")
    assert counted["total_parameters"] == sum(hat.model.parameter_counts().values())


def test_words_that_are_the_llamas_tokens_are_learned_from_their_spelling(work, capsys, tmp_path):
    config = tokens_config(work)
    words = ("convert", work / "llama", "--to", "hat", "--config", config, "--fit", "--out")
    assert "word_distance" not in call(capsys, *words, tmp_path / "new")
    assert call(capsys, *words, tmp_path / "hat", "--word-steps", 3)["word_distance"] > 0
    new, hat, llama = map(load_run, (tmp_path / "new", tmp_path / "hat", work / "native"))
    jax.tree.map(
        np.testing.assert_array_equal, hat.params["backbone"]["layers"], llama.params["backbone"]
    )
    longest = max(map(len, map(llama.tokenizer.token_bytes, range(llama.tokenizer.vocab_size))))
    assert hat.model.config.word_bytes == longest
    same = jax.tree.map(np.array_equal, new.params, hat.params)
    assert not any(jax.tree.leaves(same.pop("encoder"))) and all(jax.tree.leaves(same))
    # The folder is all that a reader needs: it has the tokenizer.
    moved = shutil.copytree(tmp_path / "hat", tmp_path / "elsewhere" / "hat")
    assert load_run(moved).splitter.name == f"tokens-v1-{llama.tokenizer.name}"
    assert call(capsys, "generate", moved, "--prompt", "the cat", "--bytes", 8)["samples"]


def tokens_config(work) -> Path:
    path = work / "tokens.py"
    path.write_text(
        "from pathlib import Path\n"
        "from tests.training import tiny\n"
        "def config():\n"
        f"    return tiny.hat_2025(Path({str(work)!r}), 'data.splitter=tokens:{work}/native')\n"
    )
    return path


def test_init_of_another_model_is_one_line(work, capsys, tmp_path):
    for source, said in (("native", "does not fit"), ("nowhere", "nowhere")):
        words = ["train", work / "config.py", "--out", tmp_path / source]
        assert main([*map(str, words), "--set", f"init={work / source}"]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("hat: error: init: ") and said in error


def edit(path: Path, **changes) -> None:
    fields = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in fields.items() if v is not None}))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def only(folder: Path, name: str) -> None:
    """Leaves config.json, and an empty file of this name."""
    for path in folder.iterdir():
        if path.name != "config.json":
            path.unlink()
    (folder / name).write_bytes(b"")


DAMAGES = {
    "a shard cut short": (lambda f: truncate(min(f.glob("*.safetensors"))), "it has"),
    "a shard missing": (lambda f: max(f.glob("*.safetensors")).unlink(), "No such file"),
    "too wide": (lambda f: edit(f / "config.json", intermediate_size=64), "misshapen"),
    "too deep": (lambda f: edit(f / "config.json", num_hidden_layers=4), "11 missing"),
    "not deep enough": (lambda f: edit(f / "config.json", num_hidden_layers=2), "11 unexpected"),
    "heads": (lambda f: edit(f / "config.json", num_attention_heads=3), "multiple of"),
    "unknown": (lambda f: edit(f / "config.json", model_type="mamba"), "'mamba' is not a model"),
    "no type": (lambda f: edit(f / "config.json", model_type=None), "no field model_type"),
    "no size": (lambda f: edit(f / "config.json", hidden_size=None), "no field hidden_size"),
    "a word": (lambda f: edit(f / "config.json", hidden_size="big"), "expected int"),
    "biases": (lambda f: edit(f / "config.json", attention_bias=True), "attention_bias"),
    "gelu": (lambda f: edit(f / "config.json", hidden_act="gelu"), "'gelu'"),
    "yarn": (lambda f: edit(f / "config.json", rope_parameters={"rope_type": "yarn"}), "'yarn'"),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "is no JSON"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), "no JSON object"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json"),
    "a pickle": (lambda f: only(f, "pytorch_model.bin"), "save_pretrained"),
    "another pickle": (lambda f: only(f, "consolidated.00.pth"), "save_pretrained"),
    "nothing": (lambda f: only(f, "notes.txt"), "no .safetensors file"),
    "a tokenizer too large": (
        lambda f: (f / "tokenizer.json").write_text(larger()), r"llama/tokenizer\.json has \d+ tokens",
    ),
    "a tokenizer damaged": (lambda f: (f / "tokenizer.json").write_text("{"), "not a tokenizer"),
}  # fmt: skip


def larger() -> str:
    """A tokenizer of more tokens than the embedding has rows."""
    spec = json.loads(folders.tokenizer_json())
    spec["added_tokens"][0]["id"] = 310
    return json.dumps(spec)


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_folder_is_one_line_and_leaves_nothing(name, work, tmp_path, capsys):
    damage, said = DAMAGES[name]
    shutil.copytree(work / "llama", tmp_path / "llama")
    damage(tmp_path / "llama")
    refuse(capsys, tmp_path, said, "convert", tmp_path / "llama", "--to", "native")


def refuse(capsys, tmp_path, said, *words):
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    assert main([*map(str, words), "--out", str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("hat: error: ")
    assert len([line for line in lines if "rror" in line]) == 1
    assert re.search(said, lines[-1]), lines[-1]
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("{work}/none", "--to", "native"), "no such file or folder"),
        (("{work}/native", "--to", "native"), "is a run already"),
        (("{work}/llama", "--to", "hf"), "has that layout already"),
        (("{work}/llama", "--to", "hf-hat"), "is a Llama"),
        (("{work}/llama", "--to", "hat"), "--config"),
        (("{work}/llama", "--to", "native", "--config", "{work}/config.py"), "--config"),
        (("{work}/native", "--to", "hf", "--set", "name=a"), "--set"),
        (("{work}/native", "--to", "hf", "--fit"), "--fit goes with --to hat"),
        (("{work}/native", "--to", "hf", "--word-steps", "3"), "--word-steps goes with --to hat"),
        (("{work}/llama", "--to", "hat", "--config", "{work}/config.py", "--word-steps", "3"),
         "sees more than a word"),
        (("{work}/llama", "--to", "hat", "--config", "{work}/tokens.py", "--fit", "--word-steps",
          "3", "--set", "data.splitter=words"), "are not the tokens of the Llama"),
        (("{work}/llama", "--to", "native", "--set", "model.num_token=9"), "num_tokens"),
        (("{work}/llama", "--to", "native", "--set", "model.stack.num_layers=2"), "unexpected"),
        (("{work}/llama", "--to", "native", "--tokenizer", "{work}/none.json"), "none.json"),
        (("{work}/native", "--to", "hf", "--tokenizer", "{work}/none.json"), "has its own"),
        (("{work}/llama", "--to", "gguf"), "gguf"),
        (("{work}/text.txt", "--to", "native"), "no llama2.c checkpoint"),
        (
            ("{work}/llama", "--to", "hat", "--config", "{work}/config.py", "--set",
             "model.backbone.rope_theta=5.0"),
            "rope_theta: 5.0 .config. != 10000.0 .Llama.",
        ),
        (("{work}/llama", "--to", "hat", "--config", "{work}/llama_config.py"), "of a Llama"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(words, said, work, tmp_path, capsys):
    (work / "llama_config.py").write_text(
        "from pathlib import Path\n"
        "from tests.training import tiny\n"
        f"def config():\n    return tiny.llama(Path({str(work)!r}))\n"
    )
    tokens_config(work)
    refuse(capsys, tmp_path, said, "convert", *(word.format(work=work) for word in words))


def test_a_pickle_by_any_name_is_refused(tmp_path, capsys):
    import torch

    for name in ("model.pt", "model.bin"):
        torch.save({"a": torch.zeros(2)}, tmp_path / name)
        refuse(capsys, tmp_path, "is a pickle", "convert", tmp_path / name, "--to", "native")


def test_a_llama2c_file_cut_short(tmp_path, capsys):
    from tests.conversion.test_llama import write_llama2c

    write_llama2c(tmp_path / "model.bin", folders.transformer("llama", num_key_value_heads=2))
    truncate(tmp_path / "model.bin")
    refuse(capsys, tmp_path, "it has", "convert", tmp_path / "model.bin", "--to", "native")


def test_an_out_that_is_taken_stays_as_it_is(work, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    refuse(capsys, tmp_path, "is there already", "convert", work / "llama", "--to", "native")
