"""The command line: what flags and environment become, exit codes, and that errors are one line."""

from __future__ import annotations

import errno
import json
import os
import pty
import re
import subprocess
import sys
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path

import pytest

from grpcgw import __version__
from grpcgw.cli import options
from grpcgw.cli.main import execute
from grpcgw.errors import UserError
from grpcgw.listeners.self_signed import make_self_signed
from grpcgw.settings import CompileSettings, EngineName, LogLevel, Settings, cores

ROOT = Path(__file__).parents[2]
GREET = str(ROOT / "examples/greet")
DEADLINE_S = 30


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("GRPCGW_", "AMBASSADOR_")):
            monkeypatch.delenv(name)


def settings_of(*arguments: str) -> Settings:
    """The settings `grpcgw run` would start the gateway with."""
    started: list[Settings] = []

    def start(settings: Settings) -> int:
        started.append(settings)
        return 0

    assert execute(["run", *arguments], start) == 0
    (settings,) = started
    return settings


def usage_error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line that a wrong command line is answered with."""
    assert execute(arguments, lambda _: pytest.fail("started")) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(r"grpcgw: .*\n", printed.err), printed.err
    return printed.err


# ---- run ----


def test_run_without_flags_has_the_defaults_and_a_worker_per_core() -> None:
    assert settings_of("--config", GREET) == Settings(config_dir=Path(GREET), workers=len(cores()))


def test_every_flag_of_run_reaches_the_settings(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "config"
    kubeconfig.touch()
    flags = f"""--kubernetes --kubeconfig {kubeconfig} --context prod --ambassador-id edge --ambassador-namespace own
        --namespace web --address 127.0.0.1 --port 0 --tls-port off --admin-address 0.0.0.0 --admin-port 1 --workers 3
        --engine generic-handler --drain-time 2.5 --max-concurrent-streams 7 --max-message-bytes 9 --log-level debug
        --max-connection-age 60 --max-connection-age-grace 5 --serve-without-auth"""
    assert settings_of(*flags.split()) == Settings(
        kubernetes=True,
        kubeconfig=kubeconfig,
        context="prod",
        ambassador_id="edge",
        ambassador_namespace="own",
        namespace="web",
        serve_without_auth=True,
        address="127.0.0.1",
        port=0,
        tls_port=None,
        admin_address="0.0.0.0",
        admin_port=1,
        workers=3,
        engine=EngineName.GENERIC_HANDLER,
        drain_time_s=2.5,
        max_concurrent_streams=7,
        max_message_bytes=9,
        max_connection_age_s=60.0,
        max_connection_age_grace_s=5.0,
        log_level=LogLevel.DEBUG,
    )


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
        log_level=LogLevel.ERROR,
    )


def test_config_directory_is_an_environment_variable_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRPCGW_CONFIG", GREET)
    assert settings_of().config_dir == Path(GREET)


@pytest.mark.parametrize("address", ["::", "0.0.0.0", "localhost"])
def test_addresses_are_numbers_or_names(address: str) -> None:
    settings = settings_of("--config", GREET, "--address", address, "--admin-address", address)
    assert (settings.address, settings.admin_address) == (address, address)


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


@pytest.mark.parametrize("module", ["grpcgw.workers.worker", "grpcgw.cli.main"])
def test_workers_and_help_do_not_load_pydantic_settings(module: str) -> None:
    look = f"import sys, {module}; sys.exit('pydantic_settings' in sys.modules)"
    subprocess.run([sys.executable, "-c", look], timeout=60, check=True)


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


def test_ambassadors_own_variables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMBASSADOR_ID", "edge")
    monkeypatch.setenv("AMBASSADOR_NAMESPACE", "web")
    monkeypatch.setenv("AMBASSADOR_DRAIN_TIME", "600")
    settings = settings_of("--kubernetes")
    assert (settings.ambassador_id, settings.drain_time_s) == ("edge", 600.0)
    assert settings.ambassador_namespace == "web"
    assert settings.namespace == "", "the namespace is a scope only with AMBASSADOR_SINGLE_NAMESPACE"
    monkeypatch.setenv("AMBASSADOR_SINGLE_NAMESPACE", "true")
    assert settings_of("--kubernetes").namespace == "web"


def test_a_flag_wins_over_grpcgws_variable_and_that_over_ambassadors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMBASSADOR_ID", "third")
    monkeypatch.setenv("GRPCGW_AMBASSADOR_ID", "second")
    assert settings_of("--kubernetes").ambassador_id == "second"
    assert settings_of("--kubernetes", "--ambassador-id", "first").ambassador_id == "first"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "either --config DIR or --kubernetes"),
        (("--config", GREET, "--kubernetes"), "either --config DIR or --kubernetes"),
        (("--config", GREET, "--in-cluster"), "need --kubernetes"),
        (("--kubernetes", "--in-cluster", "--context", "x"), "leave out --kubeconfig and --context"),
        (("--config", "missing"), "missing"),
        (("--config", GREET, "--port", "http"), "http is no port: say 0 to 65535"),
        (("--config", GREET, "--tls-port", "65536"), "65536 is no port"),
        (("--config", GREET, "--workers", "many"), "many is no number of workers"),
        (("--config", GREET, "--workers", "-1"), "-1 is no number of workers"),
        (("--config", GREET, "--engine", "warp"), "completion-queue"),
        (("--config", GREET, "--port", "tcp://10.96.12.7:8080"), "say enableServiceLinks: false"),
        (("--config", GREET, "--drain-time", "-1"), "--drain-time"),
        (("--config", GREET, "--drain-time", "x"), "--drain-time: x is no number of seconds"),
        (("--config", GREET, "--address", ""), "'' is no IP address"),
        (("--config", GREET, "--address", "8080"), "'8080' is no IP address"),
        (("--config", GREET, "--address", "nonsense.invalid"), "'nonsense.invalid' is no IP address, and no name"),
        (("--config", GREET, "--admin-address", ""), "say 0.0.0.0 or :: for all of its addresses"),
        (("--config", GREET, "--drain-time", "inf"), "--drain-time"),
        (("--config", GREET, "--max-connection-age", "1e12"), "--max-connection-age"),
        (("--config", GREET, "--max-concurrent-streams", "99999999999"), "--max-concurrent-streams"),
        (("--config", GREET, "--sped", "1"), "--sped"),
    ],
)
def test_run_answers_what_cannot_be_meant_in_one_line(
    arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert says in usage_error(capsys, "run", *arguments)


@pytest.mark.parametrize("error", [UserError("port 8080 is taken:\nend what listens there"), OSError("no such thing")])
def test_what_a_user_can_cause_is_one_line_and_exit_code_1(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    def start(_: Settings) -> int:
        raise error

    assert execute(["run", "--config", GREET], start) == 1
    assert capsys.readouterr().err == f"grpcgw: {' '.join(str(error).split())}\n"


def test_a_defect_keeps_its_traceback() -> None:
    def start(_: Settings) -> int:
        raise KeyError("defect")

    with pytest.raises(KeyError):
        execute(["run", "--config", GREET], start)


def test_interrupt_ends_with_130() -> None:
    def start(_: Settings) -> int:
        raise KeyboardInterrupt

    assert execute(["run", "--config", GREET], start) == 130


# ---- help and version ----


COMMANDS = ("run", "check", "routes", "demo", "version")


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_every_command_explains_itself(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert execute([*command, "--help"]) == 0
    assert " ".join(["grpcgw", *command]) in capsys.readouterr().out


def test_without_a_command_help_is_shown_as_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute([]) == 2
    assert set(COMMANDS) <= set(capsys.readouterr().out.split())


def test_unknown_command_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert "rum" in usage_error(capsys, "rum")


def test_version_names_what_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["version"]) == 0
    assert re.match(rf"grpcgw {re.escape(__version__)} \(grpcio \d.*, Python 3\.\d+", capsys.readouterr().out)


def test_command_runs_as_a_module_and_writes_no_colours_into_a_pipe() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "grpcgw", "run", "--help"],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    )
    assert "--max-concurrent-streams" in done.stdout
    assert "\x1b" not in done.stdout


# ---- check and routes ----

MAPPING = """\
apiVersion: getambassador.io/v2
kind: Mapping
metadata: {name: NAME}
spec:
  prefix: /NAME.Service/
  service: NAME
  KEY: VALUE
