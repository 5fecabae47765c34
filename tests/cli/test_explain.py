"""`grpcgw explain`: what would become of a call, as text and as JSON, without sending anything."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from grpcgw.cli.demo_processes import ROOT
from grpcgw.cli.main import execute
from tests.pems import key_pair

JWT = ROOT / "examples" / "filters" / "jwt.yaml"
LIMITS = ROOT / "examples" / "rate-limits" / "mapping.yaml"
GREET, GREET_EACH = "greet.GrpcService/Greet", "greet.GrpcService/GreetEach"

ASKING = """
apiVersion: getambassador.io/v3alpha1
kind: Mapping
metadata: {name: a}
spec: {hostname: "*", prefix: /a.B/, service: a}
---
apiVersion: getambassador.io/v3alpha1
kind: Filter
metadata: {name: one}
spec: {External: {auth_service: one, proto: grpc, protocol_version: v3}}
---
apiVersion: getambassador.io/v3alpha1
kind: Filter
metadata: {name: two}
spec: {External: {auth_service: two}}
---
apiVersion: getambassador.io/v3alpha1
kind: FilterPolicy
metadata: {name: a}
spec: {rules: [{path: /a.B/One, filters: [{name: one}]}, {path: /a.B/Two, filters: [{name: two}]}]}
"""


def token() -> str:
    found = re.search(r"TOKEN=(\S+)", JWT.read_text())
    assert found is not None
    return found[1]


def explained(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, object]:
    assert execute(["explain", "--json", *arguments]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert isinstance(printed, dict)
    return printed


def verdicts(found: dict[str, object]) -> list[tuple[str, str]]:
    (mapping,) = found["mappings"]  # type: ignore[misc]
    return [(one["name"], one["verdict"]) for one in mapping["policies"]]


def test_a_token_with_keys_in_the_configuration_is_verified(capsys: pytest.CaptureFixture[str]) -> None:
    config = ("--config", str(JWT))
    assert verdicts(explained(capsys, GREET, *config, "--token", token())) == [("FilterPolicy greet.default", "allows")]
    for asked in (
        (GREET, *config),
        (GREET, *config, "--token", "no.good.token"),
        (GREET_EACH, *config, "--token", token()),
    ):
        assert verdicts(explained(capsys, *asked, *config)) == [("FilterPolicy greet.default", "refuses")]


def test_the_text_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["explain", GREET_EACH, "--config", str(JWT), "--token", token()]) == 0
    assert "lacks a scope; needed: greet:write" in capsys.readouterr().out


def test_a_call_without_a_token_is_refused_also_where_keys_are_not_fetched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "jwt.yaml"
    config.write_text(JWT.read_text().replace("jwksSecret: {name: jwks}", "jwksURI: https://issuer.example.com/jwks"))
    asked = (GREET, "--config", str(config))
    assert verdicts(explained(capsys, *asked)) == [("FilterPolicy greet.default", "refuses")]
    assert verdicts(explained(capsys, *asked, "--token", token())) == [("FilterPolicy greet.default", "depends")]


def test_of_several_services_the_one_that_is_asked_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mapping.yaml").write_text(ASKING)
    for method, service in (("One", "one.default:80"), ("Two", "two.default:80")):
        (mapping,) = explained(capsys, f"a.B/{method}", "--config", str(tmp_path))["mappings"]  # type: ignore[misc]
        (policy,) = mapping["policies"]
        assert policy["why"].startswith(f"{service}/")


def test_an_engine_that_does_not_know_the_authority_refuses_what_a_rule_for_a_host_may_be_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "jwt.yaml"
    config.write_text(JWT.read_text().replace("- path: /greet.GrpcService/*", "- host: other.test"))
    asked = (GREET, "--config", str(config), "--authority", "greet.test")
    assert verdicts(explained(capsys, *asked)) == [("FilterPolicy greet.default", "allows")]
    found = explained(capsys, *asked, "--engine", "generic-handler")
    assert verdicts(found) == [("FilterPolicy greet.default", "refuses")]


def test_a_limit_depends_and_says_its_rule(capsys: pytest.CaptureFixture[str]) -> None:
    found = explained(capsys, GREET, "--config", str(LIMITS))
    assert {verdict for _, verdict in verdicts(found)} == {"depends"}


def test_a_call_that_no_mapping_matches_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no Mapping matches /a.B/C" in str(explained(capsys, "a.B/C", "--config", str(JWT))["refused"])


@pytest.mark.parametrize(
    ("method", "options", "refused"),
    [
        ("//greet.GrpcService/Greet", (), "bad-path"),
        ("greet.GrpcService/Gr%65et", (), "bad-path"),
        (GREET, ("--authority", "greet/x"), "bad-authority"),
        (GREET, ("--header", f"x-a={'a' * 2000}"), "metadata-too-large"),
        ("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", (), "no-mapping"),
    ],
)
def test_what_is_refused_before_any_mapping_is_looked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str, options: tuple[str, ...], refused: str
) -> None:
    (tmp_path / "one.yaml").write_text("""
