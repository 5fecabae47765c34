"""What an engine that does not know the client's :authority makes of Listeners is told where they are written."""

from __future__ import annotations

import pytest

from grpcgw.model.objects import KubeObject, Severity
from grpcgw.model.route_source import Compiled, CompileOptions
from tests.compiling import compile_objects, obj, said

HIDDEN = CompileOptions(authority_hidden_by="generic-handler", first_bytes_hidden_by="generic-handler")


def listener(layer: str = "HTTP", model: str = "XFP") -> KubeObject:
    """`layer`: the first, HTTP or TLS."""
    stack = ["TLS", "HTTP", "TCP"] if layer == "TLS" else ["HTTP", "TCP"]
    spec = {"port": 8080, "protocolStack": stack, "securityModel": model}
    return obj("Listener", "web", spec, api="getambassador.io/v3alpha1")


def host(name: str, hostname: str, insecure: str) -> KubeObject:
    return obj("Host", name, {"hostname": hostname, "requestPolicy": {"insecure": {"action": insecure}}})


def compiled(*objects: KubeObject, options: CompileOptions = HIDDEN) -> Compiled:
    return compile_objects(*objects, options=options)


def test_a_listener_of_which_no_host_is_for_every_name_serves_nothing_and_says_so() -> None:
    objects = listener(), host("a", "a.example.com", "Route"), host("b", "*.example.org", "Route")
    (error,) = said(compiled(*objects), Severity.ERROR)
    assert "Listener web.shop: serves no call: the generic-handler engine does not know" in error
    assert len(compiled(*objects).snapshot.listeners or ()) == 1, "the port is opened all the same"
    assert said(compiled(*objects, options=CompileOptions()), Severity.ERROR) == []


def test_a_listener_with_a_host_for_every_name_or_without_hosts_serves() -> None:
    hosts = host("a", "a.example.com", "Route"), host("every", "*", "Route")
    assert [text for text in said(compiled(listener(), *hosts)) if "Listener" in text] == []
    assert said(compiled(listener())) == []


@pytest.mark.parametrize(
    ("layer", "model", "told"),
    [
        ("HTTP", "XFP", True),
        ("TLS", "XFP", False),
        ("HTTP", "SECURE", False),
        ("TLS", "INSECURE", True),
    ],
)
def test_one_host_that_refuses_clear_text_refuses_it_for_all_and_a_notice_says_so(
    layer: str, model: str, told: bool
) -> None:
    hosts = host("a", "a.example.com", "Reject"), host("every", "*", "Route")
    notices = [text for text in said(compiled(listener(layer, model), *hosts)) if "Listener web.shop" in text]
    assert ["refused for all names" in text for text in notices] == [True] * told
    both_refuse = compiled(listener(layer, model), hosts[0], host("every", "*", "Reject"))
    assert [text for text in said(both_refuse) if "Listener web.shop" in text] == []


SELECTING = {"hostname": "a.example.com", "mappingSelector": {"matchLabels": {"exposed": "yes"}}}


@pytest.mark.parametrize(
    "told",
    [
        host("a", "a.example.com", "Refuse"),
        obj("Host", "a", SELECTING),
        obj("TLSContext", "a", {"hosts": ["a"], "x": 1}),
    ],
    ids=["Host left out", "Host that selects", "TLSContext left out"],
)
def test_the_ports_of_the_command_line_serve_nothing_and_who_is_the_cause_says_so(told: KubeObject) -> None:
    errors = said(compiled(told), Severity.ERROR)
    assert any(f"{told.key}: no call is served: the generic-handler engine" in error for error in errors)
    assert not any("no call is served" in error for error in said(compiled(told, listener())))


def test_a_listener_whose_hosts_take_different_mappings_serves_nothing_and_says_so() -> None:
    objects = listener(), obj("Host", "a", SELECTING), host("every", "*", "Route")
    (error,) = said(compiled(*objects), Severity.ERROR)
    assert "Listener web.shop: serves no call: the generic-handler engine" in error
    assert "mappingSelector" in error


def test_a_listener_with_a_host_that_is_left_out_serves_nothing_and_says_so() -> None:
    objects = listener(), host("a", "a.example.com", "Refuse"), host("every", "*", "Route")
    errors = said(compiled(*objects), Severity.ERROR)
    assert any("Listener web.shop: serves no call: the generic-handler engine" in error for error in errors)
