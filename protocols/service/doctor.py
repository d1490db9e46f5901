"""Is this machine fit for a run, and can the run be reached from here?

Each part of the examination is made when its turn comes, so that a reader sees lines as they are found.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from . import checks, machine


def examine(target: str = "", begun: Callable[[str], None] = lambda part: None) -> Iterator[checks.Line]:
    """Examine this machine, and what a run's directory or join URL names.

    Args:
        target: a join URL, a run's directory, or empty. begun: hears what is being looked at.

    Raises:
        Misused: E613, a URL that is none; E705, a directory that is no run's.
    """
    threads = {name: os.environ[name] for name in machine.THREADS if name in os.environ}
    machine.set_threads(1)  # as a run's processes do, before numpy is imported
    from . import facts

    place = facts.place(target)
    begun("libraries")
    yield from checks.libraries(facts.libraries())
    yield from checks.curve(*facts.curve())
    begun("known answers")
    for known, got in facts.answered():
        yield checks.answer(known.name, known.source, known.expected, got)
    begun("arithmetic")
    yield from checks.arithmetic(facts.arithmetic())
    begun("speed")
    for name, value, unit, least, path in facts.speeds(checks.KEYSTREAM_GB_S, checks.FLOAT32_TFLOP_S):
        yield checks.speed(name, value, unit, least, path)
    begun("machine")
    yield from checks.machine(facts.machine(threads))
    begun("clock")
    yield from checks.clocks(facts.clocks(), asked=place.url is not None)
    yield from checks.text(facts.text())
    begun("files")
    yield from checks.folder(facts.folder(place))
    yield from checks.keys(facts.keys(place))
    begun("coordinator and relays")
    reached = list(facts.peers(place))
    begun("ports")
    yield from checks.ports(facts.ports(place, reached))
    yield from checks.peers(reached)
    if place.url is None and place.run is not None:
        said = "not tried: the directory has no URL, so that the run is not running here"
        yield checks.Line("reach", "coordinator", "ok", said)
    elif place.run is None and place.url is not None:
        yield checks.Line(
            "reach", "relays", "ok", "not tried: only members, and the run's directory, know where they are"
        )
