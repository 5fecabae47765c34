"""Listeners `HTTPS`, which take TLS and clear text in Ambassador: what each engine serves, and what is reported."""

from __future__ import annotations

import base64

import pytest

from grpcgw.listeners.open_ports import make_views
from grpcgw.model.listener import Listener, Transport
from grpcgw.model.objects import KubeObject, Severity
from grpcgw.model.route_source import Compiled, CompileOptions
from grpcgw.policy.verdicts import Deny
from grpcgw.routing.host_rules import Entry, compile_rules
from tests.compiling import compile_objects as compile_for
from tests.compiling import obj, said
from tests.pems import key_pair, raw_secret, secret

SECRET = secret(*key_pair("a"))
CERTIFICATE = {"tlsSecret": {"name": "cert"}}


def listener(name: str, port: int, **fields: object) -> KubeObject:
    protocol = {} if "protocolStack" in fields else {"protocol": "HTTPS"}
    return obj("Listener", name, {"port": port, **protocol, "securityModel": "XFP", **fields})


def host(name: str, hostname: str, action: str | None = None, **fields: object) -> KubeObject:
    insecure = {} if action is None else {"requestPolicy": {"insecure": {"action": action}}}
    return obj("Host", name, {"hostname": hostname, **insecure, **fields})


BOTH = listener("both", 8080)
CLEAR = listener("clear", 8081, protocol="HTTP")
PLAIN = host("plain", "*", "Route")
SECURE = host("secure", "secure.example.com", **CERTIFICATE)


ON_GRPC = CompileOptions(first_bytes_hidden_by="generic-handler")


def compile_objects(*objects: KubeObject) -> Compiled:
    """For an engine on grpc, whose ports take one of both."""
    return compile_for(*objects, options=ON_GRPC)


def transports(compiled: Compiled) -> dict[str, Transport]:
    return {one.name: one.transport for one in compiled.snapshot.listeners or ()}


@pytest.mark.parametrize("action", [None, "Route", "Redirect"])
def test_where_no_host_has_tls_the_port_is_clear_text(action: str | None) -> None:
    compiled = compile_objects(BOTH, host("plain", "*", action), SECRET)
    assert transports(compiled) == {"Listener both.shop": Transport.CLEAR}
    assert said(compiled, Severity.ERROR) == []


@pytest.mark.parametrize(
    "fields",
    [CERTIFICATE, {"acmeProvider": {"authority": "https://acme.example"}}, {"tls": {}}],
    ids=str,
)
def test_where_a_host_has_tls_the_port_is_tls(fields: dict[str, object]) -> None:
    compiled = compile_objects(BOTH, PLAIN, host("secure", "secure.example.com", **fields), SECRET)
    assert transports(compiled) == {"Listener both.shop": Transport.TLS}


def test_a_tls_context_gives_the_port_tls_as_well() -> None:
    context = obj("TLSContext", "t", {"hosts": ["secure.example.com"], "secret": "cert"})
    assert transports(compile_objects(BOTH, PLAIN, context, SECRET)) == {"Listener both.shop": Transport.TLS}


def test_without_hosts_and_by_its_layers_the_port_is_tls() -> None:
    assert transports(compile_objects(BOTH)) == {"Listener both.shop": Transport.TLS}
    layers = listener("layers", 8080, protocolStack=["TLS", "HTTP", "TCP"])
    assert transports(compile_objects(layers, PLAIN)) == {"Listener layers.shop": Transport.TLS}


def test_while_a_host_that_may_ask_for_tls_is_left_out_the_port_does_not_turn_to_clear_text() -> None:
    broken = host("secure", "secure.example.com", tlsSecret={"name": "gone"})
    assert transports(compile_objects(BOTH, PLAIN, broken)) == {}


def test_a_host_whose_clear_text_has_no_port_is_told() -> None:
    compiled = compile_objects(BOTH, PLAIN, SECURE, SECRET)
    (error,) = said(compiled, Severity.ERROR)
    assert error.startswith(
        "plain.yaml: error: Host plain.shop spec.requestPolicy.insecure.action: calls in clear text"
    )
    assert "not served by Listener both.shop" in error


def test_a_host_with_tls_that_asks_for_clear_text_too_is_told() -> None:
    both = host("secure", "secure.example.com", "Route", **CERTIFICATE)
    assert "Host secure.shop" in said(compile_objects(BOTH, both, SECRET), Severity.ERROR)[0]


def test_a_host_that_did_not_ask_for_clear_text_gets_a_notice() -> None:
    compiled = compile_objects(BOTH, host("plain", "*"), SECURE, SECRET)
    assert said(compiled, Severity.ERROR) == []
    assert "notice: Host plain.shop: calls in clear text are not served" in said(compiled)[0]


