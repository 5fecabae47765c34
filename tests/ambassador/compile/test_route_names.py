"""Routes have names of their own that reloads and the order of objects do not change."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpcgw.ambassador.compile.grouping import GroupKey, name_route
from grpcgw.model.objects import KubeObject
from tests.compiling import compile_objects, mapping, only_route

TEXTS = st.text(st.sampled_from('a/=" ,:\\\n'), max_size=4)
GROUPS = st.builds(GroupKey, TEXTS, TEXTS, st.lists(st.tuples(TEXTS, TEXTS), max_size=2).map(tuple), st.integers(-1, 1))


@st.composite
def mappings(draw: st.DrawFn) -> list[KubeObject]:
    def make(position: int) -> KubeObject:
        return mapping(
            f"m{position}",
            prefix=draw(st.sampled_from(["/a/", "/b/", "/a b/"])),
            host=draw(st.sampled_from([None, "one.example", "*.example"])),
            headers=draw(st.sampled_from([None, {"x-canary": "1"}, {"x-canary": True}])),
            precedence=draw(st.sampled_from([None, 3])),
        )

    return [make(position) for position in range(draw(st.integers(1, 8)))]


def names(objects: list[KubeObject]) -> list[str]:
    return [route.name for route in compile_objects(*objects).snapshot.routes]


@given(first=GROUPS, second=GROUPS)
def test_two_groups_have_two_names(first: GroupKey, second: GroupKey) -> None:
    assert (name_route(first) == name_route(second)) is (first == second)


@given(objects=mappings(), seed=st.integers(0, 9))
def test_names_are_unique_and_do_not_depend_on_the_order_of_objects(objects: list[KubeObject], seed: int) -> None:
    shuffled = random.Random(seed).sample(objects, len(objects))
    assert len(set(names(objects))) == len(names(objects))
    assert names(shuffled) == names(objects)
    assert compile_objects(*shuffled).snapshot.version == compile_objects(*objects).snapshot.version


@given(objects=mappings(), others=st.integers(0, 5))
def test_a_route_keeps_its_name_whatever_else_is_configured(objects: list[KubeObject], others: int) -> None:
    beside = [mapping(f"other{position}", prefix=f"/other{position}/") for position in range(others)]
    assert set(names(objects)) <= set(names([*beside, *objects]))


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({}, "Mapping /greet.GrpcService/"),
        ({"host": "a.example"}, "Mapping /greet.GrpcService/ host=a.example"),
        (
            {"headers": {"x-user": "a b"}, "precedence": 2},
            'Mapping /greet.GrpcService/ "header:x-user=a b" precedence=2',
        ),
        ({"host_redirect": True}, "Mapping /greet.GrpcService/"),
    ],
)
def test_the_name_tells_what_the_route_matches(fields: dict[str, object], name: str) -> None:
    assert only_route(compile_objects(mapping(**fields))).name == name  # type: ignore[arg-type]
