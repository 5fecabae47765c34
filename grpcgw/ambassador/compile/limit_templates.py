"""Compiles the headers and messages of RateLimits, texts or Go templates.

A template that cannot be used leaves out its own header, with an error at its source: a limit holds without it.
"""

from __future__ import annotations

from grpcgw.ambassador.spec.parse import Findings
from grpcgw.ambassador.spec.rate_limit_specs import InjectedHeader
from grpcgw.model.go_template import TemplateError, parse_template
from grpcgw.model.go_values import Duration
from grpcgw.model.header_template import HeaderTemplate
from grpcgw.model.header_values import InvalidHeader, check_header_name, is_reserved

OF_LIMIT = frozenset({"RateLimitResponse", "RetryAfter"})
OF_REFUSAL = OF_LIMIT | {"status_code", "message", "request_id"}
"""What the templates of headers, and those of refusals, can ask for."""
_STATUS = {"Code": 1, "CurrentLimit": {"RequestsPerUnit": 1, "Unit": "MINUTE", "Name": "limit"}, "LimitRemaining": 1}
_SAMPLE = {
    "RateLimitResponse": {"OverallCode": 1, "Statuses": [_STATUS] * 64},
    "RetryAfter": Duration.of_seconds(1),
    "status_code": 429,
    "message": "message",
    "request_id": "1",
}
"""By which a template is tried: one that does not fit these never fits."""


def compile_headers(
    given: list[InjectedHeader] | None, fields: frozenset[str], findings: Findings, *path: str | int
) -> tuple[HeaderTemplate, ...]:
    headers = []
    for index, one in enumerate(given or ()):
        where = (*path, index)
        if "{{" in one.value:
            usable = _check_template(one.value, fields, "the header is left out", findings, *where, "value")
        else:
            usable = _check_text(one.value, findings, *where, "value")
        if usable:
            headers.append(HeaderTemplate(_check_name(one.name, findings, *where, "name"), one.value))
    return tuple(headers)


def compile_body(text: str, findings: Findings, *path: str | int) -> str:
    usable = _check_template(text, OF_REFUSAL, "refusals have the gateway's own message", findings, *path)
    return text if usable else ""


def _check_template(text: str, fields: frozenset[str], left_out: str, findings: Findings, *path: str | int) -> bool:
    try:
        template = parse_template(text)
        unknown = template.fields() - fields - {""}
        if unknown:
            raise TemplateError(f"it asks for .{min(unknown)}, which there is not")
        template.render({name: value for name, value in _SAMPLE.items() if name in fields})
    except TemplateError as error:
        findings.fault(f"the template cannot be used: {error}; {left_out}", *path)
        return False
    return True


def _check_text(text: str, findings: Findings, *path: str | int) -> bool:
    usable = text.isascii() and text.isprintable() and text.strip() == text
    if not usable:
        findings.error("should be printable ASCII characters, without spaces around them", *path)
    return usable


def _check_name(name: str, findings: Findings, *path: str | int) -> str:
    try:
        key = check_header_name(name)
    except InvalidHeader as error:
        findings.error(str(error), *path)
        return name
    if is_reserved(key) or key.endswith("-bin") or key.startswith("x-grpcgw-"):
        findings.error(f"{name} cannot be set here", *path)
    return key
