"""Tokens as users run them: keys from an issuer over HTTP, rotated under load, and an issuer that is down."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import pytest
from dataplane.waiting import PATIENCE_S, eventually

from examples.greet.server import Pod
from gateway.harness import Gateway, running_gateway
from gateway.objects import Directory, put_greet
from gateway.test_api_keys import custom
from greet import greet_pb2, greet_pb2_grpc
from tests.jwts import Signer, make_signer, write_jwks

OLD, NEW = make_signer("old", "ES256"), make_signer("new", "ES256")
POLICY = custom("FilterPolicy", "all", {"rules": [{"host": "*", "path": "*", "filters": [{"name": "jwt"}]}]})


class Issuer:
    """An HTTP server with a key set, which can be down."""

    def __init__(self) -> None:
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200 if issuer.signers else 503)
                self.end_headers()
                self.wfile.write(write_jwks(*issuer.signers))

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.signers: tuple[Signer, ...] = (OLD,)
        """Whose keys it shows; none: it is down."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/jwks"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    made = Issuer()
    yield made
    made.close()


def put_filter(folder: Path, pods: list[Pod], issuer: Issuer, max_stale: str = "1s") -> None:
    objects = Directory(folder)
    put_greet(objects, [pod.port for pod in pods])
    spec = {"jwksURI": issuer.url, "maxStale": max_stale, "leewayForIssuedAt": "1m"}
    for obj in (custom("Filter", "jwt", {"JWT": spec}), POLICY):
        objects.put(obj)


def token_of(signer: Signer, **more: object) -> str:
    return signer.sign({"sub": "ann", "exp": time.time() + 3600, **more})


def status_with(channel: grpc.Channel, token: str) -> tuple[grpc.StatusCode, str]:
    """Code and message."""
    stub = greet_pb2_grpc.GrpcServiceStub(channel)
    try:
        metadata = (("authorization", f"Bearer {token}"),)
        stub.Greet(greet_pb2.GreetRequest(input="test"), timeout=PATIENCE_S, metadata=metadata)
    except grpc.RpcError as error:
        return error.code(), error.details()
    return grpc.StatusCode.OK, ""


def code_with(channel: grpc.Channel, token: str) -> grpc.StatusCode:
    return status_with(channel, token)[0]


class Caller(threading.Thread):
    """Calls one after the other; most tokens are new ones, some were seen."""

    def __init__(self, gateway: Gateway, signer: Signer) -> None:
        super().__init__()
        self.signer = signer
        self.codes: list[grpc.StatusCode] = []
        self._gateway, self._over = gateway, threading.Event()

    def run(self) -> None:
        with self._gateway.channel() as channel:
            while not self._over.is_set():
                token = token_of(self.signer, jti=str(len(self.codes)))
                self.codes += [code_with(channel, token) for _ in range(2)]

    def end(self) -> None:
        self._over.set()
        self.join()


def test_keys_are_rotated_under_load_and_no_valid_token_is_refused(
    pods: list[Pod], tmp_path: Path, issuer: Issuer
) -> None:
    put_filter(tmp_path / "config", pods, issuer)
    arguments = ("--config", str(tmp_path / "config"))
    with running_gateway(*arguments, folder=tmp_path, workers=1) as gateway, gateway.channel() as channel:
        assert gateway.errors() == []
        assert code_with(channel, token_of(OLD)) is grpc.StatusCode.OK, "keys are there with the first configuration"
        assert code_with(channel, token_of(NEW)) is grpc.StatusCode.UNAUTHENTICATED
        caller = Caller(gateway, OLD)
        caller.start()
        issuer.signers = (OLD, NEW)
        eventually(lambda: code_with(channel, token_of(NEW)) is grpc.StatusCode.OK, gateway.log)
        caller.signer = NEW
        calls = len(caller.codes) + 4
        eventually(lambda: len(caller.codes) >= calls, "calls go on")
        issuer.signers = (NEW,)
        eventually(lambda: code_with(channel, token_of(OLD)) is grpc.StatusCode.UNAUTHENTICATED, gateway.log)
        caller.end()
        assert set(caller.codes) == {grpc.StatusCode.OK}


@pytest.mark.parametrize(("engine", "workers"), [("http2", 2), ("http2", 0), ("generic-handler", 1)])
def test_a_token_with_a_key_that_is_new_has_the_keys_fetched_before_their_time(
    pods: list[Pod], tmp_path: Path, issuer: Issuer, engine: str, workers: int
) -> None:
    put_filter(tmp_path / "config", pods, issuer, max_stale="5m")
    arguments = ("--config", str(tmp_path / "config"), "--engine", engine)
    with running_gateway(*arguments, folder=tmp_path, workers=workers) as gateway, gateway.channel() as channel:
        assert code_with(channel, token_of(OLD)) is grpc.StatusCode.OK
        issuer.signers = (OLD, NEW)
        token = token_of(NEW)
        # The first call waits a second for the key, which is enough on a machine that is not busy.
        eventually(lambda: code_with(channel, token) is grpc.StatusCode.OK, gateway.log)
        assert gateway.metric("key_set_early_fetches_total", url=issuer.url) >= 1
        (shown,) = gateway.diagnostics("key_sets")
        assert shown["early_fetches"] >= 1


def test_an_issuer_that_is_down_at_start_and_later(pods: list[Pod], tmp_path: Path, issuer: Issuer) -> None:
    put_filter(tmp_path / "config", pods, issuer)
    issuer.signers = ()
    token = token_of(OLD)
    with (
        running_gateway("--config", str(tmp_path / "config"), folder=tmp_path, workers=1) as gateway,
        gateway.channel() as channel,
    ):
        code, message = status_with(channel, token)
        assert (code, "cannot be fetched" in message) == (grpc.StatusCode.UNAVAILABLE, True)
        assert "its answer is 503" in "\n".join(gateway.errors())
        issuer.signers = (OLD,)
        eventually(lambda: code_with(channel, token) is grpc.StatusCode.OK, gateway.log)
        eventually(lambda: gateway.errors() == [], gateway.log)
        issuer.signers = ()
        eventually(lambda: "those of the last fetch are used" in "\n".join(gateway.errors()), gateway.log)
        assert code_with(channel, token) is grpc.StatusCode.OK
        assert code_with(channel, token_of(OLD, jti="new")) is grpc.StatusCode.OK
        (shown,) = gateway.diagnostics("key_sets")
        assert (shown["url"], shown["keys"], shown["error"]) == (issuer.url, ["old"], "its answer is 503")
        assert gateway.metric("key_set_fetch_failures_total", url=issuer.url) >= 2
        assert gateway.metric("key_set_keys", url=issuer.url) == 1
        assert gateway.metric("key_set_age_seconds", url=issuer.url) >= 0
        for part in token.split("."):
            assert part not in gateway.log()
        assert json.loads(write_jwks(OLD))["keys"][0]["x"] not in gateway.log()
