"""Batch i is a function of (seed, i) alone, whatever the number of processes."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from hat.data.config import DataConfig
from hat.data.loader import Loader
from hat.data.mixture import Mixture
from hat.data.prepare import prepare
from hat.errors import UserError


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Mixture:
    folder = tmp_path_factory.mktemp("loader")
    (folder / "a.txt").write_text("".join(f"line number {i}\n" for i in range(400)))
    config = DataConfig(source=str(folder / "a.txt"), tokenizer="bytes", row_length=64)
    return Mixture.of(prepare(config, folder / "out"))


def test_every_epoch_is_another_permutation(corpus):
    rows = corpus.num_rows("train")
    loader = Loader(corpus, batch_size=1, seed=3)
    epochs = [
        [int(loader.row_indices(e * rows + i)[0]) for i in range(rows)] for e in range(3)
    ]
    for epoch in epochs:
        assert sorted(epoch) == list(range(rows))
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    assert epochs[0] != list(range(rows))


def test_batches_run_across_epochs(corpus):
    """No row is dropped at the end of an epoch whose rows are no multiple of the batch."""
    rows = corpus.num_rows("train")
    size = 7
    assert rows % size
    single = Loader(corpus, 1, seed=0)
    loader = Loader(corpus, size, seed=0)
    found = np.concatenate([loader.row_indices(i) for i in range(2 * rows // size)])
    assert found.tolist() == [int(single.row_indices(i)[0]) for i in range(len(found))]


def test_pure_function_of_seed_and_index(corpus):
    first, second = Loader(corpus, 8, seed=5), Loader(corpus, 8, seed=5)
    wanted = [first.row_indices(i).tolist() for i in range(20)]
    order = np.random.default_rng(0).permutation(20)
    assert [second.row_indices(int(i)).tolist() for i in order] == [wanted[i] for i in order]
    assert Loader(corpus, 8, seed=6).row_indices(0).tolist() != wanted[0]


def test_order_is_the_same_for_ever(corpus):
    """A run that resumes under another version of the library must go on where it was."""
    assert corpus.num_rows("train") == 96
    found = Loader(corpus, 8, seed=1).row_indices(100)
    assert found.tolist() == [91, 49, 30, 44, 59, 56, 70, 80]


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_slice_the_same_global_batch(corpus, processes):
    whole = Loader(corpus, 8, seed=2)
    parts = [
        Loader(corpus, 8, 2, process_index=p, process_count=processes) for p in range(processes)
    ]
    for index in (0, 1, 50):
        found = [part.batch(index) for part in parts]
        for name, wanted in whole.batch(index).items():
            assert found[0][name].shape[0] == 8 // processes
            assert (np.concatenate([batch[name] for batch in found]) == wanted).all()


def test_iterate_resumes_anywhere(corpus):
    loader = Loader(corpus, 4, seed=0)
    for start in (0, 17):
        iterator = loader.iterate(start)
        for index in range(start, start + 6):
            assert (next(iterator)["tokens"] == loader.batch(index)["tokens"]).all()
        iterator.close()
    assert loader.wait_seconds > 0


def loader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "hat-loader"]


def test_closing_stops_the_thread(corpus):
    iterator = Loader(corpus, 4, seed=0).iterate(0)
    next(iterator)
    assert loader_threads()
    iterator.close()
    assert not loader_threads()


def test_reads_ahead_but_not_without_bound(corpus, monkeypatch):
    loader = Loader(corpus, 4, seed=0)
    asked = []
    real = loader.batch
    monkeypatch.setattr(loader, "batch", lambda index: asked.append(index) or real(index))
    iterator = loader.iterate(0)
    next(iterator)
    deadline = time.monotonic() + 10
    while len(asked) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    assert asked == [0, 1, 2, 3]  # one given, two in the queue, one in the hand of the thread
    iterator.close()


def test_errors_reach_the_consumer(corpus, monkeypatch):
    loader = Loader(corpus, 4, seed=0)
    real = loader.batch

    def batch(index: int):
        if index == 3:
            raise UserError("row 7 is damaged")
        return real(index)

    monkeypatch.setattr(loader, "batch", batch)
    iterator = loader.iterate(1)
    next(iterator), next(iterator)
    with pytest.raises(UserError, match="row 7 is damaged"):
        next(iterator)
    assert not loader_threads()


def test_refusals(corpus):
    with pytest.raises(UserError, match="the split validation is empty"):
        Loader(corpus, 4, 0, split="validation")
    with pytest.raises(UserError, match="batch_size is 6: give a positive multiple of the 4"):
        Loader(corpus, 6, 0, process_count=4)
    with pytest.raises(UserError, match="batch_size is 0"):
        Loader(corpus, 0, 0)
    with pytest.raises(UserError, match="seed is -1"):
        Loader(corpus, 4, -1)
