"""The corpus: documents in, two byte strings out, served in hashed chunks and read in windows.

A *document* is one text file, or one line of a JSON lines file. Whole documents are held out, chosen by the hash of
their names, so that adding a file moves no other file across the split on its own and nobody picks what is measured.

Each document is followed by one zero byte. UTF-8 text never needs that byte and a document that has it is not taken
as text, so the byte means "the document ends here" and nothing else: the model learns where texts end, and a
generating session can stop there. The model's vocabulary is the 256 bytes.

    documents -> split -> Corpus -> index, chunk -> (wire) -> verify_chunk, assemble -> Corpus -> batch

B = windows in a batch, T = context (bytes).
"""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt

from interlock.kernels.errors import OutOfRange
from interlock.kernels.mask import keystream

from . import canonical
from .canonical import Count, Hash, Plain
from .errors import Misused, Refused
from .manifest import Data

Int64 = npt.NDArray[np.int64]

SIZE_BYTES_MAX = 64 * 2**20  # of all documents together: every first- and last-stage node holds it in memory
VALIDATION_BYTES = 200_000  # held out unless told otherwise
PART_BYTES_MIN = 4096  # less cannot show whether a model learns
CHUNK_BYTES = 256 * 2**10
CHUNKS_MAX = 1024  # four times SIZE_BYTES_MAX: an index stays below 40 kB
SEPARATOR = b"\0"


@dataclass(frozen=True, slots=True)
class Document:
    """One text: its relative name (`path`, or `path:line` of a JSON lines file) and its UTF-8 bytes."""

    name: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Corpus:
    """Both parts, each a run of documents with a zero byte after each."""

    train: bytes = field(repr=False)
    validation: bytes = field(repr=False)


class Index(Plain, frozen=True, array_like=True, forbid_unknown_fields=True, kw_only=True):
    """SHA-256 of every chunk of train and validation, laid end to end. The last chunk may be short."""

    chunk_bytes: Annotated[int, msgspec.Meta(ge=1, le=CHUNK_BYTES)]
    train_bytes: Count
    validation_bytes: Count
    chunks: Annotated[tuple[Hash, ...], msgspec.Meta(max_length=CHUNKS_MAX)]


class _Line(msgspec.Struct):
    """What is read of a line of JSON; other fields are passed over."""

    text: str


def is_text(data: bytes, *, cut: bool = False) -> bool:
    """Tell whether bytes are UTF-8 without a zero byte; of `cut` bytes the last character may be incomplete.

    >>> is_text("é".encode()), is_text("é".encode()[:1]), is_text("é".encode()[:1], cut=True), is_text(b"a" + SEPARATOR)
    (True, False, True, False)
    """
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data, final=not cut)
    except UnicodeDecodeError:
        return False
    return SEPARATOR not in data


def documents(name: str, data: bytes) -> list[Document]:
    """Read the documents in one file: one a line for a name that ends in `.jsonl`, else the file itself.

    Empty texts are left out, and so is a file that is not text (the list is empty).

    Raises:
        Misused: E603, a line is not a JSON object with a string "text", or its text has a zero byte.

    >>> documents("a.jsonl", b'{"text": "first"}\\n\\n{"text": "second"}\\n')
    [Document(name='a.jsonl:1'), Document(name='a.jsonl:3')]
    """
    if not name.lower().endswith(".jsonl"):
        return [Document(name, data)] if data and is_text(data) else []
    found = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        text = _text(f"{name}:{number}", line)
        if text:
            found.append(Document(f"{name}:{number}", text))
    return found


def _text(where: str, line: bytes) -> bytes:
    """Take the text out of one line of JSON."""
    expected = 'a JSON object with a string "text"'
    todo = "Correct that line, or name the file .txt if it is to be learned as it is."
    try:
        text = msgspec.json.decode(line, type=_Line).text.encode()
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise Misused(603, f"{where} is no document", expected=expected, actual=str(error), todo=todo) from None
    if SEPARATOR in text:
        raise Misused(603, f"{where} is no document", expected="text without a zero byte", actual="one", todo=todo)
    return text


