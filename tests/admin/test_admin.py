"""The admin port over real HTTP: probes, diagnostics, metrics, and what it refuses."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest

from admin.admin_states import NOW_S, RunningAdmin, ShownState, empty_state, greet_state, problem_state, run_admin
from grpcgw.admin.allowed_hosts import KnownHosts
from grpcgw.admin.diagnostics import DIAGNOSTICS_KEYS
from grpcgw.admin.server import AdminServer
from grpcgw.admin.state import GatewayState
from grpcgw.discovery.store import SourceStatus
from grpcgw.errors import UserError

DIAG = "/ambassador/v0/diag/"
ALIVE = "/ambassador/v0/check_alive"
READY = "/ambassador/v0/check_ready"
EVERY_PATH = (DIAG, f"{DIAG}?json=true", f"{DIAG}live", ALIVE, READY, "/metrics", "/ambassador/v0/static/diag.css")


@pytest.fixture(scope="module")
def running() -> Iterator[RunningAdmin]:
    with run_admin(greet_state()) as admin:
        yield admin


@pytest.fixture
def admin(running: RunningAdmin) -> RunningAdmin:
    running.shown.current = greet_state()
    return running


@pytest.fixture
def client(admin: RunningAdmin) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=admin.url) as client:
        yield client


def test_alive_asks_nobody_and_answers_while_not_ready(admin: RunningAdmin, client: httpx.Client) -> None:
    admin.shown.current = empty_state()

    assert client.get(ALIVE).status_code == 200


def test_ready_tells_the_version_and_how_old_the_sources_are(client: httpx.Client) -> None:
    answer = client.get(READY)

    assert answer.status_code == 200
    assert answer.text.splitlines() == [
        "ready",
        "configuration 3fa91c07be52: served for 2 min 10 s",
        "source directory examples/greet: last contact 2 s ago",
    ]


def test_ready_is_503_with_the_reason_before_the_first_configuration(admin: RunningAdmin, client: httpx.Client) -> None:
    admin.shown.current = empty_state()

    answer = client.get(READY)

    assert answer.status_code == 503
    assert answer.text.startswith("not ready: waiting for a first complete read of kubernetes Mapping\n")
    assert "last contact never (connection refused)" in answer.text


def test_ready_is_503_while_draining(admin: RunningAdmin, client: httpx.Client) -> None:
    admin.shown.current = replace(greet_state(), ready=False, draining=True)

    assert client.get(READY).status_code == 503
    assert client.get(READY).text.startswith("not ready: draining")


def test_a_silent_api_server_leaves_the_gateway_ready_and_is_told(admin: RunningAdmin, client: httpx.Client) -> None:
    silent = SourceStatus("kubernetes Mapping", True, NOW_S - 600, False, "timed out")
    admin.shown.current = replace(greet_state(), sources=(silent,))

    answer = client.get(READY)

    assert answer.status_code == 200
    assert "source kubernetes Mapping: last contact 10 min ago (timed out)" in answer.text


def test_json_has_every_documented_key(client: httpx.Client) -> None:
    answer = client.get(DIAG, params={"json": "true"})

    assert answer.headers["content-type"] == "application/json"
    assert tuple(answer.json()) == DIAGNOSTICS_KEYS


def test_filter_errors_is_an_empty_list_when_nothing_is_wrong(client: httpx.Client) -> None:
    assert client.get(DIAG, params={"json": "true", "filter": "errors"}).json() == []


@pytest.mark.parametrize("key", DIAGNOSTICS_KEYS)
def test_filter_gives_the_same_as_that_key_of_the_whole(client: httpx.Client, key: str) -> None:
    part = client.get(DIAG, params={"json": "true", "filter": key})

    assert part.status_code == 200
    assert part.json() == client.get(DIAG, params={"json": "true"}).json()[key]


def test_an_unknown_filter_is_refused_with_the_known_ones(client: httpx.Client) -> None:
    answer = client.get(DIAG, params={"json": "true", "filter": "erors"})

    assert answer.status_code == 400
    assert "'erors'" in answer.text
    assert all(key in answer.text for key in DIAGNOSTICS_KEYS)


def test_secrets_are_on_no_path(admin: RunningAdmin, client: httpx.Client) -> None:
    admin.shown.current = problem_state()

    assert all("-PEM" not in client.get(path).text for path in EVERY_PATH)


@pytest.mark.parametrize(
    ("path", "target"),
    [("/", DIAG), ("/ambassador/v0/diag", DIAG), ("/ambassador/v0/diag?json=true", f"{DIAG}?json=true")],
)
def test_short_paths_lead_to_the_page(client: httpx.Client, path: str, target: str) -> None:
    answer = client.get(path)

    assert answer.is_redirect
    assert answer.headers["location"] == target


def test_the_icon_is_found_where_browsers_look_for_it(client: httpx.Client) -> None:
    assert client.get("/favicon.ico", follow_redirects=True).headers["content-type"].startswith("image/svg+xml")


def test_metrics_are_prometheus_text(client: httpx.Client) -> None:
    answer = client.get("/metrics")

    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert 'grpcgw_configuration_info{version="3fa91c07be52"} 1.0' in answer.text


@pytest.mark.parametrize("path", EVERY_PATH)
def test_head_is_get_without_a_body(client: httpx.Client, path: str) -> None:
    answer = client.head(path)

    assert answer.status_code == 200
    assert answer.content == b""
    assert int(answer.headers["content-length"]) > 0


@pytest.mark.parametrize("path", EVERY_PATH)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_nothing_can_be_changed(client: httpx.Client, method: str, path: str) -> None:
    assert client.request(method, path).status_code == 405


@pytest.mark.parametrize("path", [*EVERY_PATH, "/nowhere", f"{DIAG}?filter=nonsense"])
def test_every_answer_carries_the_security_headers(client: httpx.Client, path: str) -> None:
    headers = client.get(path).headers

    assert headers["content-security-policy"].startswith("default-src 'none';")
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert "server" not in headers


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:8877", "[::1]:8877", "10.1.2.3", "localhost:8877", "node-1:32087", "ip-10-0-0-1.ec2.internal:32087",
     "grpcgw-admin.grpcgw.svc.cluster.local:8877", "Gateway.Example.Com.:8877"],
)  # fmt: skip
def test_the_page_is_shown_under_addresses_private_names_and_those_it_was_told(host: str) -> None:
    with run_admin(greet_state(), hosts=KnownHosts(("gateway.example.com",))) as admin:
        assert httpx.get(admin.url + DIAG, headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    ("host", "names", "node", "known"),
    [
        ("node-1.corp.example.com:32087", (), "node-1.corp.example.com", True),
        # A node port is on every node, whichever the replica that answers runs on.
        ("node-2.corp.example.com:32087", (), "Node-1.corp.example.com", True),
        ("node-1.example.org", (), "node-1.example.org", True),
        ("corp.example.com", (), "node-1.corp.example.com", False),
        ("evil.example.com", (), "node-1.corp.example.com", False),
        ("evil-corp.example.com", (), "node-1.corp.example.com", False),
        # Anybody can have another name in a domain of one label.
        ("evil.com", (), "example.com", False),
        ("example.com", (), "example.com", True),
        ("evil.com", (), "node-1", False),
        ("a.ops.example.com", (".ops.example.com",), "", True),
        ("a.b.ops.example.com:80", (" .Ops.example.com",), "", True),
        ("evil-ops.example.com", (".ops.example.com",), "", False),
        ("evil.com", (".",), "", False),
    ],
)
def test_names_of_nodes_and_of_whole_domains_are_known(
    host: str, names: tuple[str, ...], node: str, known: bool
) -> None:
    assert KnownHosts(names, node).knows(host) is known


@pytest.mark.parametrize(
    "host", ["evil.example.com", "evil.example.com:8877", "127.0.0.1.evil.example", "", "[evil.com]"]
)
@pytest.mark.parametrize("path", [DIAG, f"{DIAG}?json=true", f"{DIAG}live", "/", "/ambassador/v0/static/diag.css"])
def test_a_name_that_may_be_somebody_elses_is_not_shown_the_diagnostics(
    client: httpx.Client, host: str, path: str
) -> None:
    """A page of somebody else's could read them in the browser of whoever can reach the gateway (DNS rebinding)."""
    answer = client.get(path, headers={"host": host})

    assert answer.status_code == 403
    assert "--admin-host" in answer.text
    assert "GRPCGW_ADMIN_HOST" in answer.text
    assert "greet" not in answer.text


