"""Which relays nodes do not reach, as they say themselves: a relay that lives may still be out of somebody's reach.

Frames of one micro-batch all take one relay, so that a plan needs relays that everybody in it reaches.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

LASTING_LOOKS = 10  # after so many a tick waits no longer for a node and a relay that are apart


class Reach:
    """What each node last said. Time is counted in looks, as in `pulse`."""

    def __init__(self) -> None:
        self._missed: dict[bytes, dict[bytes, int]] = {}  # by node: the relay, and looks since it first said so

    def hear(self, node: bytes, missing: Iterable[bytes]) -> None:
        """A node says which relays it does not reach."""
        before = self._missed.pop(node, {})
        if now := {relay: before.get(relay, 0) for relay in missing}:
            self._missed[node] = now

    def complaining(self, relays: Collection[bytes]) -> list[bytes]:
        """Nodes that miss one of these relays, as far as we know: that they reach it again may have gone unheard."""
        return [node for node in sorted(self._missed) if self.misses(node, relays)]

    def look(self) -> None:
        """The interval is over."""
        for missed in self._missed.values():
            for relay in missed:
                missed[relay] += 1

    def misses(self, node: bytes, relays: Iterable[bytes]) -> list[bytes]:
        """Those of these relays that a node does not reach."""
        missed = self._missed.get(node, {})
        return [relay for relay in relays if relay in missed]

    def usable(self, relays: Iterable[bytes], nodes: Collection[bytes]) -> list[bytes]:
        """Those of these relays that all of these nodes reach."""
        return [relay for relay in relays if not any(self.misses(node, (relay,)) for node in nodes)]

    def lasting(self, relays: Sequence[bytes], nodes: Iterable[bytes]) -> list[tuple[bytes, bytes]]:
        """Pairs of a node and a relay that have been apart for so long that no tick should wait for them."""
        return [
            (node, relay)
            for node in nodes
            for relay in self.misses(node, relays)
            if self._missed[node][relay] >= LASTING_LOOKS
        ]

    def cut_off(self, relays: Sequence[bytes], nodes: Iterable[bytes]) -> set[bytes]:
        """Those of these nodes that have reached none of these relays for so long."""
        return {node for node in nodes if relays and len(self.lasting(relays, (node,))) == len(relays)}
