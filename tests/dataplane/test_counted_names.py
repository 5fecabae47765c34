"""Under which names RPCs are counted: what strangers make up fills neither reports nor metrics."""

from __future__ import annotations

from dataplane.lab import Lab
from dataplane.waiting import eventually

OK, UNIMPLEMENTED = 0, 12


def test_method_names_that_a_client_makes_up_get_no_name_and_take_none_from_others(lab: Lab) -> None:
    gateway = lab.gateway(lab.pod())
    gateway.wait_for_ready_pods(1)
    client = lab.raw_client(gateway)
    for number in range(30):
        assert client.call(f"/test.Pod/Invented{number}").status == UNIMPLEMENTED
    assert client.call("/test.Pod/" + 900 * "x").status == UNIMPLEMENTED
    assert client.call("/test.Pod/Unary").status == OK

    def counted() -> dict[str, dict[int, int]]:
        return {report.method: report.codes for report in gateway.serving.counters.reports()}

    eventually(lambda: counted() == {"other": {UNIMPLEMENTED: 31}, "Unary": {OK: 1}})


def test_the_path_in_a_status_of_the_gateway_is_cut(lab: Lab) -> None:
    answer = lab.raw_client(lab.gateway()).call("/nobody.Has/" + 900 * "x")
    assert answer.status == UNIMPLEMENTED
    assert answer.message.startswith("no Mapping matches /nobody.Has/xxx")
    assert len(answer.message) < 600
