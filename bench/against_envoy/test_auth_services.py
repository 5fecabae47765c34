"""AuthServices: what a client and a pod see of each answer of a service, compared with Envoy's ext_authz.

`DIFFERENT` is where grpcgw decides otherwise on purpose (docs/who-may-call.md).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import grpc
import pytest
from dataplane.auth_server import AuthServer, allow, deny
from dataplane.lab import Lab
from dataplane.test_auth_service import begin, gateway_for
from dataplane.waiting import PATIENCE_S

from bench.envoy import add_authorization, describe_address, describe_cluster, describe_manager, find_envoy
from bench.pods import Pod
from bench.proxies import serving
from grpcgw.cli.demo_processes import HOST, free_port
from grpcgw.policy.ext_authz.ext_authz_pb2 import CheckResponse, HeaderValueOption

SENT = (("x-a", "1"), ("x-user", "mallory"), ("b-bin", b"\0\1"), ("x-a", "2"))
OF_PROXIES = (
    *("x-forwarded-", "x-envoy-", "x-request-id", "x-grpcgw-", "user-agent", "grpc-", "content-type", "te", "date"),
    *("server",),
)
"""Prefixes of headers that each proxy sets in its own way."""


@pytest.fixture
def lab() -> Iterator[Lab]:
    made = Lab("http2")
    yield made
    made.close()


@contextmanager
def running_envoy(folder: Path, pod: int, auth: int) -> Iterator[str]:
    """The address of an Envoy before two ports of this machine."""
    port, config = free_port(0), folder / "envoy.json"
    manager = describe_manager(as_emissary=False, scheme="http")
    (route,) = manager["route_config"]["virtual_hosts"][0]["routes"]
    route["match"] = {"prefix": "/"}
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    listener = {"name": "front", "address": describe_address(port), "filter_chains": [{"filters": filters}]}
    add_authorization(listener)
    clusters = [describe_cluster("pods", [Pod("pods", pod)]), describe_cluster("auth", [Pod("auth", auth)])]
    config.write_text(json.dumps({"static_resources": {"listeners": [listener], "clusters": clusters}}))
    command = [str(find_envoy()), "-c", str(config), "--concurrency", "1", "--log-level", "error"]
    with serving([*command, "--use-dynamic-base-id"], port, "Envoy"):
        yield f"{HOST}:{port}"


def with_headers(*options: tuple[str, str, int]) -> CheckResponse:
    """An allowing answer with headers for the pod: key, value, `append_action`; -1: `append`."""
    answer = allow()
    for key, value, action in options:
        add_option(answer.ok_response.headers.add(), key, value, action)
    return answer


def add_option(option: HeaderValueOption, key: str, value: str, action: int = 0) -> None:
    option.header.key, option.header.value = key, value
    if action < 0:
        option.append.value = True
    else:
        option.append_action = action


def without(*names: str) -> CheckResponse:
    answer = allow()
    answer.ok_response.headers_to_remove.extend(names)
    return answer


def for_the_client() -> CheckResponse:
    answer = allow()
    add_option(answer.ok_response.response_headers_to_add.add(), "x-plan", "gold")
    return answer


def by_status(code: int, message: str = "") -> CheckResponse:
    answer = CheckResponse()
    answer.status.code, answer.status.message = code, message
    return answer


def with_ok_status(answer: CheckResponse) -> CheckResponse:
    answer.status.code = 0
    return answer


def reporting_an_error(http: int) -> CheckResponse:
    answer = by_status(14)
    answer.error_response.status.code, answer.error_response.body = http, "broken"
    return answer


SAME: dict[str, Callable[[], CheckResponse]] = {
    **{
        f"denied with {http}": partial(deny, http, "no", x_why="because")  # type: ignore[arg-type]
        for http in (401, 403, 404, 429, 503, 302)
    },
    "denied without an HTTP status": lambda: deny(0, "no"),
    "denied by status alone": lambda: by_status(7),
    "headers for the pod": lambda: allow(x_user="ann", x_new="1"),
    "header appended": lambda: with_headers(("x-user", "ann", -1)),
    "header added if absent": lambda: with_headers(("x-user", "ann", 1), ("x-new", "1", 1)),
    "header set": lambda: with_headers(("x-user", "ann", 2), ("x-new", "1", 2)),
    "header set if present": lambda: with_headers(("x-user", "ann", 3), ("x-new", "1", 3)),
    "headers removed": lambda: without("x-user", "X-A"),
    "path and host removed": lambda: without(":path", "host"),
    "header for the client": for_the_client,
    "error with 503": lambda: reporting_an_error(503),
    "a gRPC status among the headers": lambda: deny(403, "no", grpc_status="8"),
    "a plain OK": allow,
}
DIFFERENT: dict[str, tuple[Callable[[], CheckResponse], grpc.StatusCode, grpc.StatusCode]] = {
    "empty": (CheckResponse, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.OK),
    "denied with an OK status": (
        lambda: with_ok_status(deny(403)),
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.OK,
    ),
    "status 16 without an HTTP status": (
        lambda: by_status(16),
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
    ),
    "error with an OK status": (
        lambda: with_ok_status(reporting_an_error(503)),
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.OK,
    ),
}
"""The answer, and the codes of grpcgw and of Envoy."""


class Both:
    """The same call through grpcgw and through Envoy, before the same service and the same pod."""

    def __init__(self, lab: Lab, folder: Path, answer: CheckResponse) -> None:
        self.auth, self.pod = AuthServer(lab, lambda _: answer), lab.pod()
        ours = begin(lab, gateway_for(lab, self.auth, pod=self.pod), *SENT)
        ours.code()
        with running_envoy(folder, self.pod.port, self.auth.pod.port) as address:
            options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
            with grpc.insecure_channel(address, options) as channel:
                theirs = channel.unary_unary("/test.Pod/Unary").future(b"hi", metadata=SENT, timeout=PATIENCE_S)
                theirs.code()
        self.calls = ours, theirs


@pytest.mark.parametrize("name", SAME)
def test_clients_and_pods_see_the_same(lab: Lab, tmp_path: Path, name: str) -> None:
    both = Both(lab, tmp_path, SAME[name]())
    ours, theirs = [seen_by_client(call) for call in both.calls]
    assert ours == theirs
    assert len({tuple(of_applications(call.metadata)) for call in both.pod.calls}) <= 1


@pytest.mark.parametrize("name", DIFFERENT)
def test_where_grpcgw_decides_otherwise(lab: Lab, tmp_path: Path, name: str) -> None:
    answer, ours, theirs = DIFFERENT[name]
    assert [call.code() for call in Both(lab, tmp_path, answer()).calls] == [ours, theirs]


def test_the_question_is_envoys(lab: Lab, tmp_path: Path) -> None:
    ours, theirs = Both(lab, tmp_path, allow()).auth.questions
    assert of_applications(ours.headers.items()) == of_applications(theirs.headers.items())
    pseudo = [{key: one.headers[key] for key in (":method", ":path", ":scheme")} for one in (ours, theirs)]
    assert pseudo[0] == pseudo[1]
    assert (ours.method, ours.path, ours.scheme, ours.protocol) == (
        theirs.method,
        theirs.path,
        theirs.scheme,
        theirs.protocol,
    )


def seen_by_client(call: grpc.Future) -> tuple[object, ...]:
    metadata = [*call.initial_metadata(), *call.trailing_metadata()]
    said = call.details() if call.code().value[0] else ""
    return call.code(), "" if "AuthService" in said else said, of_applications(metadata)


def of_applications(metadata: object) -> list[tuple[str, object]]:
    """Values of one name joined: HTTP allows a proxy to join them."""
    joined: dict[str, object] = {}
    for key, value in metadata:  # type: ignore[attr-defined]
        if not key.startswith((*OF_PROXIES, ":")):
            joined[key] = f"{joined[key]},{value}" if key in joined else value
    return sorted(joined.items())
