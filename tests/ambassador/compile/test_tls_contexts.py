"""TLSContexts, Hosts and Listeners: certificates, client certificates, clear text, ports."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from grpcgw.ambassador.spec.certificate_paths import find_named_files
from grpcgw.model.certificate_objects import list_paths, make_object
from grpcgw.model.host_policy import HostPolicy
from grpcgw.model.listener import Listener, SecurityModel, Transport
from grpcgw.model.match import HostKind, HostMatch
from grpcgw.model.objects import KubeObject, Severity
from grpcgw.model.route_source import Compiled, CompileOptions
from grpcgw.model.tls_parameters import TlsParameters, TlsVersion
from grpcgw.routing.host_match import HostTable
from tests.compiling import compile_objects, mapping, obj, only_cluster, said
from tests.dataplane.authorities import Authority
from tests.pems import NOW, key_pair, raw_secret, secret


def tls_context(**fields: object) -> KubeObject:
    return obj("TLSContext", "tls", {"hosts": ["*"], "secret": "cert", **fields})


def host(**fields: object) -> KubeObject:
    return obj("Host", "host", {"hostname": "example.com", "tlsSecret": {"name": "cert"}, **fields})


def test_a_tls_context_and_a_host_serve_the_certificate_of_their_secret() -> None:
    chain, private = key_pair("a")
    compiled = compile_objects(tls_context(), host(), secret(chain, private))
    assert [
        (one.name, one.hosts, one.certificate_chain, one.private_key) for one in compiled.snapshot.certificates
    ] == [
        ("Host host.shop", ("example.com",), chain, private),
        ("TLSContext tls.shop", ("*",), chain, private),
    ]
    assert compiled.problems == ()


def test_string_data_is_read_as_well() -> None:
    chain, private = key_pair("a")
    entries = {"tls.crt": chain.decode(), "tls.key": private.decode()}
    assert compile_objects(host(), raw_secret({"stringData": entries})).snapshot.certificates[0].private_key == private


@pytest.mark.parametrize(
    ("fields", "name", "namespace"),
    [
        ({"secret": "cert"}, "cert", "shop"),
        ({"secret": "cert.vault"}, "cert", "vault"),
        ({"secret": "my.cert", "secret_namespacing": False}, "my.cert", "shop"),
    ],
)
def test_the_secret_of_a_tls_context(fields: dict[str, object], name: str, namespace: str) -> None:
    found = secret(*key_pair("a"), name=name, namespace=namespace)
    compiled = compile_objects(tls_context(**fields), found)
    assert compiled.problems == ()
    assert len(compiled.snapshot.certificates) == 1


def test_a_host_can_have_its_secret_elsewhere_or_from_a_tls_context() -> None:
    elsewhere = secret(*key_pair("a"), namespace="vault")
    there = compile_objects(host(tlsSecret={"name": "cert", "namespace": "vault"}), elsewhere)
    assert len(there.snapshot.certificates) == 1
    context = tls_context(secret="cert.vault", hosts=[])
    compiled = compile_objects(host(tlsSecret=None, tlsContext={"name": "tls"}), context, elsewhere)
    assert [one.name for one in compiled.snapshot.certificates] == ["Host host.shop"]


def test_a_tls_context_without_hosts_serves_nothing_by_itself() -> None:
    assert compile_objects(tls_context(hosts=None), secret(*key_pair("a"))).snapshot.certificates == ()


CHAIN, PRIVATE = key_pair("a")
CA, _ = key_pair("ca")
AUTHORITIES = raw_secret({"stringData": {"ca.crt": CA.decode()}}, "ca")
MUTUAL = {"ca_secret": "ca", "cert_required": True}


def served(compiled: Compiled) -> dict[str, bytes]:
    return {certificate.name: certificate.client_ca for certificate in compiled.snapshot.certificates}


BROKEN_SECRETS = {
    "does not exist": None,
    "it has no tls.crt": raw_secret({"data": {}}),
    "it has no tls.key": raw_secret({"stringData": {"tls.crt": CHAIN.decode()}}),
    "data of tls.crt is no base64": raw_secret({"data": {"tls.crt": "%", "tls.key": ""}}),
    "tls.crt is no PEM certificate": secret(b"text", PRIVATE),
    "tls.key is no PEM private key": secret(CHAIN, b"text"),
    "tls.key has a type that grpc cannot serve": secret(*key_pair("k", curve=ec.SECP256K1)),
    "tls.key does not belong to the certificate in tls.crt": secret(CHAIN, key_pair("b")[1]),
    "tls.key is encrypted": secret(
        CHAIN,
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"password")
        ),
    ),
}


@pytest.mark.parametrize("reason", BROKEN_SECRETS)
def test_a_secret_that_cannot_be_used_is_an_error_of_who_names_it(reason: str) -> None:
    broken = BROKEN_SECRETS[reason]
    compiled = compile_objects(host(), *([broken] if broken else []))
    (error,) = said(compiled)
    assert compiled.snapshot.certificates == ()
    assert error.startswith("host.yaml: error: Host host.shop spec.tlsSecret.name: Secret cert.shop ")
    assert reason in error
    assert ("secret.yaml" in error) == (broken is not None)


@pytest.mark.parametrize("reason", BROKEN_SECRETS)
def test_the_last_good_secret_keeps_serving(reason: str) -> None:
    broken = BROKEN_SECRETS[reason]
    compiled = compile_objects(host(), secret(CHAIN, PRIVATE))
    expected = compiled.snapshot
    for _ in range(2):
        compiled = compile_objects(host(), *([broken] if broken else []), last=compiled)
        assert compiled.snapshot == expected
        (error,) = said(compiled, Severity.ERROR)
        assert error.endswith("; the last good version keeps serving")


def test_a_new_certificate_is_a_new_version() -> None:
    first = compile_objects(host(), secret(*key_pair("a")))
    second = compile_objects(host(), secret(*key_pair("b")), last=first)
    assert second.snapshot.certificates[0].certificate_chain == key_pair("b")[0]
    assert second.snapshot.version != first.snapshot.version


def test_an_expired_certificate_serves_with_a_notice() -> None:
    expired = secret(*key_pair("old", NOW))
    compiled = compile_objects(host(), expired, options=CompileOptions(now=NOW))
    assert len(compiled.snapshot.certificates) == 1
    assert "the certificate in Secret cert.shop expired on 2030-01-01; renew it" in said(compiled, Severity.NOTICE)[0]
    assert compile_objects(host(), expired, options=CompileOptions(now=NOW - timedelta(1))).problems == ()


def test_an_expired_certificate_does_not_take_the_place_of_one_that_has_not_expired() -> None:
    fresh, options = key_pair("fresh", NOW + timedelta(3)), CompileOptions(now=NOW)
    compiled = compile_objects(host(), secret(*fresh), options=options)
    for _ in range(2):
        compiled = compile_objects(host(), secret(*key_pair("old", NOW)), last=compiled, options=options)
        assert compiled.snapshot.certificates[0].certificate_chain == fresh[0]
        assert "the certificate in Secret cert.shop expired on 2030-01-01; " in said(compiled, Severity.ERROR)[0]
    later = CompileOptions(now=NOW + timedelta(4))
    compiled = compile_objects(host(), secret(*key_pair("old", NOW)), last=compiled, options=later)
    assert compiled.snapshot.certificates[0].certificate_chain == key_pair("old", NOW)[0], "now neither is better"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"alpn_protocols": "http/1.1"}, "should contain h2"),
        ({"secret": None}, "spec.secret: is required with hosts"),
    ],
)
def test_a_tls_context_that_cannot_be_kept_is_left_out(fields: dict[str, object], reason: str) -> None:
    compiled = compile_objects(tls_context(**fields), secret(*key_pair("a")))
    assert compiled.snapshot.certificates == ()
    assert any(reason in error for error in said(compiled, Severity.ERROR))


def test_a_host_that_names_an_unknown_tls_context_is_left_out() -> None:
    compiled = compile_objects(host(tlsContext={"name": "nobody"}), secret(*key_pair("a")))
    assert compiled.snapshot.certificates == ()
    assert "TLSContext nobody is unknown or left out" in said(compiled)[0]


def test_no_private_key_is_in_anything_printed() -> None:
    compiled = compile_objects(host(), secret(CHAIN, b"-----BEGIN PRIVATE KEY-----\nhidden"))
    good = compile_objects(host(), secret(CHAIN, PRIVATE))
    assert "hidden" not in repr(compiled)
    assert PRIVATE.decode().splitlines()[1] not in repr(good)


# Certificates in files


IN_FILES: dict[str, object] = {"cert_chain_file": "/tls/tls.crt", "private_key_file": "/tls/tls.key"}
AUTHORITIES_FILE = {"cacert_chain_file": "/ca/ca.crt"}


def files(**contents: bytes | str) -> list[KubeObject]:
    """What a source makes of files: their content, or as text why there is none; `crt` and `key`, or `ca`."""
    paths = {"crt": "/tls/tls.crt", "key": "/tls/tls.key", "ca": "/ca/ca.crt"}
    readable = {paths[name]: found for name, found in contents.items() if isinstance(found, bytes)}
    unreadable = {paths[name]: found for name, found in contents.items() if isinstance(found, str)}
    user = obj("TLSContext", "user", {**IN_FILES, **AUTHORITIES_FILE})
    wanted = [key for key in find_named_files(user) or () if {*readable, *unreadable}.issuperset(list_paths(key))]
    return [make_object(key, readable, unreadable) for key in wanted]


USERS: dict[str, Callable[..., KubeObject]] = {
    "TLSContext": lambda **fields: tls_context(secret=None, **fields),
    "Host": lambda **fields: host(tlsSecret=None, tls=fields),
}


@pytest.mark.parametrize("kind", USERS)
def test_a_certificate_in_files_serves(kind: str) -> None:
    compiled = compile_objects(USERS[kind](**IN_FILES), *files(crt=CHAIN, key=PRIVATE))
    assert compiled.problems == ()
    (one,) = compiled.snapshot.certificates
    assert (one.certificate_chain, one.private_key, one.client_ca) == (CHAIN, PRIVATE, b"")


def test_a_host_serves_the_certificate_in_files_of_its_tls_context() -> None:
    context = tls_context(hosts=None, secret=None, **IN_FILES)
    compiled = compile_objects(
        host(tlsSecret=None, tlsContext={"name": "tls"}), context, *files(crt=CHAIN, key=PRIVATE)
    )
    assert compiled.problems == ()
    assert served(compiled) == {"Host host.shop": b""}


def test_a_host_takes_the_names_of_its_fields_in_both_spellings() -> None:
    spelled = {"certChainFile": "/tls/tls.crt", "privateKeyFile": "/tls/tls.key"}
    compiled = compile_objects(host(tlsSecret=None, tls=spelled), *files(crt=CHAIN, key=PRIVATE))
    assert served(compiled) == {"Host host.shop": b""}


EXCLUDED = {
    "secret too": ({**IN_FILES, "secret": "cert"}, "secret and cert_chain_file exclude each other; leave one out"),
    "no key": ({"cert_chain_file": "/tls/tls.crt"}, "cert_chain_file and private_key_file are used together; set both"),
    "no chain": ({"private_key_file": "/tls/tls.key"}, "cert_chain_file and private_key_file are used together"),
    "relative": ({**IN_FILES, "cert_chain_file": "tls.crt"}, "cert_chain_file: 'tls.crt' should be the absolute"),
    "unprintable": (
        {**IN_FILES, "private_key_file": "/a\nb"},
        "private_key_file: '/a\\nb' should be the absolute",
    ),
    "NUL": ({**IN_FILES, "cert_chain_file": "/a\0b"}, "cert_chain_file: '/a\\x00b' should be the absolute"),
    "relative CA": (
        {**IN_FILES, "cacert_chain_file": "../ca"},
        "cacert_chain_file: '../ca' should be the absolute",
    ),
}


@pytest.mark.parametrize("kind", USERS)
@pytest.mark.parametrize("case", EXCLUDED)
def test_files_that_cannot_be_meant_are_errors(case: str, kind: str) -> None:
    fields, reason = EXCLUDED[case]
    if "secret" in fields:
        user = tls_context(**fields) if kind == "TLSContext" else host(tls=IN_FILES)
        reason = reason if kind == "TLSContext" else "tlsSecret and the cert_chain_file of tls exclude each other"
    else:
        user = USERS[kind](**fields)
    compiled = compile_objects(user, secret(CHAIN, PRIVATE), *files(crt=CHAIN, key=PRIVATE, ca=CHAIN))
    assert compiled.snapshot.certificates == ()
    assert any(reason in error for error in said(compiled, Severity.ERROR)), said(compiled)


@pytest.mark.parametrize("fields", [{}, {"cert_chain_file": "", "private_key_file": ""}])
def test_hosts_need_a_certificate_from_somewhere(fields: dict[str, object]) -> None:
    compiled = compile_objects(tls_context(secret=None, **fields))
    assert "spec.secret: is required with hosts: name the Secret with the certificate, or set" in said(compiled)[0]


BROKEN_FILES: dict[str, list[KubeObject]] = {
    "/tls/tls.crt does not exist": [],
    "/tls/tls.crt cannot be read: No such file; put a PEM file there that the gateway may read": files(
        crt="No such file", key=PRIVATE
    ),
    "/tls/tls.key cannot be read: No such file; put a PEM file there": files(crt=CHAIN, key="No such file"),
    "/tls/tls.crt is no PEM certificate": files(crt=PRIVATE, key=PRIVATE),
    "/tls/tls.key is no PEM private key": files(crt=CHAIN, key=b"-----BEGIN hunter2"),
    "/tls/tls.key does not belong to the certificate in /tls/tls.crt": files(crt=CHAIN, key=key_pair("b")[1]),
}


@pytest.mark.parametrize("kind", USERS)
@pytest.mark.parametrize("reason", BROKEN_FILES)
def test_files_that_cannot_be_used_are_an_error_of_who_names_them(reason: str, kind: str) -> None:
    compiled = compile_objects(USERS[kind](**IN_FILES), *BROKEN_FILES[reason])
    assert compiled.snapshot.certificates == ()
    (error,) = said(compiled)
    assert f"cert_chain_file: {reason}" in error
    assert error.startswith(("tls.yaml: error: TLSContext tls.shop", "host.yaml: error: Host host.shop"))
    assert "hunter2" not in repr(compiled)


@pytest.mark.parametrize("kind", USERS)
@pytest.mark.parametrize("reason", BROKEN_FILES)
def test_the_last_good_files_keep_serving(reason: str, kind: str) -> None:
    user = USERS[kind](**IN_FILES)
    compiled = compile_objects(user, *files(crt=CHAIN, key=PRIVATE))
    expected = compiled.snapshot
    for _ in range(2):
        compiled = compile_objects(user, *BROKEN_FILES[reason], last=compiled)
        assert compiled.snapshot == expected
        (error,) = said(compiled, Severity.ERROR)
        assert error.endswith("; the last good version keeps serving")


def test_an_expired_file_does_not_take_the_place_of_one_that_has_not_expired() -> None:
    user, options = tls_context(secret=None, **IN_FILES), CompileOptions(now=NOW)
    (fresh, fresh_key), (old, old_key) = key_pair("fresh", NOW + timedelta(3)), key_pair("old", NOW)
    compiled = compile_objects(user, *files(crt=old, key=old_key), options=options)
    assert "the certificate in /tls/tls.crt expired on 2030-01-01; renew it" in said(compiled, Severity.NOTICE)[0]
    compiled = compile_objects(user, *files(crt=fresh, key=fresh_key), options=options)
    compiled = compile_objects(user, *files(crt=old, key=old_key), last=compiled, options=options)
    assert compiled.snapshot.certificates[0].certificate_chain == fresh
    assert "the certificate in /tls/tls.crt expired on 2030-01-01; the last" in said(compiled, Severity.ERROR)[0]


def test_one_file_can_hold_chain_and_key_and_only_certificates_are_shown_of_it() -> None:
    user = tls_context(secret=None, cert_chain_file="/a.pem", private_key_file="/a.pem")
    (key,) = find_named_files(user) or ()
    whole = make_object(key, {"/a.pem": b"a comment\n" + PRIVATE + CHAIN + CA}, {})
    compiled = compile_objects(user, whole)
    (one,) = compiled.snapshot.certificates
    assert one.certificate_chain == CHAIN + CA
    assert PRIVATE.decode().splitlines()[1] not in repr(compiled)
    again = compile_objects(user, make_object(key, {"/a.pem": PRIVATE + CHAIN + CA}, {}))
    assert again.snapshot.version == compiled.snapshot.version, "what stands beside does not matter"


@pytest.mark.parametrize("kind", USERS)
def test_authorities_in_a_file_check_the_certificates_of_clients(kind: str) -> None:
    fields = {**IN_FILES, **AUTHORITIES_FILE, "cert_required": True}
    compiled = compile_objects(USERS[kind](**fields), *files(crt=CHAIN, key=PRIVATE), *files(ca=CA))
    assert compiled.problems == ()
    assert list(served(compiled).values()) == [CA]


def test_authorities_in_a_file_go_with_a_certificate_in_a_secret() -> None:
    context = tls_context(cert_required=True, **AUTHORITIES_FILE)
    assert served(compile_objects(context, secret(CHAIN, PRIVATE), *files(ca=CA))) == {"TLSContext tls.shop": CA}


def test_the_secret_of_authorities_goes_before_their_file_and_a_notice_says_so() -> None:
    other, _ = key_pair("other")
    context = tls_context(**MUTUAL, **AUTHORITIES_FILE)
    compiled = compile_objects(context, secret(CHAIN, PRIVATE), AUTHORITIES, *files(ca=other))
    assert served(compiled) == {"TLSContext tls.shop": CA}
    assert "spec.cacert_chain_file: has no effect beside ca_secret" in said(compiled, Severity.NOTICE)[0]


def test_optional_client_certificates_by_a_file_are_a_notice_too() -> None:
    compiled = compile_objects(tls_context(**AUTHORITIES_FILE), secret(CHAIN, PRIVATE), *files(ca=CA))
    assert "spec.cacert_chain_file: clients may show a certificate or none" in said(compiled, Severity.NOTICE)[0]
    assert said(compiled, Severity.ERROR) == []


@pytest.mark.parametrize("broken", [files(ca=b"-----BEGIN"), files(ca="it is no regular file"), []])
def test_authorities_in_a_file_keep_their_last_good_version(broken: list[KubeObject]) -> None:
    context = tls_context(cert_required=True, **AUTHORITIES_FILE)
    alone = compile_objects(context, secret(CHAIN, PRIVATE), *broken)
    assert alone.snapshot.certificates == ()
    before = compile_objects(context, secret(CHAIN, PRIVATE), *files(ca=CA))
    after = compile_objects(context, secret(CHAIN, PRIVATE), *broken, last=before)
    assert after.snapshot == before.snapshot
    assert "spec.cacert_chain_file: /ca/ca.crt " in said(after)[0]


def test_files_say_how_pods_are_spoken_to() -> None:
    context = tls_context(hosts=None, secret=None, **IN_FILES, **AUTHORITIES_FILE)
    compiled = compile_objects(context, mapping(tls="tls"), *files(crt=CHAIN, key=PRIVATE), *files(ca=CA))
    tls = only_cluster(compiled).connection.tls
    assert compiled.problems == ()
    assert tls is not None
    assert (tls.certificate_chain, tls.private_key, tls.ca) == (CHAIN, PRIVATE, CA)


# Settings of handshakes


def test_clients_must_show_a_certificate_of_the_authorities() -> None:
    compiled = compile_objects(tls_context(**MUTUAL), secret(CHAIN, PRIVATE), AUTHORITIES)
    assert served(compiled) == {"TLSContext tls.shop": CA}
    assert compiled.problems == ()


def test_authorities_are_read_from_tls_crt_too_as_ambassador_does() -> None:
    authorities = raw_secret({"stringData": {"tls.crt": CA.decode()}}, "ca")
    assert served(compile_objects(tls_context(**MUTUAL), secret(CHAIN, PRIVATE), authorities)) == {
        "TLSContext tls.shop": CA
    }


def test_authorities_keep_their_last_good_version() -> None:
    before = compile_objects(tls_context(**MUTUAL), secret(CHAIN, PRIVATE), AUTHORITIES)
    broken = raw_secret({"stringData": {"ca.crt": "text"}}, "ca")
    after = compile_objects(tls_context(**MUTUAL), secret(CHAIN, PRIVATE), broken, last=before)
    assert after.snapshot == before.snapshot
    assert "spec.ca_secret: Secret ca.shop (secret.yaml) cannot be used: ca.crt is no PEM" in said(after)[0]


def test_client_certificates_are_optional_unless_required_and_a_notice_says_which_engine_can() -> None:
    compiled = compile_objects(tls_context(ca_secret="ca"), secret(CHAIN, PRIVATE), AUTHORITIES)
    (one,) = compiled.snapshot.certificates
    assert (one.client_ca, one.client_optional, one.requires_client) == (CA, True, False)
    assert "only the http2 engine requests one" in said(compiled, Severity.NOTICE)[0]
    assert said(compiled, Severity.ERROR) == []
    optional = compile_objects(host(tls={"ca_secret": "ca"}), secret(CHAIN, PRIVATE), AUTHORITIES)
    assert [policy.clear_text for policy in optional.snapshot.hosts] == [True]


def test_authorities_alone_are_for_pods_and_no_error() -> None:
    assert compile_objects(tls_context(hosts=None, secret=None, ca_secret="ca"), AUTHORITIES).problems == ()


CANNOT = {
    "cert_required alone": ({"cert_required": True}, "ca_secret: is required with cert_required"),
    "version": ({"min_tls_version": "1.2"}, "min_tls_version: should be 'v1.0', 'v1.1', 'v1.2' or 'v1.3'"),
    "max v1.1": ({"max_tls_version": "v1.1"}, "max_tls_version: HTTP/2 needs TLS 1.2"),
    "max below min": (
        {"min_tls_version": "v1.3", "max_tls_version": "v1.2"},
        "max_tls_version: should not be below min_tls_version, which is v1.3",
    ),
    "unknown cipher": ({"cipher_suites": ["FOO"]}, "cipher_suites: 'FOO' is no cipher of TLS 1.2"),
    "many ciphers": ({"cipher_suites": ["HIGH"]}, "cipher_suites: 'HIGH' is no cipher of TLS 1.2"),
    "no encryption": ({"cipher_suites": ["NULL-SHA256"]}, "cipher_suites: 'NULL-SHA256' is no cipher"),
    "no authentication": ({"cipher_suites": ["ADH-AES128-SHA256"]}, "cipher_suites: 'ADH-AES128-SHA256' is no"),
    "OpenSSL's commands": ({"cipher_suites": ["AES128-SHA:@SECLEVEL=0"]}, "cipher_suites: 'AES128-SHA:@SECLEVEL=0' is"),
    "cipher of TLS 1.3": ({"cipher_suites": ["TLS_AES_128_GCM_SHA256"]}, "cipher_suites: 'TLS_AES_128_GCM_SHA256' is"),
    "empty cipher": ({"cipher_suites": [""]}, "cipher_suites: '' is no cipher"),
    "unknown curve": ({"ecdh_curves": ["X25519", "P-192"]}, "ecdh_curves: 'P-192' is unknown; known are X25519, P-256"),
    "missing revocations": ({**MUTUAL, "crl_secret": "gone"}, "crl_secret: Secret gone.shop does not exist"),
    "stored as v2": ({**MUTUAL, "v3CRLSecret": "gone"}, "v3CRLSecret: Secret gone.shop does not exist"),
    "no revocations": ({**MUTUAL, "crl_secret": "ca"}, "cannot be used: it has no crl.pem"),
    "broken revocations": ({**MUTUAL, "crl_secret": "broken"}, "cannot be used: crl.pem is no PEM revocation list"),
    "empty revocations": ({**MUTUAL, "crl_secret": "empty"}, "cannot be used: crl.pem is no PEM revocation list"),
    "revocations alone": ({"crl_secret": "crl"}, "crl_secret: has no meaning without the authorities"),
}
REVOKED = Authority().revoke()
SECRETS = (
    secret(CHAIN, PRIVATE),
    AUTHORITIES,
    raw_secret({"stringData": {"crl.pem": f"a comment\n{REVOKED.decode() * 2}"}}, "crl"),
    raw_secret({"stringData": {"crl.pem": REVOKED.decode().replace("MI", "**", 1)}}, "broken"),
    raw_secret({"stringData": {"crl.pem": ""}}, "empty"),
)


@pytest.mark.parametrize("case", CANNOT)
def test_what_no_engine_can_do_is_an_error_of_the_object(case: str) -> None:
    fields, reason = CANNOT[case]
    compiled = compile_objects(tls_context(**fields), *SECRETS)
    assert compiled.snapshot.certificates == ()
    assert any(reason in error for error in said(compiled, Severity.ERROR)), said(compiled)


@pytest.mark.parametrize("case", CANNOT)
def test_a_host_says_the_same_of_its_own_tls(case: str) -> None:
    fields, reason = CANNOT[case]
    compiled = compile_objects(host(tls=fields), *SECRETS)
    assert compiled.snapshot.certificates == ()
    assert any(reason in error and "spec.tls" in error for error in said(compiled, Severity.ERROR)), said(compiled)


SETTINGS: dict[str, tuple[dict[str, object], TlsParameters]] = {
    "nothing": ({}, TlsParameters()),
    "least": ({"min_tls_version": "v1.3"}, TlsParameters(TlsVersion.TLS_1_3)),
    "most": ({"max_tls_version": "v1.2"}, TlsParameters(max_version=TlsVersion.TLS_1_2)),
    "usual": ({"min_tls_version": "v1.2", "max_tls_version": "v1.3"}, TlsParameters()),
    "ciphers": (
        {"cipher_suites": ["[ECDHE-ECDSA-AES128-GCM-SHA256|ECDHE-ECDSA-CHACHA20-POLY1305]", "AES128-SHA"]},
        TlsParameters(ciphers=("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305", "AES128-SHA")),
    ),
    "curve": ({"ecdh_curves": ["P-256"]}, TlsParameters(curve="prime256v1")),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_versions_ciphers_and_curves_are_those_of_a_host_and_of_pods(case: str) -> None:
    fields, parameters = SETTINGS[case]
    for objects in ((tls_context(**fields),), (host(tls=fields),)):
        compiled = compile_objects(*objects, secret(CHAIN, PRIVATE))
        assert compiled.problems == ()
        assert [one.parameters for one in compiled.snapshot.certificates] == [parameters]
    tls = only_cluster(
        compile_objects(tls_context(**fields), mapping(tls="tls"), secret(CHAIN, PRIVATE))
    ).connection.tls
    assert tls is not None
    assert tls.parameters == parameters


def test_settings_are_part_of_the_version() -> None:
    versions = {compile_objects(tls_context(**fields), *SECRETS).snapshot.version for fields, _ in SETTINGS.values()}
    assert len(versions) == len(SETTINGS) - 1, "the usual is no setting"


@pytest.mark.parametrize("name", ["crl_secret", "v3CRLSecret"])
def test_revocation_lists_are_of_clients_and_of_pods(name: str) -> None:
    compiled = compile_objects(tls_context(**MUTUAL, **{name: "crl"}), mapping(tls="tls"), *SECRETS)
    assert compiled.problems == ()
    tls = only_cluster(compiled).connection.tls
    assert tls is not None
    assert [one.client_crl for one in compiled.snapshot.certificates] == [REVOKED * 2] == [tls.crl]


def test_of_several_curves_the_first_is_used_and_a_notice_says_so() -> None:
    compiled = compile_objects(tls_context(ecdh_curves=["X25519", "P-256"]), secret(CHAIN, PRIVATE))
    assert compiled.snapshot.certificates[0].parameters.curve == "X25519"
    assert (
        "spec.ecdh_curves: Python's ssl takes one curve: X25519 is offered alone, and peers without it are refused"
        in said(compiled)[0]
    )


BOTH = ("h2", "http/1.1")


@pytest.mark.parametrize(
    ("offered", "alpn"),
    [(None, BOTH), ("h2", ("h2",)), ("h2,http/1.1", BOTH), ("http/1.1, h2", BOTH)],
)
def test_h2_is_offered_first_and_http_1_1_unless_h2_is_named_alone(offered: str | None, alpn: tuple[str, ...]) -> None:
    compiled = compile_objects(tls_context(alpn_protocols=offered), secret(CHAIN, PRIVATE))
    assert compiled.problems == ()
    assert compiled.snapshot.certificates[0].alpn == alpn


def test_protocols_that_the_gateway_does_not_speak_are_a_notice() -> None:
    compiled = compile_objects(tls_context(alpn_protocols="h2,spdy/3,h3"), secret(CHAIN, PRIVATE))
    assert compiled.snapshot.certificates[0].alpn == ("h2",)
    assert "spec.alpn_protocols: spdy/3, h3 is not offered" in said(compiled, Severity.NOTICE)[0]


def test_protocols_without_h2_are_an_error() -> None:
    compiled = compile_objects(tls_context(alpn_protocols="http/1.1"), secret(CHAIN, PRIVATE))
    assert "'http/1.1' should contain h2" in said(compiled, Severity.ERROR)[0]


@pytest.mark.parametrize(
    ("chain", "place"),
    [pytest.param(CA + CHAIN, "2 of 2", id="two"), pytest.param(CA + key_pair("x")[0] + CHAIN, "3 of 3", id="three")],
)
def test_a_chain_in_the_wrong_order_is_called_so(chain: bytes, place: str) -> None:
    (error,) = said(compile_objects(tls_context(), secret(chain, PRIVATE)))
    assert f"tls.crt are in the wrong order: that of tls.key is number {place}; put it first" in error
    assert said(compile_objects(tls_context(), secret(CHAIN + CA, PRIVATE))) == []


def test_less_than_http2_needs_is_a_notice() -> None:
    compiled = compile_objects(tls_context(min_tls_version="v1.0"), secret(CHAIN, PRIVATE))
    assert "min_tls_version: has no effect: HTTP/2 needs TLS 1.2" in said(compiled, Severity.NOTICE)[0]


@pytest.mark.parametrize("tls", [MUTUAL, {"caSecret": "ca", "certRequired": True}])
def test_a_host_can_ask_for_client_certificates_itself(tls: dict[str, object]) -> None:
    compiled = compile_objects(host(tls=tls), secret(CHAIN, PRIVATE), AUTHORITIES)
    assert served(compiled) == {"Host host.shop": CA}
    assert compiled.problems == ()


def test_the_tls_context_of_a_host_asks_for_it_too() -> None:
    context = tls_context(hosts=None, secret=None, **MUTUAL)
    compiled = compile_objects(host(tlsContext={"name": "tls"}), context, secret(CHAIN, PRIVATE), AUTHORITIES)
    assert served(compiled) == {"Host host.shop": CA}


def implied(**fields: object) -> KubeObject:
    return obj("TLSContext", "host-context", {**MUTUAL, **fields})


@pytest.mark.parametrize("fields", [{}, {"hosts": ["example.com"], "secret": "cert"}], ids=["bare", "whole"])
def test_the_tls_context_that_is_named_after_a_host_asks_for_it_as_well(fields: dict[str, object]) -> None:
    compiled = compile_objects(host(), implied(**fields), secret(CHAIN, PRIVATE), AUTHORITIES)
    assert compiled.problems == ()
    assert set(served(compiled).values()) == {CA}


def test_while_the_tls_context_that_is_named_after_a_host_is_left_out_the_host_is_too() -> None:
    compiled = compile_objects(host(), implied(crl_secret="crl"), secret(CHAIN, PRIVATE), AUTHORITIES)
    assert compiled.snapshot.certificates == ()
    assert [policy.left_out for policy in compiled.snapshot.hosts] == ["Host host.shop"]


def test_what_a_host_says_itself_goes_before_the_tls_context_that_is_named_after_it() -> None:
    compiled = compile_objects(host(tls={"sni": "a"}), implied(), secret(CHAIN, PRIVATE), AUTHORITIES)
    assert served(compiled) == {"Host host.shop": b""}


def test_tls_and_a_tls_context_exclude_each_other() -> None:
    compiled = compile_objects(host(tls={}, tlsContext={"name": "tls"}), secret(CHAIN, PRIVATE))
    assert "tls and tlsContext exclude each other" in said(compiled)[0]


def test_the_certificates_of_one_port_may_ask_clients_for_different_things() -> None:
    compiled = compile_objects(tls_context(**MUTUAL), host(), secret(CHAIN, PRIVATE), AUTHORITIES)
    assert list(served(compiled).items()) == [("TLSContext tls.shop", CA), ("Host host.shop", b"")], "the strict first"
    assert compiled.problems == ()


# Clear text


def policy(hostname: str, action: str | None) -> KubeObject:
    insecure = {} if action is None else {"requestPolicy": {"insecure": {"action": action}}}
    return obj("Host", hostname.replace("*", "any"), {"hostname": hostname, **insecure})


@pytest.mark.parametrize(("action", "clear"), [(None, True), ("Route", True), ("Reject", False), ("Redirect", False)])
def test_whether_calls_in_clear_text_are_served(action: str | None, clear: bool) -> None:
    compiled = compile_objects(policy("greet", action))
    assert compiled.snapshot.hosts == (HostPolicy(HostMatch(HostKind.EXACT, "greet"), clear),)
    assert ("gRPC clients do not follow redirects" in "".join(said(compiled))) is (action == "Redirect")


def test_an_unknown_action_is_an_error() -> None:
    compiled = compile_objects(policy("greet", "Allow"))
    assert "spec.requestPolicy.insecure.action: should be 'Redirect', 'Reject' or 'Route'" in said(compiled)[0]


def test_the_most_exact_host_decides() -> None:
    compiled = compile_objects(
        policy("*", "Reject"),
        policy("*.example.com", "Route"),
        policy("a.example.com", "Reject"),
        policy("a.*", "Route"),
    )
    table = HostTable(compiled.snapshot.hosts)

    def is_clear(authority: str) -> bool:
        found = table.find(authority)
        assert found is not None
        return found.clear_text

    assert not is_clear("A.example.com:80")
    assert is_clear("b.example.com")
    assert is_clear("a.other")
    assert not is_clear("greet")
    assert HostTable(()).find("greet") is None


def test_of_two_hosts_of_one_name_the_stricter_counts() -> None:
    refusing = obj("Host", "z", {"requestPolicy": {"insecure": {"action": "Reject"}}})
    assert compile_objects(policy("*", None), refusing).snapshot.hosts == (HostPolicy(None, clear_text=False),)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"hostname": "a*b"}, "spec.hostname: 'a*b' may have one '*'"),
        ({"mappingSelector": {"matchExpressions": [{"key": "a"}]}}, "matchExpressions are not supported"),
        ({"mappingSelector": {"matchLabel": {}}}, "is an unknown field; did you mean matchLabels?"),
    ],
)
def test_a_host_that_cannot_be_is_left_out(fields: dict[str, object], reason: str) -> None:
    compiled = compile_objects(host(**fields), secret(CHAIN, PRIVATE))
    assert [policy.left_out for policy in compiled.snapshot.hosts] == ["Host host.shop"]
    assert compiled.snapshot.certificates == ()
    assert reason in said(compiled)[0]


# Listeners


def listener(name: str = "http", port: int = 8080, **fields: object) -> KubeObject:
    spec = {"port": port, "protocol": "HTTP", "securityModel": "XFP", **fields}
    return obj("Listener", name, {key: value for key, value in spec.items() if value is not None})


@pytest.mark.parametrize(
    ("fields", "transport"),
    [
        ({}, Transport.CLEAR),
        ({"protocol": "HTTPS"}, Transport.BOTH),
        ({"protocol": None, "protocolStack": ["HTTP", "TCP"]}, Transport.CLEAR),
        ({"protocol": None, "protocolStack": ["TLS", "HTTP", "TCP"]}, Transport.BOTH),
    ],
)
def test_a_listener_is_a_port(fields: dict[str, object], transport: Transport) -> None:
    compiled = compile_objects(listener(http2MaxConcurrentStreams=7, maxMessageBytes=8, l7Depth=2, **fields))
    limits = {"max_concurrent_streams": 7, "max_message_bytes": 8}
    assert compiled.snapshot.listeners == (
        Listener("Listener http.shop", 8080, transport, SecurityModel.XFP, trusted_hops=2, **limits),
    )
    assert said(compiled, Severity.ERROR) == []


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"port": 0}, "spec.port: should be greater"),
        ({"port": 65536}, "spec.port: should be less"),
        ({"securityModel": None}, "spec.securityModel: is required"),
        ({"protocol": None}, "exactly one of protocol and protocolStack"),
        ({"protocolStack": ["HTTP"]}, "exactly one of protocol and protocolStack"),
        ({"protocol": None, "protocolStack": ["PROXY", "TCP"]}, "PROXY, TCP cannot carry gRPC"),
        ({"protocol": None, "protocolStack": ["HTTP", "UDP"]}, "HTTP, UDP cannot carry gRPC"),
        ({"hostBinding": {"namespace": {"from": "NONE"}}}, "spec.hostBinding.namespace.from: should be 'SELF'"),
        ({"hostBinding": {"namespace": {"from": "SELECTOR"}}}, "spec.hostBinding.namespace.from: should be 'SELF'"),
        ({"maxMessageBytes": 0}, "spec.maxMessageBytes: should be greater"),
        ({"maxMessageBytes": "many"}, "spec.maxMessageBytes: should be"),
        ({"http2MaxConcurrentStreams": 0}, "spec.http2MaxConcurrentStreams: should be greater"),
    ],
)
def test_a_listener_that_cannot_be_is_left_out(fields: dict[str, object], reason: str) -> None:
    compiled = compile_objects(listener(**fields))
    assert compiled.snapshot.listeners == ()
    assert any(reason in error for error in said(compiled, Severity.ERROR)), said(compiled)


def test_a_port_is_listened_on_once() -> None:
    compiled = compile_objects(listener("a"), listener("b"), listener("c", 8443))
    assert [one.name for one in compiled.snapshot.listeners] == ["Listener a.shop", "Listener c.shop"]
    assert "port 8080 is taken by Listener a.shop" in said(compiled)[0]


def bound(name: str, namespace: str, **labels: str) -> KubeObject:
    spec = {"hostname": f"{name}.example.com", "tlsSecret": {"name": "cert", "namespace": "shop"}}
    return obj("Host", name, spec, namespace, metadata={"labels": labels})


HOSTS = (bound("a", "shop", tier="x"), bound("b", "shop"), bound("c", "far", tier="x"), secret(CHAIN, PRIVATE))


@pytest.mark.parametrize(
    ("binding", "names"),
    [
        (None, "ab"),
        ({"namespace": {"from": "SELF"}}, "ab"),
        ({"namespace": {"from": "ALL"}}, "abc"),
        ({"selector": {"matchLabels": {"tier": "x"}}}, "a"),
        ({"namespace": {"from": "ALL"}, "selector": {"matchLabels": {"tier": "x"}}}, "ac"),
    ],
)
def test_a_listener_serves_the_hosts_bound_to_it(binding: object, names: str) -> None:
    (found,) = compile_objects(listener(protocol="HTTPS", hostBinding=binding), *HOSTS).snapshot.listeners
    assert {policy.host.value[0] for policy in found.hosts if policy.host} == set(names)
    assert {certificate.hosts[0][0] for certificate in found.certificates} == set(names)


def test_a_listener_in_clear_text_needs_no_certificates() -> None:
    (found,) = compile_objects(listener(), *HOSTS).snapshot.listeners
    assert found.certificates == ()


def test_a_listener_without_any_of_the_hosts_there_are_is_not_opened() -> None:
    compiled = compile_objects(listener(hostBinding={"selector": {"matchLabels": {"tier": "y"}}}), *HOSTS)
    assert compiled.snapshot.listeners == ()
    assert "binds no Host" in said(compiled, Severity.NOTICE)[0]


def test_the_certificates_of_a_listener_may_ask_clients_for_different_things() -> None:
    mutual = obj("Host", "m", {"hostname": "m", "tlsSecret": {"name": "cert"}, "tls": MUTUAL})
    compiled = compile_objects(listener(protocol="HTTPS"), mutual, AUTHORITIES, *HOSTS)
    (found,) = compiled.snapshot.listeners
    asking = {certificate.hosts[0][0]: certificate.requires_client for certificate in found.certificates}
    assert list(asking.items()) == [("m", True), ("a", False), ("b", False)]
    assert compiled.problems == ()


def test_ports_hosts_and_policies_are_part_of_the_version() -> None:
    every = [
        compile_objects(*objects).snapshot.version
        for objects in ([], [listener()], [listener(port=1)], [policy("a", None)], [policy("a", "Reject")])
    ]
    assert len(set(every)) == len(every)
