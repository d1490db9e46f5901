"""Connections that can be cut: on loopback, a listening port in front of a process's own.

While a link is cut nothing passes, and neither end is told, as when a cable is out; when it is mended, connections that
stood then are reset, so that what was under way is lost.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

HOST = "127.0.0.1"
READ_BYTES = 1 << 16
ANSWER_S = 10.0  # that the links' own thread has

T = TypeVar("T")


@dataclass
class _Link:
    """One listening port. whole: set while it is not cut. ends: of every connection, both."""

    target: int
    port: int = 0
    whole: asyncio.Event = field(default_factory=asyncio.Event)
    ends: set[asyncio.StreamWriter] = field(default_factory=set)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection until an end closes it."""
        self.ends.add(writer)
        beyond: asyncio.StreamWriter | None = None
        try:
            with suppress(OSError):
                await self.whole.wait()
                answers, beyond = await asyncio.open_connection(HOST, self.target)
                self.ends.add(beyond)
                there, back = self._carry(reader, beyond), self._carry(answers, writer)
                tasks = {asyncio.ensure_future(there), asyncio.ensure_future(back)}
                _, left = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in left:
                    task.cancel()
                await asyncio.wait(tasks)
        finally:
            for end in (writer, beyond):
                if end is not None:
                    self.ends.discard(end)
                    end.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(READ_BYTES):
                await self.whole.wait()
                writer.write(data)
                await writer.drain()

    def mend(self) -> None:
        """Let bytes pass again; what stood while it was cut is reset."""
        for end in self.ends:
            end.transport.abort()
        self.whole.set()


class Links:
    """All links of a run, served by a thread of its own until `close`."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="links", daemon=True)
        self._links: dict[str, _Link] = {}
        self._servers: list[asyncio.Server] = []
        self._thread.start()

    def open(self, name: str, target: int) -> None:
        """Listen for a port of this machine."""

        async def listen() -> None:
            link = _Link(target)
            link.whole.set()
            server = await asyncio.start_server(link.accept, HOST, 0)
            self._servers.append(server)
            link.port = server.sockets[0].getsockname()[1]
            self._links[name] = link

        self._wait(listen())

    def __contains__(self, name: str) -> bool:
        """Whether it was opened."""
        return name in self._links

    def target(self, name: str) -> int:
        """The port that a link leads to."""
        return self._links[name].target

    def port(self, name: str) -> int:
        """The port at which a link listens."""
        return self._links[name].port

    def cut(self, name: str) -> None:
        """Let nothing pass from now on."""

        async def cut() -> None:
            self._links[name].whole.clear()

        self._wait(cut())

    def mend(self, name: str) -> None:
        """Let bytes pass again."""

        async def mend() -> None:
            self._links[name].mend()

        self._wait(mend())

    def close(self) -> None:
        """Reset every connection and end the thread."""

        async def close() -> None:
            for server in self._servers:
                server.close()
            here = asyncio.current_task()
            tasks = [task for task in asyncio.all_tasks() if task is not here]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for server in self._servers:
                await server.wait_closed()

        self._wait(close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, what: Coroutine[Any, Any, T]) -> T:
        done: Future[T] = asyncio.run_coroutine_threadsafe(what, self._loop)
        return done.result(ANSWER_S)


def free_port() -> int:
    """A port of this machine where nobody listens."""
    with socket.socket() as asked:
        asked.bind((HOST, 0))
        port: int = asked.getsockname()[1]
        return port
