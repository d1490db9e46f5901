"""What breaks changes: wrong nodes and workers, and a coordinator and gates that believe them."""

from __future__ import annotations

from ..change import Change
from ..search import Mutant
from . import run as wrong


class Behind(Change):
    """The first replica of each stage goes on from its old state."""

    node_role = wrong.StaysBehind


class TwoSecrets(Change):
    """Leads deal the two sides of a boundary different secrets, and coordinator and gates do not compare them."""

    node_role = wrong.DealsTwoSecrets
    coordinator_role = wrong.BelievesReports
    gate_role = wrong.ChecksNothing


class LateReaders(Change):
    """Nodes take what a worker did in an earlier tick for this one's."""

    node_role = wrong.ReadsLate


class OneMask(Change):
    """Masks do not depend on the tick."""

    engine_role = wrong.OneMaskAMicrobatch


class NothingTwice(Change):
    """Nodes never say again what may have been lost."""

    node_role = wrong.SaysItOnce


MUTANTS = {
    "behind": Mutant(breaks="old_or_new", spec=Behind),
    "two secrets": Mutant(breaks="same_secrets", spec=TwoSecrets),
    "late readers": Mutant(breaks="no_older_epoch", spec=LateReaders),
    "one mask": Mutant(breaks="erased", spec=OneMask),
    "nothing twice": Mutant(breaks="goes_on", spec=NothingTwice),
}
