"""A run's directory.

DIR/manifest          canonical bytes; their hash is the run's id
DIR/manifest.json     the same for people
DIR/corpus            training text, then validation text; served by the coordinator
DIR/url               the join URL, while the coordinator listens
DIR/keys/NAME.key     identities made on this machine, mode 600
DIR/coordinator/, DIR/gate-NAME/, DIR/relay-N/, DIR/node-N/
                      store.sqlite, events.jsonl and log.txt of one process each
DIR/report.json, DIR/loss.png, DIR/plain.json
                      what came out
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from interlock.vault import Identity

from ..canonical import encode
from ..corpus import Corpus, Index, index, verify_index
from ..errors import Misused
from ..manifest import Manifest, read_manifest, readable


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
    def picture(self) -> Path:
        """File with the plot of the losses."""
        return self.path / "loss.png"

    @property
    def journal(self) -> Path:
        """The coordinator's store."""
        return self.folder("coordinator") / "store.sqlite"

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
            raise Misused(705, f"the corpus of {self.path} cannot be read: {error.strerror}") from None
        size = manifest.data.train_bytes
        corpus = Corpus(whole[:size], whole[size:])
        found = index(corpus)
        verify_index(found, manifest.data)
        return corpus, found


def create(path: Path) -> RunDir:
    """Make an empty run directory.

    Raises:
        Misused: E706, something is there.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise Misused(706, f"{path} exists and is not empty", todo="Name another directory, or remove it yourself.")
    (path / "keys").mkdir(parents=True, mode=0o700)
    return RunDir(path)


def fill(run: RunDir, manifest: Manifest, corpus: Corpus, keys: dict[str, Identity]) -> None:
    """Write everything that a run begins with; keys by name."""
    for name, identity in keys.items():
        identity.save(run.key(name))
    (run.path / "corpus").write_bytes(corpus.train + corpus.validation)
    save_manifest(run.path, manifest)


def save_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a manifest's canonical bytes, and a readable copy with the run's id beside them."""
    text = json.dumps({"run": manifest.run.hex(), **readable(manifest)}, indent=2)
    (folder / "manifest.json").write_text(text + "\n")
    write_whole(folder / "manifest", encode(manifest))


def write_whole(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write a file that is seen complete or not at all."""
    draft = path.with_name(path.name + ".new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    draft.replace(path)