@pytest.mark.parametrize("action", [None, "Reject", "Redirect"])
def test_a_host_with_tls_that_does_not_ask_for_clear_text_is_not_told(action: str | None) -> None:
    compiled = compile_objects(BOTH, host("secure", "*", action, **CERTIFICATE), SECRET)
    assert not any("clear text are not served" in text for text in said(compiled))


def test_where_another_port_takes_the_clear_text_nothing_is_missing() -> None:
    compiled = compile_objects(BOTH, CLEAR, PLAIN, SECURE, SECRET)
    assert transports(compiled) == {"Listener both.shop": Transport.TLS, "Listener clear.shop": Transport.CLEAR}
    assert said(compiled) == []


def test_without_any_certificate_a_port_says_that_it_shows_one_of_its_own_and_takes_no_clear_text() -> None:
    text = "there is no certificate, so a self-signed one is used; clear text is not served"
    (notice,) = said(compile_objects(BOTH))
    assert notice.startswith(f"both.yaml: notice: Listener both.shop: {text}")
    for objects in (
        (BOTH, PLAIN),
        (BOTH, SECURE, SECRET),
        (listener("layers", 8080, protocolStack=["TLS", "HTTP", "TCP"]),),
    ):
        assert not any("self-signed" in one for one in said(compile_objects(*objects)))


# Engines that read the first bytes


def port(compiled: Compiled) -> Listener:
    (found,) = compiled.snapshot.listeners or ()
    return found


def clear_text(compiled: Compiled) -> dict[str, bool]:
    """By Host of the only port: whether its calls in clear text are served."""
    return {policy.host.value if policy.host else "*": policy.clear_text for policy in port(compiled).hosts}


LAYERS = listener("layers", 8080, protocolStack=["TLS", "HTTP", "TCP"])


@pytest.mark.parametrize("both", [BOTH, LAYERS], ids=["HTTPS", "TLS, HTTP, TCP"])
def test_where_some_hosts_want_clear_text_and_others_have_tls_the_port_takes_both(both: KubeObject) -> None:
    compiled = compile_for(both, PLAIN, SECURE, SECRET)
    assert port(compiled).transport is Transport.BOTH
    assert len(port(compiled).certificates) == 1
    assert said(compiled) == []


@pytest.mark.parametrize(("action", "served"), [(None, False), ("Reject", False), ("Redirect", False), ("Route", True)])
def test_a_host_with_tls_is_served_in_clear_text_on_such_a_port_only_if_it_asks_for_it(
    action: str | None, served: bool
) -> None:
    compiled = compile_for(BOTH, PLAIN, host("secure", "secure.example.com", action, **CERTIFICATE), SECRET)
    assert clear_text(compiled) == {"secure.example.com": served, "*": True}


def test_on_such_a_port_an_rpc_is_judged_by_its_connection() -> None:
    rules = compile_rules(compile_for(BOTH, PLAIN, SECURE, SECRET).snapshot)
    assert rules is not None
    views = make_views(port(compile_for(BOTH, PLAIN, SECURE, SECRET)))
    refused = [
        (name, view.tls)
        for name in ("secure.example.com", "other.example.com")
        for view in (views.view_of(tls=True), views.view_of(tls=False))
        if isinstance(rules.judge(Entry(view.listener, view.tls, name, ())), Deny)
    ]
    assert refused == [("secure.example.com", False)]


@pytest.mark.parametrize(("action", "served"), [(None, True), ("Reject", False), ("Redirect", False), ("Route", True)])
def test_a_host_without_tls_is_served_in_clear_text_on_such_a_port_unless_it_refuses_that(
    action: str | None, served: bool
) -> None:
    compiled = compile_for(BOTH, host("plain", "*", action), SECURE, SECRET)
    assert clear_text(compiled) == {"secure.example.com": False, "*": served}


@pytest.mark.parametrize("both", [BOTH, LAYERS], ids=["HTTPS", "TLS, HTTP, TCP"])
def test_where_no_host_uses_tls_the_port_takes_clear_text_alone(both: KubeObject) -> None:
    assert port(compile_for(both, PLAIN)).transport is Transport.CLEAR


def test_where_no_host_wants_clear_text_the_port_takes_tls_alone() -> None:
    compiled = compile_for(BOTH, SECURE, SECRET)
    assert port(compiled).transport is Transport.TLS
    assert said(compiled) == []


def test_without_hosts_the_port_takes_both_and_tls_contexts_leave_it_to_tls() -> None:
    compiled = compile_for(BOTH)
    assert (port(compiled).transport, port(compiled).hosts, said(compiled)) == (Transport.BOTH, (), [])
    context = obj("TLSContext", "t", {"hosts": ["secure.example.com"], "secret": "cert"})
    assert port(compile_for(BOTH, context, SECRET)).transport is Transport.TLS


