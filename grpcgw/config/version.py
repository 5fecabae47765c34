"""The version of a configuration: a hash of its content, the same on every worker, page and log line.

Values are immutable dataclasses of strings and numbers, so their `repr` is complete and stable. It leaves out private
keys, as it should (a key belongs to exactly one public key, which is in the certificate), and where a Mapping was read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

_DIGITS = 12


def digest(value: object) -> bytes:
    return hashlib.sha256(repr(value).encode("utf-8", "surrogatepass")).digest()


def hash_content(digests: Iterable[bytes]) -> str:
    """12 hex digits over the digests of everything that decides traffic, in their order."""
    whole = hashlib.sha256()
    for one in digests:
        whole.update(one)
    return whole.hexdigest()[:_DIGITS]
