"""The one keyed function: BLAKE2b with a key, over a domain and length-prefixed parts.

Source: RFC 7693 (keyed mode). The prefixes make the encoding injective, so that no two inputs share one output
by moving bytes between fields.
"""

from __future__ import annotations

import hashlib

from .secret import Secret


def prf(key: Secret, domain: str, *parts: bytes) -> bytes:
    """32 bytes that look random to whoever lacks `key` (32 bytes), one value for each (domain, parts)."""
    secret = key.reveal()
    if len(secret) != 32:  # an empty key would silently leave the function unkeyed
        raise ValueError(f"a PRF key has 32 bytes, not {len(secret)}")
    h = hashlib.blake2b(key=secret, digest_size=32)
    for part in (domain.encode(), *parts):
        h.update(len(part).to_bytes(8, "big"))
        h.update(part)
    return h.digest()
