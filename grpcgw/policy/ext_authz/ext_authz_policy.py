"""External authorization (ext_authz): a service decides on each RPC. One policy per Mapping.

It waits for the request's first message if that is part of the question, then for the service. Where the service is
away, the RPC is refused, or allowed if `failure_mode_allow` says so. An answer that makes no sense is always a refusal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import cycle
from typing import TypeVar

from grpcgw.model.codes import Code
from grpcgw.model.ext_authz import AuthProtocol, ExtAuthzSettings
from grpcgw.model.objects import ObjectKey
from grpcgw.model.route import PolicySettings
from grpcgw.model.status import Reason
from grpcgw.policy.chain import FAILED_OPEN
from grpcgw.policy.contract import (
    Answer,
    FailMode,
    FirstMessage,
    HttpAnswer,
    HttpCall,
    Policy,
    PolicyRequest,
    UnaryRpc,
    Verdict,
    Wait,
)
from grpcgw.policy.ext_authz.answer_cache import AnswerCache, make_key
from grpcgw.policy.ext_authz.ext_authz_answer import NoVerdict, ServiceError, read_answer
from grpcgw.policy.ext_authz.ext_authz_http import HttpExchange
from grpcgw.policy.ext_authz.ext_authz_request import QuestionWriter
from grpcgw.policy.services import PolicyServices
from grpcgw.policy.verdicts import Allow, Deny

AnyAnswer = TypeVar("AnyAnswer", Answer, HttpAnswer)

FIRST_MESSAGE_S = 300.0
"""A client that sends no message for so long is refused, where the service needs its first one."""


def build(key: ObjectKey, settings: PolicySettings, services: PolicyServices) -> Policy:
    assert isinstance(settings, ExtAuthzSettings)
    return ExtAuthz(key, settings, services)


class ExtAuthz:
    def __init__(self, key: ObjectKey, settings: ExtAuthzSettings, services: PolicyServices) -> None:
        self._settings = settings
        self._path = f"/envoy.service.auth.{settings.api_version}.Authorization/Check"
        self._who = f"{key}: {settings.name}"
        self._timeout_s = settings.timeout_ms / 1000
        self._fail_mode = FailMode.OPEN if settings.failure_mode_allow else FailMode.CLOSED
        self._closed_code = settings.code_on_error or Code.UNAVAILABLE
        self._question = QuestionWriter(settings.context_extensions)
        self._next_upstream = cycle(range(len(settings.upstreams))).__next__
        self._http = HttpExchange(settings, self._who)
        is_http = settings.protocol is AuthProtocol.HTTP
        self._ask: Callable[[PolicyRequest, bytes], UnaryRpc | HttpCall]
        self._ask = self._ask_http if is_http else self._ask_grpc
        self._cache = _keep_cache(settings, services)

    def check(self, request: PolicyRequest) -> Verdict:
        if self._settings.message is None:
            return self._check(request)
        waited = FirstMessage(self._settings.message.max_bytes)
        then = partial(self._check_message, request)
        return Wait(waited, FIRST_MESSAGE_S, FailMode.CLOSED, Code.DEADLINE_EXCEEDED, then)

    def _check_message(self, request: PolicyRequest, verdict: Allow | Deny) -> Verdict:
        included, message = self._settings.message, request.first_message
        if message is None or included is None:
            return Deny(Reason.IDLE_TIMEOUT, f"{self._who}: the client sent no message within {FIRST_MESSAGE_S:g} s")
        if message.complete or included.allow_partial:
            return self._check(request)
        why = f"it looks at messages of {included.max_bytes} bytes at most, and the first one is longer"
        return Deny(Reason.MESSAGE_TOO_LARGE, f"{self._who}: {why}")

    def _check(self, request: PolicyRequest) -> Verdict:
        cache, caching, key = self._cache, self._settings.caching, b""
        if cache is not None and caching is not None:
            key = make_key(request, caching.headers, self._settings.context_extensions)
            known = cache.find(key, request.now_s)
            if known is not None:
                return known
        return Wait(self._ask(request, key), self._timeout_s, self._fail_mode, self._closed_code)

    def _ask_grpc(self, request: PolicyRequest, key: bytes) -> UnaryRpc:
        judge = partial(self._judge, request, key, self._read_grpc)
        question = self._question.write(request)
        return UnaryRpc(self._path, question, judge, self._settings.added_metadata, self._next_upstream(), True)

    def _read_grpc(self, answer: Answer) -> Allow | Deny:
        return read_answer(answer.message, self._who)

    def _ask_http(self, request: PolicyRequest, key: bytes) -> HttpCall:
        judge = partial(self._judge, request, key, self._http.read)
        return HttpCall(*self._http.request(request), judge, self._next_upstream())

    def _judge(
        self, request: PolicyRequest, key: bytes, read: Callable[[AnyAnswer], Allow | Deny], answer: AnyAnswer
    ) -> Allow | Deny:
        try:
            verdict = read(answer)
        except ServiceError as error:
            is_open = self._fail_mode is FailMode.OPEN
            return Allow(facts=((FAILED_OPEN, self._settings.name),)) if is_open else self._refuse_for(error)
        except NoVerdict as error:
            return Deny(Reason.POLICY_UNAVAILABLE, f"{self._who} gave no verdict: {error}", self._closed_code)
        if self._cache is not None:
            self._cache.keep(key, verdict, request.now_s)
        return verdict

    def _refuse_for(self, error: ServiceError) -> Deny:
        """As the operator says, else as the service says. It is no verdict: no `onDeny: continue` passes over it."""
        if self._settings.code_on_error is None:
            return replace(error.refusal, reason=Reason.POLICY_UNAVAILABLE)
        return Deny(Reason.POLICY_UNAVAILABLE, f"{self._who} gave no verdict: {error}", self._closed_code)


def _keep_cache(settings: ExtAuthzSettings, services: PolicyServices) -> AnswerCache | None:
    """One per service and its settings: Mappings share its bound, and reloads that do not change them keep it."""
    caching = settings.caching
    if caching is None:
        return None
    counters = services.counters.of_cache(settings.name)
    make = partial(AnswerCache, caching.max_entries, caching.max_age_ms / 1000, counters)
    return services.keep(AnswerCache, replace(settings, context_extensions=()), make)
