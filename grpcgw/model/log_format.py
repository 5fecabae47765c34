"""Access log settings: formats and sampling, parsed and checked.

Formats are Envoy's (`operators`, Module `envoy_log_type` and `envoy_log_format`). Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from grpcgw.model.operators import Grammar, InvalidOperator, Line, Operator, absent_operators, parse_operators

ANNOTATION = "grpcgw.io/access-log"
"""On a Mapping: `on`, `off`, or the share of its RPCs to log (`10%`)."""


class LogType(StrEnum):
    JSON = "json"
    TEXT = "text"
    TYPED_JSON = "typed_json"
    """JSON with numbers as numbers and null for missing values."""


@dataclass(frozen=True, slots=True)
class LogFormat:
    type: LogType = LogType.JSON
    text: Line = ()
    """For TEXT; empty: grpcgw's own line."""
    fields: tuple[tuple[str, Line], ...] = ()
    """For JSON and TYPED_JSON: name and value of each field; empty: grpcgw's own fields."""

    def unserved(self) -> list[str]:
        """Messages about operators that show something else than in Envoy."""
        lines = [self.text, *(line for _, line in self.fields)]
        absent = [f"{written} is '-'" for line in lines for written in absent_operators(line)]
        times = [
            f"the format of START_TIME({part.argument}) has no effect"
            for line in lines
            for part in line
            if isinstance(part, Operator) and part.name == "START_TIME" and part.argument
        ]
        return list(dict.fromkeys([*absent, *times]))


class InvalidLogFormat(ValueError):
    """A format or sampling annotation is invalid; the text says why."""


PLAIN_OPERATORS = frozenset(
    {
        "BYTES_RECEIVED",
        "BYTES_SENT",
        "CANCELLED_BY",
        "DEADLINE_LEFT",
        "DOWNSTREAM_REMOTE_ADDRESS",
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
        "DOWNSTREAM_REMOTE_PORT",
        "DURATION",
        "GRPC_MESSAGE",
        "GRPC_STATUS_NUMBER",
        "IDENTITY",
        "MAPPING",
        "POLICY",
        "PROTOCOL",
        "REASON",
        "REQUEST_MESSAGES",
        "RESPONSE_CODE",
        "RESPONSE_CODE_DETAILS",
        "RESPONSE_FLAGS",
        "RESPONSE_MESSAGES",
        "RETRIES",
        "ROUTE_NAME",
        "STATUS_FROM",
        "TIMEOUT",
        "UPSTREAM_CLUSTER",
        "UPSTREAM_HOST",
        "UPSTREAM_REQUEST_ATTEMPT_COUNT",
    }
)
KEYED_OPERATORS = frozenset({"FACT", "REQ", "RESP", "TRAILER"})
STATUS_STYLES = ("CAMEL_STRING", "SNAKE_STRING", "NUMBER")
"""Arguments of GRPC_STATUS; the first is the default, as in Envoy."""

_GRAMMAR = Grammar(PLAIN_OPERATORS, KEYED_OPERATORS, {"GRPC_STATUS": STATUS_STYLES, "START_TIME": ()})


def parse_log_format(log_type: str | None, log_format: object) -> LogFormat:
    """Parses `envoy_log_type` (default `text`, as in Ambassador) and `envoy_log_format` of the Module.

    `text` takes a string, the other types an object of strings; None: grpcgw's own format. Raises InvalidLogFormat.
    """
    if log_type not in (None, *LogType):
        raise InvalidLogFormat(f"envoy_log_type should be text, json or typed_json, not {log_type!r}")
    chosen = LogType(log_type or LogType.TEXT)
    if log_format is None:
        return LogFormat(chosen)
    if chosen is LogType.TEXT:
        if not isinstance(log_format, str):
            raise InvalidLogFormat("envoy_log_format should be a string where envoy_log_type is text")
        return LogFormat(chosen, text=parse_line(log_format))
    if not isinstance(log_format, Mapping):
        raise InvalidLogFormat(
            f"envoy_log_format should be an object of names and formats where envoy_log_type is {chosen}"
        )
    return LogFormat(chosen, fields=tuple(_parse_fields(log_format)))


def parse_share(text: str) -> float:
    """Percent of a Mapping's RPCs to log: 100 for `on`, 0 for `off`, else `10%`. Raises InvalidLogFormat."""
    switch = {"on": 100.0, "off": 0.0}.get(text.strip())
    if switch is not None:
        return switch
    number = re.fullmatch(r"\s*([0-9]{1,3}(?:\.[0-9]+)?)\s*%\s*", text, re.ASCII)
    if number is None or float(number[1]) > 100:
        raise InvalidLogFormat(f"{ANNOTATION} should be on, off, or a share like 10%, not {text!r}")
    return float(number[1])


def parse_line(text: str) -> Line:
    """Raises InvalidLogFormat for an unknown or misused operator."""
    try:
        return parse_operators(text, _GRAMMAR)
    except InvalidOperator as error:
        raise InvalidLogFormat(str(error)) from error


def _parse_fields(formats: Mapping[object, object]) -> Iterator[tuple[str, Line]]:
    for name, text in formats.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise InvalidLogFormat(f"envoy_log_format: the value of {name} should be a string")
        yield name, parse_line(text)
