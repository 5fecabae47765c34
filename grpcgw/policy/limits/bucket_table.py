"""Token buckets by key in a buffer of fixed size, which processes may share: a set-associative table. Pure.

`MOST_KEYS` is the bound of a section. One section is for keys that the configuration names, the others for keys that
clients choose, by how long a bucket takes to be full: so a flood of keys touches no bucket of the first, and keys that
take hours do not push out those that take seconds.

A key belongs to one set of `WAYS` entries. Where all are in use, a new key takes over the one that is full the soonest,
which is usually the least recently used, with the tokens that it lacks: however many keys come, no bucket is emptied
early, and none is refilled early by another's coming. What is lost beyond the bound: keys of a set have to share.
"""

from __future__ import annotations

import struct
from hashlib import blake2b
from typing import Protocol

from grpcgw.policy.limits.token_bucket import FULL, BucketShape, BucketState, Level, Taken, give_back, look, take

MOST_KEYS = 65_536
WAYS = 8
CONFIGURED = 0
"""The section of keys that no client chooses."""
_LIMITS_S = (10.0, 600.0, 36_000.0)
"""Of the sections of keys that clients choose; the last one has no limit."""
SECTIONS = CONFIGURED + 1 + len(_LIMITS_S) + 1
_SECTION_SETS = MOST_KEYS // WAYS
SETS = SECTIONS * _SECTION_SETS
SECRET_BYTES = 16
_ENTRY = struct.Struct("=Qddd")
"""Fingerprint of the key (0: the entry is free), then BucketState."""
_SET = struct.Struct("=" + "Qddd" * WAYS)
_DIGEST = struct.Struct("=QQ")
TABLE_BYTES = SECRET_BYTES + SETS * _SET.size
"""2 MiB for each section, whatever clients send; what was never used takes no memory."""

TableKey = tuple[int, int]
"""The set of a key, and its fingerprint."""


def section_of(shape: BucketShape) -> int:
    """The section of a key that clients choose."""
    return CONFIGURED + 1 + sum(shape.longest_s > limit_s for limit_s in _LIMITS_S)


class SetLock(Protocol):
    """Keeps other processes from a set of the table."""

    def acquire(self, number: int) -> None: ...
    def release(self, number: int) -> None: ...


class NoLock:
    """Of a table that one thread uses."""

    def acquire(self, number: int) -> None:
        pass

    def release(self, number: int) -> None:
        pass


class BucketTable:
    def __init__(self, buffer: memoryview, lock: SetLock) -> None:
        """`buffer`: TABLE_BYTES. The first SECRET_BYTES are random, and the same in all processes: who does not know
        them cannot choose keys that meet in one set."""
        self._buffer, self._lock = buffer, lock
        self._secret = bytes(buffer[:SECRET_BYTES])

    def locate(self, key: str, section: int) -> TableKey:
        digest = blake2b(key.encode(errors="surrogateescape"), digest_size=_DIGEST.size, key=self._secret).digest()
        number, fingerprint = _DIGEST.unpack(digest)
        return section * _SECTION_SETS + number % _SECTION_SETS, fingerprint or 1

    def take(self, key: TableKey, shape: BucketShape, least: int, most: int, now_s: float) -> Taken:
        """As `token_bucket.take`, of the key's bucket."""
        number, fingerprint = key
        self._lock.acquire(number)
        try:
            offset, state = self._find(number, fingerprint, shape, now_s)
            taken = take(shape, state, least, most, now_s)
            if taken.tokens or taken.state != state:  # or the rate has changed, and refills from now on
                self._write(offset, fingerprint, taken.state)
            return taken
        finally:
            self._lock.release(number)

    def look(self, key: TableKey, shape: BucketShape, now_s: float) -> Level:
        """As `token_bucket.look`, of the key's bucket."""
        number, fingerprint = key
        self._lock.acquire(number)
        try:
            return look(shape, self._find(number, fingerprint, shape, now_s)[1], now_s)
        finally:
            self._lock.release(number)

    def give_back(self, key: TableKey, shape: BucketShape, tokens: int, now_s: float) -> None:
        """Tokens that were taken and not used. Nothing where the key has no bucket any more: it is full."""
        number, fingerprint = key
        self._lock.acquire(number)
        try:
            offset, state = self._find(number, fingerprint, shape, now_s)
            if state.full_at_s > now_s and _ENTRY.unpack_from(self._buffer, offset)[0] == fingerprint:
                self._write(offset, fingerprint, give_back(shape, state, tokens))
        finally:
            self._lock.release(number)

    def _write(self, offset: int, fingerprint: int, state: BucketState) -> None:
        _ENTRY.pack_into(self._buffer, offset, fingerprint, state.full_at_s, state.refills_from_s, state.per_s)

    def _find(self, number: int, fingerprint: int, shape: BucketShape, now_s: float) -> tuple[int, BucketState]:
        """The offset of the key's entry, or of the one that it takes over, and the state of its bucket."""
        base = SECRET_BYTES + number * _SET.size
        values = _SET.unpack_from(self._buffer, base)
        fingerprints = values[::4]
        if fingerprint in fingerprints:
            way = fingerprints.index(fingerprint)
            return base + way * _ENTRY.size, BucketState(*values[4 * way + 1 : 4 * way + 4])
        full_at_s = values[1::4]
        soonest_s = min(full_at_s)
        offset = base + full_at_s.index(soonest_s) * _ENTRY.size
        if soonest_s <= now_s:  # it is full, or free
            return offset, FULL
        return offset, BucketState(min(soonest_s, now_s + shape.refill_s), now_s)
