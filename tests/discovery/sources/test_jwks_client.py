"""Fetching a key set over HTTP, from a real server: what is taken, what is refused, and that everything is bounded."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web

from grpcgw.discovery.sources.jwks_client import MAX_REDIRECTS, fetch_jwks, read_max_age
from grpcgw.discovery.sources.key_sets import FetchedJwks, FetchFailed
from grpcgw.model.jwks import MAX_JWKS_BYTES
from grpcgw.model.key_set_objects import KeySetSource, check_url
from tests.jwts import keys_of, make_signer, write_jwks
from tests.pems import key_pair

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
JWKS = write_jwks(make_signer())
KEYS = keys_of(make_signer())


def fetch(
    handler: Handler, path: str = "/jwks", tls: ssl.SSLContext | None = None, insecure: bool = False
) -> FetchedJwks:
    """From a server that answers with `handler`."""

    async def serve_and_fetch() -> FetchedJwks:
        app = web.Application()
        app.router.add_get("/{path:.*}", handler)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
            await site.start()
            port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]  # aiohttp has no other way
            url = f"{'http' if tls is None else 'https'}://localhost:{port}/jwks"
            return await fetch_jwks(KeySetSource(url, insecure), timeout_s=0.5)
        finally:
            await runner.cleanup()

    return asyncio.run(serve_and_fetch())


def fails(handler: Handler, word: str, **how: object) -> None:
    with pytest.raises(FetchFailed, match=word) as failed:
        fetch(handler, **how)  # type: ignore[arg-type]
    assert "localhost" not in str(failed.value)


def answer(body: bytes = JWKS, status: int = 200, **headers: str) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        return web.Response(body=body, status=status, headers={k.replace("_", "-"): v for k, v in headers.items()})

    return handle


def redirect(target: str, status: int = 302) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        if request.path == "/end":
            return web.Response(body=JWKS)
        return web.Response(status=status, headers={"location": target})

    return handle


def tls_context(folder: Path) -> ssl.SSLContext:
    chain, private = key_pair("localhost")
    (folder / "tls.pem").write_bytes(chain + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "tls.pem")
    return context


def test_the_keys_are_read_with_their_lifetime() -> None:
    assert fetch(answer()) == FetchedJwks(KEYS, None)
    assert fetch(answer(cache_control="public, max-age=120")) == FetchedJwks(KEYS, 120.0)


@pytest.mark.parametrize(
    ("header", "max_age_s"),
    [
        ("", None), ("public", None), ("max-age=300", 300.0), ("Max-Age = 5", 5.0), ('max-age="7"', 7.0),
        ("public,max-age=9,must-revalidate", 9.0), ("no-store", 0.0), ("no-cache, max-age=9", 0.0),
        ("s-maxage=9", None), ("max-age=-1", None), ("max-age=x", None), ("max-age=99999999999999", 999999999.0),
    ],
)  # fmt: skip
def test_cache_control(header: str, max_age_s: float | None) -> None:
    assert read_max_age(header) == max_age_s


@pytest.mark.parametrize("status", [204, 304, 401, 404, 429, 500, 503])
def test_another_status_is_a_failure(status: int) -> None:
    fails(answer(b"" if status in (204, 304) else JWKS, status), str(status))


@pytest.mark.parametrize(
    ("body", "word"), [(b"", "no JSON"), (b"<html>", "no JSON"), (b'{"keys":[]}', "no public key")]
)
def test_nonsense_is_a_failure(body: bytes, word: str) -> None:
    fails(answer(body), word)


def test_a_large_answer_is_not_read_to_its_end() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b" " * 65536)

    fails(endless, "larger than")
    bomb = web.Response(body=b" " * (MAX_JWKS_BYTES + 1))

    async def compressed(request: web.Request) -> web.StreamResponse:
        bomb.enable_compression()
        return bomb

    fails(compressed, "larger than")


@pytest.mark.parametrize("begins", [False, True])
def test_a_server_that_says_nothing_is_left(begins: bool) -> None:
    async def hang(request: web.Request) -> web.StreamResponse:
        if begins:
            await web.StreamResponse().prepare(request)
        await asyncio.Event().wait()
        raise AssertionError

    fails(hang, "no answer within")


def test_a_server_that_is_away() -> None:
    with pytest.raises(FetchFailed, match="connection failed"):
        asyncio.run(fetch_jwks(KeySetSource("http://localhost:1/jwks")))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(status: int) -> None:
    assert fetch(redirect("/end", status)).keys == KEYS


def test_redirects_are_bounded() -> None:
    fails(redirect("/again"), f"more than {MAX_REDIRECTS}")


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://x/", "", "http://user:secret@localhost/", "//", "http://[::"]
)
def test_redirects_lead_to_urls_of_key_sets_only(target: str) -> None:
    with pytest.raises(FetchFailed):
        fetch(redirect(target))


def test_no_redirect_leaves_tls(tmp_path: Path) -> None:
    fails(redirect("http://localhost/end"), "from https to http", tls=tls_context(tmp_path), insecure=True)


def test_a_certificate_that_the_system_does_not_know_is_refused_unless_that_is_asked_for(tmp_path: Path) -> None:
    fails(answer(), "certificate", tls=tls_context(tmp_path))
    assert fetch(answer(), tls=tls_context(tmp_path), insecure=True).keys == KEYS


@pytest.mark.parametrize("url", ["https://i.example/jwks", "http://i.example:8080/a?b=c", "https://[2001:db8::1]/"])
def test_urls_of_key_sets(url: str) -> None:
    check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "jwks",
        "ftp://x/",
        "file:///x",
        "https:///x",
        "https://u:p@x/",
        "https://u@x/",
        "https://x/\n",
        "https://[::",
        "https://é/",
    ],
)
def test_what_is_no_url_of_a_key_set(url: str) -> None:
    with pytest.raises(ValueError):
        check_url(url)
