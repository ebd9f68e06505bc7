from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from hat.cli import main
from hat.errors import UserError
from hat.evaluation import fairness
from hat.text.splitters import FixedStride, make_splitter
from hat.text.tokenizers import ByteTokenizer, train_bpe

FILES = {
    "eng_Latn.dev": "The cat sleeps.\nIt is late.\n",
    "deu_Latn.dev": "Die Katze schläft.\r\nEs ist spät.",
    "rus_Cyrl.devtest": "Кошка спит.\nПоздно.\n",
}


@pytest.fixture
def folder(tmp_path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_bytes(text.encode())
    (tmp_path / "README").write_text("three languages")
    return tmp_path


def test_parallel_text_is_read(folder):
    texts = fairness.read_parallel(folder)
    assert list(texts) == ["deu_Latn", "eng_Latn", "rus_Cyrl"]
    assert texts["deu_Latn"] == ["Die Katze schläft.".encode(), "Es ist spät.".encode()]


def test_costs_and_premiums_by_hand(folder):
    result = fairness.measure(FixedStride(4), fairness.read_parallel(folder), "eng_Latn")
    by_name = {language.name: language for language in result.languages}
    english, russian = by_name["eng_Latn"], by_name["rus_Cyrl"]
    # 15 + 11 bytes; 4 + 3 words of four bytes, 3 + 3 between white space
    assert (english.bytes, english.words, english.positions, english.longest) == (26, 6, 7, 4)
    assert set(english.premiums.values()) == {(1.0, 1.0, 1.0, 2)}
    # 20 + 13 bytes, 5 + 4 words of four bytes, 2 + 1
    assert (russian.bytes, russian.words, russian.positions) == (33, 3, 9)
    assert estimates(russian.premiums) == {"byte": 33 / 26, "word": 0.5, "position": 9 / 7}
    assert russian.bytes_per_position.estimate == 33 / 9
    # Twice one of the two sentences, or both: a quarter of all draws are twice the first.
    word = russian.premiums["word"]
    assert (word.low, word.high, word.n) == (1 / 3, 2 / 3, 2)
    german = by_name["deu_Latn"]
    assert result.scripts["Latn"]["byte"].estimate == pytest.approx(math.sqrt(german.bytes / 26))
    assert estimates(result.scripts["Cyrl"]) == pytest.approx(estimates(russian.premiums))


def estimates(premiums) -> dict[str, float]:
    return {cost: interval.estimate for cost, interval in premiums.items()}


def test_premiums_of_many_sentences_have_the_width_of_their_ratio():
    """Against the standard error of a ratio of means (delta method), within 5 %."""
    generator = np.random.default_rng(0)
    sizes = generator.integers(5, 40, size=(400, 2))
    texts = {name: [b"x" * size for size in column]
             for name, column in zip(("eng_Latn", "deu_Latn"), sizes.T.tolist())}
    german = fairness.measure(FixedStride(4), texts, "eng_Latn").languages[1]
    ratio = sizes[:, 1].sum() / sizes[:, 0].sum()
    error = (sizes[:, 1] - ratio * sizes[:, 0]).std() / 400**0.5 / sizes[:, 0].mean()
    premium = german.premiums["byte"]
    assert premium.high - premium.low == pytest.approx(2 * 1.96 * error, rel=0.05)
    assert premium.estimate == ratio and premium.n == 400


def test_rules_count_their_own_units(folder):
    texts = fairness.read_parallel(folder)

    def positions(rule):
        return {x.name: x.positions for x in fairness.measure(rule, texts, "rus_Cyrl").languages}

    assert positions(ByteTokenizer()) == {x: sum(map(len, lines)) for x, lines in texts.items()}
    assert positions(make_splitter("whitespace")) == {
        x: sum(len(line.split()) for line in lines) for x, lines in texts.items()
    }
    bpe = train_bpe([FILES["eng_Latn.dev"].encode() * 9], 262)
    assert positions(bpe) == {x: sum(len(bpe.encode(line)) for line in lines)
                              for x, lines in texts.items()}


def test_dispersion_against_its_definitions():
    values = np.random.default_rng(0).uniform(0.5, 4, size=7)
    found = fairness.dispersion(values)
    pairs = np.abs(values[:, None] - values[None, :]).mean()
    expected = (values.max() / values.min(), np.log(values).std(), pairs / (2 * values.mean()))
    assert found == pytest.approx(expected)
    assert fairness.dispersion(np.array([2.0, 2.0, 2.0])) == (1, 0, 0)


@pytest.mark.parametrize("name, content, message", [
    ("fra_Latn.dev", b"Un seul.\n", "fra_Latn has 1 lines and deu_Latn 2; parallel text has one"),
    ("eng_Latn.txt", b"a\nb\n", "two files of eng_Latn; keep one in the folder"),
    ("fra_Latn.dev", b"\xff\n\n", r"fra_Latn.dev is not UTF-8 \(byte 0\); convert the file"),
    ("fra_Latn.dev", b"\n\n", "fra_Latn.dev holds no text; give sentences, or remove the file"),
])
def test_bad_parallel_text(folder, name, content, message):
    (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        fairness.read_parallel(folder)


def test_bad_folders(tmp_path):
    with pytest.raises(UserError, match="none: No such file"):
        fairness.read_parallel(tmp_path / "none")
    with pytest.raises(UserError, match="holds 0 languages; give a folder of files like eng_Latn"):
        fairness.read_parallel(tmp_path)


# --- the command --------------------------------------------------------------------------------


def test_the_command_compares_rules(folder, capsys, tmp_path):
    bpe = train_bpe([FILES["eng_Latn.dev"].encode() * 9], 262)
    bpe.save(tmp_path)
    rules = ["words", "bytes", str(tmp_path), str(tmp_path / "tokenizer.json")]
    argv = ["evaluate", "fairness", *rules, "--parallel", str(folder)]
    assert main([*argv, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert list(result["rules"]) == rules
    assert (result["reference"], result["sentences"]) == ("eng_Latn", 2)
    assert result["rules"][rules[2]] == result["rules"][rules[3]]
    rows = {x["name"]: x for x in result["rules"]["bytes"]["languages"]}
    assert rows["rus_Cyrl"]["premiums"]["position"] == rows["rus_Cyrl"]["premiums"]["byte"]
    assert main([*argv, "--reference", "deu_Latn"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "words"
    own = [line for line in out if line.startswith("deu_Latn")]
    assert len(own) == len(rules) and all(line.count("1.00 [1.00, 1.00]") >= 3 for line in own)


@pytest.mark.parametrize("argv, message", [
    (["wrods"], "wrods is no file or folder, and as a splitter: splitter 'wrods' is not known"),
    (["no/tokenizer.json"], "cannot read the tokenizer: No such file"),
    (["{folder}"], "no run in {folder}: config.json: No such file"),
    (["words", "--reference", "eng"], "no language 'eng'; choose from deu_Latn, eng_Latn, rus"),
    (["words", "--parallel", "/nowhere"], "cannot read the folder /nowhere: No such file"),
])
def test_a_mistake_is_one_line(folder, capsys, argv, message):
    argv = [word.format(folder=folder) for word in argv]
    assert main(["evaluate", "fairness", "--parallel", str(folder), *argv]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message.format(folder=folder) in error
