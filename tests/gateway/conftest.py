"""What every test here starts from, and that it leaves nothing behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from dataplane.waiting import eventually

from examples.greet.server import Pod
from gateway.forked import template
from gateway.harness import Gateway, running_gateway, running_pods
from gateway.objects import Directory, put_greet
from tests.kube_api import KubeApi


@pytest.fixture(autouse=True, scope="module")
def nothing_is_left_behind() -> Iterator[None]:
    """Neither child processes nor threads nor sockets of the test's process."""
    template()  # the process that gateways are forked from stays
    before = _belongings()
    yield
    eventually(lambda: _belongings() <= before, lambda: f"left behind: {_belongings() - before}")


def _belongings() -> set[object]:
    here = psutil.Process()
    return {
        *(child.pid for child in here.children(recursive=True)),
        *(thread.name for thread in threading.enumerate()),
        *((c.laddr, c.raddr) for c in here.net_connections("inet") if c.status in ("LISTEN", "ESTABLISHED")),
    }


@pytest.fixture
def pods() -> Iterator[list[Pod]]:
    with running_pods("pod-1", "pod-2") as pods:
        yield pods


@pytest.fixture
def directory(tmp_path: Path, pods: list[Pod]) -> Directory:
    """The greet scenario in files."""
    directory = Directory(tmp_path / "config")
    put_greet(directory, [pod.port for pod in pods])
    return directory


@pytest.fixture
def gateway(directory: Directory, tmp_path: Path) -> Iterator[Gateway]:
    """A gateway of one process on `directory`."""
    with running_gateway("--config", str(directory.path), folder=tmp_path) as gateway:
        yield gateway


@pytest.fixture
def api(tmp_path: Path) -> Iterator[KubeApi]:
    with KubeApi() as api:
        yield api
