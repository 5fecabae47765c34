"""The host names that are refused while a Host or TLSContext is left out for its errors.

The error may be in a field that restricts callers, so no wider Host and no other certificate serves those names. If the
names of the object cannot be read, every name is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from grpcgw.ambassador.compile.matching import InvalidHost, read_host_glob
from grpcgw.ambassador.spec.fields import Resource
from grpcgw.ambassador.spec.host_specs import HostSpec, TLSContextSpec
from grpcgw.ambassador.spec.parse import find_strangers, raw_spec
from grpcgw.model.host_policy import HostPolicy, Labels
from grpcgw.model.match import HostMatch
from grpcgw.model.objects import KubeObject, read_metadata

_RESEMBLES = 0.55
"""Of `difflib`: `host`, `hst` and `hostnames` resemble `hosts`, `secrets` does not."""


@dataclass(frozen=True, slots=True)
class ClosedNames:
    """The names that one object refuses."""

    policies: tuple[HostPolicy, ...]
    every_name: bool = False
    """Its names cannot be read: its one policy is for every name, and takes precedence over every other Host."""

    def describe(self) -> str:
        return "any name" if self.every_name else ", ".join(str(policy.host or "*") for policy in self.policies)


def close_names(by: str, names: Sequence[object]) -> ClosedNames:
    """`by`: the object, for the operator."""
    try:
        hosts = [_read(name) for name in names]
    except InvalidHost:
        return ClosedNames((HostPolicy(None, clear_text=False, left_out=by),), every_name=True)
    return ClosedNames(tuple(HostPolicy(host, clear_text=False, left_out=by) for host in hosts))


def close_everything(by: str = "a file that cannot be read") -> ClosedNames:
    return close_names(by, [None])


def close_tls_module(obj: KubeObject) -> ClosedNames | None:
    """A Module `tls`, a TLSContext for every name: refuses all if it may require client certificates."""
    spec = raw_spec(obj)
    config = spec.get("config", spec) if isinstance(spec, Mapping) else spec
    client = config.get("client") if isinstance(config, Mapping) else config
    is_off = client is None or (isinstance(client, Mapping) and client.get("enabled") is False)
    return None if is_off else close_everything(str(obj.key))


def _read(name: object) -> HostMatch | None:
    if not isinstance(name, str):
        raise InvalidHost(f"{name!r} is no text")
    return read_host_glob(name)


def close_host(obj: KubeObject) -> ClosedNames:
    """The name in its `hostname`; `*` if it has none and no unknown field that may be a misspelt one."""
    spec = raw_spec(obj)
    given = spec.get("hostname") if isinstance(spec, Mapping) else None
    if given in (None, "") and not _find_strangers(spec, HostSpec):
        given = "*"
    return close_names(str(obj.key), [given])


def close_context(obj: KubeObject) -> ClosedNames:
    """The names in its `hosts`. A TLSContext without `hosts` is used only by Hosts and Mappings that name it."""
    spec = raw_spec(obj)
    given = spec.get("hosts") if isinstance(spec, Mapping) else None
    if isinstance(given, str):
        given = [given]
    if given is None and not get_close_matches("hosts", _find_strangers(spec, TLSContextSpec), cutoff=_RESEMBLES):
        given = []
    return close_names(str(obj.key), given if isinstance(given, list) else [None])


def _find_strangers(spec: object, model: type[Resource]) -> list[str]:
    """As `find_strangers`; a spec that is no object may have any field."""
    if spec is None:
        return []
    return find_strangers(spec, model) if isinstance(spec, Mapping) else ["hosts"]


def read_labels(obj: KubeObject) -> Labels | None:
    """None: they cannot be read."""
    metadata = obj.body.get("metadata")
    given = metadata.get("labels") if isinstance(metadata, Mapping) else None
    if given is not None and not isinstance(given, Mapping):
        return None
    return tuple(sorted((str(name), str(value)) for name, value in read_metadata(obj, "labels").items()))
