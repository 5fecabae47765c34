"""How many RPCs run for each of some keys, by worker, in a buffer of fixed size that processes may share. Pure.

Each worker writes only its own numbers, and the sum counts: what a worker that died left behind is taken off when its
successor starts.
"""

from __future__ import annotations

import struct
from hashlib import blake2b

from grpcgw.policy.limits.bucket_table import SetLock

MOST_SHARED_KEYS = 1024
"""Keys that workers count together. Of further ones each worker counts its own RPCs."""
MOST_SHARING = 64
"""Workers that count together; those with a higher number count by themselves."""
_FINGERPRINT = struct.Struct("=Q")
_COUNT = struct.Struct("=I")
_COUNTS = struct.Struct(f"={MOST_SHARING}I")
_ROW_BYTES = _FINGERPRINT.size + _COUNTS.size
IN_FLIGHT_BYTES = MOST_SHARED_KEYS * _ROW_BYTES


class InFlightTable:
    def __init__(self, buffer: memoryview, lock: SetLock, worker: int) -> None:
        """`buffer`: IN_FLIGHT_BYTES, zeros at first. `worker`: whose numbers this process writes; they begin with 0."""
        self._buffer, self._lock, self._worker = buffer, lock, worker
        if worker < MOST_SHARING:
            for row in range(MOST_SHARED_KEYS):
                _COUNT.pack_into(buffer, self._own(row), 0)

    def find_row(self, name: str) -> int | None:
        """The row of a key, which gets one if there is room; it keeps it while the table exists."""
        if self._worker >= MOST_SHARING:
            return None
        (fingerprint,) = _FINGERPRINT.unpack(blake2b(name.encode(), digest_size=_FINGERPRINT.size).digest())
        self._lock.acquire(0)
        try:
            for row in range(MOST_SHARED_KEYS):
                (found,) = _FINGERPRINT.unpack_from(self._buffer, row * _ROW_BYTES)
                if found == fingerprint:
                    return row
                if not found:
                    _FINGERPRINT.pack_into(self._buffer, row * _ROW_BYTES, fingerprint)
                    return row
            return None
        finally:
            self._lock.release(0)

    def admit(self, row: int, most: int, own: int) -> bool:
        """Note `own` RPCs, one more than before, if all workers together then have at most `most`."""
        self._lock.acquire(1 + row)
        try:
            if sum(_COUNTS.unpack_from(self._buffer, row * _ROW_BYTES + _FINGERPRINT.size)) >= most:
                return False
            _COUNT.pack_into(self._buffer, self._own(row), own)
            return True
        finally:
            self._lock.release(1 + row)

    def note(self, row: int, own: int) -> None:
        """This worker has `own` RPCs: fewer than before."""
        _COUNT.pack_into(self._buffer, self._own(row), own)

    def _own(self, row: int) -> int:
        return row * _ROW_BYTES + _FINGERPRINT.size + self._worker * _COUNT.size
