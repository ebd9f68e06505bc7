"""The notebooks run from top to bottom, on models of a few thousand parameters.

All in one kernel, whose imports are most of the time; what one notebook defines is forgotten
before the next, and each takes up what those before left on disk, as a reader's would.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.distributed import processes
from tests.training import tiny

pytest.importorskip("ipykernel", reason="notebooks run in ipykernel, which is not installed")
import nbformat
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SECONDS = 300  # for one cell, on a machine that does other things too

# Of the Llama of notebook 03: so that the HAT of notebook 01 can take its blocks.
BACKBONE = ["model.stack.hidden_size=32", "model.stack.intermediate_size=64",
            "model.stack.qk_norm=true", "training.steps=5"]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Configs that notebooks can load, and where their runs go."""
    folder = tmp_path_factory.mktemp("notebooks")
    tiny.text(folder)
    for name in ("experiment", "llama", "one_layer"):
        (folder / f"{name}.py").write_text(
            "from pathlib import Path\n"
            "from tests.training import tiny\n"
            "def config():\n"
            f"    return tiny.{name}(Path({str(folder)!r}), 'training.samples.max_bytes=8',\n"
            "                       'training.log_every_steps=1')\n"
        )
    return folder


@pytest.fixture(scope="module")
def kernel(folder):
    environment = processes.environment(folder / "cache")
    manager = AsyncKernelManager()
    run_sync(manager.start_kernel)(env=environment, cwd=str(folder))
    yield manager
    run_sync(manager.shutdown_kernel)(now=True)


def execute(kernel, number: int, parameters: dict):
    """(what the cells of a notebook printed, how many pictures they showed)."""
    notebook = nbformat.read(NOTEBOOKS[number - 1], as_version=4)
    [cell] = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", ())]
    given = {line.split(" = ")[0] for line in cell.source.splitlines()}
    assert given == set(parameters)
    cell.source = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    notebook.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))
    NotebookClient(notebook, km=kernel, timeout=SECONDS).execute()
    outputs = [output for c in notebook.cells for output in c.get("outputs", ())]
    text = "".join(o["text"] for o in outputs if o.get("name") == "stdout")
    pictures = ("image/png", "image/svg+xml")
    return text, sum(any(kind in o.get("data", {}) for kind in pictures) for o in outputs)


@pytest.fixture(scope="module")
def trained(kernel, folder):
    """What notebook 01 said; its HAT is folder / "run". Each process of a test run has its
    own."""
    return execute(kernel, 1, {
        "CONFIG": str(folder / "experiment.py"),
        "CHANGES": ["training.steps=5"],
        "RUN": str(folder / "run"),
    })  # fmt: skip


@pytest.fixture(scope="module")
def converted(kernel, folder):
    """What notebook 03 said; its Llama is folder / "llama" / "llama"."""
    return execute(kernel, 3, {
        "LLAMA": None,
        "LLAMA_CONFIG": str(folder / "llama.py"),
        "LLAMA_CHANGES": BACKBONE,
        "CONFIG": str(folder / "experiment.py"),
        "CHANGES": ["training.steps=5"],
        "FOLDER": str(folder / "llama"),
    })  # fmt: skip


@pytest.fixture
def runs(folder, trained, converted) -> list[str]:
    """A HAT and a subword Llama."""
    return [str(folder / "run"), str(folder / "llama" / "llama")]


def test_01_train_a_hat(trained):
    text, pictures = trained
    assert "def |  area( | radius): |" in text
    assert "bits per byte of text that it never saw" in text
    assert "---" in text and r"\xff" in text and pictures == 1


def test_02_look_inside(kernel, folder, trained):
    text, pictures = execute(kernel, 2, {
        "RUN": str(folder / "run"), "TEXT": "def f(x):\n    return x + 1\n",
    })  # fmt: skip
    assert "27 bytes in 10 words" in text and "d      def            BOS" in text
    assert "with guides" in text and pictures == 2


def test_03_llama_to_bytes(converted):
    text, pictures = converted
    assert "parameters of the backbone are the Llama's own" in text
    assert "from the Llama" in text and "from nothing" in text and pictures == 1


def test_04_robustness(kernel, folder, runs):
    text, pictures = execute(kernel, 4, {
        "RUNS": runs,
        "SOURCE": str(folder / "text.txt"),
        "HELDOUT": 0.3,
        "ITEMS": 3,
        "NAMES": ["keyboard"],
        "RATES": ["0.4"],
        "FOLDER": str(folder / "robustness"),
    })  # fmt: skip
    assert "mean noise cost" in text and "run against llama, under noise" in text
    assert "keyboard at rate 0.4" in text and pictures == 1


def test_05_byte_exact(kernel, folder, runs):
    text, pictures = execute(kernel, 5, {
        "LLAMA": runs[1], "HAT": runs[0], "TEXT": "return x\n", "PROMPT": "  retu", "BYTES": 6,
    })  # fmt: skip
    by_token, by_byte = re.search(r"(\S+) bits per byte by token, (\S+) by byte", text).groups()
    # Ids that spell nothing end a text as well as EOT does, so that bytes are no less likely.
    assert 0 <= float(by_token) - float(by_byte) < 0.2
    assert "bits per byte  both" in text and pictures == 1


def test_06_equal_info(kernel, folder):
    spoken = "def f(x):\n    return x  # naïve\n"
    text, pictures = execute(kernel, 6, {
        "CONFIG": str(folder / "one_layer.py"),
        "CHANGES": ["training.steps=60"],
        "RUN": str(folder / "m1"),
        "BITS": 11,
        "TEXT": spoken,
        "BYTES": 200,
        "FOLDER": str(folder / "equal-info"),
    })  # fmt: skip
    # The published code reads both of its texts as one; with stop cells both come back.
    read = re.findall(r"^(\S+) +(\S+) +[01 ]+is read as (\S+)$", text, re.MULTILINE)
    assert read == [("paper", "ac", "aaac"), ("paper", "aaac", "aaac"),
                    ("stop-cell", "ac", "ac"), ("stop-cell", "aaac", "aaac")]  # fmt: skip
    assert "2,048 strings" in text
    shown = re.findall(r"^([01]{11}) +(\S+) bits  (b'.*')$", text, re.MULTILINE)
    codes, bits, windows = zip(*((code, float(its), ast.literal_eval(window))
                                 for code, its, window in shown))  # fmt: skip
    assert b"".join(windows) == spoken.encode() and max(map(len, windows)) > 1
    assert len(set(zip(codes, windows))) == len(set(codes)) == len(set(windows))
    assert min(bits) > 0 and f"{len(spoken.encode())} bytes in {len(codes)} tokens" in text
    assert "bytes a token, windows" in text and pictures == 1


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_what_it_printed(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
            assert max(map(len, cell.source.splitlines())) <= 100
