"""ConsulResolver: what agents say of a service, by blocking queries, on their good and bad days.

The first part runs against the emulator and, where `consul` is installed, a real agent.
"""

from __future__ import annotations

import asyncio
import datetime
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpcgw.discovery.resolvers.consul import (
    ConsulPace,
    ConsulResolver,
    Credentials,
    agent_url,
    next_index,
    read_credentials,
    read_instances,
)
from grpcgw.listeners.self_signed import make_self_signed
from grpcgw.model.cluster import Addressing, Cluster, ConsulAgent, ResolverKind, ServiceRef
from grpcgw.model.endpoints import Endpoint, EndpointSet
from tests.consul_agents import NODE_ADDRESS, TOKEN, Agent, EmulatedAgent, free_port, kinds_of_agent, open_agent
from tests.scenarios import call_together_with_timers

DEADLINE_S = 40.0
BRISK = ConsulPace(wait_s=60.0, grace_s=20.0, pause_s=0.01, retry_base_s=0.02, retry_cap_s=0.1)
HASTY = ConsulPace(wait_s=0.05, grace_s=0.05, pause_s=0.01, retry_base_s=0.02, retry_cap_s=0.1)
NO_CREDENTIALS = Credentials()


class Published:
    """What a watch published, and a way to wait for it."""

    def __init__(self) -> None:
        self.sets: list[EndpointSet] = []
        self._grew = asyncio.Event()

    def __call__(self, endpoints: EndpointSet) -> None:
        self.sets.append(endpoints)
        self._grew.set()

    async def until(self, condition: Callable[[EndpointSet], bool]) -> EndpointSet:
        """The last set, as soon as it is as wanted."""
        async with asyncio.timeout(DEADLINE_S):
            while not self.sets or not condition(self.sets[-1]):
                self._grew.clear()
                await self._grew.wait()
        return self.sets[-1]

    async def until_shown(self, *addresses: str) -> EndpointSet:
        """Exactly these pods, and nothing wrong."""
        return await self.until(lambda found: shown(found) == list(addresses) and not found.error)


def shown(found: EndpointSet) -> list[str]:
    return [str(endpoint) for endpoint in found.endpoints]


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "never happened"
        await asyncio.sleep(0.005)


def cluster_at(agent: Agent, service: str = "greet", datacenter: str = "dc1") -> Cluster:
    name = f"{service}/{datacenter}"
    ref = ServiceRef(service, "", 80, service)
    return Cluster(name, ResolverKind.CONSUL, "consul", ref, consul=ConsulAgent(agent.address, datacenter))


class Scene:
    """A resolver at work and an agent; `watch` starts one more watch."""

    def __init__(self, agent: Agent, resolver: ConsulResolver) -> None:
        self.agent, self._resolver = agent, resolver
        self.end: Callable[[], None] = lambda: None

    def watch(self, service: str = "greet", datacenter: str = "dc1") -> Published:
        published = Published()
        self.end = self._resolver.watch(cluster_at(self.agent, service, datacenter), published)
        return published


def play(
    kind: str,
    folder: Path,
    scenario: Callable[[Scene], Awaitable[None]],
    *,
    credentials: Credentials = NO_CREDENTIALS,
    pace: ConsulPace = BRISK,
    tls: Path | None = None,
    mutual: bool = False,
    acl: bool = False,
) -> None:
    """Run `scenario` beside a resolver and an agent; no task may be left afterwards."""

    async def main() -> None:
        async with open_agent(kind, folder, tls=tls, mutual=mutual, acl=acl) as agent:
            resolver = ConsulResolver(credentials=credentials, pace=pace)
            async with asyncio.TaskGroup() as tasks:
                running = tasks.create_task(resolver.run())
                await scenario(Scene(agent, resolver))
                running.cancel()
        await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})

    asyncio.run(main())


# ---- any agent

any_agent = pytest.mark.parametrize("kind", kinds_of_agent())


@any_agent
def test_passing_instances_are_published_with_the_node_s_address_where_they_have_none(
    kind: str, tmp_path: Path
) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.agent.register("greet", "b", 50052, "10.0.0.2")
        await scene.agent.register("greet", "a", 50051, "10.0.0.1")
        await scene.agent.register("greet", "v6", 50051, "fd00::1")
        await scene.agent.register("greet", "ill", 50051, "10.0.0.9", passing=False)
        await scene.agent.register("greet", "local", 50053)
        await scene.agent.register("other", "x", 1, "10.0.0.8")
        found = await scene.watch().until_shown(
            "10.0.0.1:50051", "10.0.0.2:50052", f"{NODE_ADDRESS}:50053", "[fd00::1]:50051"
        )
        assert [endpoint.name for endpoint in found.endpoints] == ["a", "b", "local", "v6"]

    play(kind, tmp_path, scenario)


