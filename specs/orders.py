"""Orders: whoever knows of a halt or pause stands still, everybody comes to know of it, and a resume goes on.

Somebody hands orders to whomever they reach, while the run trains and everybody may crash: two halts and their
resumes, in any sequence, whole or with too few signatures, and a pause with the number of the first halt, so that one
keyholder has signed two texts for one number.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

from hypothesis import strategies as st

from interlock.protocols import orders as text
from interlock.protocols.boundary import Frame
from interlock.protocols.change import Offering, Offers, Preparing
from interlock.protocols.effects import Effects
from interlock.protocols.journal import Committed, Joined, Ordered, Voided
from interlock.protocols.manifest import Manifest
from interlock.protocols.node import Adopted, NodeOpened
from interlock.protocols.obeying import Learnt, Obeyed, Resumed
from interlock.protocols.orders import Order, Signed
from interlock.protocols.proposal import Propose
from interlock.protocols.relay import Carried
from interlock.protocols.release import Opening, Released
from interlock.protocols.round import Close, Committing, Measuring, Reporting, Sealed

from .history import Seen
from .links import CLOCK_S
from .run import COORDINATOR, RunSpec, identity
from .spec import action, always, eventually, sometimes
from .symbolic import counted

BEGINS = int(CLOCK_S)
MOVES = (
    Released,
    Propose,
    Opening,
    Offering,
    Offers,
    Preparing,
    Frame,
    Sealed,
    Committing,
    Close,
    Reporting,
    Measuring,
)
QUIET_S = 60.0  # what is lost is said again within


class Spell(NamedTuple):
    """From when to when somebody stood still: indices of steps.

    crashed: seconds; who starts again says again what it obeys, or went on with the crash.
    """

    by: str
    since: int
    until: float
    crashed: float


class Orders(RunSpec):
    """Orders: whoever knows of a halt or pause stands still, everybody learns of it, and after a resume they go on."""

    name = "orders"
    faults = ("drop", "twice", "delay", "reorder", "partition", "slow", "crash")
    symbolic = ("counted_once",)
    epoch_rounds = 2

    def hand(self, role: Any, order: str) -> Effects:
        """Somebody hands it an order."""
        signed = orders_of(self.manifest)[order]
        effects: Effects = role.on_order(signed.note(self.manifest.committee))
        return effects

    @action
    def halt(self, role: Any) -> Effects:
        "It is handed a halt."
        return self.hand(role, "halt")

    @action(half=st.sampled_from(("halt half", "halt other half")))
    def propose(self, role: Any, half: str) -> Effects:
        "It is handed the same halt with one signature."
        return self.hand(role, half)

    @action
    def pause(self, role: Any) -> Effects:
        "It is handed a pause with the halt's number."
        return self.hand(role, "pause")

    @action
    def resume(self, role: Any) -> Effects:
        "It is handed the resume of halt and pause."
        return self.hand(role, "resume")

    @action
    def resume_early(self, role: Any) -> Effects:
        "It is handed the same resume with a signature too few."
        return self.hand(role, "resume early")

    @action
    def halt_again(self, role: Any) -> Effects:
        "It is handed another halt, which follows the resume."
        return self.hand(role, "halt again")

    @action
    def resume_again(self, role: Any) -> Effects:
        "It is handed the resume of that one."
        return self.hand(role, "resume again")

    # -- what happened ------------------------------------------------------------------------------------------

    def turns(self, seen: Seen) -> list[Any]:
        """Who stood still and who went on, in order."""
        return sorted((*seen(Obeyed), *seen(Resumed)), key=lambda event: event.nth)

    def spells(self, seen: Seen) -> Iterator[Spell]:
        """Who stood still for how long."""
        crashes = [(step.who, step.at) for step in seen.steps("crash")]

        def spell(since: Any, until: float) -> Spell:
            crashed = min((at for who, at in crashes if who == since.by and at >= since.at), default=float("inf"))
            return Spell(since.by, since.nth, until, crashed)

        begun: dict[str, Any] = {}
        for event in self.turns(seen):
            if (since := begun.pop(event.by, None)) is not None:
                yield spell(since, event.nth)
            if isinstance(event.what, Obeyed):
                begun[event.by] = event
        for since in begun.values():
            yield spell(since, float("inf"))

    def standing(self, seen: Seen) -> dict[str, bool]:
        """Who stands still at the end, of those that ever did."""
        last = {spell.by: spell for spell in self.spells(seen)}
        return {by: spell.until == spell.crashed == float("inf") for by, spell in last.items()}

    def signers(self, seen: Seen) -> dict[str, set[bytes]]:
        """Who had signed what was handed over, by hash."""
        found: dict[str, set[bytes]] = {}
        known = orders_of(self.manifest)
        for step in seen.steps("act"):
            if (name := step.arguments.get("half", step.name.replace("_", " "))) in known:
                signed = known[name]
                found.setdefault(signed.order.hash.hex(), set()).update(signed.signatures)
        return found

    # -- what must hold -----------------------------------------------------------------------------------------

    @always
    def stands_still(self, seen: Seen) -> bool:
        "Whoever obeys an order releases, applies, carries and sends nothing of a tick until it goes on."
        moves = [
            *(sent for kind in MOVES for sent in seen.sent(kind)),
            *(event for kind in (Adopted, NodeOpened, Carried) for event in seen(kind)),
        ]
        spells = list(self.spells(seen))
        return not any(
            spell.by == move.by and spell.since < move.nth < spell.until and move.at <= spell.crashed
            for move in moves
            for spell in spells
        )

    @always
    def nothing_ends(self, seen: Seen) -> bool:
        "Under a halt the journal has no row but of orders, of newcomers, and the void of the tick that was open."
        halts: set[int] = set()
        for row in self.rows(seen):
            if isinstance(row.body, Ordered):
                order = text.read_order(row.body.text, self.manifest).order
                halts |= {order.seq} if order.action == "halt" else set()
                halts = {seq for seq in halts if seq > (order.cites or 0)}
            elif halts and not isinstance(row.body, Joined | Voided):
                return False
        return True

    @always
    def enough_signed(self, seen: Seen) -> bool:
        "No order has effect that fewer keyholders signed than it needs."
        signers = self.signers(seen)
        committee = self.manifest.committee
        need = {"halt": committee.halt, "pause": 1}
        return all(len(signers.get(e.order, ())) >= need[e.action] for e in seen(Obeyed)) and all(
            len(signers.get(e.order, ())) >= committee.resume for e in seen(Resumed)
        )

    @always
    def strictest(self, seen: Seen) -> bool:
        "Of two orders with one number the strictest holds: nobody who obeys the halt comes to obey the pause instead."
        newest: dict[str, str] = {}
        for event in self.turns(seen):
            action = event.action if isinstance(event.what, Obeyed) else ""
            if (newest.get(event.by), action) == ("halt", "pause"):
                return False
            newest[event.by] = action
        return True

    @always
    def no_halt_left(self, seen: Seen) -> bool:
        "Nobody goes on while it knows a halt that the resume does not cite."
        cites = {s.order.hash.hex(): s.order.cites or 0 for s in orders_of(self.manifest).values()}
        halts = [e for e in seen(Learnt, action="halt") if e.signatures >= e.need]
        return not any(
            halt.by == event.by and halt.nth < event.nth and halt.seq > cites.get(event.order, 0)
            for event in seen(Resumed)
            for halt in halts
        )

    @always
    def counted_once(self, seen: Seen) -> bool:
        "Every round is committed once, with every micro-batch in every new state once, however often it was stopped."
        committed = [row.body for row in self.rows(seen) if isinstance(row.body, Committed)]
        rounds = [body.round for body in committed]
        return rounds == list(range(len(rounds))) and all(
            list(counted(report.state)[: self.microbatches]) == [1] * self.microbatches
            for body in committed
            for report in body.reports
        )

    @eventually(within=QUIET_S)
    def all_know(self, seen: Seen) -> bool:
        "An order that one knows, all come to obey; and a resume likewise."
        standing = self.standing(seen)
        everybody = [self.label(name) for letter in "grn" for name in self.named(letter)] + [COORDINATOR]
        return len({standing.get(who, False) for who in everybody}) == 1

    @eventually(within=400)
    def goes_on(self, seen: Seen) -> bool:
        "All rounds are taken, unless the run stands still."
        return self.ended(seen) or self.standing(seen).get(COORDINATOR, False)

    @sometimes
    def in_a_tick(self, seen: Seen) -> bool:
        "An order ends an open tick."
        return any(isinstance(row.body, Voided) and row.body.number == 350 for row in self.rows(seen))

    @sometimes
    def went_on(self, seen: Seen) -> bool:
        "A run that was stopped takes all its rounds."
        return bool(seen(Resumed)) and self.ended(seen)


@functools.cache
def orders_of(manifest: Manifest) -> dict[str, Signed]:
    """What may be handed over, by name. Odd numbers stop the run, and the next one ends that."""
    known: dict[str, Signed] = {}

    def add(name: str, signers: str, order: Order) -> Order:
        one = [text.sign(order, identity(f"g{n}")) for n in signers]
        known[name] = functools.reduce(lambda a, b: a.merged(b), one)
        return order

    def make(seq: int, action: Any, *, cites: int | None = None, prev: Order | None = None) -> Order:
        expires = None if action == "halt" else BEGINS + 3600
        return Order(
            run=manifest.run,
            seq=seq,
            action=action,
            cites=cites,
            prev=None if prev is None else prev.hash,
            not_before=BEGINS,
            expires=expires,
            reason=f"order {seq} of the spec",
        )

    halt = add("halt", "01", make(1, "halt"))
    add("halt half", "0", halt)
    add("halt other half", "2", halt)
    add("pause", "0", make(1, "pause"))
    resume = add("resume", "012", make(2, "resume", cites=1, prev=halt))
    add("resume early", "01", resume)
    third = add("halt again", "12", make(3, "halt", prev=resume))
    add("resume again", "012", make(4, "resume", cites=3, prev=third))
    return known
