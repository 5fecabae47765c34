"""AuthorizationPolicies as operators write them, on both engines: real certificates, tokens, addresses, odd paths."""

from __future__ import annotations

import base64
import contextlib
import json
import textwrap
import time
from dataclasses import replace

import grpc
import pytest

from dataplane.authorities import Authority
from dataplane.configured import compile_yaml, configured
from dataplane.lab import Gateway, Lab, tls_port
from dataplane.pods import Pod
from dataplane.waiting import eventually
from grpcgw.model.codes import Code
from grpcgw.model.listener import Listener
from grpcgw.session.serving import RpcLog
from grpcgw.telemetry.access_log import RpcRecord
from tests.jwts import ISSUER, make_signer, write_jwks

SPIFFE = "spiffe://cluster.local/ns/shop/sa/web"


def policies(*specs: str, before: str = "") -> str:
    """A Mapping, `before`, and an AuthorizationPolicy of each spec."""
    made = ["{name: greet, service: pods}", *([before] if before else [])]
    for index, spec in enumerate(specs):
        body = textwrap.indent(textwrap.dedent(spec).strip(), "  ")
        head = f"apiVersion: grpcgw.io/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {{name: p{index}}}"
        made.append(f"{head}\nspec:\n{body}")
    return "\n---\n".join(made)


def how_it_ends(
    lab: Lab, gateway: Gateway, *metadata: tuple[str, str], method: str = "Unary", authority: str = "gateway.test"
) -> tuple[int, str]:
    answer = lab.raw_client(gateway).call(method, *metadata, authority=authority)
    return answer.status, answer.header("x-grpcgw-reason") or ""


PASSES, REFUSED = (Code.OK, ""), (Code.PERMISSION_DENIED, "forbidden")


def with_open(lab: Lab) -> Pod:
    return lab.pod("pods", {"Open": lambda requests, _: iter(list(requests))})


# --- certificates


@pytest.fixture(scope="module")
def servers() -> Authority:
    return Authority("servers")


@pytest.fixture(scope="module")
def clients() -> Authority:
    return Authority("clients")


def certified(lab: Lab, text: str, servers: Authority, clients: Authority) -> tuple[Listener, Pod]:
    """A port that asks for certificates, before the configuration `text`, and the pod behind it."""
    snapshot = compile_yaml(text, lab.engine).snapshot
    (cluster,) = snapshot.clusters
    pod = lab.pod()
    listener = tls_port(servers.certificate("localhost", client_ca=clients.pem))
    gateway = lab.gateway(configuration=snapshot, clusters={cluster: (pod,)}, ports=(listener,))
    gateway.wait_for_ready_pods(1)
    return replace(listener, port=gateway.engine.ports.numbers()[0]), pod


def code_for(channel: grpc.Channel) -> int:
    call = channel.unary_unary("/test.Pod/Unary").with_call
    try:
        _, outcome = call(b"x", timeout=30)
    except grpc.RpcError as error:
        outcome = error
    code: int = outcome.code().value[0]
    return code


BY_CERTIFICATE = {
    "uri": f"uri: {SPIFFE}",
    "prefix of a uri": "uri: spiffe://cluster.local/ns/shop/*",
    "dns": "dns: Web.Example",
    "subject": "subject: CN=web.example",
    "condition": "condition",
}


@pytest.mark.parametrize("rule", BY_CERTIFICATE.values(), ids=BY_CERTIFICATE.keys())
def test_clients_are_known_by_their_certificate(lab: Lab, servers: Authority, clients: Authority, rule: str) -> None:
    principal = f"principals: [{{{rule}}}]"
    if rule == "condition":
        principal = "condition: connection.mtls && connection.uri_san_peer_certificate.startsWith('spiffe://cluster.')"
    port, pod = certified(lab, policies(f"rules: [{{{principal}}}]"), servers, clients)
    web = clients.sign("web.example", SPIFFE)
    other = clients.sign("eve.example", "spiffe://other.local/ns/shop/sa/web")
    forged = [("x-forwarded-client-cert", f"URI={SPIFFE}")]
    channel = lab.channel_to(port, servers.client(other))
    assert code_for(channel) == Code.PERMISSION_DENIED
    with contextlib.suppress(grpc.RpcError):
        channel.unary_unary("/test.Pod/Unary")(b"x", metadata=forged, timeout=30)
    assert not pod.calls
    mine = lab.channel_to(port, servers.client(web))
    assert [code_for(mine), code_for(mine)] == [Code.OK, Code.OK], "also where the certificate is known"
    assert "x-forwarded-client-cert" not in dict(pod.calls[0].metadata), (
        "pods get an identity only where it is asked for"
    )