apiVersion: getambassador.io/v3alpha1
kind: Module
metadata: {name: ambassador}
spec: {config: {max_request_headers_kb: 1}}
---
apiVersion: getambassador.io/v3alpha1
kind: Mapping
metadata: {name: greet}
spec: {hostname: "*", prefix: /greet.GrpcService/, service: "greet:50051"}
""")
    assert f"({refused})" in str(explained(capsys, method, "--config", str(tmp_path), *options)["refused"])


def test_what_the_gateway_answers_itself_is_not_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["explain", "grpc.health.v1.Health/Check", "--config", str(JWT)]) == 0
    assert capsys.readouterr().out == "the gateway answers the call itself, without any policy\n"


def test_a_binary_header_is_given_in_base64(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one.yaml").write_text("""
apiVersion: v1
kind: Secret
metadata: {name: keys}
data: {ann: /wA=}
---
apiVersion: getambassador.io/v3alpha1
kind: Filter
metadata: {name: keys}
spec: {APIKey: {httpHeader: x-key-bin, keys: [{secretName: keys}]}}
---
apiVersion: getambassador.io/v3alpha1
kind: FilterPolicy
metadata: {name: greet}
spec: {rules: [{filters: [{name: keys}]}]}
---
apiVersion: getambassador.io/v3alpha1
kind: Mapping
metadata: {name: greet}
spec: {hostname: "*", prefix: /greet.GrpcService/, service: "greet:50051"}
""")
    config = ("--config", str(tmp_path))
    for given, verdict in (("/wA", "allows"), ("/wE=", "refuses")):
        found = explained(capsys, GREET, *config, "--header", f"X-Key-Bin={given}")
        assert verdicts(found) == [("FilterPolicy greet.default", verdict)]
    assert execute(["explain", GREET, *config, "--header", "x-key-bin=/w!"]) == 1
    assert "base64" in capsys.readouterr().err


def test_services_and_own_policies_are_named_and_not_called(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one.yaml").write_text("""
apiVersion: getambassador.io/v3alpha1
kind: AuthService
metadata: {name: auth}
spec:
  auth_service: auth:50051
  proto: grpc
  protocol_version: v3
  include_body: {max_bytes: 100, allow_partial: true}
