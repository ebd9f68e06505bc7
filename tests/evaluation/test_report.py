"""Reports: everything that was found stands in them, safe to open, the same bytes every time."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from html.parser import HTMLParser

import pytest

from hat.cli import main
from hat.evaluation import fairness, report
from hat.evaluation.report import figures, wording
from hat.evaluation.report.svg import DEEP, PALE, blend
from hat.evaluation.results import ALL_TASKS, from_json, plain, to_json
from hat.evaluation.statistics import Interval
from hat.text.splitters import make_splitter
from tests.evaluation.report_results import (
    BYTES,
    NOISES,
    SUBWORD,
    comparison,
    interval,
    results,
)

VOID = {"meta", "br"}


class Page(HTMLParser):
    """The tags of a page, which must nest, and its text."""

    def __init__(self, source: str):
        super().__init__()
        self.tags, self.attributes, self.said, self._open = [], [], [], []
        self.feed(source)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.said.append(data)

    @property
    def text(self) -> str:
        return "\n".join(self.said)


@pytest.fixture(scope="module")
def files():
    return report.render(results())


@pytest.fixture(scope="module")
def page(files):
    return Page(files["report.html"])


def test_the_same_results_give_the_same_bytes(files):
    assert list(files) == ["report.html", "report.md", "results.json"]
    assert report.render(from_json(files["results.json"])) == files
    assert files["results.json"] == to_json(results())


def test_the_page_loads_nothing_and_runs_nothing(files, page):
    assert not {"script", "link", "img", "iframe", "object", "base", "a"} & set(page.tags)
    names = {name for name, _ in page.attributes}
    assert not {"src", "href", "srcset", "style"} & names
    assert not any(name.startswith("on") for name in names)
    policy = dict(page.attributes)["content"]  # the last of the three meta tags is the viewport
    assert policy and "default-src 'none'" in files["report.html"]
    assert "url(" not in files["report.html"] and "@import" not in files["report.html"]


def test_names_and_texts_are_escaped(files, page):
    assert "<1>" not in files["report.html"] and BYTES in page.text
    assert "& ran." in page.text and "&amp; ran." in files["report.html"]
    assert "\u202e" not in files["report.html"] + files["report.md"]  # it would turn the line round
    assert "\\u202e" in page.text


def test_every_number_stands_there_with_its_interval_and_n(files, page):
    found = results()
    values = [v for part in (*found.cells, *found.curves) for v in part.metrics.values()]
    values += [c.difference for c in found.comparisons]
    assert len(values) > 50
    for value in values:
        if math.isfinite(value.estimate):
            assert wording.interval(value, n=True) in page.text
            escaped = wording.interval(value, n=True).replace("[", "\\[").replace("]", "\\]")
            assert escaped in files["report.md"]


def test_rows_of_a_markdown_table_are_as_long_as_its_header(files):
    tables = re.findall(r"(?:^\|.*\|\n?)+", files["report.md"], re.M)
    assert len(tables) >= 8
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1


def test_the_summary_says_who_is_better_where(page):
    pair = f"{BYTES} against {SUBWORD}"
    assert (
        f"{pair}, on clean text, in bits per byte: {SUBWORD} is better ({SUBWORD} less {BYTES}: "
        "-0.050 [-0.060, -0.040] bits/byte, n = 40; p = 0.004 after Holm)."
    ) in page.text
    assert (
        f"{pair}, under noise, in context noise cost: {BYTES} is better in 2 of 3 cases (keyboard "
        "and drop); no difference is shown in 1 of 3 cases (uppercase)."
    ) in page.text
    assert f"{BYTES}, clean texts longer than the context, without their beginning: 2 of" in page.text
    assert f"{SUBWORD}, clean texts with a token of both context and continuation" in page.text


@pytest.mark.parametrize("metric, difference, p_holm, winner", [
    ("noise_cost", 0.1, 0.049, BYTES),  # the second costs more
    ("noise_cost", -0.1, 0.049, SUBWORD),
    ("accuracy", 0.1, 0.049, SUBWORD),
    ("accuracy", -0.1, 0.049, BYTES),
    ("accuracy", 0.1, 0.05, None),
    ("accuracy", 0.1, math.nan, None),
    ("accuracy", 0.0, 0.001, None),
    ("accuracy", math.nan, 0.001, None),
    ("edit_rate", 0.1, 0.001, None),  # neither more nor fewer edits is better
])
def test_a_verdict_needs_significance_and_a_direction(metric, difference, p_holm, winner):
    found = comparison("drop", difference, p_holm, metric=metric)
    assert wording.better(found, 0.95) == winner


@pytest.mark.parametrize("value, said", [
    (Interval(0.12345, 0.1101, 0.1402, 12), "0.123 [0.110, 0.140]"),
    (Interval(1234.5, 1100.0, 1400.0, 12), "1,234 [1,100, 1,400]"),
    (Interval(0.5, 0.5, 0.5, 1), "0.500 [0.500, 0.500]"),
    (Interval(0.0, 0.0, 0.0, 1), "0.0 [0.0, 0.0]"),
    (Interval(-1e-9, -2e-9, 1e-9, 1), "0.000000 [0.000000, 0.000000]"),
    (Interval(math.nan, math.nan, math.nan, 0), "–"),
])
def test_intervals_in_words(value, said):
    assert wording.interval(value) == said


def test_curves_are_drawn_where_their_numbers_say():
    """Every point, read back from the drawing through the ticks beside it."""
    figure = figures.severity(results(), ALL_TASKS, "noise_cost")
    assert len(figure.drawings) == len(NOISES) and len(figure.legend) == 2
    drawing = figure.drawings[NOISES.index("keyboard")]
    text = re.findall(r'<text x="([\d.]+)" y="([\d.]+)"[^>]*text-anchor="(\w+)"[^>]*>([-\d.]+)<', drawing)
    up = [(float(y) - 4, float(said)) for _, y, anchor, said in text if anchor == "end"]
    across = [(float(x), float(said)) for x, _, anchor, said in text if anchor == "middle"]

    def read(scale, at):
        (a, first), (b, last) = scale[0], scale[-1]
        return first + (at - a) / (b - a) * (last - first)

    circles = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', drawing)
    found = [(read(across, float(x)), read(up, float(y))) for x, y in circles]
    expected = [(0, 0), (0.08, 0.1), (0.16, 0.2), (0, 0), (0.08, 0.2), (0.16, 0.4)]
    # A tenth of a pixel of 152 for 0.5 nats, and of 266 for 0.16 edits.
    for point, its in zip(found, expected, strict=True):
        assert point == pytest.approx(its, abs=1e-3)


def test_the_worst_square_of_a_heat_map_is_the_deepest():
    found = results()
    [drawing] = figures.heat_map(found, ALL_TASKS, "mean_noise_cost").drawings
    fills = re.findall(r'fill="(#\w{6})"><title>([^,]+), (.*?): ', drawing)
    colours = {(noise, model): fill for fill, noise, model in fills}
    assert colours["keyboard", SUBWORD] == blend(1) == "#" + "".join(f"{c:02x}" for c in DEEP)
    assert colours["uppercase", SUBWORD] == blend(0) == "#" + "".join(f"{c:02x}" for c in PALE)
    # Of an area under accuracy the smallest is the worst.
    areas = {"keyboard": 0.4, "drop": 0.9, "uppercase": math.nan}
    curves = [dataclasses.replace(c, metrics={"accuracy_area": interval(areas[c.perturbation])})
              for c in found.curves]  # fmt: skip
    changed = dataclasses.replace(found, curves=tuple(curves))
    [drawing] = figures.heat_map(changed, ALL_TASKS, "accuracy_area").drawings
    assert f'fill="{blend(1)}"><title>keyboard' in drawing
    assert "uppercase, BPE|4k: not defined" in drawing


def test_one_model_is_not_compared():
    found = results()
    alone = dataclasses.replace(found, models=found.models[:1], comparisons=(), examples=(),
                                adaptations=(), cells=found.cells[:7], curves=())  # fmt: skip
    text = Page(report.render(alone)["report.html"]).text
    assert "Nothing is compared here" in text and "Model against model" not in text


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def costs():
    """What `hat evaluate fairness --json` prints."""
    texts = {"eng_Latn": [b"The cat sleeps."], "deu_Latn": ["Die Katze schläft.".encode()],
             "rus_Cyrl": ["Кошка спит.".encode()]}  # fmt: skip
    rules = {name: plain(fairness.measure(make_splitter(name), texts, "eng_Latn"))
             for name in ("words", "stride:4")}  # fmt: skip
    return {"reference": "eng_Latn", "sentences": 1, "rules": rules}


def test_the_command_writes_all_and_overwrites_nothing(tmp_path, capsys, files, costs):
    source, out = tmp_path / "results.json", tmp_path / "out"
    source.write_text(files["results.json"], encoding="utf-8")
    argv = ["evaluate", "report", str(source), "--out", str(out)]
    assert main([*argv, "--json"]) == 0
    paths = json.loads(capsys.readouterr().out)["files"]
    assert paths == [str(out / name) for name in files]
    assert {path.name: path.read_text(encoding="utf-8") for path in out.iterdir()} == files
    assert main(argv) == 0  # the same again
    prices = tmp_path / "costs.json"
    prices.write_text(json.dumps(costs))
    assert main([*argv, "--fairness", str(prices)]) == 2
    assert "report.html is there already; choose another --out or add" in capsys.readouterr().err
    assert (out / "report.md").read_text(encoding="utf-8") == files["report.md"]
    assert main([*argv, "--fairness", str(prices), "--overwrite"]) == 0
    text = Page((out / "report.html").read_text(encoding="utf-8")).text
    for rule in costs["rules"].values():
        for language in rule["languages"]:
            assert f"{language['premiums']['position']['estimate']:.2f}" in text
            assert language["name"] in text


def test_costs_of_languages_may_stand_alone(tmp_path, costs):
    path = tmp_path / "costs.json"
    path.write_text(json.dumps(costs))
    assert main(["evaluate", "report", "--fairness", str(path), "--out", str(tmp_path / "out")]) == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["report.html", "report.md"]


@pytest.mark.parametrize("content, argv, message", [
    (None, [], "nothing to report; give RESULTS, --fairness FILE or both"),
    ("{}", ["{file}"], "{file} holds no robustness results"),
    ("{}", ["--fairness", "{file}"], "{file} holds no costs of languages"),
    ('{"reference": "a", "sentences": 1, "rules": {"words": {}}}', ["--fairness", "{file}"],
     "{file} holds no costs of languages"),
    (None, ["--fairness", "{file}"], "cannot read {file}: No such file"),
])  # fmt: skip
def test_a_mistake_is_one_line(tmp_path, capsys, content, argv, message):
    file = tmp_path / "file.json"
    if content is not None:
        file.write_text(content)
    argv = [word.format(file=file) for word in argv]
    assert main(["evaluate", "report", *argv, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message.format(file=file) in error
    assert not (tmp_path / "out").exists()
