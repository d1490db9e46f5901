"""A run's directory.

DIR/manifest          canonical bytes; their hash is the run's id
DIR/manifest.json     the same for people
DIR/corpus            training text, then validation text; served by the coordinator
DIR/url               the join URL, while the coordinator listens
DIR/keys/NAME.key     identities made on this machine, mode 600
DIR/coordinator/, DIR/gate-NAME/, DIR/relay-N/, DIR/node-N/
                      store.sqlite, events.jsonl and log.txt of one process each; and orders/, where it looks for
                      orders of keyholders
DIR/report.json, DIR/loss.png, DIR/plain.json, DIR/answers.json
                      what came out
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from interlock.vault import Identity

from ..canonical import encode
from ..corpus import Corpus, Index, index, verify_index
from ..errors import Failed, Misused
from ..manifest import Manifest, read_manifest, readable

STORE = "store.sqlite"  # in a process's folder
DISK = "Is the disk full? Is the folder there, and yours to write in?"


@dataclass(frozen=True, slots=True)
class RunDir:
    """Paths of one run, and what is read from them."""

    path: Path

    @property
    def url(self) -> Path:
        """File with the join URL."""
        return self.path / "url"

    @property
    def report(self) -> Path:
        """File with the report."""
        return self.path / "report.json"

    @property
    def plain(self) -> Path:
        """File with what the plain run measured."""
        return self.path / "plain.json"

    @property
    def answers(self) -> Path:
        """File with what the model answered when the demo asked it."""
        return self.path / "answers.json"

    @property
    def picture(self) -> Path:
        """File with the plot of the losses."""
        return self.path / "loss.png"

    @property
    def journal(self) -> Path:
        """The coordinator's store."""
        return self.folder("coordinator") / STORE

    def folder(self, process: str) -> Path:
        """Folder of one process."""
        return self.path / process

    def key(self, name: str) -> Path:
        """Key file of one identity."""
        return self.path / "keys" / f"{name}.key"

    def disclosed(self, node: str) -> Path:
        """Where a node of the demo writes its stage's seed for the plain comparison."""
        return self.folder(node) / "seed.json"

    def manifest(self) -> Manifest:
        """Read the manifest.

        Raises:
            Misused: E705, this is no run's directory. Refused: E201.
        """
        try:
            data = (self.path / "manifest").read_bytes()
        except OSError as error:
            raise Misused(
                705,
                f"{self.path} is not the directory of a run: its manifest cannot be read ({error.strerror})",
                todo="Make one with: interlock new DIR",
            ) from None
        return read_manifest(data)

    def corpus(self, manifest: Manifest) -> tuple[Corpus, Index]:
        """Read the corpus and check it against the manifest.

        Raises:
            Misused: E705, it is missing. Refused: E605, it is not the manifest's.
        """
        try:
            whole = (self.path / "corpus").read_bytes()
        except OSError as error:
            raise Misused(
                705,
                f"the corpus of {self.path} cannot be read: {error.strerror}",
                todo="Restore the file 'corpus' that 'interlock new' made, or found another run.",
            ) from None
        size = manifest.data.train_bytes
        corpus = Corpus(whole[:size], whole[size:])
        found = index(corpus)
        verify_index(found, manifest.data)
        return corpus, found


def verify_free(path: Path) -> None:
    """Check that a run's directory can be made.

    Raises:
        Misused: E706, something is there.
    """
    if path.is_symlink() or (path.exists() and (not path.is_dir() or any(path.iterdir()))):
        raise Misused(706, f"{path} exists and is not empty", todo="Name another directory, or remove it yourself.")


def create(path: Path, manifest: Manifest, corpus: Corpus, keys: dict[str, Identity]) -> RunDir:
    """Make a run's directory with everything that it begins with; keys by name.

    Raises:
        Misused: E706, something is there. Failed: E707, it cannot be written; nothing is left behind then.
    """
    verify_free(path)
    run, there = RunDir(path), path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / "keys").mkdir(mode=0o700)
        for name, identity in keys.items():
            identity.save(run.key(name))
        write_whole(path / "corpus", corpus.train + corpus.validation)
        save_manifest(path, manifest)
    except BaseException as error:
        for left in list(path.iterdir()) if path.is_dir() else []:
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        if path.is_dir() and not there:
            path.rmdir()
        if isinstance(error, OSError):
            raise _unwritten(path, error) from None
        raise
    return run


def save_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a manifest's canonical bytes, and a readable copy with the run's id beside them.

    Raises:
        Failed: E707.
    """
    text = json.dumps({"run": manifest.run.hex(), **readable(manifest)}, indent=2)
    write_whole(folder / "manifest.json", text.encode() + b"\n")
    write_whole(folder / "manifest", encode(manifest))


def write_whole(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write a file that is seen complete or not at all.

    Raises:
        Failed: E707, it cannot be written.
    """
    draft = path.with_name(path.name + ".new")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise _unwritten(path, error) from None


def write_new(path: Path, data: bytes) -> None:
    """Write a file that its owner alone may read and that was not there; it is on the disk when this returns.

    Raises:
        Misused: E706, it is there. Failed: E707, it cannot be written; none is left then.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise Misused(706, f"{path} exists", todo="Name another file, or remove it yourself.") from None
    except OSError as error:
        raise _unwritten(path, error) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink()
        raise _unwritten(path, error) from None


def _unwritten(path: Path, error: OSError) -> Failed:
    return Failed(707, f"{path} cannot be written: {error.strerror}", todo=DISK)
