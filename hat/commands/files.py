"""Reading inputs and writing outputs whole, for commands that turn one file into another."""

from __future__ import annotations

import os
from pathlib import Path

from hat.errors import UserError


def read_input(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give a readable file") from None


def check_output(path: Path, force: bool, source: Path | None = None) -> None:
    """UserError where the output is there already, is the input, or its folder cannot be written
    to; before any work is done."""
    if source is not None and path.exists() and source.exists() and path.samefile(source):
        raise UserError(f"{path} is the input too; choose another --out")
    if path.is_dir():
        raise UserError(f"{path} is a folder; give a file as --out")
    if path.exists() and not force:
        raise UserError(f"{path} is there already; choose another --out, or --force to replace it")
    _check_parent(path)


def check_new_folder(path: Path) -> None:
    """UserError where the output folder is there already, or cannot be made."""
    if path.exists():
        raise UserError(f"{path} is there already; choose another --out")
    _check_parent(path)


def _check_parent(path: Path) -> None:
    parent = path.absolute().parent
    if not parent.is_dir():
        raise UserError(f"{parent} is no folder; make it, or choose another --out")
    if not os.access(parent, os.W_OK):
        raise UserError(f"{parent} cannot be written to; choose another --out")


def write_output(path: Path, content: bytes) -> None:
    """The whole file or none of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; choose another --out") from None
    finally:
        temporary.unlink(missing_ok=True)
