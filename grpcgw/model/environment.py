"""Substitutes environment variables in texts of the configuration, and hides their values in messages. Pure.

`$NAME` and `${NAME}` as Ambassador reads them; a name that is not set stays as it is, and so does any other `$`:
patterns need it (`^/a$`, `${1}`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))", re.ASCII)
_QUOTED = re.compile(r"""(?<!\w)(?:'(?:[^'\\]|\\.)*?(?:'|\.\.\.|$)|"(?:[^"\\]|\\.)*?(?:"|\.\.\.|$))""")
"""A text as `repr` shows it, or the beginning of one that was cut."""


_SHORT = 3


@dataclass(frozen=True, slots=True)
class Filled:
    """A text that names variables, with those that are set filled in."""

    written: str
    text: str = field(repr=False)
    values: tuple[tuple[str, str], ...] = field(repr=False)
    """Value and spelling (`${NAME}`) of each that is set and not empty."""
    missing: tuple[str, ...] = ()


def fill_in(written: str, environment: Mapping[str, str]) -> Filled | None:
    """None: the text names no variable."""
    names = {match[0]: match[1] or match[2] for match in _VARIABLE.finditer(written)} if "$" in written else {}
    if not names:
        return None
    text = _VARIABLE.sub(lambda match: environment.get(names[match[0]], match[0]), written)
    values = tuple((environment[name], spelling) for spelling, name in names.items() if environment.get(name))
    missing = tuple(dict.fromkeys(name for name in names.values() if name not in environment))
    return Filled(written, text, values, missing)


def hide(message: str, filled: Iterable[Filled]) -> str:
    """The message with values of the environment replaced by the names of their variables: a value may be a secret.

    Short values are replaced as whole words only, those of one letter not at all: they are no secrets.
    """
    for one in filled:
        for value, spelling in one.values:
            for shown in (value, repr(value)[1:-1], repr(f'{value}"')[1:-2]):
                message = _replace(message, shown, spelling)
        message = _QUOTED.sub(partial(_hide_part, one), message)
    return message


def _replace(text: str, value: str, spelling: str) -> str:
    if len(value) < 2:
        return text
    if len(value) > _SHORT:
        return text.replace(value, spelling)
    return spelling.join(re.split(rf"(?<!\w){re.escape(value)}(?!\w)", text))


def _hide_part(filled: Filled, quoted: re.Match[str]) -> str:
    """A quoted text may be a part of a value."""
    inner = quoted[0][1:].removesuffix(quoted[0][0]).removesuffix("...")
    is_part = len(inner) > 1 and inner in repr(filled.text) and inner not in repr(filled.written)
    return repr(filled.written) if is_part and filled.values else quoted[0]
