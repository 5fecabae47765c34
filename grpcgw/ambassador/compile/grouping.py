"""Groups of Mappings that match alike: members, checks between them, weights, and the Route of each group.

Rules: Ambassador's `_group_id`, `add_mapping` and `normalize_weights_in_mappings`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from grpcgw.ambassador.compile.matching import Matching
from grpcgw.ambassador.compile.metadata_edits import merge_added
from grpcgw.model.edits import HeaderAdd, HeaderEdits
from grpcgw.model.route import Destination, Route

_FULL = 100


class GroupKey(NamedTuple):
    """Key of a group: the texts that its Mappings match, not how these are compared (see `core`)."""

    prefix: str
    host: str
    headers: tuple[tuple[str, str], ...]
    precedence: int


def make_group_key(matching: Matching, precedence: int) -> GroupKey:
    matches = matching.headers
    headers = tuple((match.name, match.exact or match.regex or "") for match in matches) if matches else ()
    return GroupKey(matching.path.value, str(matching.host or ""), headers, precedence)


def name_route(group: GroupKey) -> str:
    """The name of a group's Route: all of its key, so that no two groups have one name.

    `Mapping /greet.GrpcService/`, and where they are set ` host=…`, ` header:NAME=VALUE` and ` precedence=N`.
    Texts with spaces or quotes are quoted as in JSON.
    """
    conditions = [f"header:{_quote(name, '=')}={value}" for name, value in group.headers]
    host = [f"host={group.host}"] if group.host else []
    precedence = [f"precedence={group.precedence}"] if group.precedence else []
    return " ".join(["Mapping", *map(_quote, [group.prefix, *host, *conditions, *precedence])])


def _quote(text: str, separator: str = " ") -> str:
    return json.dumps(text) if separator in text or " " in text or '"' in text else text


@dataclass(frozen=True, slots=True)
class GroupMember:
    """One Mapping, ready to be grouped."""

    group: GroupKey
    matching: Matching
    destination: Destination
    weight: int | None = None
    """None: a share of the rest to 100. Of a shadow: percent of the calls to copy, 100 by default."""
    shadow: bool = False
    redirect: bool = False
    """A redirect: its calls are refused; `destination` names the Mapping and no cluster."""
    sticky_header: str = ""
    created: str = ""
    own_core: Mapping[str, object] | None = None
    """The fields a newcomer to a group must agree in, as far as it sets them, as they were written."""
    default_core: Mapping[str, object] | None = None
    """Values by which the first member of a group is compared in fields that it does not set itself."""
    own_header: HeaderAdd | None = None
    """A header added to the calls of this Mapping alone."""


def group_members(members: Iterable[GroupMember]) -> dict[GroupKey, list[GroupMember]]:
    """Groups with their members in order of age, then of their Mappings' keys, whatever order they came in."""
    groups: dict[GroupKey, list[GroupMember]] = {}
    for member in sorted(members, key=_seniority):
        groups.setdefault(member.group, []).append(member)
    return groups


def _seniority(member: GroupMember) -> tuple[str, str, str]:
    key = member.destination.key
    return member.created, key.namespace, key.name


@dataclass(frozen=True, slots=True)
class Complaint:
    """Why a Mapping cannot be in its group; `path` is the field to change."""

    message: str
    path: tuple[str, ...]


def find_complaints(members: Sequence[GroupMember]) -> dict[int, Complaint]:
    """The problems of members. Later members must agree with the first."""
    complaints: dict[int, Complaint] = {}
    first, sticky, shadow = members[0], "", ""
    redirects = next((member.redirect for member in members if not member.shadow), False)
    for position, member in enumerate(members):
        complaint = _compare(first, member) or _check_sticky(sticky, member)
        if complaint is None and member.shadow and shadow:
            complaint = Complaint(
                f"cannot accept {member.destination.label} as second shadow after {shadow}", ("shadow",)
            )
        if complaint is None and not member.shadow and (redirects or member.redirect) and member is not first:
            complaint = _refuse_redirect(first, member)
        if complaint is not None:
            complaints[position] = complaint
            continue
        sticky = sticky or member.sticky_header
        shadow = shadow or (member.destination.label if member.shadow else "")
    accepted = [position for position, member in enumerate(members) if position not in complaints and not member.shadow]
    if share_weights([members[position].weight for position in accepted]) is None:
        overweight = _describe_weights([members[position] for position in accepted])
        complaints.update((position, overweight) for position in accepted)
    return complaints


def _compare(first: GroupMember, newcomer: GroupMember) -> Complaint | None:
    """A field the newcomer does not set is not compared."""
    if first is newcomer:
        return None
    terms = {**(first.default_core or {}), **(first.own_core or {})}
    mismatches = [
        (name, value, terms.get(name, "-unset-"))
        for name, value in (newcomer.own_core or {}).items()
        if value != terms.get(name, name == "case_sensitive" if isinstance(value, bool) else None)
    ]
    if first.matching.headers != newcomer.matching.headers:
        mismatches.append(("headers", _describe_headers(newcomer), _describe_headers(first)))
    if first.matching.host != newcomer.matching.host:
        mismatches.append(("host", _describe_host(newcomer), _describe_host(first)))
    if not mismatches:
        return None
    listed = ", ".join(f"{name}: {value} != {term}" for name, value, term in mismatches)
    return Complaint(
        f"cannot accept new mapping {newcomer.destination.label} with mismatched {listed};"
        f" {first.destination.label} was first in its group, set the same in both",
        (mismatches[0][0],),
    )