@pytest.mark.parametrize("path", [ALIVE, READY, "/metrics"])
def test_probes_and_metrics_may_be_asked_for_under_any_name(client: httpx.Client, path: str) -> None:
    assert client.get(path, headers={"host": "gateway.example.com"}).status_code == 200


def test_files_outside_the_static_ones_are_not_served(client: httpx.Client) -> None:
    assert client.get("/ambassador/v0/static/..%2fserver.py").status_code == 404
    assert client.get("/ambassador/v0/static/").status_code == 404


def test_a_state_that_cannot_be_taken_is_an_error_and_the_next_request_works(
    admin: RunningAdmin, caplog: pytest.LogCaptureFixture
) -> None:
    admin.shown.current = replace(greet_state(), snapshot=None)  # type: ignore[arg-type]
    assert [httpx.get(admin.url + DIAG).status_code for _ in range(3)] == [500] * 3

    admin.shown.current = greet_state()
    assert httpx.get(admin.url + DIAG).status_code == 200
    assert caplog.text.count("Traceback") == 1, "a page that asks every second does not fill the log"


def test_a_port_in_use_is_the_users_error(admin: RunningAdmin) -> None:
    port = int(admin.url.rpartition(":")[2])

    with pytest.raises(UserError, match=f"admin port {port} is already in use on 127.0.0.1.*--admin-port"):
        asyncio.run(AdminServer(admin.shown, "127.0.0.1", port).start())