"""


def write_mapping(directory: Path, name: str, key: str, value: str) -> None:
    text = MAPPING.replace("NAME", name).replace("KEY", key).replace("VALUE", value)
    (directory / f"{name}.yaml").write_text(text)


@pytest.mark.parametrize("flag", ["--version", "version"])
def test_the_version_is_a_flag_and_a_command(capsys: pytest.CaptureFixture[str], flag: str) -> None:
    assert execute([flag]) == 0
    assert capsys.readouterr().out.startswith("grpcgw ")


@pytest.mark.parametrize("command", [(), ("run",), ("check",), ("routes",), ("demo",)])
def test_help_has_a_short_flag(capsys: pytest.CaptureFixture[str], command: tuple[str, ...]) -> None:
    assert execute([*command, "-h"]) == 0
    assert "Usage: grpcgw" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["check", "routes"])
def test_help_names_no_flag_that_the_command_does_not_take(capsys: pytest.CaptureFixture[str], command: str) -> None:
    execute([command, "--help"])
    named = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    taken = {
        "--serve-without-auth",
        "--ambassador-id",
        "--ambassador-namespace",
        "--engine",
        "--help",
        *(["--json"] if command == "routes" else []),
    }
    assert named == taken


@pytest.mark.parametrize(
    "arguments", [("run", "--config", GREET, "--engine", "fast"), ("run",), ("demo", "--calls", "1"), ("check", "x")]
)
def test_wrong_usage_is_told_without_the_words_of_a_library(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    said = usage_error(capsys, *arguments)
    assert "Value error" not in said
    assert "Invalid value:" not in said


def test_check_of_the_example_finds_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["check", GREET]) == 0
    read, result = capsys.readouterr().out.splitlines()
    assert read.startswith(f"{GREET}: 4 objects in 2 files read; ignored: __init__.py, ")
    assert result == f"{GREET}: no errors, no notices"


def test_check_names_file_and_line_of_an_error_and_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_mapping(tmp_path, "broken", "timeout_ms", "soon")
    assert execute(["check", str(tmp_path)]) == 1
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{tmp_path}/broken.yaml:7: error: Mapping broken.default")
    assert last == f"{tmp_path}: 1 error, no notices"


def printed_on_a_terminal(command: list[str], **environment: str) -> str:
    controller, terminal = pty.openpty()
    with open(controller, "rb", buffering=0) as reader, open(terminal, "wb", buffering=0) as writer:
        variables = {**os.environ, "TERM": "xterm", **environment}
        subprocess.run(command, stdout=writer, env=variables, timeout=DEADLINE_S, check=False)
        # While this side holds the terminal open, what was written can be read, and reading cannot fail.
        return reader.read(65_536).decode()


def test_colours_are_for_terminals_and_no_color_turns_them_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    write_mapping(tmp_path, "broken", "timeout_ms", "soon")
    command = [sys.executable, "-m", "grpcgw", "check", str(tmp_path)]
    piped = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False).stdout
    assert "\x1b" not in piped
    assert "\x1b[" in printed_on_a_terminal(command)
    assert "\x1b" not in printed_on_a_terminal(command, NO_COLOR="1")


def test_check_passes_with_notices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_mapping(tmp_path, "slow", "rewrite", "/")
    assert execute(["check", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{tmp_path}: no errors, 1 notice"


KUBERNETES = """\
{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: GRPCRoute, metadata: {name: a}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: GRPCRoute, metadata: {name: b}}
---
{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: a}}
---
{apiVersion: v1, kind: Service, metadata: {name: a}}
"""


def test_check_says_what_was_read_and_names_what_was_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_mapping(tmp_path, "mine", "weight", "1")
    write_mapping(tmp_path, "theirs", "ambassador_id", "blue")
    (tmp_path / "kubernetes.yaml").write_text(KUBERNETES)
    (tmp_path / "kustomization.yaml").write_text("apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n")
    (tmp_path / "mapping.yaml.bak").touch()
    (tmp_path / ".hidden").touch()
    assert execute(["check", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}: 2 objects in 4 files read; ignored: 1 Deployment, 2 GRPCRoute, 1 Ingress, 1 Kustomization,"
        " 1 for another ambassador_id, mapping.yaml.bak",
        f"{tmp_path}: no errors, no notices",
    ]


def test_check_names_a_few_of_many_files_that_are_not_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(9):
        (tmp_path / f"{number}.txt").touch()
    execute(["check", str(tmp_path)])
    assert "ignored: 0.txt, 1.txt, 2.txt, 3.txt, 4.txt, 4 more files\n" in capsys.readouterr().out


def test_check_and_routes_take_a_single_file_as_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_mapping(tmp_path, "one", "weight", "1")
    write_mapping(tmp_path, "other", "timeout_ms", "soon")
    file = (tmp_path / "one.yaml").rename(tmp_path / "one.txt")
    assert execute(["check", str(file)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{file}: 1 object in 1 file read",
        f"{file}: no errors, no notices",
    ]
    assert execute(["routes", str(file)]) == 0
    assert f"{file}:1" in capsys.readouterr().out


def test_a_directory_without_any_file_to_read_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mapping.yaml.bak").touch()
    assert execute(["check", str(tmp_path)]) == 1
    assert capsys.readouterr().out.startswith(
        f"{tmp_path}: error: there is no YAML or JSON file here: is it the right directory?\n"
    )


def test_a_directory_without_configuration_is_a_notice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "kubernetes.yaml").write_text(KUBERNETES)
    assert execute(["check", str(tmp_path)]) == 0
    assert "notice: no object here is configuration for this gateway" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("getambasador.io/v2", "getambassador.io/v2"),
        ("getambassador.com/v3alpha1", "getambassador.io/v3alpha1"),
        ("ambasador/v1", "ambassador/v1"),
        ("getambassador", "getambassador.io/v2"),
    ],
)
def test_a_misspelt_api_group_is_an_error_with_a_suggestion(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: str, meant: str
) -> None:
    write_mapping(tmp_path, "greet", "weight", "1")
    file = tmp_path / "greet.yaml"
    file.write_text(file.read_text().replace("getambassador.io/v2", given))
    assert execute(["check", str(tmp_path)]) == 1
    assert f"apiVersion {given} is not read, did you mean {meant}; left out" in capsys.readouterr().out


def test_check_keeps_to_the_ambassador_id(tmp_path: Path) -> None:
    write_mapping(tmp_path, "other", "ambassador_id", "other")
    assert execute(["routes", str(tmp_path), "--ambassador-id", "other"]) == 0


CONSUL = """\
apiVersion: getambassador.io/v2
kind: ConsulResolver
metadata: {name: agent}
spec: {address: "${AGENT_OF_TEST}:8500", datacenter: dc1}
"""


def test_check_fills_in_the_environment_as_run_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "consul.yaml").write_text(CONSUL)
    assert execute(["check", str(tmp_path)]) == 1
    monkeypatch.setenv("AGENT_OF_TEST", "agent.example")
    assert execute(["check", str(tmp_path)]) == 0


def test_check_and_routes_judge_for_the_engine_that_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_mapping(tmp_path, "one", "hostname", "a.example")
    assert execute(["check", str(tmp_path)]) == 0
    assert execute(["check", str(tmp_path), "--engine", "generic-handler"]) == 1
    assert "the generic-handler engine does not know the :authority" in capsys.readouterr().out
    assert execute(["routes", str(tmp_path), "--engine", "generic-handler"]) == 0
    assert "1 problem found" in capsys.readouterr().err


MODULE = """\
apiVersion: getambassador.io/v2
kind: Module
metadata: {name: ambassador, namespace: gateway}
spec: {config: {use_ambassador_namespace_for_service_resolution: true}}
"""


def test_routes_look_for_services_where_run_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_mapping(tmp_path, "one", "grpc", "true")
    (tmp_path / "module.yaml").write_text(MODULE)
    assert execute(["routes", str(tmp_path), "--json", "--ambassador-namespace", "gateway"]) == 0
    assert ".gateway:" in json.loads(capsys.readouterr().out)["routes"][0]["service"]


TLS_CONTEXT = """\
apiVersion: getambassador.io/v2
kind: TLSContext
metadata: {name: tls}
spec:
  hosts: ["*"]
  cert_chain_file: FOLDER/tls.crt
  private_key_file: FOLDER/tls.key
