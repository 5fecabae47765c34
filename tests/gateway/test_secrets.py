"""Secrets stay secrets in a live gateway: its debug log, access log, admin port, and what it writes to the cluster.

The configuration has each kind of secret where it belongs, and once more where it is an error, since errors quote. Each
secret has its own word; everything that an operator, a reader of the cluster or a client may read is searched for all
of them. `tests/dataplane/test_secrets.py` holds the same for single parts.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

import grpc
import httpx
import pytest
from dataplane.waiting import PATIENCE_S, eventually

from examples.greet.server import Pod
from gateway.harness import BASE, HOST, Gateway, running_gateway
from gateway.objects import Body, Directory, Objects, make_key_pair, put_greet, secret
from greet import greet_pb2
from grpcgw.cli.main import execute
from tests.jwts import make_signer, write_jwks
from tests.kube_api import KubeApi
from tests.redis_server import RedisServer

API_KEY, BROKEN_KEY, WRONG_KEY = "s3cret-of-api-keys", "s3cret-no-base64", "s3cret-wrong-key"
AUTH_HEADER, BROKEN_HEADER = "s3cret-of-auth-service", "s3cret-in-a-list"
PLUGIN_CONFIG, BROKEN_CONFIG = "s3cret-of-plugin", "s3cret-of-wrong-type"
URL_PASSWORD, SERVICE_PASSWORD, ANNOTATED = "s3cret-in-jwks-uri", "s3cret-in-service", "s3cret-in-annotation"
REDIS_PASSWORD, ADMIN_TOKEN, NEXT_TOKEN = "s3cret-of-redis", "s3cret-admin-token", "s3cret-next-admin-token"
OF_CLIENT, MADE_UP_TOKEN = "s3cret-header-of-client", "s3cret.made.up"
TOKEN = make_signer().sign({"sub": "ann", "iss": "https://issuer.example"})
FORGED = make_signer("other").sign({"sub": "bob"})
TLS = make_key_pair("greet.example.com")
OTHER_TLS = make_key_pair("other.example.com")
NO_PEM, KUBE_TOKEN = "s3cret-no-key", "s3cret-of-kubeconfig"


def _lines(key: bytes) -> list[str]:
    return key.decode().splitlines()[1:-1]


EVERY = (
    *(API_KEY, BROKEN_KEY, WRONG_KEY, AUTH_HEADER, BROKEN_HEADER, PLUGIN_CONFIG, BROKEN_CONFIG, URL_PASSWORD),
    *(
        SERVICE_PASSWORD,
        ANNOTATED,
        REDIS_PASSWORD,
        ADMIN_TOKEN,
        NEXT_TOKEN,
        OF_CLIENT,
        MADE_UP_TOKEN,
        NO_PEM,
        KUBE_TOKEN,
    ),
    *(TOKEN, TOKEN.rpartition(".")[2], FORGED, FORGED.rpartition(".")[2], *_lines(TLS[1]), *_lines(OTHER_TLS[1])),
)
ENCODED = tuple(base64.b64encode(one.encode()).decode() for one in (API_KEY, NO_PEM, ADMIN_TOKEN))


def leaks(text: str) -> list[str]:
    return [one for one in (*EVERY, *ENCODED) if one in text]


def custom(kind: str, name: str, spec: Body) -> Body:
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": "getambassador.io/v3alpha1", "kind": kind, "metadata": metadata, "spec": spec}


def opaque(name: str, **data: str) -> Body:
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": metadata, "data": data}


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def path(name: str) -> str:
    return f"/greet.GrpcService/{name}"


LABELS = {"ambassador": [{"all": [{"generic_key": {"value": "all"}}]}]}
ANNOTATION = f"""
apiVersion: getambassador.io/v3alpha1
kind: Mapping
metadata: {{name: annotated}}
spec: {{hostname: "*", prefix: /annotated.S/, service: greet, add_request_headers: {{x-key: [{ANNOTATED}]}}}}
"""
PLUGIN = "password_policy:PasswordPolicy"
PLUGIN_SOURCE = """
from pydantic import BaseModel

from grpcgw.policies import OwnPolicy, allow


class Password(BaseModel):
    password: str
    attempts: int = 1


class PasswordPolicy(OwnPolicy[Password]):
    def check(self, call):
        return allow()