def test_in_clear_text_nobody_has_a_certificate(lab: Lab) -> None:
    gateway = configured(lab, policies("rules: [{principals: [{certificate: true}]}]"), pods=lab.pod())
    assert how_it_ends(lab, gateway, ("x-forwarded-client-cert", f"URI={SPIFFE}")) == REFUSED


# --- tokens

SIGNER = make_signer("ec", "ES256")
TOKENS = f"""
apiVersion: v1
kind: Secret
metadata: {{name: jwks}}
data: {{jwks: {base64.b64encode(write_jwks(SIGNER)).decode()}}}
---
kind: Filter
metadata: {{name: token}}
spec: {{JWT: {{jwksSecret: {{name: jwks}}, issuer: {ISSUER}}}}}
---
kind: FilterPolicy
metadata: {{name: tokens}}
spec: {{rules: [{{path: "/test.Pod/*", filters: [{{name: token}}]}}]}}
"""


def token(**more: object) -> tuple[str, str]:
    return "authorization", f"Bearer {SIGNER.sign({'iss': ISSUER, 'exp': time.time() + 600, **more})}"


def test_claims_of_a_verified_token_decide(lab: Lab) -> None:
    text = policies(
        "rules: [{principals: [{claim: {name: realm.roles, value: [admin, root]}}]}]",
        "action: DENY\nrules: [{principals: [{claim: {name: sub, value: eve}}]}]",
        before=TOKENS,
    )
    gateway = configured(lab, text, pods=lab.pod())
    admin = {"realm": {"roles": ["user", "admin"]}}
    assert how_it_ends(lab, gateway, token(sub="ann", **admin)) == PASSES
    assert how_it_ends(lab, gateway, token(sub="eve", **admin)) == REFUSED
    assert how_it_ends(lab, gateway, token(sub="ann", realm={"roles": ["user"]})) == REFUSED
    assert how_it_ends(lab, gateway, token(sub="ann", realm="admin")) == REFUSED
    assert how_it_ends(lab, gateway)[0] == Code.UNAUTHENTICATED, "the Filter asks who calls, before any rule"


def test_without_a_filter_claims_are_not_believed(lab: Lab) -> None:
    gateway = configured(lab, policies("rules: [{principals: [{claim: {name: sub}}]}]"), pods=lab.pod())
    assert how_it_ends(lab, gateway, token(sub="ann"), ("sub", "ann")) == REFUSED


def test_a_condition_compares_a_header_with_a_claim(lab: Lab) -> None:
    spec = "rules: [{condition: \"request.headers['x-tenant'] == claims.tenant\"}]"
    gateway = configured(lab, policies(spec, before=TOKENS), pods=lab.pod())
    assert how_it_ends(lab, gateway, token(tenant="acme"), ("x-tenant", "acme")) == PASSES
    assert how_it_ends(lab, gateway, token(tenant="acme"), ("x-tenant", "b")) == REFUSED
    assert how_it_ends(lab, gateway, token(tenant="acme")) == REFUSED, "there is no such header"
    assert how_it_ends(lab, gateway, token(), ("x-tenant", "acme")) == REFUSED, "there is no such claim"


# --- addresses and headers


