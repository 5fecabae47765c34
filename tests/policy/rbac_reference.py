"""A tiny evaluator of Envoy's RBAC, written for clearness alone, to compare the policy of authorization with."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from ipaddress import ip_address, ip_network

from grpcgw.model.authorization import (
    Action,
    AllOf,
    AnyOf,
    CertificateField,
    HasCertificate,
    HasClaim,
    HasHeader,
    IsAuthority,
    IsFrom,
    IsMethod,
    Matcher,
    Not,
    Rbac,
    TextKind,
    TextMatch,
)
from grpcgw.policy.contract import PolicyRequest


def allows(rules: tuple[Rbac, ...], request: PolicyRequest) -> bool:
    for rbac in rules:
        if rbac.action is Action.LOG:
            continue
        denies = rbac.action is Action.DENY
        hit = any(
            any(holds(one, request, denies) for one in policy.permissions)
            and any(holds(one, request, denies) for one in policy.principals)
            for policy in rbac.policies
        )
        if hit is denies:
            return False
    return True


def holds(matcher: Matcher, rpc: PolicyRequest, refuses: bool) -> bool:
    """`refuses`: a match is to the client's disadvantage."""
    match matcher:
        case AllOf(parts):
            return all(holds(part, rpc, refuses) for part in parts)
        case AnyOf(parts):
            return any(holds(part, rpc, refuses) for part in parts)
        case Not(part):
            return not holds(part, rpc, not refuses)
        case IsMethod(texts):
            return _one(texts, [rpc.request.path])
        case IsAuthority(texts):
            return _one(texts, [rpc.request.authority, rpc.request.authority.partition(":")[0]])
        case HasHeader(name, texts):
            values = [str(value) for key, value in rpc.metadata if key == name]
            return _one(texts, [",".join(values), *(values if refuses else [])] if values else [])
        case IsFrom(networks, of_peer):
            text = rpc.request.peer.connected if of_peer else rpc.request.peer.address
            return any(ip_address(text) in ip_network(network) for network in networks) if text else refuses
        case HasCertificate(field, texts):
            shown = rpc.request.certificate
            if shown is None:
                return False
            if not shown.readable and field is not CertificateField.ANY:
                return refuses
            values = {
                CertificateField.ANY: [shown.subject],
                CertificateField.URI: list(shown.uris),
                CertificateField.DNS: list(shown.names),
                CertificateField.SUBJECT: [shown.subject],
            }[field]
            return _one(texts, values)
        case HasClaim(name, texts):
            claim = (rpc.claims or {}).get(name)
            return _one(texts, claim if isinstance(claim, list) else [claim] if claim is not None else [])


def _one(texts: tuple[TextMatch, ...], values: list[str]) -> bool:
    return any(_matches(text, value) for value in values for text in texts) if texts else bool(values)


def _matches(text: TextMatch, value: str) -> bool:
    pattern = text.value
    if text.ignore_case and text.kind is not TextKind.REGEX:
        pattern, value = pattern.lower(), value.lower()
    match text.kind:
        case TextKind.EXACT:
            return value == pattern
        case TextKind.PREFIX:
            return value[: len(pattern)] == pattern
        case TextKind.SUFFIX:
            return value[len(value) - len(pattern) :] == pattern if len(pattern) <= len(value) else False
        case TextKind.CONTAINS:
            return value.find(pattern) >= 0
        case TextKind.GLOB:
            return fnmatchcase(value, pattern)
        case TextKind.REGEX:
            return re.fullmatch(pattern, value, re.IGNORECASE if text.ignore_case else 0) is not None
