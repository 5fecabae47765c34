"""Which Mapping takes an RPC: path, host, metadata, and the order in which Mappings are asked."""

from __future__ import annotations

from dataplane.configured import compile_yaml, configured, pods_named, who_answers
from dataplane.lab import Lab
from grpcgw.settings import EngineName

# --- by metadata

BY_HEADERS = """
    {name: any, service: any}
    ---
    {name: tenant, service: tenant, headers: {X-Tenant: blue}}
    ---
    {name: beta, service: beta, headers: {x-beta: true}}
    ---
    {name: both, service: both, headers: {x-tenant: blue, x-region: eu}}
    ---
    {name: version, service: version, regex_headers: {x-version: "v[0-9]+"}}
    ---
    {name: key, service: key, headers: {id-bin: "/wA"}}
    ---
    apiVersion: getambassador.io/v3alpha1
    name: canary
    service: canary
    v2BoolHeaders: [x-canary]
"""


def test_all_that_a_mapping_asks_of_metadata_must_hold(lab: Lab) -> None:
    gateway = configured(lab, BY_HEADERS, **pods_named(lab, "any tenant beta both version key canary"))
    client = lab.raw_client(gateway)
    blue, eu = ("x-tenant", "blue"), ("x-region", "eu")
    assert who_answers(client) == "any"
    assert who_answers(client, blue) == "tenant"
    assert who_answers(client, ("x-tenant", "Blue")) == "any", "values are compared as they are"
    assert who_answers(client, ("x-tenant", "blue1")) == "any", "and whole"
    assert who_answers(client, blue, ("x-tenant", "red")) == "any", "several values are one, joined by commas"
    assert who_answers(client, eu) == "any", "one of two is not enough"
    assert who_answers(client, blue, eu) == "both", "the longer condition is asked first"
    assert who_answers(client, ("x-beta", "")) == "beta", "there, whatever the value"
    assert who_answers(client, ("x-canary", "no")) == "canary"
    assert who_answers(client, ("x-version", "v12")) == "version"
    assert who_answers(client, ("x-version", "v12-rc")) == "any", "a pattern is for the whole value"
    assert who_answers(client, ("id-bin", "/wA=")) == "key", "binary values are compared as they travel"


def test_a_mapping_that_asks_for_headers_serves_no_call_without_them(lab: Lab) -> None:
    gateway = configured(lab, "{name: blue, service: blue, headers: {x-tenant: blue}}", **pods_named(lab, "blue"))
    client = lab.raw_client(gateway)
    assert who_answers(client) == "no-mapping"
    assert who_answers(client, ("x-tenant", "blue")) == "blue"


def test_a_pattern_with_much_to_try_holds_nobody_up(lab: Lab) -> None:
    """What takes other engines for patterns years takes RE2 time in proportion to the value."""
    text = '{name: slow, service: slow, regex_headers: {x-a: "(a|aa)+(a|aa)+(a|aa)+b"}}'
    client = lab.raw_client(configured(lab, text, **pods_named(lab, "slow")))
    assert who_answers(client, ("x-a", "a" * 8_000)) == "no-mapping"
    assert who_answers(client, ("x-a", "a" * 8_000 + "b")) == "slow"


# --- by path

BY_PATH = """
    {name: prefix, service: prefix, prefix: /test.Pod/}
    ---
    {name: longer, service: longer, prefix: /test.Pod/One}
    ---
    {name: exact, service: exact, prefix: /test.Pod/Two, prefix_exact: true}
    ---
    {name: pattern, service: pattern, prefix: "/test[.]Pod/(Three|Four)", prefix_regex: true}
    ---
    {name: folded, service: folded, prefix: /TEST.pod/, case_sensitive: false, precedence: -1}
    ---
    {name: urgent, service: urgent, prefix: /test.Pod/, precedence: 1, headers: {x-urgent: true}}
    ---
    {name: late, service: late, prefix: /test.Pod/OneMore, precedence: -2}
"""


def test_mappings_are_asked_by_precedence_then_length_of_prefix_then_of_headers(lab: Lab) -> None:
    pods = pods_named(
        lab,
        "prefix longer exact pattern folded urgent late",
        *["One", "OneMore", "Two", "Twofold", "Three", "Fourth", "/TesT.pOD/x"],
    )
    client = lab.raw_client(configured(lab, BY_PATH, **pods))
    urgent = ("x-urgent", "1")
    for method, name in {
        "Unary": "prefix",
        "One": "longer",
        "OneMore": "longer",  # a lower precedence counts more than a longer prefix
        "Two": "exact",
        "Twofold": "prefix",
        "Three": "pattern",
        "Fourth": "prefix",  # a pattern is for the whole path
        "/TesT.pOD/x": "folded",
        "/other.Pod/Unary": "no-mapping",
    }.items():
        assert who_answers(client, method=method) == name, method
    for method in ("Unary", "One", "Two", "Three"):
        assert who_answers(client, urgent, method=method) == "urgent", method


