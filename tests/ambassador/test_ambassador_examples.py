"""The Mappings of examples/ambassador are good as they stand, and show every field they are there to show."""

from __future__ import annotations

from pathlib import Path

import pytest

from grpcgw.ambassador.spec.mapping_parts import LoadBalancerSpec
from grpcgw.discovery.sources.directory import read_directory
from grpcgw.model.route_source import Compiled
from tests.compiling import compile_objects, destinations, said
from tests.parsing import READER

EXAMPLES = Path(__file__).parents[2] / "examples" / "ambassador"
SHOWN = (
    *("prefix", "prefix_exact", "prefix_regex", "case_sensitive", "hostname", "host", "host_regex", "headers"),
    *("regex_headers", "precedence", "weight", "rewrite", "regex_rewrite", "host_rewrite", "auto_host_rewrite"),
    *("add_request_headers", "remove_request_headers", "add_response_headers", "remove_response_headers"),
    *("add_linkerd_headers", "load_balancer"),
)


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    objects, faults = read_directory(EXAMPLES, READER)
    assert not faults
    return compile_objects(*objects)


def test_the_examples_have_no_problems(compiled: Compiled) -> None:
    assert said(compiled) == []


def test_every_field_of_matching_rewriting_and_balancing_is_shown(compiled: Compiled) -> None:
    text = "".join(file.read_text() for file in EXAMPLES.glob("*.yaml"))
    assert [name for name in SHOWN if f"{name}:" not in text] == []
    assert "grpcgw.io/sticky-header" in text
    policies = LoadBalancerSpec.model_fields["policy"].annotation.__args__  # type: ignore[union-attr]
    assert {one.balancing.load_balancer.policy for one in destinations(compiled).values()} == set(policies)


def test_the_canary_of_the_examples_has_its_share(compiled: Compiled) -> None:
    shares = {label: one.weight for label, one in destinations(compiled).items()}
    assert (shares["stable.default"], shares["canary.default"], shares["testers.default"]) == (90, 10, 100)
