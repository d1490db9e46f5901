"""Everyone who only listens, together: relays, the coordinator and all keyholders, with all frames of two runs.

Two runs of the same members, secrets and randomness over two different texts are played and all their frames kept.
And one unit of one tick, under the same keys, is taken from two different inputs. Whatever a frame shows of what is
in it would show in one of the tests: of bytes and words against uniform ones, of the two runs against each other, of
neighbouring words, of one run's words against the other's in the same place, of their difference. The same tests over
the integers in the frames are the control.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy import stats
from tests.protocols.world import World, openings_of
from tests.runs import manifest, text

from interlock.kernels import mask
from interlock.protocols import corpus
from interlock.protocols.boundary import Frame, Pass, Passed, Unit
from interlock.protocols.journal import Closed
from interlock.protocols.manifest import Model
from interlock.protocols.node import Adopt
from interlock.protocols.release import order_key, tick_key
from interlock.protocols.service.engine import Engine
from interlock.vault import PairKey, Secret

from . import engines
from .attack import Cost, Found
from .engines import take

Words: TypeAlias = npt.NDArray[np.uint32]

ALPHA = 1e-3  # of the whole family of tests: each is judged at ALPHA / number of tests (Bonferroni)
TOP = 2**24


def other_text() -> corpus.Corpus:
    """Nothing like `text()`: one byte in the first half of it, upper case in the second."""
    whole = text()
    return corpus.Corpus(b"\x20" * 25_000 + whole.train[25_000:].upper(), whole.validation[::-1])


def words(frames: Sequence[bytes | memoryview | npt.NDArray[np.uint8]]) -> Words:
    """The 24-bit words of frames, laid end to end."""
    found = []
    for frame in frames:
        flat = np.frombuffer(frame, np.uint8)
        count = flat.size // 3
        low, high = flat[: 2 * count].view("<u2"), flat[2 * count :]
        found.append(low.astype(np.uint32) | (high.astype(np.uint32) << 16))
    return np.concatenate(found)


def as_words(integers: npt.NDArray[np.int32]) -> Words:
    """Integers mod 2**24."""
    return (integers.astype(np.int64) % TOP).astype(np.uint32)


# -- the tests: each gives p-values, all for "uniform and independent" ---------------------------------------------


def uniform_bytes(one: Words) -> list[float]:
    """Chi-square of each of the three bytes of a word over its 256 values."""
    return [float(stats.chisquare(np.bincount((one >> s) & 255, minlength=256)).pvalue) for s in (0, 8, 16)]


def uniform_words(one: Words) -> list[float]:
    """Kolmogorov and Smirnov's test against uniform words."""
    return [float(stats.kstest((one + 0.5) / TOP, "uniform").pvalue)]


def same_words(one: Words, other: Words) -> list[float]:
    """Two samples: Kolmogorov and Smirnov's test over words, chi-square over bytes."""
    found = [float(stats.ks_2samp(one, other, method="asymp").pvalue)]
    for s in (0, 8, 16):
        table = np.stack([np.bincount((x >> s) & 255, minlength=256) for x in (one, other)])
        table = table[:, table.sum(0) > 0]  # of the control: not all bytes occur
        found.append(float(stats.chi2_contingency(table).pvalue) if table.shape[1] > 1 else 1.0)
    return found


def correlation(one: Words, other: Words) -> float:
    """Of two series of words in the same places, normal with deviation 1 / sqrt(n) if they are independent."""
    centred = [x.astype(np.float64) - x.mean() for x in (one, other)]
    size = float(np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum()))
    r = float((centred[0] * centred[1]).sum()) / size if size else 0.0
    return float(2 * stats.norm.sf(abs(r) * np.sqrt(one.size)))


def all_tests(one: Words, other: Words, *, row: int) -> list[float]:
    """Every p-value. row: words in one token's vector, at which neighbours are compared too."""
    found = [p for x in (one, other) for p in (*uniform_bytes(x), *uniform_words(x))]
    found += same_words(one, other)
    found += [correlation(x[:-lag], x[lag:]) for x in (one, other) for lag in (1, row)]
    found.append(correlation(one, other))
    found += uniform_bytes((one - other) % TOP)
    return found


# -- the attack ----------------------------------------------------------------------------------------------------


def frames_of(whole: corpus.Corpus, *, model: Model, rows: int) -> tuple[Words, Words]:
    """Play a run; give the words of all its frames, and the integers in them for the control."""
    under: dict[Unit, PairKey] = {}  # copies: a node erases its keys when the tick ends

    def keep(name: str, engine: Engine, job: object) -> None:
        if isinstance(job, Pass) and job.out is not None:
            under[job.out.unit] = PairKey(Secret(job.out.pair._key.reveal()))

    made = manifest(model=model, training=dict(rows=rows), data=corpus.describe(corpus.index(whole)))
    world = World(made, whole=whole, before_job=keep).run()
    frames = [sent.blobs[0].data for sent in world.all_sent(Frame) if sent.source.startswith("node")]
    done = [(job, result.departure) for _, job, result in world.jobs if isinstance(result, Passed)]
    left = [(job.out, departure) for job, departure in done if departure is not None]
    assert [departure.frame.data for _, departure in left] == frames
    held = [engines.plain(d, under=under[out.unit], tick_key=out.tick_key) for out, d in left]
    return words(frames), as_words(np.concatenate(held))