"""


AUTH = {"auth_service": "auth.grpcserver:1", "proto": "grpc", "protocol_version": "v3", "failure_mode_allow": True}
TO_GREET = {"hostname": "*", "service": "grpcserver.grpcserver:50051", "resolver": "grpcserver-endpoint-resolver"}
BROKEN_PLUGIN = {"password": PLUGIN_CONFIG, "attempts": BROKEN_CONFIG}
LIMIT = {"pattern": [{"generic_key": "all"}], "rate": 1000, "unit": "second"}


def put_right(objects: Objects, pods: list[Pod]) -> None:
    """Each secret where it belongs."""
    put_greet(objects, [pod.port for pod in pods])
    rules = [
        {"path": path("GreetEach"), "filters": [{"name": "token"}]},
        {"path": path("GreetMany"), "filters": [{"name": "unfetched"}]},
        {"path": path("GreetAll"), "filters": [{"name": "plugin"}, {"name": "broken-plugin"}]},
        {"path": "/greet.GrpcService/*", "filters": [{"name": "keys"}]},
    ]
    for obj in (
        custom("Mapping", "grpcserver", {**TO_GREET, "prefix": "/greet.GrpcService/", "labels": LABELS}),
        opaque("keys", ann=encoded(API_KEY)),
        opaque("jwks", jwks=base64.b64encode(write_jwks(make_signer())).decode()),
        custom("Filter", "keys", {"APIKey": {"keys": [{"secretName": "keys"}]}}),
        custom("Filter", "token", {"JWT": {"jwksSecret": {"name": "jwks"}}}),
        custom("Filter", "unfetched", {"JWT": {"jwksURI": f"http://me:{URL_PASSWORD}@127.0.0.1:1/jwks"}}),
        custom("Filter", "plugin", {"Plugin": {"name": PLUGIN, "config": {"password": PLUGIN_CONFIG}}}),
        custom("Filter", "broken-plugin", {"Plugin": {"name": PLUGIN, "config": BROKEN_PLUGIN}}),
        custom("FilterPolicy", "policy", {"rules": rules}),
        custom("AuthService", "auth", {**AUTH, "add_auth_headers": {"x-auth": AUTH_HEADER}}),
        custom("RateLimit", "limit", {"limits": [LIMIT]}),
        secret("tls", *TLS),
        custom("Host", "greet", {"hostname": "greet.example.com", "tlsSecret": {"name": "tls"}}),
    ):
        objects.put(obj)


def put_wrong(objects: Objects) -> None:
    """Secrets where they are errors."""
    annotated = {"name": "annotated", "namespace": "default", "annotations": {"getambassador.io/config": ANNOTATION}}
    for obj in (
        custom("Mapping", "passwords", {**TO_GREET, "prefix": "/b.S/", "service": f"http://me:{SERVICE_PASSWORD}@x"}),
        {"apiVersion": "v1", "kind": "Service", "metadata": annotated, "spec": {"ports": [{"port": 1}]}},
        opaque("broken", ann=f"{BROKEN_KEY}!"),
        custom("Filter", "broken", {"APIKey": {"keys": [{"secretName": "broken"}]}}),
        custom("AuthService", "broken", {**AUTH, "add_auth_headers": {"x-auth": [BROKEN_HEADER]}}),
        secret("of-another", TLS[0], OTHER_TLS[1]),
        secret("no-pem", TLS[0], NO_PEM.encode()),
        custom("Host", "mismatch", {"hostname": "a.example.com", "tlsSecret": {"name": "of-another"}}),
        custom("Host", "no-pem", {"hostname": "b.example.com", "tlsSecret": {"name": "no-pem"}}),
    ):
        objects.put(obj)


WRONG = frozenset({"passwords", "mismatch", "no-pem", "broken"})
"""Objects that Events are about."""


def call_with_everything(gateway: Gateway) -> str:
    """What clients see of calls with each secret that a client has."""
    request = greet_pb2.GreetRequest(input="test").SerializeToString()
    answers: list[object] = []
    with gateway.channel() as channel:
        for key in (API_KEY, WRONG_KEY):
            for token in (TOKEN, FORGED, MADE_UP_TOKEN):
                metadata = (("x-api-key", key), ("authorization", f"Bearer {token}"), ("x-mine", OF_CLIENT))
                for method in ("Greet", "GreetEach", "GreetMany", "GreetAll"):
                    try:
                        _, done = channel.unary_unary(path(method)).with_call(
                            request, timeout=PATIENCE_S, metadata=metadata
                        )
                    except grpc.RpcError as error:
                        done = error
                    answers += [done.code(), done.details(), done.initial_metadata(), done.trailing_metadata()]
    return repr(answers)


@pytest.mark.parametrize("engine", ["http2", "generic-handler"])
def test_a_live_gateway_shows_no_secret(
    engine: str,
    api: KubeApi,
    pods: list[Pod],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "password_policy.py").write_text(PLUGIN_SOURCE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    put_right(api, pods)
    redis = RedisServer(tmp_path, REDIS_PASSWORD)
    password, token = tmp_path / "redis-password", tmp_path / "admin-token"
    password.write_text(REDIS_PASSWORD)
    token.write_text(ADMIN_TOKEN)
    flags = [
        "--kubernetes",
        "--kubeconfig",
        str(api.kubeconfig(tmp_path / "kubeconfig", KUBE_TOKEN)),
        "--engine",
        engine,
    ]
    flags += ["--log-level", "debug", "--access-log", "json", "--admin-token-file", str(token)]
    flags += ["--rate-limit-redis", redis.url, "--rate-limit-redis-password-file", str(password)]
    shown: dict[str, str] = {}
    try:
        with running_gateway(*flags, folder=tmp_path, workers=1, ready=False, healthy=False) as gateway:
            gateway.wait_for_admin()
            admin = httpx.Client(base_url=f"http://{HOST}:{gateway.admin_port}", timeout=PATIENCE_S)
            admin.headers["authorization"] = f"Bearer {ADMIN_TOKEN}"
            with admin:
                eventually(lambda: admin.get(f"{BASE}/check_ready").status_code == 200, gateway.log)
                listeners = admin.get(f"{BASE}/diag/?json=true&filter=listeners").json()
                gateway.port = next(_port(one) for one in listeners if one["protocol"] != "tls")
                shown["answers"] = call_with_everything(gateway)
                assert "StatusCode.OK" in shown["answers"]
                redis.kill()
                shown["answers without Redis"] = call_with_everything(gateway)
                put_wrong(api)
                eventually(lambda: {one["regarding"]["name"] for one in api.all("Event")} >= WRONG, gateway.log)
                shown["answers with errors"] = call_with_everything(gateway)
                shown["page"] = admin.get(f"{BASE}/diag/").text
                shown["live part"] = admin.get(f"{BASE}/diag/live?open=0").text
                shown["JSON"] = admin.get(f"{BASE}/diag/?json=true").text
                shown["metrics"] = admin.get("/metrics").text
                shown["readiness"] = admin.get(f"{BASE}/check_ready").text
                token.write_text(NEXT_TOKEN)
                admin.headers["authorization"] = f"Bearer {NEXT_TOKEN}"
                eventually(lambda: admin.get("/metrics").status_code == 200, gateway.log)
                admin.headers["authorization"] = f"Bearer {ADMIN_TOKEN}"
                shown["refusal of the admin port"] = admin.get("/metrics").text
        shown["log"] = gateway.log()
    finally:
        redis.kill()
    shown["access log"] = capfd.readouterr().out
    shown["events"] = json.dumps(api.all("Event"))
    shown["statuses"] = json.dumps([one.get("status") for kind in ("Mapping", "Host") for one in api.all(kind)])
    shown["written"] = "\n".join(str(one) for one in api.requests)
    assert "on this machine alone" in shown["log"], "the log tells of Redis"
    assert all(word in shown["log"] for word in ("DEBUG", "worker 0", "attempts: Input should be a valid integer"))
    assert '"status"' in shown["access log"]
    assert {place: found for place, text in shown.items() if (found := leaks(text))} == {}


def _port(listener: Body) -> int:
    return int(listener["address"].rpartition(":")[2])


def test_commands_show_no_secret(pods: list[Pod], tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    directory = Directory(tmp_path / "config")
    put_right(directory, pods)
    put_wrong(directory)
    config = str(directory.path)
    given = ["--header", f"x-api-key={API_KEY}", "--header", f"x-mine={OF_CLIENT}", "--token", FORGED]
    shown = {}
    for command in (
        ["check", config],
        ["routes", config],
        *(["explain", f"greet.GrpcService/{method}", "--config", config, *given] for method in ("Greet", "GreetEach")),
        ["explain", "greet.GrpcService/GreetAll", "--config", config, "--json", *given],
    ):
        execute(command)
        printed = capfd.readouterr()
        assert printed.out
        shown[" ".join(command[:2])] = printed.out + printed.err
    assert {place: found for place, text in shown.items() if (found := leaks(text))} == {}
