"""One process of a run: join, drive a role until it stops or a signal comes, and leave cleanly.

A process asks to join over the transport that its role then uses, so whatever the coordinator sends right after its
`Welcome` waits there and nothing is lost between the two.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interlock.vault import Identity

from .. import messages
from ..canonical import decode
from ..effects import Connect, Effects, Event, Role
from ..errors import InterlockError, Misused, Refused
from ..manifest import Manifest, read_manifest
from ..members import Invitation, Join, Welcome
from ..net.runner import Runner, ThreadWorker
from ..net.transport import QUEUE_BYTES, NotSent
from ..net.zeromq import ZeroMQTransport
from ..versions import common
from ..wire import Limits, pack, unpack
from .events import EventFile, log_to
from .orders import Inbox, Obedient
from .rundir import STORE, save_manifest
from .store import SQLiteStore
from .url import JoinURL, parse_url

if TYPE_CHECKING:
    from .metrics import Metrics

PART_BYTES_MAX = QUEUE_BYTES  # what is received before the manifest says how large messages of the run may be
ASK_S = 1.0
_log = logging.getLogger("interlock")


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """What somebody who joins by URL is given. wait_s: how long to ask an unanswering coordinator."""

    url: JoinURL
    identity: Identity
    operator: str
    wait_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Member(Guest):
    """Likewise, of a process that serves.

    folder: for its store, events and log. metrics: port to show them at. claimed: what `claim` gave, if that was
    called. log_json: how it logs. upload_bytes_per_s: limit on what it sends.
    """

    folder: Path
    metrics: int | None = None
    claimed: int | None = None
    log_json: bool = False
    upload_bytes_per_s: float | None = None


class Began(Event, frozen=True, kw_only=True):
    """A process began. role: what it is. process: its number on its machine."""

    role: str
    process: int


class Process:
    """Runs `main` on an event loop, until SIGTERM or SIGINT.

    A first SIGINT lets the role hand over what it holds, for as long as that takes; SIGTERM or a second signal stops it
    cleanly, a third at once.

    Args:
        folder: made if missing; gets log, `events.jsonl` and `store.sqlite`. One process at a time works in it.
        claimed: what `claim` gave for it, if that was called. log_json: log as JSON lines.
        leaving: called at the first signal, while the role takes its leave.

    Raises:
        Misused: E709, another one does.
    """

    def __init__(
        self,
        folder: Path,
        *,
        claimed: int | None = None,
        log_json: bool = False,
        leaving: Callable[[], None] = lambda: None,
    ) -> None:
        self._lock = claim(folder) if claimed is None else claimed  # the system lets go of it with this process
        self.folder, self._leaving = folder, leaving
        self._task: asyncio.Task[None] | None = None
        self._tell: Callable[[str], None] | None = None  # the role's `on_timer`
        self._signals = 0
        log_to(folder, json=log_json)

    def run(self, main: Callable[[Process], Coroutine[Any, Any, None]]) -> None:
        """Run to the end.

        Raises:
            InterlockError: what stopped it.
        """
        _log.info("started, process %d", os.getpid())
        try:
            asyncio.run(self._main(main))
        except InterlockError as error:
            _log.error("error: %s", error)
            if isinstance(error.__cause__, Exception):
                _log.error("cause", exc_info=error.__cause__)
            raise
        _log.info("ended")

    async def _main(self, main: Callable[[Process], Coroutine[Any, Any, None]]) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled, number)
        self._task = loop.create_task(main(self))
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.result()

    def _signalled(self, number: signal.Signals) -> None:
        _log.info("stopped by %s", number.name)
        self._signals += 1
        if self._signals > 2:
            os._exit(1)
        if self._tell is None:
            if self._task is not None:
                self._task.cancel()
        elif self._signals == 1 and number == signal.SIGINT:
            self._leaving()
            self._tell("hand over")
        else:
            self._tell("leave")

    async def drive(
        self,
        role: Obedient,
        transport: ZeroMQTransport,
        manifest: Manifest,
        *,
        identity: Identity,
        kinds: Any,
        door_kinds: Any = None,
        compute: Callable[[Any], Any] = lambda job: None,
        begun: Callable[[], None] = lambda: None,
        said: Sequence[Event] = (),
        metrics: int | None = None,
        seen: Callable[[Event], None] = lambda event: None,
    ) -> None:
        """Drive a role until it stops.

        Args:
            begun: called once the transport listens. said: comes before its events. seen: hears them too.
            metrics: port at which this machine may read its figures (`metrics.Metrics`).

        Raises:
            InterlockError: E745, the port cannot be had; or the error it stopped with.
        """
        await transport.start()
        begun()
        store, written = SQLiteStore(self.folder / STORE), self._events(role, manifest, transport, metrics)

        def observe(event: Event) -> None:
            written(event)
            seen(event)

        for event in (Began(role=type(role).__name__.lower(), process=os.getpid()), *said):
            observe(event)
        runner = Runner(
            role,
            transport,
            run=manifest.run,
            signer=identity,
            kinds=kinds,
            door_kinds=door_kinds,
            limits=messages.limits(manifest),
            store=store,
            worker=ThreadWorker(compute),
            draw=os.urandom,
            observe=observe,
            clock=time.time,
            versions=common(manifest.wire),
        )
        # Whatever a process plays, orders reach it as files: no network and nobody else is needed to stop it.
        inbox = Inbox(self.folder, role, runner.perform, moved=lambda text: moved(text, manifest, identity))
        orders = asyncio.create_task(inbox.watch())
        self._tell = runner.interrupt
        try:
            await runner.run()
        finally:
            orders.cancel()
            await asyncio.wait([orders])
            _log.info("refused, by number: %s", dict(runner.refused))
            store.close()
            written.close()

    def _events(
        self, role: Role, manifest: Manifest, transport: ZeroMQTransport, metrics: int | None
    ) -> EventFile | Metrics:
        """What hears everything that the role announces."""
        if metrics is None:
            return EventFile(self.folder)
        from .metrics import Metrics

        return Metrics(
            metrics,
            role=type(role).__name__.lower(),
            manifest=manifest,
            folder=self.folder,
            waiting_bytes=lambda: transport.waiting_bytes,
        )


def claim(folder: Path) -> int:
    """Make a folder this process's own, for as long as it lives or keeps the descriptor that it gets open.

    Raises:
        Misused: E709, another process works in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise Misused(
            709, f"another process works in {folder}", todo="Stop that one first, or name another folder."
        ) from None
    return lock


