"""API keys (APIKey Filter): a header must have one of the keys of some Secrets. Pure.

A key is looked up by its digest, so the time that takes says nothing about the keys there are.
"""

from __future__ import annotations

from grpcgw.model.api_keys import ApiKeySettings, digest_key
from grpcgw.model.objects import ObjectKey
from grpcgw.model.route import PolicySettings
from grpcgw.model.status import Reason
from grpcgw.policy.contract import PolicyRequest, Verdict
from grpcgw.policy.services import PolicyServices
from grpcgw.policy.verdicts import Allow, Deny

IDENTITY = "identity"
"""The fact that names who calls."""


class KeyTable:
    """Verdicts on calls by the digest of their keys. One for all Mappings that have the Filter."""

    __slots__ = ("__weakref__", "find")

    def __init__(self, settings: ApiKeySettings) -> None:
        removed = () if settings.forward else (settings.header,)
        self.find = {
            digest: Allow(remove=removed, facts=((IDENTITY, name),)) for digest, name in settings.identities
        }.get


class ApiKeyPolicy:
    def __init__(self, key: ObjectKey, settings: ApiKeySettings, keys: KeyTable) -> None:
        self._header, self.keys = settings.header, keys
        self._find = keys.find
        wanted = f"{key}: {settings.name} asks for an API key in {settings.header}"
        self._absent = Deny(Reason.UNAUTHENTICATED, f"{wanted}, and the call has none")
        self._wrong = Deny(Reason.UNAUTHENTICATED, f"{wanted}, and that of the call is not valid")
        self._several = Deny(Reason.UNAUTHENTICATED, f"{wanted}, and the call has several")

    def check(self, request: PolicyRequest) -> Verdict:
        header = self._header
        found = [value for name, value in request.metadata if name == header]
        if len(found) != 1:  # of several, a pod may read another one than this gateway
            return self._several if found else self._absent
        given = found[0]
        value = given if isinstance(given, bytes) else given.encode("utf-8", "surrogatepass")
        return self._find(digest_key(value), self._wrong)


def build(key: ObjectKey, settings: PolicySettings, services: PolicyServices) -> ApiKeyPolicy:
    assert isinstance(settings, ApiKeySettings)
    known_by = (settings.fingerprint, settings.header, settings.forward)
    return ApiKeyPolicy(key, settings, services.keep(KeyTable, known_by, lambda: KeyTable(settings)))
