"""Several corpora in one run: each row in its turn, each corpus in its share."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hat.data.config import DataConfig, SourceConfig
from hat.data.loader import Loader
from hat.data.mixture import Mixture, prepare_mixture
from hat.data.prepare import prepare
from hat.errors import UserError

LINES = {"code": 90, "prose": 40, "notes": 25}
COMMON = dict(tokenizer="bytes", row_length=32, heldout_fraction=0.2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("mixture")
    for name, lines in LINES.items():
        (folder / f"{name}.txt").write_text("".join(f"{name} {i}\n" for i in range(lines)))
    return folder


@pytest.fixture(autouse=True)
def cache(folder, monkeypatch):
    monkeypatch.setenv("HAT_CACHE", str(folder / "cache"))


def sources(folder, weights=(3.0, 1.0, 0.5), changes=((), (), ())) -> tuple[SourceConfig, ...]:
    return tuple(
        SourceConfig(name=name, source=str(folder / f"{name}.txt"), weight=weight,
                     weight_changes=tuple(change))
        for name, weight, change in zip(LINES, weights, changes)
    )  # fmt: skip


@pytest.fixture(scope="module")
def mixture(folder) -> Mixture:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HAT_CACHE", str(folder / "cache"))
        return prepare_mixture(DataConfig(**COMMON, mixture=sources(folder)))


def weighted(mixture: Mixture, *phases) -> Mixture:
    return dataclasses.replace(mixture, source_phases=phases)


def read(mixture: Mixture, loader: Loader, steps: int) -> list[list[int]]:
    """For every source, the rows that the first steps read of it, in their order."""
    firsts = [mixture.first_row("train", 0, s) for s in range(len(LINES))]
    found = [[] for _ in LINES]
    for step in range(steps):
        for number in loader.row_indices(step).tolist():
            source = int(np.searchsorted(firsts, number, "right")) - 1
            found[source].append(number - firsts[source])
    return found


def test_every_row_once_in_every_epoch_of_its_corpus(mixture):
    loader = Loader(mixture, 4, seed=3)
    for corpus, rows in zip(mixture.corpora[0], read(mixture, loader, 150)):
        count = corpus.num_rows("train")
        epochs = [rows[i : i + count] for i in range(0, len(rows) - count + 1, count)]
        assert len(epochs) >= 2
        for epoch in epochs:
            assert sorted(epoch) == list(range(count))
        assert epochs[0] != epochs[1]


def test_rows_are_those_of_their_corpora(mixture):
    """By the words that only one source has."""
    loader = Loader(mixture, 9, seed=0)
    numbers, tokens = loader.row_indices(2), loader.batch(2)["tokens"]
    ends = [mixture.first_row("train", 0, s) for s in range(1, len(LINES))]
    assert len(numbers) == len(tokens) == 9
    seen = set()
    for number, row in zip(numbers.tolist(), tokens):
        name = list(LINES)[int(np.searchsorted(ends, number, "right"))]
        seen.add(name)
        text = bytes(int(t) for t in row if t < 256).decode()
        others = [other for other in LINES if other != name]
        assert not any(other in text for other in others)
    assert seen == set(LINES)


@settings(max_examples=25, deadline=None)
@given(weights=st.lists(st.integers(0, 9), min_size=3, max_size=3).filter(any),
       batch=st.sampled_from([1, 3, 8]))
def test_shares_of_rows_at_every_step(mixture, weights, batch):
    loader = Loader(weighted(mixture, (0, tuple(weights))), batch, seed=1)
    for steps in (1, 2, 7, 20):
        for rows, weight in zip(read(mixture, loader, steps), weights):
            assert abs(len(rows) - Fraction(steps * batch * weight, sum(weights))) < 1


@settings(max_examples=25, deadline=None)
@given(change=st.integers(1, 15), weights=st.lists(st.integers(0, 9), min_size=3, max_size=3))
def test_a_change_at_a_step_leaves_the_steps_before(mixture, change, weights):
    if not any(weights):
        return
    before = ((0, (3.0, 1.0, 0.5)),)
    old = Loader(weighted(mixture, *before), 4, seed=1)
    new = Loader(weighted(mixture, *before, (change, tuple(weights))), 4, seed=1)
    for step in range(change):
        assert (old.row_indices(step) == new.row_indices(step)).all()
    changed = [len(rows) for rows in read(mixture, new, change + 20)]
    kept = [len(rows) for rows in read(mixture, new, change)]
    for total, first, weight in zip(changed, kept, weights):
        assert abs(total - first - Fraction(80 * weight, sum(weights))) < 1


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_slice_the_same_global_batch(mixture, processes):
    whole = Loader(mixture, 8, seed=2)
    parts = [Loader(mixture, 8, 2, "train", p, processes) for p in range(processes)]
    for index in (0, 1, 50):
        found = [part.batch(index)["tokens"] for part in parts]
        assert (np.concatenate(found) == whole.batch(index)["tokens"]).all()


@settings(max_examples=10, deadline=None)
@given(start=st.integers(0, 60))
def test_resuming_anywhere_equals_going_through(mixture, start):
    changing = weighted(mixture, (0, (1.0, 1.0, 0.0)), (30, (1.0, 0.0, 5.0)))
    through = Loader(changing, 4, seed=0)
    wanted = [through.batch(step)["tokens"] for step in range(start + 3)][start:]
    iterator = Loader(changing, 4, seed=0).iterate(start)
    for batch in wanted:
        assert (next(iterator)["tokens"] == batch).all()
    iterator.close()


def test_a_mixture_of_one_reads_as_its_corpus(mixture, folder):
    """So runs that are older than mixtures go on as they were."""
    alone = prepare_mixture(DataConfig(**COMMON, source=str(folder / "code.txt")))
    assert alone.fingerprint == alone.corpora[0][0].info.fingerprint
    loader = Loader(alone, 4, seed=5)
    of = Loader(Mixture.of(mixture.corpora[0][0]), 4, seed=5)
    assert all((loader.row_indices(i) == of.row_indices(i)).all() for i in range(40))
    assert alone.describe() == [] and len(mixture.describe()) == 3
    assert "code, rows of 32 ids" in mixture.describe()[0]


def test_evaluated_by_source(mixture, folder):
    assert list(mixture.evaluated("heldout")) == list(LINES)
    assert mixture.evaluated("validation") == {}
    rows = [corpus.num_rows("heldout") for corpus in mixture.evaluated("heldout").values()]
    assert mixture.num_rows("heldout") == sum(rows) > 0


def test_other_weights_are_no_other_corpus_but_other_sources_are(folder):
    def fingerprint(parts):
        return prepare_mixture(DataConfig(**COMMON, mixture=parts)).fingerprint

    parts = sources(folder)
    assert fingerprint(parts) == fingerprint(sources(folder, weights=(1.0, 1.0, 1.0)))
    assert fingerprint(parts) != fingerprint(parts[:2])


def test_a_prepared_corpus_of_another_shape_is_refused(folder, tmp_path):
    longer = DataConfig(**COMMON | {"row_length": 64}, source=str(folder / "code.txt"))
    prepare(longer, tmp_path / "c")
    part = SourceConfig(name="prepared", source=str(tmp_path / "c"))
    with pytest.raises(UserError, match="row_length is 64 there and 32 in the config") as error:
        prepare_mixture(DataConfig(**COMMON, mixture=(*sources(folder), part)))
    assert "\n" not in str(error.value)


def test_a_prepared_corpus_of_another_splitter_is_refused(folder, tmp_path):
    common = COMMON | {"tokenizer": None, "row_words": 16}
    other = DataConfig(**common, splitter="spaces", source=str(folder / "code.txt"))
    prepare(other, tmp_path / "c")
    part = SourceConfig(name="prepared", source=str(tmp_path / "c"))
    with pytest.raises(UserError, match="splitter is 'spaces-1' there and 'words"):
        prepare_mixture(DataConfig(**common, mixture=(part,)))


def test_a_source_that_is_not_there_is_named(folder):
    part = SourceConfig(name="lost", source=str(folder / "lost.txt"))
    with pytest.raises(UserError, match="lost.txt") as error:
        prepare_mixture(DataConfig(**COMMON, mixture=(*sources(folder), part)))
    assert "\n" not in str(error.value)


def test_a_corpus_without_training_rows_is_refused_only_where_it_is_read(folder, tmp_path):
    (tmp_path / "one.txt").write_text("word\n")
    config = DataConfig(**COMMON | {"heldout_fraction": 0.99}, mixture=(
        SourceConfig(name="code", source=str(folder / "code.txt")),
        SourceConfig(name="one", source=str(tmp_path / "one.txt")),
    ))  # fmt: skip
    mixture = prepare_mixture(config)
    assert mixture.corpora[0][1].num_rows("train") == 0
    with pytest.raises(UserError, match="the split train is empty"):
        Loader(mixture, 2, seed=0)
    Loader(weighted(mixture, (0, (1.0, 0.0))), 2, seed=0).batch(3)


def part(**fields) -> SourceConfig:
    return SourceConfig(**{"name": "a", "source": "stdlib"} | fields)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: part(weight=-1.0), "weight -1.0: give 0"),
        (lambda: part(weight=float("nan")), "weight nan: give 0"),
        (lambda: part(weight_changes=((5, -2.0),)), "weight -2.0: give 0"),
        (lambda: part(weight_changes=((5, 1.0), (5, 2.0))), "give steps above 0 that rise"),
        (lambda: part(weight_changes=((0, 1.0),)), "give steps above 0 that rise"),
        (lambda: part(name=""), "both are needed"),
        (lambda: DataConfig(mixture=(part(weight=0.0),)), "every weight is 0 from step 0 on"),
        (
            lambda: DataConfig(mixture=(part(weight_changes=((9, 0.0),)),)),
            "data.mixture: every weight is 0 from step 9 on",
        ),
        (lambda: DataConfig(mixture=(part(), part())), "the name 'a' stands twice"),
        (lambda: DataConfig(mixture=(part(weight=1 / 3), part(name="b"))), "round them"),
        (lambda: DataConfig(mixture=(part(),), tokenizer="bpe:300"), "hat prepare"),
    ],
)  # fmt: skip
def test_invalid_configs(make, message):
    with pytest.raises(UserError, match=message) as error:
        make()
    assert "\n" not in str(error.value)