@pytest.mark.parametrize(
    ("rule", "module", "expected"),
    [
        ("address: 127.0.0.0/8", "{}", PASSES),
        ("address: 10.0.0.0/8", "{}", REFUSED),
        ("address: 10.0.0.0/8", "{xff_num_trusted_hops: 1}", PASSES),
        ("peerAddress: 10.0.0.0/8", "{xff_num_trusted_hops: 1}", REFUSED),
        ("peerAddress: 127.0.0.1", "{xff_num_trusted_hops: 1}", PASSES),
    ],
)
def test_the_address_is_that_of_the_client_behind_trusted_proxies(
    lab: Lab, rule: str, module: str, expected: tuple[int, str]
) -> None:
    text = policies(
        f"rules: [{{principals: [{{{rule}}}]}}]", before=f"{{kind: Module, name: ambassador, config: {module}}}"
    )
    gateway = configured(lab, text, pods=lab.pod())
    assert how_it_ends(lab, gateway, ("x-forwarded-for", "10.1.2.3")) == expected


def test_the_case_of_a_headers_name_does_not_count(lab: Lab) -> None:
    """grpc-go#9332: a rule on `X-Tenant` matched no call, as HTTP/2 has keys in lower case."""
    deny = "action: DENY\nrules: [{permissions: [{header: {name: X-Tenant, value: eve}}]}]"
    gateway = configured(lab, policies(deny), pods=lab.pod())
    assert how_it_ends(lab, gateway, ("x-tenant", "eve")) == REFUSED
    assert how_it_ends(lab, gateway, ("x-tenant", "ann")) == PASSES


# --- methods


METHODS = """
selector: {paths: ["/test.Pod/*"]}
rules:
  - name: open
    permissions: [{method: /test.Pod/Open}]
  - name: admins
    principals: [{header: {name: x-role, value: admin}}]
"""


def test_who_may_call_a_method(lab: Lab) -> None:
    gateway = configured(lab, policies(METHODS), pods=with_open(lab))
    assert how_it_ends(lab, gateway, method="Open") == PASSES
    assert how_it_ends(lab, gateway) == REFUSED
    assert how_it_ends(lab, gateway, ("x-role", "admin")) == PASSES


ODD_PATHS = [
    *(b"test.Pod/Unary", b"//test.Pod/Unary", b"/test.Pod//Unary", b"/test.Pod/Unary/", b"/test.Pod/Unary?x=1"),
    *(b"/test.Pod/Unary#f", b"/test.Pod/../test.Pod/Unary", b"/test.Pod/./Unary", b"/test.Pod/%55nary"),
    *(b"/test%2ePod/Unary", b"/test.pod/unary", b"/TEST.POD/UNARY", b"/test.Pod/unary", b"\\test.Pod\\Unary"),
    *(b"/test.Pod/Unary;x=1", b"/test.Pod/Unary ", b"http://gateway.test/test.Pod/Unary", b"*", b""),
]


@pytest.mark.parametrize("path", ODD_PATHS)
def test_no_other_form_of_a_path_gets_past_a_rule(lab: Lab, path: bytes) -> None:
    """CVE-2026-33186 in grpc-go: a path without its slash got past rules on methods."""
    deny = "action: DENY\nrules: [{permissions: [{method: /test.Pod/Unary}]}]"
    pod = lab.pod()
    gateway = configured(lab, policies(deny).replace("service: pods", "service: pods, prefix: /"), pods=pod)
    client = lab.raw_client(gateway)
    client.call_bytes(path)
    assert [call.method for call in pod.calls if call.method == "/test.Pod/Unary"] == []


def test_a_mapping_whatever_the_case_has_rules_whatever_the_case(lab: Lab) -> None:
    """`rewrite` brings the path into the case that pods know."""
    deny = "action: DENY\nrules: [{permissions: [{method: /test.Pod/Unary}]}]"
    mapping = "service: pods, case_sensitive: false, prefix: /test.pod/, rewrite: /test.Pod/"
    pod = with_open(lab)
    gateway = configured(lab, policies(deny).replace("service: pods", mapping), pods=pod)
    for path in ("/test.Pod/Unary", "/TEST.pod/Unary", "/test.Pod/unary"):
        assert how_it_ends(lab, gateway, method=path) == REFUSED
    assert how_it_ends(lab, gateway, method="/Test.POD/Open") == PASSES


