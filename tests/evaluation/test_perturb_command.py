from __future__ import annotations

import json

import pytest

from hat.cli import main
from hat.evaluation.perturbations import REGISTRY, perturb
from hat.evaluation.perturbations.traps import crosses
from hat.evaluation.tasks import read_task
from hat.text.tokenizers import train_bpe

TEXT = "The quick brown fox, it recieves\nnaïve Größe."


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return str(path)


def test_the_text_goes_out_and_the_rate_is_told(file, capfdbinary):
    assert main(["perturb", file, "--name", "keyboard", "--rate", "0.3", "--seed", "7"]) == 0
    out, err = capfdbinary.readouterr()
    expected = perturb(TEXT.encode(), "keyboard", 0.3, 7, "text.txt")
    assert out == expected.text != TEXT.encode()
    assert err.decode() == (
        f"keyboard at rate 0.3: {len(expected.edits)} edits, {expected.edit_distance} of 48 bytes "
        f"({expected.edit_rate:.2%}); 9 words became 9\n"
    )


def test_bytes_go_out_as_they_are(tmp_path, capfdbinary):
    path = tmp_path / "data"
    path.write_bytes(bytes(range(256)))
    assert main(["perturb", str(path), "--name", "drop-byte", "--rate", "0.5"]) == 0
    out, _ = capfdbinary.readouterr()
    assert out == perturb(bytes(range(256)), "drop-byte", 0.5, 0, "data").text


def test_json_holds_text_edits_and_rates(file, capsys):
    argv = ["perturb", file, "--item-id", "a", "--name", "hat-delete", "--rate", "1", "--protect", "QUICK", "größe"]
    assert main([*argv, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["text"] == "Te quick bn fx, it rs\nne Größe."
    assert bytes.fromhex(result["text_hex"]).decode() == result["text"]
    assert result["item_id"] == "a"
    assert result["edits"][0] == {"start": 1, "end": 2, "replacement_hex": ""}
    assert result["edit_rate"] == result["edit_distance"] / result["bytes"]


def test_edits_are_shown(file, capsys):
    assert main(["perturb", file, "--name", "uppercase", "--rate", "1", "--show-edits"]) == 0
    out, err = capsys.readouterr()
    assert out == TEXT.upper()
    assert err.splitlines()[0] == "        0  'The' -> 'THE'"
    assert err.splitlines()[-2] == "       40  'Größe.' -> 'GRÖSSE.'"


def test_every_perturbation_is_listed(capsys):
    assert main(["perturb", "--list"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in [*REGISTRY, "misspelling"])
    assert main(["perturb", "--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["perturbations"]
    jitters = ["jitter-merge", "jitter-split", "jitter-delay", "jitter-move"]
    assert [p["name"] for p in listed] == [*REGISTRY, "misspelling", *jitters]
    with pytest.raises(SystemExit):
        main(["perturb", "--help"])
    told = capsys.readouterr().out
    assert all(family in told for family in {p["family"] for p in listed})


def test_real_misspellings(file, tmp_path, capsys):
    words = tmp_path / "words"
    words.write_text("quikc->quick\nbrwon->brown\n")
    assert main(["perturb", file, "--name", "misspelling", "--rate", "1",
                 "--misspellings", str(words)]) == 0
    assert capsys.readouterr().out.startswith("The quikc brwon fox")


def test_words_are_shown_under_jitter(file, capsys):
    assert main(["perturb", file, "--name", "jitter-delay", "--rate", "1"]) == 0
    out, err = capsys.readouterr()
    assert out.replace("|", "") == TEXT and out.startswith("The |quick |brown |fox,")
    assert err.startswith("jitter-delay at rate 1: 9 words became 9")


def test_the_released_editor(tmp_path, capsys):
    """A golden vector of its authors, as in test_hat_paper.py."""
    fox = tmp_path / "fox"
    fox.write_text("The quick brown fox.")
    assert main(["perturb", str(fox), "--name", "hat-replace", "--compat", "eval-framework",
                 "--rate", "1", "--seed", "42", "--protect", "the"]) == 0  # fmt: skip
    assert capsys.readouterr().out == "The qw%,k bWl.n ffx."


def test_traps_are_a_task(tmp_path, capsys):
    words, task = tmp_path / "words", tmp_path / "traps.jsonl"
    words.write_text("move moves table stable form forms eat seat")
    assert main(["perturb", str(words), "--traps", "50"]) == 0
    task.write_text(capsys.readouterr().out)
    items = read_task(task).items
    for item in items:
        first, second = (choice.decode() for choice in item.continuations)
        assert first != second and first.replace(" ", "") == second.replace(" ", "")
        told = item.contexts[0].decode()
        assert told.startswith(f"The words {item.continuations[item.gold].decode().split()[0]} and ")
    assert {item.gold for item in items} == {0, 1}
    # A tokenizer that knows "stable" by heart loses "moves table".
    tokenizer = train_bpe([b"stable"] * 9, 261)
    tokenizer.save(tmp_path)
    argv = ["--traps", "50", "--tokenizer", str(tmp_path / "tokenizer.json")]
    assert main(["perturb", str(words), *argv]) == 0
    kept = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    right = [line["choices"][line["gold"]].split() for line in kept]
    assert 0 < len(kept) < len(items) and all(crosses(tokenizer, *words) for words in right)
    words.write_text("nothing here")
    assert main(["perturb", str(words), "--traps", "5"]) == 2
    assert "make no trap; give a longer list" in capsys.readouterr().err


@pytest.mark.parametrize("argv, message", [
    (["{file}", "--name", "jitter-mov"], "no jitter 'mov'; did you mean move?"),
    (["{file}", "--name", "drop", "--compat", "eval-framework"], "eval-framework has no editor"),
    (["{file}", "--name", "hat-delete", "--compat", "eval-framework", "--rate", "2"], "rate 2.0 is"),
    (["{file}", "--name", "drop", "--tokenizer", "x"], "--tokenizer is of --traps N"),
    (["{broken}", "--traps", "5"], "{broken} is not UTF-8 (byte 1); convert it"),
    (["{file}"], "hat perturb needs a FILE and --name NAME; hat perturb --list shows names"),
    (["--name", "drop"], "hat perturb needs a FILE"),
    (["{file}", "--name", "keybord"], "no perturbation 'keybord'; did you mean keyboard?"),
    (["{file}", "--name", "drop", "--rate", "1.5"], "rate 1.5 is no share; give a number from 0"),
    (["{file}", "--name", "drop", "--rate", "x"], "invalid float value: 'x'"),
    (["none.txt", "--name", "drop"], "cannot read none.txt: No such file"),
    (["{file}", "--name", "misspelling"], "give one with --misspellings FILE"),
    (["{file}", "--name", "drop", "--misspellings", "x"], "--misspellings is for --name miss"),
    (["{broken}", "--name", "drop"], "item broken: byte 1 is no UTF-8, and drop perturbs characters"),
])
def test_a_mistake_is_one_line(file, tmp_path, capsys, argv, message):
    broken = tmp_path / "broken"
    broken.write_bytes(b"a\xff")
    names = {"file": file, "broken": broken}
    assert main(["perturb", *(word.format(**names) for word in argv)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message.format(**names) in err
