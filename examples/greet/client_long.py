"""A long-lived client: one connection for all its calls.

`python -m examples.greet.client_long --target localhost:8080 --calls 10`; `--tls` for the TLS port.
"""

from __future__ import annotations

import sys

import grpc

from examples.greet.connection import (
    DEADLINE_S,
    describe_error,
    describe_ports,
    fetch_trust,
    local_ports,
    open_channel,
    parse_arguments,
)
from greet import greet_pb2, greet_pb2_grpc


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments("Greets on one long-lived connection.", arguments)
    ports: set[int] = set()
    try:
        trust = fetch_trust(options.host, options.port) if options.tls else None
        with open_channel(options, trust) as channel:
            stub = greet_pb2_grpc.GrpcServiceStub(channel)
            for _ in range(options.calls):
                reply = stub.Greet(greet_pb2.GreetRequest(input=options.text), timeout=DEADLINE_S)
                print(f"Response from Service: {reply.message}", flush=True)
                ports |= local_ports(options.port)
    except (grpc.RpcError, OSError) as error:
        print(describe_error(error), file=sys.stderr)
        return 1
    print(describe_ports(sorted(ports)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
