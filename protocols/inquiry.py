"""What an asker can want: a text continued, or texts scored. Each is cut into sessions that fit the model's context."""

from __future__ import annotations

from collections.abc import Callable

from .manifest import Manifest
from .session import MICROBATCHES_MAX, Byte, Question, Sampling, Scored

Shapes = tuple[tuple[tuple[int, int], ...], int]


class Continuation:
    """Continue a text by `length` bytes.

    Args:
        prompt: not empty. told: hears every byte as it comes.

    A text that outgrows the context goes on from its last bytes: the next session reads as much of it as leaves room
    for half a context of new ones.
    """

    def __init__(
        self,
        prompt: bytes,
        length: int,
        sampling: Sampling,
        manifest: Manifest,
        *,
        told: Callable[[int], None],
    ) -> None:
        self._text, self._left, self._sampling = bytearray(prompt), length, sampling
        self._context, self._told = manifest.model.context, told

    def shapes(self) -> Shapes | None:
        """One text, as long as leaves room for what is to come."""
        if self._left <= 0:
            return None
        room = min(self._left, max(1, self._context // 2))
        size = min(len(self._text), self._context + 1 - room)
        return ((1, size),), min(self._left, self._context + 1 - size)

    def question(self, microbatches: tuple[int, ...], *, first: bool, last: bool) -> Question:
        """The text to the first stage, sampling to the last."""
        shapes = self.shapes()
        assert shapes is not None
        text = bytes(self._text[-shapes[0][0][1] :])
        # Every session draws from where the one before left off.
        sampling = Sampling(
            temperature=self._sampling.temperature,
            top_p=self._sampling.top_p,
            seed=self._sampling.seed + self._left,
        )
        return Question(inputs=(text,) if first else (), targets=(), sampling=sampling if last else None)

    def heard(self, part: int, answer: Byte | Scored) -> bool:
        """One more byte."""
        assert isinstance(answer, Byte)
        self._text.append(answer.value)
        self._left -= 1
        self._told(answer.value)
        return answer.last or self._left <= 0


class Examination:
    """Score a text: nats of every byte but the first, given those before it in its window.

    Args:
        text: at least two bytes. told: hears (bytes scored so far, nats so far).
    """

    def __init__(self, text: bytes, manifest: Manifest, *, told: Callable[[int, float], None]) -> None:
        context, rows = manifest.model.context, manifest.training.rows
        self._told, self._nats, self._bytes = told, 0.0, 0
        windows = [
            (text[i : i + context], text[i + 1 : i + 1 + context]) for i in range(0, max(0, len(text) - 1), context)
        ]
        windows = [(inputs[: len(targets)], targets) for inputs, targets in windows]
        whole = [w for w in windows if len(w[0]) == context]
        self._batches = [whole[i : i + rows] for i in range(0, len(whole), rows)]
        self._batches += [[w] for w in windows if len(w[0]) < context]
        self._now: list[list[tuple[bytes, bytes]]] = []
        self._most = min(MICROBATCHES_MAX, 4 * manifest.training.microbatches)

    def shapes(self) -> Shapes | None:
        """The next windows, a few micro-batches at a time."""
        self._now = self._batches[: self._most]
        if not self._now:
            return None
        return tuple((len(batch), len(batch[0][0])) for batch in self._now), 0

    def question(self, microbatches: tuple[int, ...], *, first: bool, last: bool) -> Question:
        """Inputs to the first stage, targets to the last."""
        batches = [self._now[m] for m in microbatches]
        inputs = tuple(b"".join(window for window, _ in batch) for batch in batches) if first else ()
        targets = tuple(b"".join(after for _, after in batch) for batch in batches) if last else ()
        return Question(inputs=inputs, targets=targets, sampling=None)

    def heard(self, part: int, answer: Byte | Scored) -> bool:
        """The score of one more micro-batch."""
        assert isinstance(answer, Scored)
        batch = self._now[part]
        self._nats += answer.nats
        self._bytes += sum(len(after) for _, after in batch)
        self._batches.remove(batch)
        self._told(self._bytes, self._nats)
        return part + 1 == len(self._now)
