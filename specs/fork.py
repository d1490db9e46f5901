"""Release under a coordinator that lies, forks and loses its tail, and under one gate of four that signs anything.

The liar keeps several journals. In each it behaves as an honest coordinator does, and it chooses whom to tell which;
it can invent troubles, drop rows from the end and go on from there. With `2 k_e > n + f` history is one line all the
same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import strategies as st

from interlock.protocols.coordinator import Coordinator
from interlock.protocols.effects import After, Announce, Blob, Draw, Effects, Event, Send, Store
from interlock.protocols.errors import Misused, Refused
from interlock.protocols.gate import GateRefused
from interlock.protocols.proposal import Propose
from interlock.protocols.release import Opening, Ready, Released, make_release
from interlock.protocols.round import Trouble
from interlock.vault import Identity

from .history import Seen
from .release import ReleaseProperties
from .run import COORDINATOR, key
from .spec import action, sometimes

BRANCHES_MAX = 3
DROPS = st.sampled_from((0, 0, 0, 1, 2, 4, 8))
PEERS = st.sampled_from(("g0", "g1", "g2", "g3", "r0", "n0", "n1"))


class Branched(Event, frozen=True, kw_only=True):
    """The liar keeps one more journal."""

    rows: int


class AsksNobody(Coordinator):
    """A coordinator that takes its rows for the whole history, whatever others know."""

    def restore(self, stored: Mapping[str, bytes]) -> Effects:
        """Begin at once."""
        effects = super().restore(stored)
        self._recalling = None
        return effects

    def _gate_ready(self, source: bytes, ready: Ready) -> Effects:
        self._gates[source] = ready.known
        return self._advance()

    def _learn(self, opening: Opening) -> Effects:
        return []

    def _newest(self) -> int:
        return 2**53  # nobody knows more


class Liar:
    """A coordinator with several journals.

    Args:
        make: makes an honest coordinator. members: gates and nodes, who are taken to be ready when a journal begins.
        accomplices: gates that hear of every journal.
    """

    def __init__(
        self, make: Callable[[], Coordinator], members: tuple[bytes, ...], accomplices: tuple[bytes, ...]
    ) -> None:
        self._make, self._members, self._accomplices = make, members, accomplices
        self._branches: list[Coordinator] = []
        self._rows: list[dict[str, bytes]] = []
        self._told: dict[bytes, set[int]] = {}  # peer -> journals that it hears of
        self._main = 0  # the journal of all others

    def restore(self, stored: Mapping[str, bytes]) -> Effects:
        """Begin with one journal."""
        return self._branch({})

    def fork(self, branch: int, drop: int, peers: tuple[bytes, ...], void: bool) -> Effects:
        """Copy a journal without its last `drop` rows, keep both, and tell these peers of the copy too.

        void: in the copy the open tick ends at once.
        """
        if len(self._branches) >= BRANCHES_MAX:
            raise Misused(801, "no more journals")
        rows = self._rows[branch % len(self._branches)]
        kept = sorted(rows)[: max(0, len(rows) - drop)]
        for peer in (*peers, *self._accomplices):
            self._told.setdefault(peer, {self._main}).add(len(self._branches))
        effects = self._branch({name: rows[name] for name in kept})
        if void and self._branches[-1]._ledger.is_open:
            effects += self.invent(len(self._branches) - 1, self._members[-1])
        return [*effects, Announce(Branched(rows=len(kept)))]

    def roll_back(self, drop: int, void: bool) -> Effects:
        """Go on from a journal without its last rows, and forget that there ever was another."""
        newest = len(self._branches)
        effects = self.fork(self._main, drop, (), void)
        self._told.clear()
        self._main = newest
        # What the copy said as it began went to nobody: its timers will say it again.
        return effects

    def tell(self, peer: bytes, branch: int) -> Effects:
        """From now on this peer hears of one journal only."""
        self._told[peer] = {branch % len(self._branches)}
        return []

    def invent(self, branch: int, node: bytes) -> Effects:
        """Void the open tick of a journal by a trouble that no node had."""
        index = branch % len(self._branches)
        plan = self._branches[index]._ledger.plan
        if plan is None:
            raise Misused(801, "no tick is open in this journal")
        trouble = Trouble(tick=plan.tick, number=401, what="invented")
        return self._step(index, lambda role: role.on_message(node, trouble, ()))

    def on_message(self, source: bytes, message: Any, blobs: tuple[Blob, ...]) -> Effects:
        """Every journal hears everything."""
        effects: Effects = []
        for index in range(len(self._branches)):
            effects += self._step(index, lambda role: role.on_message(source, message, blobs))
        return effects

    def on_timer(self, name: str) -> Effects:
        """A timer of one journal."""
        branch, _, timer = name.partition(" ")
        if not timer:  # a clock that runs fast does so for all
            return [effect for index in range(len(self._branches)) for effect in self.on_timer(f"{index} {name}")]
        return self._step(int(branch), lambda role: role.on_timer(timer))

    def _branch(self, rows: dict[str, bytes]) -> Effects:
        role = self._make()
        self._branches.append(role)
        self._rows.append(dict(rows))
        index = len(self._branches) - 1
        effects = self._step(index, lambda role: role.restore(rows))
        if rows:
            for who in self._members:
                effects += self._step(index, _hears(who, Ready(known=0)))
        return effects

    def _step(self, index: int, call: Callable[[Coordinator], Effects]) -> Effects:
        """What of an honest coordinator's effects the liar lets through."""
        role, effects = self._branches[index], Effects()
        try:
            wanted = call(role)
        except Refused:
            return []
        for effect in wanted:
            match effect:
                case Send(to=to) if index in self._told.get(to, {self._main}):
                    effects.append(effect)
                case Store(key=name, value=value):
                    self._rows[index][name] = value
                case After(seconds=seconds, name=timer):
                    effects.append(After(seconds, f"{index} {timer}"))
        return effects


