"""Plot a run's losses against the bytes it trained on."""

from __future__ import annotations

import json

import matplotlib

from .progress import Progress
from .rundir import RunDir
from .store import read_rows

matplotlib.use("Agg")  # no display, whatever the environment says
from matplotlib import pyplot


def draw(run: RunDir) -> None:
    """Write the run's `loss.png`: training loss, validation points, epochs' edges, and the plain run if there is one.

    Raises:
        Misused: E705.
    """
    progress = Progress(run.manifest())
    progress.follow(read_rows(run.journal))
    plain = json.loads(run.plain.read_text()) if run.plain.is_file() else None
    after = [trained.tokens for trained in progress.rounds]
    before = [0, *after[:-1]]  # a round's loss is that of the model before its step
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
    axes.set(xlabel="bytes trained on", ylabel="loss, nats a byte", title=progress.manifest.name)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(run.picture)
    pyplot.close(figure)
