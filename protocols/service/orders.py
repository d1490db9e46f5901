"""Orders as files and messages: what a process finds in its folder, and what a keyholder's command reads and delivers.

    FOLDER/orders/NAME.order            an order or a proposal that somebody put there
    FOLDER/orders/NAME.url              the join URL of a coordinator that listens elsewhere now
    FOLDER/orders/NAME.order.accepted   what became of it: one line
    FOLDER/orders/NAME.order.refused    or why not: the error and what to do

Every process looks into its own folder a few times a second, so a file is as good a way as a message, and needs nobody
else. What a process knows is in its store, which this module reads while its owner writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from interlock.vault import Identity

from .. import messages
from ..canonical import decode
from ..coordinator import text_hash
from ..effects import Effects, Role, Stop
from ..errors import InterlockError, Misused, Refused
from ..manifest import Manifest
from ..net.transport import NotSent
from ..net.zeromq import ZeroMQTransport
from ..obeying import STORED, Known, Noted, Ordering, Orders
from ..orders import ORDER_BYTES_MAX, Signed, read_order
from ..standing import Standing
from ..wire import Limits, pack, unpack
from .rundir import STORE, RunDir, write_whole
from .store import read_value
from .url import JoinURL

SUFFIX, ADDRESS = ".order", ".url"
POLL_S = 0.2
FILES_MAX = 1000  # in one folder
ANSWER_S = 5.0  # that a process has to say what became of a file
ASK_S = 1.0


class Obedient(Role, Protocol):
    """A role that takes orders."""

    @property
    def orders(self) -> Orders:
        """What it knows of them."""

    def on_order(self, text: str) -> Effects:
        """Somebody hands it an order."""


class Inbox:
    """A process's folder of orders.

    Args:
        perform: carries out what a role wants (`Runner.perform`).
        moved: what to do about a coordinator's new join URL.
    """

    def __init__(
        self,
        folder: Path,
        role: Obedient,
        perform: Callable[[Callable[[], Effects]], None],
        *,
        moved: Callable[[str], Effects],
    ) -> None:
        self._path, self._perform = folder / "orders", perform
        self._take = {SUFFIX: lambda text: role.on_order(text), ADDRESS: moved}
        self._path.mkdir(exist_ok=True)

    async def watch(self) -> None:
        """Look until cancelled; the role has begun by the first time. What goes wrong with the disk ends the role."""
        while True:
            await asyncio.sleep(POLL_S)
            try:
                self.look()
            except InterlockError as error:
                self._give_up(error)
                return

    def _give_up(self, error: InterlockError) -> None:
        self._perform(lambda: [Stop(error)])

    def look(self) -> None:
        """Hand over every file that nobody has looked at, or that has changed since."""
        for suffix in self._take:
            for path in waiting(self._path, suffix):
                self._hand_over(path, self._take[suffix])

    def _hand_over(self, path: Path, take: Callable[[str], Effects]) -> None:
        outcome: list[InterlockError | None] = []

        def hand() -> Effects:
            try:
                effects = take(read_file(path))
            except InterlockError as error:
                outcome.append(error)
                return []
            outcome.append(None)
            return effects

        self._perform(hand)
        if not outcome:
            return  # the role has ended: its next life will look
        for suffix in (".accepted", ".refused"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        error = outcome[0]
        if error is not None:
            text = f"error: {error}\n" + (f"hint: {error.todo}\n" if error.todo else "")
            write_whole(path.with_name(f"{path.name}.refused"), text.encode(errors="replace"))
        else:
            write_whole(path.with_name(f"{path.name}.accepted"), b"accepted\n")


def waiting(path: Path, suffix: str = SUFFIX) -> Iterator[Path]:
    """The files of this kind in a folder that nobody has looked at as they are."""
    try:
        names = sorted(entry.name for entry in os.scandir(path) if entry.name.endswith(suffix))
    except FileNotFoundError:
        return
    for name in names[:FILES_MAX]:
        file = path / name
        with contextlib.suppress(FileNotFoundError):  # it was taken away meanwhile
            written = file.stat().st_mtime_ns
            results = (path / f"{name}.accepted", path / f"{name}.refused")
            if not any(result.exists() and result.stat().st_mtime_ns >= written for result in results):
                yield file


def read_file(path: Path) -> str:
    """Read an order file, signatures and all, unchecked.

    Raises:
        Misused: E357, it cannot be read or is too long.
    """
    try:
        with path.open("rb") as file:
            data = file.read(ORDER_BYTES_MAX + 1)
        if len(data) <= ORDER_BYTES_MAX:
            return data.decode()
        why = f"longer than {ORDER_BYTES_MAX} bytes"
    except OSError as error:
        why = str(error.strerror)
    except UnicodeDecodeError:
        why = "it is no text"
    raise Misused(357, f"{path} is no order that can be read: {why}", todo="Ask for the file again.")


def folders(directory: Path) -> list[Path]:
    """The folders of processes in a run's directory, or the directory itself if it is one of a process."""
    if (directory / STORE).is_file():
        return [directory]
    return sorted(path.parent for path in directory.glob(f"*/{STORE}"))


