"""A service of external authorization on grpcio, as any that an AuthService names."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from dataplane.lab import Lab
from dataplane.pods import Context, Pod
from grpcgw.policy.ext_authz.ext_authz_pb2 import CheckRequest, CheckResponse, HttpRequest

CHECK = "/envoy.service.auth.v3.Authorization/Check"
Decide = Callable[[HttpRequest], CheckResponse | bytes]


def allow(**headers: str) -> CheckResponse:
    answer = CheckResponse()
    answer.status.code = 0
    for key, value in headers.items():
        option = answer.ok_response.headers.add()
        option.header.key, option.header.value = key.replace("_", "-"), value
    return answer


def deny(http: int = 403, body: str = "", **headers: str) -> CheckResponse:
    answer = CheckResponse()
    answer.status.code = 7
    answer.denied_response.status.code = http
    answer.denied_response.body = body
    for key, value in headers.items():
        option = answer.denied_response.headers.add()
        option.header.key, option.header.value = key.replace("_", "-"), value
    return answer


def by_token(asked: HttpRequest) -> CheckResponse:
    """Who has the token `good` may call."""
    if asked.headers.get("authorization") == "Bearer good":
        return allow(x_user="ann")
    return deny(401, "a token is needed", www_authenticate="Bearer")


class AuthServer:
    def __init__(self, lab: Lab, decide: Decide = by_token, path: str = CHECK) -> None:
        self.decide = decide
        self.decide_by_name: Callable[[str], CheckResponse] | None = None
        """By `source.principal`; None: `decide` does."""
        self.asked: list[CheckRequest] = []
        self.cancelled = 0
        self.reached = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._open = threading.Event()
        self._open.set()
        lab.defer(self._open.set)
        self.pod: Pod = lab.pod("auth", {path: self._check})

    @property
    def questions(self) -> list[HttpRequest]:
        return [one.attributes.request.http for one in self.asked]

    def hold(self) -> None:
        """Answer nobody until `go_on`."""
        self._open.clear()

    def go_on(self) -> None:
        self._open.set()

    def _check(self, requests: Iterator[bytes], context: Context) -> Iterator[bytes]:
        asked = CheckRequest.FromString(next(requests))
        with self._lock:
            self.asked.append(asked)
        answered = threading.Event()
        context.add_callback(lambda: self._ended(answered))
        self.reached.release()
        self._open.wait()
        by_name, attributes = self.decide_by_name, asked.attributes
        answer = self.decide(attributes.request.http) if by_name is None else by_name(attributes.source.principal)
        answered.set()
        yield answer if isinstance(answer, bytes) else answer.SerializeToString()

    def _ended(self, answered: threading.Event) -> None:
        if not answered.is_set():
            with self._lock:
                self.cancelled += 1
