"""A backup opens with its passphrase and with nothing else, and shows nothing of the key."""

from __future__ import annotations

import pytest
from nacl import pwhash
from nacl.secret import SecretBox

from interlock.vault import BackupRefused, Identity, Secret, open_backup, seal_backup
from interlock.vault.backup import MEMORY_BYTES, PASSES

SEED = bytes(range(32))
ME, PASSPHRASE = Identity(Secret(SEED)), Secret(b"correct horse battery")


@pytest.fixture(scope="module")
def text() -> str:
    return seal_backup(ME, PASSPHRASE)


def test_a_backup_gives_the_identity_back_and_does_not_show_it(text: str) -> None:
    assert open_backup(text, PASSPHRASE).curve_secret == ME.curve_secret
    assert SEED.hex() not in text
    assert ME.public.hex() in text


def test_a_backup_can_be_opened_without_this_program(text: str) -> None:
    """By the documents of libsodium alone, from what the file says."""
    header, public, parameters, sealed = text.splitlines()
    name, passes, memory, salt = parameters.split()
    assert (header, public, name) == ("interlock-backup-v1", f"# public {ME.public.hex()}", "argon2id")
    key = pwhash.argon2id.kdf(32, PASSPHRASE.reveal(), bytes.fromhex(salt), int(passes), int(memory))
    assert SecretBox(key).decrypt(bytes.fromhex(sealed)) == SEED


def test_the_parameters_are_libsodiums() -> None:
    assert (PASSES, MEMORY_BYTES) == (pwhash.argon2id.OPSLIMIT_MODERATE, pwhash.argon2id.MEMLIMIT_MODERATE)


def test_two_backups_of_one_key_have_nothing_in_common(text: str) -> None:
    again = seal_backup(ME, PASSPHRASE)
    assert again.splitlines()[2:] != text.splitlines()[2:]
    assert again.splitlines()[2] != text.splitlines()[2]  # the salt alone


def refusal(text: str, passphrase: Secret = PASSPHRASE) -> str:
    with pytest.raises(BackupRefused) as caught:
        open_backup(text, passphrase)
    assert caught.value.todo
    assert "horse" not in str(caught.value)
    return str(caught.value)


def test_another_passphrase_and_changed_bytes_are_one_error(text: str) -> None:
    lines = text.splitlines(keepends=True)
    last = ("0" if lines[3][0] != "0" else "1") + lines[3][1:]
    wrong = refusal(text, Secret(b"correct horse batterz"))
    assert wrong == refusal("".join([*lines[:3], last]))
    assert wrong.startswith("E106 this backup does not open")


def test_a_backup_of_another_key_under_this_name_is_refused(text: str) -> None:
    assert "contradicts itself" in refusal(text.replace(ME.public.hex(), Identity.generate().public.hex()))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: text[:-10],
        lambda text: text + "\n",
        lambda text: text.replace("v1", "v2", 1),
        lambda text: text.replace("argon2id 3", "argon2id 1"),
        lambda text: text.replace("268435456", "1073741824000"),
        lambda text: text.replace("\n", "\r\n"),
    ],
)
def test_what_is_no_backup_is_not_tried(text: str, change: object) -> None:
    assert callable(change)
    assert "not a whole backup" in refusal(change(text))
