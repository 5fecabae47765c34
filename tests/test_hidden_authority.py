"""What an engine that does not know the client's :authority makes of Listeners is told where they are written."""

from __future__ import annotations

import pytest

from grpcgw.config.compile import Compiled, CompileOptions
from grpcgw.config.objects import KubeObject, Severity
from tests.compiling import compile_objects, obj, said

HIDDEN = CompileOptions(authority_hidden_by="generic-handler")


def listener(protocol: str = "HTTP", model: str = "XFP") -> KubeObject:
    spec = {"port": 8080, "protocol": protocol, "securityModel": model}
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
    ("protocol", "model", "told"),
    [
        ("HTTP", "XFP", True),
        ("HTTPS", "XFP", False),
        ("HTTP", "SECURE", False),
        ("HTTPS", "INSECURE", True),
    ],
)
def test_one_host_that_refuses_clear_text_refuses_it_for_all_and_a_notice_says_so(
    protocol: str, model: str, told: bool
) -> None:
    hosts = host("a", "a.example.com", "Reject"), host("every", "*", "Route")
    notices = [text for text in said(compiled(listener(protocol, model), *hosts)) if "Listener web.shop" in text]
    assert ["refused for all names" in text for text in notices] == [True] * told
    both_refuse = compiled(listener(protocol, model), hosts[0], host("every", "*", "Reject"))
    assert [text for text in said(both_refuse) if "Listener web.shop" in text] == []
