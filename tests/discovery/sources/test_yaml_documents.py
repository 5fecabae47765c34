"""YAML text into objects: what is an object, where its fields are, and what a text must not be able to do."""

from __future__ import annotations

import json
import textwrap

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from grpcgw.discovery.sources.yaml_documents import Document, Fault, read_documents
from grpcgw.model.objects import KubeObject, ObjectKey, Problem
from tests.parsing import parse_objects

GREET = textwrap.dedent("""\
    # the greet service
    apiVersion: getambassador.io/v2
    kind: KubernetesEndpointResolver
    metadata:
      name: grpcserver-endpoint-resolver
    ---
    apiVersion: getambassador.io/v2
    kind: Mapping
    metadata:
      name: grpcserver
      namespace: grpcserver
    spec:
      grpc: true
      prefix: /greet.GrpcService/
      labels:
        - one
        - {two: 2}
      load_balancer:
        policy: round_robin
""")


def parse(text: str) -> tuple[tuple[KubeObject, ...], tuple[Problem, ...]]:
    return parse_objects(textwrap.dedent(text), "f.yaml")


def only_value(text: str) -> object:
    (document,) = read_documents(text)
    assert isinstance(document, Document), document
    return document.value


def only_fault(text: str) -> Fault:
    (fault,) = read_documents(text)
    assert isinstance(fault, Fault), fault
    return fault


def test_documents_become_objects_with_key_version_and_body() -> None:
    (resolver, mapping), problems = parse(GREET)

    assert problems == ()
    assert resolver.key == ObjectKey("KubernetesEndpointResolver", "default", "grpcserver-endpoint-resolver")
    assert mapping.key == ObjectKey("Mapping", "grpcserver", "grpcserver")
    assert mapping.api_version == "getambassador.io/v2"
    assert mapping.body["spec"] == {
        "grpc": True,
        "prefix": "/greet.GrpcService/",
        "labels": ["one", {"two": 2}],
        "load_balancer": {"policy": "round_robin"},
    }


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ((), 7),
        (("spec",), 12),
        (("spec", "prefix"), 14),
        (("spec", "labels", 0), 16),
        (("spec", "labels", 1, "two"), 17),
        (("spec", "load_balancer", "policy"), 19),
        (("spec", "load_balancer", "unknown"), 18),
    ],
)
def test_every_field_knows_its_line_counted_in_the_whole_file(path: tuple[str | int, ...], line: int) -> None:
    mapping = parse(GREET)[0][1]
    assert mapping.source.locate(path) == f"f.yaml:{line}"


def test_empty_documents_and_comments_are_skipped() -> None:
    assert parse("---\n---\n# nothing\n---\n") == ((), ())
    assert parse("") == ((), ())


def test_a_list_is_unfolded_and_its_items_keep_their_lines() -> None:
    objects, problems = parse("""\
        apiVersion: v1
        kind: List
        items:
        - apiVersion: v1
          kind: Service
          metadata: {name: one}
        - apiVersion: v1
          kind: Service
          metadata:
            name: two
            namespace: other
        """)

    assert problems == ()
    assert [str(obj.key) for obj in objects] == ["Service one.default", "Service two.other"]
    assert [obj.source.locate() for obj in objects] == ["f.yaml:4", "f.yaml:7"]
    assert objects[1].source.locate(("metadata", "namespace")) == "f.yaml:11"


def test_ambassadors_flat_form_is_brought_into_the_usual_form_with_its_lines() -> None:
    (mapping,), problems = parse("""\
        apiVersion: getambassador.io/v2
        kind: Mapping
        name: greet
        namespace: there
        prefix: /greet.GrpcService/
        load_balancer:
          policy: round_robin
        """)

    assert problems == ()
    assert mapping.key == ObjectKey("Mapping", "there", "greet")
    assert mapping.body["metadata"] == {"name": "greet", "namespace": "there"}
    assert mapping.body["spec"] == {"prefix": "/greet.GrpcService/", "load_balancer": {"policy": "round_robin"}}
    assert mapping.source.locate(("spec", "load_balancer", "policy")) == "f.yaml:7"
    assert mapping.source.locate(("metadata", "name")) == "f.yaml:3"


