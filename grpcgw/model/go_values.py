"""Values as Go's fmt writes them and its templates compare them; JSON numbers are float64. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping

NANOSECONDS = 1_000_000_000
_VERB = re.compile(r"%(?:(%)|(?:\.(\d{1,2}))?([svdqfget]))")


class Integer(int):
    """A number of one of Go's integer types, which is not written as JSON's numbers are."""


class Duration(Integer):
    """A `time.Duration`: nanoseconds, a number where it is compared."""

    @staticmethod
    def of_seconds(seconds: float) -> Duration:
        return Duration(round(seconds * NANOSECONDS))

    def call(self, method: str) -> object:
        """What `.Seconds` and its kin give. Raises LookupError for a method that it does not have."""
        return _METHODS[method](int(self))

    def __str__(self) -> str:
        """As Go's `String`: `1h2m3.5s`, and `350ms` below a second."""
        nanoseconds = int(self)
        if not nanoseconds:
            return "0s"
        if nanoseconds < NANOSECONDS:
            size, unit = next((size, unit) for size, unit in _SMALL if nanoseconds >= size)
            return f"{_write_part_of_second(nanoseconds, size)}{unit}"
        minutes, rest = divmod(nanoseconds, 60 * NANOSECONDS)
        hours, minutes = divmod(minutes, 60)
        longer = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
        return f"{longer}{_write_part_of_second(rest, NANOSECONDS)}s"


_SMALL = ((1_000_000, "ms"), (1_000, "µs"), (1, "ns"))
_METHODS: Mapping[str, Callable[[int], object]] = {
    "Hours": lambda nanoseconds: nanoseconds / (3600 * NANOSECONDS),
    "Minutes": lambda nanoseconds: nanoseconds / (60 * NANOSECONDS),
    "Seconds": lambda nanoseconds: nanoseconds / NANOSECONDS,
    "Milliseconds": lambda nanoseconds: Integer(nanoseconds // 1_000_000),
    "Microseconds": lambda nanoseconds: Integer(nanoseconds // 1_000),
    "Nanoseconds": Integer,
    "String": lambda nanoseconds: str(Duration(nanoseconds)),
}


def _write_part_of_second(nanoseconds: int, size: int) -> str:
    whole, rest = divmod(nanoseconds, size)
    fraction = f"{rest:0{len(str(size)) - 1}}".rstrip("0") if rest else ""
    return f"{whole}.{fraction}" if fraction else str(whole)


def write(value: object) -> str:
    """As `%v`. None is a field that a map does not have."""
    if isinstance(value, Integer):
        return str(value)
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return _write_number(float(value))
    if isinstance(value, Mapping):
        return f"map[{' '.join(f'{name}:{write_argument(value[name])}' for name in sorted(value))}]"
    if isinstance(value, list | tuple):
        return f"[{' '.join(write_argument(one) for one in value)}]"
    return str(value) if isinstance(value, str) else "<unknown>"


def is_true(value: object) -> bool:
    """Neither false, 0, nil nor empty."""
    return bool(value)


def compare(one: object, other: object) -> int:
    """Raises TypeError for values of different kinds, except for equality with nil."""
    if one is None or other is None:
        return 0 if one is other else 1
    if isinstance(one, bool) is not isinstance(other, bool):
        raise TypeError
    if isinstance(one, str) and isinstance(other, str):
        return (one > other) - (one < other)
    if isinstance(one, int | float) and isinstance(other, int | float):
        return (one > other) - (one < other)
    raise TypeError


def printf(pattern: object, *values: object) -> str:
    """The verbs s, v, d, q, f, g, e, t and %%, with a precision. None is written as Go does. Raises TypeError for other
    verbs, and for values that do not fit."""
    if not isinstance(pattern, str) or "%" in _VERB.sub("", pattern):
        raise TypeError
    left = list(values)

    def write_one(found: re.Match[str]) -> str:
        return "%" if found[1] else _write_by(found[3], found[2], left.pop(0))

    written = _VERB.sub(write_one, pattern)
    if left:
        raise TypeError
    return written


def write_argument(value: object) -> str:
    """Of a function, or a part of a value."""
    return "<nil>" if value is None else write(value)


def _write_number(number: float) -> str:
    """The shortest text that means this number: with an exponent below 1e-4 and from 1e+06 on."""
    digits, _, exponent = repr(number).partition("e")
    power = int(f"{number:.17e}".partition("e")[2])
    if number == 0 or -4 <= power < 6:
        return digits.removesuffix(".0") if not exponent else f"{number:f}"
    mantissa = digits.lstrip("-").replace(".", "").strip("0")
    fraction = f".{mantissa[1:]}" if len(mantissa) > 1 else ""
    return f"{'-' if number < 0 else ''}{mantissa[0]}{fraction}e{power:+03d}"


def _write_by(verb: str, precision: str | None, value: object) -> str:
    if value is None:  # a claim that a token does not have
        return "<nil>" if verb == "v" else f"%!{verb}(<nil>)"
    if verb == "q" and isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if verb == "t" and isinstance(value, bool):
        return write(value)
    if verb in "fge" and isinstance(value, int | float):
        if verb == "g" and precision is None:
            return _write_number(float(value))
        return f"{float(value):.{precision or 6}{verb}}"
    if verb == "d" and isinstance(value, int):
        return str(int(value))
    if verb in "sv" and (verb == "v" or isinstance(value, str)):
        return write(value) if precision is None else write(value)[: int(precision)]
    raise TypeError
