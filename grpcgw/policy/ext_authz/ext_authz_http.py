"""External authorization over HTTP/1.1: the request to the service, and the verdict that its answer is. Pure.

As Envoy and Ambassador: status 200 allows, 5xx is an error of the service, every other status denies.
"""

from __future__ import annotations

from collections.abc import Iterable

from grpcgw.model.codes import Code, code_of_http
from grpcgw.model.ext_authz import NEVER_ASKED, ExtAuthzSettings
from grpcgw.policy.answer_headers import BadHeader, explicit_status, is_dropped, keep_sendable, read_header
from grpcgw.policy.contract import HttpAnswer, PolicyRequest
from grpcgw.policy.ext_authz.ext_authz_answer import NoVerdict, ServiceError
from grpcgw.policy.ext_authz.ext_authz_request import PARTIAL_BODY, list_headers
from grpcgw.policy.ext_authz.service_verdicts import permit, refuse
from grpcgw.policy.request import REQUEST_ID
from grpcgw.policy.verdicts import Allow, Deny

OK = 200
SERVER_ERRORS = range(500, 600)
USUAL_REQUEST_HEADERS = frozenset(
    {
        *("authorization", "cookie", "from", "proxy-authorization", "user-agent"),
        *("x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"),
    }
)
USUAL_ANSWER_HEADERS = frozenset({"authorization", "location", "proxy-authenticate", "set-cookie", "www-authenticate"})
"""Both as Ambassador has them, beside those that the AuthService allows."""

Headers = tuple[tuple[str, str], ...]


class HttpExchange:
    """What of an RPC goes to the service, and what of its answer comes back."""

    def __init__(self, settings: ExtAuthzSettings, who: str) -> None:
        self._who, self._prefix = who, settings.path_prefix.rstrip("/")
        self._asked = USUAL_REQUEST_HEADERS | set(settings.allowed_request_headers)
        self._asked -= NEVER_ASKED | {key for key, _ in settings.added_metadata}
        self._answered = USUAL_ANSWER_HEADERS | set(settings.allowed_authorization_headers)
        self._added = settings.added_metadata

    def request(self, request: PolicyRequest) -> tuple[str, Headers, bytes]:
        """Path, headers and body. The `host` is the client's `:authority`."""
        headers = list_headers(request)
        if REQUEST_ID in self._asked and REQUEST_ID not in headers:
            headers[REQUEST_ID] = request.request.give_id()
        sent = [("host", headers[":authority"])]
        sent += [(key, headers[key]) for key in headers if key in self._asked and not key.startswith(":")]
        message = request.first_message
        if message is not None:
            sent.append((PARTIAL_BODY, "false" if message.complete else "true"))
        path = f"{self._prefix}{request.request.path}"
        return path, (*sent, *self._added), b"" if message is None else message.frame

    def read(self, answer: HttpAnswer) -> Allow | Deny:
        """Raises NoVerdict and ServiceError."""
        kept = [(key, value) for key, value in answer.headers if key.lower() in self._answered]
        if answer.status == OK:
            return _allow(kept)
        if answer.status in SERVER_ERRORS:
            raise ServiceError(self._refuse(answer, kept, Code.UNAVAILABLE))
        return self._refuse(answer, kept, code_of_http(answer.status))

    def _refuse(self, answer: HttpAnswer, kept: Iterable[tuple[str, str]], code: int) -> Deny:
        explicit = explicit_status(answer.headers)
        text = answer.body.decode("utf-8", "replace").strip() or explicit.message
        code = code if explicit.code is None else explicit.code
        return refuse(self._who, code, text, keep_sendable(kept), explicit.details, explicit.retry_after_ms)


def _allow(kept: Iterable[tuple[str, str]]) -> Allow:
    try:
        return permit(tuple([read_header(key, value) for key, value in kept if not is_dropped(key)]))
    except (BadHeader, ValueError) as error:
        raise NoVerdict(f"it allows the call with a header that cannot be sent: {error}") from error
