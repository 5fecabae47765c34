"""What may be a secret in a configuration is on no page, in no JSON, metric, problem or log line."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from typing import Any

import pytest

from admin.admin_states import greet_state
from grpcgw.admin.describe import HIDDEN
from grpcgw.admin.diagnostics import render_diagnostics
from grpcgw.admin.page import render_live_part, render_page
from grpcgw.admin.views import view_gateway
from grpcgw.discovery.resolvers.consul import ConsulResolver
from grpcgw.model.cluster import Cluster, ConsulAgent, ResolverKind, ServiceRef
from grpcgw.model.endpoints import EndpointSet
from grpcgw.model.environment import fill_in
from grpcgw.model.match import HeaderMatch
from tests.compiling import compile_objects, mapping, said
from tests.parsing import parse_objects

SECRET = "k3y-of-a-cl1ent"


@pytest.mark.parametrize(
    "match", [HeaderMatch("x-api-key", exact=SECRET), HeaderMatch("authorization", regex=f"Bearer {SECRET}.*")]
)
def test_what_headers_are_compared_with_is_not_shown(match: HeaderMatch) -> None:
    state = greet_state()
    (route,) = state.snapshot.routes
    view = view_gateway(replace(state, snapshot=replace(state.snapshot, routes=(replace(route, headers=(match,)),))))
    page, diagnostics = render_page(view), str(render_diagnostics(view))

    assert SECRET not in page + render_live_part(view) + diagnostics
    assert match.name in page
    assert match.name in diagnostics
    assert HIDDEN in page
    assert HIDDEN in diagnostics


def test_a_method_is_no_secret() -> None:
    state = greet_state()
    (route,) = state.snapshot.routes
    post = replace(route, headers=(HeaderMatch(":method", exact="POST"),))
    assert ":method = POST" in render_page(
        view_gateway(replace(state, snapshot=replace(state.snapshot, routes=(post,))))
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"regex_headers": {"authorization": f"({SECRET}"}},
        {"headers": {"x-api-key": [SECRET]}},
        {"headers": {"x-api-key": {"value": SECRET}}},
        {"regex_headers": {"x-api-key": [SECRET]}},
        {"add_request_headers": {"x-api-key": f"{SECRET}\n"}},
        {"add_request_headers": {"x-api-key-bin": f"{SECRET}%"}},
        {"add_request_headers": {"x-api-key-bin": f"{SECRET}!"}},
        {"add_request_headers": {"x-api-key": [SECRET]}},
        {"add_request_headers": {"x-api-key": {"value": [SECRET]}}},
        {"add_request_headers": {"x-api-key": {"value": SECRET, "apend": True}}},
        {"add_request_headers": {"x-api-key": f"%REQ(x)% {SECRET} %NONSENSE%"}},
        {"service": f"http://user:{SECRET}@greet:50051"},
        {"service": f"user:{SECRET}@greet"},
    ],
    ids=str,
)
def test_a_problem_with_a_value_that_may_be_a_secret_does_not_quote_it(fields: dict[str, Any]) -> None:
    found = said(compile_objects(mapping("m", **fields)))

    assert found
    assert SECRET not in str(found)


@pytest.mark.parametrize("address", ["$CONSUL", "http://user:${TOKEN}@consul:8500", "https://${TOKEN}:1/"])
def test_the_address_of_an_agent_is_shown_as_it_is_written(address: str) -> None:
    text = f"""
apiVersion: getambassador.io/v3alpha1
kind: ConsulResolver
metadata: {{name: consul}}
spec: {{address: "{address}", datacenter: dc1}}
---
apiVersion: getambassador.io/v3alpha1
kind: Mapping
metadata: {{name: m}}
spec: {{hostname: "*", prefix: /a.B/, service: greet, resolver: consul}}
"""
    environment = {"CONSUL": f"{SECRET}:1/x", "TOKEN": SECRET}
    objects, problems = parse_objects(text, "m.yaml", "default", 1, environment)
    assert SECRET not in str([*problems, *said(compile_objects(*objects))])


def test_an_agent_that_cannot_be_reached_is_called_as_it_is_written() -> None:
    async def ask() -> str:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            port = str(closed.getsockname()[1])
            filled = fill_in("localhost:${CONSUL_PORT}", {"CONSUL_PORT": port})
            assert filled is not None
            agent = ConsulAgent(filled.text, "dc1", (filled,))
            resolver, found = ConsulResolver(), asyncio.Queue[EndpointSet]()
            async with asyncio.TaskGroup() as tasks:
                running = tasks.create_task(resolver.run())
                service = ServiceRef("greet", "", 80, "greet")
                cluster = Cluster("greet", ResolverKind.CONSUL, "consul", service, consul=agent)
                resolver.watch(cluster, found.put_nowait)
                error = (await asyncio.wait_for(found.get(), 20)).error
                running.cancel()
        assert port not in error
        return error

    assert "localhost:${CONSUL_PORT} (dc1), service greet: the connection failed" in asyncio.run(ask())


def test_mappings_that_differ_in_a_secret_are_told_without_it() -> None:
    first = mapping("a", headers={"x-api-key": SECRET}, weight=50)
    second = mapping("b", headers={"x-api-key": SECRET + "2"}, weight=50)
    assert SECRET not in str(said(compile_objects(first, second)))
