"""The gateway's own rate limit service on both engines: what it counts, for whom, and what its port serves."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from dataplane.configured import compile_yaml, configured
from dataplane.lab import Lab, clear_port
from dataplane.waiting import PATIENCE_S, eventually
from grpcgw.model.endpoints import Endpoint, EndpointSet
from grpcgw.policy.limits.limiter import Leased, LimitCounter
from grpcgw.policy.limits.rate_limit_service_pb2 import (
    OK,
    OVER_LIMIT,
    Descriptor,
    Entry,
    RateLimitRequest,
    RateLimitResponse,
)
from grpcgw.policy.verdicts import ALLOW, Allow
from grpcgw.services.rate_limit_server import COUNT_PATH

LIMITS = """
kind: RateLimit
name: limits
domain: shop
limits:
  - {pattern: [{tenant: "*"}], rate: 3, unit: hour}
---
name: greet
service: greet
labels:
  shop:
    - tenant: [{request_headers: {key: tenant, header_name: x-tenant}}]
"""


def ask_for(tenant: str, domain: str = "shop", hits: int = 0) -> bytes:
    descriptor = Descriptor(entries=[Entry(key="tenant", value=tenant)])
    return RateLimitRequest(domain=domain, descriptors=[descriptor], hits_addend=hits).SerializeToString()


class Serving:
    """A gateway with RateLimits, and the port of its rate limit service."""

    def __init__(self, lab: Lab, text: str = LIMITS) -> None:
        self.lab, self.snapshot = lab, compile_yaml(text, lab.engine).snapshot
        self.greet = lab.pod("greet")
        ports = clear_port(), clear_port("limits", address="127.0.0.1", counts_for_others=True)
        clusters = {name: [self.greet] for name in self.snapshot.clusters}
        self.gateway = lab.gateway(configuration=self.snapshot, clusters=clusters, ports=ports)
        self.gateway.wait_for_ready_pods(1)
        self._channel = lab.channel_to(clear_port(port=self.port))

    @property
    def port(self) -> int:
        return self.gateway.engine.ports.numbers()[-1]

    def begin(self, message: bytes, path: str = COUNT_PATH) -> grpc.Future:
        return self._channel.unary_unary(path).future(message, timeout=PATIENCE_S)

    def ask(self, message: bytes) -> RateLimitResponse:
        return RateLimitResponse.FromString(self.begin(message).result())

    def call(self, tenant: str) -> grpc.Future:
        channel = self.lab.channel(self.gateway)
        return channel.unary_unary("/test.Pod/Unary").future(
            b"hi", metadata=(("x-tenant", tenant),), timeout=PATIENCE_S
        )


def test_it_counts_with_the_limits_of_the_gateway(lab: Lab) -> None:
    serving = Serving(lab)
    first = serving.ask(ask_for("ann"))
    (status,) = first.statuses
    assert (first.overall_code, status.limit_remaining, status.current_limit.requests_per_unit) == (OK, 2, 3)
    assert serving.call("ann").result() == b"greet:hi"
    assert serving.call("ann").result() == b"greet:hi"
    refused = serving.ask(ask_for("ann"))
    assert refused.overall_code == OVER_LIMIT
    assert 3500 < refused.statuses[0].duration_until_reset.seconds <= 3600
    assert serving.call("ann").code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert serving.ask(ask_for("bob")).overall_code == OK


def test_an_unknown_domain_is_allowed(lab: Lab) -> None:
    answer = Serving(lab).ask(ask_for("ann", domain="other"))
    assert (answer.overall_code, len(answer.statuses)) == (OK, 1)


def test_a_reload_changes_the_limits(lab: Lab) -> None:
    serving = Serving(lab)
    assert serving.ask(ask_for("ann", hits=4)).overall_code == OVER_LIMIT
    serving.gateway.apply(compile_yaml(LIMITS.replace("rate: 3", "rate: 9"), lab.engine).snapshot)
    assert serving.ask(ask_for("ann", hits=4)).overall_code == OK
    serving.gateway.apply(replace(serving.snapshot, rate_limits=()))
    assert serving.ask(ask_for("ann", hits=99)).overall_code == OK


@pytest.mark.parametrize("message", [b"\xff", b"", ask_for("x" * 5000)])
def test_a_request_that_cannot_be_counted_is_an_invalid_argument(lab: Lab, message: bytes) -> None:
    assert Serving(lab).begin(message).code() is grpc.StatusCode.INVALID_ARGUMENT


def test_its_port_serves_no_mapping_and_the_others_do_not_serve_it(lab: Lab) -> None:
    serving = Serving(lab)
    call = serving.begin(b"hi", "/test.Pod/Unary")
    assert (call.code(), serving.greet.calls) == (grpc.StatusCode.UNIMPLEMENTED, [])
    health = serving.begin(b"", "/grpc.health.v1.Health/Check").result()
    assert health_pb2.HealthCheckResponse.FromString(health).status == health_pb2.HealthCheckResponse.SERVING
    outside = lab.channel(serving.gateway).unary_unary(COUNT_PATH).future(ask_for("ann"), timeout=PATIENCE_S)
    assert outside.code() is grpc.StatusCode.UNIMPLEMENTED
    assert serving.ask(ask_for("ann")).statuses[0].limit_remaining == 2


def test_many_that_count_at_once_get_as_many_as_the_limit(lab: Lab) -> None:
    serving = Serving(lab, LIMITS.replace("rate: 3", "rate: 100"))
    running = [serving.begin(ask_for("ann")) for _ in range(300)]
    codes = [RateLimitResponse.FromString(one.result()).overall_code for one in running]
    assert (codes.count(OK), codes.count(OVER_LIMIT)) == (100, 200)


def test_one_gateway_counts_for_another(lab: Lab) -> None:
    serving = Serving(lab)
    text = """
    kind: RateLimitService
    name: limits
    service: limits
    resolver: endpoint
    protocol_version: v3
    domain: shop
    timeout_ms: 30000
    failure_mode_deny: true
    ---
    name: greet
    service: greet
    labels:
      shop:
        - tenant: [{request_headers: {key: tenant, header_name: x-tenant}}]
    """
    other = configured(lab, text, greet=lab.pod("greet"))
    limits = EndpointSet((Endpoint("127.0.0.1", serving.port, "limits"),))
    (name,) = [name for name, one in other.serving.snapshot.clusters.items() if one.service.name == "limits"]
    other.serving.set_endpoints(name, limits, 0.0)
    other.wait_for_ready_pods(2)
    call = lab.channel(other).unary_unary("/test.Pod/Unary")
    metadata = (("x-tenant", "ann"),)
    codes = [call.future(b"hi", metadata=metadata, timeout=PATIENCE_S).code() for _ in range(4)]
    assert codes == [*[grpc.StatusCode.OK] * 3, grpc.StatusCode.RESOURCE_EXHAUSTED]


# --- while the remote buckets lease


class SlowBuckets:
    """Remote buckets that lease when the test says so."""

    away = False

    def __init__(self) -> None:
        self._leased: list[Leased] = []
        self.reached, self.cancelled = threading.Event(), threading.Event()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def collect(self) -> list[Leased]:
        leased, self._leased = self._leased, []
        return leased

    def lease(self, counters: Sequence[LimitCounter], hits: int) -> Callable[[], Coroutine[Any, Any, Allow]]:
        async def run() -> Allow:
            given = asyncio.Event()
            self._waiting.append((asyncio.get_running_loop(), given))
            self.reached.set()
            try:
                await given.wait()
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
            self._leased += [Leased(counter, 5, 0.0) for counter in counters]
            return ALLOW

        return run

    def give(self) -> None:
        for loop, given in self._waiting:
            loop.call_soon_threadsafe(given.set)


def with_buckets(lab: Lab) -> tuple[Serving, SlowBuckets]:
    serving, buckets = Serving(lab), SlowBuckets()
    serving.gateway.serving.policy_services.limiter.remote = buckets
    return serving, buckets


def test_it_waits_for_a_lease_of_the_remote_buckets(lab: Lab) -> None:
    serving, buckets = with_buckets(lab)
    call = serving.begin(ask_for("ann"))
    assert buckets.reached.wait(PATIENCE_S)
    assert not call.done()
    buckets.give()
    answer = RateLimitResponse.FromString(call.result())
    assert (answer.overall_code, answer.statuses[0].limit_remaining) == (OK, 4)


def test_a_client_that_cancels_ends_the_wait_for_a_lease(lab: Lab) -> None:
    serving, buckets = with_buckets(lab)
    call = serving.begin(ask_for("ann"))
    assert buckets.reached.wait(PATIENCE_S)
    call.cancel()
    assert buckets.cancelled.wait(PATIENCE_S)
    eventually(lambda: not serving.gateway.in_flight())
