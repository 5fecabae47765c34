"""Listeners come, change and go while `grpcgw run` serves."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from dataplane.authorities import Authority, Identity
from dataplane.waiting import PATIENCE_S, eventually

from examples.greet.server import Pod
from gateway.harness import BASE, HOST, Gateway, Stream, greet, running_gateway, status_of
from gateway.objects import Body, Directory, host, listener, put_greet, secret
from grpcgw.admin.state import GatewayState
from grpcgw.admin.views import not_ready_reason
from grpcgw.control.control import Control
from grpcgw.control.factories import make_plan, make_workers
from grpcgw.errors import UserError
from grpcgw.listeners.data_ports import HeldPorts
from grpcgw.settings import Settings
from tests.kube_api import KubeApi

OTHER_HOST = "127.0.0.2"
NOT_GIVEN = range(20_000, 32_000)
"""Below the ports that Linux gives to whoever asks for any (`ip_local_port_range`)."""


@pytest.fixture
def free_ports() -> tuple[int, int]:
    """Ports that nobody has now, nor gets by asking for any, as the gateway does for its admin port."""
    held, numbers = HeldPorts(HOST), list[int]()
    for number in random.sample(NOT_GIVEN, 100):
        with contextlib.suppress(UserError):
            numbers.append(held.hold(number))
        if len(numbers) == 2:
            break
    held.release()
    first, second = numbers
    return first, second


def channel_to(port: int, credentials: grpc.ChannelCredentials | None = None) -> grpc.Channel:
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.ssl_target_name_override", "localhost")]
    if credentials is None:
        return grpc.insecure_channel(f"{HOST}:{port}", options[:1])
    return grpc.secure_channel(f"{HOST}:{port}", credentials, options)


def is_served(port: int, credentials: grpc.ChannelCredentials | None = None) -> bool:
    with contextlib.suppress(grpc.RpcError), channel_to(port, credentials) as channel:
        return bool(greet(channel))
    return False


def listened_on(gateway: Gateway) -> set[tuple[int, str]]:
    found = gateway.diagnostics("listeners")
    return {(int(each["address"].rpartition(":")[2]), each["protocol"]) for each in found}


def test_listeners_come_change_and_go_while_others_serve(
    directory: Directory, tmp_path: Path, free_ports: tuple[int, int]
) -> None:
    first, second = free_ports
    with running_gateway("--config", str(directory.path), folder=tmp_path, workers=2) as gateway:
        assert listened_on(gateway) == {(gateway.port, "h2c"), (gateway.tls_port, "tls")}
        directory.put(listener("first", first))
        eventually(lambda: is_served(first), gateway.log)
        eventually(lambda: not is_served(gateway.port), "the Listener stands in for the flags")
        assert listened_on(gateway) == {(first, "h2c")}
        with channel_to(first) as channel, Stream(channel) as stream:
            assert stream.echo()
            directory.put(listener("second", second))
            eventually(lambda: is_served(second), gateway.log)
            directory.put(listener("second", second, protocol="HTTPS"))
            eventually(lambda: listened_on(gateway) == {(first, "h2c"), (second, "tls, h2c")}, gateway.log)
            eventually(lambda: is_served(second), "without a Host, it takes clear text beside TLS")
            directory.delete("Listener", "default", "second")
            eventually(lambda: listened_on(gateway) == {(first, "h2c")}, gateway.log)
            assert stream.echo(), "the other port's connections are not touched"
        directory.delete("Listener", "default", "first")
        eventually(lambda: is_served(gateway.port), "the flags' ports are back")
        eventually(lambda: not is_served(first), gateway.log)
        assert gateway.errors() == []


def test_a_port_that_another_program_has_is_told_on_the_listener_and_had_later(
    directory: Directory, tmp_path: Path, free_ports: tuple[int, int]
) -> None:
    taken, free = free_ports
    directory.put(listener("free", free))
    directory.put(listener("taken", taken))
    with contextlib.ExitStack() as other_program:
        other_program.enter_context(socket.create_server((HOST, taken)))
        with running_gateway("--config", str(directory.path), folder=tmp_path, workers=1) as gateway:
            assert is_served(free)
            (error,) = gateway.errors()
            assert "Listener taken.default" in error
            assert f"cannot listen on {HOST}:{taken}" in error
            assert listened_on(gateway) == {(free, "h2c")}
            other_program.close()
            eventually(lambda: is_served(taken), gateway.log)
            assert gateway.errors() == []


def mutual(name: str, secret_name: str, ca: str) -> Body:
    obj = host(secret_name, "*", name)
    obj["spec"]["tls"] = {"ca_secret": ca, "cert_required": True}
    obj["spec"]["requestPolicy"] = {"insecure": {"action": "Reject"}}
    return obj


def test_client_certificates_and_request_policy_and_a_broken_certificate_keeps_the_old(
    directory: Directory, tmp_path: Path, free_ports: tuple[int, int]
) -> None:
    clear, tls = free_ports
    servers, clients = Authority("servers"), Authority("clients")
    put_pair(directory, "cert", servers.sign("localhost"))
    put_pair(directory, "ca", Identity(clients.pem, b""))
    directory.put(listener("clear", clear))
    directory.put(listener("tls", tls, protocol="HTTPS"))
    directory.put(mutual("web", "cert", "ca"))
    me = servers.client(clients.sign("me"))
    with running_gateway("--config", str(directory.path), folder=tmp_path, workers=1) as gateway:
        assert is_served(tls, me)
        assert not is_served(tls, servers.client())
        with channel_to(clear) as channel:
            assert status_of(channel)[0] is grpc.StatusCode.PERMISSION_DENIED
        put_pair(directory, "cert", Identity(b"no certificate", b"no key"))
        eventually(gateway.errors, "the broken Secret is told")
        assert is_served(tls, me)
        assert not is_served(tls, servers.client())
        put_pair(directory, "cert", servers.sign("localhost", days=-1))
        eventually(lambda: "expired" in str(gateway.errors()), "the expired one is told")
        assert is_served(tls, me)


def test_while_a_host_is_left_out_nobody_comes_in_by_its_name_not_even_at_the_first_start(
    directory: Directory, tmp_path: Path, free_ports: tuple[int, int]
) -> None:
    clear, tls = free_ports
    servers, clients = Authority("servers"), Authority("clients")
    put_pair(directory, "cert", servers.sign("localhost"))
    put_pair(directory, "ca", Identity(clients.pem, b""))
    directory.put(listener("clear", clear))
    directory.put(listener("tls", tls, protocol="HTTPS"))
    strict = mutual("strict", "cert", "ca")
    strict["spec"]["hostname"] = "localhost"
    broken = {**strict, "spec": {**strict["spec"], "tls": {**strict["spec"]["tls"], "crl_secret": "crl"}}}
    directory.put(broken)
    arguments = ("--config", str(directory.path))
    with running_gateway(*arguments, folder=tmp_path, workers=1, ready=False) as gateway:
        gateway.wait_for_admin()
        eventually(gateway.errors, gateway.log)
        assert "calls to localhost are refused" in str(gateway.errors())
        assert listened_on(gateway) == set(), "there is nobody else to serve"
        directory.put(host("cert", "*", "wide"))
        eventually(lambda: listened_on(gateway) == {(clear, "h2c"), (tls, "tls")}, gateway.log)
        assert not is_served(tls, servers.client()), "the other Host asks for no certificate"
        named = [("grpc.default_authority", "localhost"), ("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(f"{HOST}:{clear}", named) as channel:
            code, message = status_of(channel)
            assert (code, "Host strict.default has errors" in message) == (grpc.StatusCode.UNAVAILABLE, True)
        with channel_to(clear) as channel:
            assert greet(channel), "another name"
        directory.put(strict)
        eventually(lambda: is_served(tls, servers.client(clients.sign("me"))), gateway.log)
        assert not is_served(tls, servers.client()), "its own Host asks for a certificate, beside one that does not"


def put_pair(directory: Directory, name: str, identity: Identity) -> None:
    directory.put(secret(name, identity.certificate, identity.key))


def test_a_listener_of_the_cluster_is_a_port(
    api: KubeApi, pods: list[Pod], tmp_path: Path, free_ports: tuple[int, int]
) -> None:
    put_greet(api, [pod.port for pod in pods])
    api.put(listener("web", free_ports[0]))
    arguments = ("--kubernetes", "--kubeconfig", str(api.kubeconfig(tmp_path / "kubeconfig")))
    with running_gateway(*arguments, folder=tmp_path) as gateway:
        assert is_served(free_ports[0])
        assert listened_on(gateway) == {(free_ports[0], "h2c")}


def test_without_a_port_the_gateway_says_so_and_is_not_ready_until_a_listener_comes(
    directory: Directory, tmp_path: Path, free_ports: tuple[int, int]
) -> None:
    arguments = ("--config", str(directory.path), "--port", "off", "--tls-port", "off")
    with running_gateway(*arguments, folder=tmp_path, ready=False) as gateway:
        gateway.wait_for_admin()
        eventually(gateway.errors, gateway.log)
        (error,) = gateway.errors()
        assert "set --port or --tls-port, or add a Listener" in error
        assert "no data port is asked for" in gateway.log()
        applied = re.compile(r"configuration \w+: 1 route, 1 cluster$", re.MULTILINE)
        eventually(lambda: applied.search(gateway.log()), gateway.log)
        status, reason = gateway.get(f"{BASE}/check_ready")
        assert status == 503
        assert "no data port is open" in reason
        assert gateway.metric("configuration_errors", severity="error") == 1
        assert gateway.metric("ready") == 0
        assert gateway.diagnostics("listeners") == []
        directory.put(listener("first", free_ports[0]))
        eventually(gateway.is_ready, gateway.log)
        assert is_served(free_ports[0])
        assert gateway.errors() == []
        directory.delete("Listener", "default", "first")
        eventually(lambda: not gateway.is_ready(), gateway.log)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_port_that_a_worker_cannot_open_is_a_problem_and_is_opened_once_it_can(
    workers: int, directory: Directory, free_ports: tuple[int, int]
) -> None:
    taken, free = free_ports
    directory.put(listener("free", free))
    settings = Settings(config_dir=directory.path, address=HOST, admin_port=0, workers=workers)
    # The gateway holds the ports of one address, its workers are to open those of another, where one is taken.
    plan = make_plan(replace(settings, address=OTHER_HOST))

    async def scenario() -> None:
        control = Control(settings, [make_workers(settings, plan, retry_ports_s=0.05)])
        running = asyncio.create_task(control.run())
        try:
            with socket.create_server((OTHER_HOST, taken)):
                assert await control.listening() == (free,)
                directory.put(listener("taken", taken))
                state = await until(control, lambda state: state.problems)
                assert state.ready, "the other port is open"
                (problem,) = state.problems
                assert str(problem.object) == "Listener taken.default"
                assert f"worker 0: cannot listen on {OTHER_HOST}:{taken}" in problem.message
                assert numbers(state) == {free}
                directory.delete("Listener", "default", "free")
                state = await until(control, lambda state: not state.listeners)
                assert not state.ready, "no port is open at all"
                assert "no data port is open" in not_ready_reason(state)
            state = await until(control, lambda state: state.ready)
            assert (numbers(state), state.problems) == ({taken}, ())
        finally:
            control.shut_down()
            await running

    asyncio.run(scenario())


async def until(control: Control, holds: Callable[[GatewayState], object]) -> GatewayState:
    """The first state in which it `holds`."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds(state := await control.state()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return state


def numbers(state: GatewayState) -> set[int]:
    return {int(each.address.rpartition(":")[2]) for each in state.listeners}
