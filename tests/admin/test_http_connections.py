"""What clients of the admin port may do to each other: nothing. Probes get through whatever others hold open."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from dataclasses import replace

import httpx
import psutil
import pytest
from dataplane.waiting import PATIENCE_S, eventually

from admin.admin_states import ShownState, greet_state, run_admin
from grpcgw.admin.http_connections import Limits
from grpcgw.admin.server import AdminServer
from grpcgw.admin.state import GatewayState, OneAtATime

ALIVE = "/ambassador/v0/check_alive"
READY = "/ambassador/v0/check_ready"
SHORT = Limits(most=20, request_s=0.2, answer_s=0.2)


@contextlib.contextmanager
def connections(url: httpx.URL, count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection((url.host, url.port))) for _ in range(count)]


def is_closed(connection: socket.socket) -> bool:
    connection.settimeout(PATIENCE_S)
    try:
        return connection.recv(65_536) == b""
    except ConnectionResetError:
        return True


def test_a_connection_that_says_nothing_is_closed() -> None:
    with run_admin(greet_state(), limits=SHORT) as admin, connections(httpx.URL(admin.url), 1) as (silent,):
        assert is_closed(silent)


def test_headers_that_never_end_do_not_keep_a_connection_open() -> None:
    with run_admin(greet_state(), limits=SHORT) as admin, connections(httpx.URL(admin.url), 1) as (slow,):
        slow.sendall(b"GET /metrics HTTP/1.1\r\n")
        slow.settimeout(0.02)

        def goes_on() -> bool:
            slow.sendall(b"x-more: 1\r\n")
            with contextlib.suppress(TimeoutError):
                return bool(slow.recv(1))
            return True

        with pytest.raises(ConnectionError):
            eventually(lambda: not goes_on() and goes_on())


def test_a_connection_that_asks_again_and_again_stays_open() -> None:
    with run_admin(greet_state(), limits=SHORT) as admin, connections(httpx.URL(admin.url), 1) as (asking,):
        limit_s = time.monotonic() + 3 * SHORT.request_s
        while time.monotonic() < limit_s:
            asking.sendall(b"GET /ambassador/v0/check_alive HTTP/1.1\r\nhost: localhost\r\n\r\n")
            said = b""
            while not said.endswith(b"alive\n"):
                said += (received := asking.recv(65_536))
                assert received


def test_an_answer_that_nobody_reads_is_given_up() -> None:
    state = greet_state()
    route = state.snapshot.routes[0]
    many = replace(state, snapshot=replace(state.snapshot, routes=(route,) * 3000))
    with run_admin(many, limits=SHORT) as admin, connections(httpx.URL(admin.url), 1) as (deaf,):
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.sendall(b"GET /ambassador/v0/diag/?json=true HTTP/1.1\r\nhost: localhost\r\n\r\n")
        port = httpx.URL(admin.url).port
        eventually(lambda: not [c for c in psutil.Process().net_connections("tcp") if c.laddr[1] == port and c.raddr])


@pytest.mark.parametrize("said", [b"", b"GET /metrics HTTP/1.1\r\nx-slow: "], ids=["silent", "slow"])
def test_probes_are_answered_while_hundreds_hold_connections(said: bytes) -> None:
    """None of them reaches its time-out here: the oldest make room for those that come."""
    with (
        run_admin(greet_state(), limits=Limits(most=20, request_s=600)) as admin,
        connections(httpx.URL(admin.url), 400) as held,
    ):
        for connection in held:
            with contextlib.suppress(ConnectionError):  # it has made room already
                connection.sendall(said)
        for path in (ALIVE, READY):
            assert httpx.get(admin.url + path, timeout=PATIENCE_S).status_code == 200


def test_a_request_that_breaks_off_while_it_is_answered_is_no_defect(caplog: pytest.LogCaptureFixture) -> None:
    with run_admin(greet_state()) as admin, connections(httpx.URL(admin.url), 1) as (broken,):
        broken.sendall(b"POST /metrics HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nno length\r\n")
        assert broken.recv(12) == b"HTTP/1.1 400"
        assert httpx.get(admin.url + ALIVE).status_code == 200
    assert [one for one in caplog.records if one.levelname == "ERROR"] == []


def test_connections_with_a_request_make_room_last() -> None:
    async def hold() -> bytes:
        shown = ShownState(greet_state())
        asked, answer = asyncio.Event(), asyncio.Event()

        async def state() -> object:
            asked.set()
            await answer.wait()
            return shown.current

        shown.state = state  # type: ignore[method-assign,assignment]
        server = AdminServer(shown, "127.0.0.1", 0, limits=Limits(most=5))
        port = await server.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /ambassador/v0/check_ready HTTP/1.1\r\nhost: localhost\r\n\r\n")
        await asked.wait()
        others = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
        await others[0][0].read()  # the first of them has made room
        answer.set()
        said = await asyncio.wait_for(reader.read(15), 10)
        for _, other in [*others, (reader, writer)]:
            other.close()
        await server.stop()
        return said

    assert asyncio.run(hold()) == b"HTTP/1.1 200 OK"


def test_however_many_ask_one_picture_is_taken_at_a_time_and_each_gets_one_begun_after_it_asked() -> None:
    class Camera:
        begun = running = most = 0

        async def state(self) -> GatewayState:
            self.begun += 1
            self.running += 1
            self.most = max(self.most, self.running)
            number = self.begun
            for _ in range(3):
                await asyncio.sleep(0)
            self.running -= 1
            return replace(greet_state(), worker_restarts_total=number)

    async def ask() -> tuple[Camera, list[int]]:
        camera = Camera()
        pictures = OneAtATime(camera)
        asked = []
        for _ in range(10):
            asked.append((camera.begun, asyncio.create_task(pictures.state())))
            await asyncio.sleep(0)
        late = [(await task).worker_restarts_total - begun for begun, task in asked]
        return camera, late

    camera, late = asyncio.run(ask())
    assert camera.most == 1
    assert camera.begun < 10
    assert all(number >= 1 for number in late)
