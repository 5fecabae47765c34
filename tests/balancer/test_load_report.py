"""Load reports are read as protobuf writes them, and bytes that are none do no harm."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.load_reports import OrcaLoadReport, make_trailers
from grpcgw.balancer.load_report import LoadReport, find_load_report, parse_load_report

amounts = st.floats(0, 1e12)


@given(amounts, amounts, amounts, amounts, amounts, st.integers(0, 2**64 - 1))
def test_what_protobuf_writes_is_read(qps: float, eps: float, cpu: float, app: float, memory: float, rps: int) -> None:
    data = OrcaLoadReport(
        rps_fractional=qps, eps=eps, cpu_utilization=cpu, application_utilization=app, mem_utilization=memory, rps=rps
    ).SerializeToString()
    assert parse_load_report(data) == LoadReport(qps, eps, cpu, app)


def test_maps_and_unknown_fields_are_passed_over() -> None:
    entry = b"\x0a\x03gpu\x11" + struct.pack("<d", 0.5)
    unknown = b"\xfd\x01\x01\x02\x03\x04"  # field 31, 32 bits
    data = b"\x42" + bytes([len(entry)]) + entry + unknown + b"\x31" + struct.pack("<d", 7.0)
    assert parse_load_report(data) == LoadReport(qps=7.0)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_report_or_none(data: bytes) -> None:
    report = parse_load_report(data)
    assert report is None or report.weight(1.0) >= 0.0


@pytest.mark.parametrize("data", [b"\x31\x00", b"\x42\x09ab", b"\xff" * 11, b"\x0b", b"\x31"])
def test_broken_bytes_are_no_report(data: bytes) -> None:
    assert parse_load_report(data) is None


def test_the_report_is_found_in_the_trailers() -> None:
    assert find_load_report(make_trailers(rps_fractional=3.0)) == LoadReport(qps=3.0)
    assert find_load_report((("x", "y"),)) is None
    assert find_load_report((("endpoint-load-metrics-bin", "text"),)) is None


@pytest.mark.parametrize(
    "text",
    [
        "TEXT cpu_utilization=0.5, rps_fractional=100,named_metrics.gpu=x,eps=2",
        'JSON {"cpu_utilization": 0.5, "rps_fractional": 100, "eps": 2, "named_metrics": {"gpu": 1}}',
        'JSON {"cpuUtilization": 0.5, "rpsFractional": 100.0, "eps": 2}',
        "BIN CQAAAAAAAOA/MQAAAAAAAFlAOQAAAAAAAABA",
    ],
)
def test_reports_are_read_in_each_of_envoys_forms(text: str) -> None:
    assert find_load_report((("endpoint-load-metrics", text),)) == LoadReport(100.0, 2.0, 0.5)


@pytest.mark.parametrize(
    "text",
    [
        *("", "cpu_utilization=0.5", "TEXT eps=much", "TEXT eps", "JSON [1]", "JSON {", "BIN %", "BIN AA==", "XML a"),
        "JSON " + "[" * 60_000,
        "JSON " + '{"eps": 1' + "0" * 400 + "}",
    ],
    ids=lambda text: text[:12],
)
def test_text_that_is_no_report_is_none(text: str) -> None:
    assert find_load_report((("endpoint-load-metrics", text),)) is None


@given(st.sampled_from(["TEXT ", "JSON ", "BIN ", ""]), st.text(max_size=60))
def test_any_text_is_a_report_or_none(form: str, text: str) -> None:
    report = find_load_report((("endpoint-load-metrics", form + text),))
    assert report is None or report.weight(1.0) >= 0.0


@pytest.mark.parametrize(
    ("report", "weight"),
    [
        (LoadReport(qps=100.0, cpu_utilization=0.5), 200.0),
        (LoadReport(qps=100.0, cpu_utilization=0.5, application_utilization=0.25), 400.0),
        (LoadReport(qps=100.0, eps=50.0, cpu_utilization=0.5), 100.0),
        (LoadReport(qps=100.0), 0.0),
        (LoadReport(cpu_utilization=0.5), 0.0),
        (LoadReport(qps=float("nan"), cpu_utilization=0.5), 0.0),
        (LoadReport(qps=float("inf"), cpu_utilization=0.5), 0.0),
        (LoadReport(qps=-5.0, cpu_utilization=0.5), 0.0),
    ],
)
def test_the_weight_is_rpcs_per_load(report: LoadReport, weight: float) -> None:
    assert report.weight(1.0) == pytest.approx(weight)
