"""What a process asks of its machine."""

from __future__ import annotations

import os

import pytest

from interlock.protocols.service import machine

PREALLOCATE = "XLA_PYTHON_CLIENT_PREALLOCATE"


@pytest.mark.parametrize(("theirs", "left"), [(None, "false"), ("true", "true")])
def test_devices_are_shared_unless_somebody_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, theirs: str | None, left: str
) -> None:
    monkeypatch.setenv(PREALLOCATE, "")  # so that it is as before afterwards
    monkeypatch.delenv(PREALLOCATE)
    if theirs is not None:
        monkeypatch.setenv(PREALLOCATE, theirs)
    machine.share_devices()
    assert os.environ[PREALLOCATE] == left
