"""Group and pair secrets: the ratchet, and what is derived for one tick."""

import hashlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.vault import Erased, GroupKey, NotOpened, PairKey, Ratchet, Secret, salted, secret_id
from interlock.vault.masks import STEPS_MAX

KEYS = st.binary(min_size=32, max_size=32)
FIELDS = st.binary(max_size=6)
KEY = bytes(range(32))
TICKS = st.integers(0, 2**40)


def stepped(secret: bytes, steps: int) -> bytes:
    """The ratchet by hand."""
    for _ in range(steps):
        secret = hashlib.sha256(b"interlock/ratchet/v1" + secret).digest()
    return secret


def prefixed(*parts: bytes) -> bytes:
    return b"".join(len(p).to_bytes(8, "big") + p for p in parts)


def keyed(key: bytes, *parts: bytes) -> bytes:
    return hashlib.blake2b(prefixed(*parts), key=key, digest_size=32).digest()


# --- ratchet ---


@given(KEYS, TICKS, st.lists(st.integers(0, 40), max_size=8))
def test_stepping_in_any_pattern_gives_the_same_key(secret: bytes, dealt: int, steps: list[int]) -> None:
    ratchet, reached = Ratchet(Secret(secret), dealt), dealt
    for step in steps:
        reached += step
        assert ratchet.at(reached) == Secret(stepped(secret, reached - dealt))
        assert ratchet.tick == reached


@given(KEYS, TICKS, st.integers(1, 30), st.integers(1, 50))
def test_a_ratchet_never_steps_back(secret: bytes, dealt: int, steps: int, back: int) -> None:
    ratchet = Ratchet(Secret(secret), dealt)
    expected = ratchet.at(dealt + steps)
    with pytest.raises(Erased, match="E104"):
        ratchet.at(dealt + steps - back)
    assert ratchet.at(dealt + steps) == expected  # the refusal changed nothing


@given(KEYS, st.integers(0, 20))
def test_stepping_erases_what_was_before(secret: bytes, steps: int) -> None:
    given_secret = Secret(secret)
    before = given_secret._buffer
    ratchet = Ratchet(given_secret, 5)
    ratchet.at(5 + steps)
    assert before == bytes(32)
    assert given_secret.erased


def test_the_key_that_was_handed_out_is_the_holders_to_erase() -> None:
    ratchet = Ratchet(Secret(KEY), 5)
    ratchet.at(6).erase()
    assert ratchet.at(6) == Secret(stepped(KEY, 1))
    handed = ratchet.at(7)
    ratchet.erase()
    assert handed == Secret(stepped(KEY, 2))


def test_an_erased_ratchet_gives_nothing() -> None:
    ratchet = Ratchet(Secret(KEY), 5)
    ratchet.at(6)
    buffer = ratchet._secret._buffer
    ratchet.erase()
    assert buffer == bytes(32)
    for tick in (6, 7):
        with pytest.raises(Erased):
            ratchet.at(tick)


def test_a_tick_absurdly_far_ahead_is_refused_and_changes_nothing() -> None:
    ratchet = Ratchet(Secret(KEY), 5)
    with pytest.raises(Erased, match=str(STEPS_MAX)):
        ratchet.at(5 + STEPS_MAX + 1)
    assert ratchet.tick == 5
    assert ratchet.at(5) == Secret(KEY)


def test_the_last_tick_within_reach_is_reached() -> None:
    assert (
        Ratchet(Secret(KEY), 0).at(STEPS_MAX).reveal().hex()
        == "93002bc133cc338f26a1f4d27fe14dc6903b933a3227d7ee70e714880b1f8edd"
    )


def test_a_ratchet_prints_no_secret() -> None:
    assert repr(Ratchet(Secret(KEY), 5)) == "Ratchet(tick 5)"


# --- what is derived ---


@given(KEYS, FIELDS, FIELDS, FIELDS)
def test_derived_values_are_the_prf_under_their_own_names(key: bytes, a: bytes, b: bytes, c: bytes) -> None:
    group, pair, tick = GroupKey(Secret(key)), PairKey(Secret(key)), 2**40 + 7
    at = tick.to_bytes(8, "big")
    assert group.tau(a, b, c) == keyed(key, b"tau", a, b, c)[:16]
    assert group.salt(a, tick, "state") == keyed(key, b"salt", a, at, b"state")
    assert group.seal_key("sum", a, tick).reveal() == keyed(key, b"seal/sum", a, at)
    assert pair.mask_key(a, b) == keyed(key, b"frame", a, b)
    assert pair.check(a, b) == keyed(key, b"check", a, b)[:16]
    assert pair.turn(a) == keyed(key, b"turn", a)
    assert pair.seal_key("bridge", a, tick).reveal() == keyed(key, b"seal/bridge", a, at)


