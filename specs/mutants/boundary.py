"""What breaks the boundary: wrong masks, a check that is left out, blame for the wrong one."""

from __future__ import annotations

from ..boundary import Boundary, TwoBridges
from ..search import Mutant
from . import run as wrong


class Blaming(wrong.BlamesTheSigner, TwoBridges):
    """May deal two bridges, too."""


class OneMask(Boundary):
    """Masks depend on the micro-batch alone."""

    engine_role = wrong.OneMaskAMicrobatch


class InTheClear(Boundary):
    """Frames are not masked."""

    engine_role = wrong.SendsInTheClear


class AnyBytes(Boundary):
    """A frame's hash is not compared with its header."""

    engine_role = wrong.ReadsAnyBytes


class WrongBlame(Boundary):
    """The signer is blamed for what the relay changed."""

    node_role = Blaming


MUTANTS = {
    "one mask": Mutant(breaks="one_value_a_mask", spec=OneMask),
    "in the clear": Mutant(breaks="nothing_cancels", spec=InTheClear),
    "any bytes": Mutant(breaks="changed_is_refused", spec=AnyBytes),
    "wrong blame": Mutant(breaks="author_named", spec=WrongBlame),
}
