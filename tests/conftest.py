"""How thoroughly properties are tried (a little in every run of the suite, a lot in `make fuzz`), and API servers."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from grpcgw.discovery.sources.kubernetes_api import ClusterAccess
from tests.kube_api import KubeApi
from tests.kube_cluster import Cluster, kinds_of_cluster, open_cluster

# The same examples in each run, so that a change alone makes a test fail; `make fuzz` looks for others.
settings.register_profile("suite", max_examples=50, stateful_step_count=25, deadline=None, derandomize=True)
settings.register_profile("fuzz", max_examples=2_000, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))


def pytest_collection() -> None:
    """Modules and collected tests are hundreds of thousands of objects that stay."""
    gc.disable()


def pytest_collection_finish() -> None:
    """The collections between tests need not walk them again and again to find what one test left."""
    gc.enable()
    gc.collect()
    gc.freeze()


@pytest.fixture
def api() -> Iterator[KubeApi]:
    with KubeApi() as emulator:
        yield emulator


@pytest.fixture
def access(api: KubeApi, tmp_path: Path) -> ClusterAccess:
    return ClusterAccess(kubeconfig=api.kubeconfig(tmp_path / "kubeconfig"))


@pytest.fixture(params=kinds_of_cluster())
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    with open_cluster(request.param, tmp_path) as found:
        yield found
