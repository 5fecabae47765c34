"""Fields that RPCs repeat, with what was made of them once. Bounded, since strangers choose them. Pure."""

from __future__ import annotations

from typing import TypeVar

MOST, MOST_BYTES = 2048, 512 * 1024
"""Fields, and bytes of their values."""
LONGEST_BYTES = 2048
"""Of a value: most tokens are shorter."""

_Key = TypeVar("_Key")
_Made = TypeVar("_Made")


class KnownFields(dict[_Key, _Made]):
    """Read it as a dict."""

    size_bytes = 0

    def keep(self, key: _Key, made: _Made, size_bytes: int) -> _Made:
        """`size_bytes`: of the value. Where one field more is too much, all others are forgotten. Returns `made`."""
        if size_bytes > LONGEST_BYTES:
            return made
        if len(self) >= MOST or self.size_bytes + size_bytes > MOST_BYTES:
            self.clear()
            self.size_bytes = 0
        self.size_bytes += size_bytes
        self[key] = made
        return made
