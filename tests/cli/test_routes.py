"""`grpcgw routes`: the route table as a table and as JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from grpcgw.cli.main import execute
from tests.cli.commands import GREET, MAPPING, document, write_mapping


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


def test_routes_say_which_of_them_are_refused_and_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "all.yaml").write_text(
        "---\n".join(
            (
                document("AuthService", "auth", "auth_service: [auth]"),
                document("Mapping", "guarded", "prefix: /a.A/, service: a"),
                document("Mapping", "open", "prefix: /b.B/, service: b, bypass_auth: true"),
                document("Mapping", "moved", "prefix: /c.C/, service: c, host_redirect: true"),
            )
        )
    )
    assert execute(["routes", str(tmp_path)]) == 0
    assert "auth.default cannot be asked" in capsys.readouterr().out
    assert execute(["routes", "--json", str(tmp_path)]) == 0
    rows = json.loads(capsys.readouterr().out)["routes"]
    assert {row["mapping"]: row["refused"] for row in rows} == {
        "guarded.default": "AuthService auth.default cannot be asked: it has errors",
        "open.default": "",
        "moved.default": "gRPC clients do not follow redirects",
    }
