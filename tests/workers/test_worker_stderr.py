"""The stderr of workers: failed handshakes are counted by cause, other lines are logged, no writer waits."""

from __future__ import annotations

import asyncio
import contextlib
import logging

import pytest

from grpcgw.telemetry.handshake_failures import LOG_EVERY_S
from grpcgw.workers.worker_stderr import (
    MOST_LOGGED_LINES,
    WorkerStderr,
    open_pipe,
    operator_sets_verbosity,
)

PLACE = b"I1126 15:16:23.348946    1257 ssl_transport_security.cc:2563] "


def failed(error: str) -> bytes:
    """As grpc core says it."""
    what = f"Handshake failed with error SSL_ERROR_SSL: error:100000f7:SSL routines:OPENSSL_internal:{error}"
    return PLACE + what.encode() + b": Invalid certificate verification context"


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        ("WRONG_VERSION_NUMBER", "no-tls"),
        ("HTTP_REQUEST", "http"),
        ("PEER_DID_NOT_RETURN_A_CERTIFICATE", "no-client-certificate"),
        ("CERTIFICATE_VERIFY_FAILED", "untrusted-certificate"),
        ("TLSV1_ALERT_PROTOCOL_VERSION", "tls-version"),
        ("NOBODY_KNOWS", "other"),
    ],
)
def test_a_handshake_that_failed_is_counted_by_its_cause(error: str, cause: str) -> None:
    core = WorkerStderr(0)
    core.read_lines([failed(error), failed(error)])
    assert core.handshake_failures == {cause: 2}


def test_each_cause_has_a_line_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    now_s = 100.0
    core = WorkerStderr(3, lambda: now_s)
    core.read_lines([failed("HTTP_REQUEST")] * 50 + [failed("WRONG_VERSION_NUMBER")])
    core.read_lines([failed("HTTP_REQUEST")] * 50)
    now_s += LOG_EVERY_S
    core.read_lines([failed("HTTP_REQUEST")])
    assert caplog.messages == [
        "worker 3: TLS handshakes failed: http, 1 more",
        "worker 3: TLS handshakes failed: no-tls, 1 more",
        "worker 3: TLS handshakes failed: http, 100 more",
    ]


def test_other_lines_of_core_are_dropped_and_other_lines_logged(caplog: pytest.LogCaptureFixture) -> None:
    WorkerStderr(1).read_lines(
        [b"E1126 15:16:23.3 1 x.cc:1] what a client may cause", b"", b"Fatal Python error: Aborted"]
    )
    assert caplog.messages == ["worker 1 on stderr: Fatal Python error: Aborted"]


def test_a_process_that_writes_without_end_fills_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    assert WorkerStderr(1).read_lines([b"x"] * 1000) == MOST_LOGGED_LINES
    assert len(caplog.messages) == MOST_LOGGED_LINES


def test_a_pipe_is_read_to_its_end_and_never_makes_its_writer_wait() -> None:
    core, (ours, theirs) = WorkerStderr(0), open_pipe()
    with contextlib.suppress(BlockingIOError), open(theirs, "wb", buffering=0) as writer:
        while writer.write(failed("HTTP_REQUEST") + b"\n"):
            pass
    asyncio.run(asyncio.wait_for(core.follow(ours), 20))
    assert core.handshake_failures["http"] > 100


def test_a_level_that_the_operator_has_chosen_is_his() -> None:
    assert operator_sets_verbosity({"GRPC_VERBOSITY": "DEBUG"})
    assert not operator_sets_verbosity({"GRPC_VERBOSITY": "NONE"})
    assert not operator_sets_verbosity({})