@any_agent
def test_instances_that_come_fail_recover_and_go_are_followed(kind: str, tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        published = scene.watch()
        await published.until_shown()
        await scene.agent.register("greet", "a", 1, "10.0.0.1")
        await published.until_shown("10.0.0.1:1")
        await scene.agent.register("greet", "b", 1, "10.0.0.2")
        await published.until_shown("10.0.0.1:1", "10.0.0.2:1")
        await scene.agent.set_check("a", passing=False)
        await published.until_shown("10.0.0.2:1")
        await scene.agent.set_check("a", passing=True)
        await published.until_shown("10.0.0.1:1", "10.0.0.2:1")
        await scene.agent.deregister("a")
        await scene.agent.deregister("b")
        await published.until_shown()

    play(kind, tmp_path, scenario)


@any_agent
def test_while_the_agent_is_away_the_known_instances_stay_and_an_agent_that_starts_anew_is_believed(
    kind: str, tmp_path: Path
) -> None:
    async def scenario(scene: Scene) -> None:
        published = scene.watch()
        for number in range(5):  # the index is well ahead of where the new agent begins
            await scene.agent.register("greet", f"former-{number}", 1, f"10.0.0.{number}")
        await published.until(lambda found: len(found.endpoints) == 5)
        await scene.agent.stop()
        away = await published.until(lambda found: bool(found.error))
        assert len(away.endpoints) == 5
        assert f"Consul agent {scene.agent.address} (dc1), service greet: " in away.error
        await scene.agent.start()
        await published.until_shown()
        await scene.agent.register("greet", "new", 1, "10.0.0.9")
        await published.until_shown("10.0.0.9:1")

    play(kind, tmp_path, scenario)


@any_agent
def test_an_unknown_datacenter_is_an_error_of_its_clusters_alone(kind: str, tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.agent.register("greet", "a", 1, "10.0.0.1")
        lost = scene.watch(datacenter="nowhere")
        await scene.watch().until_shown("10.0.0.1:1")
        found = await lost.until(lambda found: bool(found.error))
        assert "No path to datacenter" in found.error
        assert "(nowhere)" in found.error

    play(kind, tmp_path, scenario)


@any_agent
@pytest.mark.parametrize("by_file", [False, True])
def test_the_token_lets_in(kind: str, by_file: bool, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    credentials = Credentials(token_file=str(tmp_path / "token")) if by_file else Credentials(token=TOKEN)

    async def scenario(scene: Scene) -> None:
        await scene.agent.register("greet", "a", 1, "10.0.0.1")
        await scene.watch().until_shown("10.0.0.1:1")

    play(kind, tmp_path, scenario, credentials=credentials, acl=True)


@any_agent
def test_a_wrong_token_is_an_error_that_names_its_variable(kind: str, tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        found = await scene.watch().until(lambda found: bool(found.error))
        assert "CONSUL_HTTP_TOKEN needs service:read and node:read" in found.error
        assert "wrong" not in found.error

    wrong = Credentials(token="wrong000-6f0d-4a43-8d1f-5a6f2f5f3c11")
    play(kind, tmp_path, scenario, credentials=wrong, acl=True)


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    folder = tmp_path / "certificates"
    folder.mkdir()
    made = make_self_signed("agent.consul", datetime.datetime.now(datetime.UTC))
    for name in ("ca.pem", "agent.pem"):
        (folder / name).write_bytes(made.certificate_chain)
    (folder / "agent.key").write_bytes(made.private_key)
    return folder


@any_agent
@pytest.mark.parametrize("server_name", ["", "agent.consul"])
def test_https_is_spoken_with_an_agent_whose_ca_is_known(
    kind: str, server_name: str, tmp_path: Path, certificates: Path
) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.agent.register("greet", "a", 1, "10.0.0.1")
        await scene.watch().until_shown("10.0.0.1:1")

    credentials = Credentials(ca_file=str(certificates / "ca.pem"), server_name=server_name)
    play(kind, tmp_path, scenario, credentials=credentials, tls=certificates)


@any_agent
@pytest.mark.parametrize(
    ("server_name", "trusting"), [("", False), ("other.consul", True)], ids=["unknown authority", "another name"]
)
def test_an_agent_that_cannot_be_trusted_is_told_nothing(
    kind: str, server_name: str, trusting: bool, tmp_path: Path, certificates: Path
) -> None:
    async def scenario(scene: Scene) -> None:
        found = await scene.watch().until(lambda found: bool(found.error))
        assert "its certificate cannot be trusted" in found.error
        if isinstance(scene.agent, EmulatedAgent):
            assert scene.agent.asked == []

    ca_file = str(certificates / "ca.pem") if trusting else ""
    credentials = Credentials(token=TOKEN, ca_file=ca_file, server_name=server_name)
    play(kind, tmp_path, scenario, credentials=credentials, tls=certificates)


@any_agent
@pytest.mark.parametrize("showing", [True, False])
def test_an_agent_that_asks_for_a_certificate_gets_the_gateways(
    kind: str, showing: bool, tmp_path: Path, certificates: Path
) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.agent.register("greet", "a", 1, "10.0.0.1")
        published = scene.watch()
        if showing:
            await published.until_shown("10.0.0.1:1")
        else:
            assert (await published.until(lambda found: bool(found.error))).endpoints == ()

    credentials = Credentials(ca_file=str(certificates / "ca.pem"))
    if showing:
        own = {"certificate_file": str(certificates / "agent.pem"), "key_file": str(certificates / "agent.key")}
        credentials = replace(credentials, **own)
    play(kind, tmp_path, scenario, credentials=credentials, tls=certificates, mutual=True)


# ---- bad days, on the emulator alone


def misplay(scenario: Callable[[Scene, EmulatedAgent], Awaitable[None]], pace: ConsulPace = BRISK) -> None:
    async def with_emulator(scene: Scene) -> None:
        assert isinstance(scene.agent, EmulatedAgent)
        await scenario(scene, scene.agent)

    play("emulator", Path(), with_emulator, pace=pace)


def test_a_query_waits_at_the_agent_for_news_and_what_is_not_new_is_not_published() -> None:
    async def scenario(scene: Scene, agent: EmulatedAgent) -> None:
        published = scene.watch()
        await agent.register("greet", "a", 1, "10.0.0.1")
        await published.until_shown("10.0.0.1:1")
        for _ in range(3):
            asked = len(agent.asked)
            agent.count_to(agent.index + 1)
            await until(lambda asked=asked: len(agent.asked) > asked)  # type: ignore[misc]  # bound for the loop
        await until(lambda: agent.waiting == 1)
        assert agent.asked[-1].query == {"passing": "1", "dc": "dc1", "index": str(agent.index), "wait": "60000ms"}
        assert agent.asked[0].query == {"passing": "1", "dc": "dc1"}
        assert agent.most_waiting == 1
        assert len({tuple(found.endpoints) for found in published.sets}) == len(published.sets) <= 2

    misplay(scenario)


@pytest.mark.parametrize("index", [7, 0])
def test_an_index_that_goes_back_is_followed_by_a_query_that_does_not_wait(index: int) -> None:
    async def scenario(scene: Scene, agent: EmulatedAgent) -> None:
        published = scene.watch()
        await published.until_shown()
        await until(lambda: agent.waiting == 1)
        agent.count_to(index)
        await until(lambda: len(agent.asked) >= 3)
        queries = [asked.query.get("index") for asked in agent.asked]
        assert queries[:3] == [None, "100", None]
        await agent.register("greet", "a", 1, "10.0.0.1")
        await published.until_shown("10.0.0.1:1")

    misplay(scenario)


@pytest.mark.parametrize("header", ["", "-1", "x", "1e9"])
def test_an_agent_without_a_proper_index_is_still_read(header: str) -> None:
    async def scenario(scene: Scene, agent: EmulatedAgent) -> None:
        agent.index_header = header
        published = scene.watch()
        await published.until_shown()
        await agent.register("greet", "a", 1, "10.0.0.1")
        await published.until_shown("10.0.0.1:1")

    misplay(scenario)


def test_an_agent_that_never_lets_a_query_wait_is_not_asked_without_a_pause() -> None:
    pause_s = 0.05

    async def scenario(scene: Scene, agent: EmulatedAgent) -> None:
        agent.hasty = True
        scene.watch()
        await until(lambda: len(agent.asked) >= 6)
        times = [asked.at_s for asked in agent.asked]
        gaps = [after - before for before, after in pairwise(times)]
        assert sum(gaps) / len(gaps) >= 0.9 * pause_s

    misplay(scenario, ConsulPace(pause_s=pause_s))


@pytest.mark.parametrize(
    ("status", "text", "said"),
    [
        (500, "No cluster leader", "500 No cluster leader"),
        (429, "Your IP is issuing too many concurrent connections", "limits.http_max_conns_per_client"),
        (200, "<html>", "Expecting value"),
        (200, '{"not": "a list"}', "is it a Consul agent?"),
        (200, '[{"Service": ', "Expecting value"),
        (404, "", "404 Not Found"),
    ],
)
def test_an_answer_that_is_none_keeps_the_known_instances_and_recovery_clears_the_error(
    status: int, text: str, said: str
) -> None:
    async def scenario(scene: Scene, agent: EmulatedAgent) -> None:
        published = scene.watch()
        await agent.register("greet", "a", 1, "10.0.0.1")
        await published.until_shown("10.0.0.1:1")
        agent.answer = (status, text, {})
        agent.count_to(agent.index + 1)
        failed = await published.until(lambda found: bool(found.error))
        assert shown(failed) == ["10.0.0.1:1"]
        assert said in failed.error
        agent.answer = None
        await published.until_shown("10.0.0.1:1")

    misplay(scenario)


def test_a_redirect_is_not_followed_as_it_would_take_the_token_along() -> None:
    async def scenario(scene: Scene, agent: EmulatedAgent) -> None:
        elsewhere = EmulatedAgent()
        await elsewhere.start()
        agent.answer = (307, "", {"Location": f"{elsewhere.address}/v1/health/service/greet"})
        found = await scene.watch().until(lambda found: bool(found.error))
        assert "307" in found.error
        assert elsewhere.asked == []
        await elsewhere.stop()

    misplay(scenario)


def test_an_agent_that_falls_silent_is_given_up_and_asked_again() -> None:
    async def scenario(scene: Scene, agent: EmulatedAgent) -> None:
        published = scene.watch()
        await agent.register("greet", "a", 1, "10.0.0.1")
        await published.until(lambda found: shown(found) == ["10.0.0.1:1"])
        agent.silent = True
        failed = await published.until(lambda found: "silent for too long" in found.error)
        assert shown(failed) == ["10.0.0.1:1"]
        agent.silent = False
        await published.until_shown("10.0.0.1:1")

    misplay(scenario, HASTY)


def test_an_ended_watch_publishes_nothing_more_and_leaves_the_agent_alone() -> None:
    async def scenario(scene: Scene, agent: EmulatedAgent) -> None:
        kept = scene.watch("kept")
        ended = scene.watch("ended")
        await until(lambda: agent.waiting == 2)
        scene.end()
        scene.end()
        await until(lambda: agent.waiting == 1)
        await agent.register("ended", "a", 1, "10.0.0.1")
        await agent.register("kept", "b", 1, "10.0.0.2")
        await kept.until_shown("10.0.0.2:1")
        assert ended.sets == [EndpointSet()]

    misplay(scenario)


def test_a_watch_that_ends_just_as_its_query_times_out_ends() -> None:
    pace = replace(BRISK, wait_s=1.0, grace_s=1.0)

    async def scenario(scene: Scene, agent: EmulatedAgent) -> None:
        agent.silent = True
        tasks = asyncio.all_tasks()
        scene.watch()
        await until(lambda: agent.waiting == 1)
        longest_s = pace.wait_s * 17 / 16 + pace.grace_s
        await call_together_with_timers(scene.end, asyncio.get_running_loop().time() + longest_s)
        await until(lambda: asyncio.all_tasks() <= tasks)

    misplay(scenario, pace)


def test_hundreds_of_services_wait_side_by_side() -> None:
    services = [f"s{number}" for number in range(150)]

    async def scenario(scene: Scene, agent: EmulatedAgent) -> None:
        watches = {name: scene.watch(name) for name in services}
        await until(lambda: agent.waiting == len(services))
        await agent.register(services[-1], "a", 1, "10.0.0.1")
        await watches[services[-1]].until_shown("10.0.0.1:1")

    misplay(scenario)


def test_a_token_file_is_read_again_and_one_that_is_missing_is_named(tmp_path: Path) -> None:
    path = tmp_path / "token"

    async def scenario(scene: Scene) -> None:
        published = scene.watch()
        missing = await published.until(lambda found: bool(found.error))
        assert str(path) in missing.error
        path.write_text(TOKEN)
        await published.until_shown()

    play("emulator", tmp_path, scenario, credentials=Credentials(token_file=str(path)), acl=True)


def another_certificate() -> bytes:
    return make_self_signed("another", datetime.datetime.now(datetime.UTC)).certificate_chain


@pytest.mark.parametrize("former", [b"no certificate", another_certificate()], ids=["broken", "of another CA"])
def test_certificates_are_replaced_without_a_restart(former: bytes, tmp_path: Path, certificates: Path) -> None:
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes(former)

    async def scenario(scene: Scene) -> None:
        published = scene.watch()
        await published.until(lambda found: bool(found.error))
        trusted.write_bytes((certificates / "ca.pem").read_bytes())
        await published.until_shown()

    play("emulator", tmp_path, scenario, credentials=Credentials(ca_file=str(trusted)), tls=certificates)


def test_an_agent_that_is_not_there_is_an_error_and_a_watch_made_before_run_waits_for_it() -> None:
    agent = EmulatedAgent(port=free_port())
    resolver = ConsulResolver(credentials=NO_CREDENTIALS, pace=BRISK)

    async def main() -> None:
        published = Published()
        resolver.watch(cluster_at(agent), published)
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(resolver.run())
            found = await published.until(lambda found: bool(found.error))
            assert found.endpoints == ()
            assert str(agent.port) in found.error
            running.cancel()

    asyncio.run(main())


# ---- pure


@given(before=st.integers(0, 2**40), after=st.integers(0, 2**40))
def test_the_index_never_makes_a_query_wait_for_what_the_agent_has_said_already(before: int, after: int) -> None:
    index = next_index(before, str(after))
    assert index == (after if after and after >= before else 0)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["Service", "Node", "ID", "Address", "Port", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(instances=st.lists(JSON, max_size=5))
def test_whatever_an_agent_lists_becomes_endpoints_or_is_named(instances: list[object]) -> None:
    found = read_instances(instances)
    assert found.endpoints == tuple(sorted(set(found.endpoints)))
    assert len(found.endpoints) <= len(instances)
    assert bool(found.error) or len(found.endpoints) == len(instances) or len(set(found.endpoints)) < len(instances)


@pytest.mark.parametrize(
    "service",
    [
        {"ID": "a", "Address": "host.example.com", "Port": 1},
        {"ID": "a", "Address": "10.0.0.2", "Port": 0},
        {"ID": "a", "Address": "10.0.0.2", "Port": True},
        {"ID": "a", "Address": "10.0.0.2", "Port": 65536},
    ],
)
def test_an_instance_without_ip_address_or_port_is_left_out_by_name(service: dict[str, object]) -> None:
    good = {"Service": {"ID": "b", "Address": "10.0.0.1", "Port": 1}}
    found = read_instances([{"Service": service}, good])
    assert found.endpoints == (Endpoint("10.0.0.1", 1),)
    assert f"a ({service['Address']}:{service['Port']})" in found.error


def test_only_instances_with_an_address_of_an_enabled_family_are_used() -> None:
    addresses = ("fd00::1", "10.0.0.1")
    instances: list[object] = [{"Service": {"ID": ip, "Address": ip, "Port": 1}} for ip in addresses]
    assert shown(read_instances(instances, Addressing(ipv6=False))) == ["10.0.0.1:1"]
    assert shown(read_instances(instances, Addressing(ipv4=False))) == ["[fd00::1]:1"]
    found = read_instances(instances[1:], Addressing(ipv4=False))
    assert found == EndpointSet(
        error="Consul has passing instances, but none with an IPv6 address, and enable_ipv4 is false"
    )


def test_credentials_are_those_of_consul_s_own_tools() -> None:
    assert read_credentials({}) == NO_CREDENTIALS
    environment = {
        "CONSUL_HTTP_TOKEN": "t",
        "CONSUL_HTTP_TOKEN_FILE": "/t",
        "CONSUL_HTTP_SSL": "true",
        "CONSUL_CACERT": "/ca",
        "CONSUL_CLIENT_CERT": "/crt",
        "CONSUL_CLIENT_KEY": "/key",
        "CONSUL_TLS_SERVER_NAME": "n",
    }
    assert read_credentials(environment) == Credentials("t", "/t", True, "/ca", "/crt", "/key", "n")
    assert "'t'" not in repr(read_credentials(environment))


@pytest.mark.parametrize(
    ("address", "tls", "url"),
    [
        ("consul:8500", False, "http://consul:8500"),
        ("consul:8501", True, "https://consul:8501"),
        ("https://consul:8501/", False, "https://consul:8501"),
        ("http://consul:8500", True, "http://consul:8500"),
    ],
)
def test_a_scheme_in_the_address_wins(address: str, tls: bool, url: str) -> None:
    assert agent_url(address, tls) == url
