"""The manifests of deploy/: that they agree with each other, with the defaults of the gateway, and with the image."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from examples.greet.server import GRACE_S, SERVICE
from grpcgw import __version__
from grpcgw.admin.allowed_hosts import KnownHosts
from grpcgw.cli.main import execute
from grpcgw.policy.held_messages import HeldMessages
from grpcgw.settings import Settings
from scripts.dashboard import make_dashboard

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
MANIFESTS = sorted(path.relative_to(DEPLOY).as_posix() for path in DEPLOY.rglob("*.yaml"))
NODE_PORTS = {"grpc": 32080, "grpc-tls": 32443, "admin": 32087}

Manifest = Mapping[str, Any]
"""A decoded YAML document: its shape is what these tests are about."""


def read(name: str) -> list[Manifest]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def find(name: str, kind: str, object_name: str) -> Manifest:
    (found,) = [m for m in read(name) if m["kind"] == kind and m["metadata"]["name"] == object_name]
    return found


def pod_of(deployment: Manifest) -> Manifest:
    return deployment["spec"]["template"]["spec"]


def container_of(deployment: Manifest) -> Manifest:
    (container,) = pod_of(deployment)["containers"]
    return container


@pytest.fixture
def gateway() -> Manifest:
    return find("deployment.yaml", "Deployment", "grpcgw")


@pytest.fixture
def greet() -> Manifest:
    return find("examples/greet.yaml", "Deployment", "grpcserver")


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_document_is_an_object_with_kind_and_version(name: str) -> None:
    assert all(manifest["apiVersion"] and manifest["kind"] for manifest in read(name))


def test_kustomization_names_every_manifest_but_the_crds() -> None:
    (kustomization,) = read("kustomization.yaml")
    apart = {"kustomization.yaml", "crds.yaml"}
    assert set(kustomization["resources"]) == {name for name in MANIFESTS if "/" not in name} - apart


# ---- the gateway ----


def test_container_ports_are_the_defaults_of_the_gateway(gateway: Manifest) -> None:
    defaults = Settings()
    ports = {port["name"]: port["containerPort"] for port in container_of(gateway)["ports"]}
    assert ports == {"grpc": defaults.port, "grpc-tls": defaults.tls_port, "admin": defaults.admin_port}


def test_services_lead_every_port_out_on_its_node_port(gateway: Manifest) -> None:
    services = read("services.yaml")
    ports = [port for service in services for port in service["spec"]["ports"]]
    assert {port["targetPort"]: port["nodePort"] for port in ports} == NODE_PORTS
    assert all(service["spec"]["type"] == "NodePort" for service in services)


@pytest.mark.parametrize(
    ("deployment", "manifests"),
    [("deployment.yaml", "services.yaml"), ("examples/greet.yaml", "examples/greet.yaml")],
)
def test_selectors_find_the_pods(deployment: str, manifests: str) -> None:
    (found,) = [m for m in read(deployment) if m["kind"] == "Deployment"]
    labels = found["spec"]["template"]["metadata"]["labels"]
    services = [m for m in read(manifests) if m["kind"] == "Service"]
    selectors = [found["spec"]["selector"]["matchLabels"], *(service["spec"]["selector"] for service in services)]
    assert all(selector.items() <= labels.items() for selector in selectors)
    assert {service["metadata"]["namespace"] for service in services} == {found["metadata"]["namespace"]}


def test_service_account_and_namespace_are_those_of_the_rbac(gateway: Manifest) -> None:
    account = find("rbac.yaml", "ServiceAccount", pod_of(gateway)["serviceAccountName"])
    assert account["metadata"]["namespace"] == gateway["metadata"]["namespace"]
    assert find("rbac.yaml", "Namespace", gateway["metadata"]["namespace"])


FROM_THE_POD = {
    "metadata.namespace": "grpcgw",
    "metadata.labels['topology.kubernetes.io/zone']": "east",
    "spec.nodeName": "node-1.example.com",
}
"""What the downward API has for a gateway in that namespace, on a node of that zone."""


def environment_of(deployment: Manifest) -> dict[str, str]:
    """The variables with a value of their own; `limits.cpu` gives whole cores, as the downward API does."""
    container = container_of(deployment)
    found = {}
    for variable in container["env"]:
        origin = variable.get("valueFrom", {})
        if "resourceFieldRef" in origin:
            assert origin["resourceFieldRef"] == {"containerName": container["name"], "resource": "limits.cpu"}
            found[variable["name"]] = container["resources"]["limits"]["cpu"]
        elif "fieldRef" in origin:
            found[variable["name"]] = FROM_THE_POD[origin["fieldRef"]["fieldPath"]]
        else:
            found[variable["name"]] = variable["value"]
    return found


@pytest.fixture
def settings(gateway: Manifest, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings the pod's arguments and environment come to."""
    for name, value in environment_of(gateway).items():
        monkeypatch.setenv(name, value)
    started: list[Settings] = []

    def start(settings: Settings) -> int:
        started.append(settings)
        return 0

    assert execute(container_of(gateway)["args"], start) == 0
    return started[0]


