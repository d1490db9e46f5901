"""Read a corpus from files: those a person named, or the interpreter's standard library.

The standard library is real text that every machine with Python has, so a run needs no download. Its text differs
between versions of Python; only the machine that makes the run reads it, all others fetch the run's chunks.
"""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from interlock.vault.identity import HEADER

from ..corpus import SIZE_BYTES_MAX, Document, documents, is_text, too_large
from ..errors import Misused

# Tests repeat themselves and hold deliberate rubbish; installed packages differ between machines.
_NOT_LIBRARY = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


@dataclass(frozen=True, slots=True)
class Collected:
    """Documents, and how many files were passed over because they are empty or not text."""

    documents: list[Document]
    skipped: int


def collect(paths: Sequence[Path]) -> Collected:
    """Read the named files, and all files below the named folders except hidden ones.

    A file is named by its path below its folder's parent (`texts/a.txt` for `--data /home/me/texts`), so that a
    copy of the folder elsewhere is split in the same way. Links to folders are not followed.

    Raises:
        Misused: E603, a line of a .jsonl file is no document; E606, more than 64 MiB; E607, a path cannot be read;
            E608, a file is a key.
    """
    return _read((name, path) for given in paths for name, path in _named(given))


def standard_library() -> Collected:
    """Read the standard library's Python files, without its tests.

    Raises:
        Misused: E606 or E607, as `collect`.
    """
    root = Path(sysconfig.get_path("stdlib"))
    return _read((name, path) for name, path in _below(root, _NOT_LIBRARY) if name.endswith(".py"))


def _named(given: Path) -> Iterator[tuple[str, Path]]:
    """Walk through one argument: (name, path) of each file."""
    if given.is_dir():
        folder = given.resolve().name
        yield from ((f"{folder}/{name}", path) for name, path in _below(given, ()))
    elif given.is_file():
        yield given.name, given
    else:
        raise _unreadable(given, "it is neither a file nor a folder" if given.exists() else "there is none")


def _below(root: Path, excluded: Container[str]) -> Iterator[tuple[str, Path]]:
    """Walk through a folder: (relative name, path) of each regular file, sorted by name."""
    found = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [s for s in subfolders if s not in excluded and not s.startswith(".")]
        found += [Path(folder, name) for name in names if not name.startswith(".")]
    yield from sorted((path.relative_to(root).as_posix(), path) for path in found if path.is_file())


def _read(files: Iterator[tuple[str, Path]]) -> Collected:
    """Read files within the size bound; no file is read further than the bound."""
    found: list[Document] = []
    skipped, left = 0, SIZE_BYTES_MAX
    for name, path in files:
        try:
            with path.open("rb") as file:
                data = file.read(left + 1)
        except OSError as error:
            raise _unreadable(path, error.strerror) from None
        if data.startswith(HEADER.encode()):
            raise Misused(
                608,
                f"{path} is a key file",
                expected="text that all nodes of the run may read",
                todo="Name folders without keys: --data PATH; make a new key if this one has been shown.",
            )
        if len(data) > left and is_text(data, cut=True):
            raise too_large(SIZE_BYTES_MAX - left + len(data))
        new = documents(name, data)
        skipped += not new
        found += new
        left -= sum(len(document.data) + 1 for document in new)
        if left < 0:
            raise too_large(SIZE_BYTES_MAX - left)
    return Collected(found, skipped)


def _unreadable(path: Path, why: str | None) -> Misused:
    return Misused(607, f"{path} cannot be read: {why}", todo="Name files or folders that exist: --data PATH")