@pytest.mark.parametrize("model", ["SECURE", "INSECURE"])
def test_a_security_model_that_does_not_tell_clear_text_from_tls_leaves_the_port_to_tls(model: str) -> None:
    compiled = compile_for(listener("both", 8080, securityModel=model), PLAIN, SECURE, SECRET)
    assert port(compiled).transport is Transport.TLS
    (error,) = said(compiled, Severity.ERROR)
    assert f"not served by Listener both.shop: its securityModel is {model}, not XFP" in error


AUTHORITIES = raw_secret({"data": {"ca.crt": base64.b64encode(key_pair("ca")[0]).decode()}}, "authorities")
MUTUAL = {"cert_required": True, "ca_secret": "authorities"}


@pytest.mark.parametrize(("action", "served"), [(None, False), ("Redirect", False), ("Route", True)])
def test_a_host_that_requires_client_certificates_is_not_served_in_clear_text_by_a_proxys_word(
    action: str | None, served: bool
) -> None:
    asking = host("secure", "secure.example.com", action, tls=MUTUAL, **CERTIFICATE)
    trusting = listener("both", 8080, l7Depth=1)
    compiled = compile_for(
        trusting, PLAIN, asking, host("usual", "usual.example.com", **CERTIFICATE), AUTHORITIES, SECRET
    )
    assert port(compiled).transport is Transport.BOTH
    assert said(compiled, Severity.ERROR) == []
    rules = compile_rules(compiled.snapshot)
    assert rules is not None
    views = make_views(port(compiled))

    def is_served(name: str, tls: bool, proto: str) -> bool:
        view = views.view_of(tls=tls)
        return not isinstance(rules.judge(Entry(view.listener, tls, name, (("x-forwarded-proto", proto),))), Deny)

    assert is_served("secure.example.com", False, "https") is served
    assert is_served("secure.example.com", False, "http") is served
    assert is_served("secure.example.com", True, "https")
    assert is_served("usual.example.com", False, "https"), (
        "a trusted proxy's word counts where no certificate is asked for"
    )
    assert not is_served("usual.example.com", False, "http")


def test_of_two_hosts_of_a_name_the_one_that_requires_certificates_decides() -> None:
    asking = host("a", "secure.example.com", tls=MUTUAL, **CERTIFICATE)
    compiled = compile_for(BOTH, PLAIN, asking, host("b", "secure.example.com", "Route"), AUTHORITIES, SECRET)
    (policy,) = [one for one in port(compiled).hosts if one.host is not None]
    assert (policy.clear_text, policy.tls_alone) == (False, True)


def test_where_a_tls_context_requires_client_certificates_the_port_takes_tls_alone() -> None:
    context = obj("TLSContext", "t", {"hosts": ["secure.example.com"], "secret": "cert", **MUTUAL})
    compiled = compile_for(BOTH, PLAIN, context, AUTHORITIES, SECRET)
    assert port(compiled).transport is Transport.TLS
    assert any("TLSContext t.shop requires client certificates" in text for text in said(compiled, Severity.ERROR))


def test_while_a_host_that_may_use_tls_is_left_out_the_port_stays_closed() -> None:
    broken = host("secure", "secure.example.com", tlsSecret={"name": "gone"})
    assert compile_for(BOTH, PLAIN, broken).snapshot.listeners == ()


@pytest.mark.parametrize(
    ("fields", "transport"),
    [
        ({"protocol": "HTTPPROXY"}, Transport.CLEAR),
        ({"protocolStack": ["PROXY", "HTTP", "TCP"]}, Transport.CLEAR),
        ({"protocol": "HTTPSPROXY"}, Transport.BOTH),
        ({"protocolStack": ["TLS", "PROXY", "HTTP", "TCP"]}, Transport.BOTH),
    ],
)
def test_proxy_headers_are_required_by_the_ports_that_ask_for_them(
    fields: dict[str, object], transport: Transport
) -> None:
    found = port(compile_for(listener("proxied", 8080, **fields)))
    assert (found.proxy_protocol, found.transport) == (True, transport)
    assert not port(compile_for(BOTH)).proxy_protocol


@pytest.mark.parametrize("fields", [{"protocol": "HTTPSPROXY"}, {"protocolStack": ["PROXY", "HTTP", "TCP"]}])
def test_engines_on_grpc_leave_out_a_port_with_proxy_headers(fields: dict[str, object]) -> None:
    compiled = compile_objects(listener("proxied", 8080, **fields))
    assert compiled.snapshot.listeners == ()
    assert "the generic-handler engine cannot read PROXY headers" in said(compiled, Severity.ERROR)[0]
