"""The corpus: what is taken as text, what is held out, chunks and windows."""

import hashlib
import json
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given
from hypothesis import strategies as st

from interlock.kernels.errors import OutOfRange
from interlock.protocols import canonical, corpus
from interlock.protocols.corpus import CHUNK_BYTES, PART_BYTES_MIN, Corpus, Document, Index
from interlock.protocols.errors import Misused, Refused

# Sizes from small to well above what the tests below ask to hold out.
SIZES = st.lists(st.integers(1, 30_000), min_size=1, max_size=40)


def made(sizes: list[int]) -> list[Document]:
    """Documents of these sizes, all different."""
    return [Document(f"d{i}.txt", f"{i} ".encode().ljust(size, b".")[:size]) for i, size in enumerate(sizes)]


def parts(text: bytes) -> list[bytes]:
    """The documents in a part."""
    assert text.endswith(b"\0")
    return text[:-1].split(b"\0")


def place(document: Document) -> bytes:
    return hashlib.sha256(document.name.encode()).digest()


# --- documents ---


@given(st.text(min_size=1))
def test_a_file_is_taken_as_it_is_exactly_if_it_is_text_without_a_zero_byte(text: str) -> None:
    try:
        data = text.encode()
    except UnicodeEncodeError:
        data = text.encode("utf-8", "surrogatepass")  # bytes that are not UTF-8
        assert corpus.documents("a.txt", data) == []
    else:
        assert corpus.documents("a.txt", data) == ([] if "\0" in text else [Document("a.txt", data)])


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1), st.integers(0, 3))
def test_text_cut_anywhere_is_still_told_from_what_is_not_text(text: str, back: int) -> None:
    data = text.encode()
    assert corpus.is_text(data[: max(len(data) - back, 0)], cut=True)
    assert not corpus.is_text(data + b"\xff", cut=True)


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"a\0b", b"\xc3", b"\xed\xa0\x80"])
def test_a_file_that_is_empty_or_not_text_is_no_document(data: bytes) -> None:
    assert corpus.documents("a.txt", data) == []


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))))
def test_each_line_of_json_is_a_document_named_by_its_line(texts: list[str]) -> None:
    data = "\n".join(json.dumps({"id": 7, "text": text}) for text in texts).encode()
    expected = [Document(f"x/a.JSONL:{n}", text.encode()) for n, text in enumerate(texts, 1) if text]
    assert corpus.documents("x/a.JSONL", data) == expected


@pytest.mark.parametrize(
    "line",
    [b"text", b"[]", b'"text"', b'{"body": "x"}', b'{"text": 1}', b'{"text": "\xff"}', b'{"text": "\\ud800"}',
     b'{"text": "a\\u0000b"}', b'{"text": null}', b'{"text": "a"', b'{"x": ' + b"[" * 5000],
)  # fmt: skip
def test_a_line_that_is_no_document_is_named(line: bytes) -> None:
    with pytest.raises(Misused, match=r"E603 a\.jsonl:3 ") as caught:
        corpus.documents("a.jsonl", b'{"text": "fine"}\r\n\n' + line + b'\n{"text": "fine"}')
    assert caught.value.todo


# --- split ---


@given(SIZES, st.integers(1, 60_000), st.randoms(use_true_random=False))
def test_the_split_holds_every_document_once_whatever_their_order(sizes: list[int], wanted: int, random) -> None:
    found = made(sizes)
    try:
        whole = corpus.split(found, validation_bytes=wanted)
    except Misused as error:
        if error.number != 602:
            raise
        return
    assert sorted(parts(whole.train) + parts(whole.validation)) == sorted({d.data for d in found})
    random.shuffle(found)
    assert corpus.split(found, validation_bytes=wanted) == whole


