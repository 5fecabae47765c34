"""What `check` and `routes` read and compile: environment, engine, namespaces, certificate files."""

from __future__ import annotations

import errno
import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from grpcgw.cli.main import execute
from grpcgw.listeners.self_signed import make_self_signed
from tests.cli.commands import write_mapping


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
