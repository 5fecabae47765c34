"""Secrets of the configuration and of calls are in no log, page, JSON, metric, repr, problem or status.

Each secret has its own word; everything that an operator or a client may read is searched for all of them.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
from admin.admin_states import greet_state

from dataplane.auth_server import AuthServer, allow
from dataplane.configured import compile_yaml, configured
from dataplane.lab import Lab
from dataplane.waiting import eventually
from grpcgw.admin.diagnostics import render_diagnostics
from grpcgw.admin.metrics import render_metrics
from grpcgw.admin.page import render_live_part, render_page
from grpcgw.admin.views import view_gateway
from grpcgw.model.log_format import LogFormat, LogType
from grpcgw.model.plugins import make_plugin
from grpcgw.session.serving import RpcLog
from grpcgw.settings import Settings
from grpcgw.settings.redis_url import parse_redis_url
from grpcgw.telemetry.access_log import RpcRecord, render_line
from grpcgw.workers.worker import make_report
from tests.jwts import make_signer, write_jwks

API_KEY, AUTH_HEADER, PLUGIN_CONFIG, REDIS_PASSWORD = "s3cret-ap1", "s3cret-auth", "s3cret-plug1n", "s3cret-red1s"
TOKEN_SECRET = make_signer().sign({"sub": "ann", "iss": "https://issuer.example"})
SIGNATURE = TOKEN_SECRET.rpartition(".")[2]
WRONG_KEY, HEADER_OF_CLIENT = "s3cret-wrong", "s3cret-client"
EVERY = (
    API_KEY,
    AUTH_HEADER,
    PLUGIN_CONFIG,
    TOKEN_SECRET,
    TOKEN_SECRET.rpartition(".")[2],
    WRONG_KEY,
    HEADER_OF_CLIENT,
)

CONFIGURATION = f"""
    kind: Mapping
    metadata: {{name: pods, namespace: default}}
    spec: {{service: "pods:80"}}
    ---
    apiVersion: v1
    kind: Secret
    metadata: {{name: keys, namespace: default}}
    stringData: {{ann: {API_KEY}}}
    ---
    apiVersion: v1
    kind: Secret
    metadata: {{name: jwks, namespace: default}}
    stringData: {{jwks: '{write_jwks(make_signer("other")).decode()}'}}
    ---
    kind: Filter
    metadata: {{name: keys, namespace: default}}
    spec: {{APIKey: {{keys: [{{secretName: keys}}]}}}}
    ---
    kind: Filter
    metadata: {{name: token, namespace: default}}
    spec: {{JWT: {{jwksSecret: {{name: jwks}}}}}}
    ---
    kind: FilterPolicy
    metadata: {{name: policy, namespace: default}}
    spec:
      rules:
        - {{path: /test.Pod/Token, filters: [{{name: token}}]}}
        - {{path: "/test.Pod/*", filters: [{{name: keys}}]}}
    ---
    kind: AuthService
    metadata: {{name: auth, namespace: default}}
    spec:
      auth_service: "auth:50051"
      proto: grpc
      protocol_version: v3
      resolver: endpoint
      add_auth_headers: {{x-auth-secret: {AUTH_HEADER}}}
"""


def leaks(text: str) -> list[str]:
    return [secret for secret in EVERY if secret in text]


def test_no_secret_is_shown_anywhere(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "grpcgw")
    auth = AuthServer(lab, lambda _: allow())
    own = make_plugin("--policy", "examples.policies.maintenance_window:MaintenanceWindow", {"password": PLUGIN_CONFIG})
    records: list[RpcRecord] = []
    gateway = configured(lab, CONFIGURATION, pods=lab.pod(), auth=auth.pod)
    gateway.serving.rpc_log = RpcLog(records.append, 100.0)
    before = gateway.serving.snapshot
    gateway.apply(replace(before, version="2", routes=tuple(replace(route) for route in before.routes)))
    client = lab.raw_client(gateway)
    header, bearer = ("x-mine", HEADER_OF_CLIENT), ("authorization", f"Bearer {TOKEN_SECRET}")
    answers = [
        client.call("Unary", ("x-api-key", API_KEY), header, bearer),
        client.call("Unary", ("x-api-key", WRONG_KEY), header),
        client.call("Token", bearer, header),
    ]
    auth.decide = lambda _: b"nonsense"
    answers.append(client.call("Unary", ("x-api-key", API_KEY), header, bearer))
    eventually(lambda: len(records) == len(answers))
    assert [answer.status for answer in answers] == [0, 16, 16, 14]

    compiled = compile_yaml(CONFIGURATION, lab.engine, (own,))
    report = make_report(0, "engine", gateway.serving, 0.0)
    state = replace(
        greet_state(),
        snapshot=compiled.snapshot,
        problems=compiled.problems,
        endpoints={},
        workers=(report,),
    )
    view = view_gateway(state)
    shown = {
        "log": caplog.text,
        "answers": repr([answer.blocks for answer in answers]),
        "page": render_page(view) + render_live_part(view),
        "json": str(render_diagnostics(view)),
        "metrics": render_metrics(state).decode(),
        "snapshot": repr(compiled.snapshot) + repr(gateway.serving.snapshot),
        "problems": repr(compiled.problems),
        "report": repr(report),
        "access log": "".join(render_line(one, 1.0, LogFormat(kind)) for one in records for kind in LogType),
    }
    assert {place: found for place, text in shown.items() if (found := leaks(text))} == {}


def test_the_repr_of_settings_hides_passwords() -> None:
    settings = Settings(rate_limit_redis=parse_redis_url(f"redis://:{REDIS_PASSWORD}@redis:6379/0"))
    assert REDIS_PASSWORD not in repr(settings)