@given(st.tuples(FIELDS, FIELDS, FIELDS), st.tuples(FIELDS, FIELDS, FIELDS))
def test_tau_separates_every_field(one: tuple[bytes, bytes, bytes], other: tuple[bytes, bytes, bytes]) -> None:
    group = GroupKey(Secret(KEY))
    assert (group.tau(*one) == group.tau(*other)) == (one == other)


@given(st.binary(min_size=3, max_size=12))
def test_moving_bytes_between_fields_changes_tau_key_and_check(data: bytes) -> None:
    group, pair = GroupKey(Secret(KEY)), PairKey(Secret(KEY))
    cuts = list(itertools.combinations_with_replacement(range(len(data) + 1), 2))
    assert len({group.tau(data[:i], data[i:j], data[j:]) for i, j in cuts}) == len(cuts)
    assert len({pair.mask_key(data[:i], data[i:]) for i in range(len(data) + 1)}) == len(data) + 1
    assert len({pair.check(data[:i], data[i:]) for i in range(len(data) + 1)}) == len(data) + 1


def test_nothing_derived_in_one_tick_equals_anything_else() -> None:
    key, a, b = Secret(KEY), b"a" * 32, b"b" * 16
    group, pair = GroupKey(key), PairKey(key)
    derived = [group.tau(a, b, b), group.tau(a, a, b), pair.mask_key(a, b), pair.check(a, b), pair.turn(a)]
    derived += [group.salt(a, tick, purpose) for tick in (1, 2) for purpose in ("state", "inputs")]
    for side in (group, pair):
        derived += [
            side.seal_key(purpose, sender, tick).reveal()
            for purpose in ("sum", "shard") for sender in (a, b) for tick in (1, 2)
        ]  # fmt: skip
    unlike = {value[:16] for value in derived}
    assert len(unlike) == len(derived) - 8  # group and pair, under one key here, seal alike; in a run keys differ


@given(KEYS, KEYS, FIELDS, FIELDS)
def test_another_key_derives_other_values(one: bytes, other: bytes, a: bytes, b: bytes) -> None:
    if one != other:
        assert GroupKey(Secret(one)).tau(a, b, b) != GroupKey(Secret(other)).tau(a, b, b)
        assert PairKey(Secret(one)).mask_key(a, b) != PairKey(Secret(other)).mask_key(a, b)


def test_lengths_are_those_of_the_frame_format() -> None:
    group, pair = GroupKey(Secret(KEY)), PairKey(Secret(KEY))
    assert len(group.tau(b"", b"", b"")) == len(pair.check(b"", b"")) == 16
    assert len(pair.mask_key(b"", b"")) == len(group.salt(b"", 0, "")) == len(pair.turn(b"")) == 32


@given(FIELDS, FIELDS)
def test_the_right_check_passes_and_any_other_is_refused(unit: bytes, tau: bytes) -> None:
    pair = PairKey(Secret(KEY))
    right = pair.check(unit, tau)
    pair.verify_check(unit, tau, right)
    wrong = [right[:-1], right + b"\0", b"", bytes(16), PairKey(Secret(bytes(32))).check(unit, tau)]
    wrong += [pair.check(unit + b"\0", tau), pair.check(unit, tau + b"\0")]
    wrong += [bytes([*right[:i], right[i] ^ 1, *right[i + 1 :]]) for i in range(16)]
    for check in wrong:
        with pytest.raises(NotOpened, match="E103"):
            pair.verify_check(unit, tau, check)


@pytest.mark.parametrize("kind", [GroupKey, PairKey])
def test_an_erased_key_derives_nothing(kind: type[GroupKey] | type[PairKey]) -> None:
    secret = Secret(KEY)
    key = kind(secret)
    key.erase()
    assert secret.erased
    with pytest.raises(Erased):
        key.seal_key("sum", b"", 0)


@pytest.mark.parametrize("kind", [GroupKey, PairKey])
def test_keys_print_no_secret(kind: type[GroupKey] | type[PairKey]) -> None:
    assert KEY.hex()[:8] not in repr(kind(Secret(KEY)))


@given(KEYS)
def test_the_id_of_a_secret_is_its_hash_and_not_its_next_step(secret: bytes) -> None:
    named = secret_id(Secret(secret))
    assert named == hashlib.sha256(b"interlock/secret-id/v1" + secret).digest()
    assert named != stepped(secret, 1)


@given(KEYS, KEYS)
def test_a_digest_leaves_its_group_salted(salt: bytes, digest: bytes) -> None:
    assert salted(salt, digest) == hashlib.sha256(salt + digest).digest()
