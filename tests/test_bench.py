"""The benchmark's own parts: how it reads reports, judges figures, draws tables, and refuses wrong answers."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.__main__ import parse_arguments
from bench.abuse import measure_attacks
from bench.backend import METHOD, STREAM_METHOD, make_reply, make_request
from bench.distinct_keys import LIMIT_BOUND_BYTES, TOKEN_BOUND_BYTES, grow_by_limit_keys, grow_by_tokens
from bench.echo_pod import EchoConnection
from bench.h2load import Load, make_frame, parse_report
from bench.messages import LARGE, SMALL, Exchange, Samples, exchange_messages, running_echo_pods
from bench.parts import PARTS
from bench.pods import Pod, check_answers, running_pods, write_configuration
from bench.policies import check_refusal
from bench.proxies import Proxy, parse_ended_rpcs, running_gateway
from bench.report import (
    Figure,
    at_least,
    at_most,
    count_at_most,
    for_information,
    none_of,
    percentile,
    render_figures,
    render_table,
)
from bench.side_by_side import Row, cpu_ratio, describe, latency_ratio, run_checked
from grpcgw.cli.demo_processes import HOST, ROOT, free_port
from grpcgw.errors import UserError
from grpcgw.settings import CompileSettings

REPORT = """\
finished in 5.18s, 11576.72 req/s, 991.24KB/s
requests: 60000 total, 60000 started, 60000 done, 60000 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 60000 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 5.02MB (5260690) total, 176.37KB (180600) headers (space savings 96.28%), 2.29MB (2400000) data
                     min         max         mean         sd        +/- sd