---
apiVersion: getambassador.io/v3alpha1
kind: Mapping
metadata: {name: greet}
spec: {hostname: "*", prefix: /greet.GrpcService/, service: "greet:50051"}
""")
    own = ("--policy", "examples.policies.tenant_header:TenantHeader")
    found = explained(capsys, GREET, "--config", str(tmp_path), *own)
    assert [verdict for _, verdict in verdicts(found)] == ["depends", "depends"]
    why = found["mappings"][0]["policies"][0]["why"]  # type: ignore[index]
    assert "auth.default:50051" in why
    assert "fails closed" in why


SPIFFE = "spiffe://cluster.local/ns/shop/sa/web"
RULES = f"""
apiVersion: grpcgw.io/v1alpha1
kind: AuthorizationPolicy
metadata: {{name: shop}}
spec: {{rules: [{{principals: [{{uri: "{SPIFFE}"}}, {{dns: web.shop}}, {{subject: "CN=web"}}]}}]}}
---
apiVersion: getambassador.io/v3alpha1
kind: Mapping
metadata: {{name: greet}}
spec: {{hostname: "*", prefix: /greet.GrpcService/, service: "greet:50051"}}
"""


def verdict_for(folder: Path, capsys: pytest.CaptureFixture[str], *identity: str) -> str:
    (folder / "rules.yaml").write_text(RULES)
    ((_, verdict),) = verdicts(explained(capsys, GREET, "--config", str(folder / "rules.yaml"), *identity))
    return verdict


@pytest.mark.parametrize(
    ("names", "verdict"),
    [((), "refuses"), ((SPIFFE,), "allows"), (("urn:x", "web.shop"), "allows"), (("other.shop",), "refuses")],
)
def test_a_client_with_these_names_in_its_certificate(
    names: tuple[str, ...], verdict: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [text for name in names for text in ("--client-san", name)]
    assert verdict_for(tmp_path, capsys, *options) == verdict


@pytest.mark.parametrize(("name", "verdict"), [("web", "allows"), ("other", "refuses")])
def test_a_client_with_the_certificate_of_a_file(
    name: str, verdict: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "client.pem"
    file.write_bytes(b"".join(reversed(key_pair(name))))
    assert verdict_for(tmp_path, capsys, "--client-certificate", str(file)) == verdict


def test_a_certificate_that_no_port_asks_for_is_said_to_be_unseen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rules.yaml").write_text(RULES)
    assert execute(["explain", GREET, "--config", str(tmp_path / "rules.yaml"), "--client-san", SPIFFE]) == 0
    assert "asks clients for a certificate" in capsys.readouterr().err


@pytest.mark.parametrize("more", [(), ("--client-san", SPIFFE)])
def test_a_file_without_a_certificate_is_a_line_on_stderr(
    more: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "client.pem"
    file.write_bytes(key_pair("web")[1])
    assert execute(["explain", GREET, "--config", str(JWT), "--client-certificate", str(file), *more]) == 1
    said = capsys.readouterr().err
    assert "not both" in said if more else f"{file} has no certificate" in said


def test_a_header_without_a_value_is_a_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["explain", GREET, "--config", str(JWT), "--header", "secret"]) == 1
    assert "key=value" in capsys.readouterr().err


COUNTED = """
apiVersion: getambassador.io/v2
kind: Mapping
metadata: {name: a}
spec:
  prefix: /a.B/
  service: a
  labels: {ambassador: [{tenant: [{tenant: {header: x-tenant}}]}]}
---
apiVersion: getambassador.io/v2
kind: RateLimit
metadata: {name: a}
spec:
  limits:
    - {name: others, pattern: [{tenant: "*"}], rate: 3, unit: minute}
    - {name: gold, pattern: [{tenant: gold}], rate: 9, unit: minute}
    - {name: none, pattern: [{tenant: none}], rate: 0, unit: minute}
    - {name: quiet, pattern: [{tenant: quiet}], rate: 0, unit: minute, action: LogOnly}
"""


@pytest.mark.parametrize(
    ("header", "verdict", "why"),
    [
        ("x-tenant=gold", "depends", "gold: 9 per minute: what other"),
        ("x-tenant=iron", "depends", "others: 3 per minute: what other"),
        ("x-tenant=none", "refuses", "rate limit none"),
        ("x-tenant=quiet", "allows", ""),
        ("x-other=gold", "allows", ""),
    ],
)
def test_of_rate_limits_those_are_named_that_count_the_call(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], header: str, verdict: str, why: str
) -> None:
    (tmp_path / "all.yaml").write_text(COUNTED)
    (mapping,) = explained(capsys, "a.B/C", "--config", str(tmp_path), "--header", header)["mappings"]  # type: ignore[misc]
    (policy,) = mapping["policies"]
    assert policy["verdict"] == verdict
    assert why in policy["why"]
    assert ("gold: 9" in policy["why"]) is (header == "x-tenant=gold")
