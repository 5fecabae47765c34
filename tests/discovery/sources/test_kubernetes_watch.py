"""What list/watch means, without sockets: which version is read, what a line says, when a watch cannot be trusted."""

from __future__ import annotations

import json
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpcgw.discovery.backoff import Backoff
from grpcgw.discovery.sources.watch_events import (
    Bookmark,
    Cursor,
    LineSplitter,
    Put,
    Relist,
    Removed,
    WatchedKind,
    decode_event,
    read_kinds,
    read_object,
    read_page,
)
from grpcgw.model.dialect import ApiResource
from tests.parsing import KINDS, WATCHED_KINDS

MAPPING = ApiResource("getambassador.io", "v2", "Mapping", "mappings")
SERVICE = ApiResource("", "v1", "Service", "services")


def watched(name: str) -> WatchedKind:
    return next(kind for kind in WATCHED_KINDS if kind.name == name)


def body(name: str = "greet", version: str = "7", **fields: object) -> dict[str, object]:
    return {"metadata": {"namespace": "shop", "name": name, "resourceVersion": version}, **fields}


def line(kind: str, obj: object) -> bytes:
    return json.dumps({"type": kind, "object": obj}).encode()


def put(name: str, *, is_new: bool) -> Put:
    return Put(read_object(body(name), MAPPING, KINDS), "7", is_new)


@pytest.mark.parametrize(
    ("served", "chosen"),
    [
        (["v1", "v2", "v3alpha1"], "v3alpha1"),
        (["v2", "v1"], "v2"),
        (["v1"], "v1"),
    ],
)
def test_the_newest_served_version_of_a_custom_kind_is_read(served: list[str], chosen: str) -> None:
    kinds = {f"getambassador.io/{version}": {"Mapping", "Host"} for version in served}
    resource = watched("Mapping").choose(kinds)
    assert resource is not None
    assert resource.version == chosen


def test_a_version_without_the_kind_is_passed_over() -> None:
    kinds = {"getambassador.io/v3alpha1": {"Host"}, "getambassador.io/v2": {"Mapping"}}
    assert watched("Mapping").choose(kinds) == MAPPING
    assert watched("Module").choose(kinds) is None


def test_endpoint_slices_are_preferred_to_endpoints() -> None:
    both = watched("EndpointSlice").choose({"discovery.k8s.io/v1": {"EndpointSlice"}})
    assert both is not None
    assert both.kind == "EndpointSlice"
    old = watched("EndpointSlice").choose({"discovery.k8s.io/v1": ()})
    assert old is not None
    assert old.kind == "Endpoints"


def test_paths_and_rights_name_group_and_namespace() -> None:
    assert MAPPING.path("") == "/apis/getambassador.io/v2/mappings"
    assert MAPPING.path("shop") == "/apis/getambassador.io/v2/namespaces/shop/mappings"
    assert SERVICE.path("shop") == "/api/v1/namespaces/shop/services"
    assert MAPPING.describe_right("list", "") == '"list" on mappings.getambassador.io in all namespaces'
    assert SERVICE.describe_right("watch", "shop") == '"watch" on services in namespace shop'


@settings(deadline=None)
@given(lines=st.lists(st.binary(min_size=1).filter(lambda text: b"\n" not in text and text.strip())), cuts=st.data())
def test_lines_are_the_same_however_the_bytes_arrive(lines: list[bytes], cuts: st.DataObject) -> None:
    rest = b"".join(text + b"\n" for text in lines)
    splitter, found = LineSplitter(), []
    while rest:
        size = cuts.draw(st.integers(1, len(rest)))
        found += splitter.feed(rest[:size])
        rest = rest[size:]
    assert found == lines


def test_a_line_is_not_given_out_before_its_end() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b'{"half":') == []
    assert splitter.feed(b"1}\n\n{") == [b'{"half":1}']


def test_an_endless_line_is_given_up() -> None:
    splitter = LineSplitter(max_line_bytes=10)
    assert splitter.feed(b"0123456789") == []
    with pytest.raises(Relist, match="more than 10 bytes"):
        splitter.feed(b"0")


def test_events_carry_object_and_version() -> None:
    added = decode_event(line("ADDED", body(spec={"prefix": "/"})), MAPPING, KINDS)
    assert isinstance(added, Put)
    assert (added.version, added.is_new, str(added.obj.key)) == ("7", True, "Mapping greet.shop")
    assert added.obj.body["spec"] == {"prefix": "/"}
    modified = decode_event(line("MODIFIED", body()), MAPPING, KINDS)
    assert isinstance(modified, Put)
    assert not modified.is_new
    assert decode_event(line("DELETED", body()), MAPPING, KINDS) == Removed(added.obj.key, "7")
    assert decode_event(line("BOOKMARK", {"metadata": {"resourceVersion": "9"}}), MAPPING, KINDS) == Bookmark("9")