# --- what is refused, and recorded


def records_of(gateway: Gateway, share_percent: float = 100.0) -> list[RpcRecord]:
    records: list[RpcRecord] = []
    gateway.serving.rpc_log = RpcLog(records.append, share_percent)
    return records


def facts_of(lab: Lab, text: str, *metadata: tuple[str, str]) -> tuple[tuple[int, str], dict[str, str]]:
    """How a call ends, and what the access log says."""
    compiled = compile_yaml(text, lab.engine).snapshot
    (cluster,) = compiled.clusters
    gateway = lab.gateway(routes=[], clusters={})
    records = records_of(gateway)
    gateway.serving.apply(compiled, time.monotonic())
    gateway.set_pods(lab.pod(), cluster=cluster)
    gateway.wait_for_ready_pods(1)
    outcome = how_it_ends(lab, gateway, *metadata)
    eventually(lambda: bool(records), "the record")
    return outcome, dict(records[0].facts)


def test_the_client_learns_nothing_of_the_rules_and_the_access_log_all(lab: Lab) -> None:
    deny = "action: DENY\nrules: [{name: secret-rule, permissions: [{header: {name: x-secret}}]}]"
    gateway = configured(lab, policies(deny), pods=lab.pod())
    answer = lab.raw_client(gateway).call("Unary", ("x-secret", "s3cret"))
    assert answer.message == "Mapping greet.default: this client may not make this call"
    assert "secret" not in json.dumps(answer.blocks)
    assert facts_of(lab, policies(deny), ("x-secret", "a")) == (
        REFUSED,
        {"policy": "AuthorizationPolicy p0.default", "rule": "p0.default/secret-rule"},
    )
    allow = "rules: [{permissions: [{method: '*'}]}]"
    assert facts_of(lab, policies(allow))[1] == {"rule": "p0.default/0"}


def test_a_dry_run_refuses_nothing_and_records_what_it_would(lab: Lab) -> None:
    dry = "action: DENY\ndryRun: true\nrules: [{name: later, permissions: [{method: /test.Pod/Unary}]}]"
    assert facts_of(lab, policies(dry)) == (PASSES, {"dry-run": "deny p0.default/later"})


def test_calls_that_a_rule_marks_are_logged_whatever_share_of_calls_is(lab: Lab) -> None:
    log = "action: LOG\nrules: [{name: tenants, permissions: [{header: {name: x-tenant}}]}]"
    snapshot = compile_yaml(policies(log), lab.engine).snapshot
    gateway = lab.gateway(routes=[], clusters={})
    records = records_of(gateway, share_percent=0.0)
    gateway.serving.apply(snapshot, time.monotonic())
    (cluster,) = snapshot.clusters
    gateway.set_pods(lab.pod(), cluster=cluster)
    gateway.wait_for_ready_pods(1)
    client = lab.raw_client(gateway)
    for metadata in ((), (("x-tenant", "acme"),), ()):
        assert client.call("Unary", *metadata).status == Code.OK
    eventually(lambda: bool(records), "the record")
    assert [dict(one.facts or {}) for one in records] == [{"logged": "p0.default/tenants"}]


def test_a_policy_that_is_broken_refuses_its_mapping_alone(lab: Lab) -> None:
    text = (
        policies("selector: {paths: [/test.Pod/*]}\nrules: [{condition: '('}]")
        + "\n---\n{name: free, prefix: /free.S/, service: pods}"
    )
    snapshot = compile_yaml(text, lab.engine).snapshot
    gateway = lab.gateway(routes=[], clusters={})
    gateway.serving.apply(snapshot, time.monotonic())
    for cluster in snapshot.clusters:
        gateway.set_pods(lab.pod("pods", {"/free.S/M": lambda requests, _: iter(list(requests))}), cluster=cluster)
    assert how_it_ends(lab, gateway) == (Code.UNAVAILABLE, "not-enforced")
    assert how_it_ends(lab, gateway, method="/free.S/M") == PASSES
