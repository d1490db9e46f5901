"""Two frames under one mask: what each part of a frame's nonce is there for.

Each case plays what happens in a run (a tick that goes back, a second try, a replica that was dealt another bridge)
with the real engine and with real keys that leave out one part of what they are derived from. A relay then
subtracts two frames. Under independent masks a word of the difference is below 2**19 one time in sixteen; under one
mask the difference is that of two activations or gradients, and nearly every word is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from interlock.kernels.fixed import Int32
from interlock.protocols.boundary import Departure, Unit
from interlock.protocols.canonical import decode
from interlock.protocols.manifest import Manifest
from interlock.protocols.node import Adopt
from interlock.protocols.service.engine import Engine
from interlock.vault import GroupKey, PairKey, Secret

from . import engines
from .attack import Cost, Found
from .engines import TICK_KEY, difference, plain, small, take

SMALL = 2**19
SHARE = 0.9  # of small words, from which on two frames count as made under one mask


@dataclass(frozen=True)
class Nonce:
    """All that tau and a frame's key are derived from, besides the keys."""

    tick_key: bytes
    unit: Unit
    state: bytes
    inputs: bytes


Cut = Callable[[Nonce], Nonce]


def whole(nonce: Nonce) -> Nonce:
    """The nonce as it is."""
    return nonce


class _Keyed(msgspec.Struct, array_like=True):
    """What `Unit.keyed` encodes."""

    tick_key: bytes
    unit: Unit


def _opened(unit: bytes, state: bytes = b"", inputs: bytes = b"") -> Nonce:
    keyed: _Keyed = decode(unit, _Keyed)
    return Nonce(keyed.tick_key, keyed.unit, state, inputs)


class CutGroup(GroupKey):
    """A group's key that derives tau from a part of the nonce."""

    def __init__(self, secret: bytes, cut: Cut) -> None:
        super().__init__(Secret(secret))
        self._cut = cut

    def tau(self, unit: bytes, state: bytes, inputs: bytes) -> bytes:
        """As the real one, of the part that is left."""
        nonce = self._cut(_opened(unit, state, inputs))
        return super().tau(nonce.unit.keyed(nonce.tick_key), nonce.state, nonce.inputs)


class CutPair(PairKey):
    """A pair's key that derives masks from a part of the unit."""

    def __init__(self, secret: bytes, cut: Cut) -> None:
        super().__init__(Secret(secret))
        self._cut = cut

    def mask_key(self, unit: bytes, tau: bytes) -> bytes:
        """As the real one, of the part that is left."""
        nonce = self._cut(_opened(unit))
        return super().mask_key(nonce.unit.keyed(nonce.tick_key), tau)


@dataclass(frozen=True)
class Keys:
    """One group's and one boundary's keys under a cut."""

    group: CutGroup
    pair: CutPair


def keys(cut: Cut) -> Keys:
    """Keys that all cases share: only what they are applied to may separate two frames."""
    return Keys(CutGroup(b"g" * 32, cut), CutPair(b"p" * 32, cut))


class BridgeForgotten(Engine):
    """Leaves the bridge out of the state that tau names."""

    def _adopt(self, job: Adopt) -> None:
        super()._adopt(job)
        assert self._base is not None
        self._state_digest = replace(self._base, bridge=None).digest()


class CopyKept(Engine):
    """Goes on with the device copy of the weights that it loaded first."""

    def _adopt(self, job: Adopt) -> None:
        if self._loaded is None:
            super()._adopt(job)
            return
        self._loaded = job.made  # the one line: what is on the device is taken for the new state's
        super()._adopt(job)
        assert self._base is not None
        self._state_digest = self._base.digest()


# -- cuts ----------------------------------------------------------------------------------------------------------


def _anonymous(unit: Unit, **kept: object) -> Unit:
    """The unit with its tick and exponent gone."""
    return msgspec.structs.replace(unit, **(dict(tick=0, exponent=0) | kept))


def number_only(nonce: Nonce) -> Nonce:
    """The micro-batch's number in its round, and nothing of the tick, the state or the input."""
    return Nonce(bytes(32), _anonymous(nonce.unit), b"", b"")


def no_inputs(nonce: Nonce) -> Nonce:
    """All but what was read."""
    return replace(nonce, inputs=b"")


def no_direction(nonce: Nonce) -> Nonce:
    """Unit, without the way that it goes."""
    return Nonce(nonce.tick_key, _anonymous(nonce.unit, direction="forward"), b"", b"")


