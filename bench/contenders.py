"""The proxies of a comparison, in the order of its table: every engine of grpcgw first, then the others."""

from __future__ import annotations

from bench.envoy import envoy
from bench.nginx_haproxy import find_program, haproxy, nginx
from bench.proxies import Start, bare_aio, grpcgw
from grpcgw.settings import EngineName

ENVOY, EMISSARY = "Envoy", "Envoy as Emissary"
AIO = "bare grpc.aio"
BUSY = "http2 --busy-poll 200"
TLS_ENVOY, TLS_EMISSARY = f"{ENVOY} with TLS", f"{EMISSARY} with TLS"
OPTIONAL: dict[str, Start] = {"nginx": nginx, "HAProxy": haproxy}


def engine_rows() -> dict[str, Start]:
    return {engine.value: grpcgw(engine) for engine in EngineName}


def clear_text_rows() -> dict[str, Start]:
    """nginx and HAProxy if they are installed."""
    busy = {BUSY: grpcgw(EngineName.HTTP2, f"grpcgw, {BUSY}", options=("--busy-poll", "200"))}
    others = busy | {AIO: bare_aio, ENVOY: envoy(ENVOY), EMISSARY: envoy(EMISSARY, as_emissary=True)}
    return engine_rows() | others | {name: start for name, start in OPTIONAL.items() if find_program(name.lower())}


def tls_rows() -> dict[str, Start]:
    """The same pods in clear text, clients over TLS."""
    engines = {engine.value: grpcgw(engine, f"grpcgw, {engine} with TLS", tls=True) for engine in EngineName}
    others = {
        TLS_ENVOY: envoy(TLS_ENVOY, tls=True),
        TLS_EMISSARY: envoy(TLS_EMISSARY, as_emissary=True, tls=True),
    }
    return engines | others


def missing() -> list[str]:
    return [name for name in OPTIONAL if not find_program(name.lower())]
