"""Applies the rules of Hosts before a route is matched: names a port serves, clear text or TLS, mappingSelector.

Pure. Compiled once per snapshot; None where no Host restricts anything.
"""

from __future__ import annotations

from dataclasses import dataclass

from grpcgw.model.host_policy import HostPolicy, Selectors
from grpcgw.model.listener import SecurityModel
from grpcgw.model.metadata import Metadata
from grpcgw.model.snapshot import Snapshot
from grpcgw.model.status import Reason
from grpcgw.policy.request import FORWARDED_PROTO
from grpcgw.policy.verdicts import Deny
from grpcgw.routing.host_match import HostTable

_EVERY_NAME = HostPolicy(None)
_HIDDEN = "what this port serves depends on the name that is called, which this engine does not know"


@dataclass(frozen=True, slots=True)
class Entry:
    """The port and name by which an RPC came in."""

    listener: str
    """Name of the port's Listener; empty: the port is another program's (docs/embedding.md)."""
    tls: bool
    authority: str
    """Empty where the engine does not know it."""
    metadata: Metadata


class HostRules:
    """The rules of all ports, by Listener."""

    def __init__(self, snapshot: Snapshot) -> None:
        trusts_proxies = snapshot.clients.trusted_hops > 0 or not snapshot.clients.use_remote_address
        self._by_listener = {
            one.name: _PortRules(one.hosts, one.security_model, trusts_proxies or one.trusted_hops > 0)
            for one in snapshot.listeners or ()
        }
        self._of_others = _PortRules((*snapshot.hosts, _EVERY_NAME), SecurityModel.XFP, trusts_proxies)

    def judge(self, entry: Entry) -> Deny | Selectors:
        """A refusal, or the selectors (`HostPolicy.selectors`) of the Mappings that may serve the RPC."""
        rules = self._by_listener.get(entry.listener) if entry.listener else self._of_others
        if rules is None:
            return Deny(Reason.NO_HOST, "the port is about to close")
        return rules.judge(entry)


def compile_rules(snapshot: Snapshot) -> HostRules | None:
    """None where no Host restricts anything: an RPC then pays nothing."""
    restricted = any(_restricts(listener.hosts) for listener in snapshot.listeners or ())
    return HostRules(snapshot) if restricted or _ask_something(snapshot.hosts) else None


def _restricts(policies: tuple[HostPolicy, ...]) -> bool:
    some_names_alone = bool(policies) and policies[-1].host is not None
    return some_names_alone or _ask_something(policies)


def _ask_something(policies: tuple[HostPolicy, ...]) -> bool:
    return any(policy.selectors or not policy.clear_text for policy in policies)


class _PortRules:
    def __init__(self, policies: tuple[HostPolicy, ...], model: SecurityModel, trusts_proxies: bool) -> None:
        """`trusts_proxies`: the peer is a trusted proxy, so its `x-forwarded-proto` counts."""
        self._table = HostTable(policies or (_EVERY_NAME,))
        self._model, self._trusts_proxies = model, trusts_proxies
        self._clear_text_everywhere = all(policy.clear_text for policy in policies)
        self._left_out = next((policy.left_out for policy in policies if policy.left_out), "")
        self._selections = {policy.selectors for policy in policies}

    def judge(self, entry: Entry) -> Deny | Selectors:
        authority = entry.authority
        policy = self._table.find(authority)
        # The engine does not know the name: the strictest Host applies.
        left_out = self._left_out if not authority else policy.left_out if policy is not None else ""
        if left_out:
            name = authority or "a name that this engine does not know"
            return Deny(Reason.LEFT_OUT, f"{left_out} has errors, so {name} is not served until it is right")
        if policy is None or (not authority and len(self._selections) > 1):
            message = f"no Host of this port serves {authority}" if authority else _HIDDEN
            return Deny(Reason.NO_HOST, message)
        served = policy.clear_text if authority else self._clear_text_everywhere
        if served or (self._is_secure(entry) and (entry.tls or not policy.tls_alone)):
            return policy.selectors
        return Deny(Reason.CLEAR_TEXT, f"{authority or 'a Host of this port'} is not served in clear text: use TLS")

    def _is_secure(self, entry: Entry) -> bool:
        if self._model is SecurityModel.XFP:
            given = entry.metadata if self._trusts_proxies else ()
            proto = next((value for key, value in given if key == FORWARDED_PROTO), None)
            return entry.tls if proto is None else str(proto).lower() == "https"
        return self._model is SecurityModel.SECURE
