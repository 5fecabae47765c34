"""`outlier_detection`: a pod that fails too often is left out, is named with the reason, and comes back by itself."""

from __future__ import annotations

import re
from collections import Counter

from dataplane.configured import configured
from dataplane.lab import Gateway, Lab
from dataplane.raw_client import RawClient
from dataplane.scripted_pod import ScriptedPod, Stream
from dataplane.waiting import eventually

INVALID_ARGUMENT, INTERNAL, NOT_FOUND = 3, 13, 5


class Answers:
    """A pod's script that answers every RPC with `status`."""

    def __init__(self, status: int = 0) -> None:
        self.status = status

    def __call__(self, stream: Stream) -> None:
        stream.read_all()
        stream.end_at_once(self.status)


def detecting(settings: str, more: str = "") -> str:
    return f"metadata: {{name: test}}\nspec: {{service: pods:50051, outlier_detection: {{{settings}}}{more}}}"


def note(gateway: Gateway, pod: ScriptedPod) -> str:
    return next(report.note for report in gateway.serving.clusters.pod_reports() if report.address == str(pod.endpoint))


def statuses(client: RawClient, count: int) -> Counter[int | None]:
    return Counter(client.call("Unary").status for _ in range(count))


def test_metadata_that_cannot_be_sent_is_the_clients_fault_and_no_pods(lab: Lab) -> None:
    pods = [lab.scripted_pod(Answers()), lab.scripted_pod(Answers())]
    settings = "consecutive_failures: 1, max_ejection_percent: 100"
    gateway = configured(lab, detecting(settings, ", retry_policy: {retry_on: internal}"), pods=pods)
    client = lab.raw_client(gateway)
    for value in ("caf\u00e9", "a\tb"):
        answer = client.call("Unary", ("x-name", value))
        assert (answer.status, answer.header("x-grpcgw-reason")) == (INVALID_ARGUMENT, "bad-metadata")
    assert client.call("Unary").status == 0
    assert [note(gateway, pod) for pod in pods] == ["", ""]
    assert sum(len(pod.streams) for pod in pods) == 1


def test_pod_that_fails_in_a_row_is_ejected_and_named(lab: Lab) -> None:
    sick, well = lab.scripted_pod(Answers(INTERNAL)), lab.scripted_pod(Answers())
    settings = "consecutive_failures: 3, max_ejection_percent: 50"
    gateway = configured(lab, detecting(settings), pods=[sick, well])
    client = lab.raw_client(gateway)
    assert statuses(client, 6) == {INTERNAL: 3, 0: 3}
    eventually(lambda: note(gateway, sick), "the pod is ejected")
    assert list(gateway.serving.counters.events().ejections.values()) == [1]
    assert re.fullmatch("ejected for [0-9]+ s more: 3 failures in a row", note(gateway, sick))
    assert note(gateway, well) == ""
    assert [report.state for report in gateway.serving.clusters.pod_reports()] == ["ready", "ready"]
    seen = len(sick.streams)
    assert statuses(client, 6) == {0: 6}
    assert len(sick.streams) == seen


def test_pod_returns_by_itself_after_its_ejection(lab: Lab) -> None:
    failing = Answers(INTERNAL)
    sick, well = lab.scripted_pod(failing), lab.scripted_pod(Answers())
    settings = "consecutive_failures: 3, max_ejection_percent: 50, base_ejection_ms: 300, interval_ms: 100"
    gateway = configured(lab, detecting(settings), pods=[sick, well])
    client = lab.raw_client(gateway)
    assert statuses(client, 6) == {INTERNAL: 3, 0: 3}
    failing.status = 0
    eventually(lambda: statuses(client, 2) and len(sick.streams) > 3, "the pod is let back in")
    assert note(gateway, sick) == ""
    assert statuses(client, 6) == {0: 6}


def test_pods_own_answers_are_no_failures(lab: Lab) -> None:
    """NOT_FOUND is what the application says, not a pod that fails."""
    pods = [lab.scripted_pod(Answers(NOT_FOUND)), lab.scripted_pod(Answers())]
    gateway = configured(lab, detecting("consecutive_failures: 2, max_ejection_percent: 100"), pods=pods)
    assert statuses(lab.raw_client(gateway), 12) == {NOT_FOUND: 6, 0: 6}
    assert [note(gateway, pod) for pod in pods] == ["", ""]


def test_pods_that_all_fail_are_not_all_ejected(lab: Lab) -> None:
    pods = [lab.scripted_pod(Answers(INTERNAL)) for _ in range(3)]
    gateway = configured(lab, detecting("consecutive_failures: 1, max_ejection_percent: 100"), pods=pods)
    assert statuses(lab.raw_client(gateway), 12) == {INTERNAL: 12}, "the last pod goes on, and its answers pass"
    eventually(lambda: [bool(note(gateway, pod)) for pod in pods].count(True) == 2)


def test_pod_far_below_the_others_success_rate_is_ejected(lab: Lab) -> None:
    """Every second of its RPCs fails, so never many in a row."""

    class EverySecond(Answers):
        def __call__(self, stream: Stream) -> None:
            self.status = INTERNAL - self.status
            super().__call__(stream)

    sick = lab.scripted_pod(EverySecond())
    pods = [sick, *(lab.scripted_pod(Answers()) for _ in range(3))]
    settings = (
        "consecutive_failures: 0, interval_ms: 100, max_ejection_percent: 50, success_rate_stdev_factor: 1500,"
        " success_rate_minimum_pods: 4, success_rate_request_volume: 2"
    )
    gateway = configured(lab, detecting(settings), pods=pods)
    client = lab.raw_client(gateway)
    eventually(lambda: statuses(client, 8) and note(gateway, sick), "the pod is ejected")
    assert "success rate" in note(gateway, sick)
    assert [note(gateway, pod) for pod in pods[1:]] == ["", "", ""]


def test_ejection_and_retries_together_hide_a_sick_pod(lab: Lab) -> None:
    sick, well = lab.scripted_pod(Answers(INTERNAL)), lab.scripted_pod(Answers())
    retry = ", retry_policy: {retry_on: internal, num_retries: 1}"
    settings = "consecutive_failures: 2, max_ejection_percent: 50"
    gateway = configured(lab, detecting(settings, retry), pods=[sick, well])
    assert statuses(lab.raw_client(gateway), 20) == {0: 20}
    assert len(sick.streams) == 2


def test_mappings_of_one_service_eject_for_themselves(lab: Lab) -> None:
    sick, well = lab.scripted_pod(Answers(INTERNAL)), lab.scripted_pod(Answers())
    text = detecting("consecutive_failures: 1, max_ejection_percent: 50") + (
        "\n---\nmetadata: {name: other}\nspec: {prefix: /other.Pod/, service: pods:50051}"
    )
    gateway = configured(lab, text, pods=[sick, well])
    client = lab.raw_client(gateway)
    statuses(client, 4)
    assert statuses(client, 10) == {0: 10}
    others = Counter(client.call("/other.Pod/Unary").status for _ in range(10))
    assert others == {INTERNAL: 5, 0: 5}
