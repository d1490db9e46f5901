"""Roots are those of RFC 6962."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.protocols.merkle import root

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "merkle_rfc6962.json").read_text())
LEAVES = [bytes.fromhex(leaf) for leaf in VECTORS["tree"]["leaves_hex"]]


def test_the_root_of_nothing_is_the_hash_of_nothing() -> None:
    assert root([]).hex() == VECTORS["empty_root"]


@pytest.mark.parametrize("case", VECTORS["leaf"], ids=lambda case: f"{len(case['data_hex']) // 2}-bytes")
def test_one_leaf_is_hashed_as_a_leaf(case: dict[str, str]) -> None:
    assert root([bytes.fromhex(case["data_hex"])]).hex() == case["hash"]


@pytest.mark.parametrize("size", range(1, 9))
def test_roots_are_those_of_the_reference_tree(size: int) -> None:
    assert root(LEAVES[:size]).hex() == VECTORS["tree"]["root_after_n_leaves"][size - 1]


def oracle(leaves: list[bytes]) -> bytes:
    """Level by level: pairs are hashed, a last one without partner moves up unchanged."""
    level = [hashlib.sha256(b"\0" + leaf).digest() for leaf in leaves]
    while len(level) > 1:
        pairs = [level[i : i + 2] for i in range(0, len(level), 2)]
        level = [hashlib.sha256(b"\1" + b"".join(pair)).digest() if len(pair) == 2 else pair[0] for pair in pairs]
    return level[0]


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=40))
def test_any_root_agrees_with_a_tree_built_from_below(leaves: list[bytes]) -> None:
    assert root(leaves) == oracle(leaves)


@given(st.lists(st.binary(max_size=8), min_size=1, max_size=20), st.data())
def test_any_other_list_has_another_root(leaves: list[bytes], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(leaves) - 1))
    changed = [*leaves]
    changed[at] += b"\0"
    assert len({root(leaves), root(changed), root([*leaves, b""]), root(leaves[:-1])}) == 4


def test_an_inner_node_is_no_leaf() -> None:
    left, right = (hashlib.sha256(b"\0" + leaf).digest() for leaf in LEAVES[:2])
    assert root([left + right]) != root(LEAVES[:2])
