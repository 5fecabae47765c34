"""Discovery from an API server that is quiet, away, frozen or cut off: what is noticed, and what the log says."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from random import Random

import pytest

from grpcgw.discovery.sources.kubernetes_api import ClusterAccess, KubernetesApi
from grpcgw.discovery.sources.kubernetes_health import PROBE_PATH
from tests.discovery.sources.test_kubernetes import (
    BRISK,
    mapping,
    names,
    reading,
    requests_for,
    status,
    until,
    until_synced,
)
from tests.kube_api import KubeApi
from tests.parsing import WATCHED_KINDS
from tests.scenarios import call_together_with_timers, run

QUIET = replace(BRISK, watch_s=(60.0, 60.0), silence_s=0.2)
"""The server is asked soon whether it is there, and the tests are over before a watch is."""


def questions(api: KubeApi) -> int:
    return sum(request.path == PROBE_PATH for request in api.requests)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    ours = (record for record in caplog.records if record.name.startswith("grpcgw"))
    return [record.getMessage() for record in ours if record.levelno >= logging.INFO]


@pytest.fixture(autouse=True)
def _log_everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "grpcgw")


# ---- quiet kinds


def test_a_watch_of_a_kind_that_does_not_change_is_left_alone(
    api: KubeApi, access: ClusterAccess, caplog: pytest.LogCaptureFixture
) -> None:
    api.bookmark_interval_s, api.bookmarks_follow_changes = 0.05, True

    async def scenario() -> None:
        async with reading(access, pace=QUIET) as store:
            await until_synced(store)
            contact = status(store, "Mapping").last_contact_s
            asked = questions(api)
            await until(lambda: questions(api) >= asked + 4, "asked, again and again")
            assert all(each.watching and not each.error for each in store.statuses())
            assert status(store, "Mapping").last_contact_s > contact
            assert len(requests_for(api, "watch", "Mapping")) == 1

    run(scenario())
    assert lines(caplog) == []


def test_all_silent_watches_together_ask_one_question_at_a_time(api: KubeApi, access: ClusterAccess) -> None:
    async def scenario() -> None:
        async with reading(access, pace=replace(QUIET, silence_s=1.2)) as store:
            await until_synced(store)
            await until(lambda: questions(api) > 0, "asked")
            contacts = {each.last_contact_s for each in store.statuses()}
            await until(lambda: not contacts & {each.last_contact_s for each in store.statuses()}, "all have asked")

    run(scenario())
    assert questions(api) < len(WATCHED_KINDS)


# ---- servers and connections that are gone without a word


def test_a_frozen_server_is_noticed_and_read_again_when_it_goes_on(api: KubeApi, access: ClusterAccess) -> None:
    pace = replace(QUIET, answer_s=0.2, request_s=0.5)

    async def scenario() -> None:
        async with reading(access, pace=pace) as store:
            await until_synced(store)
            api.freeze()
            await until(lambda: not any(each.watching for each in store.statuses()), "noticed by all")
            assert "silent for too long" in status(store, "Mapping").error
            api.thaw()
            api.put(mapping("later"))
            await until(lambda: names(store, "Mapping") == {"later"}, "read again")
            await until_synced(store)

    run(scenario())


def test_a_peer_that_left_without_a_word_is_noticed(
    api: KubeApi, access: ClusterAccess, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with reading(access, pace=replace(BRISK, watch_s=(60.0, 60.0), silence_s=2.0)) as store:
            await until_synced(store)
            try:
                api.lose_connections("Mapping")
            except PermissionError:
                pytest.skip("to lose a connection needs the right to administer the network")
            api.put(mapping("greet"))
            await until(lambda: names(store, "Mapping") == {"greet"}, "the change arrives on a new connection")

    run(scenario())
    assert len(requests_for(api, "watch", "Mapping")) == 2
    assert lines(caplog) == [], "a connection that is lost and made anew is nothing to report"


def test_a_watch_that_outlives_its_time_is_given_up(api: KubeApi, access: ClusterAccess) -> None:
    api.silent_watches = api.ignore_timeouts = True

    async def scenario() -> None:
        async with reading(access, pace=replace(QUIET, watch_s=(1.0, 1.0), overtime_s=0.2)) as store:
            await until(lambda: "did not end a watch" in status(store, "Mapping").error, "noticed")
            api.silent_watches = False
            api.put(mapping("unheard"))
            await until(lambda: names(store, "Mapping") == {"unheard"}, "caught up")

    run(scenario())


# ---- the log


def test_watches_that_end_or_are_cut_off_and_begin_anew_leave_no_line(
    api: KubeApi, access: ClusterAccess, caplog: pytest.LogCaptureFixture
) -> None:
    api.close_watches_after_s = 0.05

    async def scenario() -> None:
        async with reading(access) as store:
            await until_synced(store)
            for _ in range(3):
                seen = len(requests_for(api, "watch", "Mapping"))
                api.drop_connections()
                api.compact()
                await until(lambda: len(requests_for(api, "watch", "Mapping")) > seen + 1, "again")  # noqa: B023

    run(scenario())
    assert lines(caplog) == []


def test_an_outage_is_one_warning_and_one_line_at_its_end(
    api: KubeApi, access: ClusterAccess, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with reading(access) as store:
            await until_synced(store)
            api.stop()
            await until(lambda: all(api.url in each.error for each in store.statuses()), "noticed by all")
            await until(lambda: lines(caplog) != [], "logged")
            api.start()
            await until_synced(store)

    run(scenario())
    warning, end = lines(caplog)
    assert api.url in warning
    assert end.startswith("reading works again, after ")


# ---- the end of the reader


def test_a_request_that_is_cancelled_just_as_it_times_out_is_cancelled(api: KubeApi, access: ClusterAccess) -> None:
    """Otherwise its reflector goes on, and the gateway waits without end for it to stop."""
    api.hang_lists = True
    timeout_s = 2.0

    async def scenario() -> None:
        client = KubernetesApi(access)
        await client.connect()
        request = asyncio.create_task(client.get("/api/v1/services", {}, timeout_s))
        await until(lambda: requests_for(api, "list", "Service") != [], "sent")
        await call_together_with_timers(request.cancel, asyncio.get_running_loop().time() + timeout_s)
        await asyncio.wait([request])
        assert request.cancelled()
        await client.aclose()

    run(scenario())


# ---- the end of an outage


class OneEager(Random):
    """After a few failures every loop waits for an hour, but that of Hosts."""

    def uniform(self, a: float, b: float) -> float:
        task = asyncio.current_task()
        is_eager = task is not None and task.get_name() == "kubernetes Host"
        return b if is_eager or b < 8 * BRISK.retry_base_s else 3600.0


@pytest.mark.parametrize("is_history_lost", [False, True], ids=["watches go on", "lists are due"])
def test_all_kinds_are_read_again_as_soon_as_one_finds_the_server(
    api: KubeApi, access: ClusterAccess, is_history_lost: bool
) -> None:
    pace = replace(BRISK, watch_s=(1.0, 1.0), silence_s=3000.0, retry_cap_s=1.0)

    async def scenario() -> None:
        async with reading(access, pace=pace, random=OneEager()) as store:
            await until_synced(store)
            api.stop()
            await until(lambda: all(api.url in each.error for each in store.statuses()), "noticed by all")
            await asyncio.sleep(16 * BRISK.retry_base_s)
            if is_history_lost:
                api.compact()
            api.put(mapping("meanwhile"))
            api.start()
            await until(lambda: names(store, "Mapping") == {"meanwhile"}, "the Mapping is read")
            await until(lambda: all(each.watching for each in store.statuses()), "all kinds are")

    run(scenario())
