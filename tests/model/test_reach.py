"""Mappings of which no call can come in: what `check`, `routes` and the page say of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpcgw.model.objects import KubeObject, Severity
from grpcgw.model.reach import CLEAR_TEXT, NO_HOST, NO_LABELS, Reach
from grpcgw.model.route_source import Compiled
from grpcgw.model.snapshot import Snapshot
from grpcgw.policy.verdicts import Deny
from grpcgw.routing.host_rules import Entry, compile_rules
from grpcgw.routing.table import RouteTable
from tests.compiling import compile_objects, mapping, module, obj, said

V3 = "getambassador.io/v3alpha1"
YES = {"matchLabels": {"exposed": "yes"}}


def host(hostname: str, name: str = "h", **fields: object) -> KubeObject:
    return obj("Host", name, {"hostname": hostname, **fields}, api=V3)


def listener(port: int = 8080, protocol: str = "HTTP", **fields: object) -> KubeObject:
    binding = {"namespace": {"from": "ALL"}}
    spec = {"port": port, "protocol": protocol, "securityModel": "XFP", "hostBinding": binding, **fields}
    return obj("Listener", f"l{port}", spec)


def refused(compiled: Compiled) -> list[str]:
    reach = Reach(compiled.snapshot)
    return [reach.find_refusal(route, one) for route in compiled.snapshot.routes for one in route.all_destinations()]


def of_host(hostname: str | None, exposed: str = "no") -> KubeObject:
    return mapping(hostname=hostname, metadata={"labels": {"exposed": exposed}})


@pytest.mark.parametrize(
    ("hosts", "hostname", "reason"),
    [
        ([host("a.example.com", mappingSelector=YES)], "a.example.com", NO_LABELS),
        ([host("a.example.com", mappingSelector=YES)], "A.example.com:8080", NO_LABELS),
        ([host("*.example.com", mappingSelector=YES)], "a.example.com", NO_LABELS),
        ([host("*.example.com", mappingSelector=YES), host("a.example.com", "x")], "a.example.com", ""),
        ([host("a.example.com", mappingSelector=YES), host("*", "x")], "a.example.com", NO_LABELS),
        ([host("a.example.com", mappingSelector=YES), host("*", "x")], "*.example.com", ""),
        ([host("a.example.com", mappingSelector=YES), host("*", "x")], None, ""),
        ([host("a.example.com", mappingSelector=YES)], None, NO_LABELS),
        ([host("a.example.com")], "b.example.com", NO_HOST),
        ([host("a.example.com")], "*.example.com", ""),
        ([host("a.example.com")], "*.example.org", NO_HOST),
        ([host("*.example.com")], "*.a.example.com", ""),
        ([host("*.a.example.com")], "*.example.com", ""),
        ([host("*.example.com")], "a.*", ""),
        ([host("a.*")], "a.example.*", ""),
        ([host("a.*")], "b.*", NO_HOST),
        ([host("a.example.com:8080")], "a.example.com", ""),
        ([host("a.example.com")], "a.example.com:8080", ""),
        ([host("a.example.com:9090")], "a.example.com:8080", NO_HOST),
        ([host("*.example.com")], "*.a.example.com:8080", ""),
        ([host("*.example.com:8080")], "a.example.com", ""),
        ([host("a.example.com")], "*.example.com:8080", ""),
        ([host("*.example.com:9090")], "*.example.com:8080", NO_HOST),
        ([], "b.example.com", ""),
    ],
)
def test_a_mapping_that_no_host_serves_gets_a_notice(
    hosts: list[KubeObject], hostname: str | None, reason: str
) -> None:
    compiled = compile_objects(listener(), *hosts, of_host(hostname))
    assert refused(compiled) == [reason]
    notices = [one for one in said(compiled, Severity.NOTICE) if "serves no call" in one]
    assert [reason in one for one in notices] == ([True] if reason else [])


def test_one_port_that_serves_it_is_enough() -> None:
    tools, other = host("a.example.com", mappingSelector=YES), host("a.example.com", "other")
    here = listener(8081, hostBinding={"namespace": {"from": "ALL"}, "selector": {"matchLabels": {"p": "1"}}})
    selected = obj("Host", "other", other.body["spec"], api=V3, metadata={"labels": {"p": "1"}})
    assert refused(compile_objects(listener(), here, tools, selected, of_host("a.example.com"))) == [""]


def test_without_listeners_names_of_no_host_are_served() -> None:
    assert refused(compile_objects(host("a.example.com"), of_host("b.example.com"))) == [""]
    assert refused(compile_objects(host("a.example.com", mappingSelector=YES), of_host("a.example.com"))) == [NO_LABELS]


def test_a_pattern_is_served_where_it_may_match() -> None:
    asked = mapping(host="[ab][.]example[.]com", host_regex=True)
    assert refused(compile_objects(listener(), host("a.example.com"), asked)) == [""]
    assert refused(compile_objects(listener(), host("c.example.com"), asked)) == [NO_HOST]
    assert refused(compile_objects(listener(), host("*.example.com"), asked)) == [""]


def test_a_host_that_refuses_clear_text_needs_a_port_with_tls() -> None:
    reject = {"requestPolicy": {"insecure": {"action": "Reject"}}}
    compiled = compile_objects(listener(), host("*", **reject), of_host(None))
    assert refused(compiled) == [CLEAR_TEXT]
    assert refused(
        compile_objects(listener(), listener(8443, securityModel="SECURE"), host("*", **reject), of_host(None))
    ) == [""]
    assert refused(compile_objects(listener(l7Depth=1), host("*", **reject), of_host(None))) == [""]


def test_what_another_object_is_told_is_no_notice_of_the_mapping() -> None:
    auth = obj("AuthService", "auth", {"auth_service": 5})
    for objects, reason in (
        ((auth,), "AuthService auth.shop cannot be asked: it has errors"),
        ((listener(), host("a.example.com", typo=1), host("*", "x")), "Host h.shop is left out"),
        ((listener(), host("a.example.com", typo=1)), "no port is open"),
        ((module(ip_allow=[{"remote": "nowhere"}]),), "the Module allows no client"),
    ):
        compiled = compile_objects(*objects, of_host("a.example.com"))
        assert refused(compiled) == [reason]
        assert not any("serves no call" in one for one in said(compiled, Severity.NOTICE))


NAMES = ("*", "*.b.c", "a.*", "a.b.c", "x.b.c", "*.c", "a.b.*", "a.b.c:80", "*.b.c:80")
AUTHORITIES = ("a.b.c", "x.b.c", "a.b.c:80", "a.b.c:81", "a.q", "a.b.q", "y.x.b.c", "q.c", "z.b.c:80", "other", "A.B.C")
HOSTS = st.builds(
    lambda hostname, team, is_rejecting: {
        "hostname": hostname,
        **({"mappingSelector": {"matchLabels": {"team": team}}} if team else {}),
        **({"requestPolicy": {"insecure": {"action": "Reject"}}} if is_rejecting else {}),
    },
    st.sampled_from(NAMES),
    st.sampled_from(["", "", "1", "2"]),
    st.booleans(),
)


@given(
    hosts=st.lists(HOSTS, max_size=3),
    models=st.lists(st.sampled_from(["XFP", "SECURE", "INSECURE"]), max_size=2),
    hostname=st.sampled_from([None, *NAMES]),
    team=st.sampled_from("123"),
)
def test_no_call_comes_in_where_it_says_so(
    hosts: list[dict[str, object]], models: list[str], hostname: str | None, team: str
) -> None:
    compiled = compile_objects(
        *(obj("Host", f"h{number}", spec, api=V3) for number, spec in enumerate(hosts)),
        *(listener(8080 + number, securityModel=model) for number, model in enumerate(models)),
        mapping(hostname=hostname, metadata={"labels": {"team": team}}),
    )
    if "" not in refused(compiled):
        assert [name for name in AUTHORITIES if is_served(compiled.snapshot, name)] == []


def is_served(snapshot: Snapshot, authority: str) -> bool:
    rules, table = compile_rules(snapshot), RouteTable(snapshot.routes)
    route = table.match("/greet.GrpcService/Say", authority)
    ports = [("", True)] if snapshot.listeners is None else [(one.name, False) for one in snapshot.listeners]
    judged = [rules.judge(Entry(name, tls, authority, ())) if rules else () for name, tls in ports]
    return route is not None and any(
        not isinstance(one, Deny) and (not one or set(one) & set(destination.selected_by))
        for one in judged
        for destination in route.destinations
    )
