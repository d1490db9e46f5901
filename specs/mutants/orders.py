"""What breaks orders: processes that do not obey, do not tell, count badly, or go on too early."""

from __future__ import annotations

from typing import Any

from interlock.protocols.coordinator import Coordinator
from interlock.protocols.effects import Effects, Send
from interlock.protocols.gate import Gate
from interlock.protocols.node import Node
from interlock.protocols.obeying import Heard, Ordering
from interlock.protocols.obeying import Orders as Book
from interlock.protocols.orders import Order, Signed
from interlock.protocols.relay import Relay
from interlock.protocols.standing import Standing

from ..orders import Orders
from ..search import Mutant


class Deaf(Book):
    """Says that it obeys, and does not."""

    def _turn(self, took: tuple[Signed, ...], effects: Effects) -> Heard:
        heard = super()._turn(took, effects)
        self.in_force = None
        return Heard(heard.effects, took=took)


class CountsNobody(Standing):
    """Takes every signature for enough."""

    def complete(self, signed: Signed) -> bool:
        """It is signed."""
        return True


class NewestFirst(Standing):
    """Obeys the order that came last, whatever it is."""

    def in_force(self, now: float) -> Signed | None:
        """The last stop that is known."""
        stops = [*self._halts(), *self._pauses(now)]
        newest = [signed for signed in self.known.values() if signed in stops]
        return newest[-1] if newest else None


class LooksAway(Standing):
    """Goes on by any resume, whatever else is open."""

    def _verify_resume(self, order: Order) -> None:
        pass

    def settle(self, now: float) -> tuple[Signed, ...]:
        """Any resume ends everything."""
        took = tuple(self._resumes())
        for signed in took:
            self.answered, self.answer = max(s.order.seq for s in self.known.values()), signed
        return took


def _with(role: Any, book: type[Book] = Book, standing: type[Standing] = Standing) -> None:
    role.orders = book(role._manifest)
    role.orders.standing = standing(role._manifest)


class DeafNode(Node):
    """Goes on."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        _with(self, Deaf)


class DeafGate(Gate):
    """Releases."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        _with(self, Deaf)


class DeafRelay(Relay):
    """Carries."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        _with(self, Deaf)


class DeafCoordinator(Coordinator):
    """Goes on with the tick, and writes what comes of it."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        _with(self, Deaf)


class CountingGate(Gate):
    """Obeys proposals."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        _with(self, standing=CountsNobody)


class FickleNode(Node):
    """Obeys the newest."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        _with(self, standing=NewestFirst)


class HastyGate(Gate):
    """Goes on by any resume."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        _with(self, standing=LooksAway)


class Silent(Coordinator):
    """Obeys, and tells nobody."""

    def on_order(self, text: str) -> Effects:
        """Keep it."""
        return [e for e in super().on_order(text) if not isinstance(e, Send)]

    def on_message(self, source: bytes, message: Any, blobs: tuple[Any, ...]) -> Effects:
        """Answer with no order."""
        effects = super().on_message(source, message, blobs)
        return [e for e in effects if not (isinstance(e, Send) and isinstance(e.message, Ordering))]


class Asleep(Coordinator):
    """Never plans again."""

    def _heard(self, heard: Heard) -> Effects:
        effects = super()._heard(heard)
        self.slept = getattr(self, "slept", False) or heard.stops
        return effects

    def _advance(self) -> Effects:
        return [] if getattr(self, "slept", False) else super()._advance()


class CommitsAgain(Coordinator):
    """Writes the last commit once more when it goes on."""

    def _heard(self, heard: Heard) -> Effects:
        self.due = heard.resumes
        return super()._heard(heard)

    def _advance(self) -> Effects:
        again: Effects = []
        if getattr(self, "due", False) and hasattr(self, "last") and self._ledger.plan is None:
            self.due, (self._ledger.plan, body) = False, self.last
            again = super()._write(body)
        return [*again, *super()._advance()]

    def _write(self, body: Any) -> Effects:
        if type(body).__name__ == "Committed":
            self.last = self._ledger.plan, body
        return super()._write(body)


class Restless(Orders):
    """Nodes go on."""

    node_role = DeafNode


class Releasing(Orders):
    """Gates release on."""

    gate_role = DeafGate


class Carrying(Orders):
    """Relays carry on."""

    relay_role = DeafRelay


class Writing(Orders):
    """The coordinator writes on, and so does everybody else go on."""

    coordinator_role = DeafCoordinator
    gate_role = DeafGate
    relay_role = DeafRelay
    node_role = DeafNode


class Proposed(Orders):
    """Gates obey proposals."""

    gate_role = CountingGate


class Fickle(Orders):
    """Nodes obey what came last."""

    node_role = FickleNode


class Hasty(Orders):
    """Gates go on by any resume."""

    gate_role = HastyGate


class Untold(Orders):
    """The coordinator tells nobody."""

    coordinator_role = Silent


class Sleeping(Orders):
    """The coordinator does not wake up."""

    coordinator_role = Asleep


class Twice(Orders):
    """The coordinator counts a round again."""

    coordinator_role = CommitsAgain


MUTANTS = {
    "restless": Mutant(breaks="stands_still", spec=Restless),
    "releasing": Mutant(breaks="stands_still", spec=Releasing),
    "carrying": Mutant(breaks="stands_still", spec=Carrying),
    "writing": Mutant(breaks="nothing_ends", spec=Writing),
    "proposed": Mutant(breaks="enough_signed", spec=Proposed),
    "fickle": Mutant(breaks="strictest", spec=Fickle),
    "hasty": Mutant(breaks="no_halt_left", spec=Hasty),
    "untold": Mutant(breaks="all_know", spec=Untold),
    "sleeping": Mutant(breaks="goes_on", spec=Sleeping),
    "twice": Mutant(breaks="counted_once", spec=Twice),
}