def _refuse_redirect(first: GroupMember, newcomer: GroupMember) -> Complaint:
    """A redirect and a destination exclude each other: Ambassador too has at most one redirect in a group."""
    return Complaint(
        f"cannot accept {newcomer.destination.label} beside {first.destination.label}: one Mapping that redirects takes"
        " all calls of its group",
        ("host_redirect",) if newcomer.redirect else (),
    )


def _describe_headers(member: GroupMember) -> str:
    conditions = (
        f"{match.name} like a pattern" if match.regex is not None else f"{match.name} equal to a value"
        for match in member.matching.headers
        if match.regex is not None or match.exact is not None
    )
    return ", ".join(conditions)


def _describe_host(member: GroupMember) -> str:
    host = member.matching.host
    return "" if host is None else f"{host.kind} {str(host)!r}"


def _check_sticky(sticky: str, member: GroupMember) -> Complaint | None:
    if not sticky or member.sticky_header in ("", sticky):
        return None
    return Complaint(f"its group is sticky by {sticky}, not {member.sticky_header}; set the same in both", ())


def _describe_weights(members: Iterable[GroupMember]) -> Complaint:
    weights = {member.destination.label: member.weight for member in members if member.weight}
    prefix = next(member.group.prefix for member in members)
    listed = ", ".join(f"{label} {weight}" for label, weight in weights.items())
    total = sum(weights.values())
    return Complaint(
        f"the weights over {prefix} add up to {total} ({listed}); at most {_FULL} are allowed", ("weight",)
    )


def share_weights(weights: Sequence[int | None]) -> list[int] | None:
    """Percent for each member of a group; None where the given weights add up to more than 100.

    One member gets everything, whatever its weight. Members without a weight share the rest equally, the last of them
    gets the remainder; where nothing is left they get 0. Less than 100 in all leaves the rest of the calls unrouted.
    """
    if len(weights) == 1:
        return [_FULL]
    rest = _FULL - sum(weight for weight in weights if weight is not None)
    if rest < 0:
        return None
    weightless = [position for position, weight in enumerate(weights) if weight is None]
    shares = [weight or 0 for weight in weights]
    for position in weightless:
        shares[position] = rest // len(weightless)
    if weightless:
        shares[weightless[-1]] += rest % len(weightless)
    return shares


def make_route(members: Sequence[GroupMember]) -> Route | None:
    """The Route of a group without complaints; None where it has shadows alone. Raises ValueError for bad weights."""
    serving = [member for member in members if not member.shadow]
    if not serving:
        return None
    if serving[0].redirect:
        return _make_redirect(serving[0])
    shares = share_weights([member.weight for member in serving])
    if shares is None:
        raise ValueError(f"the weights over {members[0].group.prefix} add up to more than {_FULL}")
    first = members[0]
    shadow = next((member for member in members if member.shadow), None)
    return Route(
        name=name_route(first.group),
        match=first.matching.path,
        precedence=first.group.precedence,
        destinations=tuple(_finish(member, share, serving) for member, share in zip(serving, shares, strict=True)),
        host=first.matching.host,
        headers=first.matching.headers,
        case_sensitive=first.matching.case_sensitive,
        shadow=None if shadow is None else _finish(shadow, _FULL if shadow.weight is None else shadow.weight, [shadow]),
        unrouted_weight=_FULL - sum(shares),
        sticky_header=next((member.sticky_header for member in serving if member.sticky_header), ""),
    )


def _make_redirect(member: GroupMember) -> Route:
    matching, label = member.matching, member.destination.label
    return Route(
        name=name_route(member.group),
        match=matching.path,
        precedence=member.group.precedence,
        destinations=(),
        host=matching.host,
        headers=matching.headers,
        case_sensitive=matching.case_sensitive,
        redirect=label,
    )


def _finish(member: GroupMember, share: int, group: Sequence[GroupMember]) -> Destination:
    """The Mapping's Destination with its share, and with the headers of its whole group."""
    destination = member.destination
    if len(group) == 1 and share == destination.weight and member.own_header is None:
        return destination
    others = [one.destination for one in group]
    request = _merge_edits([one.request_headers for one in others])
    if member.own_header is not None:
        request = replace(request, add=merge_added([request.add, (member.own_header,)]))
    response = _merge_edits([one.response_headers for one in others])
    return replace(destination, weight=share, request_headers=request, response_headers=response)


def _merge_edits(edits: Sequence[HeaderEdits]) -> HeaderEdits:
    if len(edits) == 1:
        return edits[0]
    return HeaderEdits(
        merge_added(one.add for one in edits), tuple(sorted({name for one in edits for name in one.remove}))
    )
