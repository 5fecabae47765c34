"""How the gateway's own log looks: one line per event on stderr, with the process it comes from; how it counts."""

from __future__ import annotations

import logging


def set_up_logging(level: str, process: str) -> None:
    """`level`: debug, info, warning or error. `process`: `control`, `worker 1`."""
    logging.basicConfig(
        level=level.upper(),
        format=f"%(asctime)s %(levelname)-7s {process}: %(message)s",
        force=True,
    )
    for noisy in ("asyncio", "watchfiles", "uvicorn.error", "grpc"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def count(number: int, noun: str) -> str:
    """`no routes`, `1 route`, `2 routes`."""
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"