def no_scale(nonce: Nonce) -> Nonce:
    """State and input, but neither the tick nor the gradient's exponent."""
    return replace(nonce, tick_key=bytes(32), unit=_anonymous(nonce.unit))


def no_position(nonce: Nonce) -> Nonce:
    """The micro-batch of a session, without the step."""
    return replace(nonce, unit=msgspec.structs.replace(nonce.unit, position=0), inputs=b"")


# -- cases ---------------------------------------------------------------------------------------------------------

Two = tuple[tuple[Departure, bytes], tuple[Departure, bytes]]  # frames, each with the K_tick of its tick


def rollback(made: Manifest, held: Keys, kind: type[Engine]) -> Two:
    """A tick is void and its round is taken again in the next one, in another order of the text."""
    ready, rows = engines.engine(made, 0, kind=kind), made.training.rows
    unit, later = engines.unit(made), engines.unit(made, tick=3)
    one = take(made, ready, unit, by=held.group, under=held.pair)
    ready(Adopt(tick=3, made=1))
    other = take(made, ready, later, by=held.group, under=held.pair, windows=range(rows, 2 * rows), tick_key=b"u" * 32)
    return (one, TICK_KEY), (other, b"u" * 32)


def retry(made: Manifest, held: Keys, kind: type[Engine]) -> Two:
    """Two replicas are shown different text for one micro-batch of one tick."""
    ready, rows, unit = engines.engine(made, 0, kind=kind), made.training.rows, engines.unit(made)
    one = take(made, ready, unit, by=held.group, under=held.pair)
    other = take(made, ready, unit, by=held.group, under=held.pair, windows=range(rows, 2 * rows))
    return (one, TICK_KEY), (other, TICK_KEY)


def two_bridges(made: Manifest, held: Keys, kind: type[Engine]) -> Two:
    """A lead deals two bridges to the two replicas of its stage; both read the same frame."""
    first = engines.engine(made, 0)
    before = engines.pair(0)
    arrived = engines.arrive(take(made, first, engines.unit(made), by=engines.group(0), under=before), under=before)
    unit = engines.unit(made, boundary=1)
    left = [
        take(
            made, engines.engine(made, 1, kind=kind, bridge_seed=seed), unit,
            by=held.group, under=held.pair, arrival=arrived,
        )
        for seed in (b"b" * 32, b"c" * 32)
    ]  # fmt: skip
    return (left[0], TICK_KEY), (left[1], TICK_KEY)


def stale_copy(made: Manifest, held: Keys, kind: type[Engine]) -> Two:
    """After a step one of two replicas computes with the weights that its device still has."""
    left = []
    for each in (Engine, kind):
        ready = engines.engine(made, 0, kind=each)
        last = engines.engine(made, made.stages - 1)
        _train(made, ready, last)
        ready(Adopt(tick=3, made=2))
        left.append(take(made, ready, engines.unit(made, tick=3), by=held.group, under=held.pair))
    return (left[0], TICK_KEY), (left[1], TICK_KEY)


def _train(made: Manifest, first: Engine, last: Engine) -> None:
    """One round of the first stage with one micro-batch, straight to the last stage and back."""
    pair = engines.pair(0)
    left = take(made, first, engines.unit(made), by=engines.group(0), under=pair)
    back = take(
        made, last, engines.unit(made, "backward"),
        by=engines.group(1), under=pair, arrival=engines.arrive(left, under=pair),
    )  # fmt: skip
    engines.take_backward(made, first, engines.arrive(back, under=pair))
    engines.finish_round(made, first, tick=2, stage=0)


def there_and_back(made: Manifest, held: Keys, kind: type[Engine]) -> Two:
    """A micro-batch's activation and its gradient cross the same boundary."""
    first, last = engines.engine(made, 0, kind=kind), engines.engine(made, made.stages - 1, kind=kind)
    forward = take(made, first, engines.unit(made), by=held.group, under=held.pair)
    arrived = engines.arrive(forward, under=held.pair)
    back = take(made, last, engines.unit(made, "backward"), by=held.group, under=held.pair, arrival=arrived)
    return (forward, TICK_KEY), (back, TICK_KEY)


def two_scales(made: Manifest, held: Keys, kind: type[Engine]) -> Two:
    """A gradient did not fit somewhere: the next attempt sends the same ones four bits coarser."""
    first, last = engines.engine(made, 0), engines.engine(made, made.stages - 1, kind=kind)
    pair = engines.pair(0)
    left: list[tuple[Departure, bytes]] = []
    arrived = engines.arrive(take(made, first, engines.unit(made), by=engines.group(0), under=pair), under=pair)
    for tick, key, exponent in ((2, TICK_KEY, -10), (3, b"u" * 32, -6)):
        last(Adopt(tick=tick, made=1))
        out = engines.unit(made, "backward", tick=tick, exponent=exponent)
        back = take(made, last, out, by=held.group, under=held.pair, arrival=arrived, tick_key=key)
        left.append((back, key))
    return left[0], left[1]


