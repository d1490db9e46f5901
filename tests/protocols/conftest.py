"""Runs that many tests read; none of them changes one."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.protocols.world import World
from tests.runs import manifest


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A whole run of 3 stages x 2 replicas, 4 rounds, 2 epochs, played to its end."""
    folder: Path = tmp_path_factory.mktemp("disclosed")
    return World(manifest(), disclose=folder).run()
