"""Decodes YAML (and JSON) text into JSON values, with the line of every field. Pure: no files, no objects.

Built on the events of PyYAML's parser (decision 023): each event has its line, no tag can create anything but JSON
types, and nesting and aliases are bounded before they cost memory. A fault of the text is returned as a `Fault`, never
raised.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

import yaml

from grpcgw.discovery.sources.yaml_scalars import RESOLVED_TAGS, TEXT_TAGS, decode_plain
from grpcgw.model.environment import Filled, fill_in
from grpcgw.model.objects import FieldPath

MAX_DEPTH = 100
TOO_DEEP = f"values are nested more than {MAX_DEPTH} deep"
MAX_ALIASED_VALUES = 100_000
"""Values that the aliases of one document may expand to: a small file must not grow to gigabytes (billion laughs)."""

_LOADER = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
_COLLECTION_TAGS = frozenset({None, "!", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"})


@dataclass(frozen=True, slots=True)
class Document:
    """One decoded YAML document: JSON types only; `lines` as in `Source.lines`, and for a literal block (`|`) at `path`
    the line of its first character at `(*path, 0)`."""

    value: object
    lines: Mapping[FieldPath, int]
    filled: tuple[tuple[FieldPath, Filled], ...] = ()
    """The texts that name variables of the environment; a key has the path of its mapping."""


@dataclass(frozen=True, slots=True)
class Filling:
    """The values of `$NAME` and `${NAME}`, and the key whose text is not filled in."""

    environment: Mapping[str, str]
    left_out: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """The reason why a document, or (`whole_text`) the text from here on, could not be read."""

    line: int
    message: str
    whole_text: bool = False


def read_documents(text: str, first_line: int = 1, filling: Filling | None = None) -> Iterator[Document | Fault]:
    """Decode every YAML document of `text`, which begins in `first_line` of its file; empty ones are skipped.

    Ends after a fault of the whole text. Without `filling` nothing is filled in.
    """
    before = first_line - 1
    for found in _read_documents(text, before, filling or Filling({})):
        if isinstance(found, Fault):
            yield replace(found, line=found.line + before)
        elif found.value is not None:
            lines = {path: line + before for path, line in found.lines.items()} if before else found.lines
            yield replace(found, lines=lines)


def _read_documents(text: str, lines_before: int, filling: Filling) -> Iterator[Document | Fault]:
    """As `read_documents`, with lines counted from the beginning of the text."""
    events = _shallow(yaml.parse(text, Loader=_LOADER))
    try:
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                yield _read_document(events, lines_before, filling)
    except _TooDeep as error:
        yield Fault(error.line, TOO_DEEP, whole_text=True)
    except yaml.MarkedYAMLError as error:
        yield Fault(_line_of(error.problem_mark), _describe(error, text), whole_text=True)
    except UnicodeEncodeError as error:
        line = text.count("\n", 0, error.start) + 1
        yield Fault(line, "this is not YAML: half of a UTF-16 surrogate pair stands alone", whole_text=True)
    except yaml.reader.ReaderError as error:
        line = text.encode().count(b"\n", 0, error.position) + 1
        yield Fault(line, f"this is not YAML: character U+{_code_point(error):04X} is not allowed", whole_text=True)


class _Mark(Protocol):
    """A parser mark; PyYAML's two parsers have a class each."""

    @property
    def line(self) -> int: ...


class _DocumentError(Exception):
    """A document that cannot be used, with the 1-based line of the reason."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


class _TooDeep(Exception):
    """Nesting beyond MAX_DEPTH. Ends the whole text, as the parser's own work grows with the square of the depth."""

    def __init__(self, line: int) -> None:
        super().__init__(line)
        self.line = line


def _shallow(events: Iterable[yaml.Event]) -> Iterator[yaml.Event]:
    depth = 0
    for event in events:
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            raise _TooDeep(_line_of(event.start_mark))
        yield event


def _read_document(events: Iterator[yaml.Event], lines_before: int, filling: Filling) -> Document | Fault:
    reader = _DocumentReader(events, lines_before, filling)
    try:
        value, _ = reader.read(next(events), ())
        return Document(value, reader.lines, tuple(reader.filled))
    except _DocumentError as error:
        for event in events:
            if isinstance(event, yaml.DocumentEndEvent):
                break
        return Fault(error.line, str(error))


