"""What workers answer about their ports and snapshots, as one report of their carrier."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from grpcgw.listeners.data_ports import NO_PORTS, DataPorts
from grpcgw.listeners.open_ports import OpenPort, PortFault
from grpcgw.model.listener import ServerCertificate, Transport
from grpcgw.model.match import MatchKind, PathMatch
from grpcgw.model.objects import ObjectKey
from grpcgw.model.route import Destination, PolicySettings, Route, WeightedCluster
from grpcgw.model.snapshot import Snapshot
from grpcgw.workers.messages import Listening, Refused
from grpcgw.workers.port_status import PortStatus

SELF_SIGNED = ServerCertificate("self-signed", ("*",), b"chain", b"key")
LOW, HIGH = OpenPort("b", 80, Transport.CLEAR), OpenPort("a", 9000, Transport.TLS)


@pytest.fixture
def status() -> Iterator[PortStatus]:
    """Of three workers."""
    status = PortStatus(DataPorts("127.0.0.1", None, None, SELF_SIGNED), 3)
    yield status
    status.close()


def start(status: PortStatus, *answers: Listening) -> None:
    for worker, answer in enumerate(answers):
        status.note(worker, answer)


def test_a_port_is_open_where_one_worker_serves_it_once_all_have_started(status: PortStatus) -> None:
    start(status, Listening((HIGH,)), Listening((HIGH, LOW)))
    report = status.report((), 0)
    assert (report.started, report.ready, report.ports) == (False, False, ())
    status.note(2, Listening(()))
    report = status.report((), 0)
    assert [(port.listener, port.number) for port in report.ports] == [("b", 80), ("a", 9000)]
    assert (report.started, report.ready) == (True, True)
    status.forget(0)
    status.forget(1)
    report = status.report((), 0)
    assert (report.started, report.ready, report.ports) == (True, False, ())


def test_faults_and_refusals_that_workers_share_are_reported_once_with_the_workers(status: PortStatus) -> None:
    mine, flag = PortFault("Listener mine.shop", "the port is taken"), PortFault("--port", "no descriptors are left")
    refused = Refused("KeyError: 'fastest'")
    start(status, Listening((), (mine, flag)), Listening((), (mine,), refused), Listening((), (), refused))
    report = status.report((), 0)
    assert report.port_faults == (
        PortFault("Listener mine.shop", "worker 0, worker 1: the port is taken; it is tried again"),
        PortFault("--port", "worker 0: no descriptors are left; it is tried again"),
    )
    assert [(one.by, one.why) for one in report.refused] == [("worker 1, worker 2", "KeyError: 'fastest'")]


def test_the_version_is_that_of_all_workers(status: PortStatus) -> None:
    start(status, Listening((), version="1"), Listening((), version="1"), Listening((), version="2"))
    assert status.report((), 0).version == ""
    status.note(2, Listening((), version="1"))
    assert status.report((), 0).version == "1"


def test_each_change_is_announced_once(status: PortStatus) -> None:
    changes: list[str] = []
    status.on_change = lambda: changes.append("changed")
    for _ in range(2):
        status.plan(Snapshot("1"))
        status.note(0, Listening((LOW,)))
    assert (len(changes), status.report((), 0).port_faults) == (2, (NO_PORTS,))
    for _ in range(2):
        status.forget(0)
    assert len(changes) == 3


def test_nothing_is_sent_again_before_the_first_snapshot_nor_without_a_cause() -> None:
    status = PortStatus(DataPorts("127.0.0.1", 0, None, SELF_SIGNED), 1)
    assert status.plan_again() is None, "the ports of the command line stay closed until a configuration is served"
    snapshot = Snapshot("1")
    listeners = status.plan(snapshot)
    status.note(0, Listening((LOW,)))
    assert status.plan_again() is None
    for faulty in (Listening((), (PortFault("--port", "taken"),)), Listening((), (), Refused("KeyError"))):
        status.note(0, faulty)
        assert status.plan_again() == (snapshot, listeners)
    status.close()


def test_a_mapping_whose_policy_no_worker_can_build_is_reported_at_its_key(status: PortStatus) -> None:
    key = ObjectKey("Mapping", "default", "m")
    policies = (PolicySettings(name="Filter jwt.default"),)  # of a kind that the catalogue does not have
    destination = Destination(key, (WeightedCluster("greet"),), policies=policies)
    status.plan(Snapshot("1", (Route("m", PathMatch(MatchKind.PREFIX, "/"), 0, (destination,)),)))
    (uncarried,) = status.report((), 0).uncarried
    assert uncarried.key == key
    assert "Filter jwt.default cannot be built" in uncarried.why
    status.plan(Snapshot("2"))
    assert status.report((), 0).uncarried == ()
