"""Which Mappings a Host with a mappingSelector takes: those with its labels, whatever host they name themselves."""

from __future__ import annotations

import pytest

from grpcgw.model.objects import KubeObject
from grpcgw.model.snapshot import Snapshot
from grpcgw.model.status import Reason
from grpcgw.policy.verdicts import Deny
from grpcgw.routing.host_rules import Entry, compile_rules
from grpcgw.routing.selection import find_selections, select_routes
from tests.compiling import compile_objects, mapping, obj, said

EXPOSED = {"matchLabels": {"exposed": "yes"}}


def host(name: str = "tools", hostname: str = "tools.example.com", **fields: object) -> KubeObject:
    return obj("Host", name, {"hostname": hostname, **fields})


def served(snapshot: Snapshot, name: str = "tools.example.com") -> dict[str, int]:
    """The Mappings that `name` may reach, by their Hosts, with their shares."""
    rules = compile_rules(snapshot)
    selectors = rules.judge(Entry("", False, name, ())) if rules is not None else ()
    assert not isinstance(selectors, Deny)
    assert selectors == () or selectors in find_selections(snapshot)
    routes = select_routes(snapshot.routes, selectors) if selectors else snapshot.routes
    return {one.label: one.weight for route in routes for one in route.destinations}


def labelled(name: str, exposed: str | None, **fields: object) -> KubeObject:
    labels = {} if exposed is None else {"labels": {"exposed": exposed, "more": "x"}}
    return mapping(name, metadata=labels, prefix=f"/{name}.S/", **fields)


@pytest.mark.parametrize("field", ["mappingSelector", "selector"])
@pytest.mark.parametrize("hostname", [None, "*", "tools.example.com", "*.example.com"])
def test_labels_and_hostname_both_must_hold(field: str, hostname: str | None) -> None:
    mappings = [labelled(f"m{i}", exposed, hostname=hostname) for i, exposed in enumerate(("yes", "no", None))]
    snapshot = compile_objects(host(**{field: EXPOSED}), *mappings).snapshot
    assert served(snapshot).keys() == {"m0.shop"}


def test_a_mapping_with_a_hostname_serves_other_hosts_too_that_do_not_select() -> None:
    everybody = host("everybody", "*")
    for_all, chosen = labelled("all", "yes", hostname="*"), labelled("chosen", "yes")
    snapshot = compile_objects(host(mappingSelector=EXPOSED), everybody, for_all, chosen, labelled("no", "no")).snapshot
    assert served(snapshot).keys() == {"all.shop", "chosen.shop"}
    assert {label for label in served(snapshot, "b.example.com") if label != "chosen.shop"} == {"all.shop", "no.shop"}
    assert {str(route.host) for route in snapshot.routes if route.match.value == "/chosen.S/"} == {"tools.example.com"}


@pytest.mark.parametrize("selector", [{}, {"matchLabels": {}}, None])
def test_an_empty_selector_takes_all(selector: object) -> None:
    snapshot = compile_objects(host(mappingSelector=selector), labelled("m", None)).snapshot
    assert served(snapshot).keys() == {"m.shop"}


def test_all_labels_of_a_selector_must_hold() -> None:
    both = {"matchLabels": {"exposed": "yes", "more": "x"}}
    snapshot = compile_objects(host(mappingSelector=both), labelled("a", "yes"), labelled("b", None)).snapshot
    assert served(snapshot).keys() == {"a.shop"}


def test_match_expressions_are_an_error_and_the_name_is_refused() -> None:
    selector = {"matchExpressions": [{"key": "exposed", "operator": "Exists"}]}
    compiled = compile_objects(host(mappingSelector=selector), labelled("m", "yes"))
    assert "matchExpressions are not supported" in said(compiled)[0]
    rules = compile_rules(compiled.snapshot)
    judged = rules.judge(Entry("", False, "tools.example.com", ())) if rules is not None else ()
    assert isinstance(judged, Deny)
    assert judged.reason is Reason.LEFT_OUT


def test_two_hosts_of_one_name_take_the_mappings_of_either() -> None:
    other = host("other", mappingSelector={"matchLabels": {"exposed": "no"}})
    mappings = [labelled(f"m{i}", exposed) for i, exposed in enumerate(("yes", "no", None))]
    snapshot = compile_objects(host(mappingSelector=EXPOSED), other, *mappings).snapshot
    assert served(snapshot).keys() == {"m0.shop", "m1.shop"}


def test_of_a_canary_those_that_are_taken_get_the_whole_share() -> None:
    group = [
        mapping(name, hostname="*", weight=weight, metadata={"labels": {"exposed": exposed}})
        for name, weight, exposed in (("a", 60, "yes"), ("b", 20, "yes"), ("c", 20, "no"))
    ]
    snapshot = compile_objects(host(mappingSelector=EXPOSED), *group).snapshot
    assert served(snapshot) == {"a.shop": 75, "b.shop": 25}
    assert served(snapshot, "b.example.com") == {"a.shop": 60, "b.shop": 20, "c.shop": 20}


def test_a_shadow_that_is_not_taken_gets_no_copies() -> None:
    shadow = mapping("shadow", shadow=True, hostname="*")
    taken = mapping("taken", hostname="*", metadata={"labels": {"exposed": "yes"}})
    snapshot = compile_objects(host(mappingSelector=EXPOSED), shadow, taken).snapshot
    (selectors,) = find_selections(snapshot)
    assert [route.shadow for route in select_routes(snapshot.routes, selectors)] == [None]
    assert [route.shadow is None for route in snapshot.routes] == [False]


def test_routes_of_which_all_is_taken_are_the_very_same() -> None:
    snapshot = compile_objects(host(mappingSelector=EXPOSED), labelled("m", "yes")).snapshot
    (selectors,) = find_selections(snapshot)
    assert select_routes(snapshot.routes, selectors)[0] is snapshot.routes[0]
