"""The messages of active health checks: `grpc.health.v1.Health/Check` as bytes. Both engines send it over a pod's own
connection; `upstream.active_health` decides when, and what an answer means."""

from __future__ import annotations

from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from grpcgw.model.balancing import HealthCheck
from grpcgw.upstream.active_health import judge_check

CHECK_METHOD = "/grpc.health.v1.Health/Check"


def encode_request(check: HealthCheck) -> bytes:
    encoded: bytes = health_pb2.HealthCheckRequest(service=check.service).SerializeToString()
    return encoded


def judge_answer(check: HealthCheck, code: int, details: str, reply: bytes | None) -> str:
    """Why the check failed, or empty where the pod is serving. `reply`: the message, where one came."""
    try:
        serving = None if reply is None else health_pb2.HealthCheckResponse.FromString(reply).status
    except DecodeError:
        return "the pod's answer is no HealthCheckResponse"
    return judge_check(check, code, details, serving)
