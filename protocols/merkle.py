"""The Merkle tree of RFC 6962: root of a list of leaves."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def root(leaves: Sequence[bytes]) -> bytes:
    """Merkle tree hash of `leaves` (32 bytes); of nothing, the hash of the empty string.

    Source: RFC 6962, section 2.1. The prefixes 0 and 1 keep leaves and inner nodes apart.
    """
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + root(leaves[:split]) + root(leaves[split:])).digest()