@pytest.mark.parametrize(
    ("api_version", "kind"), [("v1", "Service"), ("networking.k8s.io/v1", "Ingress"), ("extensions/v1beta1", "Ingress")]
)
def test_services_and_ingresses_bring_the_objects_they_are_annotated_with(api_version: str, kind: str) -> None:
    objects, problems = parse(f"""\
        apiVersion: {api_version}
        kind: {kind}
        metadata:
          name: greet
          namespace: there
          labels: {{team: a}}
          annotations:
            getambassador.io/config: |
              # The greet service.

              apiVersion: getambassador.io/v2
              kind: Mapping
              name: from-annotation
              prefix: /x/
              ---
              kind: Broken
              ---
              kind: Mapping
              name: a
              name: b
        """)

    assert [str(obj.key) for obj in objects] == [f"{kind} greet.there", "Mapping from-annotation.there"]
    assert objects[1].source.locate() == "f.yaml:11"
    assert objects[1].source.locate(("spec", "prefix")) == "f.yaml:14"
    assert objects[1].body["metadata"] == {"name": "from-annotation", "labels": {"team": "a"}}
    assert [problem.where for problem in problems] == ["f.yaml:16", "f.yaml:20"]
    assert "it was given in line 19 before" in problems[1].message


def test_in_a_list_an_annotation_is_still_located_where_it_stands() -> None:
    objects, _ = parse("""\
        kind: List
        items:
        - apiVersion: v1
          kind: Service
          metadata:
            name: greet
            annotations:
              getambassador.io/config: |-
                apiVersion: ambassador/v1
                kind: Mapping
                name: greet
                prefix: /greet/
                metadata_labels: {own: "yes"}
        """)
    assert objects[1].source.locate(("spec", "prefix")) == "f.yaml:12"
    assert objects[1].body["metadata"] == {"name": "greet", "labels": {"own": "yes"}}


@pytest.mark.parametrize("style", ["'{}'", '"{}"', ">\n      {}"])
def test_an_annotation_without_lines_of_its_own_is_located_where_it_begins(style: str) -> None:
    text = "{kind: Broken}"
    service = "apiVersion: v1\nkind: Service\nmetadata:\n  name: greet\n  annotations:\n    getambassador.io/config: "
    (_,), (problem,) = parse_objects(service + style.format(text) + "\n", "f.yaml")
    assert problem.where == "f.yaml:6"
    assert "annotation getambassador.io/config, line:1: this document is no object" in problem.message


