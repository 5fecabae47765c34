"""`grpcgw check`: problems with file and line, and what was read."""

from __future__ import annotations

from pathlib import Path

import pytest

from grpcgw.cli.main import execute
from tests.cli.commands import GREET, usage_error, write_mapping


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


def test_check_names_own_policies_that_cannot_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["check", GREET, "--policy", "examples.policies.lookup:AccountLookup", "--policy", "absent:X"]) == 1
    said = capsys.readouterr().out
    assert (
        "all calls are refused: --policy examples.policies.lookup:AccountLookup cannot be built:"
        " its configuration is not valid: url: Field required"
    ) in said
    assert "all calls are refused: --policy absent:X cannot be built: importing absent:X raised" in said


PLUGIN = """\
{apiVersion: getambassador.io/v2, kind: Filter, metadata: {name: own}, spec: {Plugin: {name: "absent:X"}}}
---
apiVersion: getambassador.io/v2
kind: FilterPolicy
metadata: {name: all}
spec: {rules: [{host: "*", path: "*", filters: [{name: own}]}]}
"""


def test_check_names_a_filter_that_cannot_be_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_mapping(tmp_path, "greet", "timeout_ms", "5")
    (tmp_path / "filters.yaml").write_text(PLUGIN)
    assert execute(["check", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert f"{tmp_path}/filters.yaml:1: error: Filter own.default" in said
    assert "greet.yaml" not in said
    assert "Filter own.default cannot be built: importing absent:X raised ModuleNotFoundError" in said


def test_keys_at_a_url_are_not_fetched_and_a_notice_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = "{JWT: {jwksURI: 'http://localhost:1/jwks'}}"
    (tmp_path / "jwt.yaml").write_text(
        f"{{apiVersion: getambassador.io/v3alpha1, kind: Filter, metadata: {{name: jwt}}, spec: {spec}}}"
    )
    write_mapping(tmp_path, "mine", "weight", "1")
    assert execute(["check", str(tmp_path)]) == 0
    (said,) = [line for line in capsys.readouterr().out.splitlines() if "Filter jwt" in line]
    assert "jwt.yaml:1: notice" in said
    assert "are fetched by a running gateway only" in said
