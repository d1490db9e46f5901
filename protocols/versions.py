"""Versions of the wire: which of them this program reads and writes, and which a run speaks.

A manifest names the versions of its run; who joins speaks the highest that is also its own. `Join` and `Welcome` are
the same in all versions and travel in version `HELLO`, so that a newcomer of any version learns what the run speaks
before it has to speak it. There is one version so far.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from .canonical import Plain
from .errors import Misused

HELLO = 1
Number = Annotated[int, msgspec.Meta(ge=1, le=65535)]


class Versions(Plain, frozen=True, array_like=True, kw_only=True):
    """All versions from `oldest` to `newest`."""

    oldest: Number
    newest: Number

    def __contains__(self, version: int) -> bool:
        return self.oldest <= version <= self.newest

    @property
    def text(self) -> str:
        """For people.

        >>> Versions(oldest=1, newest=1).text, Versions(oldest=1, newest=3).text
        ('1', '1 to 3')
        """
        return str(self.newest) if self.oldest == self.newest else f"{self.oldest} to {self.newest}"


OURS = Versions(oldest=1, newest=1)
"""What this program reads and writes."""


def common(run: Versions, ours: Versions = OURS) -> Versions:
    """The versions that a run and a program both speak; the program writes the newest of them.

    Raises:
        Misused: E216, there is none.

    >>> common(Versions(oldest=1, newest=2), Versions(oldest=2, newest=4)).text
    '2'
    """
    both = Versions(oldest=max(run.oldest, ours.oldest), newest=min(run.newest, ours.newest))
    if both.oldest > both.newest:
        which = "a newer" if run.oldest > ours.newest else "an older"
        raise Misused(
            216,
            "this interlock and the run have no version of the wire in common",
            expected=f"version {run.text}",
            actual=f"version {ours.text}",
            todo=f"Install {which} interlock: the one that the others of this run have.",
        )
    return both