def test_pod_reads_the_cluster_it_runs_in_and_can_be_probed(settings: Settings) -> None:
    assert settings.kubernetes
    assert settings.in_cluster
    assert settings.admin_address == "0.0.0.0"
    assert settings.ambassador_namespace == "grpcgw"
    assert settings.namespace == "", "the rights of rbac.yaml are for all namespaces"


def test_services_of_the_namespace_do_not_set_the_ports(gateway: Manifest) -> None:
    assert pod_of(gateway)["enableServiceLinks"] is False, "a Service grpcgw would be told as GRPCGW_PORT=tcp://…"


def test_pod_knows_its_zone_where_kubernetes_tells_it(settings: Settings) -> None:
    assert settings.zone == "east"


MIB = 1 << 20
UNITS = {"Mi": MIB, "Gi": 1 << 30}
IDLE_BYTES = 90 * MIB
"""Of a process that serves nobody, with room for metadata and connections."""
COPIES = 5
"""How often core and the interpreter hold a large message (docs/hardening.md, measured)."""


def test_memory_of_the_pod_is_enough_for_what_a_client_may_make_it_hold(gateway: Manifest, settings: Settings) -> None:
    text = container_of(gateway)["resources"]["limits"]["memory"]
    limit_bytes = int(text[:-2]) * UNITS[text[-2:]]
    worker_bytes = IDLE_BYTES + COPIES * HeldMessages(settings.max_message_bytes).limit_bytes
    assert IDLE_BYTES + settings.workers * worker_bytes <= limit_bytes


def test_messages_may_be_larger_than_what_pods_take_without_settings_of_their_own(settings: Settings) -> None:
    assert settings.max_message_bytes > 4 * MIB, "the limit of grpc servers"


def test_the_page_is_shown_under_the_names_of_the_nodes(settings: Settings) -> None:
    hosts = KnownHosts(settings.admin_hosts, settings.node_name)
    assert all(hosts.knows(f"{name}:32087") for name in ("node-1", "node-1.example.com", "node-2.example.com"))


def test_pod_has_a_worker_per_core_of_its_limit(settings: Settings) -> None:
    assert settings.workers == 2


def pause_of(deployment: Manifest) -> float:
    command, seconds = container_of(deployment)["lifecycle"]["preStop"]["exec"]["command"]
    assert command == "sleep"
    return float(seconds)


def test_grace_period_leaves_time_for_pause_and_drain(gateway: Manifest, greet: Manifest, settings: Settings) -> None:
    assert pod_of(gateway)["terminationGracePeriodSeconds"] > pause_of(gateway) + settings.drain_time_s
    assert pod_of(greet)["terminationGracePeriodSeconds"] > pause_of(greet) + GRACE_S


def test_probes_ask_the_admin_port(gateway: Manifest) -> None:
    container = container_of(gateway)
    probes = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("liveness", "readiness")}
    assert probes == {
        "liveness": {"path": "/ambassador/v0/check_alive", "port": "admin"},
        "readiness": {"path": "/ambassador/v0/check_ready", "port": "admin"},
    }


