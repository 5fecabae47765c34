"""Pods that echo every byte of every stream, on raw frames: `python -m bench.echo_pod COUNT` prints their ports."""

from __future__ import annotations

import asyncio
import sys

import uvloop

from bench.frames import FrameConnection, Headers
from grpcgw.cli.demo_processes import HOST

HEADERS = ((":status", "200"), ("content-type", "application/grpc"))
TRAILERS = (("grpc-status", "0"),)


class EchoConnection(FrameConnection):
    def __init__(self) -> None:
        super().__init__(is_client=False)

    def on_headers(self, stream: int, headers: Headers, ended: bool) -> None:
        self.send_headers(stream, HEADERS)
        if ended:
            self.send_trailers(stream, TRAILERS)

    def on_data(self, stream: int, data: memoryview, ended: bool) -> None:
        if data:
            self.send_data(stream, data)
        if ended:
            self.send_trailers(stream, TRAILERS)

    def on_lost(self, reason: str) -> None:
        self.close()


async def main(count: int) -> None:
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(EchoConnection, HOST, 0) for _ in range(count)]
    print(*(server.sockets[0].getsockname()[1] for server in servers), flush=True)
    await asyncio.gather(*(server.serve_forever() for server in servers))


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
