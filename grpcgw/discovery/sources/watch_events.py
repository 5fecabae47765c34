"""Kubernetes list/watch decoding, without I/O: pages and watch events, the resourceVersion cursor, missed events.

A `Cursor` follows what a watch has delivered, and `Relist` is raised when the watch cannot be continued. Also the
built-in kinds that are read beside the dialect's. Knows no HTTP client, event loop or clock; `reflector.py` does the
requests.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from grpcgw.discovery.sources.extensions import extend
from grpcgw.errors import GrpcgwError
from grpcgw.model.dialect import ApiResource, DialectObjects, WatchedKind
from grpcgw.model.objects import KubeObject, ObjectKey, Source

MAX_LINE_BYTES = 32 * 1024 * 1024
"""Far above what an API server stores (1.5 MB in etcd): a longer line is no event and must not fill the memory."""

CERTIFICATE_TYPE = "kubernetes.io/tls"
"""All Secrets of this type are read: a field selector can select by type, RBAC cannot."""

_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
"""RFC 1123, as Kubernetes checks it for Secrets; its namespaces are stricter."""

_ORIGIN = Source("kubernetes")
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


class Relist(GrpcgwError):
    """The watch cannot be continued from its last event; the text says why. Only a new list helps."""

    def __init__(self, reason: str, is_expiry: bool = False) -> None:
        super().__init__(reason)
        self.is_expiry = is_expiry
        """The server no longer has the events after the last one (410 Gone): normal for a kind that seldom changes."""


CERTIFICATES = WatchedKind((ApiResource("", "v1", "Secret", "secrets", f"type={CERTIFICATE_TYPE}"),))
"""Secrets of other types are read only if an object names them, each by its own `watch_secret`."""

BUILT_IN_KINDS = (
    WatchedKind((ApiResource("", "v1", "Service", "services"),)),
    WatchedKind((ApiResource("networking.k8s.io", "v1", "Ingress", "ingresses"),), optional=True),
    CERTIFICATES,
    WatchedKind(
        (
            ApiResource("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices"),
            ApiResource("", "v1", "Endpoints", "endpoints"),
        )
    ),
)
"""The kinds of Kubernetes that are read beside the dialect's."""


def watch_secret(key: ObjectKey) -> WatchedKind:
    """Reads one Secret unless it is a certificate, so that no Secret is read twice. `key` must be a possible name."""
    selector = f"metadata.name={key.name},type!={CERTIFICATE_TYPE}"
    return WatchedKind((ApiResource("", "v1", "Secret", "secrets", selector),), key)


def is_possible_name(key: ObjectKey) -> bool:
    """Whether an object can have this name. Another name must not get into a path or selector, where it would select
    other objects."""
    return _NAME.fullmatch(key.name) is not None and _NAME.fullmatch(key.namespace) is not None


@dataclass(frozen=True, slots=True)
class Put:
    """An object was added or changed."""

    obj: KubeObject
    version: str
    is_new: bool
    """ADDED: a reader of all former events does not know the object."""


@dataclass(frozen=True, slots=True)
class Removed:
    key: ObjectKey
    version: str


@dataclass(frozen=True, slots=True)
class Bookmark:
    """Nothing changed up to `version`."""

    version: str


Event = Put | Removed | Bookmark


@dataclass(slots=True)
class Cursor:
    """Position in a list and the events after it: the resourceVersion to continue from, and the keys that exist."""

    version: str
    keys: set[ObjectKey] = field(default_factory=set)

    def advance(self, event: Event) -> None:
        """Apply `event`. Raises Relist, and stays as it was, if the event proves that an earlier one was missed."""
        if isinstance(event, Put):
            if not event.is_new and event.obj.key not in self.keys:
                raise Relist(f"an event was missed: {event.obj.key} was modified but never added")
            self.keys.add(event.obj.key)
        elif isinstance(event, Removed):
            if event.key not in self.keys:
                raise Relist(f"an event was missed: {event.key} was deleted but never added")
            self.keys.remove(event.key)
        self.version = event.version


