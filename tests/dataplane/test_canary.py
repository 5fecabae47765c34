"""Mappings of one group share its RPCs by weight, in exact turns or by the hash of a header."""

from __future__ import annotations

from collections import Counter

from dataplane.configured import compile_yaml, configured, pods_named, who_answers
from dataplane.lab import Gateway, Lab
from dataplane.raw_client import RawClient


def group(weight: int, sticky: str = "") -> str:
    """A stable Mapping and its canary, which is younger and gets `weight` percent."""
    annotations = f'{{grpcgw.io/sticky-header: "{sticky}"}}' if sticky else "{}"
    return f"""
        metadata: {{name: stable, creationTimestamp: "2026-01-01T00:00:00Z", annotations: {annotations}}}
        spec: {{service: stable, timeout_ms: 60000}}
        ---
        metadata: {{name: canary, creationTimestamp: "2026-02-01T00:00:00Z"}}
        spec: {{service: canary, timeout_ms: 20000, weight: {weight}}}
    """


def reconfigure(gateway: Gateway, text: str) -> None:
    gateway.apply(compile_yaml(text).snapshot)


def share(client: RawClient, calls: int) -> Counter[str]:
    return Counter(who_answers(client) for _ in range(calls))


def test_a_canary_grows_from_nothing_to_everything_without_a_call_lost(lab: Lab) -> None:
    gateway = configured(lab, group(0), **pods_named(lab, "stable canary"))
    client = lab.raw_client(gateway)
    assert share(client, 50) == {"stable": 50}
    for weight in (1, 50):
        reconfigure(gateway, group(weight))
        assert share(client, 100) == {"stable": 100 - weight, "canary": weight}
    reconfigure(gateway, group(100))
    assert share(client, 50) == {"canary": 50}
    reconfigure(gateway, group(0))
    assert share(client, 50) == {"stable": 50}


def test_each_call_has_the_settings_of_its_own_mapping(lab: Lab) -> None:
    pods = pods_named(lab, "stable canary")
    client = lab.raw_client(configured(lab, group(50), **pods))
    share(client, 10)
    left_s = {name: [seen.time_left_s or 0.0 for seen in pod.calls] for name, pod in pods.items()}
    assert all(20 < one <= 60 for one in left_s["stable"])
    assert all(one <= 20 for one in left_s["canary"])


def test_share_that_the_weights_leave_is_unavailable_and_says_so(lab: Lab) -> None:
    text = "{name: a, service: a, weight: 40}\n---\n{name: b, service: b, weight: 20}"
    client = lab.raw_client(configured(lab, text, **pods_named(lab, "a b")))
    assert share(client, 50) == {"a": 20, "b": 10, "unrouted-share": 20}


def test_what_a_redirect_takes_goes_to_no_pod(lab: Lab) -> None:
    text = """
        {name: all, service: a, prefix: /}
        ---
        {name: old, service: new.example.com, prefix: /test.Pod/, host_redirect: true}
    """
    pods = pods_named(lab, "a")
    client = lab.raw_client(configured(lab, text, **pods))
    assert share(client, 2) == {"redirect": 2}
    assert pods["a"].calls == []


def test_streams_are_shared_like_other_rpcs(lab: Lab) -> None:
    pods = pods_named(lab, "stable canary")
    call = lab.channel(configured(lab, group(25), **pods)).stream_stream("/test.Pod/Chat")
    for _ in range(8):
        assert list(call(iter([b"x", b"y"]))) == [b"x", b"y"]
    assert {name: len(pod.calls) for name, pod in pods.items()} == {"stable": 6, "canary": 2}


def test_a_sticky_group_keeps_a_caller_with_one_mapping_and_the_shares_about_right(lab: Lab) -> None:
    gateway = configured(lab, group(50, "x-user"), **pods_named(lab, "stable canary"))
    client = lab.raw_client(gateway)
    users = [f"user{number}" for number in range(40)]

    def mappings() -> dict[str, str]:
        return {user: who_answers(client, ("x-user", user)) for user in users}

    first = mappings()
    assert mappings() == first
    assert 8 <= Counter(first.values())["canary"] <= 32
    reconfigure(gateway, group(80, "x-user"))
    assert all(later == "canary" for user, later in mappings().items() if first[user] == "canary")
    assert share(client, 50) == {"stable": 10, "canary": 40}, "callers without the header take turns"


def test_a_sticky_canary_at_its_ends_takes_nobody_or_everybody(lab: Lab) -> None:
    gateway = configured(lab, group(0, "x-user"), **pods_named(lab, "stable canary"))
    client = lab.raw_client(gateway)
    for weight, name in ((0, "stable"), (100, "canary")):
        reconfigure(gateway, group(weight, "x-user"))
        assert {who_answers(client, ("x-user", f"user{number}")) for number in range(20)} == {name}


def test_a_canary_without_pods_fails_its_own_share_alone(lab: Lab) -> None:
    client = lab.raw_client(configured(lab, group(10), stable=lab.pod("stable"), canary=()))
    assert share(client, 100) == {"stable": 90, "no-endpoints": 10}


def test_a_mapping_with_headers_is_a_canary_by_header(lab: Lab) -> None:
    text = "{name: stable, service: stable}\n---\n{name: canary, service: canary, headers: {x-canary: always}}"
    client = lab.raw_client(configured(lab, text, **pods_named(lab, "stable canary")))
    assert [who_answers(client), who_answers(client, ("x-canary", "always"))] == ["stable", "canary"]
