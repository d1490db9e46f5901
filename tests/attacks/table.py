"""All attacks, in the order of docs/threat-model.md, each with who could run it and how it must end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from . import bases, glue, listening, prompt, recorded, replicas, tampering, two_time_pads, unreleased
from .attack import Attack, Found
from .trained import SHORT

LISTENERS = "relays, coordinator and all keyholders"
TWO_FRAMES = "a relay with two frames of one unit"
RECEIVER = "a member of the receiving stage"


def _row(
    name: str, who: str, wins: bool, run: Callable[..., Found], /, *, short: Mapping[str, Any] | None = None,
    target: str = "", **given: Any,
) -> Attack:  # fmt: skip
    chosen = {"target": target} if target else {}
    return Attack(name=name, who=who, wins=wins, run=run, given=given, short=short or {}, **chosen)


SMALL: dict[str, Any] = {"size": SHORT}

ATTACKS: tuple[Attack, ...] = (
    # What crosses a boundary
    _row(
        "statistics over all frames", LISTENERS, False, listening.listen,
        short=dict(width=16, context=16, rows=2, frames=128),
    ),
    _row("what is said in the clear", LISTENERS, True, listening.in_the_clear),
    *(
        _row(f"one mask twice: {name}", "a relay", True, two_time_pads.cut_down, target=case.missing, name=name)
        for name, case in two_time_pads.CASES.items()
    ),
    _row("one mask twice: all of these", "a relay", False, two_time_pads.as_it_is),
    _row(
        "two honest replicas' frames", TWO_FRAMES, True, replicas.rounding, short=dict(width=32, context=64, rows=8),
    ),
    _row("a replica that sends zeros", "a member, and " + TWO_FRAMES, True, replicas.lying),
    _row(
        "a row at the range's edge, scaled", TWO_FRAMES, True, replicas.at_the_edge,
        target="rows scaled to fit", scales=True,
    ),
    _row("a row at the range's edge, clamped", TWO_FRAMES, False, replicas.at_the_edge, scales=False),
    _row(
        "a text from a list, pair's key", RECEIVER, True, prompt.from_a_list,
        target="tau under the pair's key", short=dict(candidates=5000), under_pair=True,
    ),
    _row(
        "a text from a list", RECEIVER, False, prompt.from_a_list, short=dict(candidates=5000), under_pair=False,
    ),
    _row(
        "a text byte by byte, pair's key", RECEIVER, True, prompt.byte_by_byte,
        target="tau under the pair's key", under_pair=True,
    ),
    _row(
        "a text byte by byte", RECEIVER, False, prompt.byte_by_byte, under_pair=False,
    ),
    # What a relay or a member changes
    *(_row(f"tampering: {name}", "a relay", False, tampering.relay, name=name) for name in tampering.CASES),
    _row("tampering: a frame under a wrong key", "a member of the sending stage", False, tampering.member),
    # Keys and ticks
    _row("frames of a tick that was not released", RECEIVER + ", and the coordinator", False, unreleased.member),
    _row(
        "all traffic, then all disks", "who recorded and later steals everything stored", False, recorded.stolen_disks,
        short=dict(everywhere=False),
    ),
    _row(
        "a question and its answer, then all disks", "who recorded and later steals everything stored", False,
        recorded.a_question,
    ),
    _row("all traffic, and one box key", "who reads a member's memory during a change", True, recorded.live_box_key),
    _row("all traffic, and one pair secret", "who reads a member's memory", True, recorded.live_secret),
    # Secret bases
    _row(
        "the basis from the first weights, public seed", "who has one state of each stage", True, bases.from_the_start,
        target="seeds of the start public", short=SMALL, public=True,
    ),
    _row(
        "the basis from the first weights", "who has one state of each stage", False, bases.from_the_start,
        short=SMALL, public=False,
    ),
    _row("one stage leaked twice", "who has its states of two epochs", True, bases.twice, short=SMALL),
    _row("a member that records everything", "a member", True, bases.recording_member),
    # Stolen stages
    _row("stages of different epochs", "who has one state of each stage, bridges too", False, glue.different_epochs,
         short=SMALL),
    _row("stages of one epoch without bridges", "who has all weights of an epoch", False, glue.no_bridges, short=SMALL),
    _row(
        "bridges from recorded activations", "who has all weights of an epoch, and what members recorded", True,
        glue.unpaired, short=SMALL,
    ),
    _row("bridges by training, one epoch", "who has all weights of an epoch, and text", True, glue.stitched,
         short=SMALL | dict(batches_max=60), different=False),
    _row("bridges by training, different epochs", "who has one state of each stage, and text", True, glue.stitched,
         short=SMALL | dict(batches_max=60), different=True),
    _row("a copy of the stage between", "both neighbours of a stage", True, glue.distilled,
         short=SMALL | dict(batches_max=150)),
    _row("everything of one epoch", "willing members of every stage", True, glue.everything, short=SMALL),
)  # fmt: skip
