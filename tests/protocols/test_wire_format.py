"""docs/wire-format.md shows the bytes that the code makes."""

from __future__ import annotations

import re

from tests.protocols.wire_samples import BLOCK, DOC, INTEGERS, KEY, SAMPLES, filled
from tests.runs import identity, manifest

from interlock.kernels.mask import unmask
from interlock.protocols.canonical import decode
from interlock.protocols.fetching import GetChunk
from interlock.protocols.wire import Envelope, Limits, unpack


def test_every_sample_is_as_the_code_makes_it() -> None:
    text = DOC.read_text()
    assert filled(text) == text, "type: python -m tests.protocols.wire_samples"
    assert [found[1] for found in BLOCK.finditer(text)] == list(SAMPLES)


def bytes_of(name: str) -> bytes:
    """The bytes that a sample in the document shows."""
    found = next(found[2] for found in BLOCK.finditer(DOC.read_text()) if found[1] == name)
    return bytes.fromhex("".join(re.findall(r"^ {0,4}([0-9a-f]+)", found, re.MULTILINE)))


def test_the_message_in_the_document_can_be_read() -> None:
    parts = [bytes_of("envelope"), bytes_of("body")]
    me, peer = identity("coordinator"), identity("node0")
    assert decode(parts[0], Envelope).sequence == 1
    received = unpack(parts, kinds=GetChunk, run=manifest().run, me=me.public, peer=peer.public, limits=Limits())
    assert received.message == GetChunk(number=3)


def test_the_frames_in_the_document_come_off_their_mask() -> None:
    text = next(found[2] for found in BLOCK.finditer(DOC.read_text()) if found[1] == "planes")
    frames = re.findall(r"width ([0-9]+) .*\n +frame +([0-9a-f]+)", text)
    assert [int(width) for width, _ in frames] == [8, 16, 24, 32]
    for width, frame in frames:
        half = 1 << int(width) - 1
        wrapped = [(number + half) % (2 * half) - half for number in INTEGERS]
        assert unmask(bytes.fromhex(frame), KEY, count=5, width=int(width)).tolist() == wrapped