def one_unit(*, model: Model, rows: int, frames: int) -> tuple[tuple[Words, Words], tuple[Words, Words]]:
    """The same units under the same keys from two inputs each: words, and the integers in them."""
    made = engines.small(stages=2, model=model, training=dict(rows=rows))
    first, by, under = engines.engine(made, 0), engines.group(0), engines.pair(0)
    seen: tuple[list[memoryview], list[memoryview]] = ([], [])
    held: tuple[list[npt.NDArray[np.int32]], list[npt.NDArray[np.int32]]] = ([], [])
    for number in range(frames):
        for side in (0, 1):
            first(Adopt(tick=2, made=1))
            windows = range((2 * number + side) * rows, (2 * number + side + 1) * rows)
            left = take(made, first, engines.unit(made, microbatch=number), by=by, under=under, windows=windows)
            seen[side].append(left.frame.data)
            held[side].append(engines.plain(left, under=under))
    return (words(seen[0]), words(seen[1])), (as_words(np.concatenate(held[0])), as_words(np.concatenate(held[1])))


def listen(*, width: int = 32, context: int = 32, rows: int = 7, frames: int = 144) -> Found:
    """All tests over all frames."""
    cost = Cost()
    model = Model(width=width, heads=2, layers_per_stage=1, hidden=2 * width, mlp="relu2", context=context)
    runs = [frames_of(whole, model=model, rows=rows) for whole in (text(), other_text())]
    count = min(seen.size for seen, _ in runs)
    units, integers = one_unit(model=model, rows=rows, frames=frames)
    with cost.clock():
        p = all_tests(runs[0][0][:count], runs[1][0][:count], row=width) + all_tests(*units, row=width)
    open_p = all_tests(runs[0][1][:count], runs[1][1][:count], row=width) + all_tests(*integers, row=width)
    masked = mask.difference  # what one mask for both inputs would give: the difference alone
    reused = uniform_bytes(as_words(masked(*(_frame(x) for x in integers), count=integers[0].size, width=24)))
    cost.seen_bytes = 3 * (2 * count + 2 * units[0].size)
    least = min(p) * len(p)
    return Found(
        won=least < ALPHA,
        recovered=f"nothing: {len(p)} tests over {count:,} and {units[0].size:,} words a side",
        measures={"least p times tests": least, "words": count, "of the integers": min(open_p) * len(p)},
        cost=cost,
        control=min(open_p) * len(p) < 1e-12 and min(reused) < 1e-12,
    )


def _frame(integers: Words) -> npt.NDArray[np.uint8]:
    """A frame without a mask."""
    low, high = (integers & 0xFFFF).astype("<u2").view(np.uint8), (integers >> 16).astype(np.uint8)
    return np.concatenate([low, high])


# -- what is said in the clear -------------------------------------------------------------------------------------


def in_the_clear() -> Found:
    """What the journal and the openings say without any attack: the loss on every micro-batch, and on which text.

    The coordinator serves the text, an epoch's order of it is drawn from its opening, and the last stage's replicas
    commit to each micro-batch's loss in a row that every gate reads.
    """
    made, whole = manifest(), text()
    world = World(made).run()
    cost = Cost(seen_bytes=sum(map(len, world.stores["coordinator"].values())))
    known: dict[bytes, float] = {}
    with cost.clock():
        rows, rounds = world.rows(), made.training
        opened = openings_of(rows)
        for body in (row.body for row in rows if isinstance(row.body, Closed)):
            plan = opened[body.tick].plan
            key = order_key(tick_key(opened[plan.epoch_tick]))
            order = corpus.order(key, corpus.window_count(len(whole.train), made.model.context))
            start = (plan.round - plan.epoch * rounds.epoch_rounds) * rounds.microbatches * rounds.rows
            for loss in (loss for commitment in body.commitments for loss in commitment.losses):
                first = start + loss.microbatch * rounds.rows
                windows = order[np.arange(first, first + rounds.rows) % len(order)]
                inputs, _ = corpus.batch(whole.train, windows, made.model.context)
                known[inputs.astype(np.uint8).tobytes()] = loss.nats
    passes = [(who, job, done) for who, job, done in world.jobs if isinstance(done, Passed) and job.kind == "train"]
    losses = {done.nats for _, _, done in passes if done.tokens}
    begins = ((world.engines[who], job) for who, job, _ in passes if job.arrival is None)
    texts = {each._text(job)[0].astype(np.uint8).tobytes() for each, job in begins}
    return Found(
        won=texts == set(known) and losses == set(known.values()),
        recovered=f"the loss on each of {len(known)} micro-batches, and their text",
        measures={"micro-batches": len(known)},
        cost=cost,
    )