time for request:      133us     58.82ms      5.42ms      5.00ms    87.32%
time for connect:      225us      1.60ms       875us       607us    75.00%
"""
LOG = "".join(f"1700000000\t200\t{10 * number}\n" for number in range(1, 101))
needs_h2load = pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load is not installed")


def test_a_report_of_h2load_is_read() -> None:
    assert parse_report(REPORT, LOG) == Load(60_000, 2_400_000, 11_576.72, 5420.0, 990.0)


@pytest.mark.parametrize(("mean", "mean_us"), [("72us", 72.0), ("1.25s", 1_250_000.0)])
def test_a_mean_is_read_in_every_unit_h2load_uses(mean: str, mean_us: float) -> None:
    assert parse_report(REPORT.replace("5.42ms", mean), LOG).mean_latency_us == mean_us


def test_what_is_no_report_is_refused() -> None:
    with pytest.raises(UserError, match="not a report of h2load"):
        parse_report("h2load: command line error", LOG)
    with pytest.raises(UserError, match="logged no request"):
        parse_report(REPORT, "")


def test_ended_rpcs_are_added_up_by_status() -> None:
    metrics = (
        "# TYPE grpcgw_rpcs_total counter\n"
        'grpcgw_rpcs_total{mapping="a.b",service="s",method="M",grpc_status="OK"} 41.0\n'
        'grpcgw_rpcs_total{mapping="a.b",service="s",method="N",grpc_status="OK"} 1.0\n'
        'grpcgw_rpcs_total{mapping="",service="other",method="other",grpc_status="UNIMPLEMENTED"} 2.0\n'
        "grpcgw_ready 1.0\n"
    )
    assert parse_ended_rpcs(metrics) == {"OK": 42, "UNIMPLEMENTED": 2}


@given(st.lists(st.floats(0, 1000), min_size=1), st.floats(0.1, 100))
def test_a_percentile_is_the_smallest_value_that_enough_do_not_exceed(values: list[float], percent: float) -> None:
    found = percentile(values, percent)
    assert sum(value <= found for value in values) >= percent / 100 * len(values)
    assert sum(value < found for value in values) < percent / 100 * len(values)


@pytest.mark.parametrize(
    ("figure", "verdict"),
    [
        (at_most("ratio", 0.35, 0.35), "met"),
        (at_most("ratio", 0.36, 0.35), "not met"),
        (at_least("ratio", 0.8, 0.8), "met"),
        (at_least("ratio", 0.79, 0.8), "not met"),
        (count_at_most("threads", 8, 8), "met"),
        (count_at_most("threads", 9, 8), "not met"),
        (none_of("failed", 0, 1000), "met"),
        (none_of("failed", 1, 1000), "not met"),
        (for_information("half", "7 ms"), ""),
    ],
)
def test_a_figure_is_held_to_its_target(figure: Figure, verdict: str) -> None:
    assert figure.verdict == verdict


def test_figures_are_drawn_as_a_table() -> None:
    drawn = render_figures([at_most("memory each", 41.2, 60, " KB"), for_information("half", "7 ms")])
    assert drawn.splitlines()[2:] == [
        "| memory each | at most 60 KB | 41 KB | met |",
        "| half | - | 7 ms | - |",
    ]


@given(st.lists(st.lists(st.sampled_from(["a", "1 us", ""]), min_size=3, max_size=3)))
def test_every_line_of_a_table_has_as_many_cells_as_its_header(rows: list[list[str]]) -> None:
    assert {line.count("|") for line in render_table(["x", "y", "z"], rows).splitlines()} == {4}


def make_row(name: str, cpu_us: list[float], latency_us: list[float]) -> Row:
    return Row(Proxy(name, 1, (1,)), (), cpu_us, [], [1000.0] * len(cpu_us), latency_us, [2000.0] * len(cpu_us))


def test_ratios_are_taken_within_a_round_so_that_a_slow_round_does_not_count() -> None:
    mine = make_row("mine", [10, 100, 12], [1, 1, 1])
    its = make_row("its", [5, 50, 4], [2, 2, 2])
    assert (cpu_ratio(mine, its), latency_ratio(mine, its)) == (2, 0.5)


def test_a_line_has_the_ratios_first_and_a_dash_where_nothing_was_measured() -> None:
    other = make_row("other", [50], [1])
    assert describe(make_row("mine", [10], [300]), [other]) == [
        "mine",
        "0.20",
        "10 us (10 to 10)",
        "1,000",
        "2.0 ms",
        "300 us",
    ]
    assert describe(make_row("none", [], [72]), [other]) == ["none", "-", "-", "-", "-", "72 us"]


def test_an_unknown_part_is_refused_with_the_list_of_parts(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        parse_arguments(["--only", "proxies,speed"])
    assert refused.value.code == 2
    said = capsys.readouterr().err
    assert "no part is called speed" in said
    assert all(part in said for part in PARTS)


def test_every_part_is_described() -> None:
    described = (ROOT / "docs" / "performance.md").read_text()
    assert [part for part in PARTS if f"| `{part}` |" not in described] == []


# ---- against real pods


def test_pods_name_themselves_in_unary_and_streamed_replies() -> None:
    with running_pods(2) as pods:
        for pod in pods:
            with grpc.insecure_channel(pod.address) as channel:
                assert channel.unary_unary(METHOD)(make_request(), timeout=10) == make_reply(pod.name)
                streamed = channel.stream_stream(STREAM_METHOD)(iter([make_request()] * 3), timeout=10)
                assert list(streamed) == [make_reply(pod.name)] * 3


def test_answers_of_one_pod_alone_are_not_taken_for_turns() -> None:
    with running_pods(2) as pods, pytest.raises(UserError, match="did not take strict turns: pod-000 pod-000"):
        check_answers("one pod", pods[0].port, pods)


def test_a_proxy_that_does_not_answer_ok_is_named_with_its_status() -> None:
    with pytest.raises(UserError, match="nobody: UNAVAILABLE: "):
        check_answers("nobody", free_port(0), (Pod("pod-00", 1),))


@pytest.mark.parametrize("exchange", [SMALL, LARGE])
def test_messages_go_back_and_forth_through_the_gateway(exchange: Exchange, tmp_path: Path) -> None:
    samples = Samples()
    with running_echo_pods(2) as pods:
        write_configuration(tmp_path, pods)
        with running_gateway(("--config", str(tmp_path)), CompileSettings().engine) as gateway:
            asyncio.run(exchange_messages(gateway, exchange, 0.3, samples))
    assert samples.per_s[0] > 0
    assert samples.cpu_us[0] > 0


class ForgetfulPod(EchoConnection):
    """Its echo is right up to the last byte."""

    def on_data(self, stream: int, data: memoryview, ended: bool) -> None:
        super().on_data(stream, memoryview(bytes(data)[:-1] + b"?"), ended)


def test_an_echo_that_differs_from_the_message_is_refused() -> None:
    async def exchange() -> None:
        server = await asyncio.get_running_loop().create_server(ForgetfulPod, HOST, 0)
        async with server:
            proxy = Proxy("forgetful", server.sockets[0].getsockname()[1], ())
            await exchange_messages(proxy, SMALL, 0.1, Samples())

    with pytest.raises(
        UserError, match="forgetful: messages of 100 bytes: the echo on stream 1 differs from byte 0 on"
    ):
        asyncio.run(exchange())


@needs_h2load
def test_a_run_through_the_gateway_is_believed_only_with_every_reply_whole(tmp_path: Path) -> None:
    """h2load itself counts an RPC that ends with an error as a success: it is an HTTP 200, only without a body."""
    with running_pods(2) as pods:
        write_configuration(tmp_path, pods)
        with running_gateway(("--config", str(tmp_path)), CompileSettings().engine) as gateway:
            check_answers("grpcgw", gateway.port, pods)
            assert run_checked(gateway, 200).body_bytes == 200 * len(make_frame(make_reply("pod-000")))
            write_configuration(tmp_path, ())
            wait_until_refused(gateway.port)
            with pytest.raises(UserError, match="of 200 RPCs 200 succeeded, with 0 bytes of replies"):
                run_checked(gateway, 200)


def wait_until_refused(port: int) -> None:
    limit_s = time.monotonic() + 30
    with grpc.insecure_channel(f"{HOST}:{port}") as channel:
        while time.monotonic() < limit_s:
            try:
                channel.unary_unary(METHOD)(make_request(), timeout=10)
            except grpc.RpcError:
                return
    raise AssertionError("the gateway still answers, though its service has no pods")


def test_an_attack_is_measured_while_it_sends_and_the_ordinary_client_is_answered() -> None:
    (outcome,) = measure_attacks(1, CompileSettings().engine, ["one message of 1 GiB"])
    (one,) = outcome.rounds
    assert one.connections == 1
    assert one.sent_bytes > 0  # how much depends on how idle the machine is
    assert 0 < outcome.ratio == one.beside_ms / one.alone_ms


def test_a_gateway_that_lets_pass_what_its_policy_refuses_is_not_measured() -> None:
    with running_pods(1) as pods, pytest.raises(UserError, match="let an RPC pass"):
        check_refusal(Proxy("pod", pods[0].port, ()), (), grpc.StatusCode.PERMISSION_DENIED)


def test_distinct_keys_and_tokens_are_counted_by_memory() -> None:
    assert grow_by_limit_keys(500) < LIMIT_BOUND_BYTES
    assert grow_by_tokens(500) < TOKEN_BOUND_BYTES
