"""Flags, environment variables and defaults: which wins, and how wrong values are reported."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from grpcgw.cli import options
from grpcgw.settings import CompileSettings, EngineName, GivenPolicy, LogLevel, Settings, cores
from tests.cli.commands import GREET, settings_of, usage_error


def test_every_flag_of_run_is_an_environment_variable_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "KUBERNETES": "true",
        "IN_CLUSTER": "1",
        "AMBASSADOR_ID": "edge",
        "AMBASSADOR_NAMESPACE": "own",
        "NAMESPACE": "web",
        "SERVE_WITHOUT_AUTH": "1",
        "ADDRESS": "::1",
        "PORT": "off",
        "TLS_PORT": "0",
        "ADMIN_ADDRESS": "0.0.0.0",
        "ADMIN_PORT": "2",
        "ADMIN_HOST": "a.example.com, .example.org,",
        "NODE_NAME": "node-1.example.net",
        "WORKERS": "auto",
        "ENGINE": "generic-handler",
        "DRAIN_TIME": "9",
        "MAX_CONCURRENT_STREAMS": "8",
        "MAX_MESSAGE_BYTES": "10",
        "MAX_CONNECTION_AGE": "61",
        "MAX_CONNECTION_AGE_GRACE": "6",
        "ZONE": "east",
        "POLICY": 'own.a:A\nb={"x": 1}',
        "LOG_LEVEL": "error",
    }
    for name, value in values.items():
        monkeypatch.setenv(f"GRPCGW_{name}", value)
    assert settings_of() == Settings(
        kubernetes=True,
        in_cluster=True,
        ambassador_id="edge",
        ambassador_namespace="own",
        namespace="web",
        serve_without_auth=True,
        address="::1",
        port=None,
        tls_port=0,
        admin_address="0.0.0.0",
        admin_port=2,
        admin_hosts=("a.example.com", ".example.org"),
        node_name="node-1.example.net",
        workers=len(cores()),
        engine=EngineName.GENERIC_HANDLER,
        drain_time_s=9.0,
        max_concurrent_streams=8,
        max_message_bytes=10,
        max_connection_age_s=61.0,
        max_connection_age_grace_s=6.0,
        zone="east",
        policies=(GivenPolicy("own.a:A"), GivenPolicy("b", '{"x": 1}')),
        log_level=LogLevel.ERROR,
    )


def test_every_setting_but_the_metadata_limit_has_a_flag_and_an_environment_variable() -> None:
    flags = {option.field: option for option in options.list_options(Settings)}
    assert {field.name for field in fields(Settings)} - set(flags) == {"max_metadata_bytes"}
    assert all(option.variables[0].startswith("GRPCGW_") for option in flags.values())


def test_check_takes_a_part_of_the_settings_of_run() -> None:
    of_run = options.list_options(Settings)
    assert set(options.list_options(CompileSettings)) < set(of_run)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("GRPCGW_PORT", "http", "GRPCGW_PORT: http is no port: say 0 to 65535 (0 takes a free one) or off"),
        ("AMBASSADOR_DRAIN_TIME", "x", "AMBASSADOR_DRAIN_TIME: x is no number of seconds from 0 to 86400"),
        ("GRPCGW_IN_CLUSTER", "maybe", "GRPCGW_IN_CLUSTER: maybe is neither true nor false"),
        ("GRPCGW_CONFIG", "missing", "GRPCGW_CONFIG: there is no directory 'missing'"),
    ],
)
def test_a_wrong_value_names_the_variable_it_came_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str, says: str
) -> None:
    monkeypatch.setenv(name, value)
    assert usage_error(capsys, "run", "--kubernetes") == f"grpcgw: {says}\n"


def test_a_flag_hides_a_wrong_value_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRPCGW_PORT", "http")
    assert settings_of("--config", GREET, "--port", "1").port == 1


def test_an_empty_variable_counts_as_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRPCGW_PORT", "")
    monkeypatch.setenv("GRPCGW_CONFIG", "")
    assert settings_of("--config", GREET).port == Settings().port


def test_all_wrong_values_are_named_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    said = usage_error(capsys, "run", "--config", GREET, "--port", "x", "--workers", "many")
    assert "--port: x is no port" in said
    assert "; --workers: many is no number of workers" in said


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("GRPCGW_PROT", "did you mean GRPCGW_PORT?"),
        ("GRPCGW_LOGLEVEL", "did you mean GRPCGW_LOG_LEVEL?"),
        ("GRPCGW_ADMN_PORT", "did you mean GRPCGW_ADMIN_PORT?"),
        ("GRPCGW_NOTHING_LIKE_IT", "grpcgw run --help names those that are"),
    ],
)
@pytest.mark.parametrize("command", [("run", "--config"), ("check",), ("routes",)])
def test_a_misspelt_variable_is_wrong_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: tuple[str, ...], name: str, hint: str
) -> None:
    monkeypatch.setenv(name, "8080")
    said = usage_error(capsys, *command, GREET)
    assert said == f"grpcgw: {name} is in the environment and is no variable of grpcgw: {hint}\n"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GRPCGW_SERVICE_HOST", "10.0.0.1"),
        ("GRPCGW_SERVICE_PORT", "80"),
        ("GRPCGW_SERVICE_PORT_HTTP2_CLEAR", "80"),
        ("GRPCGW_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ("GRPCGW_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("GRPCGW_PORT_8080_TCP_PROTO", "tcp"),
        ("GRPCGW_CANARY_SERVICE_HOST", "10.0.0.2"),
        ("GRPCGW_CANARY_PORT", "tcp://10.0.0.2:80"),
        ("GRPCGW_CANARY_PORT_80_UDP_PORT", "80"),
    ],
)
def test_what_kubernetes_tells_of_a_service_called_grpcgw_is_no_misspelt_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert settings_of("--config", GREET) == Settings(config_dir=Path(GREET), workers=len(cores()))


def test_a_flag_wins_over_grpcgws_variable_and_that_over_ambassadors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMBASSADOR_ID", "third")
    monkeypatch.setenv("GRPCGW_AMBASSADOR_ID", "second")
    assert settings_of("--kubernetes").ambassador_id == "second"
    assert settings_of("--kubernetes", "--ambassador-id", "first").ambassador_id == "first"


def test_policies_may_be_given_several_times_each_with_a_configuration() -> None:
    given = settings_of("--config", GREET, "--policy", 'a:A={"x": "y z",\n"n": {}}', "--policy", "tenant-header")
    assert given.policies == (GivenPolicy("a:A", '{"x": "y z",\n"n": {}}'), GivenPolicy("tenant-header"))
    assert "y z" not in repr(given), "it may be secret"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a:A={secret}", "a:A: what follows = is no JSON object"),
        ('a:A=["secret"]', "a:A: what follows = is no JSON object"),
        ("a:A={}secret", "a:A: a space or = and a JSON object should follow"),
        ("={}", "say module:Class, or module:Class={…}"),
    ],
)
def test_a_policy_that_cannot_be_read_is_wrong_usage(capsys: pytest.CaptureFixture[str], text: str, says: str) -> None:
    said = usage_error(capsys, "run", "--config", GREET, "--policy", text)
    assert f"--policy: {says}" in said
    assert "secret" not in said
