"""The walls between the packages (DESIGN section 3), read off the import statements."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Who may import whom, beside itself and what EVERYONE may. Imports inside functions count too.
EVERYONE = {"hat", "hat.errors", "hat.config"}
PACKAGES = {
    "hat.errors": set(),
    "hat.config": set(),
    "hat.text": set(),
    "hat.models": set(),
    "hat.data": {"hat.text"},
    "hat.training": {"hat.text", "hat.data", "hat.models"},
    "hat.planning": {"hat.models", "hat.data", "hat.training", "hat.dynamic_tokenization"},
    "hat.inference": {"hat.text", "hat.data", "hat.models", "hat.training"},
    "hat.serving": {"hat.text", "hat.inference"},
    "hat.conversion": {"hat.text", "hat.models"},
    "hat.byte_exact": {"hat.text", "hat.models", "hat.inference"},
    "hat.compression": {"hat.text", "hat.models", "hat.inference", "hat.byte_exact"},
    "hat.dynamic_tokenization": {
        "hat.text", "hat.models", "hat.data", "hat.training", "hat.inference",
    },
    "hat.evaluation": {"hat.text", "hat.data", "hat.models", "hat.inference"},
    "hat.launching": set(),
}
SEES_EVERYTHING = {
    "hat.commands", "hat.benchmarks", "hat.reproduce", "hat.cli", "hat.__main__", "hat",
}  # fmt: skip

# Libraries that a package must not import at all, and those it must import inside functions only.
JAX = {"jax", "jaxlib", "flax", "optax", "orbax"}
NEVER = {
    "hat.text": JAX,
    "hat.data": {"flax", "optax", "orbax"},
    "hat.cli": JAX | {"numpy"},
}
INSIDE_FUNCTIONS_ONLY = {
    "hat.data": {"grain", "array_record"},
    "hat.training": {"grain", "array_record", "matplotlib", "tensorboardX", "rich"},
    "hat.commands": JAX | {"numpy", "grain", "matplotlib", "starlette", "uvicorn"},
}
ONLY = {  # and nothing else, the standard library aside
    "hat.models": {"jax", "flax", "numpy", "hat"},
    "hat.errors": {"hat"},
    "hat.config": {"hat"},
    "hat.cli": {"hat"},
    "hat.launching": {"hat"},
}


def imports(path: Path) -> list[tuple[str, int, bool]]:
    """(module, line, whether at top level) of every import in the file `path`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef))
    inside = {id(node) for function in functions for node in ast.walk(function)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            # `from hat import text` imports hat.text, but `from hat import __version__` hat itself.
            names = [alias.name for alias in node.names if not alias.name.startswith("__")]
            modules = [f"hat.{name}" for name in names] if base == "hat" else [base]
        else:
            continue
        found += [(module, node.lineno, id(node) not in inside) for module in modules]
    return found


def package_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


def breaches(root: Path) -> list[str]:
    """Every import under root/hat that goes through a wall, as `file:line: what`."""
    found = []
    for path in sorted((root / "hat").rglob("*.py")):
        name = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        package = package_of(name)
        for module, line, at_top in imports(path):
            where = f"{path.relative_to(root)}:{line}"
            library = module.split(".")[0]
            if module.startswith("."):
                found.append(f"{where}: imports are absolute here")
                continue
            if library == "hat" and package not in SEES_EVERYTHING:
                allowed = {package} | EVERYONE | PACKAGES.get(package, set())
                if package_of(module) not in allowed:
                    found.append(f"{where}: {package} must not import {package_of(module)}")
            if library in NEVER.get(package, ()):
                found.append(f"{where}: {package} must not import {library}")
            if at_top and library in INSIDE_FUNCTIONS_ONLY.get(package, ()):
                found.append(f"{where}: {package} may import {library} inside functions only")
            if package in ONLY and library not in ONLY[package] | set(sys.stdlib_module_names):
                found.append(f"{where}: {package} must not import {library}")
            if library in ("pickle", "dill", "cloudpickle"):
                found.append(f"{where}: nothing is pickled here")
    return found


def test_nothing_goes_through_a_wall():
    assert breaches(ROOT) == []


def test_every_package_is_known():
    """A new package takes its place in the table above."""
    packages = {f"hat.{path.parent.name}" for path in (ROOT / "hat").glob("*/__init__.py")}
    assert packages <= set(PACKAGES) | SEES_EVERYTHING


def test_packages_form_no_circle():
    for package, imported in PACKAGES.items():
        seen, todo = set(), list(imported)
        while todo:
            other = todo.pop()
            if other not in seen:
                seen.add(other)
                todo += PACKAGES[other]
        assert package not in seen


@pytest.mark.parametrize("file, line, breach", [
    ("text/a.py", "import jax.numpy", "hat.text must not import jax"),
    ("text/a.py", "def f():\n    from hat.models.hat import Hat", "must not import hat.models"),
    ("text/a.py", "from hat import data", "hat.text must not import hat.data"),
    ("text/a.py", "from . import ids", "imports are absolute here"),
    ("models/a.py", "import scipy", "hat.models must not import scipy"),
    ("data/a.py", "import grain", "may import grain inside functions only"),
    ("commands/a.py", "from jax import numpy", "may import jax inside functions only"),
    ("training/a.py", "from hat.inference.memory import Memory", "must not import hat.inference"),
    ("training/a.py", "def f():\n    import pickle", "nothing is pickled here"),
    ("evaluation/a.py", "import hat.cli", "must not import hat.cli"),
])
def test_a_breach_is_found(tmp_path, file, line, breach):
    path = tmp_path / "hat" / file
    path.parent.mkdir(parents=True)
    path.write_text(line)
    assert len(breaches(tmp_path)) == 1 and breach in breaches(tmp_path)[0]


@pytest.mark.parametrize("file, line", [
    ("text/a.py", "from hat.text import ids\nfrom hat.errors import UserError\nimport numpy"),
    ("data/a.py", "def f():\n    import grain"),
    ("commands/a.py", "from hat.config import load\ndef f():\n    import hat.training.loop, jax"),
    ("training/a.py", "from hat.models import llama\nfrom hat import data\nimport jax"),
    ("training/a.py", "from hat import __version__"),
])
def test_what_is_allowed_passes(tmp_path, file, line):
    path = tmp_path / "hat" / file
    path.parent.mkdir(parents=True)
    path.write_text(line)
    assert breaches(tmp_path) == []