"""


def test_check_and_routes_read_the_certificate_files_that_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tls.yaml").write_text(TLS_CONTEXT.replace("FOLDER", str(tmp_path)))
    assert execute(["check", str(tmp_path)]) == 1
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith(
        f"{tmp_path}/tls.yaml:6: error: TLSContext tls.default spec.cert_chain_file: {tmp_path}/tls"
    )
    assert f"cannot be read: {os.strerror(errno.ENOENT)}; put a PEM file there" in first
    made = make_self_signed("greet.example", datetime.now(UTC))
    (tmp_path / "tls.crt").write_bytes(made.certificate_chain)
    (tmp_path / "tls.key").write_bytes(made.private_key)
    assert execute(["check", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{tmp_path}: no errors, no notices"
    assert execute(["routes", str(tmp_path)]) == 0
    assert capsys.readouterr().err == ""


SERVICES = """
{kind: Service, apiVersion: v1, metadata: {name: greet}, spec: {ports: [{name: grpc, port: 50051}]}}
---
{kind: Service, apiVersion: v1, metadata: {name: away}, spec: {type: ExternalName, externalName: a.example.com}}
---
{kind: Service, apiVersion: v1, metadata: {name: named}, spec: {ports: [{port: 50051}]}}
---
kind: EndpointSlice
apiVersion: discovery.k8s.io/v1
metadata: {name: named-1, labels: {kubernetes.io/service-name: named}}
addressType: FQDN
endpoints: [{addresses: [a.example.com]}]
ports: [{name: "", port: 50051}]
"""


def map_services(folder: Path, *services: str) -> None:
    """One Mapping for each, with its service in line 6."""
    for number, service in enumerate(services):
        (folder / f"{number}.yaml").write_text(
            "apiVersion: getambassador.io/v2\nkind: Mapping\n"
            f"metadata: {{name: m{number}}}\nspec:\n  prefix: /a{number}/\n  service: {service}\n  resolver: endpoint\n"
        )


def test_check_finds_mappings_that_lead_nowhere_and_names_their_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    map_services(tmp_path, "greet:50051", "gone:50051", "greet:9999", "away:50051", "named:50051")
    (tmp_path / "services.yaml").write_text(SERVICES)
    assert execute(["check", str(tmp_path)]) == 1
    *lines, summary = capsys.readouterr().out.splitlines()
    assert summary.endswith("4 errors, no notices")
    expected = {1: "no Service gone", 2: "has no TCP port 9999", 3: "is an ExternalName", 4: "no IP addresses"}
    for number, words in expected.items():
        (line,) = [line for line in lines if line.startswith(f"{tmp_path}/{number}.yaml:6: error: Mapping m{number}")]
        assert words in line


def test_check_of_mappings_without_any_service_only_says_what_it_could_not_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    map_services(tmp_path, "greet:50051", "gone:50051")
    assert execute(["check", str(tmp_path)]) == 0
    notice, _, summary = capsys.readouterr().out.splitlines()
    assert "2 Services are named by Mappings and none is in the files" in notice
    assert summary.endswith("no errors, 1 notice")


def test_check_of_a_missing_directory_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert "missing" in usage_error(capsys, "check", "missing")


def test_routes_shows_one_line_per_mapping(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["routes", GREET]) == 0
    heading, row, _ = capsys.readouterr().out.splitlines()
    assert heading.split()[:4] == ["order", "kind", "path", "mapping"]
    assert row.split()[:4] == ["1", "prefix", "/greet.GrpcService/", "grpcserver.default"]
    assert "grpcserver.grpcserver:50051" in row
    assert "round_robin" in row


def test_routes_as_json_follow_the_evaluation_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_mapping(tmp_path, "late", "precedence", "-1")
    write_mapping(tmp_path, "early", "precedence", "1")
    assert execute(["routes", "--json", str(tmp_path)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [(row["order"], row["mapping"]) for row in printed["routes"]] == [(1, "early.default"), (2, "late.default")]
    assert re.fullmatch("[0-9a-f]{12}", printed["version"])


def test_routes_show_shadows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_mapping(tmp_path, "real", "weight", "100")
    shadow = (
        MAPPING.replace("{name: NAME}", "{name: copy}").replace("NAME", "real").replace("KEY: VALUE", "shadow: true")
    )
    (tmp_path / "copy.yaml").write_text(shadow)
    assert execute(["routes", "--json", str(tmp_path)]) == 0
    rows = json.loads(capsys.readouterr().out)["routes"]
    assert [(row["order"], row["mapping"], row["shadow"]) for row in rows] == [
        (1, "real.default", False),
        (1, "copy.default", True),
    ]
    assert execute(["routes", str(tmp_path)]) == 0
    assert "shadow" in capsys.readouterr().out.splitlines()[0]


def test_routes_show_what_else_a_mapping_asks_for_and_what_it_balances_by(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_mapping(tmp_path, "plain", "precedence", "-1")
    write_mapping(tmp_path, "blue", "headers", "{x-tenant: blue}")
    write_mapping(tmp_path, "hashed", "load_balancer", "{policy: maglev, header: x-user}\n  resolver: endpoint")
    assert execute(["routes", "--json", str(tmp_path)]) == 0
    rows = {row["mapping"]: row for row in json.loads(capsys.readouterr().out)["routes"]}
    assert rows["blue.default"]["conditions"] == ["x-tenant = •••"]
    assert rows["plain.default"]["conditions"] == []
    assert rows["hashed.default"]["load_balancer"] == "maglev by x-user"
    assert execute(["routes", str(tmp_path)]) == 0
    heading, *lines = capsys.readouterr().out.splitlines()
    assert heading.split()[3:5] == ["conditions", "mapping"]
    assert any("x-tenant = •••" in line for line in lines)


def test_routes_point_to_check_where_something_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_mapping(tmp_path, "broken", "timeout_ms", "soon")
    assert execute(["routes", str(tmp_path)]) == 0
    assert f"1 problem found: see `grpcgw check {tmp_path}`" in capsys.readouterr().err


def test_a_gateway_on_files_does_not_load_the_client_of_kubernetes() -> None:
    look = "import sys, grpcgw.control.control; sys.exit('kubernetes' in sys.modules)"
    subprocess.run([sys.executable, "-c", look], timeout=60, check=True)


def test_routes_say_which_of_them_are_refused_and_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "all.yaml").write_text(
        "---\n".join(
            (
                document("AuthService", "auth", "auth_service: auth"),
                document("Mapping", "guarded", "prefix: /a.A/, service: a"),
                document("Mapping", "open", "prefix: /b.B/, service: b, bypass_auth: true"),
                document("Mapping", "moved", "prefix: /c.C/, service: c, host_redirect: true"),
            )
        )
    )
    assert execute(["routes", str(tmp_path)]) == 0
    assert "not enforced" in capsys.readouterr().out
    assert execute(["routes", "--json", str(tmp_path)]) == 0
    rows = json.loads(capsys.readouterr().out)["routes"]
    assert {row["mapping"]: row["refused"] for row in rows} == {
        "guarded.default": "AuthService auth.default is not enforced yet",
        "open.default": "",
        "moved.default": "gRPC clients follow no redirect",
    }


def document(kind: str, name: str, spec: str) -> str:
    return f"apiVersion: getambassador.io/v2\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
