"""`grpcgw run`: what flags become, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from grpcgw.settings import EngineName, LogLevel, Settings, cores
from tests.cli.commands import GREET, settings_of, usage_error


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


def test_config_directory_is_an_environment_variable_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRPCGW_CONFIG", GREET)
    assert settings_of().config_dir == Path(GREET)


@pytest.mark.parametrize("address", ["::", "0.0.0.0", "localhost"])
def test_addresses_are_numbers_or_names(address: str) -> None:
    settings = settings_of("--config", GREET, "--address", address, "--admin-address", address)
    assert (settings.address, settings.admin_address) == (address, address)


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
        (("--config", GREET, "--engine", "warp"), "http2"),
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


def test_a_gateway_on_files_does_not_load_the_client_of_kubernetes() -> None:
    look = "import sys, grpcgw.control.control; sys.exit('kubernetes' in sys.modules)"
    subprocess.run([sys.executable, "-c", look], timeout=60, check=True)
