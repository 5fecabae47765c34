"""Which Secrets an object names: told without compiling it, and the very ones that its compilation looks for."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpcgw.ambassador.compile.generations import Generations
from grpcgw.ambassador.compile.hosts import compile_hosts
from grpcgw.ambassador.compile.secrets import Secrets
from grpcgw.ambassador.compile.tls import compile_tls_contexts
from grpcgw.ambassador.spec.secret_names import find_named_secrets
from grpcgw.model.objects import KubeObject, ObjectKey
from tests.compiling import obj


class Asked(dict[ObjectKey, KubeObject]):
    """No Secrets at all, and the keys of those that were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.keys_asked: set[ObjectKey] = set()

    def get(self, key: ObjectKey, default: object = None) -> None:  # type: ignore[override]
        self.keys_asked.add(key)


def look_up(named_by: KubeObject) -> set[ObjectKey]:
    """What the compiler looks for."""
    asked, generations = Asked(), Generations({})
    secrets = Secrets(asked, generations, None)
    if named_by.key.kind == "TLSContext":
        compile_tls_contexts([named_by], secrets, generations)
    else:
        compile_hosts([named_by], {}, secrets, generations)
    return asked.keys_asked


NAMES = st.sampled_from(["ca", "ca.vault", "my.ca.vault", "", None])
FLAGS = st.sampled_from([True, False, None])
TLS = st.fixed_dictionaries(
    {}, optional={"ca_secret": NAMES, "crl_secret": NAMES, "cert_required": FLAGS, "min_tls_version": st.just("v1.3")}
)
CONTEXTS = st.builds(
    lambda tls, more: obj("TLSContext", "tls", {**tls, **more}),
    TLS,
    st.fixed_dictionaries(
        {}, optional={"secret": NAMES, "secret_namespacing": FLAGS, "hosts": st.just(["*"]), "wrong": st.just(1)}
    ),
)
CAMEL_CASE = {
    "ca_secret": "caSecret",
    "crl_secret": "crlSecret",
    "cert_required": "certRequired",
    "min_tls_version": "minTLSVersion",
}
HOSTS = st.builds(
    lambda more: obj("Host", "host", {"hostname": "*", **more}),
    st.fixed_dictionaries(
        {},
        optional={
            "tls": TLS | TLS.map(lambda tls: {CAMEL_CASE[name]: value for name, value in tls.items()}),
            "tlsSecret": st.sampled_from([{"name": "cert"}, {"name": "c.ert", "namespace": "vault"}, None]),
            "tlsContext": st.just({"name": "tls"}),
        },
    ),
)


@settings(max_examples=200, deadline=None)
@given(CONTEXTS | HOSTS)
def test_the_secrets_an_object_names_are_those_its_compilation_looks_for(named_by: KubeObject) -> None:
    assert (find_named_secrets(named_by) or frozenset()) == look_up(named_by)


def key(name: str, namespace: str = "shop") -> ObjectKey:
    return ObjectKey("Secret", namespace, name)


@pytest.mark.parametrize(
    ("kind", "spec", "named"),
    [
        ("TLSContext", {"secret": "cert", "ca_secret": "ca.vault"}, {key("cert"), key("ca", "vault")}),
        ("TLSContext", {"ca_secret": "my.ca", "secret_namespacing": False}, {key("my.ca")}),
        ("TLSContext", {"hosts": ["*"]}, set()),
        ("TLSContext", {"crl_secret": "crl.vault"}, {key("crl", "vault")}),
        ("TLSContext", {"v3CRLSecret": "crl"}, {key("crl")}),
        ("Host", {"tls": {"crl_secret": "crl"}}, {key("crl")}),
        ("Host", {"tlsSecret": {"name": "a.b"}, "tls": {"ca_secret": "ca"}}, {key("a.b"), key("ca")}),
        ("Host", {"tlsSecret": {"name": "cert", "namespace": "vault"}}, {key("cert", "vault")}),
        ("Host", {"tls": {"caSecret": "ca.vault"}}, {key("ca", "vault")}),
        ("Host", {"tlsContext": {"name": "tls"}}, set()),
        ("Filter", {"APIKey": {"keys": [{"secretName": "a.b"}, {"secretName": "c"}]}}, {key("a.b"), key("c")}),
        ("Filter", {"apikey": {"keys": [{"secretName": "a", "secretNamespace": "vault"}]}}, {key("a", "vault")}),
        ("Filter", {"JWT": {"jwksSecret": {"name": "a", "namespace": "vault"}}}, {key("a", "vault")}),
        ("Filter", {"jwt": {"jwksSecret": {"name": "a"}}}, {key("a")}),
        ("Filter", {"JWT": {"jwksURI": "https://issuer.example/keys"}}, set()),
        ("Filter", {"OAuth2": {}}, set()),
    ],
)
def test_names_of_secrets_in_every_spelling(kind: str, spec: dict[str, object], named: set[ObjectKey]) -> None:
    assert find_named_secrets(obj(kind, "x", spec)) == named


@pytest.mark.parametrize("spec", [{"ca_secret": 1}, {"secret": ["cert"]}, "text"])
def test_what_an_object_that_cannot_be_read_names_is_not_known(spec: object) -> None:
    assert find_named_secrets(obj("TLSContext", "x", spec)) is None


def test_a_filter_that_cannot_be_read_may_name_any_secret() -> None:
    assert find_named_secrets(obj("Filter", "x", {"APIKey": {}})) is None
