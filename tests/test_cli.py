from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import hat
from hat import cli
from hat.errors import UserError

ROOT = Path(__file__).resolve().parents[1]

# A config whose model counts parameters, and no more than that.
CONFIG = """\
import dataclasses

@dataclasses.dataclass(frozen=True)
class Model:
    size: int = 750
    def build(self):
        return self
    def parameter_counts(self):
        return {"encoder": 250, "backbone": self.size}
    def released_parameter_counts(self):
        return {"encoder": 250, "backbone": self.size, "dead weights": 1000}

@dataclasses.dataclass(frozen=True)
class Lora:
    rank: int | None = None

@dataclasses.dataclass(frozen=True)
class Training:
    lora: Lora = Lora()

@dataclasses.dataclass(frozen=True)
class Experiment:
    name: str = "tiny"
    model: Model = Model()
    training: Training = Training()

def config():
    return Experiment()
"""


@pytest.fixture
def config(tmp_path) -> str:
    path = tmp_path / "tiny.py"
    path.write_text(CONFIG)
    return str(path)


@pytest.fixture(autouse=True)
def same_environment(monkeypatch, tmp_path):
    """The command line sets defaults in the environment; no test sees another's."""
    environment = {**os.environ, "HAT_CACHE": str(tmp_path / "cache")}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    monkeypatch.setattr(os, "environ", environment)


def fake(monkeypatch, module: str, **functions) -> None:
    monkeypatch.setitem(sys.modules, module, types.SimpleNamespace(**functions))


def fails(capsys, *argv: str, status: int = 2) -> str:
    """The one line on standard error that `hat argv` ends with."""
    assert cli.main(argv) == status
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    return err


def python(code: str, *, stdout=subprocess.PIPE) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", code], env=environment, stdout=stdout,
                          stderr=subprocess.PIPE, text=True, timeout=60)


# --- what is imported -------------------------------------------------------------------------

HEAVY = {"jax", "flax", "optax", "orbax", "grain", "numpy", "matplotlib", "rich", "numba"}


def loaded_by(argv: list[str]) -> set[str]:
    result = python(
        "import sys, io, contextlib\nfrom hat.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        f"    try: main({argv})\n    except SystemExit: pass\n"
        "print(*sys.modules)"
    )
    assert result.stderr == ""
    return set(result.stdout.split())


def test_help_imports_no_command_and_nothing_heavy():
    loaded = loaded_by(["--help"])
    assert not loaded & HEAVY
    assert not [name for name in loaded if name.startswith("hat.commands")]


def test_a_command_imports_its_own_module_only(config):
    loaded = loaded_by(["params", config])
    assert not loaded & HEAVY
    assert {name for name in loaded if name.startswith("hat.commands.")} == {
        "hat.commands.params", "hat.commands.arguments"
    }


@pytest.mark.parametrize("name", [
    name for name, command in cli.COMMANDS.items()
    if (ROOT / (command.module.replace(".", "/") + ".py")).exists()
])
def test_the_help_of_every_command_is_light(name):
    assert not loaded_by([*name.split(), "--help"]) & HEAVY


# --- finding the command ----------------------------------------------------------------------


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_help_lists_every_command(argv, capsys):
    assert cli.main(argv) == 0
    out, err = capsys.readouterr()
    for name, command in cli.COMMANDS.items():
        assert f"\n  {name} " in out and command.help in out
    assert err == ""


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"hat {hat.__version__}\n"


def test_a_group_lists_its_members(capsys):
    assert cli.main(["evaluate"]) == 0
    out = capsys.readouterr().out
    assert "evaluate bits-per-byte" in out and "prepare" not in out


@pytest.mark.parametrize("argv, expected", [
    (["trian"], "hat has no command trian; did you mean train?"),
    (["xyzzy"], "choose from prepare, train"),
    (["evaluate", "bits-per-bite"], "did you mean bits-per-byte?"),
    (["bench", "nothing-like-it"], "hat bench has no command nothing-like-it"),
    (["params"], "the following arguments are required: CONFIG"),
    (["params", "c", "--sett", "a=1"], "unknown argument --sett, did you mean --set?"),
    (["params", "c", "d"], "unknown argument d"),
    (["params", "none.py"], "cannot read the config none.py"),
    (["generate", "r", "--prompt", "a", "--bytes", "0"], "'0' is not a whole number above 0"),
    (["generate", "r", "--prompt", "a", "--bytes", "x"], "'x' is not a whole number above 0"),
    (["bench", "generate", "--bytes", "1.5"], "'1.5' is not a whole number above 0"),
    (["generate", "r"], "no prompt; give --prompt TEXT"),
    (["generate", "r", "--prompts", "none.txt"], "--prompts none.txt: No such file"),
    (["generate", "r", "--prompt", "a", "--temperature", "-1"], "temperature -1.0 must be 0"),
    (["generate", "r", "--prompt", "a", "--top-p", "0"], "top_p 0.0 must be above 0"),
])
def test_a_mistake_is_one_line(argv, expected, capsys):
    message = fails(capsys, *argv)
    assert message.startswith("hat: error: ") and expected in message


