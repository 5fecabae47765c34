"""Fields of grpcgw's own in an annotation, for clusters whose CRDs are Emissary's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from grpcgw.discovery.sources.extensions import EXTENSION
from grpcgw.discovery.sources.watch_events import read_object
from grpcgw.model.objects import KubeObject, Severity
from tests.compiling import compile_objects, only, said
from tests.discovery.sources.test_kubernetes import reading, until, until_synced
from tests.kube_cluster import Cluster
from tests.parsing import KINDS, WATCHED_KINDS, parse_objects
from tests.scenarios import run

DOCS = Path(__file__).parents[3] / "docs"
(MAPPINGS,) = [kind.candidates[0] for kind in WATCHED_KINDS if kind.name == "Mapping"]


def body(annotation: object, **fields: object) -> dict[str, Any]:
    spec = {"prefix": "/greet.GrpcService/", "service": "greet:50051", "resolver": "endpoint", **fields}
    metadata = {
        "name": "greet",
        "namespace": "shop",
        "resourceVersion": "1",
        "annotations": {EXTENSION: annotation} if annotation is not None else {},
    }
    return {"apiVersion": "getambassador.io/v2", "kind": "Mapping", "metadata": metadata, "spec": spec}


def mapping(annotation: object, **fields: object) -> KubeObject:
    """As it comes from an API server."""
    return read_object(body(annotation, **fields), MAPPINGS, KINDS)


def test_the_annotation_is_merged_into_the_spec_part_by_part() -> None:
    extended = mapping(
        "load_balancer: {slow_start_ms: 5000}\nweight: 10\n", load_balancer={"policy": "least_request"}, weight=90
    )
    plain = mapping(None, load_balancer={"policy": "least_request", "slow_start_ms": 5000}, weight=10)
    assert extended.body["spec"] == plain.body["spec"]
    assert said(compile_objects(extended)) == []
    assert compile_objects(extended).snapshot.clusters == compile_objects(plain).snapshot.clusters


def test_null_takes_a_field_away() -> None:
    assert mapping("weight: null", weight=50).body["spec"] == mapping(None).body["spec"]


def test_what_is_wrong_in_the_annotation_is_named_by_its_place_in_it() -> None:
    obj = mapping(
        "load_balancer: {slow_start_ms: soon}\noutlier_detection: {consecutive: 1}\n",
        load_balancer={"policy": "round_robin"},
    )
    paths = {problem.path for problem in compile_objects(obj).problems if problem.severity is Severity.ERROR}
    assert f"metadata.annotations.{EXTENSION}.load_balancer.slow_start_ms" in paths
    obj = mapping("outlier_detection: {consecutive: 1}\n")
    paths = {problem.path for problem in compile_objects(obj).problems if problem.severity is Severity.ERROR}
    assert paths == {f"metadata.annotations.{EXTENSION}.outlier_detection.consecutive"}


def test_what_is_wrong_beside_the_annotation_keeps_its_place() -> None:
    obj = mapping("load_balancer: {slow_start_ms: 5000}", load_balancer={"policy": "roundrobin"})
    assert [problem.path for problem in compile_objects(obj).problems] == ["spec.load_balancer.policy"]


@pytest.mark.parametrize(
    ("annotation", "said_of_it"),
    [
        ("load_balancer: [", "line "),
        ("weight: 1\nweight: 2\n", "line 2: "),
        ("- a", "should be one object of fields"),
        ("", "should be one object of fields"),
        ("a: 1\n---\nb: 2\n", "should be one object of fields"),
        (5, "should be a text"),
    ],
)
def test_an_annotation_that_cannot_be_read_leaves_the_object_out(annotation: object, said_of_it: str) -> None:
    compiled = compile_objects(mapping(annotation))
    (problem,) = compiled.problems
    assert (problem.severity, problem.path) == (Severity.ERROR, f"metadata.annotations.{EXTENSION}")
    assert problem.message.startswith(said_of_it)
    assert compiled.snapshot.routes == ()


def test_the_last_good_version_serves_while_an_annotation_cannot_be_read() -> None:
    good = compile_objects(mapping("weight: 10"))
    bad = compile_objects(mapping("weight: ["), last=good)
    assert bad.snapshot.routes == good.snapshot.routes


def test_in_files_problems_name_the_line_in_the_annotation() -> None:
    text = f"""\
apiVersion: getambassador.io/v2
kind: Mapping
metadata:
  name: greet
  annotations:
    {EXTENSION}: |
      load_balancer:
        slow_start_ms: soon
spec: {{prefix: /a/, service: "a:1", load_balancer: {{policy: round_robin}}}}
"""
    objects, _ = parse_objects(text, "greet.yaml")
    (problem,) = compile_objects(*objects).problems
    assert problem.where == "greet.yaml:8"


def test_other_objects_may_carry_the_annotation_without_a_meaning() -> None:
    metadata = f"metadata: {{name: a, annotations: {{{EXTENSION}: 'x: 1'}}}}"
    objects, problems = parse_objects(f"apiVersion: v1\nkind: Service\n{metadata}\nspec: {{ports: []}}\n", "a.yaml")
    assert ([obj.body["spec"] for obj in objects], problems) == ([{"ports": []}], ())


def documented() -> dict[str, Any]:
    blocks = re.findall(r"^```yaml\n(.*?)^```", (DOCS / "kubernetes.md").read_text(), re.MULTILINE | re.DOTALL)
    (found,) = [yaml.safe_load(block) for block in blocks if EXTENSION in block]
    return dict(found)


def test_the_documented_example_works_in_a_cluster(cluster: Cluster) -> None:
    example = documented()
    example["metadata"]["namespace"] = cluster.namespace

    async def scenario() -> None:
        async with reading(cluster.access) as store:
            cluster.put(example)
            await until_synced(store)
            await until(lambda: bool(store.of_kind("Mapping")), "the Mapping is read")
            compiled = compile_objects(*store.of_kind("Mapping"))
            assert said(compiled) == []
            balancer = only(compiled).balancing.load_balancer
            assert (balancer.slow_start_ms, balancer.prefer_same_zone) == (5000, True)

    run(scenario())
