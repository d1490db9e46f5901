"""A join URL is read strictly, and comes back as it was written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.protocols.errors import Misused
from interlock.protocols.service.url import JoinURL, endpoint, parse_url, reachable

KEY = st.binary(min_size=32, max_size=32)
GOOD = str(JoinURL(host="127.0.0.1", port=7700, run=bytes(32), key=bytes(32), curve=bytes(32)))


@given(st.from_regex(r"[A-Za-z0-9.-]{1,30}", fullmatch=True), st.integers(1, 65535), KEY, KEY, KEY)
def test_a_url_reads_back(host: str, port: int, run: bytes, key: bytes, curve: bytes) -> None:
    url = JoinURL(host=host, port=port, run=run, key=key, curve=curve)
    assert parse_url(str(url)) == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        GOOD.replace("interlock:", "https:"),
        GOOD.replace("7700", "0"),
        GOOD.replace("7700", "65536"),
        GOOD.replace("7700", "07700"),
        GOOD[:-1],
        GOOD + "0",
        GOOD + "&more=1",
        GOOD + "\n",
        GOOD.replace("run=0", "run=A"),
        GOOD.replace("run=", "key=", 1),
        GOOD.replace("127.0.0.1", "a@b"),
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(Misused, match="E613"):
        parse_url(text)


def test_a_process_that_listens_everywhere_must_say_where_it_is() -> None:
    with pytest.raises(Misused, match="E714"):
        reachable("tcp://0.0.0.0:7700", "")
    assert reachable("tcp://0.0.0.0:7700", "example.org") == ("example.org", 7700)
    assert reachable("tcp://0.0.0.0:7700", "example.org:80") == ("example.org", 80)
    assert reachable("tcp://127.0.0.1:7700", "") == ("127.0.0.1", 7700)
    with pytest.raises(Misused, match="E714"):
        reachable("tcp://127.0.0.1:7700", "a b")


@pytest.mark.parametrize("bind", ["", "127.0.0.1", "127.0.0.1:65536", "127.0.0.1:x", "ipc://x:1"])
def test_a_wrong_bind_is_refused(bind: str) -> None:
    with pytest.raises(Misused, match="E714"):
        endpoint(bind)
