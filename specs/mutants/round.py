"""What breaks rounds: wrong nodes and workers, and a coordinator and gates that believe them."""

from __future__ import annotations

from ..round import Round
from ..search import Mutant
from . import run as wrong


class GradientsKept(Round):
    """Workers keep the gradients of an attempt that was void."""

    engine_role = wrong.KeepsGradients


class OwnSums(Round):
    """Replicas step on their own sums, and coordinator and gates do not compare what they report."""

    engine_role = wrong.TrustsItself
    coordinator_role = wrong.BelievesReports
    gate_role = wrong.ChecksNothing


class AtOnce(Round):
    """Nodes take a new state up when they have computed it."""

    node_role = wrong.CannotWait


class Behind(Round):
    """The first replica of each stage goes on from its old state."""

    node_role = wrong.StaysBehind


class SumsShown(Round):
    """Nodes show their sums before the close."""

    node_role = wrong.ShowsItsSum


class NothingTwice(Round):
    """Nodes never say again what may have been lost."""

    node_role = wrong.SaysItOnce


class Endless(Round):
    """The coordinator waits for ever."""

    coordinator_role = wrong.NeverGivesUp


MUTANTS = {
    "gradients kept": Mutant(breaks="counted_once", spec=GradientsKept),
    "own sums": Mutant(breaks="one_state", spec=OwnSums),
    "at once": Mutant(breaks="no_state_without_a_row", spec=AtOnce),
    "behind": Mutant(breaks="one_side", spec=Behind),
    "sums shown": Mutant(breaks="sums_after_close", spec=SumsShown),
    "nothing twice": Mutant(breaks="goes_on", spec=NothingTwice),
    "endless": Mutant(breaks="says_so", spec=Endless),
}
