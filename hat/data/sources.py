"""Where documents come from: the standard library, a file or a folder.

A text file is one document; JSONL, Parquet and ArrayRecord files hold one per line, row or record.
Conversations and preference pairs are lines of JSONL (hat.data.conversations). A folder is read
recursively in the order of its relative paths, and what is not text in it is skipped and counted.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import hashlib
import os
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from hat.data import readers
from hat.data.conversations import DOCUMENTS
from hat.data.readers import BadLine, DamagedFile
from hat.errors import UserError

TEST_FOLDERS = {"test", "tests", "idle_test"}  # of the standard library
NOT_LIBRARY = {"site-packages", "dist-packages", "__pycache__"}
BINARY_SUFFIXES = frozenset(
    ".7z .a .avi .bin .bmp .bz2 .class .dll .doc .docx .dylib .exe .flac .gif .ico .jar .jpeg "
    ".jpg .lzma .mkv .mov .mp3 .mp4 .npy .npz .o .ogg .otf .pdf .pickle .pkl .png .ppt .pptx .pt "
    ".pyc .rar .safetensors .so .sqlite .tar .tgz .tif .tiff .ttf .wasm .wav .webm .webp .whl "
    ".woff .woff2 .xls .xlsx .xz .zip".split()
)
RECORD_KINDS = ("jsonl", "parquet", "arrayrecord")  # files of many documents
SHOWN_BAD_LINES = 5


@dataclasses.dataclass(frozen=True)
class Document:
    """The bytes of a document, and where it stands: line 0 is a whole file."""

    data: bytes
    file: str
    line: int = 0

    @property
    def name(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclasses.dataclass(frozen=True)
class SourceFile:
    name: str  # relative to the source, with "/"
    path: Path
    size: int
    sha256: str


class Skipped:
    """Counts what is not a document, by reason, and tells of the first few lines."""

    def __init__(self, warn: Callable[[str], None] | None = None, strict: bool = False):
        """warn: called with one line of text. strict: a bad line is a UserError."""
        self.counts: collections.Counter[str] = collections.Counter()
        self._warn = warn or (lambda text: None)
        self._strict = strict
        self._shown = 0

    def file(self, reason: str) -> None:
        self.counts[reason] += 1

    def line(self, file: str, bad: BadLine) -> None:
        if self._strict:
            raise UserError(f"{file}:{bad.line}: {bad.reason} (strict: mend or remove this line)")
        self.counts[bad.kind] += 1
        self._tell(f"skipped {file}:{bad.line}: {bad.reason}")

    def merge(self, counts: Mapping[str, int], told: Iterable[str]) -> None:
        """Adds what another one counted, and what it told its `warn`."""
        self.counts.update(counts)
        for text in told:
            self._tell(text)

    def _tell(self, text: str) -> None:
        self._shown += 1
        if self._shown <= SHOWN_BAD_LINES:
            self._warn(text)
        elif self._shown == SHOWN_BAD_LINES + 1:
            self._warn("more lines are skipped; the corpus tells how many")


class Source:
    """The files of a source, and the documents in them, in a fixed order."""

    def __init__(self, location: str, text_field: str = "text", format: str = "text"):
        """text_field, format: as in DataConfig. UserError where there is nothing to read."""
        self._text_field, self._format = text_field, format
        self.skipped: collections.Counter[str] = collections.Counter()  # files, by reason
        if location == "stdlib" and format != "text":
            raise UserError(
                f"data.format is {format!r}, and data.source is the standard library, which holds "
                "none: set data.source to a .jsonl file"
            )
        if location == "stdlib":
            root = Path(sysconfig.get_paths()["stdlib"])
            paths = _library_files(root)
        else:
            root = Path(location).expanduser()
            paths = self._user_files(root)
        with concurrent.futures.ThreadPoolExecutor() as pool:  # hashing is without Python's lock
            files = list(pool.map(lambda path: _describe(path, root), paths))
        self.files = sorted(files, key=lambda file: file.name)
        if not self.files:
            told = "".join(f"; {count} {why}" for why, count in sorted(self.skipped.items()))
            raise UserError(f"{root}: no text in this folder{told}")

    def documents(self, skipped: Skipped) -> Iterator[Document]:
        """All documents, as `read_documents`; what is left out is counted in `skipped`."""
        skipped.merge(self.skipped, ())
        yield from read_documents(self.files, self._text_field, skipped, self._format)

    def _user_files(self, root: Path) -> list[Path]:
        if not root.exists():
            raise UserError(f'{root}: no such file or folder: set data.source to text or "stdlib"')
        if root.is_file():
            if why := _not_text(root, self._format):
                raise UserError(f"{root}: not {self._format}: {why}")
            if not root.stat().st_size:
                raise UserError(f"{root}: the file is empty")
            return [root]
        if not root.is_dir():
            raise UserError(f"{root}: neither a file nor a folder; write what it gives to a file")
        found = []
        for folder, folders, names in os.walk(root):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in names:
                path = Path(folder, name)
                if name.startswith("."):
                    self.skipped["hidden files"] += 1
                elif not path.is_file():
                    self.skipped["special files"] += 1
                elif why := _not_text(path, self._format):
                    self.skipped[f"files with {why}"] += 1
                else:
                    found.append(path)
        return found


def read_documents(
    files: Iterable[SourceFile], text_field: str, skipped: Skipped, format: str = "text"
) -> Iterator[Document]:
    """The documents of these files that are not empty. UserError for a file that breaks off or is
    not what its suffix says; what is left out is counted in `skipped`."""
    for file in files:
        for item in _read(file, text_field, format):
            if isinstance(item, BadLine):
                skipped.line(file.name, item)
            elif item.data:
                yield item
            else:
                skipped.file("empty documents")


def _read(file: SourceFile, text_field: str, format: str) -> Iterator[Document | BadLine]:
    kind = _kind(file.path)
    try:
        if format != "text":
            items = readers.jsonl_documents(readers.chunks(file.path), DOCUMENTS[format])
        elif kind == "text":
            yield Document(b"".join(readers.chunks(file.path)), file.name)
            return
        elif kind == "parquet":
            items = readers.parquet_texts(file.path, text_field)
        elif kind == "arrayrecord":
            items = readers.array_record_texts(file.path)
        else:
            items = readers.jsonl_texts(readers.chunks(file.path), text_field)
        for number, item in enumerate(items, start=1):
            yield item if isinstance(item, BadLine) else Document(item, file.name, number)
    except DamagedFile as error:
        raise UserError(f"{file.path}: damaged or cut short ({error}): copy it again") from None
    except OSError as error:
        raise UserError(f"{file.path}: cannot be read: {error.strerror or error}") from None


def no_text(location: str, skipped: Skipped) -> UserError:
    """What to raise where a source has no document."""
    told = "".join(f"; {count} {why}" for why, count in sorted(skipped.counts.items()))
    return UserError(f"{location}: no document with text{told}")


def _library_files(root: Path) -> list[Path]:
    """The modules of the standard library, without its tests and what is installed beside it."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in TEST_FOLDERS | NOT_LIBRARY]
        found += [Path(folder, name) for name in names if name.endswith(".py")]
    return found


def _kind(path: Path) -> str:
    """ "text" or one of RECORD_KINDS, by the suffix under a .gz or .zst."""
    kind = _plain(path).suffix.lower()[1:]
    return kind if kind in RECORD_KINDS else "text"


def _plain(path: Path) -> Path:
    return path.with_suffix("") if path.suffix.lower() in readers.COMPRESSED else path


def _not_text(path: Path, format: str) -> str:
    """Why a file has nothing of this format, or nothing. What cannot be read is left for the
    reader to report."""
    if format != "text":
        return "" if _kind(path) == "jsonl" else "another suffix than .jsonl"
    if _plain(path).suffix.lower() in BINARY_SUFFIXES:
        return "a binary suffix"
    if _kind(path) == "text":
        try:
            if b"\0" in next(readers.chunks(path), b""):
                return "a NUL byte"
        except (DamagedFile, OSError):
            pass
    return ""


def _describe(path: Path, root: Path) -> SourceFile:
    name = path.name if path == root else path.relative_to(root).as_posix()
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return SourceFile(name, path, file.tell(), digest)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
