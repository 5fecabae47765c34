"""The manifests and CRDs by the judgement of others: kubectl, and the schemas of Kubernetes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.kube_api import KubeApi

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
MANIFESTS = sorted(path for path in DEPLOY.rglob("*.yaml") if path.name != "kustomization.yaml")

Kubectl = Callable[..., str]


def find_kubectl() -> str | None:
    """The one of the virtual environment, else the system's."""
    beside = Path(sys.executable).parent / "kubectl"
    return str(beside) if beside.exists() else shutil.which("kubectl")


@pytest.fixture
def kubectl(api: KubeApi, tmp_path: Path) -> Kubectl:
    """Runs kubectl against the emulator, and gives what it prints."""
    program = find_kubectl()
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail("kubectl is not there; locks/dev.txt installs it")
        pytest.skip("kubectl is not there: it has no wheel for this system")
    api.crds = list(yaml.safe_load_all((DEPLOY / "crds.yaml").read_text()))
    config = api.kubeconfig(tmp_path / "kubeconfig")

    def call(*arguments: str) -> str:
        command = [program, "--kubeconfig", str(config), "--cache-dir", str(tmp_path / "cache"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


def identities(objects: list[Any]) -> set[tuple[str, str, str]]:
    return {(one["kind"], one["metadata"].get("namespace", ""), one["metadata"]["name"]) for one in objects}


def test_kustomize_makes_what_the_manifests_say(kubectl: Kubectl) -> None:
    made = list(yaml.safe_load_all(kubectl("kustomize", str(DEPLOY))))
    names = yaml.safe_load((DEPLOY / "kustomization.yaml").read_text())["resources"]
    written = [one for name in names for one in yaml.safe_load_all((DEPLOY / name).read_text())]
    assert identities(made) == identities(written)


def test_kubectl_reads_the_examples_resources(kubectl: Kubectl) -> None:
    made = kubectl("create", "--dry-run=client", "--validate=false", "-o", "name", "-f", str(ROOT / "examples/greet"))
    assert "mapping.getambassador.io/grpcserver\n" in made


@pytest.mark.parametrize("version", ["v1", "v2", "v3alpha1"])
def test_kubectl_explains_a_mapping(kubectl: Kubectl, version: str) -> None:
    explained = kubectl("explain", "mapping.spec", f"--api-version=getambassador.io/{version}")
    assert "weight\t<integer>" in explained
    assert "prefix\t<string> -required-" in explained
    assert "load_balancer\t<Object>" in explained
    weight = kubectl("explain", "mapping.spec.weight", f"--api-version=getambassador.io/{version}")
    assert "percent of the calls of all Mappings that match alike" in " ".join(weight.split())


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_every_manifest_holds_by_the_schemas_of_kubernetes(path: Path) -> None:
    version = kubernetes_validate.latest_version()
    for manifest in yaml.safe_load_all(path.read_text()):
        kubernetes_validate.validate(manifest, version, strict=True)


def test_to_apply_a_manifest_again_changes_nothing() -> None:
    """What kubectl merges with `retainKeys` it sends again whenever the discriminating field is left to the server."""
    deployments = [
        one for path in MANIFESTS for one in yaml.safe_load_all(path.read_text()) if one["kind"] == "Deployment"
    ]
    assert deployments
    for deployment in deployments:
        assert "type" in deployment["spec"].get("strategy", {"type": "RollingUpdate"})
