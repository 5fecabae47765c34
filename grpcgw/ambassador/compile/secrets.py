"""Looks up the Secrets and certificate files that objects name; falls back to last good versions.

A problem of a Secret or file is reported at the object that names it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import TypeVar

from grpcgw.ambassador.compile.certificates import (
    InvalidCertificate,
    KeyPair,
    read_authorities,
    read_key_pair,
    read_revocations,
    read_token_keys,
)
from grpcgw.ambassador.compile.generations import SERVES_ON, Generations
from grpcgw.ambassador.compile.secret_entries import InvalidSecret, read_entries
from grpcgw.ambassador.spec.parse import Findings
from grpcgw.model.certificate_objects import CERTIFICATE_FILES, list_paths
from grpcgw.model.jwt import PublicKey
from grpcgw.model.objects import KubeObject, ObjectKey

T = TypeVar("T")


class Secrets:
    """The Secrets and certificate files of one compilation."""

    def __init__(self, objects: Mapping[ObjectKey, KubeObject], generations: Generations, now: datetime | None) -> None:
        """`now`: the time for expiry checks; None: expiry is not checked."""
        self._objects = objects
        self._generations = generations
        self._now = now

    def find_key_pair(self, key: ObjectKey | None, findings: Findings, *path: str) -> KeyPair | None:
        """The certificate in the Secret or files; None: an error is in `findings`, unless `key` is None.

        One that has expired does not take the place of an earlier one that has not.
        """
        key_pair = self._find(key, read_key_pair, findings, *path)
        if key is None or key_pair is None or self._now is None or key_pair.expires_at > self._now:
            return key_pair
        expired = f"the certificate in {_describe(key)} expired on {key_pair.expires_at:%Y-%m-%d}"
        earlier = self._find_unexpired(key, self._now)
        if earlier is None:
            findings.notice(f"{expired}; renew it", *path)
            return key_pair
        findings.fault(f"{expired}; {SERVES_ON}", *path)
        return earlier

    def _find_unexpired(self, key: ObjectKey, now: datetime) -> KeyPair | None:
        """The last good version, if it is still valid."""
        earlier = self._generations.earlier.get(key)
        if earlier is None:
            return None
        try:
            key_pair = read_key_pair(earlier)
        except InvalidCertificate:
            return None
        if key_pair.expires_at <= now:
            return None
        self._generations.last_good[key] = earlier
        return key_pair

    def find_authorities(self, key: ObjectKey | None, findings: Findings, *path: str) -> bytes:
        """The authorities in the Secret or file, as PEM; empty: an error is in `findings`, unless `key` is None."""
        return self._find(key, read_authorities, findings, *path) or b""

    def find_revocations(self, key: ObjectKey | None, findings: Findings, *path: str) -> bytes:
        """The revocation lists in the Secret, as PEM; empty: an error is in `findings`, unless `key` is None."""
        return self._find(key, read_revocations, findings, *path) or b""

    def find_api_keys(self, key: ObjectKey, findings: Findings, *path: str | int) -> dict[str, bytes]:
        """The entries of a Secret by name, all of them keys. One that is gone has none: whoever deletes it takes its
        keys back. Problems are in `findings`, as faults.
        """
        own = findings.copy()
        if key not in self._objects:
            findings.fault(f"{key} does not exist, so none of its keys is valid", *path)
            return {}
        found = self._find(key, read_entries, own, *path)
        findings.problems += own.problems
        return found or {}

    def find_token_keys(
        self, key: ObjectKey, entry: str, findings: Findings, *path: str | int
    ) -> tuple[PublicKey, ...]:
        """The public keys in the Secret's `entry`; empty: an error is in `findings`. One that is gone has none: whoever
        deletes it takes its keys back.
        """
        if key not in self._objects:
            findings.error(f"{key} does not exist, so none of its keys verifies tokens", *path)
            return ()
        return self._find(key, partial(read_token_keys, entry=entry), findings, *path) or ()

    def find_key_set(self, key: ObjectKey) -> KubeObject | None:
        """A key set that is fetched (`model.key_set_objects`); it holds its last good version itself."""
        return self._objects.get(key)

    def _find(
        self, key: ObjectKey | None, read: Callable[[KubeObject], T], findings: Findings, *path: str | int
    ) -> T | None:
        if key is None:
            return None
        try:
            return self._read(self._objects, key, read)
        except InvalidSecret as error:
            try:
                earlier = self._read(self._generations.earlier, key, read)
            except InvalidSecret:
                findings.error(str(error), *path)
                return None
            findings.fault(f"{error}; {SERVES_ON}", *path)
            return earlier

    def _read(self, objects: Mapping[ObjectKey, KubeObject], key: ObjectKey, read: Callable[[KubeObject], T]) -> T:
        obj = objects.get(key)
        if obj is None:
            raise InvalidCertificate(f"{_describe(key)} does not exist")
        try:
            found = read(obj)
        except InvalidSecret as error:
            if key.kind == CERTIFICATE_FILES:  # the error names the file
                raise
            raise InvalidCertificate(f"{key} ({obj.source.locate()}) cannot be used: {error}") from error
        self._generations.last_good[key] = obj
        return found


def _describe(key: ObjectKey) -> str:
    return list_paths(key)[0] if key.kind == CERTIFICATE_FILES else str(key)
