"""Ask a run's model from this machine. Nothing of question or answer is written anywhere but where the caller says."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from interlock.vault import Identity

from .. import messages
from ..asker import Asker, Inquiry
from ..effects import Event
from ..errors import Misused
from ..manifest import Manifest
from ..members import Invitation, Join, make_record
from ..net.runner import MemoryStore, Runner, ThreadWorker
from ..net.zeromq import ZeroMQTransport
from ..versions import common
from . import found
from .process import PART_BYTES_MAX, Guest, join, read_invitation, verify_role
from .rundir import RunDir
from .url import JoinURL, parse_url, verify_not_local

WAIT_S = 30.0


def ask(
    guest: Guest,
    *,
    invitation: Invitation | None,
    inquire: Callable[[Manifest], Inquiry],
    observe: Callable[[Event], None],
) -> None:
    """Ask until the inquiry is satisfied, or a signal comes.

    Args:
        inquire: what is asked, given the run. observe: hears what happens (`protocols.asker`).

    Raises:
        InterlockError: E704 it does not let us in, E332 nothing answers. KeyboardInterrupt: a signal came.
    """
    identity = guest.identity
    request = Join(record=make_record(identity, "asker", guest.operator), invitation=invitation)
    stopped = False

    async def main() -> None:
        transport = ZeroMQTransport(identity.curve_secret, part_bytes=PART_BYTES_MAX)
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None

        def stop() -> None:
            nonlocal stopped
            stopped = True
            task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop)
        try:
            manifest = await join(transport, guest, request, keep=None)
            role = Asker(
                identity,
                manifest,
                operator=guest.operator,
                invitation=invitation,
                inquiry=inquire(manifest),
                number=time.time_ns() // 1000,  # above that of every earlier question of this identity
            )
            runner = Runner(
                role,
                transport,
                run=manifest.run,
                signer=identity,
                kinds=messages.BY_ASKER,
                limits=messages.limits(manifest),
                store=MemoryStore(),
                worker=ThreadWorker(lambda job: None),
                draw=os.urandom,
                observe=observe,
                clock=time.time,
                versions=common(manifest.wire),
            )
            await runner.run()
        finally:
            await transport.close()

    try:
        asyncio.run(main())
    except asyncio.CancelledError:
        if not stopped:
            raise
        raise KeyboardInterrupt from None


def guest_of(
    run: str, key: Path | None, invitation: Path | None, operator: str, *, local: bool = False
) -> tuple[Guest, Invitation | None]:
    """Who asks which run.

    Args:
        run: the directory of a run that is up on this machine, or a join URL. key, invitation: files; for a run made
            with --local its own. local: the run of the URL is on this machine.

    Raises:
        Misused: E613, E615, E715, E705 no run there, E727 it is not up, E728 no key. KeyFileRefused: E101.
    """
    if run.startswith("interlock:"):
        url = parse_url(run)
        if not local:
            verify_not_local(url)
        if key is None:
            raise Misused(728, "who asks?", expected="--key FILE", todo="Make one with: interlock keyholder init FILE")
        identity, invited = Identity.load(key), None
    else:
        directory = RunDir(Path(run))
        manifest = directory.manifest()
        url = _url(directory)
        own = directory.key("asker")
        if key is None and not own.is_file():
            raise Misused(728, "who asks?", expected="--key FILE", todo="Make one with: interlock keyholder init FILE")
        identity, invited = Identity.load(key or own), None
        names = found.keyholder_names(manifest.committee, directory)
        if key is None and names:
            invited = directory.folder("asker") / "invitation"
            if not invited.is_file():
                invited.parent.mkdir(exist_ok=True)
                inviter = Identity.load(directory.key(f"keyholder-{names[0]}"))
                made = found.invite(inviter, run=manifest.run, role="asker", label="asker")
                found.write_invitation(invited, made)
    file = invitation or invited
    if file is None and url.invitation is not None:
        verify_role(url.invitation, "asker", "the invitation in the join URL")
    read = url.invitation if file is None else read_invitation(file, run=url.run, role="asker")
    return Guest(url=url, identity=identity, operator=operator, wait_s=WAIT_S), read


def _url(directory: RunDir) -> JoinURL:
    try:
        return parse_url(directory.url.read_text(encoding="ascii", errors="replace").strip())
    except OSError:
        raise Misused(
            727,
            f"the run in {directory.path} is not up",
            todo="Start it with 'interlock up --serve', or give the join URL of where it is.",
        ) from None


class Turn:
    """Holds a key while it asks: two questions under one key at once would disturb each other.

    Raises:
        Misused: E709, somebody asks with it.
    """

    def __init__(self, key: Path) -> None:
        self._file = os.open(key, os.O_RDONLY)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._file)
            raise Misused(709, f"somebody asks with {key} already", todo="Wait, or use another key.") from None

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        os.close(self._file)