@pytest.mark.parametrize(
    ("address", "port", "message"),
    [("192.0.2.1", 0, "cannot listen on 192.0.2.1"), ("127.0.0.1", 70_000, "70000 is not a port")],
)
def test_an_impossible_address_is_the_users_error(address: str, port: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        asyncio.run(AdminServer(ShownState(greet_state()), address, port).start())


async def _signals_while_serving() -> tuple[object, object]:
    server = AdminServer(ShownState(greet_state()), "127.0.0.1", 0)
    port = await server.start()
    async with httpx.AsyncClient() as client:
        await client.get(f"http://127.0.0.1:{port}{ALIVE}")
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    await server.stop()
    return handlers


def test_signal_handlers_stay_with_the_application() -> None:
    before = signal.getsignal(signal.SIGTERM)

    sigterm, _ = asyncio.run(_signals_while_serving())

    assert sigterm is before


def test_stop_closes_the_port_and_may_come_at_once_or_without_a_start() -> None:
    async def start_and_stop() -> int:
        server = AdminServer(ShownState(greet_state()), "127.0.0.1", 0)
        await server.stop()
        port = await server.start()
        await server.stop()
        return port

    port = asyncio.run(start_and_stop())

    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_stop_does_not_wait_for_a_client_that_holds_its_connection() -> None:
    async def stop_with_open_connections() -> None:
        server = AdminServer(ShownState(greet_state()), "127.0.0.1", 0)
        port = await server.start()
        async with httpx.AsyncClient() as client:
            await client.get(f"http://127.0.0.1:{port}{ALIVE}")
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\n")
            await asyncio.wait_for(server.stop(), 20)
            writer.close()

    asyncio.run(stop_with_open_connections())


def test_an_ipv6_address_can_be_bound() -> None:
    async def fetch(state: GatewayState) -> int:
        server = AdminServer(ShownState(state), "::1", 0)
        try:
            port = await server.start()
        except UserError as error:
            pytest.skip(f"no IPv6 here: {error}")
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"http://[::1]:{port}{ALIVE}")
        await server.stop()
        return answer.status_code

    assert asyncio.run(fetch(greet_state())) == 200
