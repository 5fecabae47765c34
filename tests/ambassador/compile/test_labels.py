"""`labels` of Mappings and `default_labels` of the Module, in the forms of all versions."""

from __future__ import annotations

import pytest

from grpcgw.ambassador.compile.labels import compile_default_labels, compile_labels, find_groups
from grpcgw.model.labels import AddressLabel, FixedLabel, HeaderLabel, Label

FORMS: list[tuple[object, Label]] = [
    ("foo", FixedLabel("generic_key", "foo")),
    ({"generic_key": "foo"}, FixedLabel("generic_key", "foo")),
    ({"generic_key": {"value": "foo"}}, FixedLabel("generic_key", "foo")),
    ({"generic_key": {"value": "foo", "key": "app"}}, FixedLabel("app", "foo")),
    ("remote_address", AddressLabel("remote_address")),
    ({"remote_address": {"key": "ip"}}, AddressLabel("ip")),
    ({"remote_address": {}}, AddressLabel("remote_address")),
    ("source_cluster", FixedLabel("source_cluster", "")),
    ({"source_cluster": {"key": "from"}}, FixedLabel("from", "")),
    ("destination_cluster", FixedLabel("destination_cluster", "greet-50051")),
    ({"destination_cluster": {"key": "to"}}, FixedLabel("to", "greet-50051")),
    ({"request_headers": {"key": "t", "header_name": "X-Tenant"}}, HeaderLabel("t", "x-tenant")),
    (
        {"request_headers": {"key": "t", "header_name": "x-t", "omit_if_not_present": True}},
        HeaderLabel("t", "x-t", True),
    ),
    ({"tenant": {"header": "X-Tenant"}}, HeaderLabel("tenant", "x-tenant")),
    ({"method": {"header": ":method", "omit_if_not_present": True}}, HeaderLabel("method", ":method", True)),
]


@pytest.mark.parametrize(("given", "label"), FORMS, ids=[str(given) for given, _ in FORMS])
def test_each_form_is_a_label(given: object, label: Label) -> None:
    labels = {"ambassador": [{"group": [given]}]}
    faults: list[str] = []
    compile_labels(labels, lambda message, *path: faults.append(message))
    assert not faults
    assert find_groups(labels, {}, "ambassador", "greet-50051") == ((label,),)


@pytest.mark.parametrize(
    ("given", "fault", "path"),
    [
        ({"d": "foo"}, "should be a list of label groups, not 'foo'", ("d",)),
        ({"d": [["foo"]]}, "should be one label group: its name and a list of labels", ("d", 0)),
        ({"d": [{"a": ["x"], "b": ["y"]}]}, "should be one label group: its name and a list of labels", ("d", 0)),
        ({"d": [{"g": "x"}]}, "should be a list of labels, not 'x'", ("d", 0, "g")),
        ({"d": [{"g": ["x", 5]}]}, "should be one label, not 5", ("d", 0, "g", 1)),
        ({"d": [{"g": [""]}]}, "should be one label, not ''", ("d", 0, "g", 0)),
        ({"d": [{"g": [{"t": {"header": "a b"}}]}]}, "'a b' is no name of a header", ("d", 0, "g", 0)),
        ({"d": [{"g": [{"t": {}}]}]}, "header should be a text, and is missing", ("d", 0, "g", 0)),
        (
            {"d": [{"g": [{"request_headers": {"key": "k", "header": "x"}}]}]},
            "unknown field header; a label of this kind has key, header_name, omit_if_not_present",
            ("d", 0, "g", 0),
        ),
        (
            {"d": [{"g": [{"t": {"header": "x", "omit_if_not_present": "yes"}}]}]},
            "omit_if_not_present should be true or false, not 'yes'",
            ("d", 0, "g", 0),
        ),
        ({"d": [{"g": [{"generic_key": 5}]}]}, "generic_key should be a text or an object with `value`, not 5", None),
    ],
)
def test_what_is_no_label_is_reported_where_it_is(
    given: dict[str, object], fault: str, path: tuple[str | int, ...] | None
) -> None:
    faults: list[tuple[str, tuple[str | int, ...]]] = []
    compile_labels(given, lambda message, *where: faults.append((message, where)))
    assert [message for message, _ in faults] == [fault]
    assert path is None or faults[0][1] == path


def test_labels_of_the_module_begin_each_group() -> None:
    defaults = compile_default_labels(
        {"ambassador": {"defaults": ["all"]}}, lambda message, *path: pytest.fail(message)
    )
    labels = {"ambassador": [{"a": ["x"]}, {"b": ["y", "z"]}]}
    assert find_groups(labels, defaults, "ambassador", "") == (
        (FixedLabel("generic_key", "all"), FixedLabel("generic_key", "x")),
        (FixedLabel("generic_key", "all"), FixedLabel("generic_key", "y"), FixedLabel("generic_key", "z")),
    )


def test_a_mapping_without_labels_in_the_domain_has_those_of_the_module() -> None:
    defaults = compile_default_labels(
        {"ambassador": {"defaults": ["all"]}}, lambda message, *path: pytest.fail(message)
    )
    assert find_groups({"other": [{"a": ["x"]}]}, defaults, "ambassador", "") == ((FixedLabel("generic_key", "all"),),)
    assert find_groups({}, defaults, "other", "") == ()


def test_default_labels_in_another_shape_are_reported() -> None:
    faults: list[str] = []
    assert not compile_default_labels({"d": ["all"]}, lambda message, *path: faults.append(message))
    assert faults == ["should be an object with the labels in `defaults`"]