def split(found: Iterable[Document], *, validation_bytes: int = VALIDATION_BYTES) -> Corpus:
    """Lay out a corpus, with whole documents held out.

    Documents are sorted by the SHA-256 of their names, those larger than `validation_bytes` last, so that one large
    file is not all that is measured (it still is where there is nothing else). From the front, each is held out
    until `validation_bytes` are; one that would bring the held-out part above half of the whole is passed over. A
    text that occurs twice is taken once, so that what is measured was not trained on under another name.

    Args:
        found: in any order; the result does not depend on it.
        validation_bytes: how much to hold out, separators included.

    Raises:
        Misused: E601, there is no document; E602, a part is smaller than 4096 bytes; E606, the whole is larger
            than 64 MiB.
    """
    unique: dict[bytes, Document] = {}
    for document in sorted(found, key=_place):
        unique.setdefault(hashlib.sha256(document.data).digest(), document)
    if not unique:
        raise Misused(
            601, "the corpus is empty", expected="UTF-8 text", actual="none", todo="Name files or folders: --data PATH"
        )
    total = sum(len(document.data) + 1 for document in unique.values())
    if total > SIZE_BYTES_MAX:
        raise too_large(total)
    train, validation, held_out = [], [], 0
    for document in sorted(unique.values(), key=lambda document: len(document.data) >= validation_bytes):
        size = len(document.data) + 1
        if held_out < validation_bytes and held_out + size <= total // 2:
            held_out += size
            validation += [document.data, SEPARATOR]
        else:
            train += [document.data, SEPARATOR]
    if min(held_out, total - held_out) < PART_BYTES_MIN:
        raise Misused(
            602,
            "the corpus is too small to hold whole files out of it",
            expected=f"at least {PART_BYTES_MIN} bytes to train on and as many held out",
            actual=f"{total - held_out} and {held_out} bytes in {len(unique)} files",
            todo="Add text, split a large file into several, or hold out more: --validation-bytes",
        )
    return Corpus(b"".join(train), b"".join(validation))


def _place(document: Document) -> tuple[bytes, bytes]:
    """Sort by the hash of the name. Documents of one name (from two folders) follow by their text."""
    name = document.name.encode("utf-8", "surrogateescape")  # a file name may be any bytes
    return hashlib.sha256(name).digest(), document.data


def too_large(size: int) -> Misused:
    """Make the error of a corpus of at least `size` bytes."""
    return Misused(
        606,
        "the corpus is too large",
        expected=f"at most {SIZE_BYTES_MAX} bytes",
        actual=f"{size} or more",
        todo="Name fewer files with --data.",
    )


def index(corpus: Corpus) -> Index:
    """Hash every chunk."""
    sizes = len(corpus.train), len(corpus.validation)
    return Index(
        chunk_bytes=CHUNK_BYTES,
        train_bytes=sizes[0],
        validation_bytes=sizes[1],
        chunks=tuple(hashlib.sha256(chunk(corpus, n)).digest() for n in range(chunk_count(sum(sizes)))),
    )


def digest(index: Index) -> bytes:
    """Hash the index: what the manifest holds, and so what the run's id fixes."""
    return canonical.digest("interlock/corpus", canonical.encode(index))


def describe(index: Index) -> Data:
    """Make the manifest's record of a corpus."""
    return Data(index=digest(index), train_bytes=index.train_bytes, validation_bytes=index.validation_bytes)


def verify_index(index: Index, data: Data) -> None:
    """Check a received index against the manifest.

    Raises:
        Refused: E605, it is another corpus's index, or does not fit its own sizes.
    """
    if (actual := describe(index)) != data:
        raise Refused(605, "the corpus index is not the manifest's", expected=data, actual=actual)
    expected = chunk_count(index.train_bytes + index.validation_bytes, index.chunk_bytes)
    if len(index.chunks) != expected:
        raise Refused(605, "chunks in the corpus index", expected=expected, actual=len(index.chunks))


