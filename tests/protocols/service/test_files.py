"""Reading a corpus from files."""

import os
from pathlib import Path

import pytest

from interlock.protocols import corpus
from interlock.protocols.errors import Misused
from interlock.protocols.service import files
from interlock.vault import Identity


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def names(collected: files.Collected) -> list[str]:
    return [document.name for document in collected.documents]


def test_a_folder_gives_its_text_files_in_order_and_counts_the_others(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "sub/c.md", ".git/config", ".hidden"):
        write(tmp_path / "texts" / name, name.encode())
    write(tmp_path / "texts" / "picture.png", b"\x89PNG\0")
    write(tmp_path / "texts" / "empty.txt", b"")
    write(tmp_path / "texts" / "lines.jsonl", b'{"text": "one"}\n{"text": "two"}\n')
    found = files.collect([tmp_path / "texts"])
    expected = ["texts/a.txt", "texts/b.txt", "texts/lines.jsonl:1", "texts/lines.jsonl:2", "texts/sub/c.md"]
    assert names(found) == expected
    assert found.skipped == 2


def test_a_copy_of_a_folder_elsewhere_has_the_same_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("here", "there"):
        write(tmp_path / place / "texts" / "a.txt", b"text")
    monkeypatch.chdir(tmp_path / "here" / "texts")
    given = [Path("."), tmp_path / "there" / "texts", Path("../texts/")]
    assert len({tuple(names(files.collect([path]))) for path in given}) == 1


def test_a_file_is_named_by_itself(tmp_path: Path) -> None:
    assert names(files.collect([write(tmp_path / "a.txt", b"text")])) == ["a.txt"]


def test_a_path_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Misused, match=r"E607 .*there is none"):
        files.collect([tmp_path / "nothing"])


def test_a_key_is_not_read_as_text(tmp_path: Path) -> None:
    write(tmp_path / "texts" / "a.txt", b"text")
    (tmp_path / "texts" / "run" / "keys").mkdir(parents=True)
    Identity.generate().save(tmp_path / "texts" / "run" / "keys" / "coordinator.key")
    with pytest.raises(Misused, match=r"E608 .*coordinator.key is a key file"):
        files.collect([tmp_path / "texts"])


def test_neither_pipes_nor_links_to_folders_are_followed(tmp_path: Path) -> None:
    write(tmp_path / "texts" / "a.txt", b"text")
    os.mkfifo(tmp_path / "texts" / "pipe")
    (tmp_path / "texts" / "loop").symlink_to(tmp_path / "texts")
    assert names(files.collect([tmp_path / "texts"])) == ["texts/a.txt"]


def test_text_above_the_bound_is_refused_and_a_large_file_of_other_things_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "SIZE_BYTES_MAX", 100)
    write(tmp_path / "texts" / "a.txt", b"a" * 59)
    write(tmp_path / "texts" / "b.txt", b"b" * 39)
    write(tmp_path / "texts" / "film", b"\0" * 1000)
    found = files.collect([tmp_path / "texts"])
    assert (len(found.documents), found.skipped) == (2, 1)
    write(tmp_path / "texts" / "c.txt", "é".encode())
    with pytest.raises(Misused, match="E606"):
        files.collect([tmp_path / "texts"])
    with pytest.raises(Misused, match="E606"):  # with the byte that separates documents it is one too many
        files.collect([write(tmp_path / "full.txt", b"f" * 100)])


def test_the_standard_library_is_a_corpus_without_its_tests() -> None:
    found = files.standard_library()
    folders = {part for name in names(found) for part in name.split("/")[:-1]}
    assert {"json", "email"} <= folders
    assert not folders & {"test", "tests", "idle_test", "site-packages", "__pycache__"}
    assert names(found) == sorted(names(found))
    assert all(name.endswith(".py") for name in names(found))
    whole = corpus.split(found.documents)
    assert len(whole.train) > 1_000_000
    assert len(whole.validation) >= corpus.VALIDATION_BYTES
