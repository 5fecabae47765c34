"""The part of Go's `text/template` that Edge Stack's Filters and RateLimits use in header values and messages. Pure.

    {{ .token.Claims.sub }}                                              fields; {{- and -}} trim spaces
    {{ .httpRequestHeader.Get "X-Tenant" }}                              the first value of a header
    {{ if hasKey .token.Claims "email" }}…{{ else }}{{ doNotSet }}{{ end }}
    {{ printf "%.0f" .token.Claims.iat }}, {{ .message | json "" }}      functions (`FUNCTIONS`) and pipelines
    {{ .RetryAfter }}, {{ .RetryAfter.Seconds }}                         a duration, and its methods

Anything else of Go's language (range, with, variables, templates) is an error when the template is parsed. A field that
a map does not have is written `<no value>`, as in Go, and so are the fields of one. Numbers are Go's float64, as its
JSON reader makes them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from grpcgw.model.go_values import Duration, compare, is_true, printf, write, write_argument

_ACTION = re.compile(
    r'\{\{(-(?=\s))?((?:"(?:\\.|[^"\\])*"|`[^`]*`|/\*.*?\*/|[^"`}]|\}(?!\}))*?)((?<=\s)-)?\}\}', re.DOTALL
)
_WORD = re.compile(
    r"""\s*(?:(?P<text>"(?:\\.|[^"\\])*"|`[^`]*`)|(?P<number>-?\d+(?:\.\d+)?)|(?P<field>(?:\.[A-Za-z_]\w*)+|\.)"""
    r"""|(?P<name>[A-Za-z_]\w*)|(?P<mark>[()|]))"""
)
_CONSTANTS: Mapping[str, object] = {"true": True, "false": False, "nil": None}
_MOST_NESTED = 20


class TemplateError(ValueError):
    """A template that cannot be parsed, or does not fit the values; the text holds no value."""


class HeaderOfRequest:
    """`.httpRequestHeader`: `get` is given a name in any case."""

    def __init__(self, get: Callable[[str], str]) -> None:
        self.get = get


class _DoNotSet(Exception):
    pass


@dataclass(frozen=True, slots=True)
class _Literal:
    value: object


@dataclass(frozen=True, slots=True)
class _Field:
    path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Function:
    name: str


@dataclass(frozen=True, slots=True)
class _Pipeline:
    commands: tuple[tuple[_Operand, ...], ...]
    path: tuple[str, ...] = ()
    """Fields of its result: `(index .a 0).b`."""


_Operand = _Literal | _Field | _Function | _Pipeline


@dataclass(frozen=True, slots=True)
class _If:
    condition: _Pipeline
    then: tuple[_Node, ...]
    otherwise: tuple[_Node, ...]


_Node = str | _Pipeline | _If


@dataclass(frozen=True, slots=True)
class Template:
    nodes: tuple[_Node, ...]

    def fields(self) -> frozenset[str]:
        """First names of the fields that it reads: `token`; empty for the whole."""
        return frozenset(_fields_of(self.nodes))

    def render(self, data: Mapping[str, object]) -> str | None:
        """None: it said `doNotSet`. Raises TemplateError where it does not fit `data`."""
        try:
            return _render(self.nodes, data)
        except _DoNotSet:
            return None
        except RecursionError:
            raise TemplateError("a value is nested too deeply") from None


@lru_cache(maxsize=1024)
def parse_template(text: str) -> Template:
    """Raises TemplateError for what is no template, or needs more of Go than there is."""
    parser = _Parser(_split(text))
    nodes = parser.parse_nodes(0)
    if parser.closed_by:
        raise TemplateError(f"{{{{ {parser.closed_by} }}}} without {{{{ if }}}}")
    return Template(nodes)


def _split(text: str) -> list[str | tuple[str]]:
    """Text, and actions as tuples of one, with the spaces trimmed that `{{-` and `-}}` trim."""
    parts: list[str | tuple[str]] = []
    end, trims = 0, False
    for found in _ACTION.finditer(text):
        before = text[end : found.start()]
        before = before.lstrip() if trims else before
        parts.append(before.rstrip() if found[1] else before)
        parts.append((found[2].strip(),))
        end, trims = found.end(), bool(found[3])
    rest = text[end:]
    if "{{" in rest:
        raise TemplateError("{{ without }}")
    return [*parts, rest.lstrip() if trims else rest]


