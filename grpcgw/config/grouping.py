"""Mappings that match alike become one Route: their shares of the calls, and the order routes are evaluated in.

Rules: Ambassador's `normalize_weights_in_mappings` and `_route_weight`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from grpcgw.config.snapshot import Destination, MatchKind, PathMatch, Route

_FULL = 100
_SPECIFICITY = {MatchKind.PREFIX: 0, MatchKind.REGEX: 1, MatchKind.EXACT: 2}


@dataclass(frozen=True, slots=True)
class GroupKey:
    """What makes two Mappings one group. Different kinds of match never mix, even over the same text."""

    match: PathMatch
    precedence: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """One Mapping, ready to be grouped. `weight` None: a share of what the weighted ones leave."""

    group: GroupKey
    weight: int | None
    destination: Destination


def group_candidates(candidates: Iterable[Candidate]) -> dict[GroupKey, list[Candidate]]:
    """Groups with their members in the order of their Mappings' keys, whatever order they came in."""
    groups: dict[GroupKey, list[Candidate]] = {}
    for candidate in sorted(candidates, key=_mapping_name):
        groups.setdefault(candidate.group, []).append(candidate)
    return groups


def _mapping_name(candidate: Candidate) -> tuple[str, str]:
    key = candidate.destination.mapping
    return key.namespace, key.name


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


def make_route(group: GroupKey, members: Sequence[Candidate]) -> Route:
    """The Route of a group. Raises ValueError where its weights add up to more than 100."""
    shares = share_weights([member.weight for member in members])
    if shares is None:
        raise ValueError(f"the weights over {group.match.value} add up to more than {_FULL}")
    destinations = tuple(
        replace(member.destination, weight_percent=share) for member, share in zip(members, shares, strict=True)
    )
    return Route(group.match, group.precedence, destinations)


def order_routes(routes: Iterable[Route]) -> tuple[Route, ...]:
    """Evaluation order: precedence, length of the prefix, the prefix itself, all descending.

    Over the same text an exact match comes first, then a regex, then a prefix, so that none hides another.
    """
    return tuple(sorted(routes, key=_rank, reverse=True))


def _rank(route: Route) -> tuple[int, int, str, int]:
    text = route.match.value
    return route.precedence, len(text), text, _SPECIFICITY[route.match.kind]
