"""What breaks sessions: askers that tell or take too much, nodes that keep it, coordinators without a clock."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from interlock.protocols.coordinator import Coordinator
from interlock.protocols.effects import Blob, Effects, Send
from interlock.protocols.node import Node
from interlock.protocols.release import Plan
from interlock.protocols.session import Over

from ..search import Mutant
from ..session import TELLING, Listening, Sessions
from . import run as wrong


class TellsAll(Listening):
    """Sends the text in clear beside the sealed one."""

    def _tell(self) -> Effects:
        effects = super()._tell()
        for index, effect in enumerate(effects):
            if isinstance(effect, Send):
                effects[index] = replace(effect, blobs=(Blob(bytes(effect.blobs[0].data) + TELLING),))
        return effects


class TakesWhatComes(Listening):
    """Takes every answer for the next, in whatever order they come."""

    def _answer(self, message: Any, blobs: tuple[Blob, ...]) -> Effects:
        self._next = message.part
        return super()._answer(message, blobs)


class AsksOnce(Listening):
    """Never says again what may have been lost."""

    def on_timer(self, name: str) -> Effects:
        """Stop looking once it is welcomed."""
        return [] if name == "look" and self._belonging.reached else super().on_timer(name)


class KeepsSessions(Node):
    """Does not care that a session is over."""

    def _over(self, message: Over) -> Effects:
        return []


class AsksFirst(Coordinator):
    """Lets sessions go before rounds."""

    def _next_plan(self) -> Plan | None:
        self._ledger.answered = False
        return super()._next_plan()


class KeepsOn(Coordinator):
    """Keeps on with a session whose asker wants another."""

    def _ask(self, source: bytes, ask: Any) -> Effects:
        plan = self._ledger.plan
        if plan is not None and plan.session is not None:
            return []
        return super()._ask(source, ask)


class WaitsForAskers(KeepsOn):
    """Has no clock for sessions."""

    def on_timer(self, name: str) -> Effects:
        """Ignore the timer that ends a session."""
        plan = self._ledger.plan
        mine = plan is not None and plan.session is not None and name.startswith("patience")
        return [] if mine else super().on_timer(name)


class SlowClock(KeepsOn):
    """Gives a session three times its time."""

    def _patience(self, plan: Plan) -> Any:
        found = super()._patience(plan)
        return replace(found, seconds=3 * found.seconds) if plan.session is not None else found


class InTheClear(Sessions):
    """The asker sends its text in clear too."""

    asker_role = TellsAll


class AnyOrder(Sessions):
    """The asker takes answers in the order in which they come."""

    asker_role = TakesWhatComes


class Once(Sessions):
    """The asker says everything once."""

    asker_role = AsksOnce


class Kept(Sessions):
    """Nodes keep a session that is over."""

    node_role = KeepsSessions


class Hurried(Sessions):
    """Sessions go before rounds."""

    coordinator_role = AsksFirst


class Endless(Sessions):
    """Sessions have no end but their answer."""

    coordinator_role = WaitsForAskers


class Slow(Sessions):
    """Sessions have three times their time."""

    coordinator_role = SlowClock


class OneMask(Sessions):
    """A step's mask does not depend on what it read."""

    engine_role = wrong.OneMaskAMicrobatch


MUTANTS = {
    "in the clear": Mutant(breaks="sealed", spec=InTheClear),
    "one mask": Mutant(breaks="one_value_a_mask", spec=OneMask),
    "any order": Mutant(breaks="in_order", spec=AnyOrder),
    "hurried": Mutant(breaks="training_has_its_turn", spec=Hurried),
    "slow": Mutant(breaks="in_time", spec=Slow),
    "kept": Mutant(breaks="forgotten", spec=Kept),
    "endless": Mutant(breaks="goes_on", spec=Endless),
    "once": Mutant(breaks="answered", spec=Once),
}
