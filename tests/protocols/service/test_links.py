"""Connections that can be cut."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from interlock.protocols.service.links import HOST, Links, free_port

SHORT_S = 0.2  # that nothing comes in, where nothing may


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of somebody who says everything again."""
    listening = socket.create_server((HOST, 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    def answer(connection: socket.socket) -> None:
        with connection:
            while data := _read(connection):
                connection.sendall(data)

    thread = threading.Thread(target=serve)
    thread.start()
    yield listening.getsockname()[1]
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    thread.join()


def _read(connection: socket.socket) -> bytes:
    """What comes next; empty once the connection is over, however it ended."""
    try:
        return connection.recv(100)
    except ConnectionError:
        return b""


@pytest.fixture
def links(echo: int) -> Iterator[Links]:
    links = Links()
    links.open("a", echo)
    links.open("b", echo)
    yield links
    links.close()


def reach(links: Links, name: str) -> socket.socket:
    connection = socket.create_connection((HOST, links.port(name)), timeout=10)
    connection.sendall(b"here")
    return connection


def test_bytes_pass_both_ways_and_the_end_of_one_is_the_end_of_both(links: Links, echo: int) -> None:
    assert (links.target("a"), "a" in links, "c" in links) == (echo, True, False)
    with reach(links, "a") as one:
        assert one.recv(100) == b"here"
        one.shutdown(socket.SHUT_WR)
        assert _read(one) == b""


def test_while_a_link_is_cut_nothing_passes_and_nobody_is_told(links: Links) -> None:
    with reach(links, "a") as old, reach(links, "b") as other:
        assert old.recv(100) == other.recv(100) == b"here"
        links.cut("a")
        old.sendall(b"lost")
        with reach(links, "a") as new:
            for silent in (old, new):
                silent.settimeout(SHORT_S)
                with pytest.raises(TimeoutError):
                    silent.recv(100)
            other.sendall(b"more")
            assert other.recv(100) == b"more"
            links.mend("a")
            assert _read(old) == _read(new) == b""  # what was under way is lost
        with reach(links, "a") as again:
            assert again.recv(100) == b"here"


def test_a_link_to_where_nobody_listens_closes_what_comes(links: Links) -> None:
    links.open("nobody", free_port())
    with reach(links, "nobody") as one:
        assert _read(one) == b""
