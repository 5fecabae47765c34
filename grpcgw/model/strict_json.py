"""Reads JSON that decides who may call: one meaning for every reader, or an error (RFC 8725, 2.4; RFC 7493)."""

from __future__ import annotations

import json
import math

_MOST_DIGITS = 300


def parse_object(data: bytes) -> dict[str, object]:
    """Raises ValueError for what is no JSON object in UTF-8, has a name twice or a number that is not finite, or is too
    deep. No message contains a part of `data`."""
    try:
        value = json.loads(
            data.decode(),
            object_pairs_hook=_make_object,
            parse_constant=_refuse,
            parse_float=_parse_finite,
            parse_int=_parse_int,
        )
    except UnicodeDecodeError:
        raise ValueError("it is not in UTF-8") from None
    except json.JSONDecodeError:
        raise ValueError("it is no JSON") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")
    return value


def _make_object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("it has a name twice")
    return made


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is no number of JSON")


def _parse_int(text: str) -> int:
    """Only what a float can hold, too: most readers take all numbers as such."""
    if len(text) > _MOST_DIGITS:
        raise ValueError("a number is too large")
    return int(text)


def _parse_finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number
