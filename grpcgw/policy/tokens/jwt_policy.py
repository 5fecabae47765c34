"""The policy `jwt`: who calls, by a JSON Web Token (RFC 7519, 8725; Edge Stack's Filter of type JWT). Pure.

A token that was seen before costs its digest and a look-up (`token_cache`, `refused_tokens`); only its times are
checked again. Where the key of a token is not known, the RPC may wait a moment for new keys (`key_requests`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType

from grpcgw.model.codes import Code
from grpcgw.model.content_hash import digest
from grpcgw.model.go_template import TemplateError, parse_template
from grpcgw.model.jwt import JwtSettings, MissingKey, PublicKey
from grpcgw.model.metadata import MetadataValue
from grpcgw.model.objects import ObjectKey
from grpcgw.model.route import PolicySettings
from grpcgw.model.status import Reason
from grpcgw.policy.contract import CoroutineWork, FailMode, Policy, PolicyRequest, Wait
from grpcgw.policy.header_templates import header_of, render_header
from grpcgw.policy.services import PolicyServices
from grpcgw.policy.tokens.jws import InvalidToken, UnknownKey, verify
from grpcgw.policy.tokens.jwt_refusals import Refusals
from grpcgw.policy.tokens.key_requests import WAIT_S, KeyRequests, KeyRing
from grpcgw.policy.tokens.refused_tokens import RefusedTokens
from grpcgw.policy.tokens.token_cache import Accepted, TokenCache, make_key
from grpcgw.policy.tokens.token_claims import TokenFault, find_fault, read_lifetime
from grpcgw.policy.verdicts import ALLOW, Allow, Deny, Facts

MAX_FACT_CHARACTERS = 256
"""Of a claim in the access log."""
_FACTS = (("identity", "sub"), ("token-issuer", "iss"))


def build_jwt(key: ObjectKey, settings: PolicySettings, services: PolicyServices) -> Policy | Deny:
    assert isinstance(settings, JwtSettings)
    if settings.no_keys:
        message = f"{key}: {settings.name} has no keys to verify tokens with: {settings.no_keys}"
        return Deny(Reason.NO_TOKEN_KEYS, message)
    tokens = services.keep(TokenCache, None, lambda: TokenCache(counters=services.counters.of_cache("tokens")))
    refused = services.keep(RefusedTokens, None, lambda: RefusedTokens(services.counters.of_cache("refused-tokens")))
    ring = services.keep(KeyRing, settings.key_set, KeyRing)
    ring.keys = settings.keys
    return JwtPolicy(key, settings, tokens, refused, services.key_requests, ring)


class JwtPolicy:
    def __init__(
        self,
        key: ObjectKey,
        settings: JwtSettings,
        tokens: TokenCache,
        refused: RefusedTokens,
        requests: KeyRequests,
        ring: KeyRing,
    ) -> None:
        """Raises TemplateError for a template that cannot be parsed."""
        self._settings = settings
        self._tokens, self._refused = tokens, refused
        self._key_requests, self._ring = requests, ring
        self._identity = digest(replace(settings, keys=()))
        """Of what an entry of the cache depends on beside the token and its key."""
        self._refusing = digest(settings)
        """Of what a refusal depends on beside the token."""
        self._keys = frozenset(one.jwk for one in settings.keys)
        self._removed = settings.owned_keys
        templates = [parse_template(one.value) for one in settings.inject]
        self._per_rpc = any(not template.fields() <= {"token"} for template in templates)
        """Whether a header depends on more than the token."""
        self._prefix = f"{settings.scheme} ".lower() if settings.scheme else ""
        self._refusals = Refusals(key, settings)

    def check(self, request: PolicyRequest) -> Allow | Deny | Wait:
        header = self._settings.header
        given = [value for name, value in request.metadata if name == header]
        if not given:
            return self._without_token(request)
        recent = self._tokens.recall(self._identity, given[0]) if len(given) == 1 else None
        if recent is not None and recent.key in self._keys:  # as of most
            return self._allow(given[0], recent, request)
        return self._check_header(given, request)

    def _check_header(self, given: Sequence[MetadataValue], request: PolicyRequest) -> Allow | Deny | Wait:
        """`given`: the values of the header, one at least."""
        token = self._read(given[0]) if len(given) == 1 else None
        if token is None:
            what = "it should be given once" if len(given) > 1 else f"it is not {self._settings.scheme} and a token"
            return self._refusals.refuse(TokenFault(f"{self._settings.header}: {what}"), request)
        cache_key = make_key(self._identity, token)
        accepted = self._tokens.find(cache_key)
        if accepted is None or accepted.key not in self._keys:
            verified = self._judge(token, request)
            if isinstance(verified, TokenFault):
                return self._refuse_or_wait(token, verified, request)
            accepted = verified
            self._tokens.put(cache_key, accepted)
        self._tokens.note(self._identity, given[0], accepted)
        return self._allow(given[0], accepted, request)

    def _allow(self, value: MetadataValue, accepted: Accepted, request: PolicyRequest) -> Allow | Deny:
        """`accepted`: the token in the header's `value`. Only its times are still to be checked."""
        fault = accepted.lifetime.find_fault(request.request.received_at_s)
        if fault is not None:
            return self._refusals.refuse(fault, request)
        return accepted.allow or self._allow_rpc(self._read(value) or "", accepted, request)

    def _without_token(self, request: PolicyRequest) -> Allow | Deny:
        if not self._settings.token_optional:
            return self._refusals.refuse(None, request)
        return Allow(remove=self._removed) if self._removed else ALLOW

    def _read(self, value: MetadataValue) -> str | None:
        prefix = self._prefix
        if not isinstance(value, str) or value[: len(prefix)].lower() != prefix:
            return None
        return value[len(prefix) :].strip(" ")

    def _judge(self, token: str, request: PolicyRequest) -> Accepted | TokenFault:
        """A token that is not among the verified ones."""
        key, now_s = make_key(self._refusing, token), request.request.received_at_s
        known = self._refused.find(key, now_s)
        judged = known or self._verify(token, self._settings.keys)
        fault = judged if isinstance(judged, TokenFault) else judged.lifetime.find_fault(now_s)
        if fault is None:
            return judged
        if known is None:
            self._refused.put(key, judged if isinstance(judged, TokenFault) else judged.lifetime)
        return fault

    def _refuse_or_wait(self, token: str, fault: TokenFault, request: PolicyRequest) -> Deny | Wait:
        """The key of the token may be a new one."""
        settings, requests = self._settings, self._key_requests
        missing = MissingKey(settings.key_set, fault.unknown_kid)
        if not (missing.kid and missing.key_set and requests.ask(missing, request.now_s)):
            return self._refusals.refuse(fault, request)
        work = CoroutineWork(partial(requests.wait, self._ring, settings.keys))
        then = partial(self._check_again, token, request)
        return Wait(work, 2 * WAIT_S, FailMode.CLOSED, Code.UNAUTHENTICATED, then)

    def _check_again(self, token: str, request: PolicyRequest, _: Allow | Deny) -> Allow | Deny:
        """With the keys of now, whether new ones came or not."""
        judged = self._verify(token, self._ring.keys)
        now_s = request.request.received_at_s
        fault = judged if isinstance(judged, TokenFault) else judged.lifetime.find_fault(now_s)
        if fault is not None or isinstance(judged, TokenFault):
            return self._refusals.refuse(fault, request)
        self._tokens.put(make_key(self._identity, token), judged)
        return judged.allow or self._allow_rpc(token, judged, request)

    def _verify(self, token: str, keys: tuple[PublicKey, ...]) -> Accepted | TokenFault:
        settings = self._settings
        try:
            verified = verify(token, keys, settings.algorithms)
        except UnknownKey as error:
            # One that any key would leave refused, as another issuer's (`onDeny: continue`), waits for no new key.
            hopeless = find_fault(error.claims, settings) is not None
            return TokenFault(str(error), unknown_kid="" if hopeless else error.kid)
        except InvalidToken as error:
            return TokenFault(str(error))
        claims, header = MappingProxyType(verified.claims), verified.header
        lifetime = read_lifetime(claims, settings)
        fault = lifetime if isinstance(lifetime, TokenFault) else find_fault(claims, settings)
        if isinstance(lifetime, TokenFault) or fault is not None:
            return fault or TokenFault("")
        allow = None
        if not self._per_rpc:
            made = self._make_allow(token, header, claims, None)
            if isinstance(made, TokenFault):
                return made
            allow = made
        return Accepted(verified.key.jwk, lifetime, header, claims, allow, len(token))

    def _allow_rpc(self, token: str, accepted: Accepted, request: PolicyRequest) -> Allow | Deny:
        made = self._make_allow(token, accepted.header, accepted.claims, request)
        return self._refusals.refuse(made, request) if isinstance(made, TokenFault) else made

    def _make_allow(
        self, token: str, header: Mapping[str, object], claims: Mapping[str, object], request: PolicyRequest | None
    ) -> Allow | TokenFault:
        """`request`: None where no template reads it."""
        signature = token.rpartition(".")[2]
        data: dict[str, object] = {
            "token": {"Raw": token, "Header": header, "Claims": claims, "Signature": signature},
            "httpRequestHeader": None if request is None else header_of(request),
        }
        add: list[tuple[str, str | bytes]] = []
        for template in self._settings.inject:
            try:
                add += render_header(template, data)
            except TemplateError as error:
                return TokenFault(f"{template.name} cannot be made of it: {error}")
        try:
            return Allow(add=tuple(add), remove=self._removed, facts=_make_facts(claims), claims=claims)
        except ValueError as error:
            return TokenFault(f"what is made of it cannot be sent: {error}")


def _make_facts(claims: Mapping[str, object]) -> Facts:
    return tuple(
        (name, value[:MAX_FACT_CHARACTERS]) for name, claim in _FACTS if isinstance(value := claims.get(claim), str)
    )
