"""The Beam pipeline writes the bytes that the processes of one machine write."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hat.data import sharded
from hat.data.corpus import Sharding
from hat.data.prepare import prepare
from hat.errors import UserError
from tests.data.sharded import config, contents, identities, write_source

pytest.importorskip(
    "apache_beam",
    reason="apache-beam needs older pyarrow, protobuf and pillow than constraints.txt has: install "
    "the extra [beam] in an environment of its own",
)

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def source(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(sharded, "INPUT_BYTES", 1)  # every file is an input
    return write_source(tmp_path / "source")


def on_beam(*options: str):
    from hat.data.beam_runner import BeamRunner

    return BeamRunner(options)


@pytest.mark.parametrize("deduplicate", [False, True])
@pytest.mark.parametrize("fields", [{}, {"tokenizer": None, "row_words": 40, "splitter": "words"}],
                         ids=["bytes", "words"])  # fmt: skip
def test_same_bytes_as_one_process(source, tmp_path, deduplicate, fields):
    sharding = Sharding(40, deduplicate)  # some shards have no document
    told = []
    alone = prepare(config(source, **fields), tmp_path / "alone", sharding=sharding)
    beam = prepare(config(source, **fields), tmp_path / "beam", warn=told.append,
                   sharding=sharding, runner=on_beam())  # fmt: skip
    assert contents(alone.folder) == contents(beam.folder)
    assert len(told) == 1 and told[0].startswith("skipped 1.jsonl:21: not JSON")


def test_trained_tokenizer_on_several_processes(source, tmp_path):
    made, sharding = config(source, tokenizer="bpe:280"), Sharding(3, True)
    alone = prepare(made, tmp_path / "alone", sharding=sharding)
    runner = on_beam("--direct_num_workers=2", "--direct_running_mode=multi_processing")
    beam = prepare(made, tmp_path / "beam", sharding=sharding, runner=runner)
    assert contents(alone.folder) == contents(beam.folder)


SCRIPT = """
import sys, time
from hat.data import beam_runner, sharded
from hat.data.corpus import Sharding
from hat.data.prepare import prepare
from tests.data.sharded import config

pack, count = beam_runner.pack, 0

def slowly(*arguments):
    global count
    if count == 3:
        print("three", flush=True)
        time.sleep(1e9)
    count += 1
    pack(*arguments)

beam_runner.pack = slowly
sharded.INPUT_BYTES = 1
prepare(config(sys.argv[1]), sys.argv[2], sharding=Sharding(12), runner=beam_runner.BeamRunner())
"""


def test_killed_pipeline_goes_on(source, tmp_path):
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, source, out], cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "three\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    (partial,) = tmp_path.glob(".out.partial-*")
    done = identities(partial / "corpus")
    assert len(list((partial / "work").glob("shard-*.json"))) == 3 and len(done) >= 3
    corpus = prepare(config(source), out, sharding=Sharding(12), runner=on_beam())
    assert {name: identities(corpus.folder)[name] for name in done} == done
    clean = prepare(config(source), tmp_path / "clean", sharding=Sharding(12))
    assert contents(corpus.folder) == contents(clean.folder)


def test_errors(source, tmp_path):
    wide = config(source, tokenizer=None, splitter="words", row_length=6, row_words=6)
    with pytest.raises(UserError, match=r"^\d.jsonl:\d+: the word of .* set the row length to \d+"):
        prepare(wide, tmp_path / "out", sharding=Sharding(1), runner=on_beam())
    with pytest.raises(UserError, match=r"^1.jsonl:21: not JSON: .*remove this line\)$"):
        prepare(config(source, strict=True), tmp_path / "out", sharding=Sharding(1),
                runner=on_beam())  # fmt: skip
    for options in (["--no_such_option=1"], ["--direct_num_workers=x"]):
        with pytest.raises(UserError, match="Beam (knows no option|refuses these options)"):
            on_beam(*options)
