"""Run descriptions: read, changed, refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hat.errors import UserError
from hat.launching.description import Launch, Slurm, Tpu, read

MINIMAL = 'name = "a"\nconfig = "c.py"\nout = "runs"\n'
EXAMPLE = Path(__file__).resolve().parents[2] / "launch" / "example.toml"


def read_text(folder: Path, text: str, *assignments: str) -> Launch:
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return read(path, assignments)


def test_toml_is_the_dataclass(tmp_path):
    text = (
        'name = "a"\nconfig = "c.py"\nout = "/shared"\nsets = ["training.seed=1"]\n'
        '[tpu]\ntopology = "v5e:4x4"\n[slurm]\nfolder = "/x"\n'
    )
    expected = Launch(
        name="a", config="c.py", out="/shared", sets=("training.seed=1",),
        tpu=Tpu("v5e:4x4"), slurm=Slurm(folder="/x"),
    )  # fmt: skip
    assert read_text(tmp_path, text) == expected
    assert read_text(tmp_path, text, "tpu.slices=2", "restarts=0").tpu.devices == 32


def test_a_python_file_is_read_too(tmp_path):
    path = tmp_path / "run.py"
    path.write_text(
        "from hat.launching.description import Launch\n"
        "def config():\n    return Launch(name='a', config='c.py', out='runs')\n"
    )
    assert read(path) == read_text(tmp_path, MINIMAL)
    path.write_text(
        "from hat.launching.description import Tpu\ndef config():\n    return Tpu('v5e:4x4')\n"
    )
    with pytest.raises(UserError, match="returned Tpu; return a hat.launching"):
        read(path)


def test_the_folder_of_a_run_follows_from_its_name():
    for out in ("gs://bucket/runs", "gs://bucket/runs/"):
        assert Launch(name="a", config="c.py", out=out).folder == "gs://bucket/runs/a"


def test_the_example_is_complete():
    launch = read(EXAMPLE)
    assert launch.tpu and launch.tpu_vm and launch.gke and launch.slurm


@pytest.mark.parametrize("text, message", [
    ("name = ", "Invalid value"),
    ('name = "a"\nout = "runs"', "Launch lacks the field config"),
    (MINIMAL + 'nmae = "b"', "has no field nmae; did you mean name?"),
    (MINIMAL + '[tpu]\ntopologie = "v5e:4x4"', "no field topologie; did you mean topology?"),
    (MINIMAL + "[tpu]\ntopology = 3", "tpu.topology is 3, expected str"),
    (MINIMAL + '[tpu]\ntopology = "v5p:8x8x9"', "tpu: topology 'v5p:8x8x9' does not exist"),
    (MINIMAL + '[tpu]\ntopology = "v5e:4x4"\nkind = "x"', "a Tpu has no field kind"),
    (MINIMAL + '[tpu]\ntopology = "v5e:4x4"\nslices = 0', "slices=0: it must be at least 1"),
    (MINIMAL + '[tpu]\ntopology = "v5e:4x4"\n[gpu]\nnodes = 1', "tpu and gpu are both given"),
    (MINIMAL + '[gpu]\nnodes = 1\nmodel = "h1000"', "expected one of a100"),
    (MINIMAL + "tpu = 4", "tpu is 4, expected Tpu or none"),
    (MINIMAL + "restarts = -1", "restarts=-1"),
    (MINIMAL + 'sets = ["training.seed"]', "write it as field=value"),
    (MINIMAL + 'sets = "training.seed=1"', "sets is 'training.seed=1', expected tuple[str, ...]"),
    (MINIMAL + 'sets = ["--out=x=1"]', "begins with -"),
    (MINIMAL + 'environment = ["A B=1"]', "write it as NAME=value"),
    (MINIMAL + 'environment = ["HAT_PROCESS_ID=1"]', "is set by the launcher"),
    (MINIMAL + 'environment = ["A=1\\n2"]', "control character"),
    (MINIMAL + '[slurm]\nfolder = "/x"\ntime = "1 day"', "time='1 day': it must be minutes"),
    (MINIMAL + '[slurm]\nfolder = "hat"', "an absolute path"),
    (MINIMAL + '[slurm]\nfolder = "/x"\npartition = "a b"', "partition='a b'"),
    (MINIMAL.replace('"runs"', '"s3://bucket"'), "out='s3://bucket': it must be"),
    (MINIMAL.replace('"a"', '"Name"'), "lower-case letters"),
])
def test_a_mistake_is_one_line_that_names_the_file(tmp_path, text, message):
    with pytest.raises(UserError) as error:
        read_text(tmp_path, text)
    assert message in str(error.value) and "run.toml" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name, message", [
    ("none.toml", "cannot read the run description"), ("run.yaml", "is a .toml or a .py file"),
])
def test_another_file_is_one_line(tmp_path, name, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path / name)


def test_a_missing_section_says_what_it_needs():
    launch = Launch(name="a", config="c.py", out="runs")
    with pytest.raises(UserError, match="no \\[slurm\\], which hat launch x needs; .* folder"):
        launch.section("slurm", "x")


# Nothing that a shell, a service or a path reads as more than a name.
SAFE = set("abcdefghijklmnopqrstuvwxyz0123456789-")


@given(st.one_of(st.text(max_size=45), st.text(alphabet=sorted(SAFE) + ["\n", "$"], max_size=45)))
def test_a_name_is_refused_or_safe(name):
    try:
        launch = Launch(name=name, config="c.py", out="runs")
    except UserError:
        return
    assert set(launch.name) <= SAFE and launch.name[0].isalpha() and len(launch.name) <= 40


@given(st.text(max_size=20))
def test_a_folder_is_refused_or_one_word(text):
    for field in ({"out": text}, {"out": f"gs://{text}"}):
        try:
            launch = Launch(name="a", config="c.py", **field)
        except UserError:
            continue
        assert not set(launch.out) & set(" \t\n'\"\\$`;&|<>()*?[]{}!#~%")
        assert not launch.out.startswith("-")
