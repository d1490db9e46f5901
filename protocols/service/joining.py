"""Join a run from nothing but its URL: a folder, a key in it, and a name.

A folder remembers, beside its key, the invitation and the name that the key was let in with, so that whoever joins
again from it is known.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path

from interlock.vault import Identity

from ..canonical import decode, encode
from ..errors import Misused, Refused
from ..members import Invitation
from .process import claim
from .rundir import RunDir, write_whole
from .url import JoinURL

FOLDERS_MAX = 64  # nodes of one run on one machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """Where and as whom this machine joins. made: whether its key is new. claimed: see `process.claim`."""

    folder: Path
    claimed: int
    identity: Identity
    made: bool
    operator: str
    invitation: Invitation | None

    @property
    def key(self) -> Path:
        """Its key file."""
        return _key(self.folder)


def settle(url: JoinURL, *, folder: Path | None, operator: str, invitation: Invitation | None) -> Settled:
    """Choose a folder, make a key in it if there is none, and find the name.

    Args:
        folder: None: the first of this run's folders in the user's data directory that is free and was not used with
            another invitation.
        operator: by default what the key joined with before, else the invitation's label, else this machine's name.

    Raises:
        Misused: E709, a process works there; E719, the folder is of another run, or there are too many.
        KeyFileRefused: E101.
    """
    if folder is None:
        folder, claimed = _free(data_home() / url.run.hex()[:16], invitation)
    else:
        claimed = claim(folder)
    try:
        return _settle(url, folder, claimed, operator, invitation)
    except BaseException:
        os.close(claimed)
        raise


def _settle(url: JoinURL, folder: Path, claimed: int, operator: str, invitation: Invitation | None) -> Settled:
    _verify_run(folder, url)
    key = _key(folder)
    made = not key.exists()
    if made:
        folder.chmod(0o700)
        Identity.generate().save(key)
    identity = Identity.load(key)
    if invitation is None:
        invitation = _kept(folder)
    else:
        write_whole(folder / "invitation", encode(invitation).hex().encode() + b"\n", mode=0o600)
    name = operator or _name(folder) or (invitation.label if invitation is not None else socket.gethostname()[:80])
    if not 1 <= len(name) <= 80 or not name.isprintable():
        raise Misused(617, "--operator", expected="1 to 80 characters", actual=len(name), todo="Give a short name.")
    write_whole(folder / "operator", f"{name}\n".encode())
    return Settled(folder=folder, claimed=claimed, identity=identity, made=made, operator=name, invitation=invitation)


def data_home() -> Path:
    """Where this user's runs are kept."""
    home = os.environ.get("XDG_DATA_HOME", "")
    return (Path(home) if os.path.isabs(home) else Path.home() / ".local" / "share") / "interlock"


def _free(base: Path, invitation: Invitation | None) -> tuple[Path, int]:
    for number in range(1, FOLDERS_MAX + 1):
        folder = base / f"node-{number}"
        try:
            claimed = claim(folder)
        except Misused:
            continue  # somebody works there
        if not _key(folder).exists() or invitation in (None, _kept(folder)):
            return folder, claimed
        os.close(claimed)
    raise Misused(719, f"{base} has {FOLDERS_MAX} folders already", todo="Name one: --folder FOLDER")


def _verify_run(folder: Path, url: JoinURL) -> None:
    if (folder / "manifest").exists() and (run := RunDir(folder).manifest().run) != url.run:
        raise Misused(
            719,
            f"{folder} is the folder of another run",
            expected=url.run.hex()[:16],
            actual=run.hex()[:16],
            todo="Name another --folder, or leave it out.",
        )


def _key(folder: Path) -> Path:
    return folder / "node.key"


def _kept(folder: Path) -> Invitation | None:
    """The invitation that a folder remembers; none if there is none, or it is damaged: the URL has it."""
    try:
        kept: Invitation = decode(bytes.fromhex((folder / "invitation").read_text().strip()), Invitation)
    except (OSError, ValueError, Refused):
        return None
    return kept


def _name(folder: Path) -> str:
    try:
        return (folder / "operator").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""