def known(directory: Path, manifest: Manifest) -> Standing:
    """What the processes in a directory know, with the files that wait in their folders.

    Raises:
        Failed: E722, a store cannot be read. Refused: E201, or E340 to E342, it was changed.
    """
    standing = Standing(manifest)
    texts: list[str] = []  # read before the stores: what is taken meanwhile is in those
    for folder in (*folders(directory), directory):
        for path in waiting(folder / "orders"):
            with contextlib.suppress(Misused):  # its process will say what is wrong with it
                texts.append(read_file(path))
    for folder in folders(directory):
        stored = read_value(folder / STORE, STORED)
        if stored is None:
            continue
        its: Known = decode(stored, Known, whose=f"orders of {folder}")
        for text in its.texts:
            signed = read_order(text, manifest)
            old = standing.known.get(signed.order.hash)
            standing.known[signed.order.hash] = signed if old is None else old.merged(signed)
        if its.answered > standing.answered:
            standing.answered, standing.answer = its.answered, read_order(its.answer, manifest)
    for text in texts:
        with contextlib.suppress(InterlockError):
            standing.learn(read_order(text, manifest), now())
    return standing


def now() -> float:
    """Seconds since 1970."""
    return time.time()


def file_name(signed: Signed) -> str:
    """What an order's file is called."""
    order = signed.order
    return f"{order.action}-{order.epoch if order.action == 'release' else order.seq}-{order.hash.hex()[:12]}{SUFFIX}"


def put(directory: Path, signed: Signed, manifest: Manifest) -> list[Path]:
    """Put an order into the folders of the processes in a directory; give the files.

    Raises:
        Misused: E359, there is no process's folder. Failed: E707.
    """
    found = folders(directory)
    if not found:
        raise Misused(
            359,
            f"no process has ever run in {directory}",
            todo="Name a process's folder or the directory of a run that is up; or --url URL, or --out FILE.",
        )
    paths = []
    for folder in found:
        (folder / "orders").mkdir(exist_ok=True)
        path = folder / "orders" / file_name(signed)
        write_whole(path, signed.note(manifest.committee).encode())
        paths.append(path)
    return paths


def outcomes(paths: list[Path]) -> dict[Path, str]:
    """Wait a few seconds for what processes say of files; empty where nobody looked."""
    end, said = time.monotonic() + ANSWER_S, dict[Path, str]()
    while True:
        for path in paths:
            for suffix in (".accepted", ".refused"):
                with contextlib.suppress(FileNotFoundError):
                    result = path.with_name(path.name + suffix)
                    if result.stat().st_mtime_ns >= path.stat().st_mtime_ns:
                        said[path] = result.read_text()
        if len(said) == len(paths) or time.monotonic() > end:
            return {path: said.get(path, "") for path in paths}
        time.sleep(POLL_S / 2)


def send(url: JoinURL, signed: Signed, manifest: Manifest, *, wait_s: float) -> None:
    """Bring an order to a run's coordinator. It needs no key but those that signed: the bearer's is made for it.

    Raises:
        Misused: E359, no answer. Refused: the coordinator's reason.
    """
    asyncio.run(_send(url, signed.note(manifest.committee), wait_s))


async def _send(url: JoinURL, text: str, wait_s: float) -> None:
    bearer, loop = Identity.generate(), asyncio.get_running_loop()
    transport = ZeroMQTransport(bearer.curve_secret)
    await transport.start()
    try:
        transport.connect(url.key, url.curve, url.address)
        end = loop.time() + wait_s
        while (at := loop.time()) < end:
            sequence = time.time_ns() // 1000
            message = Ordering(text=text)
            with contextlib.suppress(NotSent):  # not connected yet
                transport.send(url.key, pack(message, (), run=url.run, sender=bearer, to=url.key, sequence=sequence))
            answer = await _answer(transport, url, bearer, text_hash(text), min(at + ASK_S, end))
            if answer is not None:
                if answer.number:
                    raise Refused(answer.number, f"the coordinator says: {answer.what}")
                return
    finally:
        await transport.close()
    raise Misused(
        359,
        f"no answer from the coordinator at {url.host}:{url.port} in {wait_s:.0f} s",
        todo="Put the order into the folder of any process of the run: --out FILE, then FOLDER/orders/NAME.order",
    )


async def _answer(transport: ZeroMQTransport, url: JoinURL, me: Identity, order: bytes, until: float) -> Noted | None:
    loop = asyncio.get_running_loop()
    while (left := until - loop.time()) > 0:
        try:
            arrival = await asyncio.wait_for(transport.receive(), left)
            received = unpack(
                arrival.parts,
                kinds=messages.BY_BEARER,
                run=url.run,
                me=me.public,
                peer=arrival.peer,
                limits=Limits(),
            )
        except TimeoutError:
            return None
        except Refused:
            continue  # whatever else comes is not for us
        if isinstance(received.message, Noted) and received.message.order == order:
            return received.message
    return None


def manifest_of(directory: Path) -> Manifest:
    """The manifest beside a run's or a process's files.

    Raises:
        Misused: E705.
    """
    inside = RunDir(directory)
    if not (directory / "manifest").exists() and (directory.parent / "manifest").exists():
        inside = RunDir(directory.parent)  # the coordinator's folder is in the run's
    return inside.manifest()