# ---- both images ----


@pytest.mark.parametrize("name", ["deployment.yaml", "examples/greet.yaml"])
def test_pods_have_no_rights_they_do_not_need(name: str) -> None:
    (deployment,) = [m for m in read(name) if m["kind"] == "Deployment"]
    pod = pod_of(deployment)["securityContext"]
    assert pod["runAsNonRoot"] is True
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert f"USER {pod['runAsUser']}:{pod['runAsGroup']}" in dockerfile()
    assert container_of(deployment)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def dockerfile() -> Sequence[str]:
    return (DEPLOY / "Dockerfile").read_text().splitlines()


def copied() -> Iterator[str]:
    for line in dockerfile():
        words = line.split()
        if words[:1] == ["COPY"] and not words[1].startswith("--from"):
            yield from words[1:-1]


def test_image_copies_what_exists_and_is_let_into_the_build() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    sources = set(copied())
    assert sources == {entry.removeprefix("!") for entry in ignored if entry.startswith("!")}
    assert all((ROOT / source).exists() for source in sources)


def test_images_are_tagged_with_the_version(gateway: Manifest, greet: Manifest) -> None:
    images = [container_of(gateway)["image"], container_of(greet)["image"]]
    assert images == [f"grpcgw:{__version__}", f"grpcgw-greet:{__version__}"]
    (kustomization,) = read("kustomization.yaml")
    assert kustomization["images"] == [{"name": "grpcgw", "newTag": __version__}]
    assert [line.split("-t ")[1].split()[0] for line in dockerfile() if "docker build" in line] == images


def test_image_exposes_the_ports_of_the_pod(gateway: Manifest) -> None:
    exposed = re.findall(r"^EXPOSE (.*)$", "\n".join(dockerfile()), re.MULTILINE)
    ports = [" ".join(str(port["containerPort"]) for port in container_of(gateway)["ports"])]
    assert exposed == ["50051", *ports]


# ---- the greet example ----


def test_example_is_the_service_that_the_mapping_names(greet: Manifest) -> None:
    _, mapping = yaml.safe_load_all((ROOT / "examples/greet/greet.yaml").read_text())
    service = find("examples/greet.yaml", "Service", "grpcserver")
    (port,) = service["spec"]["ports"]
    metadata = service["metadata"]
    assert mapping["spec"]["service"] == f"{metadata['name']}.{metadata['namespace']}:{port['port']}"
    container = container_of(greet)
    assert [p["name"] for p in container["ports"]] == [port["targetPort"]]
    assert container["args"] == ["--port", str(container["ports"][0]["containerPort"])]
    assert container["readinessProbe"]["grpc"] == {"port": container["ports"][0]["containerPort"], "service": SERVICE}
    assert greet["spec"]["replicas"] == 2


def test_the_dashboard_names_only_metrics_and_labels_that_there_are() -> None:
    rows = re.findall(
        r"^\| `(grpcgw_\w+)` \| (\w+) \|([^|]*)\|", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE
    )
    known = {name: set(re.findall(r"`(\w+)`", labels)) for name, _, labels in rows}
    for name, kind, labels in rows:
        if kind == "histogram":
            known[f"{name}_bucket"] = {*re.findall(r"`(\w+)`", labels), "le"}
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    queries = [target for panel in dashboard["panels"] for target in panel.get("targets", ())]
    assert len(queries) > 15
    for query in queries:
        named = set(re.findall(r"grpcgw_\w+", query["expr"]))
        assert named
        assert named <= set(known), query["expr"]
        labels = set.union(*(known[name] for name in named))
        grouped = {label for group in re.findall(r"by \(([^)]*)\)", query["expr"]) for label in group.split(", ")}
        compared = set(re.findall(r"(\w+)(?:=~|!=|=)\"", query["expr"]))
        assert grouped | compared | set(re.findall(r"{{(\w+)}}", query["legendFormat"])) <= labels, query["expr"]


def test_the_dashboard_is_what_its_script_writes() -> None:
    assert json.loads((DEPLOY / "grafana-dashboard.json").read_text()) == make_dashboard()