@pytest.mark.parametrize(
    ("text", "where", "words"),
    [
        ("- a\n- b\n", "f.yaml:1", "no object"),
        ("kind: X\nmetadata: {name: a}\n", "f.yaml:1", "apiVersion is missing"),
        ("apiVersion: v1\nkind: 3\n", "f.yaml:2", "kind must be text"),
        ("apiVersion: v1\nkind: X\nmetadata:\n  labels: {}\n", "f.yaml:3", "metadata.name is missing"),
        ("apiVersion: v1\nkind: X\nmetadata:\n  name: 12\n", "f.yaml:4", "metadata.name must be text"),
        ("apiVersion: v1\nkind: X\nname: flat\n", "f.yaml:1", "metadata.name is missing"),
        ("apiVersion: v1\nkind: X\nmetadata:\n  name: a\n  namespace: 1\n", "f.yaml:5", "metadata.namespace must"),
        ("a: 1\nb: 2\na: 3\n", "f.yaml:3", "duplicate key 'a': it was given in line 1"),
        ("a: !!python/object:os.system x\n", "f.yaml:1", "not supported"),
        ("? [a]\n: b\n", "f.yaml:1", "key must be plain text"),
    ],
)
def test_a_document_that_is_no_object_is_named_with_its_line_and_leaves_the_others_alone(
    text: str, where: str, words: str
) -> None:
    good = "apiVersion: v1\nkind: Service\nmetadata: {name: good}\n"
    objects, (problem,) = parse_objects(text + "---\n" + good, "f.yaml")

    assert [obj.key.name for obj in objects] == ["good"]
    assert problem.where == where
    assert words in problem.message


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: [b\nc: d\n", 2),
        ("a: b\n  c: d\n", 2),
        ("a: 'b\n", 2),
        ("ü: 1\nüü: \x00\n", 2),
        ("a: 1\nb: \ud800\n", 2),
        ("a: {{ .Values.port }}\n", 1),
    ],
)
def test_a_text_that_is_no_yaml_gives_no_object_and_names_the_line(text: str, line: int) -> None:
    good = "apiVersion: v1\nkind: Service\nmetadata: {name: good}\n---\n"
    objects, problems = parse_objects(good + text, "f.yaml")

    if "Values" not in text:
        assert objects == ()
    assert [problem.where for problem in problems] == [f"f.yaml:{4 + line}"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2024-01-02", "2024-01-02"),
        ("12:30:45", "12:30:45"),
        ("0644", 420),
        ("0x10", 16),
        ("-7", -7),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("Yes", True),
        ("off", False),
        ("~", None),
        ("'true'", "true"),
        ("!!str 5", "5"),
        (".inf", ".inf"),
        ("09", 9.0),
        ("1.2.3", "1.2.3"),
        ("=", "="),
    ],
)
def test_plain_scalars_become_json_types_only(text: str, value: object) -> None:
    decoded = only_value(f"k: {text}\n")
    assert decoded == {"k": value}
    assert type(decoded["k"]) is type(value)  # type: ignore[index]


def test_aliases_and_merges_work_and_own_keys_win() -> None:
    text = "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc: {<<: [*a, *b], x: 0}\nd: *a\ne: {'<<': 5}\n"
    value = only_value(text)
    assert isinstance(value, dict)
    assert value["c"] == {"x": 0, "y": 1, "z": 2}
    assert value["d"] == {"x": 1, "y": 1}
    assert value["e"] == {"<<": 5}


def test_aliases_cannot_blow_a_small_text_up() -> None:
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    laughs += "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))
    assert "aliases stand for more than" in only_fault(laughs).message


@pytest.mark.parametrize("text", ["a: &a [*a]\n", "a: *nowhere\n"])
def test_an_alias_to_itself_or_to_nothing_is_an_error(text: str) -> None:
    assert "stands for nothing" in only_fault(text).message


@pytest.mark.parametrize(
    "text",
    [
        "[" * 1_000_000,
        "{" * 1_000_000,
        "{a: " * 1_000_000,
        "[{" * 500_000,
        "- " * 1_000_000,
        "a: 1\na: " + "[" * 1_000_000,
    ],
    ids=["lists", "objects", "keys", "both", "block", "second line"],
)
def test_deep_nesting_is_refused_early(text: str) -> None:
    faults = [found for found in read_documents(text) if isinstance(found, Fault)]
    assert "nested more than" in faults[-1].message
    assert faults[-1].whole_text


def test_a_number_no_float_can_hold_is_refused() -> None:
    assert "too large" in only_fault("a: 1e999\n").message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc<&*: ", max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_what_a_yaml_writer_writes_is_read_back(value: object) -> None:
    documents = list(read_documents(yaml.safe_dump(value, allow_unicode=False)))
    assert [document.value for document in documents if isinstance(document, Document)] == (
        [] if value is None else [value]
    )


def test_json_with_tabs_is_read() -> None:
    text = json.dumps({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}}, indent="\t")
    assert [obj.key.name for obj in parse(text)[0]] == ["x"]


@given(st.text(st.sampled_from("ab:-&*<[]{}!|>'\"#?%@, \n\t~\x00\ud8001.")))
def test_no_text_makes_the_reader_raise(text: str) -> None:
    parse_objects(text, "f.yaml")
