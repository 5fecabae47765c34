"""Settings of the policy of an APIKey Filter: the keys that let calls pass, as digests."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from grpcgw.model.route import PolicySettings

DEFAULT_HEADER = "x-api-key"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKeySettings(PolicySettings):
    """No key is here, only SHA-256 digests: settings are sent to workers, and may be shown."""

    kind: ClassVar[str] = "api-key"
    header: str
    """Metadata key (lower case) of the API key."""
    identities: tuple[tuple[bytes, str], ...] = field(repr=False)
    """Digest of each key, and the name that it has in its Secret."""
    fingerprint: str
    """Of all keys with their names: it stands for them in the version of a configuration."""
    forward: bool = False
    """Whether pods get the header."""

    @property
    def credential_keys(self) -> tuple[str, ...]:
        return (self.header,)


def make_api_keys(name: str, header: str, keys: Mapping[str, Sequence[bytes]], forward: bool) -> ApiKeySettings:
    """`keys`: by name in a Secret. A key with several names has the first."""
    named = {digest_key(key): identity for identity in sorted(keys, reverse=True) for key in keys[identity]}
    identities = tuple(sorted(named.items()))
    fingerprint = hashlib.sha256(repr(identities).encode()).hexdigest()
    return ApiKeySettings(name=name, header=header, identities=identities, fingerprint=fingerprint, forward=forward)


def digest_key(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
