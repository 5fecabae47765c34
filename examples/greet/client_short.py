"""A client that opens a new connection for each call.

`python -m examples.greet.client_short --target localhost:8080 --calls 10`; `--tls` for the TLS port.
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
    options = parse_arguments("Greets on a new connection per call.", arguments)
    ports: list[int] = []
    try:
        trust = fetch_trust(options.host, options.port) if options.tls else None
        for _ in range(options.calls):
            with open_channel(options, trust) as channel:
                stub = greet_pb2_grpc.GrpcServiceStub(channel)
                reply = stub.Greet(greet_pb2.GreetRequest(input=options.text), timeout=DEADLINE_S)
                print(f"Response from Service: {reply.message}", flush=True)
                # A connection closed a moment ago may still be open in the list.
                ports += sorted(local_ports(options.port).difference(ports))
    except (grpc.RpcError, OSError) as error:
        print(describe_error(error), file=sys.stderr)
        return 1
    print(describe_ports(ports))
    return 0


if __name__ == "__main__":
    sys.exit(main())
