"""The report and the picture say what befell a run, from its journal and its processes' events."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib import pyplot
from tests.protocols.service.journals import Journal, announce, keys
from tests.runs import manifest

from interlock.protocols.journal import DIED
from interlock.protocols.service import picture
from interlock.protocols.service.progress import Progress
from interlock.protocols.service.report import measure


@pytest.fixture(scope="module")
def eventful() -> Journal:
    """A run in which a node died and one left, two came, and a relay was lost."""
    journal = Journal(manifest())
    journal.start()
    journal.evaluate(5.0)
    journal.train()
    journal.train()
    journal.join("node", "fresh", "other", operator="$x^{", label="one")
    journal.train(void=DIED)
    journal.change("members", [["node0", "node1"], ["node2", "fresh"], ["node4", "node5"]])
    journal.train()
    journal.relays = ("relay1", "relay2")
    journal.join("relay", "relay2")
    journal.train()
    leaving = keys(["node0"])
    journal.change("members", [["other", "node1"], ["node2", "fresh"], ["node4", "node5"]], leaving=leaving)
    journal.train()
    journal.order("halt")
    journal.order("resume", cites=1)
    journal.train()
    journal.evaluate(2.0)
    return journal


def test_the_report_counts_what_befell_the_run(eventful: Journal, tmp_path: Path) -> None:
    found = measure(eventful.save(tmp_path / "run"))
    counted = ("deaths", "rounds_lost_to_death", "joins", "leaves", "relay_failovers")
    assert [found[name] for name in counted] == [2, 1, 2, 1, 1]  # a lost relay is a death too
    assert (found["rounds"], found["voids"], found["tokens"]) == (6, 1, 600)
    assert found["operators_to_cover"] == 2  # one has two identities, in two stages


def test_cpu_time_counts_whoever_came_later_or_again_from_its_beginning(eventful: Journal, tmp_path: Path) -> None:
    run = eventful.save(tmp_path / "run")
    ticks = [trained.tick for trained in followed(eventful).rounds]

    def spent(name: str, tick: int, cpu_s: float) -> None:
        announce(run.folder(name), "Spent", tick=tick, cpu_s=cpu_s, masking_s=cpu_s / 10)

    spent("node-0", ticks[0] - 1, 5.0)  # the measuring tick, which trains nothing
    for tick, cpu_s in ((ticks[0], 6.0), (ticks[1], 7.0), (ticks[-1], 9.0), (ticks[-1] + 1, 20.0)):
        spent("node-0", tick, cpu_s)
    spent("node-1", ticks[-2], 3.0)  # came later
    for tick, cpu_s in ((ticks[0] - 1, 4.0), (ticks[0], 5.0), (ticks[-2], 2.0), (ticks[-1], 2.5)):
        spent("node-2", tick, cpu_s)  # came again
    found = measure(run)
    assert found["cpu_seconds_per_token"] == pytest.approx((4.0 + 3.0 + (1.0 + 2.5)) / 600)
    assert found["masked_fraction_of_cpu"] == pytest.approx(0.1)


def followed(journal: Journal) -> Progress:
    progress = Progress(journal.manifest)
    progress.follow(journal.rows)
    return progress


def test_the_picture_has_a_tick_and_words_where_something_befell_the_run(eventful: Journal) -> None:
    progress = followed(eventful)
    figure = picture.plot(progress, None)
    (axes,) = figure.axes
    words = {text.xy[0]: text.get_text() for text in axes.texts}  # type: ignore[attr-defined]  # they are annotations
    assert words == {
        200: "died: node3\njoined: $x^{",
        300: "relay lost: relay0",
        400: "left: node0\njoined: $x^{",
        500: "halted by order 1\nresumed by order 2",
    }
    ticks = {line.get_xdata()[0]: line.get_ydata()[0] for line in axes.lines if line.get_marker() == "|"}  # type: ignore[index]
    losses = {trained.tokens - 100: trained.loss for trained in progress.rounds}
    assert ticks == {tokens: losses[tokens] for tokens in words}
    pyplot.close(figure)


def test_a_picture_is_drawn_whatever_names_say_and_however_little_there_is(eventful: Journal, tmp_path: Path) -> None:
    run = eventful.save(tmp_path / "eventful")
    picture.draw(run)
    assert run.picture.read_bytes().startswith(b"\x89PNG")
    begun = Journal(manifest(name="$a^{ 木"))
    begun.start()
    begun.join("node", "fresh", operator="字" * 80)
    begun.change("members", [["node0", "node1"], ["node2", "fresh"], ["node4", "node5"]])
    run = begun.save(tmp_path / "begun")
    picture.draw(run)
    assert run.picture.read_bytes().startswith(b"\x89PNG")


def test_a_picture_has_no_more_words_than_can_be_read() -> None:
    journal = Journal(manifest())
    journal.start()
    for number in range(picture.LABELS_MAX + 6):
        journal.train()
        journal.relays = (f"relay{number % 2}", "relay2")
        journal.join("relay", f"relay{number % 2}", "relay2")
    figure = picture.plot(followed(journal), None)
    (axes,) = figure.axes
    assert len(axes.texts) == picture.LABELS_MAX
    assert sum(line.get_marker() == "|" for line in axes.lines) > picture.LABELS_MAX
    pyplot.close(figure)
