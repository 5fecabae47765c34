"""Gateways configured as operators do it: by Ambassador's YAML, compiled as `grpcgw run` compiles it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator

import yaml

from dataplane.lab import Gateway, Lab
from dataplane.pods import Behaviour, Pod
from dataplane.raw_client import RawClient
from dataplane.scripted_pod import Header, ScriptedPod
from grpcgw.control.dialects import compile_snapshot
from grpcgw.model.objects import Severity
from grpcgw.model.route import PolicySettings
from grpcgw.model.route_source import Compiled, CompileOptions
from grpcgw.settings import EngineName
from tests.parsing import parse_objects

Pods = Iterable[Pod | ScriptedPod] | Pod | ScriptedPod

SAME_IN_ALL = {"apiVersion": "getambassador.io/v2", "kind": "Mapping"}
IN_MAPPINGS = {"prefix": "/test.Pod/", "resolver": "endpoint"}


def compile_yaml(text: str, engine: str = EngineName.HTTP2, policies: tuple[PolicySettings, ...] = ()) -> Compiled:
    """The objects of `text`, in the form of Ambassador's files; what each test would repeat may be left out.

    `policies`: of all calls (`--policy`).
    """
    documents = []
    for given in yaml.safe_load_all(textwrap.dedent(text)):
        document = {**SAME_IN_ALL, **given}
        if document["kind"] == "Mapping" and "spec" in document:
            document["spec"] = {**IN_MAPPINGS, **document["spec"]}
        elif document["kind"] == "Mapping":
            document = {**IN_MAPPINGS, **document}
        documents.append(document)
    hidden_by = "" if EngineName(engine).shows_authority else engine
    objects, faults = parse_objects(yaml.safe_dump_all(documents), "test.yaml")
    assert not faults
    return compile_snapshot(objects, {}, CompileOptions(authority_hidden_by=hidden_by, policies=policies))


def configured(lab: Lab, text: str, *policies: PolicySettings, **pods: Pods) -> Gateway:
    """A gateway for `text`, with `pods` by the name of their service. An error in `text` fails the test."""
    compiled = compile_yaml(text, lab.engine, policies)
    errors = [problem for problem in compiled.problems if problem.severity is Severity.ERROR]
    assert not [str(problem) for problem in errors if "does not know the :authority" not in problem.message]
    by_service = {cluster.service.name: name for name, cluster in compiled.snapshot.clusters.items()}
    members = {by_service[service]: _as_tuple(given) for service, given in pods.items()}
    gateway = lab.gateway(configuration=compiled.snapshot, clusters=members)
    gateway.wait_for_ready_pods(sum(map(len, members.values())))
    return gateway


def pods_named(lab: Lab, names: str, *paths: str) -> dict[str, Pod]:
    """A pod of its name for each of the services. `paths`: methods beside `/test.Pod/Unary` that answer with it."""
    return {name: lab.pod(name, dict.fromkeys(paths, _tell(name))) for name in names.split()}


def _tell(name: str) -> Behaviour:
    def answer(requests: Iterator[bytes], _: object) -> Iterator[bytes]:
        yield b":".join([name.encode(), *requests])

    return answer


def who_answers(client: RawClient, *metadata: Header, method: str = "Unary", authority: str = "gateway.test") -> str:
    """The name of the pod that answered, or the reason of the gateway's own status."""
    answer = client.call(method, *metadata, authority=authority)
    return answer.data[5:].decode().partition(":")[0] or answer.header("x-grpcgw-reason") or f"code {answer.status}"


def _as_tuple(given: Pods) -> tuple[Pod | ScriptedPod, ...]:
    return (given,) if isinstance(given, Pod | ScriptedPod) else tuple(given)
