"""Text that may be a secret and is part of the configuration: it is compared and hashed, but never shown."""

from __future__ import annotations


class HiddenText(str):
    __slots__ = ()

    def __repr__(self) -> str:
        return "'…'"
