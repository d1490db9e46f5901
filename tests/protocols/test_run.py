"""A whole run: real roles and the real engine, the same whatever the network does."""

from __future__ import annotations

from tests.protocols.world import World


def test_x(world: World) -> None:
    print([type(r.body).__name__ for r in world.rows()], world.refused, world.stopped)
    assert 0
