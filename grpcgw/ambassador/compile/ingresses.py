"""Reports Ingresses of class `ambassador`, which Ambassador serves and grpcgw does not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from grpcgw.ambassador.compile.generations import Generations
from grpcgw.ambassador.spec.parse import Findings
from grpcgw.model.objects import KubeObject, read_metadata

_GROUPS = frozenset({"networking.k8s.io", "extensions"})
_CLASS = "ambassador"
_CONTROLLER = "getambassador.io/ingress-controller"


def note_ingresses(objects: Iterable[KubeObject], ambassador_id: str, generations: Generations) -> None:
    """A notice for each Ingress that is meant for the gateway with this id."""
    found = [obj for obj in objects if obj.key.kind in ("Ingress", "IngressClass") and _group(obj) in _GROUPS]
    classes = {_CLASS, *(obj.key.name for obj in found if _read_spec(obj, "controller") == _CONTROLLER)}
    for obj in found:
        if obj.key.kind == "Ingress" and _is_meant(obj, classes, ambassador_id):
            findings = Findings(obj)
            findings.notice("grpcgw does not serve Ingresses; write a Mapping for each rule")
            generations.report(findings)


def _is_meant(obj: KubeObject, classes: set[str], ambassador_id: str) -> bool:
    annotations = read_metadata(obj, "annotations")
    given = {str(annotations.get("kubernetes.io/ingress.class")), _read_spec(obj, "ingressClassName")}
    wanted = annotations.get("getambassador.io/ambassador-id", "default")
    return not given.isdisjoint(classes) and wanted == ambassador_id


def _read_spec(obj: KubeObject, name: str) -> str | None:
    spec = obj.body.get("spec")
    value = spec.get(name) if isinstance(spec, Mapping) else None
    return value if isinstance(value, str) else None


def _group(obj: KubeObject) -> str:
    return obj.api_version.partition("/")[0]