def chunk_count(size: int, chunk_bytes: int = CHUNK_BYTES) -> int:
    """Count the chunks of `size` bytes."""
    return -(-size // chunk_bytes)


def chunk(corpus: Corpus, number: int) -> bytes:
    """Cut chunk `number` (from 0) out of train and validation laid end to end.

    Raises:
        Refused: E604, there is no such chunk.
    """
    train, validation = corpus.train, corpus.validation
    count = chunk_count(len(train) + len(validation))
    if not 0 <= number < count:
        raise Refused(604, "no such chunk of the corpus", expected=f"0 to {count - 1}", actual=number)
    start, stop = number * CHUNK_BYTES, (number + 1) * CHUNK_BYTES
    behind = max(start - len(train), 0), max(stop - len(train), 0)
    return train[start:stop] + validation[slice(*behind)]


def verify_chunk(index: Index, number: int, data: bytes | memoryview) -> None:
    """Check a received chunk.

    Raises:
        Refused: E604, there is no such chunk, or its bytes are not what the index names.
    """
    if not 0 <= number < len(index.chunks):
        raise Refused(604, "no such chunk of the corpus", expected=f"0 to {len(index.chunks) - 1}", actual=number)
    if (actual := hashlib.sha256(data).digest()) != index.chunks[number]:
        expected = index.chunks[number].hex()[:12]
        raise Refused(604, f"chunk {number} of the corpus", expected=expected, actual=actual.hex()[:12])


def assemble(index: Index, chunks: Sequence[bytes | memoryview]) -> Corpus:
    """Put all chunks of a verified index together again.

    Raises:
        Refused: E604, a chunk is missing, surplus or not what the index names.
    """
    if len(chunks) != len(index.chunks):
        raise Refused(604, "chunks of the corpus", expected=len(index.chunks), actual=len(chunks))
    for number, data in enumerate(chunks):
        verify_chunk(index, number, data)
    whole = b"".join(chunks)
    size = index.train_bytes + index.validation_bytes
    if len(whole) != size:
        raise Refused(604, "bytes of the corpus", expected=size, actual=len(whole))
    return Corpus(whole[: index.train_bytes], whole[index.train_bytes :])


def window_count(size: int, context: int) -> int:
    """Count the windows of `context + 1` bytes at stride `context`: every byte but the first is a target once.

    A rest shorter than a window is left out.

    >>> window_count(9, 4), window_count(8, 4), window_count(0, 4)
    (2, 1, 0)
    """
    if context < 1:
        raise OutOfRange(f"context in bytes: expected 1 or more, got {context}")
    return max(size - 1, 0) // context


def batch(data: bytes | memoryview, windows: Sequence[int] | Int64, context: int) -> tuple[Int64, Int64]:
    """Read windows by number: inputs and the bytes that follow them.

    Returns:
        inputs and targets, int64, each of shape (B, T); `targets[:, t]` is the byte after `inputs[:, t]`.

    Raises:
        OutOfRange: there is no such window.

    >>> batch(b"abcdefghi", [1], 4)[0].tolist(), batch(b"abcdefghi", [1], 4)[1].tolist()
    ([[101, 102, 103, 104]], [[102, 103, 104, 105]])
    """
    text = np.frombuffer(data, np.uint8)
    numbers_B = np.asarray(windows, np.int64)
    count = window_count(text.size, context)
    if numbers_B.size and not 0 <= numbers_B.min() <= numbers_B.max() < count:
        raise OutOfRange(f"windows: expected numbers from 0 to {count - 1}, got {numbers_B.tolist()}")
    read = text[numbers_B[:, None] * context + np.arange(context + 1)].astype(np.int64)  # (B, T + 1)
    return read[:, :-1], read[:, 1:]


def order(key: bytes, total: int) -> Int64:
    """Shuffle `range(total)` by a key, the same on every machine.

    Each number gets a 64-bit word of the key's keystream (AES-256-CTR, little-endian) and the numbers are sorted
    by their words, equal words in their own order. Integers only, so nothing depends on a library's generator.

    Args:
        key: 32 bytes that serve this order only.
        total: how many numbers.

    Returns:
        int64, shape (total,), each number once.

    Raises:
        OutOfRange: the key is not 32 bytes, or the total is negative.
    """
    words = keystream(key, 8 * total).view(np.dtype("<u8"))
    return np.argsort(words, kind="stable").astype(np.int64, copy=False)
