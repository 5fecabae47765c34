"""Types of plain YAML scalars as Kubernetes reads them: YAML 1.1 words and numbers; base-60 numbers and timestamps stay
text."""

from __future__ import annotations

import math
import re

_TAG = "tag:yaml.org,2002:"
RESOLVED_TAGS = frozenset(f"{_TAG}{name}" for name in ("null", "bool", "int", "float"))
TEXT_TAGS = frozenset({"!", f"{_TAG}str"})
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {
    spelling: value
    for word, value in {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}.items()
    for spelling in (word, word.capitalize(), word.upper())
}
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]{0,99})")
_OCTAL = re.compile(r"[-+]?0o?[0-7]{1,99}")
_HEXADECIMAL = re.compile(r"[-+]?0x[0-9a-fA-F]{1,99}")
_FLOAT = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")


def decode_plain(text: str) -> bool | int | float | str | None:
    """The value of a plain scalar. Raises OverflowError for a number that no float can hold."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _DECIMAL.fullmatch(text):
        return int(text)
    if _OCTAL.fullmatch(text):
        return int(text.replace("o", ""), 8)
    if _HEXADECIMAL.fullmatch(text):
        return int(text, 16)
    if not _FLOAT.fullmatch(text):
        return text
    number = float(text)
    if not math.isfinite(number):
        raise OverflowError(text[:40])
    return number
