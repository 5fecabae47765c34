"""Finds Mappings whose calls the gateway always refuses, and why. Pure.

The result holds for all calls of a Mapping; `routing.host_rules` decides on a single call.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from grpcgw.model.host_policy import HostPolicy
from grpcgw.model.listener import Listener, SecurityModel
from grpcgw.model.match import HostKind, HostMatch
from grpcgw.model.regex import FullRegex
from grpcgw.model.route import Destination, Route, Unenforced
from grpcgw.model.snapshot import Snapshot

NO_HOST = "no Host of a port has its hostname"
NO_LABELS = "no Host takes it: their mappingSelectors ask for other labels"
CLEAR_TEXT = "its Host refuses calls in clear text, and no port for it speaks TLS"
UNREACHED = frozenset({NO_HOST, NO_LABELS, CLEAR_TEXT})
"""Reasons that are reported at the Mapping, because no other object has a problem."""


class Reach:
    """Answers for one snapshot; caches, because many Mappings have the same Hosts."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._closed = ""
        if snapshot.clients.allow == ():
            self._closed = "the Module allows no client"
        elif snapshot.listeners == ():
            self._closed = "no port is open"
        trusted = snapshot.clients.trusted_hops > 0 or not snapshot.clients.use_remote_address
        others = (*snapshot.hosts, HostPolicy(None))
        ports = [(one.hosts or (HostPolicy(None),), _takes_secure(one, trusted)) for one in snapshot.listeners or ()]
        # Mostly all ports have the same Hosts.
        distinct = dict.fromkeys([(others, True)] if snapshot.listeners is None else ports)
        self._ports = [_Port(policies, takes_secure) for policies, takes_secure in distinct]
        self._known: dict[tuple[HostMatch | None, object], str] = {}

    def find_refusal(self, route: Route, destination: Destination) -> str:
        """Why all calls of `destination` are refused; empty if they are not."""
        unenforced = next((one for one in destination.policies if isinstance(one, Unenforced)), None)
        if unenforced is not None:
            return f"{unenforced.name} {unenforced.why}"
        if self._closed:
            return self._closed
        asked = (route.host, destination.selected_by)
        if asked not in self._known:
            reasons = [port.find_refusal(*asked) for port in self._ports]
            self._known[asked] = "" if "" in reasons else max(reasons, key=_nearest)
        return self._known[asked]


def _nearest(reason: str) -> int:
    """Orders reasons: of several ports, the reason of the one nearest to serving the Mapping is reported."""
    return [NO_HOST, NO_LABELS, CLEAR_TEXT].index(reason) if reason in UNREACHED else len(UNREACHED)


def _takes_secure(listener: Listener, trusted: bool) -> bool:
    """Whether calls over it can count as secure (`policy.hosts`)."""
    if listener.security_model is SecurityModel.XFP:
        return listener.transport.takes_tls or trusted or listener.trusted_hops > 0
    return listener.security_model is SecurityModel.SECURE


