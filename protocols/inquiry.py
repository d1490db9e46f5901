"""What an asker can want: a text continued, or texts scored. Each is cut into sessions that fit the model's context."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True, eq=False, slots=True)
class _Batch:
    """Windows of one length of one text: (inputs, targets) each."""

    text: int
    windows: list[tuple[bytes, bytes]]


def _batches(index: int, text: bytes, manifest: Manifest) -> list[_Batch]:
    context, rows = manifest.model.context, manifest.training.rows
    windows = []
    for start in range(0, max(0, len(text) - 1), context):
        targets = text[start + 1 : start + 1 + context]
        windows.append((text[start : start + len(targets)], targets))
    whole = windows if not windows or len(windows[-1][0]) == context else windows[:-1]
    rest = windows[len(whole) :]
    found = [_Batch(index, whole[i : i + rows]) for i in range(0, len(whole), rows)]
    return found + ([_Batch(index, rest)] if rest else [])


class Examination:
    """Score texts: nats of every byte but a text's first, given those before it in its window.

    Args:
        texts: those of less than two bytes have nothing to score. told: hears (index of the text, bytes, nats) of one
            micro-batch at a time.
    """

    def __init__(self, texts: Sequence[bytes], manifest: Manifest, *, told: Callable[[int, int, float], None]) -> None:
        self._told = told
        self._batches = [batch for index, text in enumerate(texts) for batch in _batches(index, text, manifest)]
        self._now: list[_Batch] = []
        self._most = min(MICROBATCHES_MAX, 4 * manifest.training.microbatches)

    def shapes(self) -> Shapes | None:
        """The next windows, a few micro-batches at a time."""
        self._now = self._batches[: self._most]
        if not self._now:
            return None
        return tuple((len(batch.windows), len(batch.windows[0][0])) for batch in self._now), 0

    def question(self, microbatches: tuple[int, ...], *, first: bool, last: bool) -> Question:
        """Inputs to the first stage, targets to the last."""
        batches = [self._now[m] for m in microbatches]
        inputs = tuple(b"".join(inputs for inputs, _ in batch.windows) for batch in batches) if first else ()
        targets = tuple(b"".join(targets for _, targets in batch.windows) for batch in batches) if last else ()
        return Question(inputs=inputs, targets=targets, sampling=None)

    def heard(self, part: int, answer: Byte | Scored) -> bool:
        """The score of one more micro-batch."""
        assert isinstance(answer, Scored)
        batch = self._now[part]
        self._batches.remove(batch)
        self._told(batch.text, sum(len(targets) for _, targets in batch.windows), answer.nats)
        return part + 1 == len(self._now)
