"""What the log says of readers that fail: enough to know, and a bounded number of lines."""

from __future__ import annotations

from grpcgw.discovery.sources.failure_log import REMINDER_S, FailureLog


def test_many_readers_that_fail_for_one_cause_are_one_line() -> None:
    outages = FailureLog()
    lines = [outages.note_failure(f"kind {number}", "away", "refused", number * 0.1) for number in range(300)]
    assert lines[0] == "kind 0: refused"
    assert set(lines[1:]) == {""}


def test_an_outage_that_lasts_is_counted_more_and_more_seldom() -> None:
    outages = FailureLog()
    lines = [outages.note_failure(f"kind {second % 3}", "away", "refused", float(second)) for second in range(500)]
    assert [line for line in lines if line] == [
        "kind 0: refused",
        "kind 0: refused (61 failures of 3 readers in 60 s)",
        "kind 0: refused (181 failures of 3 readers in 180 s)",
        "kind 0: refused (421 failures of 3 readers in 420 s)",
    ]


def test_what_lasts_for_days_is_counted_once_an_hour() -> None:
    outages = FailureLog()
    day_s = 24 * 3600
    lines = [outages.note_failure("Ingress", "403", "not allowed", float(second)) for second in range(0, day_s, 30)]
    assert 24 <= len([line for line in lines if line]) <= 32


def test_another_cause_is_a_line_of_its_own() -> None:
    outages = FailureLog()
    outages.note_failure("Mapping", "away", "refused", 0.0)
    assert outages.note_failure("Host", "refused 500", "500 no", 1.0) == "Host: 500 no"


def test_a_new_outage_is_a_line_beside_what_has_failed_for_days() -> None:
    outages = FailureLog()
    for second in range(0, 7200, 30):
        outages.note_failure("Ingress", "403", "not allowed", float(second))
        outages.note_failure("Mapping", "away", "refused", float(second))
    assert outages.note_success("Mapping", 7200.0)
    assert outages.note_failure("Mapping", "away", "refused", 7300.0) == "Mapping: refused"


def test_the_end_is_a_line_once_every_reader_works() -> None:
    outages = FailureLog()
    outages.note_failure("Mapping", "away", "refused", 0.0)
    outages.note_failure("Host", "away", "refused", 1.0)
    assert outages.note_success("Host", 2.0) == ""
    assert outages.note_success("Mapping", 3.5) == "reading works again, after 3.5 s and 2 failures"
    assert outages.note_success("Mapping", 4.0) == ""


def test_a_reader_that_is_no_more_does_not_keep_an_outage_open() -> None:
    outages = FailureLog()
    outages.note_failure("Secret", "away", "refused", 0.0)
    outages.note_failure("Mapping", "away", "refused", 0.0)
    outages.forget("Secret")
    assert outages.note_success("Mapping", 1.0)


def test_a_reader_that_fails_and_works_in_turn_writes_a_bounded_number_of_lines() -> None:
    outages = FailureLog()
    lines = []
    for step in range(1000):
        lines.append(outages.note_failure("Mapping", "away", "refused", step * 0.1))
        lines.append(outages.note_success("Mapping", step * 0.1 + 0.05))
    assert len([line for line in lines if line]) == 2 * (1 + int(100 // REMINDER_S))