def test_a_server_without_its_extra_names_the_repository(capsys, monkeypatch):
    """Not a package of the same name elsewhere."""
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "uvicorn is not installed; pip install -e '.[serve]'" in fails(capsys, "serve", "run")


def test_benchmarks_are_found_without_importing_them(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    (folder / "split.py").write_text(
        '"""How fast text is split."""\nraise SystemExit("ran")\ndef run(arguments): ...\n'
    )
    monkeypatch.setattr(hat, "__file__", str(tmp_path / "__init__.py"))
    assert cli.main(["bench"]) == 0
    assert "bench split  How fast text is split." in capsys.readouterr().out
    fake(monkeypatch, "hat.benchmarks.split", __doc__="",
         add_arguments=lambda parser: parser.add_argument("--megabytes", type=int),
         run=lambda arguments: {"megabytes": arguments.megabytes})
    assert cli.main(["bench", "split", "--megabytes", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"megabytes": 3}


# --- how a command ends -----------------------------------------------------------------------


def ending(monkeypatch, run) -> None:
    fake(monkeypatch, "hat.commands.train", __doc__="", add_arguments=lambda parser: None, run=run)


def raising(error: BaseException):
    def run(arguments):
        raise error
    return run


@pytest.mark.parametrize("error, line, status", [
    (UserError("the corpus is empty"), "hat: error: the corpus is empty\n", 2),
    (UserError("two\nlines"), "hat: error: two; lines\n", 2),
    (OSError(28, "No space left on device", "/full/file"),
     "hat: error: No space left on device: /full/file; make room or give access, then repeat\n", 2),
    (KeyboardInterrupt(), "hat: interrupted\n", 130),
])
def test_an_error_is_one_line_and_a_status(error, line, status, monkeypatch, capsys):
    ending(monkeypatch, raising(error))
    assert fails(capsys, "train", status=status) == line


@pytest.mark.parametrize("error", [ValueError("a bug"), FileNotFoundError(2, "a bug")])
def test_a_bug_is_a_traceback(error, monkeypatch):
    ending(monkeypatch, raising(error))
    with pytest.raises(type(error)):
        cli.main(["train"])


def test_json_is_all_that_standard_output_carries(monkeypatch, capsys):
    def run(arguments):
        print("a table for people")
        return {"loss": np.float32(0.5), "nan": float("nan"), "out": Path("runs/x"),
                "shape": (np.int64(2), 3), "text": "\udc80\n"}

    ending(monkeypatch, run)
    assert cli.main(["train", "--json"]) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 1 and err == "a table for people\n"
    assert json.loads(out, parse_constant=pytest.fail) == {
        "loss": 0.5, "nan": None, "out": "runs/x", "shape": [2, 3], "text": "\udc80\n"
    }
    assert cli.main(["train"]) == 0
    assert capsys.readouterr().out == "a table for people\n"


def test_a_closed_pipe_is_quiet():
    reader, writer = os.pipe()
    os.close(reader)
    code = "import sys; from hat.cli import main; sys.exit(main(['--help']))"
    result = python(code, stdout=writer)
    os.close(writer)
    assert (result.returncode, result.stderr) == (141, "")


def test_the_environment_keeps_the_users_own_settings(monkeypatch, config, tmp_path):
    cli.main(["params", config])
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(tmp_path / "cache" / "xla")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = "/mine"
    cli.main(["params", config])
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "/mine"


# --- the commands -----------------------------------------------------------------------------


def test_train_reads_the_config_and_the_out_folder(monkeypatch, config, capsys):
    calls = []
    fake(monkeypatch, "hat.inference.samples", sample_texts="sampler")
    fake(monkeypatch, "hat.commands.byte_teachers", ExactTeacher="teacher")
    fake(monkeypatch, "hat.dynamic_tokenization.objective",
         Dynamic=types.SimpleNamespace(open="dynamic"))
    fake(monkeypatch, "hat.training.loop",
         train=lambda *arguments: calls.append(arguments) or {"steps": 3})
    assert cli.main(["train", config, "--set", "model.size=1", "name=two", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"steps": 3}
    assert cli.main(["train", config, "--out", "elsewhere"]) == 0
    assert [(e.name, e.model.size, str(out), *others) for e, out, *others in calls] == [
        ("two", 1, "runs/two", "sampler", ("teacher", "dynamic")),
        ("tiny", 750, "elsewhere", "sampler", ("teacher", "dynamic")),
    ]


def test_params_prints_parts_shares_and_both_totals(config, capsys):
    assert cli.main(["params", config]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "tiny",
        "                   parameters   share  released layout   share",
        "encoder                   250   25.0%              250   12.5%",
        "backbone                  750   75.0%              750   37.5%",
        "dead weights                0    0.0%            1,000   50.0%",
        "total                   1,000  100.0%            2,000  100.0%",
    ]
    assert cli.main(["params", config, "--set", "model.size=250", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["total_parameters"], result["total_released_layout"]) == (500, 1500)
    assert result["parameters"] == {"encoder": 250, "backbone": 250}


def test_evaluate_prints_a_line_a_file_and_the_whole(monkeypatch, capsys):
    def bits_per_byte(run, files):
        scores = [{"path": str(f), "bits_per_byte": 2.0, "bytes": 1000} for f in files]
        return {"run": str(run), "files": scores, "bits_per_byte": 2.0, "bytes": 2000}

    fake(monkeypatch, "hat.inference.run", load_run=Path)
    fake(monkeypatch, "hat.inference.scoring", bits_per_byte=bits_per_byte)
    assert cli.main(["evaluate", "bits-per-byte", "runs/x", "a.txt", "b.txt"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "  2.0000 bits per byte         1,000 bytes  a.txt",
        "  2.0000 bits per byte         1,000 bytes  b.txt",
        "  2.0000 bits per byte         2,000 bytes  in all",
    ]


def generation(prompt: bytes, text: bytes) -> types.SimpleNamespace:
    return types.SimpleNamespace(prompt=prompt, text=text, logprob=-1.5, stopped=True)


def test_generate_passes_bytes_and_gives_bytes_back(monkeypatch, tmp_path, capsys):
    calls = []

    def generate(run, prompts, **settings):
        calls.append((run, prompts, settings))
        texts = [generation(p, b"\xff!") for p in prompts for _ in range(settings["samples"])]
        for index, text in enumerate(texts):
            settings["on_bytes"](index, text.text)
            settings["on_bytes"](index, None)
        return texts

    fake(monkeypatch, "hat.inference.run", load_run=Path)
    fake(monkeypatch, "hat.inference.generation", generate=generate)
    prompts = tmp_path / "prompts.txt"
    prompts.write_bytes(b"two\n\xc0three\n")
    argv = ["generate", "runs/x", "--prompt", "é\udcff", "--prompts", str(prompts), "-n", "2",
            "--bytes", "9", "--top-k", "5", "--top-p", "0.9", "--temperature", "0", "--seed", "4"]
    assert cli.main([*argv, "--json"]) == 0
    expected = [b"\xc3\xa9\xff", b"two", b"\xc0three"]
    (run, asked, given), = calls
    assert (run, asked) == (Path("runs/x"), expected)
    wanted = {"num_bytes": 9, "samples": 2, "temperature": 0.0, "top_k": 5, "top_p": 0.9, "seed": 4}
    assert given.items() >= wanted.items()
    samples = json.loads(capsys.readouterr().out)["samples"]
    assert [bytes.fromhex(s["prompt_hex"] + s["text_hex"]) for s in samples] == [
        prompt + b"\xff!" for prompt in expected for _ in range(2)
    ]
    assert {(s["nats"], s["ended"]) for s in samples} == {(1.5, True)}
    assert cli.main(argv) == 0
    assert "\ufffdthree\ufffd!\n" in capsys.readouterr().out


def test_an_empty_prompt_starts_from_nothing(monkeypatch, capsys):
    fake(monkeypatch, "hat.inference.run", load_run=Path)
    fake(monkeypatch, "hat.inference.generation",
         generate=lambda run, prompts, **_: [generation(p, b"x") for p in prompts])
    assert cli.main(["generate", "runs/x", "--prompt", ""]) == 0


def test_texts_are_shown_in_their_order_each_as_it_comes(capsys):
    from hat.commands.generate import InOrder

    printer = InOrder([b"a", b"b"])
    printer.take(1, "\u00e9".encode())
    assert capsys.readouterr().out == ""  # not its turn
    printer.take(0, "\u4e16".encode()[:2])
    assert capsys.readouterr().out == "a"  # the prompt; half a character waits
    printer.take(0, "\u4e16".encode()[2:])
    assert capsys.readouterr().out == "\u4e16"
    printer.take(0, b"\xff")
    printer.take(0, None)
    line = "\n" + "-" * 80 + "\n"
    assert capsys.readouterr().out == "\ufffd" + line + "b\u00e9"
    printer.take(1, None)
    assert capsys.readouterr().out == line