@dataclass(slots=True)
class _DocumentReader:
    """Turns the events of one document into values. `anchors` holds each value with the number of values in it."""

    events: Iterator[yaml.Event]
    lines_before: int
    """Lines of the file before the text, for messages that name a line."""
    filling: Filling
    filled: list[tuple[FieldPath, Filled]] = field(default_factory=list)
    lines: dict[FieldPath, int] = field(default_factory=dict)
    anchors: dict[str, tuple[object, int]] = field(default_factory=dict)
    aliased: int = 0

    def read(self, event: yaml.Event, path: FieldPath) -> tuple[object, int]:
        """The value that begins with `event`, and the number of values in it, itself included."""
        line = _line_of(event.start_mark)
        self.lines.setdefault(path, line)
        if isinstance(event, yaml.AliasEvent):
            return self._resolve_alias(event.anchor, line)
        match event:
            case yaml.ScalarEvent():
                sized: tuple[object, int] = (self._read_scalar(event, path, line), 1)
                if event.style == "|":
                    self.lines[(*path, 0)] = line + 1
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent() if event.tag not in _COLLECTION_TAGS:
                raise _unknown_tag(line, event.tag)
            case yaml.MappingStartEvent():
                sized = self._read_mapping(path)
            case _:
                sized = self._read_list(path)
        anchor: str | None = getattr(event, "anchor", None)
        if anchor is not None:
            self.anchors[anchor] = sized
        return sized

    def _read_scalar(self, event: yaml.ScalarEvent, path: FieldPath, line: int) -> object:
        is_left_out = path[-1:] == (self.filling.left_out,)
        text = event.value if is_left_out else self._fill_in(event.value, path)
        if event.tag in TEXT_TAGS or (event.tag is None and not event.implicit[0]):
            return text
        if event.tag is not None and event.tag not in RESOLVED_TAGS:
            raise _unknown_tag(line, event.tag)
        try:
            return decode_plain(text)
        except OverflowError as error:
            written = event.value[:40]
            raise _DocumentError(line, f"the number {written} is too large; quote it if it is meant as text") from error

    def _fill_in(self, text: str, path: FieldPath) -> str:
        filled = fill_in(text, self.filling.environment) if self.filling.environment else None
        if filled is None:
            return text
        self.filled.append((path, filled))
        return filled.text

    def _read_list(self, path: FieldPath) -> tuple[list[object], int]:
        values: list[object] = []
        size = 1
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            value, count = self.read(event, (*path, len(values)))
            values.append(value)
            size += count
        return values, size

    def _read_mapping(self, path: FieldPath) -> tuple[dict[str, object], int]:
        values: dict[str, object] = {}
        merged: dict[str, object] = {}
        first_lines: dict[str, int] = {}
        size = 1
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            line = _line_of(event.start_mark)
            key = self._read_key(event, path, line)
            if key in first_lines:
                before = first_lines[key] + self.lines_before
                raise _DocumentError(
                    line, f"duplicate key {_written(event, key)!r}: it was given in line {before} before"
                )
            first_lines[key] = self.lines[(*path, key)] = line
            value, count = self.read(next(self.events), (*path, key))
            size += count
            if key == "<<" and _is_plain(event):
                merged = _merge(value, line)
            else:
                values[key] = value
        return {**merged, **values}, size

    def _read_key(self, event: yaml.Event, path: FieldPath, line: int) -> str:
        """The key as text, as in JSON: `8080:` is "8080"."""
        if isinstance(event, yaml.ScalarEvent):
            key = self._fill_in(str(event.value), path)
            if event.anchor is not None:
                self.anchors[event.anchor] = (key, 1)
            return key
        aliased = self._resolve_alias(event.anchor, line)[0] if isinstance(event, yaml.AliasEvent) else None
        if isinstance(aliased, str):
            return aliased
        raise _DocumentError(line, "a key must be plain text, not a list or mapping")

    def _resolve_alias(self, name: str | None, line: int) -> tuple[object, int]:
        if name is None or name not in self.anchors:
            raise _DocumentError(line, f"alias *{name} stands for nothing read so far, or for itself")
        value, size = self.anchors[name]
        self.aliased += size
        if self.aliased > MAX_ALIASED_VALUES:
            raise _DocumentError(line, f"aliases stand for more than {MAX_ALIASED_VALUES} values in this document")
        return value, size


def _merge(value: object, line: int) -> dict[str, object]:
    """The value of a merge key, `<<: *anchor` or `<<: [*first, *second]`: earlier mappings win over later ones."""
    sources = value if isinstance(value, list) else [value]
    merged: dict[str, object] = {}
    for source in reversed(sources):
        if not isinstance(source, dict):
            raise _DocumentError(line, "<< takes a mapping or a list of mappings")
        merged.update(source)
    return merged


def _is_plain(event: yaml.Event) -> bool:
    return isinstance(event, yaml.ScalarEvent) and event.tag is None and bool(event.implicit[0])


def _written(event: yaml.Event, key: str) -> str:
    return str(event.value) if isinstance(event, yaml.ScalarEvent) else key


def _unknown_tag(line: int, tag: str | None) -> _DocumentError:
    return _DocumentError(line, f"tag {tag} is not supported: only plain YAML (what JSON can hold) is read")


def _line_of(mark: _Mark | None) -> int:
    return mark.line + 1 if mark is not None else 1


def _describe(error: yaml.MarkedYAMLError, text: str) -> str:
    """The parser's error. Newer parsers limit nesting themselves and read ahead of their events: that error
    is reported as TOO_DEEP, too."""
    read = text[: error.problem_mark.index] if error.problem_mark is not None else ""
    if sum(map(read.count, "[{")) - sum(map(read.count, "]}")) > MAX_DEPTH:
        return TOO_DEEP
    context = f"{error.context}: " if error.context else ""
    return f"this is not YAML: {context}{error.problem}"


def _code_point(error: yaml.reader.ReaderError) -> int:
    return error.character if isinstance(error.character, int) else ord(error.character)