class _Port:
    def __init__(self, policies: Iterable[HostPolicy], takes_secure: bool) -> None:
        ordered = list(policies)
        self._exact = {one.host: one for one in ordered if one.host is not None and one.host.kind is HostKind.EXACT}
        self._with_port = [one for one in self._exact.values() if one.host is not None and ":" in one.host.value]
        self._globs = [one for one in ordered if one.host not in self._exact]
        self._ordered = [(_kind(one), _name(one), one) for one in (*self._exact.values(), *self._globs)]
        self._takes_secure = takes_secure

    def find_refusal(self, host: HostMatch | None, selected_by: Iterable[object]) -> str:
        taken, found = set(selected_by), NO_HOST
        for policy in self._speaking(host):
            reason = self._judge(policy, taken)
            if not reason:
                return ""
            found = max(found, reason, key=_nearest)
            if _covers(policy.host, host):  # later policies are never reached
                break
        return found

    def _speaking(self, host: HostMatch | None) -> Iterator[HostPolicy]:
        """The policies whose names overlap with `host`, in evaluation order."""
        if host is not None and host.kind is HostKind.EXACT:
            exact = {text: self._exact.get(HostMatch(HostKind.EXACT, text)) for text in _texts(host.value)}
            yield from (one for one in self._with_port if one.host != host and _overlap(one.host, host))
            yield from (one for one in exact.values() if one is not None)
            yield from (one for one in self._globs if _overlap(one.host, host))
        else:
            yield from (one for one in self._sift(host) if _overlap(one.host, host))

    def _sift(self, host: HostMatch | None) -> Iterable[HostPolicy]:
        """Drops most policies that cannot overlap with a pattern: there may be thousands of both."""
        if host is None or host.kind not in (HostKind.SUFFIX, HostKind.PREFIX):
            return (one for _, _, one in self._ordered)
        text = _texts(host.value)[-1]
        meets = str.endswith if host.kind is HostKind.SUFFIX else str.startswith
        return (
            one
            for kind, name, one in self._ordered
            if meets(name, text) or (kind is not HostKind.EXACT and (kind is not host.kind or meets(text, name)))
        )

    def _judge(self, policy: HostPolicy, selected_by: set[object]) -> str:
        if policy.left_out:
            return f"{policy.left_out} is left out"
        if policy.selectors and selected_by.isdisjoint(policy.selectors):
            return NO_LABELS
        return "" if policy.clear_text or self._takes_secure else CLEAR_TEXT


def _kind(policy: HostPolicy) -> HostKind | None:
    return None if policy.host is None else policy.host.kind


def _name(policy: HostPolicy) -> str:
    return "" if policy.host is None else _texts(policy.host.value)[-1]


def _overlap(one: HostMatch | None, other: HostMatch | None) -> bool:
    """Whether some name may match both. For two patterns it may say yes without being sure."""
    if one is None or other is None:
        return True
    if HostKind.REGEX in (one.kind, other.kind):
        return _regex_overlaps(one, other) if one.kind is HostKind.REGEX else _regex_overlaps(other, one)
    ours, theirs = _texts(one.value), _texts(other.value)
    if len(ours) == len(theirs) == 2 and ours[0].rpartition(":")[2] != theirs[0].rpartition(":")[2]:
        return False
    return _names_overlap(HostMatch(one.kind, ours[-1]), HostMatch(other.kind, theirs[-1]))


def _regex_overlaps(regex: HostMatch, other: HostMatch) -> bool:
    """A pattern with a colon may require a port, which the other does not name."""
    return other.kind is not HostKind.EXACT or ":" in regex.value or _has(regex, other.value)


def _names_overlap(one: HostMatch, other: HostMatch) -> bool:
    """Both without ports."""
    if one.kind is HostKind.EXACT:
        return _is_one(other, one.value)
    if other.kind is HostKind.EXACT:
        return _is_one(one, other.value)
    if one.kind is HostKind.SUFFIX and other.kind is HostKind.SUFFIX:
        return one.value.endswith(other.value) or other.value.endswith(one.value)
    if one.kind is HostKind.PREFIX and other.kind is HostKind.PREFIX:
        return one.value.startswith(other.value) or other.value.startswith(one.value)
    return True


def _covers(policy: HostMatch | None, host: HostMatch | None) -> bool:
    """Whether the policy matches every name of `host`; False if that is not easy to decide."""
    if policy is None or policy == host:
        return True
    return host is not None and host.kind is HostKind.EXACT and _has(policy, host.value)


def _has(host: HostMatch, name: str) -> bool:
    """Whether `host` matches `name` with its port or without."""
    return any(_is_one(host, text) for text in _texts(name))


def _is_one(host: HostMatch, name: str) -> bool:
    match host.kind:
        case HostKind.EXACT:
            return name == host.value
        case HostKind.SUFFIX:
            return len(name) > len(host.value) and name.endswith(host.value)
        case HostKind.PREFIX:
            return len(name) > len(host.value) and name.startswith(host.value)
        case HostKind.REGEX:
            return FullRegex(host.value, case_sensitive=False).matches(name)


def _texts(name: str) -> tuple[str, ...]:
    """The name, and if it has a port, the name without it."""
    head, colon, port = name.rpartition(":")
    return (name, head) if colon and port.isdigit() else (name,)