class _Parser:
    def __init__(self, parts: Sequence[str | tuple[str]]) -> None:
        self._parts = list(reversed(parts))
        self.closed_by = ""
        """The action that ended the last list of nodes: `end`, `else`, `else if …`; empty: the end of the text."""

    def parse_nodes(self, depth: int) -> tuple[_Node, ...]:
        if depth > _MOST_NESTED:
            raise TemplateError("it is nested too deeply")
        nodes: list[_Node] = []
        while self._parts:
            part = self._parts.pop()
            if isinstance(part, str):
                nodes += [part] if part else []
                continue
            word, _, rest = part[0].partition(" ")
            if word in ("end", "else"):
                self.closed_by = part[0]
                return tuple(nodes)
            if word == "if":
                nodes.append(self._parse_if(rest, depth + 1))
            elif not (part[0].startswith("/*") and part[0].endswith("*/")):
                nodes.append(parse_pipeline(part[0]))
        self.closed_by = ""
        return tuple(nodes)

    def _parse_if(self, condition: str, depth: int) -> _If:
        parsed = parse_pipeline(condition)
        then = self.parse_nodes(depth)
        otherwise: tuple[_Node, ...] = ()
        if self.closed_by.startswith("else if "):
            return _If(parsed, then, (self._parse_if(self.closed_by.removeprefix("else if "), depth + 1),))
        if self.closed_by == "else":
            otherwise = self.parse_nodes(depth)
        if self.closed_by != "end":
            raise TemplateError("{{ if }} without {{ end }}")
        self.closed_by = ""
        return _If(parsed, then, otherwise)


def parse_pipeline(text: str) -> _Pipeline:
    words = _split_words(text)
    pipeline = _take_pipeline(words, 0)
    if words:
        raise TemplateError(f"cannot be read: {{{{ {text} }}}}")
    return pipeline


def _split_words(text: str) -> list[re.Match[str]]:
    words, end = [], 0
    while end < len(text.rstrip()):
        found = _WORD.match(text, end)
        if found is None:
            raise TemplateError(f"not supported: {{{{ {text} }}}}")
        words.append(found)
        end = found.end()
    return words[::-1]


def _take_pipeline(words: list[re.Match[str]], depth: int) -> _Pipeline:
    """Takes words from the end of the list, up to a bracket that it has not opened."""
    commands: list[tuple[_Operand, ...]] = []
    command: list[_Operand] = []
    while words and words[-1]["mark"] != ")":
        word = words.pop()
        if word["mark"] == "|":
            commands.append(_check_command(command, bool(commands)))
            command = []
        else:
            command.append(_take_operand(word, words, depth))
    commands.append(_check_command(command, bool(commands)))
    return _Pipeline(tuple(commands))


def _take_operand(word: re.Match[str], words: list[re.Match[str]], depth: int) -> _Operand:
    if word["mark"] == "(":
        inner = _take_pipeline(words, depth + 1) if depth < _MOST_NESTED else None
        if inner is None or not words:
            raise TemplateError("a bracket is not closed, or they are nested too deeply")
        words.pop()
        attached = words and words[-1]["field"] and words[-1].start() == words[-1].start("field")
        return _Pipeline(inner.commands, _path(words.pop()["field"])) if attached else inner
    if word["text"] is not None:
        return _Literal(_read_text(word["text"]))
    if word["number"] is not None:
        return _Literal(float(word["number"]) if "." in word["number"] else int(word["number"]))
    if word["field"] is not None:
        return _Field(_path(word["field"]))
    name = word["name"]
    if name in _CONSTANTS:
        return _Literal(_CONSTANTS[name])
    if name not in FUNCTIONS:
        raise TemplateError(f"not supported: {name}")
    return _Function(name)


def _path(field: str) -> tuple[str, ...]:
    return tuple(field.split(".")[1:]) if field != "." else ()


def _read_text(quoted: str) -> str:
    if quoted[0] == "`":
        return quoted[1:-1]
    try:
        return str(json.loads(quoted))  # Go's escapes that JSON does not have are rare
    except ValueError:
        raise TemplateError(f"an escape in {quoted} is not supported") from None


def _check_command(command: Sequence[_Operand], piped: bool) -> tuple[_Operand, ...]:
    if not command:
        raise TemplateError("an empty command")
    first = command[0]
    takes = isinstance(first, _Function) or (isinstance(first, _Field) and first.path[-1:] == ("Get",))
    if (len(command) > 1 or piped) and not takes:
        raise TemplateError("only functions and .httpRequestHeader.Get take arguments")
    return tuple(command)