@given(SIZES, st.integers(1, 60_000))
def test_what_is_held_out_reaches_what_was_asked_or_all_that_half_allows(sizes: list[int], wanted: int) -> None:
    try:
        whole = corpus.split(made(sizes), validation_bytes=wanted)
    except Misused:
        return
    held, total = len(whole.validation), len(whole.train) + len(whole.validation)
    assert min(len(whole.train), held) >= PART_BYTES_MIN
    assert held <= total // 2
    if held < wanted:  # nothing that was passed over would have fit
        assert all(held + len(text) + 1 > total // 2 for text in parts(whole.train))


@given(SIZES)
def test_each_part_is_laid_out_by_the_hash_of_the_names_with_large_documents_last(sizes: list[int]) -> None:
    found = list({d.data: d for d in made(sizes)}.values())
    try:
        whole = corpus.split(found, validation_bytes=9_000)
    except Misused:
        return
    laid = [d.data for d in sorted(found, key=lambda d: (len(d.data) >= 9_000, place(d)))]
    for part in (parts(whole.train), parts(whole.validation)):
        assert [text for text in laid if text in part] == part


def test_one_large_document_is_not_all_that_is_held_out() -> None:
    small, large = made([5_000] * 10), [Document(f"large{i}", bytes([65 + i]) * 300_000) for i in range(9)]
    whole = corpus.split(small + large, validation_bytes=20_000)
    assert sorted(len(text) for text in parts(whole.validation)) == [5_000] * 4


@given(st.text(min_size=1, max_size=9))
def test_a_document_that_joins_moves_at_most_one_other_across(name: str) -> None:
    found = made([5_000] * 40)
    before = parts(corpus.split(found, validation_bytes=50_000).validation)
    joined = Document(name.encode("utf-8", "replace").decode(), b"n" * 5_000)
    after = parts(corpus.split([*found, joined], validation_bytes=50_000).validation)
    assert [text for text in after if text != joined.data] in (before, before[:-1])


def test_a_text_under_two_names_is_not_both_trained_on_and_held_out() -> None:
    found = made([5_000] * 8)
    copies = [Document(f"copy-of-{d.name}", d.data) for d in found]
    whole = corpus.split(found + copies)
    assert len(parts(whole.train) + parts(whole.validation)) == 8


def test_names_that_are_not_unicode_have_a_place() -> None:
    odd = [Document(b"caf\xe9.txt".decode("utf-8", "surrogateescape"), b"x" * 9_000), *made([9_000])]
    assert len(corpus.split(odd).validation) == 9_001


def test_an_empty_corpus_says_what_to_do() -> None:
    with pytest.raises(Misused, match="E601") as caught:
        corpus.split([])
    assert "--data" in caught.value.todo


@pytest.mark.parametrize("sizes", [[1_000_000], [PART_BYTES_MIN - 2] * 2, [1_000_000, 10]])
def test_a_corpus_too_small_to_split_is_refused_with_its_sizes(sizes: list[int]) -> None:
    with pytest.raises(Misused, match="E602") as caught:
        corpus.split(made(sizes))
    assert str(PART_BYTES_MIN) in caught.value.expected
    assert f"in {len(sizes)} files" in caught.value.actual


def test_a_corpus_above_the_bound_is_refused() -> None:
    half = corpus.SIZE_BYTES_MAX // 2
    fits = [Document("a", b"a" * (half - 1)), Document("b", b"b" * (half - 1))]
    assert len(corpus.split(fits).train) == half
    with pytest.raises(Misused, match="E606"):
        corpus.split([fits[0], Document("b", b"b" * half)])


# --- chunks ---

CORPORA = st.builds(
    lambda train, validation, step: Corpus(
        (b"train text" * (train * step // 10 + 1))[: train * step + 1],
        (b"held out" * (validation * step // 8 + 1))[: validation * step + 1],
    ),
    st.integers(0, 12),
    st.integers(0, 6),
    st.sampled_from([CHUNK_BYTES // 4, CHUNK_BYTES // 4 - 1, 60_001]),
)


@given(CORPORA)
def test_chunks_come_together_to_the_same_corpus(whole: Corpus) -> None:
    index = corpus.index(whole)
    chunks = [corpus.chunk(whole, n) for n in range(len(index.chunks))]
    assert b"".join(chunks) == whole.train + whole.validation
    assert {len(c) for c in chunks[:-1]} <= {CHUNK_BYTES}
    assert 0 < len(chunks[-1]) <= CHUNK_BYTES
    assert corpus.assemble(index, chunks) == whole
    corpus.verify_index(canonical.decode(canonical.encode(index), Index), corpus.describe(index))


WHOLE = Corpus(b"t" * (2 * CHUNK_BYTES - 7), b"v" * CHUNK_BYTES)
INDEX = corpus.index(WHOLE)
CHUNKS = [corpus.chunk(WHOLE, n) for n in range(3)]


def test_the_index_of_a_corpus_is_known() -> None:
    expected = tuple(hashlib.sha256(c).digest() for c in (CHUNKS[0], b"t" * (CHUNK_BYTES - 7) + b"v" * 7, CHUNKS[2]))
    assert INDEX.chunks == expected
    # SHA-256 over "interlock/corpus" and the MessagePack array [262144, 524281, 262144, [hash, hash, hash]].
    packed = b"\x94\xce\x00\x04\x00\x00\xce\x00\x07\xff\xf9\xce\x00\x04\x00\x00\x93"
    packed += b"".join(b"\xc4\x20" + h for h in expected)
    prefixed = (16).to_bytes(8, "big") + b"interlock/corpus" + len(packed).to_bytes(8, "big") + packed
    assert corpus.digest(INDEX) == hashlib.sha256(prefixed).digest()


@given(st.integers(0, 2), st.integers(0, CHUNK_BYTES - 8), st.integers(1, 255))
def test_a_chunk_with_one_byte_changed_is_refused(number: int, at: int, change: int) -> None:
    data = bytearray(CHUNKS[number])
    data[at] ^= change
    with pytest.raises(Refused, match="E604"):
        corpus.verify_chunk(INDEX, number, bytes(data))


@pytest.mark.parametrize("number", [-1, 3])
def test_a_chunk_that_is_not_there_is_refused(number: int) -> None:
    with pytest.raises(Refused, match="E604"):
        corpus.verify_chunk(INDEX, number, CHUNKS[number % 3])
    with pytest.raises(Refused, match="E604"):
        corpus.chunk(WHOLE, number)


@pytest.mark.parametrize("chunks", [CHUNKS[:2], [*CHUNKS, b""], [CHUNKS[1], CHUNKS[0], CHUNKS[2]], []])
def test_missing_surplus_or_exchanged_chunks_are_refused(chunks: list[bytes]) -> None:
    with pytest.raises(Refused, match="E604"):
        corpus.assemble(INDEX, chunks)


def test_an_index_whose_sizes_are_not_its_chunks_assembles_nothing() -> None:
    with pytest.raises(Refused, match="E604"):
        corpus.assemble(msgspec.structs.replace(INDEX, train_bytes=5), CHUNKS)


@pytest.mark.parametrize(
    "changed",
    [
        {"train_bytes": INDEX.train_bytes + 1},
        {"validation_bytes": 1},
        {"chunk_bytes": 1024},
        {"chunks": INDEX.chunks[::-1]},
        {"chunks": INDEX.chunks[:2]},
    ],
)
def test_another_index_than_the_manifests_is_refused(changed: dict) -> None:
    with pytest.raises(Refused, match="E605"):
        corpus.verify_index(msgspec.structs.replace(INDEX, **changed), corpus.describe(INDEX))


@pytest.mark.parametrize("changed", [{"chunk_bytes": 1024}, {"chunks": INDEX.chunks[:2]}])
def test_an_index_that_does_not_fit_its_sizes_is_refused_even_if_the_manifest_names_it(changed: dict) -> None:
    index = msgspec.structs.replace(INDEX, **changed)
    with pytest.raises(Refused, match="E605 chunks"):
        corpus.verify_index(index, corpus.describe(index))


@pytest.mark.parametrize(
    "changed",
    [{"chunk_bytes": 0}, {"chunk_bytes": CHUNK_BYTES + 1}, {"chunks": (b"short",)}, {"chunks": INDEX.chunks * 400}],
)
def test_an_index_out_of_bounds_is_not_decoded(changed: dict) -> None:
    with pytest.raises(Refused, match="E201"):
        canonical.decode(canonical.encode(msgspec.structs.replace(INDEX, **changed)), Index)


def test_the_largest_corpus_has_an_index_within_bounds() -> None:
    assert corpus.chunk_count(corpus.SIZE_BYTES_MAX) <= corpus.CHUNKS_MAX


# --- windows ---


@given(st.integers(0, 5_000), st.integers(1, 700))
def test_windows_fit_and_one_more_would_not(size: int, context: int) -> None:
    count = corpus.window_count(size, context)
    assert count == 0 or (count - 1) * context + context + 1 <= size
    assert count * context + context + 1 > size


@given(st.binary(min_size=2, max_size=300), st.integers(1, 40), st.data())
def test_a_batch_is_the_windows_it_names_and_the_bytes_after(text: bytes, context: int, data) -> None:
    count = corpus.window_count(len(text), context)
    numbers = data.draw(st.lists(st.integers(0, count - 1), max_size=5)) if count else []
    inputs, targets = corpus.batch(text, numbers, context)
    assert inputs.shape == targets.shape == (len(numbers), context)
    assert inputs.dtype == targets.dtype == np.int64
    for row, n in enumerate(numbers):
        assert bytes(inputs[row].tolist()) == text[n * context : (n + 1) * context]
        assert bytes(targets[row].tolist()) == text[n * context + 1 : (n + 1) * context + 1]


@given(st.binary(min_size=2, max_size=300), st.integers(1, 40))
def test_over_all_windows_each_byte_is_a_target_at_most_once(text: bytes, context: int) -> None:
    count = corpus.window_count(len(text), context)
    _, targets = corpus.batch(text, range(count), context)
    assert bytes(targets.reshape(-1).tolist()) == text[1 : count * context + 1]


@pytest.mark.parametrize("windows", [[2], [-1], [0, 1, 2], [2**40]])
def test_a_window_that_is_not_there_is_refused(windows: list[int]) -> None:
    with pytest.raises(OutOfRange):
        corpus.batch(b"123456789", windows, 4)


def test_a_context_of_nothing_is_refused() -> None:
    with pytest.raises(OutOfRange):
        corpus.window_count(9, 0)


@given(st.binary(min_size=32, max_size=32), st.integers(0, 400))
def test_an_order_sorts_numbers_by_the_words_of_the_keystream(key: bytes, total: int) -> None:
    cipher = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    stream = cipher.update(bytes(8 * total))
    words = [int.from_bytes(stream[8 * i : 8 * i + 8], "little") for i in range(total)]
    shuffled = corpus.order(key, total)
    assert shuffled.dtype == np.int64
    assert shuffled.tolist() == sorted(range(total), key=lambda i: words[i])


def test_the_order_of_a_key_is_known() -> None:
    assert corpus.order(bytes(range(32)), 10).tolist() == [8, 6, 3, 9, 7, 1, 5, 4, 0, 2]


def test_every_order_of_three_is_as_likely_as_another() -> None:
    counts: dict[tuple[int, ...], int] = {}
    for n in range(6_000):
        found = tuple(corpus.order(hashlib.sha256(n.to_bytes(4, "big")).digest(), 3).tolist())
        counts[found] = counts.get(found, 0) + 1
    chi_squared = sum((c - 1_000) ** 2 / 1_000 for c in counts.values())
    assert len(counts) == 6
    assert chi_squared < 20.5  # the 99.9 % point for 5 degrees of freedom; the keys are fixed, so this never flickers


@pytest.mark.parametrize(("key", "total"), [(bytes(31), 3), (bytes(32), -1)])
def test_an_order_needs_a_whole_key_and_a_size(key: bytes, total: int) -> None:
    with pytest.raises(OutOfRange):
        corpus.order(key, total)


def test_neither_documents_nor_corpora_print_their_text() -> None:
    document = Document("name", b"some text")
    assert "text" not in repr(document)
    assert "text" not in repr(replace(WHOLE, train=b"some text"))