def _hears(who: bytes, message: Any) -> Callable[[Coordinator], Effects]:
    return lambda role: role.on_message(who, message, ())


class SignsAnything:
    """A gate that checks nothing and remembers nothing."""

    def __init__(self, identity: Identity, honest: Any) -> None:
        self._identity, self._honest = identity, honest
        self._plans: list[Any] = []

    def restore(self, stored: Mapping[str, bytes]) -> Effects:
        """Say hello as a gate does."""
        effects: Effects = self._honest.restore(stored)
        return effects

    def on_timer(self, name: str) -> Effects:
        """As a gate does."""
        effects: Effects = self._honest.on_timer(name)
        return effects

    def on_message(self, source: bytes, message: Any, blobs: tuple[Blob, ...]) -> Effects:
        """Release whatever is asked for."""
        if not isinstance(message, Propose):
            effects: Effects = self._honest.on_message(source, message, blobs)
            return effects
        self._plans.append(message.plan)
        return [Draw("contribution", 32)]

    def on_drawn(self, name: str, data: bytes) -> Effects:
        """Sign."""
        plan = self._plans.pop(0)
        return [Send(key(COORDINATOR), Released(release=make_release(self._identity, plan, data)))]


class Fork(ReleaseProperties):
    """Fork: history is one line though the coordinator lies, forks or loses its tail, and one gate signs anything."""

    name = "fork"
    replicas, keyholders, release, lying = 1, 4, 3, 1
    microbatches = 1
    faults = ("drop", "delay", "slow", "crash")
    crashing = ("g1", "g2", "g3", "r0")
    inputs_max = 10

    def traitorous(self) -> int:
        """As many as the thresholds bear; the first ones."""
        return self.lying

    def role(self, name: bytes) -> Any:
        """As in any run, but for the two who lie."""
        honest = super().role(name)
        if name == key(COORDINATOR):
            everyone = (*self.named("g"), *self.named("n"))
            return Liar(lambda: self._one_journal(name), everyone, self.named("g")[: self.traitorous()])
        return SignsAnything(self.identity(name), honest) if name in self.named("g")[: self.traitorous()] else honest

    def _one_journal(self, name: bytes) -> Coordinator:
        """A coordinator of this spec's kind that asks nobody."""
        made: Coordinator = super().role(name)
        made.__class__ = type("AsksNobody", (AsksNobody, type(made)), {})
        return made

    @action(
        by=Liar,
        branch=st.integers(0, 2),
        drop=DROPS,
        peers=st.lists(PEERS, max_size=4, unique=True),
        void=st.booleans(),
    )
    def fork(self, role: Liar, branch: int, drop: int, peers: list[str], void: bool) -> Effects:
        "The coordinator copies a journal, without its last rows or with another end, and tells some of it."
        return role.fork(branch, drop, tuple(key(peer) for peer in peers), void)

    @action(by=Liar, peer=PEERS, branch=st.integers(0, 2))
    def tell(self, role: Liar, peer: str, branch: int) -> Effects:
        "The coordinator tells one peer of another journal from now on."
        return role.tell(key(peer), branch)

    @action(by=Liar, branch=st.integers(0, 2), node=st.sampled_from(("n0", "n1")))
    def invent(self, role: Liar, branch: int, node: str) -> Effects:
        "The coordinator voids the open tick of one journal, for a reason that it invents."
        return role.invent(branch, key(node))

    @sometimes
    def forked(self, seen: Seen) -> bool:
        "The coordinator keeps two journals."
        return bool(seen(Branched))

    @sometimes
    def refused(self, seen: Seen) -> bool:
        "An honest gate refuses a plan."
        return bool(seen(GateRefused))
