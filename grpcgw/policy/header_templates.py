"""Metadata from Go templates: headers that a Filter adds to a request or to its refusal. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from grpcgw.model.go_template import HeaderOfRequest, parse_template
from grpcgw.model.header_template import HeaderTemplate
from grpcgw.model.metadata import Metadata
from grpcgw.policy.contract import PolicyRequest


def header_of(request: PolicyRequest) -> HeaderOfRequest:
    """`.httpRequestHeader` of a template."""

    def get(name: str) -> str:
        value = request.get(name.lower())
        return value if isinstance(value, str) else ""

    return HeaderOfRequest(get)


def render_header(template: HeaderTemplate, data: Mapping[str, object]) -> Metadata:
    """The item of metadata, none where the template says `doNotSet`. Raises TemplateError."""
    text = parse_template(template.value).render(data)
    if text is None:
        return ()
    if template.name.endswith("-bin"):
        return ((template.name, text.encode(errors="replace")),)
    return ((template.name, escape(text.strip())),)


def escape(text: str) -> str:
    """Percent-encodes what no header can carry, as `grpc-message` does: claims hold any text."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(chr(byte) if 0x20 <= byte < 0x7F else f"%{byte:02X}" for byte in text.encode(errors="replace"))
