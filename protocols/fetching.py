"""How a first- or last-stage node gets the text: the index, then its chunks, a few under way at a time."""

from __future__ import annotations

from dataclasses import dataclass

from .canonical import Count, Message
from .corpus import Index, verify_chunk, verify_index
from .effects import Blob, Effects, Send
from .errors import Refused
from .manifest import Manifest

CHUNKS_UNDER_WAY = 4


class GetIndex(Message, frozen=True, array_like=True, kw_only=True):
    """A first- or last-stage node asks for the corpus's index."""


class IndexIs(Message, frozen=True, array_like=True, kw_only=True):
    """The corpus's index; its digest stands in the manifest."""

    index: Index


class GetChunk(Message, frozen=True, array_like=True, kw_only=True):
    """Asks for one chunk of the corpus."""

    number: Count


class ChunkIs(Message, frozen=True, array_like=True, kw_only=True):
    """One chunk, as a blob."""

    number: Count


@dataclass(frozen=True, slots=True)
class Read:
    """Job: take the corpus into memory."""

    tick: int
    index: Index
    chunks: tuple[Blob, ...]


class Fetching:
    """The corpus as far as it has come."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._index: Index | None = None
        self._chunks: dict[int, Blob] = {}
        self._all_here = False

    def ask(self) -> Effects:
        """Ask for what comes next; asking again does no harm."""
        coordinator = self._manifest.coordinator
        if self._index is None:
            return [Send(coordinator, GetIndex())]
        if self._all_here:
            return []
        missing = (n for n in range(len(self._index.chunks)) if n not in self._chunks)
        return [Send(coordinator, GetChunk(number=n)) for n, _ in zip(missing, range(CHUNKS_UNDER_WAY), strict=False)]

    def index(self, message: IndexIs) -> Effects:
        """The index.

        Raises:
            Refused: E60x, it is not the manifest's.
        """
        if self._index is not None:
            return []
        verify_index(message.index, self._manifest.data)
        self._index = message.index
        return self.ask()

    def chunk(self, message: ChunkIs, blobs: tuple[Blob, ...]) -> tuple[Effects, Read | None]:
        """One chunk; with the last, the job to read them all.

        Raises:
            Refused: E604, not a chunk of this corpus.
        """
        index, number = self._index, message.number
        if index is None or number >= len(index.chunks) or len(blobs) != 1:
            raise Refused(604, f"a chunk {number} that was not asked for")
        if self._all_here or number in self._chunks:
            return [], None
        verify_chunk(index, number, blobs[0].data)
        self._chunks[number] = blobs[0]
        if len(self._chunks) == len(index.chunks):
            chunks = tuple(self._chunks[n] for n in range(len(index.chunks)))
            self._chunks.clear()
            self._all_here = True
            return [], Read(tick=0, index=index, chunks=chunks)
        following = number + CHUNKS_UNDER_WAY
        if following < len(index.chunks) and following not in self._chunks:
            return [Send(self._manifest.coordinator, GetChunk(number=following))], None
        return [], None
