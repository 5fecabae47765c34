"""Token and certificates of the admin port are replaced while it is served, as mounted Secrets are."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from admin.admin_states import greet_state, run_admin
from grpcgw.admin.access import AdminAccess, read_access
from grpcgw.admin.access_files import AccessFiles
from tests.pems import key_pair

DIAG = "/ambassador/v0/diag/?json=true"
OLD, NEW = "old-0123456789abcdef", "new-0123456789abcdef"


class Files:
    """The files of an admin port, and what follows them."""

    def __init__(self, folder: Path, tls: bool = False) -> None:
        self.folder = folder
        self.token = folder / "token"
        self.token.write_text(OLD)
        self.certificate, self.key, self.ca = (folder / name for name in ("tls.crt", "tls.key", "ca.crt"))
        if tls:
            self.write_pair("admin")
            self.ca.write_bytes(self.pair("reader")[0])
        self.access = read_access(
            self.token, self.certificate if tls else None, self.key if tls else None, self.ca if tls else None
        )
        self.followed = AccessFiles(self.access)

    def pair(self, name: str) -> tuple[bytes, bytes]:
        """The same one for a name."""
        certificate, key = self.folder / f"{name}.pair.crt", self.folder / f"{name}.pair.key"
        if not certificate.exists():
            made = key_pair(name, datetime.now(UTC).replace(microsecond=0) + timedelta(days=5))
            certificate.write_bytes(made[0])
            key.write_bytes(made[1])
        return certificate.read_bytes(), key.read_bytes()

    def write_pair(self, name: str) -> None:
        certificate, key = self.pair(name)
        self.certificate.write_bytes(certificate)
        self.key.write_bytes(key)

    def notice(self, times: int = 2) -> None:
        """The readings that `run` makes: the second one finds the files settled."""
        for _ in range(times):
            asyncio.run(self.followed.refresh())

    def client(self, url: str, name: str = "") -> httpx.Client:
        """`name`: of its certificate; empty: it has none."""
        context = ssl.create_default_context(cadata=self.certificate.read_text())
        context.check_hostname = False
        if name:
            self.pair(name)
            context.load_cert_chain(self.folder / f"{name}.pair.crt", self.folder / f"{name}.pair.key")
        return httpx.Client(base_url=url.replace("http:", "https:"), verify=context)


def admits(access: AdminAccess, token: str) -> bool:
    return access.admits(f"Bearer {token}", None)


def test_a_new_token_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.token.write_text(NEW)
    files.notice(1)
    assert (admits(files.access, OLD), admits(files.access, NEW)) == (True, False), "it may still be written"
    files.notice(1)
    assert (admits(files.access, OLD), admits(files.access, NEW)) == (False, True)
    assert files.followed.problems == ()


@pytest.mark.parametrize("content", ["", "short", None], ids=["empty", "short", "gone"])
def test_a_token_that_cannot_be_used_leaves_the_last_good_one_and_says_so(
    tmp_path: Path, content: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    files = Files(tmp_path)
    files.token.unlink()
    if content is not None:
        files.token.write_text(content)
    files.notice(5)
    assert admits(files.access, OLD)
    assert not admits(files.access, content or "")
    (problem,) = files.followed.problems
    assert str(files.token) in problem.message
    assert problem.message.endswith("what was there before stays in use")
    assert len(caplog.records) == 1, "it is logged once"
    files.token.write_text(NEW)
    files.notice()
    assert (admits(files.access, NEW), files.followed.problems) == (True, ())
    assert NEW not in caplog.text


def test_new_connections_get_the_new_certificate(tmp_path: Path) -> None:
    files = Files(tmp_path, tls=True)
    with run_admin(greet_state(), access=files.access) as admin:
        files.write_pair("renewed")
        files.notice()
        with files.client(admin.url) as client:  # which trusts the new one alone
            assert client.get(DIAG, headers={"authorization": f"Bearer {OLD}"}).status_code == 200
        files.key.write_text("no key")
        files.notice()
        (problem,) = files.followed.problems
        assert "cannot serve TLS" in problem.message
        with files.client(admin.url) as client:
            assert client.get("/ambassador/v0/check_alive").status_code == 200, "the last good pair serves on"


def test_a_ca_that_was_replaced_lets_nobody_in_any_more(tmp_path: Path) -> None:
    files = Files(tmp_path, tls=True)
    with run_admin(greet_state(), access=files.access) as admin, files.client(admin.url, "reader") as reader:
        assert reader.get(DIAG).status_code == 200
        files.write_pair("admin")
        files.ca.write_bytes(files.pair("another")[0])
        files.notice()
        assert reader.get(DIAG).status_code == 401, "on the connection that it let in"
        with files.client(admin.url, "another") as other:
            assert other.get(DIAG).status_code == 200
        with files.client(admin.url, "reader") as again, pytest.raises(httpx.TransportError):
            again.get(DIAG)


def test_a_connection_outlives_a_new_certificate_of_the_port(tmp_path: Path) -> None:
    files = Files(tmp_path, tls=True)
    with run_admin(greet_state(), access=files.access) as admin, files.client(admin.url, "reader") as reader:
        assert reader.get(DIAG).status_code == 200
        files.write_pair("renewed")
        files.notice()
        assert reader.get(DIAG).status_code == 200