# --- by host

BY_HOST = """
    {name: any, service: any}
    ---
    {name: full, service: full, hostname: api.example.com}
    ---
    {name: port, service: port, hostname: "api.example.com:8443"}
    ---
    {name: below, service: below, hostname: "*.example.com"}
    ---
    {name: begin, service: begin, hostname: "api.*"}
    ---
    {name: host, service: host, host: old.example.org}
    ---
    {name: pattern, service: pattern, host: "shop[0-9]+[.]example[.]net", host_regex: true}
    ---
    {name: header, service: header, headers: {":authority": header.example.org}}
"""


def test_host_decides_with_its_port_and_without(lab: Lab) -> None:
    gateway = configured(lab, BY_HOST, **pods_named(lab, "any full port below begin host pattern header"))
    client = lab.raw_client(gateway)
    for authority, name in {
        "api.example.com": "full",
        "api.example.com:9000": "full",
        "API.Example.COM": "full",
        "api.example.com:8443": "port",
        "a.b.example.com:80": "below",
        ".example.com": "any",  # the * stands for something
        "api.test": "begin",
        "old.example.org:1": "host",
        "older.example.org": "any",
        "SHOP12.example.net:443": "pattern",
        "shop12.example.net.evil.test": "any",
        "header.example.org": "header",
        "[::1]:8080": "any",
    }.items():
        assert who_answers(client, authority=authority) == name, authority


def test_a_mapping_with_a_host_serves_no_other(lab: Lab) -> None:
    """Nor any at all where the engine does not know the host, however wide the pattern: see DIFFERENCES."""
    text = """
        {name: name, service: name, hostname: api.example.com}
        ---
        {name: pattern, service: pattern, prefix: /test.Pod/Un, host: "(api[.]example[.]com)?", host_regex: true}
    """
    client = lab.raw_client(configured(lab, text, **pods_named(lab, "name pattern")))
    for authority in ("gateway.test", "127.0.0.1:8080", "example.com", "api.example.com.test"):
        assert who_answers(client, authority=authority) == "no-mapping", authority


def test_host_and_headers_and_path_hold_together(lab: Lab) -> None:
    text = """
        {name: one, service: one, hostname: api.example.com, headers: {x-tenant: blue}, prefix: /test.Pod/Unary}
        ---
        {name: two, service: two, hostname: "*.com", headers: {x-tenant: blue, x-region: eu}, prefix: /test.Pod/Unary}
    """
    client = lab.raw_client(configured(lab, text, **pods_named(lab, "one two")))
    blue, eu = ("x-tenant", "blue"), ("x-region", "eu")
    assert who_answers(client, blue, authority="api.example.com") == "one"
    assert who_answers(client, blue, authority="other.com") == "no-mapping"
    assert who_answers(client, blue, eu, authority="other.com") == "two"
    assert who_answers(client, blue, eu, authority="api.example.com") == "one", "whose conditions are longer"
    assert who_answers(client, eu, authority="api.example.com") == "no-mapping"


def test_an_engine_that_does_not_know_the_host_is_said_on_the_mapping() -> None:
    text = """
        {name: any, service: any}
        ---
        {name: host, service: host, hostname: api.example.com}
        ---
        {name: told, service: told, prefix: /told/, add_request_headers: {x-host: "%REQ(:authority)%"}}
    """
    assert not compile_yaml(text).problems
    hidden = compile_yaml(text, EngineName.GENERIC_HANDLER)
    host, told = (str(problem) for problem in hidden.problems)
    assert "error: Mapping host.default: serves no call for api.example.com: the generic-handler engine" in host
    assert "run grpcgw with --engine http2" in host
    assert "notice: Mapping told.default spec.add_request_headers.x-host: the generic-handler engine" in told
    assert hidden.snapshot == compile_yaml(text).snapshot


# --- what the gateway answers itself


def test_health_needs_no_mapping_and_tells_each_caller_of_its_own(lab: Lab) -> None:
    """A service whose Mapping asks for headers is there for callers with these headers."""
    text = "{name: blue, service: blue, headers: {x-tenant: blue}, prefix: /blue.Pod/}"
    client = lab.raw_client(configured(lab, text, **pods_named(lab, "blue")))
    health = "/grpc.health.v1.Health/Check"
    serving, blue = b"\x08\x01", b"\n\x08blue.Pod"
    assert client.call(health).data[5:] == serving
    assert client.call(health, ("x-tenant", "blue"), messages=[blue]).data[5:] == serving
    assert client.call(health, messages=[blue]).status == 5