def two_steps(made: Manifest, held: Keys, kind: type[Engine]) -> Two:
    """Two bytes of one session follow each other."""
    ready = engines.engine(made, 0, kind=kind)
    one, other = (engines.extend(made, ready, at, b"ab", by=held.group, under=held.pair) for at in (0, 1))
    return (one, TICK_KEY), (other, TICK_KEY)


Play = Callable[[Manifest, Keys, type[Engine]], Two]


@dataclass(frozen=True)
class Case:
    """What happens in a run, and the weakened copy in which it leaks: a cut nonce, or an engine that forgets."""

    play: Play
    missing: str
    cut: Cut = whole
    engine: type[Engine] = Engine


CASES: dict[str, Case] = {
    "a tick that goes back": Case(rollback, "nonce: the micro-batch's number", cut=number_only),
    "a second try": Case(retry, "nonce without the input", cut=no_inputs),
    "two bridges": Case(two_bridges, "nonce without the bridge", engine=BridgeForgotten),
    "a stale device copy": Case(stale_copy, "weights not loaded anew", engine=CopyKept),
    "forward and backward": Case(there_and_back, "nonce without the direction", cut=no_direction),
    "two gradient scales": Case(two_scales, "nonce without the scale", cut=no_scale),
    "two steps of a session": Case(two_steps, "nonce without the step", cut=no_position),
}


@dataclass(frozen=True)
class Pair:
    """Two frames subtracted, mod 2**24.

    words: the difference. first: the integers in the first frame, which only its receiver has. exact: the difference
    is that of the integers in both.
    """

    words: Int32
    first: Int32
    exact: bool

    @property
    def share(self) -> float:
        """Of small words."""
        return float(np.mean(np.abs(self.words) < SMALL))

    @property
    def equal(self) -> bool:
        """Whether the frames are the same: then there is nothing in their difference."""
        return not self.words.any()

    @property
    def found(self) -> bool:
        """What a relay concludes, from the frames alone."""
        return self.share > SHARE and not self.equal


def subtract(case: Case, cost: Cost, *, weakened: bool) -> Pair:
    """Play one case, as it is or in its weakened copy, and subtract its two frames."""
    made = small() if case.play is two_bridges else small(stages=2)
    held = keys(case.cut if weakened else whole)
    (one, one_key), (other, other_key) = case.play(made, held, case.engine if weakened else Engine)
    with cost.clock():
        words = difference(one, other)
    cost.seen_bytes += one.frame.size + other.frame.size
    first, second = plain(one, under=held.pair, tick_key=one_key), plain(other, under=held.pair, tick_key=other_key)
    half = 2 ** (one.unit.width - 1)
    truth = (first.astype(np.int64) - second + half) % (2 * half) - half
    return Pair(words=words, first=first, exact=bool(np.array_equal(words, truth)))


def cut_down(*, name: str) -> Found:
    """One case with the nonce cut down."""
    cost = Cost()
    pair = subtract(CASES[name], cost, weakened=True)
    measures = {"small words": pair.share, "largest": float(np.abs(pair.words).max())}
    recovered = f"the difference of two sets of {pair.words.size} values, exactly"
    if name == "two gradient scales":  # g - g / 16, both rounded: what is subtracted is the gradient itself
        off = np.abs(pair.words * (16 / 15) - pair.first)
        measures["off by units"] = float(off.max())
        recovered = f"{pair.words.size} gradients themselves, to {off.max():.1f} units"
    return Found(won=pair.found and pair.exact, recovered=recovered, measures=measures, cost=cost)


def as_it_is() -> Found:
    """All cases with the real nonce and the real engine."""
    cost = Cost()
    pairs = [subtract(case, cost, weakened=False) for case in CASES.values()]
    apart = [pair for pair in pairs if not pair.equal]
    return Found(
        won=any(pair.found for pair in pairs),
        recovered=f"nothing: of {len(pairs)} pairs {len(apart)} under other masks, {len(pairs) - len(apart)} equal",
        measures={"small words": max(pair.share for pair in apart), "equal": len(pairs) - len(apart)},
        cost=cost,
        control=all(cut_down(name=name).won for name in CASES),
    )