def moved(text: str, manifest: Manifest, identity: Identity) -> Effects:
    """Go on with a coordinator that listens elsewhere now: `text` is its join URL. Its key proves that it is the same.

    Raises:
        Misused: E338, this process is the coordinator; E613, it is no join URL; E339, it is of another run, or names
            another coordinator.
    """
    if identity.public == manifest.coordinator:
        raise Misused(338, "the coordinator itself looks for none", todo="Give the URL to gates, relays and nodes.")
    url = parse_url(text.strip())
    if url.run != manifest.run or url.key != manifest.coordinator:
        raise Misused(
            339,
            "this URL is of another run, or of another coordinator",
            expected=f"run {manifest.run.hex()[:16]}, coordinator {manifest.coordinator.hex()[:16]}",
            actual=f"run {url.run.hex()[:16]}, coordinator {url.key.hex()[:16]}",
            todo="Take the file 'url' of this run's coordinator.",
        )
    _log.info("the coordinator is at %s now", url.address)
    return [Connect(url.key, url.curve, url.address)]


async def join(transport: ZeroMQTransport, guest: Guest, request: Join, *, keep: Path | None) -> Manifest:
    """Ask the coordinator to let this process in; its answer is the manifest, kept in the folder `keep`, if any.

    Raises:
        Misused: E704, no answer: a coordinator does not talk to whom it does not let in, so that it cannot say why;
            E216, the run speaks no version of the wire that this program knows.
        Refused: E204, the manifest is another run's.
    """
    url, loop = guest.url, asyncio.get_running_loop()
    await transport.start()
    transport.connect(url.key, url.curve, url.address)
    end = loop.time() + guest.wait_s
    while (now := loop.time()) < end:
        sequence = time.time_ns() // 1000
        try:
            transport.send(
                url.key, pack(request, (), run=url.run, sender=guest.identity, to=url.key, sequence=sequence)
            )
        except NotSent as error:
            _log.info("asking again: %s", error)
        welcome = await _welcome(transport, guest, min(now + ASK_S, end))
        if welcome is not None:
            manifest = read_manifest(welcome.manifest, run=url.run)
            if manifest.coordinator != url.key:
                raise Refused(204, "the manifest names another coordinator than the URL")
            common(manifest.wire)
            if keep is not None:
                save_manifest(keep, manifest)
            return manifest
    raise Misused(
        704,
        f"no answer from the coordinator at {url.host}:{url.port} in {guest.wait_s:.0f} s",
        todo="Is it running and reachable? Is the URL complete and of this run? Is the invitation of this run, for "
        "this role, not expired, and used by no other key? A coordinator does not answer whom it does not let in; its "
        "log says why.",
    )


async def _welcome(transport: ZeroMQTransport, guest: Guest, until: float) -> Welcome | None:
    """Read until a welcome comes; whatever comes before it is not for us yet."""
    loop = asyncio.get_running_loop()
    while (left := until - loop.time()) > 0:
        try:
            arrival = await asyncio.wait_for(transport.receive(), left)
            received = unpack(
                arrival.parts,
                kinds=Welcome,
                run=guest.url.run,
                me=guest.identity.public,
                peer=arrival.peer,
                limits=Limits(),
            )
        except TimeoutError:
            return None
        except Refused as error:
            _log.info("before the welcome: %s", error)
            continue
        assert isinstance(received.message, Welcome)
        return received.message
    return None


def read_invitation(path: Path, *, run: bytes, role: str) -> Invitation:
    """Read an invitation file and check what can be checked before joining.

    Raises:
        Misused: E615, missing or no invitation. Refused: E204, of another run; E209, for another role.
    """
    try:
        data = bytes.fromhex(path.read_text().strip())
        invitation: Invitation = decode(data, Invitation, whose=f"invitation {path}")
    except OSError as error:
        raise Misused(
            615,
            f"the invitation {path} cannot be read: {error.strerror}",
            todo="Ask a keyholder for one: interlock keyholder invite",
        ) from None
    except (ValueError, Refused):
        raise Misused(615, f"{path} is not an invitation", todo="Ask a keyholder for it again.") from None
    if invitation.run != run:
        raise Refused(
            204,
            f"the invitation {path} is for another run",
            expected=run.hex()[:16],
            actual=invitation.run.hex()[:16],
            todo="Ask a keyholder of this run for one.",
        )
    verify_role(invitation, role, f"the invitation {path}")
    return invitation


def verify_role(invitation: Invitation, role: str, what: str) -> None:
    """Check that an invitation is for what is to be done with it.

    Raises:
        Refused: E209.
    """
    if invitation.role != role:
        raise Refused(209, what, expected=f"for a {role}", actual=f"for a {invitation.role}")
