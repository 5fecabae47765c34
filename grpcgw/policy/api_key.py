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


class ApiKeyPolicy:
    def __init__(self, key: ObjectKey, settings: ApiKeySettings) -> None:
        self._header = settings.header
        removed = () if settings.forward else (settings.header,)
        self._allowed = {
            digest: Allow(remove=removed, facts=((IDENTITY, name),)) for digest, name in settings.identities
        }
        wanted = f"{key}: {settings.name} asks for an API key in {settings.header}"
        self._absent = Deny(Reason.UNAUTHENTICATED, f"{wanted}, and the call has none")
        self._wrong = Deny(Reason.UNAUTHENTICATED, f"{wanted}, and that of the call is not valid")

    def check(self, request: PolicyRequest) -> Verdict:
        given = request.get(self._header)
        if given is None:
            return self._absent
        value = given if isinstance(given, bytes) else given.encode("utf-8", "surrogatepass")
        return self._allowed.get(digest_key(value), self._wrong)


def build(key: ObjectKey, settings: PolicySettings, services: PolicyServices) -> ApiKeyPolicy:
    assert isinstance(settings, ApiKeySettings)
    return ApiKeyPolicy(key, settings)
