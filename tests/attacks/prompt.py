"""A receiving stage guesses what its sender read, and tests each guess against the tau in the frame's header.

tau is a keyed hash of unit, state and input. If the key were the pair's, which the receiver has, every guess could be
tested: whole texts out of a list, and, where every byte has a frame of its own, one byte after the other. Under the
key of the sender's group there is nothing to test a guess with. (The receiver is given the sender's state here, which
it would have from a leaked stage; the key is what decides.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from tests.runs import text

from interlock.protocols.boundary import Departure
from interlock.protocols.manifest import Manifest, Model
from interlock.vault import GroupKey, PairKey, Secret

from . import engines
from .attack import Cost, Found
from .engines import TICK_KEY, extend, plain, small, take

PROMPT = b"Dear committee, please release tick 4711, thanks"[:47]


def _held(boundary: int) -> bytes:
    """The pair's secret, as its receiver holds it."""
    return bytes([112, boundary] * 16)


def _keys(under_pair: bool) -> tuple[GroupKey, PairKey]:
    """The key that tau comes from (a weakened copy takes the pair's), and the pair's."""
    return (GroupKey(Secret(_held(0))) if under_pair else engines.group(0)), engines.pair(0)


def _guesses(digests: Sequence[bytes], unit: bytes, state: bytes, tau: bytes, keys: Sequence[GroupKey]) -> list[int]:
    """Which of some inputs give this tau under a key that the receiver holds."""
    return [n for n, digest in enumerate(digests) if any(key.tau(unit, state, digest) == tau for key in keys)]


def _receiver_keys() -> list[GroupKey]:
    """What a receiver can key with: the pair's secret, its own group's, and what everyone knows."""
    return [GroupKey(Secret(secret)) for secret in (_held(0), bytes([103, 1] * 16), TICK_KEY)]


def from_a_list(*, under_pair: bool, context: int = 47, candidates: int = 50_000) -> Found:
    """A whole text in one frame of an evaluation, guessed out of all places of the text where it could begin."""
    model = Model(width=16, heads=2, layers_per_stage=1, hidden=32, mlp="relu2", context=context)
    made: Manifest = small(stages=2, model=model, training=dict(rows=1))
    by, pair = _keys(under_pair)
    ready = engines.engine(made, 0)
    window = 31
    left = take(made, ready, engines.unit(made, kind="evaluate"), by=by, under=pair, windows=range(window, window + 1))
    state, unit = ready._state_digest, left.unit.keyed(TICK_KEY)
    cost = Cost(seen_bytes=left.frame.size)
    whole = (text().validation + text().train)[: candidates + context]
    with cost.clock():
        sent = hashlib.sha256(np.ascontiguousarray(_integers(left, pair)).data).digest()
        starts = range(len(whole) - context)
        digests = [_evaluated(whole[i : i + context], sent) for i in starts]
        found = _guesses(digests, unit, state, left.tau, _receiver_keys()[: 1 if under_pair else 3])
    truth = text().validation[window * context : (window + 1) * context]
    right = bool(found) and whole[found[0] : found[0] + context] == truth
    return Found(
        won=right,
        recovered=f"the text, out of {len(digests):,}" if right else f"nothing: none of {len(digests):,} texts fits",
        measures={"texts tried": len(digests), "texts that fit": len(found)},
        cost=cost,
        control=None if under_pair else from_a_list(under_pair=True, context=context, candidates=candidates).won,
    )


def _integers(left: Departure, pair: PairKey) -> Any:
    """What the receiver reads, in the frame's shape."""
    return plain(left, under=pair).reshape(left.shape)


def _evaluated(guess: bytes, sent: bytes) -> bytes:
    """The digest of what an evaluating first stage reads: its tokens, and what it sends."""
    tokens = np.frombuffer(guess, np.uint8).astype(np.int64)
    read = hashlib.sha256(hashlib.sha256(tokens.data).digest()).digest()
    return hashlib.sha256(read + sent).digest()


def byte_by_byte(*, under_pair: bool, text_sent: bytes = PROMPT) -> Found:
    """A text that crosses with a frame for each byte, as one that is being generated does: 256 guesses a byte."""
    by, pair = _keys(under_pair)
    model = Model(width=16, heads=2, layers_per_stage=1, hidden=32, mlp="relu2", context=len(text_sent))
    made = small(stages=2, model=model)
    ready = engines.engine(made, 0)
    frames = [extend(made, ready, position, text_sent, by=by, under=pair) for position in range(len(text_sent))]
    state, cost, tried = ready._state_digest, Cost(seen_bytes=sum(left.frame.size for left in frames)), 0
    keys = _receiver_keys()[: 1 if under_pair else 3]
    found, chain = bytearray(), b""
    with cost.clock():
        for left in frames:
            sent = hashlib.sha256(np.ascontiguousarray(_integers(left, pair)).data).digest()
            chains = [_chained(chain, bytes([byte])) for byte in range(256)]
            digests = [hashlib.sha256(each + sent).digest() for each in chains]
            tried += 256 * len(keys)
            fits = _guesses(digests, left.unit.keyed(TICK_KEY), state, left.tau, keys)
            if not fits:
                break
            found.append(fits[0])
            chain = chains[fits[0]]
    right = bytes(found) == text_sent
    return Found(
        won=right,
        recovered=f"all {len(found)} bytes in {cost.cpu_s * 1e3:.0f} ms" if right else "nothing: no first byte fits",
        measures={"bytes": len(found), "ms": cost.cpu_s * 1e3, "guesses": tried},
        cost=cost,
        control=None if under_pair else byte_by_byte(under_pair=True, text_sent=text_sent).won,
    )


def _chained(chain: bytes, byte: bytes) -> bytes:
    """What a stage has read of a session so far: the bytes, and no targets."""
    return hashlib.sha256(chain + hashlib.sha256(byte).digest() + hashlib.sha256(b"").digest()).digest()