def _fields_of(nodes: Sequence[_Node | _Operand]) -> list[str]:
    found: list[str] = []
    for node in nodes:
        if isinstance(node, _If):
            found += _fields_of((node.condition, *node.then, *node.otherwise))
        elif isinstance(node, _Pipeline):
            found += [one for command in node.commands for one in _fields_of(command)]
        elif isinstance(node, _Field):
            found.append(node.path[0] if node.path else "")
    return found


def _render(nodes: Sequence[_Node], data: object) -> str:
    parts = []
    for node in nodes:
        if isinstance(node, _If):
            parts.append(_render(node.then if is_true(_evaluate(node.condition, data)) else node.otherwise, data))
        else:
            parts.append(node if isinstance(node, str) else write(_evaluate(node, data)))
    return "".join(parts)


def _evaluate(pipeline: _Pipeline, data: object) -> object:
    value: object = None
    for index, command in enumerate(pipeline.commands):
        value = _run(command, data, (value,) if index else ())
    return _walk(value, pipeline.path)


def _run(command: Sequence[_Operand], data: object, piped: tuple[object, ...]) -> object:
    first, arguments = command[0], (*(_value_of(one, data) for one in command[1:]), *piped)
    if isinstance(first, _Function):
        try:
            return FUNCTIONS[first.name](*arguments)
        except (TypeError, LookupError):
            raise TemplateError(f"{first.name} does not fit its arguments") from None
    if isinstance(first, _Field) and arguments:
        header, name = _walk(data, first.path[:-1]), arguments[0]
        if not isinstance(header, HeaderOfRequest) or not isinstance(name, str) or len(arguments) > 1:
            raise TemplateError("Get is only of .httpRequestHeader, with one name")
        return header.get(name)
    return _value_of(first, data)


def _value_of(operand: _Operand, data: object) -> object:
    if isinstance(operand, _Literal):
        return operand.value
    if isinstance(operand, _Field):
        return _walk(data, operand.path)
    return _evaluate(operand, data) if isinstance(operand, _Pipeline) else _run((operand,), data, ())


def _walk(value: object, path: Sequence[str]) -> object:
    for name in path:
        if isinstance(value, Duration):
            value = _call(value, name)
            continue
        if value is None:  # of what a map does not have
            return None
        if not isinstance(value, Mapping):
            raise TemplateError(f".{name} is asked of something that has no fields")
        value = value.get(name)
    return value


def _call(value: Duration, method: str) -> object:
    try:
        return value.call(method)
    except LookupError:
        raise TemplateError(f"a duration has no .{method}") from None


def _do_not_set() -> object:
    raise _DoNotSet


def _has_key(value: object, key: object) -> bool:
    if not isinstance(value, Mapping):
        raise TypeError
    return key in value


def _index(value: object, *keys: object) -> object:
    for key in keys:
        if isinstance(value, Mapping) and isinstance(key, str):
            value = value.get(key)
        elif isinstance(value, str | list | tuple) and isinstance(key, int | float) and 0 <= key < len(value):
            value = value[int(key)]
        else:
            raise TypeError
    return value


def _length(value: object) -> int:
    if not isinstance(value, str | list | tuple | Mapping):
        raise TypeError
    return len(value.encode()) if isinstance(value, str) else len(value)


def _json(prefix: object, value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, indent=2, default=dict)
    return "\n".join(f"{prefix}{line}" for line in text.split("\n"))


def _and(*values: object) -> object:
    return next((one for one in values if not is_true(one)), values[-1])


def _or(*values: object) -> object:
    return next((one for one in values if is_true(one)), values[-1])


FUNCTIONS: Mapping[str, Callable[..., object]] = {
    "and": _and,
    "doNotSet": _do_not_set,
    "eq": lambda first, *others: any(compare(first, one) == 0 for one in others),
    "ge": lambda a, b: compare(a, b) >= 0,
    "gt": lambda a, b: compare(a, b) > 0,
    "hasKey": _has_key,
    "index": _index,
    "json": _json,
    "le": lambda a, b: compare(a, b) <= 0,
    "len": _length,
    "lt": lambda a, b: compare(a, b) < 0,
    "ne": lambda a, b: compare(a, b) != 0,
    "not": lambda value: not is_true(value),
    "or": _or,
    "print": lambda *values: "".join(write_argument(one) for one in values),
    "printf": printf,
}
