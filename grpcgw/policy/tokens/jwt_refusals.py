"""Refusals of the policy `jwt`: codes, `www-authenticate` (RFC 6750, 3) and the Filter's own message. Pure.

No refusal contains a part of the token.
"""

from __future__ import annotations

from grpcgw.model.go_template import TemplateError, parse_template
from grpcgw.model.jwt import JwtSettings
from grpcgw.model.metadata import Metadata
from grpcgw.model.objects import ObjectKey
from grpcgw.model.status import Reason
from grpcgw.policy.contract import PolicyRequest
from grpcgw.policy.header_templates import escape, header_of, render_header
from grpcgw.policy.tokens.token_claims import TokenFault
from grpcgw.policy.verdicts import Deny

_REQUEST_ID = "x-request-id"


class Refusals:
    def __init__(self, key: ObjectKey, settings: JwtSettings) -> None:
        """Raises TemplateError for a template that cannot be parsed."""
        self._settings = settings
        self._by = f"{key}: {settings.name}"
        self._has_templates = bool(settings.error_body or settings.error_headers)
        for text in (settings.error_body, *(one.value for one in settings.error_headers)):
            parse_template(text)

    def refuse(self, fault: TokenFault | None, request: PolicyRequest) -> Deny:
        """`fault`: None where there is no token."""
        settings = self._settings
        forbidden = fault is not None and fault.forbidden
        message = (
            f"there is no token in {settings.header}" if fault is None else f"the token is refused: {fault.message}"
        )
        denied = Deny(
            Reason.FORBIDDEN if forbidden else Reason.UNAUTHENTICATED,
            f"{self._by}: {message}",
            metadata=(("www-authenticate", self._challenge(fault)),),
        )
        return self._fill_templates(denied, fault, message, request) if self._has_templates else denied

    def _challenge(self, fault: TokenFault | None) -> str:
        """Without an error where there is no token: the client is told only how to come (RFC 6750, 3.1)."""
        parts = [f'realm="{_quote(self._settings.realm or self._settings.name)}"']
        if fault is not None:
            insufficient = fault.forbidden and fault.scope
            parts.append(f'error="{"insufficient_scope" if insufficient else "invalid_token"}"')
            if insufficient:
                parts.append(f'scope="{_quote(fault.scope)}"')
        return f"Bearer {', '.join(parts)}"

    def _fill_templates(self, denied: Deny, fault: TokenFault | None, message: str, request: PolicyRequest) -> Deny:
        """A template that does not fit leaves its part as it is: the refusal holds in any case."""
        request_id = request.get(_REQUEST_ID) or ""
        status = 403 if denied.reason == Reason.FORBIDDEN else 401
        bits = None if fault is None or fault.scope else {"Errors": fault.errors}
        shown = {"message": message, "status_code": status}
        hidden = {"httpStatus": status, "error": {"ValidationError": bits}, "httpRequestHeader": header_of(request)}
        data = {**shown, **hidden, "request_id": request_id, "requestId": request_id}
        metadata: Metadata = denied.metadata
        for template in self._settings.error_headers:
            try:
                metadata += render_header(template, data)
            except TemplateError:
                continue
        return Deny(denied.reason, self._render_body(data, denied.message), metadata=metadata)

    def _render_body(self, data: dict[str, object], otherwise: str) -> str:
        try:
            return parse_template(self._settings.error_body).render(data) or otherwise
        except TemplateError:
            return otherwise


def _quote(text: str) -> str:
    """For a quoted-string (RFC 9110, 5.6.4)."""
    return escape(text).replace("\\", "\\\\").replace('"', '\\"')