@pytest.mark.parametrize(
    "text",
    [
        b"no json",
        b"[]",
        b'"text"',
        b"{}",
        line("ADDED", None),
        line("ADDED", {"metadata": {"resourceVersion": "1"}}),
        line("ADDED", {"metadata": {"name": "greet"}}),
        line("ADDED", {"metadata": []}),
        line("BOOKMARK", {"metadata": {}}),
        line("SYNC", body()),
        line("ERROR", {"code": 410, "message": "too old resource version"}),
        line("ERROR", {}),
        b"\xff\xfe",
    ],
)
def test_whatever_is_no_plain_event_asks_for_a_new_list(text: bytes) -> None:
    with pytest.raises(Relist):
        decode_event(text, MAPPING, KINDS)


@settings(deadline=None)
@given(st.binary())
def test_no_line_of_bytes_does_more_than_ask_for_a_new_list(text: bytes) -> None:
    with pytest.raises(Relist):
        decode_event(text, MAPPING, KINDS)


def test_an_error_event_is_quoted() -> None:
    with pytest.raises(Relist, match="410 too old resource version"):
        decode_event(line("ERROR", {"code": 410, "message": "too old resource version"}), MAPPING, KINDS)


def test_the_cursor_follows_events_and_bookmarks() -> None:
    cursor = Cursor("1")
    for event in (put("a", is_new=True), put("a", is_new=False), Bookmark("8")):
        cursor.advance(event)
    assert (cursor.version, {key.name for key in cursor.keys}) == ("8", {"a"})
    cursor.advance(Removed(put("a", is_new=True).obj.key, "9"))
    assert cursor == Cursor("9")


@pytest.mark.parametrize("event", [put("b", is_new=False), Removed(put("b", is_new=False).obj.key, "7")])
def test_an_event_about_an_object_never_added_is_a_gap(event: Put | Removed) -> None:
    cursor = Cursor("1", {put("a", is_new=True).obj.key})
    with pytest.raises(Relist, match="missed"):
        cursor.advance(event)
    assert cursor.version == "1"


def test_what_only_writers_need_is_dropped_and_the_rest_kept() -> None:
    given_body = {
        "metadata": {
            "name": "greet",
            "labels": {"app": "greet"},
            "managedFields": [{"manager": "kubectl"}],
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "mine": "kept"},
        },
        "spec": {"unknown_field": 1},
    }
    before = json.dumps(given_body)
    obj = read_object(given_body, MAPPING, KINDS)
    assert obj.body == {
        "kind": "Mapping",
        "apiVersion": "getambassador.io/v2",
        "metadata": {"name": "greet", "labels": {"app": "greet"}, "annotations": {"mine": "kept"}},
        "spec": {"unknown_field": 1},
    }
    assert json.dumps(given_body) == before


def test_an_object_is_the_same_whether_it_was_listed_or_watched() -> None:
    listed, version, token = read_page({"metadata": {"resourceVersion": "9"}, "items": [body()]}, SERVICE, KINDS)
    event = decode_event(line("ADDED", body(kind="Service", apiVersion="v1")), SERVICE, KINDS)
    assert isinstance(event, Put)
    assert listed == [event.obj]
    assert (version, token) == ("9", "")


def test_an_empty_list_may_be_null() -> None:
    assert read_page({"metadata": {"resourceVersion": "9"}, "items": None}, SERVICE, KINDS) == ([], "9", "")


@pytest.mark.parametrize("page", [{}, {"items": {}}, {"items": []}, {"metadata": {}, "items": [1]}])
def test_an_odd_list_is_not_taken_for_an_empty_one(page: dict[str, object]) -> None:
    with pytest.raises(Relist):
        read_page(page, SERVICE, KINDS)


def test_subresources_are_no_kinds() -> None:
    resources = [{"name": "mappings", "kind": "Mapping"}, {"name": "mappings/scale", "kind": "Scale"}]
    assert read_kinds({"resources": resources}) == {"Mapping"}
    assert read_kinds({"resources": None}) == frozenset()


class Highest(Random):
    def uniform(self, a: float, b: float) -> float:
        return b


def test_backoff_doubles_to_its_cap_and_starts_anew_after_a_reset() -> None:
    backoff = Backoff(0.1, 0.5, Highest())
    assert [backoff.next_s() for _ in range(5)] == [0.1, 0.2, 0.4, 0.5, 0.5]
    backoff.reset()
    assert backoff.next_s() == 0.1


@settings(deadline=None)
@given(st.integers())
def test_backoff_has_full_jitter_below_its_ceiling(seed: int) -> None:
    backoff = Backoff(0.1, 30.0, Random(seed))
    delays = [backoff.next_s() for _ in range(20)]
    ceilings = [min(30.0, 0.1 * 2**n) for n in range(20)]
    assert all(0.0 <= delay <= ceiling for delay, ceiling in zip(delays, ceilings, strict=True))
