"""`grpcgw run --rate-limit-service`: one limit over all workers, for whoever counts with the gateway."""

from __future__ import annotations

from pathlib import Path

import grpc
from dataplane.waiting import PATIENCE_S

from gateway.harness import HOST, running_gateway
from grpcgw.policy.limits.rate_limit_service_pb2 import (
    OK,
    OVER_LIMIT,
    Descriptor,
    Entry,
    RateLimitRequest,
    RateLimitResponse,
)
from grpcgw.services.rate_limit_server import COUNT_PATH

LIMITS = """
apiVersion: getambassador.io/v2
kind: RateLimit
metadata: {name: limits}
spec:
  domain: shop
  limits:
    - {pattern: [{tenant: "*"}], rate: 100, unit: hour}
"""
REQUEST = RateLimitRequest(domain="shop", descriptors=[Descriptor(entries=[Entry(key="tenant", value="ann")])])


def test_all_workers_count_together_on_a_port_that_only_this_machine_reaches(tmp_path: Path) -> None:
    folder = tmp_path / "configuration"
    folder.mkdir()
    (folder / "limits.yaml").write_text(LIMITS)
    arguments = ("--config", str(folder), "--rate-limit-service", "0")
    with running_gateway(*arguments, workers=2, folder=tmp_path) as gateway:
        (listener,) = [one for one in gateway.diagnostics("listeners") if "rate limit service" in one["detail"]]
        address = listener["address"]
        assert address.startswith(f"{HOST}:")
        assert listener["detail"] == "rate limit service: domain shop (1 limit); all else is allowed"
        assert f"listening on {address} (h2c, rate limit service)" in gateway.log()
        codes = []
        for _ in range(4):  # connections, which the workers share
            with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
                ask = channel.unary_unary(COUNT_PATH, RateLimitRequest.SerializeToString, RateLimitResponse.FromString)
                running = [ask.future(REQUEST, timeout=PATIENCE_S) for _ in range(50)]
                codes += [one.result().overall_code for one in running]
        assert (codes.count(OK), codes.count(OVER_LIMIT)) == (100, 100)