class LineSplitter:
    """Splits a byte stream into lines; what follows the last newline is kept for the next chunk."""

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._rest = bytearray()
        self._max_line_bytes = max_line_bytes

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that `chunk` completes, without newlines and blank lines. Raises Relist for an endless line."""
        head, newline, tail = chunk.rpartition(b"\n")
        if not newline:
            self._rest += chunk
            self._check_length()
            return []
        lines = bytes(self._rest + head).split(b"\n")
        self._rest = bytearray(tail)
        self._check_length()
        return [line for line in lines if line.strip()]

    def _check_length(self) -> None:
        if len(self._rest) > self._max_line_bytes:
            raise Relist(f"the API server sent a line of more than {self._max_line_bytes} bytes")


def decode_event(line: bytes, resource: ApiResource, dialect: DialectObjects) -> Event:
    """The event in one line of a watch. Raises Relist for anything else, such as an ERROR event."""
    try:
        document = _as_mapping(json.loads(line))
    except (ValueError, RecursionError):  # the latter of what is nested too deeply
        raise Relist(f"the API server sent a line that is not JSON: {line[:80]!r}") from None
    body = _as_mapping(document.get("object"))
    match document.get("type"):
        case "ADDED" | "MODIFIED" as kind:
            return Put(read_object(body, resource, dialect), read_version(body), is_new=kind == "ADDED")
        case "DELETED":
            return Removed(read_object(body, resource, dialect).key, read_version(body))
        case "BOOKMARK":
            return Bookmark(read_version(body))
        case "ERROR":
            code = body.get("code")
            raise Relist(f"the API server ended the watch: {code} {body.get('message')}", is_expiry=code == 410)
        case other:
            raise Relist(f"the API server sent an event of unknown type {other!r}")


def read_page(
    page: Mapping[str, object], resource: ApiResource, dialect: DialectObjects
) -> tuple[list[KubeObject], str, str]:
    """Objects, resourceVersion and continue token (empty on the last page) of one page of a list. Raises Relist."""
    items = page.get("items")
    if items is None:  # how Go writes an empty list
        items = []
    if not isinstance(items, list):
        raise Relist(f"the API server answered the list of {resource.plural} with something else")
    token = _as_mapping(page.get("metadata")).get("continue") or ""
    return [read_object(_as_mapping(item), resource, dialect) for item in items], read_version(page), str(token)


def read_kinds(resource_list: Mapping[str, object]) -> frozenset[str]:
    """The kinds in an APIResourceList; subresources (`mappings/status`) do not count."""
    resources = resource_list.get("resources") or ()
    entries = [_as_mapping(entry) for entry in resources] if isinstance(resources, Iterable) else []
    return frozenset(str(entry.get("kind")) for entry in entries if "/" not in str(entry.get("name")))


def read_object(body: dict[str, object], resource: ApiResource, dialect: DialectObjects) -> KubeObject:
    """The object as the store keeps it. Lists omit `kind` and `apiVersion` of built-in kinds; they are added here, so
    that an object is equal however it was read. `managedFields` and kubectl's annotation are dropped, to save memory.

    Raises Relist for an object without a name.
    """
    metadata = dict(_as_mapping(body.get("metadata")))
    metadata.pop("managedFields", None)
    annotations = metadata.get("annotations")
    if isinstance(annotations, dict):
        metadata["annotations"] = {name: text for name, text in annotations.items() if name != _LAST_APPLIED}
    name = metadata.get("name")
    if not isinstance(name, str) or not name:
        raise Relist(f"the API server sent a {resource.kind} without a name")
    key = resource.make_key(str(metadata.get("namespace", "")), name)
    whole = {**body, "kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata}
    return extend(KubeObject(resource.api_version, key, whole, _ORIGIN), dialect)


def read_version(body: Mapping[str, object]) -> str:
    """The resourceVersion of `body`. Raises Relist if it has none."""
    version = _as_mapping(body.get("metadata")).get("resourceVersion")
    if not isinstance(version, str) or not version:
        raise Relist("the API server sent something without metadata.resourceVersion")
    return version


def _as_mapping(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise Relist(f"the API server sent {type(value).__name__} where an object belongs")
    return value
