"""A join URL is read strictly, and comes back as it was written."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.runs import identity

from interlock.protocols.errors import Misused
from interlock.protocols.members import make_invitation
from interlock.protocols.service.url import (
    JoinURL,
    endpoint,
    is_only_here,
    parse_url,
    reachable,
    verify_not_local,
)

KEY = st.binary(min_size=32, max_size=32)
GOOD = str(JoinURL(host="127.0.0.1", port=7700, run=bytes(32), key=bytes(32), curve=bytes(32)))

INVITED = make_invitation(identity("ada"), run=bytes(32), role="node", label="Zoë", nonce=bytes(16))
WHOLE = str(replace(parse_url(GOOD), invitation=INVITED))


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


# --- with an invitation ---


@given(st.sampled_from(["node", "relay", "asker"]), st.text("abcäöü 123", min_size=1, max_size=80), KEY)
def test_an_invitation_travels_in_the_url(role: Any, label: str, run: bytes) -> None:
    invitation = make_invitation(identity("ada"), run=run, role=role, label=label, nonce=bytes(16))
    url = replace(parse_url(GOOD), run=run, invitation=invitation)
    assert parse_url(str(url)) == url
    assert str(replace(url, invitation=None)) == str(url).partition("&invitation=")[0]


def test_an_invitation_in_a_url_is_not_printed_by_chance() -> None:
    assert "invitation" not in repr(parse_url(WHOLE))


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (615, WHOLE[:-1]),
        (615, WHOLE[:-40]),
        (615, WHOLE + "A"),
        (615, WHOLE[:-1] + chr(ord(WHOLE[-1]) + 1)),  # other bits that no byte has
        (615, GOOD + "&invitation=AAAA"),
        (615, WHOLE.replace("run=00", "run=11")),
        (613, GOOD + "&invitation="),
        (613, WHOLE + "="),
        (613, WHOLE + "&invitation=AAAA"),
        (613, GOOD.replace("&key", "&invitation=AAAA&key")),
        (613, GOOD + "&invitation=" + "A" * 1001),
    ],
)
def test_an_invitation_in_a_url_is_read_strictly(number: int, text: str) -> None:
    with pytest.raises(Misused, match=f"E{number}") as caught:
        parse_url(text)
    assert WHOLE[-40:] not in str(caught.value)


# --- addresses ---


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "LOCALHOST", "a.localhost", "0.0.0.0"])
def test_a_url_of_this_machine_alone_is_refused(host: str) -> None:
    with pytest.raises(Misused, match="E715"):
        verify_not_local(parse_url(GOOD.replace("127.0.0.1", host)))


@pytest.mark.parametrize("host", ["192.168.1.7", "10.0.0.127", "example.org", "localhost.example.org"])
def test_a_url_of_another_machine_is_taken(host: str) -> None:
    verify_not_local(parse_url(GOOD.replace("127.0.0.1", host)))


@pytest.mark.parametrize(
    ("bind", "advertise", "only_here"),
    [
        ("127.0.0.1:0", "", True),
        ("localhost:7700", "", True),
        ("tcp://127.0.0.1:7700", "", True),
        ("127.0.0.1:7700", "example.org:80", False),  # a tunnel or proxy on this machine
        ("0.0.0.0:7700", "192.168.1.7", False),
        ("192.168.1.7:7700", "", False),
        ("0.0.0.0:7700", "127.0.0.1", True),
    ],
)
def test_who_is_reached_from_its_own_machine_only(bind: str, advertise: str, only_here: bool) -> None:
    assert is_only_here(bind, advertise) == only_here


@pytest.mark.parametrize("advertise", ["[2001:db8::1]:7700", "2001:db8::1", "::1"])
def test_an_ipv6_address_is_refused_with_a_word_about_it(advertise: str) -> None:
    with pytest.raises(Misused, match="E714") as caught:
        reachable("tcp://0.0.0.0:7700", advertise)
    assert "IPv6" in caught.value.todo


def test_behind_a_router_others_are_told_its_name_and_port() -> None:
    assert reachable("tcp://192.168.1.7:7700", "home.example.org:17700") == ("home.example.org", 17700)


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
