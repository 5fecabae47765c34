"""What is closed while a Host, TLSContext or Listener is left out: nobody comes in past what it would have asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from grpcgw.discovery.sources.directory import parse_content, read_directory
from grpcgw.discovery.sources.yaml_objects import keep_first
from grpcgw.listeners.data_ports import DataPorts
from grpcgw.listeners.self_signed import make_self_signed
from grpcgw.model.listener import Listener, Transport
from grpcgw.model.objects import KubeObject, Severity
from grpcgw.model.route_source import Compiled, CompileOptions
from grpcgw.model.snapshot import Snapshot
from grpcgw.model.status import Reason
from grpcgw.policy.verdicts import Deny
from grpcgw.routing.host_rules import Entry, compile_rules
from tests.compiling import compile_objects, guard_of, mapping, obj, said
from tests.parsing import KINDS, READER, parse_objects
from tests.pems import NOW, key_pair, raw_secret, secret

CHAIN, PRIVATE = key_pair("a")
CA, _ = key_pair("ca")
SECRETS = (secret(CHAIN, PRIVATE), raw_secret({"stringData": {"ca.crt": CA.decode()}}, "ca"))
MUTUAL = {"ca_secret": "ca", "cert_required": True}


def host(name: str, hostname: object, api: str = "getambassador.io/v3alpha1", **fields: object) -> KubeObject:
    return obj("Host", name, {"hostname": hostname, **fields}, api=api)


def partners(**fields: object) -> KubeObject:
    spec = {"tlsSecret": {"name": "cert"}, "requestPolicy": {"insecure": {"action": "Reject"}}, "tls": MUTUAL}
    return host("partners", "partners.example.com", **{**spec, **fields})


def listener(name: str, port: int, **fields: object) -> KubeObject:
    binding = {"namespace": {"from": "ALL"}}
    spec = {"port": port, "protocol": "HTTPS", "securityModel": "XFP", "hostBinding": binding, **fields}
    return obj("Listener", name, spec)


TLS_PORT = listener("tls", 8443)
CLEAR_PORT = listener("clear", 8080, protocol="HTTP")
ANYBODY = host("anybody", "*", tlsSecret={"name": "cert"})
ALL_OF_EXAMPLE = host("wide", "*.example.com", tlsSecret={"name": "cert"})

BROKEN = {
    "unknown field": partners(tlsSecrett={}),
    "misspelt field of tls": partners(tls={**MUTUAL, "cert_requird": True}),
    "revocation list": partners(tls={**MUTUAL, "crl_secret": "crl"}),
    "revocation list stored as v2": partners(tls={**MUTUAL, "v3CRLSecret": "crl"}),
    "no possible version": partners(tls={**MUTUAL, "max_tls_version": "v1.1"}),
    "ciphers": partners(tls={**MUTUAL, "cipher_suites": ["X"]}),
    "missing Secret": partners(tlsSecret={"name": "gone"}),
    "missing authorities": partners(tls={"ca_secret": "gone", "cert_required": True}),
    "no authorities named": partners(tls={"cert_required": True}),
    "missing file": partners(tlsSecret=None, tls={"cert_chain_file": "/no/crt", "private_key_file": "/no/key"}),
    "no certificate of its own": partners(tlsSecret=None),
    "missing TLSContext": partners(tls=None, tlsContext={"name": "gone"}),
    "wrong type": partners(requestPolicy="Reject"),
    "unknown action": partners(requestPolicy={"insecure": {"action": "Refuse"}}),
    "bad apiVersion": host("partners", "partners.example.com", api="getambassador.io/v9", tlsSecret={"name": "cert"}),
    "selector without meaning": partners(mappingSelector={"matchExpressions": [{"key": "a"}]}),
    "hostname is no name": host("partners", "partners example com", tlsSecret={"name": "cert"}),
    "hostname is no text": host("partners", ["partners.example.com"], tlsSecret={"name": "cert"}),
    "hostname is misspelt": obj("Host", "partners", {"hostnam": "partners.example.com", "tlsSecret": {"name": "cert"}}),
    "no spec that could be read": obj("Host", "partners", "partners.example.com"),
    "labels that could select it": obj(
        "Host", "partners", {"hostname": "partners.example.com"}, metadata={"labels": "partners"}
    ),
}


def ports_of(compiled: Compiled) -> dict[int, Listener]:
    return {one.port: one for one in compiled.snapshot.listeners or ()}


def fault_of(snapshot: Snapshot, name: str, port: str, tls: bool) -> str | None:
    rules = compile_rules(snapshot)
    judged = rules.judge(Entry(port, tls, name, ())) if rules is not None else ()
    return judged.reason if isinstance(judged, Deny) else None


@pytest.mark.parametrize("reason", BROKEN)
def test_the_ports_of_a_host_that_is_left_out_are_not_opened_for_it(reason: str) -> None:
    compiled = compile_objects(TLS_PORT, CLEAR_PORT, BROKEN[reason], mapping(), *SECRETS)
    assert ports_of(compiled) == {}
    errors = said(compiled, Severity.ERROR)
    assert any("Host partners.shop" in error and "are refused" in error for error in errors)
    for port in ("tls", "clear"):
        assert any(f"Listener {port}.shop: the port is not opened: " in error for error in errors), errors


@pytest.mark.parametrize("reason", BROKEN)
@pytest.mark.parametrize("wider", [ANYBODY, ALL_OF_EXAMPLE], ids=["any name", "glob"])
def test_no_wider_host_takes_its_place(reason: str, wider: KubeObject) -> None:
    compiled = compile_objects(TLS_PORT, CLEAR_PORT, BROKEN[reason], wider, *SECRETS)
    for port, tls in (("Listener tls.shop", True), ("Listener clear.shop", False)):
        is_open = port in {one.name for one in compiled.snapshot.listeners or ()}
        fault = fault_of(compiled.snapshot, "partners.example.com", port, tls)
        assert not is_open or fault is Reason.LEFT_OUT


def test_other_names_are_served_beside_a_host_that_is_left_out() -> None:
    compiled = compile_objects(TLS_PORT, CLEAR_PORT, BROKEN["revocation list"], ANYBODY, *SECRETS)
    assert ports_of(compiled).keys() == {8080, 8443}
    assert [one.name for one in ports_of(compiled)[8443].certificates] == ["Host anybody.shop"]
    for name, fault in (("other.example.com", None), ("Partners.example.com:8443", Reason.LEFT_OUT)):
        assert fault_of(compiled.snapshot, name, "Listener tls.shop", tls=True) is fault


def test_where_its_name_cannot_be_read_no_name_is_served() -> None:
    exact = host("exact", "exact.example.com", tlsSecret={"name": "cert"})
    for reason in ("hostname is no name", "hostname is no text", "hostname is misspelt", "no spec that could be read"):
        compiled = compile_objects(TLS_PORT, CLEAR_PORT, BROKEN[reason], exact, ANYBODY, *SECRETS)
        assert ports_of(compiled) == {}, reason
        assert "calls to any name are refused" in "".join(said(compiled, Severity.ERROR))


def test_only_listeners_that_would_have_bound_it_are_closed() -> None:
    here = listener("here", 8443, hostBinding={"namespace": {"from": "SELF"}})
    elsewhere = obj("Listener", "elsewhere", {"port": 9443, "protocol": "HTTPS", "securityModel": "XFP"}, "other")
    other = obj("Host", "other", {"hostname": "*", "tlsSecret": {"name": "cert", "namespace": "shop"}}, "other")
    compiled = compile_objects(here, elsewhere, BROKEN["unknown field"], other, *SECRETS)
    assert ports_of(compiled).keys() == {9443}


def test_its_last_good_version_keeps_serving() -> None:
    before = compile_objects(TLS_PORT, partners(), *SECRETS)
    after = compile_objects(TLS_PORT, BROKEN["revocation list"], *SECRETS, last=before)
    assert after.snapshot == before.snapshot
    assert ports_of(after)[8443].certificates[0].client_ca == CA


def test_mappings_that_it_selects_serve_no_other_name() -> None:
    selecting = host("tools", "tools.example.com", mappingSelector={"matchLabels": {"exposed": "yes"}}, typo=1)
    chosen = mapping(metadata={"labels": {"exposed": "yes"}})
    (route,) = compile_objects(selecting, chosen).snapshot.routes
    assert str(route.host) == "tools.example.com"


@pytest.mark.parametrize(
    "fields",
    [{"max_tls_version": "v1.1"}, {"secret": "gone"}, {"certrequired": True}, {"ca_secret": "gone"}, {"secret": 5}],
    ids=str,
)
def test_a_tls_context_that_is_left_out_closes_its_names(fields: dict[str, object]) -> None:
    context = obj("TLSContext", "t", {"hosts": ["partners.example.com"], "secret": "cert", **MUTUAL, **fields})
    compiled = compile_objects(TLS_PORT, context, *SECRETS)
    assert ports_of(compiled) == {}, "there is no certificate"
    beside = compile_objects(TLS_PORT, context, ANYBODY, *SECRETS)
    for name, fault in (("other.example.com", None), ("partners.example.com", Reason.LEFT_OUT)):
        assert fault_of(beside.snapshot, name, "Listener tls.shop", tls=True) is fault
    assert "calls to partners.example.com are refused" in "".join(said(beside, Severity.ERROR))


@pytest.mark.parametrize("spec", [{"hosts": {"a": 1}}, {"hostss": ["a.example.com"]}, "text"], ids=str)
def test_a_tls_context_whose_names_cannot_be_read_closes_all(spec: object) -> None:
    compiled = compile_objects(TLS_PORT, CLEAR_PORT, obj("TLSContext", "t", spec), ANYBODY, *SECRETS)
    assert ports_of(compiled) == {}


def test_a_tls_context_without_hosts_closes_nothing() -> None:
    compiled = compile_objects(CLEAR_PORT, obj("TLSContext", "pods", {"secret": "gone"}))
    assert ports_of(compiled).keys() == {8080}
    assert compiled.snapshot.hosts == ()


def test_a_tls_context_that_is_left_out_hides_those_of_its_name_elsewhere() -> None:
    strict = obj("TLSContext", "t", {"secret": "cert", "max_tls_version": "v1.1", **MUTUAL})
    lax = obj("TLSContext", "t", {"secret": "cert.shop"}, "other")
    user = partners(tlsSecret=None, tls=None, tlsContext={"name": "t"})
    compiled = compile_objects(TLS_PORT, strict, lax, user, mapping(tls="t"), *SECRETS)
    assert ports_of(compiled) == {}
    assert compiled.snapshot.routes == ()


@pytest.mark.parametrize(("action", "served"), [(None, False), ("Route", True)])
def test_a_host_that_asks_for_client_certificates_is_not_served_in_clear_text_unasked(
    action: str | None, served: bool
) -> None:
    asking = partners(requestPolicy={"insecure": {"action": action}})
    compiled = compile_objects(CLEAR_PORT, asking, *SECRETS)
    fault = fault_of(compiled.snapshot, "partners.example.com", "Listener clear.shop", tls=False)
    assert fault is (None if served else Reason.CLEAR_TEXT)


def test_nobody_takes_the_port_of_a_listener_that_is_left_out() -> None:
    broken = listener("a", 8443, securityModel="STRICT")
    compiled = compile_objects(broken, listener("b", 8443, protocol="HTTP"))
    assert ports_of(compiled) == {}
    assert "port 8443 is taken by Listener a.shop" in "".join(said(compiled, Severity.ERROR))


# The ports of the command line


def open_ports(compiled: Compiled) -> dict[Transport, Listener]:
    ports = DataPorts("127.0.0.1", 0, 0, make_self_signed("localhost", NOW))
    try:
        return {one.transport: one for one in ports.bind(compiled.snapshot)}
    finally:
        ports.release()


@pytest.mark.parametrize("reason", BROKEN)
def test_the_tls_port_of_the_command_line_shows_no_makeshift_certificate(reason: str) -> None:
    compiled = compile_objects(BROKEN[reason], mapping(), *SECRETS)
    opened = open_ports(compiled)
    assert Transport.TLS not in opened
    for one in opened.values():
        served = Snapshot("", listeners=(one,))
        assert fault_of(served, "partners.example.com", one.name, tls=False) is Reason.LEFT_OUT
        assert fault_of(served, "other.example.com", one.name, tls=False) is None
    assert bool(opened) == ("any name" not in "".join(said(compiled)))


# Texts that cannot be read


GOOD = """apiVersion: getambassador.io/v3alpha1
kind: Listener
metadata: {name: clear}
spec: {port: 8080, protocol: HTTP, securityModel: XFP, hostBinding: {namespace: {from: ALL}}}
---
apiVersion: getambassador.io/v3alpha1
kind: Host
metadata: {name: anybody}
spec: {hostname: "*"}
---
apiVersion: getambassador.io/v3alpha1
kind: Mapping
metadata: {name: greet}
spec: {prefix: /greet.GrpcService/, service: greet, hostname: "*"}
"""
UNREADABLE = {
    "no YAML": "kind: Host\nmetadata: {name: partners}\nspec: {hostname: partners.example.com, tls: {\n",
    "flow": '{"apiVersion": "getambassador.io/v2", "kind": "Host", "metadata": {]}\n',
    "a later document": GOOD.replace("clear", "x").replace("anybody", "y") + "---\nkind: Host\nspec: }\n",
    "an unknown tag": "apiVersion: getambassador.io/v2\nkind: Host\nmetadata: {name: !x partners}\n",
    "no name": "apiVersion: getambassador.io/v2\nkind: Host\nmetadata: {}\nspec: {hostname: partners.example.com}\n",
    "no apiVersion": "kind: Host\nmetadata: {name: partners}\nspec: {hostname: partners.example.com}\n",
    "an array": '[{"apiVersion": "getambassador.io/v2", "kind": "Host", "metadata": {"name": "partners"}}]\n',
    "no text": "apiVersion: getambassador.io/v2\nkind: Host\nmetadata: {name: partners}\nspec: \x00\n",
}


def compile_texts(**texts: str) -> Compiled:
    read = [parse_objects(text, f"{name}.yaml") for name, text in texts.items()]
    assert all(problems for name, (_, problems) in zip(texts, read, strict=True) if name == "broken")
    found, _ = keep_first((one for objects, _ in read for one in objects), KINDS)
    return compile_objects(*found)


@pytest.mark.parametrize("reason", UNREADABLE)
def test_a_host_that_cannot_even_be_read_as_an_object_closes_what_it_could_have_meant(reason: str) -> None:
    compiled = compile_texts(good=GOOD, broken=UNREADABLE[reason])
    assert ports_of(compiled) == {}
    assert any("Host " in error and "broken.yaml" in error for error in said(compiled, Severity.ERROR))


@pytest.mark.parametrize("kind", ["AuthService", "FilterPolicy"])
def test_what_decides_on_calls_and_cannot_be_read_protects_everything(kind: str) -> None:
    compiled = compile_texts(good=GOOD, broken=f"kind: {kind}\nspec: {{\n")
    assert [guard_of(one) for route in compiled.snapshot.routes for one in route.destinations] == [
        f"{kind} line-1.default"
    ]


def test_a_module_that_cannot_be_read_as_yaml_serves_nobody() -> None:
    compiled = compile_texts(
        good=GOOD, broken="kind: Module\nmetadata: {name: ambassador}\nspec: {config: {ip_allow: [\n"
    )
    assert compiled.snapshot.clients.allow == ()


@pytest.mark.parametrize(
    "text",
    [
        "kind: Mapping\nspec: {\n",
        "# kind: Host\nkind: Mapping\nspec: {\n",
        "kind: Hostess\nspec: {\n",
    ],
)
def test_other_texts_that_cannot_be_read_close_nothing(text: str) -> None:
    compiled = compile_texts(good=GOOD, broken=text)
    assert ports_of(compiled).keys() == {8080}
    assert compiled.problems == ()


def test_a_file_that_is_no_utf_8_closes_what_it_could_have_meant() -> None:
    objects, problems = parse_content(b"kind: Host\nspec: \xff\n", "broken.yaml", READER)
    assert [str(one.key) for one in objects] == ["Host line-1.default"]
    assert len(problems) == 1


@pytest.mark.parametrize("kind", ["!!str Host", "&a Host", "!!str &a 'Host'"])
def test_kinds_are_found_behind_tags_and_anchors(kind: str) -> None:
    objects, _ = parse_objects(f"kind: {kind}\nspec: {{\n", "broken.yaml")
    assert [one.key.kind for one in objects] == ["Host"]


def test_a_file_that_cannot_be_read_closes_every_port(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "guards.yaml").symlink_to(tmp_path / "nowhere")
    objects, (problem,) = read_directory(tmp_path, READER)
    assert problem.where.endswith("guards.yaml")
    compiled = compile_objects(*objects)
    assert ports_of(compiled) == {}
    assert "a file that cannot be read" in "".join(said(compiled, Severity.ERROR))
    ports_of_command_line = open_ports(
        compile_objects(*(one for one in objects if one.key.kind not in ("Listener", "Host")))
    )
    assert ports_of_command_line == {}


def test_only_the_document_that_cannot_be_read_is_looked_at() -> None:
    compiled = compile_texts(broken=GOOD + "---\napiVersion: v1\nkind: Service\nmetadata: {name: !x a}\n")
    assert ports_of(compiled).keys() == {8080}


def test_it_is_closed_for_a_gateway_of_every_ambassador_id() -> None:
    objects, _ = parse_objects(UNREADABLE["no YAML"], "broken.yaml")
    compiled = compile_objects(*objects, options=CompileOptions(gateway_id="edge"))
    assert [policy.left_out for policy in compiled.snapshot.hosts] == ["Host line-1.default"]


# Kinds and groups that nobody has


MISSPELT = {
    "kind": ("getambassador.io/v3alpha1", "Hosts"),
    "case of the kind": ("getambassador.io/v3alpha1", "host"),
    "kind of the preview": ("x.getambassador.io/v3alpha1", "AmbassadorHost"),
    "group": ("getambasador.io/v3alpha1", "Host"),
    "case of the group": ("GetAmbassador.io/v3alpha1", "Host"),
    "no group": ("v3alpha1", "Host"),
    "Kubernetes' version": ("v1", "Host"),
    "both": ("getambassador.oi/v3alpha1", "Hots"),
}


@pytest.mark.parametrize("reason", MISSPELT)
def test_a_host_of_a_misspelt_kind_or_group_closes_its_name(reason: str) -> None:
    api, kind = MISSPELT[reason]
    misspelt = obj(kind, "partners", {"hostname": "partners.example.com", "tlsSecret": {"name": "cert"}}, api=api)
    compiled = compile_objects(CLEAR_PORT, misspelt, host("wide", "*"), *SECRETS)
    assert fault_of(compiled.snapshot, "partners.example.com", "Listener clear.shop", tls=False) is Reason.LEFT_OUT
    assert fault_of(compiled.snapshot, "other.example.com", "Listener clear.shop", tls=False) is None
    errors = said(compiled, Severity.ERROR)
    assert any("did you mean" in one for one in errors)
    assert not any("unknown is not read" in one for one in errors)  # which nobody has written


def test_a_listener_of_a_misspelt_kind_leaves_no_port_of_the_command_line_open() -> None:
    compiled = compile_objects(obj("Listner", "l", {"port": 8443, "protocol": "HTTPS", "securityModel": "XFP"}))
    assert compiled.snapshot.listeners == ()


def test_what_decides_on_calls_and_is_misspelt_protects_them() -> None:
    for api, kind in (("getambassador.io/v2", "AuthServices"), ("getambasador.io/v2", "AuthService")):
        compiled = compile_objects(obj(kind, "auth", {"auth_service": "auth"}, api=api), mapping())
        assert [guard_of(one) for route in compiled.snapshot.routes for one in route.destinations] == [
            "AuthService auth.shop"
        ]


def test_a_module_of_a_misspelt_group_keeps_out_whom_it_says() -> None:
    misspelt = obj(
        "Module", "ambassador", {"config": {"ip_allow": [{"remote": "10.0.0.0/8"}]}}, api="getambasador.io/v2"
    )
    assert compile_objects(misspelt).snapshot.clients.allow is not None


@pytest.mark.parametrize(
    ("api", "kind"),
    [("v1", "Pod"), ("apps/v1", "Host"), ("metal3.io/v1alpha1", "Host"), ("getambassador.io/v2", "Mappin")],
)
def test_others_close_nothing(api: str, kind: str) -> None:
    compiled = compile_objects(CLEAR_PORT, host("wide", "*"), obj(kind, "partners", {"hostname": "a"}, api=api))
    assert fault_of(compiled.snapshot, "a", "Listener clear.shop", tls=False) is None


@pytest.mark.parametrize(
    ("client", "is_closed"),
    [
        ({"enabled": True, "secret": "ca", "cert_required": True}, True),
        ({"cacert_chain_file": "/etc/ca.pem"}, True),
        ("certs", True),
        ({"enabled": False}, False),
        (None, False),
    ],
    ids=str,
)
def test_the_module_of_ambassador_0_for_tls_closes_all_names_where_it_asks_for_client_certificates(
    client: object, is_closed: bool
) -> None:
    old = obj("Module", "tls", {"config": {"server": {"enabled": True, "secret": "cert"}, "client": client}})
    compiled = compile_objects(CLEAR_PORT, host("wide", "*"), old)
    assert (ports_of(compiled) == {}) is is_closed
    assert "write a TLSContext instead" in "".join(said(compiled, Severity.ERROR))


# Two objects of one key


def compile_files(*texts: str) -> Compiled:
    found, conflicts = keep_first((one for text in texts for one in parse_objects(text, "a.yaml")[0]), KINDS)
    assert len(conflicts) == 1
    return compile_objects(*found)


def test_the_second_of_two_modules_in_files_keeps_out_whom_it_says() -> None:
    plain = "apiVersion: getambassador.io/v2\nkind: Module\nmetadata: {name: ambassador}\nspec: {config: {}}\n"
    strict = plain.replace("{}", "{ip_allow: [{remote: 10.0.0.0/8}]}")
    assert compile_files(plain, strict).snapshot.clients.allow == ()
    assert compile_files(plain, "kind: Module\nspec: {config: {\n").snapshot.clients.allow == ()
    assert compile_files(strict, strict).snapshot.clients.allow not in (None, ())


def test_of_two_hosts_of_one_key_the_stricter_counts() -> None:
    loose = "apiVersion: getambassador.io/v2\nkind: Host\nmetadata: {name: a}\nspec: {hostname: a.example.com}\n"
    strict = loose.replace("a.example.com", "a.example.com, requestPolicy: {insecure: {action: Reject}}")
    for texts in ((loose, strict), (strict, loose)):
        (policy,) = compile_files(*texts).snapshot.hosts
        assert not policy.clear_text


def test_of_two_auth_services_of_one_key_both_protect() -> None:
    first = "apiVersion: getambassador.io/v2\nkind: AuthService\nmetadata: {name: a}\nspec: {ambassador_id: other}\n"
    second = first.replace("other", "default")
    compiled = compile_files(f"{GOOD}---\n{first}", second)
    assert all(guard_of(one) for route in compiled.snapshot.routes for one in route.destinations)


def test_the_items_of_a_list_of_any_kind_are_read() -> None:
    auth = "{apiVersion: getambassador.io/v2, kind: AuthService, metadata: {name: a}, spec: {auth_service: a}}"
    text = (
        f"apiVersion: getambassador.io/v2\nkind: AuthServiceList\nmetadata: {{resourceVersion: '5'}}\nitems: [{auth}]\n"
    )
    objects, problems = parse_objects(text, "list.yaml")
    assert [str(one.key) for one in objects] == ["AuthService a.default"]
    assert problems == ()
