"""Answers to HTTP/2 requests that are no gRPC: health checks of load balancers, and a sentence for the others. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus

from grpcgw.engines.http2.headers import Field, RequestHead
from grpcgw.engines.http2.http1 import check_health


@dataclass(frozen=True, slots=True)
class PlainAnswer:
    status: HTTPStatus
    fields: list[Field]
    body: bytes


def answer_http(head: RequestHead, is_healthy: bool) -> PlainAnswer:
    """405 for another method than POST, 415 for another content-type (grpc `PROTOCOL-HTTP2`); a health check, which
    load balancers send by the protocol that they forward, is answered as in HTTP/1.1."""
    method, path = head.method, head.path.partition("?")[0].encode("latin-1")
    status, sentence = check_health(method, path, is_healthy) or _refuse(method)
    body = f"{sentence}\n".encode()
    fields = [
        (b":status", b"%d" % status),
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(body)),
    ]
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        fields.append((b"allow", b"POST"))
    return PlainAnswer(status, fields, b"" if method == b"HEAD" else body)


def _refuse(method: bytes) -> tuple[HTTPStatus, str]:
    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE if method == b"POST" else HTTPStatus.METHOD_NOT_ALLOWED
    return status, "This port serves gRPC."
