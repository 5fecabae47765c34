"""The admin port that demands a token or a client certificate."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from admin.admin_states import greet_state, run_admin
from grpcgw.admin.access import AdminAccess, read_access
from grpcgw.errors import UserError
from tests.pems import key_pair

DIAG = "/ambassador/v0/diag/?json=true"
PROBES = ("/ambassador/v0/check_alive", "/ambassador/v0/check_ready")
TOKEN = "0123456789abcdef"
READABLE = (DIAG, "/metrics", "/ambassador/v0/diag/live", "/ambassador/v0/static/diag.css")


def write(folder: Path, name: str) -> tuple[Path, Path]:
    certificate, key = key_pair(name, datetime.now(UTC).replace(microsecond=0) + timedelta(days=5))
    paths = folder / f"{name}.crt", folder / f"{name}.key"
    paths[0].write_bytes(certificate)
    paths[1].write_bytes(key)
    return paths


def write_token(folder: Path, text: str = TOKEN) -> Path:
    path = folder / "token"
    path.write_text(text)
    return path


def test_a_token_is_demanded_of_everything_but_probes(tmp_path: Path) -> None:
    access = read_access(write_token(tmp_path, f"{TOKEN}\n"), None, None, None)
    with run_admin(greet_state(), access=access) as admin, httpx.Client(base_url=admin.url) as client:
        assert [client.get(path).status_code for path in PROBES] == [200, 200]
        refused = client.get(DIAG)
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        for given in (f"Bearer {TOKEN}x", "Bearer", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN[:-1]}"):
            assert client.get("/metrics", headers={"authorization": given}).status_code == 401
        for path in READABLE:
            assert client.get(path).status_code == 401
            assert client.get(path, headers={"authorization": f"bearer {TOKEN}"}).status_code == 200


def test_a_client_certificate_of_the_ca_lets_in_and_no_other(tmp_path: Path) -> None:
    certificate, key = write(tmp_path, "admin")
    known, known_key = write(tmp_path, "known")
    other, other_key = write(tmp_path, "other")
    access = read_access(write_token(tmp_path), certificate, key, known)
    with run_admin(greet_state(), access=access) as admin:
        url = admin.url.replace("http:", "https:")
        anonymous = _context(certificate)
        with httpx.Client(base_url=url, verify=anonymous) as client:
            assert [client.get(path).status_code for path in PROBES] == [200, 200]
            assert client.get(DIAG).status_code == 401
            assert client.get(DIAG, headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
        with httpx.Client(base_url=url, verify=_context(certificate, known, known_key)) as client:
            assert [client.get(path).status_code for path in READABLE] == [200] * len(READABLE)
        stranger = httpx.Client(base_url=url, verify=_context(certificate, other, other_key))
        with stranger as client, pytest.raises(httpx.TransportError):
            client.get(DIAG)


def _context(authority: Path, certificate: Path | None = None, key: Path | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority))
    context.check_hostname = False
    if certificate is not None:
        context.load_cert_chain(certificate, key)
    return context


def test_what_would_leave_the_port_open_is_an_error(tmp_path: Path) -> None:
    certificate, key = write(tmp_path, "admin")
    for arguments, message in (
        ((tmp_path / "none", None, None, None), "cannot be read"),
        ((write_token(tmp_path, "short"), None, None, None), "16 characters"),
        ((None, certificate, None, None), "belong together"),
        ((None, None, None, certificate), "needs --admin-tls-cert"),
    ):
        with pytest.raises(UserError, match=message):
            read_access(*arguments)
    key.write_text("no key")
    with pytest.raises(UserError, match="cannot serve TLS"):
        read_access(None, certificate, key, None)


def test_a_token_may_have_any_characters(tmp_path: Path) -> None:
    """The last byte of the last one is a space to who reads bytes as characters."""
    text = "pass phrase of caf\N{LATIN SMALL LETTER E WITH ACUTE} voil\N{LATIN SMALL LETTER A WITH GRAVE}"
    access = read_access(write_token(tmp_path, text), None, None, None)
    with run_admin(greet_state(), access=access) as admin, httpx.Client(base_url=admin.url) as client:
        for given, status in ((text, 200), (f"{text}a", 401)):
            headers = {b"authorization": f"Bearer {given}".encode()}
            assert client.get("/metrics", headers=headers).status_code == status


def test_neither_repr_nor_an_error_shows_the_token(tmp_path: Path) -> None:
    assert TOKEN not in repr(vars(read_access(write_token(tmp_path), None, None, None)))
    with pytest.raises(UserError) as refused:
        read_access(write_token(tmp_path, "short-secret"), None, None, None)
    assert "short-secret" not in str(refused.value)


def test_a_port_that_demands_nothing_admits_all() -> None:
    assert AdminAccess().admits("", None)
