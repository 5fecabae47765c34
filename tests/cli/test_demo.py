"""The demo: how it judges the runs, how it finds ports, and that it runs end to end."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from grpcgw.cli.demo import (
    CONFIG,
    PODS,
    DemoPod,
    configuration,
    require_checkout,
)
from grpcgw.cli.demo_processes import HOST, ROOT, free_port, running, wait_until
from grpcgw.cli.demo_verdict import Answers, find_faults, read_answers, took_strict_turns
from grpcgw.errors import UserError

NAMES = ("greet-1", "greet-2")
DEADLINE_S = 60


@given(st.permutations(["a", "b", "c"]), st.integers(3, 20))
def test_turns_are_strict_whichever_pod_is_first(order: list[str], calls: int) -> None:
    assert took_strict_turns([order[i % 3] for i in range(calls)], ["a", "b", "c"])


@given(st.lists(st.sampled_from(NAMES), min_size=2, max_size=12))
def test_turns_of_two_pods_are_strict_only_if_no_pod_answers_twice_in_a_row(hosts: list[str]) -> None:
    alternating = all(before != after for before, after in pairwise(hosts))
    assert took_strict_turns(hosts, NAMES) == alternating


@pytest.mark.parametrize("hosts", [[], ["greet-1"], ["greet-1", "greet-3"]])
def test_turns_are_not_strict_without_every_pod(hosts: list[str]) -> None:
    assert not took_strict_turns(hosts, NAMES)


def test_a_good_run_has_no_faults() -> None:
    hosts = ("greet-2", "greet-1", "greet-2")
    assert find_faults(Answers(hosts, (5001,)), True, NAMES, calls=3) == []
    assert find_faults(Answers(hosts, (5001, 5002, 5003)), False, NAMES, calls=3) == []


@pytest.mark.parametrize(
    ("answers", "one_connection", "fault"),
    [
        (Answers(("greet-1", "greet-2"), (1,)), True, "2 answers to 3 calls"),
        (Answers(("greet-1", "greet-2", "greet-2"), (1,)), True, "did not take strict turns: greet-1 greet-2 greet-2"),
        (Answers(("greet-1", "greet-2", "greet-1"), (1, 2)), True, "2 client ports instead of 1"),
        (Answers(("greet-1", "greet-2", "greet-1"), (1, 1, 2)), False, "2 client ports instead of 3"),
    ],
)
def test_a_bad_run_says_what_was_wrong(answers: Answers, one_connection: bool, fault: str) -> None:
    (found,) = find_faults(answers, one_connection, NAMES, calls=3)
    assert fault in found


def test_answers_are_read_from_what_a_client_prints() -> None:
    printed = "Response from Service: Got input test server host: greet-1\nClient ports used: 5001 5002\n"
    assert read_answers(printed) == Answers(("greet-1",), (5001, 5002))


@pytest.fixture
def taken_port() -> Iterator[int]:
    with closing(socket.create_server((HOST, 0))) as listener:
        yield listener.getsockname()[1]


def test_another_port_is_taken_where_the_usual_one_is_in_use(taken_port: int) -> None:
    assert free_port(taken_port) != taken_port


def test_the_usual_pods_are_those_of_the_example() -> None:
    _, endpoints = yaml.safe_load_all((ROOT / CONFIG / "pods.yaml").read_text())
    found = [
        DemoPod(address["targetRef"]["name"], port["port"])
        for subset in endpoints["subsets"]
        for address in subset["addresses"]
        for port in subset["ports"]
    ]
    assert found == list(PODS)


def test_pods_on_other_ports_get_a_configuration_of_their_own() -> None:
    with configuration([DemoPod("greet-1", 1111), DemoPod("greet-2", 2222)]) as directory:
        assert re.findall(r"port: (\d+)", (directory / "pods.yaml").read_text()) == ["50051", "1111", "2222"]
        assert (directory / "greet.yaml").read_text() == (ROOT / CONFIG / "greet.yaml").read_text()
    assert not directory.exists()


def test_a_child_that_dies_while_starting_is_an_error_and_not_waited_for() -> None:
    with running("platform") as child:
        child.wait(DEADLINE_S)
        with pytest.raises(UserError, match="the pod ended with exit code 0 while starting"):
            wait_until(lambda: False, child, "the pod")


def test_children_are_ended_when_the_block_is_left_by_an_error() -> None:
    with pytest.raises(UserError), running("http.server", "0", "--bind", HOST) as child:
        raise UserError("something else went wrong")
    assert child.returncode is not None


def test_demo_runs_end_to_end() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "grpcgw", "demo"], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("Response from Service: Got input test server host: greet-") == 24
    assert "The pods took strict turns in every run." in done.stdout
    assert re.search(r"^Diagnostics: http://127.0.0.1:\d+/ambassador/v0/diag/$", done.stdout, re.MULTILINE)
    assert "\x1b" not in done.stdout


def test_demo_that_is_told_to_end_ends_its_children() -> None:
    command = [sys.executable, "-m", "grpcgw", "demo", "--keep"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        assert any("Staying up" in line for line in demo.stdout), demo.communicate()[1]
        children = psutil.Process(demo.pid).children(recursive=True)
        assert len(children) >= 3
        demo.send_signal(signal.SIGTERM)
        assert demo.wait(DEADLINE_S) == 128 + signal.SIGTERM
    _, alive = psutil.wait_procs(children, DEADLINE_S)
    assert alive == []


def test_demo_outside_a_checkout_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="demo needs the project's examples"):
        require_checkout(tmp_path)
