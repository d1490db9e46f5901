"""Plot a run's losses against the bytes it trained on, and what befell the run."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import matplotlib

from .progress import Progress
from .rundir import RunDir
from .store import read_rows

matplotlib.use("Agg")  # no display, whatever the environment says
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

LABELS_MAX = 24  # on one picture; ticks without words after that many
WORDS_MAX = 40  # letters in a line of one


def draw(run: RunDir) -> None:
    """Write the run's `loss.png`: training loss, validation points, epochs' edges, and the plain run if there is one.

    Deaths, joins, leaves, lost relays and orders are ticks on the training loss, with words.

    Raises:
        Misused: E705.
    """
    progress = Progress(run.manifest())
    progress.follow(read_rows(run.journal))
    plain = json.loads(run.plain.read_text()) if run.plain.is_file() else None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # names are what others say; a letter without a shape is a box
        figure = plot(progress, plain)
        figure.savefig(run.picture)
    pyplot.close(figure)


def plot(progress: Progress, plain: dict[str, Any] | None) -> Figure:
    """Draw the picture. plain: what the plain run measured (`plain.train`)."""
    after = [trained.tokens for trained in progress.rounds]
    before = [0, *after][: len(after)]  # a round's loss is that of the model before its step
    figure, axes = pyplot.subplots(figsize=(8, 4.5), dpi=120)
    if plain is not None:
        axes.plot(before, plain["losses"], color="0.6", linewidth=3, label="one plain process")
    axes.plot(before, [trained.loss for trained in progress.rounds], color="C0", linewidth=1, label="training")
    at = [evaluation.tokens for evaluation in progress.evaluations]
    axes.plot(at, [evaluation.loss for evaluation in progress.evaluations], "o", color="C3", label="validation")
    if plain is not None:
        axes.plot(at, plain["val_losses"], "x", color="0.4", label="validation, plain")
    for number, round in enumerate(progress.turns):
        axes.axvline(after[round - 1], color="0.85", linewidth=0.8, zorder=0, label="" if number else "bases turn")
    _mark(axes, progress)
    axes.set(xlabel="bytes trained on", ylabel="loss, nats a byte")
    axes.set_title(progress.manifest.name, parse_math=False)
    axes.legend(frameon=False)
    figure.tight_layout()
    return figure


def _mark(axes: Axes, progress: Progress) -> None:
    """Put a tick and its words wherever something befell the run."""
    for number, (tokens, said) in enumerate(_marks(progress)):
        loss = next((t.loss for t in progress.rounds if t.tokens > tokens), None)
        if loss is None:
            loss = progress.rounds[-1].loss if progress.rounds else 0.0
        axes.plot([tokens], [loss], "|", color="0.25", markersize=9, zorder=4)
        if number < LABELS_MAX:
            axes.annotate(
                "\n".join(said),
                (tokens, loss),
                xytext=(tokens, 0.36 + 0.09 * (number % 3)),  # neighbours stand at different heights
                textcoords=("data", "axes fraction"),
                ha="center",
                va="bottom",
                fontsize=6.5,
                color="0.25",
                parse_math=False,
                arrowprops={"arrowstyle": "-", "color": "0.75", "linewidth": 0.6},
            )


def _marks(progress: Progress) -> Iterator[tuple[int, list[str]]]:
    """What befell the run, together where it did so after as many bytes."""
    for tokens, marks in groupby(progress.marks, lambda mark: mark.tokens):
        yield tokens, [cut(str(mark)) for mark in marks]


def cut(text: str) -> str:
    """At most so many letters as there is room for.

    >>> len(cut("died: " + "x" * 80)), cut("died: mira")
    (40, 'died: mira')
    """
    return text if len(text) <= WORDS_MAX else text[: WORDS_MAX - 3] + "..."
