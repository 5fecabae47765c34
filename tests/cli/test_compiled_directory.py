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


PORTS = """\
apiVersion: getambassador.io/v3alpha1
kind: Listener
metadata: {name: web}
spec: {port: 8443, protocol: HTTPS, securityModel: XFP, hostBinding: {namespace: {from: ALL}}}
---
apiVersion: getambassador.io/v3alpha1
kind: Host
metadata: {name: every}
spec: {hostname: "*", tlsSecret: {name: tls}, tls: {min_tls_version: v1.3}}
---
apiVersion: v1
kind: Secret
type: kubernetes.io/tls
metadata: {name: tls, namespace: default}
stringData:
"""
TO_PODS = """\
apiVersion: getambassador.io/v3alpha1
kind: TLSContext
metadata: {name: pods}
spec: {cipher_suites: [ECDHE-RSA-AES128-GCM-SHA256]}
"""


@pytest.mark.parametrize("with_listener", [True, False])
def test_check_names_what_the_generic_handler_engine_would_refuse_to_open_or_to_connect(
    with_listener: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make_self_signed("greet.example", datetime.now(UTC))
    pems = {"tls.crt": made.certificate_chain, "tls.key": made.private_key}
    secret = "".join(f"  {name}: {json.dumps(pem.decode())}\n" for name, pem in pems.items())
    (tmp_path / "ports.yaml").write_text((PORTS if with_listener else PORTS.partition("---\n")[2]) + secret)
    (tmp_path / "pods.yaml").write_text(TO_PODS)
    write_mapping(tmp_path, "one", "tls", "pods")
    assert execute(["check", str(tmp_path)]) == 0
    capsys.readouterr()
    assert execute(["check", str(tmp_path), "--engine", "generic-handler"]) == 1
    port = f"{tmp_path}/ports.yaml:4: error: Listener web.default spec.port" if with_listener else "--tls-port: error"
    assert [line for line in capsys.readouterr().out.splitlines() if " error: " in line] == [
        f"{port}: the port is not opened: Host every.default sets min_tls_version, which grpc in Python cannot do; the "
        "http2 engine can",
        f"{tmp_path}/pods.yaml:1: error: TLSContext pods.default: pods are not connected to by it: TLSContext "
        "pods.default sets cipher_suites, which grpc in Python cannot do; the http2 engine can",
    ]
