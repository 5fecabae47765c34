"""The store of objects: partitions, who serves, what listeners are told."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from grpcgw.discovery.store import ObjectStore, SourceStatus
from grpcgw.model.objects import KubeObject, ObjectKey, Problem, Severity, Source


def an_object(name: str, version: int = 1, kind: str = "Mapping", origin: str = "a.yaml") -> KubeObject:
    return KubeObject("v1", ObjectKey(kind, "default", name), {"version": version}, Source(origin))


def listened(store: ObjectStore) -> list[set[str]]:
    heard: list[set[str]] = []
    store.subscribe(lambda keys: heard.append({key.name for key in keys}))
    return heard


def test_replacing_a_partition_tells_of_added_changed_and_removed_objects_once() -> None:
    store = ObjectStore()
    store.replace("p", [an_object("stays"), an_object("changes"), an_object("goes")])
    heard = listened(store)

    store.replace("p", [an_object("stays"), an_object("changes", 2), an_object("comes")])

    assert heard == [{"changes", "goes", "comes"}]
    assert {obj.key.name for obj in store.objects()} == {"stays", "changes", "comes"}


def test_replacing_with_equal_objects_tells_nothing() -> None:
    store = ObjectStore()
    store.replace("p", [an_object("x")])
    heard = listened(store)

    store.replace("p", [an_object("x")])
    store.apply("p", an_object("x"))

    assert heard == []


def test_an_object_that_only_moved_to_another_line_or_file_is_told_because_problems_name_lines() -> None:
    store = ObjectStore()
    first = an_object("x")
    store.replace("p", [first])
    heard = listened(store)

    store.replace("p", [replace(first, source=Source("a.yaml", {(): 7}))])
    store.replace("p", [replace(first, source=Source("b.yaml", {(): 7}))])

    assert heard == [{"x"}, {"x"}]
    found = store.get(first.key)
    assert found is not None
    assert found.source.locate() == "b.yaml:7"


def test_a_status_alone_is_stored_and_not_told_so_that_writing_one_compiles_nothing() -> None:
    store = ObjectStore()
    body = {"metadata": {"resourceVersion": "1"}, "spec": {"prefix": "/"}}
    store.replace("p", [replace(an_object("x"), body=body)])
    heard = listened(store)

    written = {**body, "metadata": {"resourceVersion": "2"}, "status": {"state": "Running"}}
    store.apply("p", replace(an_object("x"), body=written))
    assert heard == []
    assert [obj.body for obj in store.objects()] == [written]

    store.apply("p", replace(an_object("x"), body={**written, "spec": {"prefix": "/other/"}}))
    store.apply("p", replace(an_object("x"), body=body))
    assert heard == [{"x"}, {"x"}]


def test_of_two_partitions_with_one_key_the_first_serves_until_it_drops_it() -> None:
    store = ObjectStore()
    store.replace("first", [an_object("x", 1)])
    heard = listened(store)

    store.replace("second", [an_object("x", 2)])
    assert heard == []
    assert [obj.body["version"] for obj in store.objects()] == [1]

    store.replace("first", [])
    assert heard == [{"x"}]
    assert [obj.body["version"] for obj in store.of_kind("Mapping")] == [2]


def test_apply_and_remove_change_one_object() -> None:
    store = ObjectStore()
    heard = listened(store)
    one = an_object("x")

    store.apply("p", one)
    store.apply("p", an_object("y", kind="Service"))
    store.remove("p", one.key)
    store.remove("p", one.key)
    store.remove("unknown", one.key)

    assert heard == [{"x"}, {"y"}, {"x"}]
    assert store.get(one.key) is None
    assert [obj.key.name for obj in store.of_kind("Service")] == ["y"]
    assert list(store.of_kind("Mapping")) == []


def test_problems_are_kept_per_partition_and_told_with_an_empty_set_only_when_they_change() -> None:
    store = ObjectStore()
    heard = listened(store)
    problem = Problem(Severity.ERROR, "broken", "b.yaml:1")

    store.report("b", [problem])
    store.report("b", [problem])
    store.report("a", [])
    assert heard == [set()]
    assert store.problems() == (problem,)

    store.report("b", [])
    assert heard == [set(), set()]
    assert store.problems() == ()


def test_an_ended_subscription_hears_nothing_even_when_it_ends_during_a_change() -> None:
    store = ObjectStore()
    heard: list[str] = []
    ends = [store.subscribe(lambda _: (heard.append("one"), ends[0]())[0])]
    store.subscribe(lambda _: heard.append("two"))

    store.apply("p", an_object("x"))
    store.apply("p", an_object("x", 2))

    assert heard == ["one", "two", "two"]


def test_the_store_is_synced_when_every_source_is_and_not_without_any() -> None:
    store = ObjectStore()
    assert not store.synced()
    store.set_status(SourceStatus("b", synced=True, last_contact_s=1.0))
    store.set_status(SourceStatus("a", synced=False, last_contact_s=0.0))
    assert not store.synced()
    store.set_status(SourceStatus("a", synced=True, last_contact_s=2.0))
    assert store.synced()
    assert [status.name for status in store.statuses()] == ["a", "b"]


@given(st.lists(st.tuples(st.sampled_from("pq"), st.dictionaries(st.sampled_from("wxyz"), st.integers(0, 2)))))
def test_a_listener_that_follows_the_told_keys_always_has_the_same_objects_as_the_store(
    steps: list[tuple[str, dict[str, int]]],
) -> None:
    store = ObjectStore()
    copy: dict[ObjectKey, KubeObject] = {}

    def follow(keys: frozenset[ObjectKey]) -> None:
        for key in keys:
            copy.pop(key, None)
            found = store.get(key)
            if found is not None:
                copy[key] = found

    store.subscribe(follow)
    for partition, content in steps:
        store.replace(partition, [an_object(name, version) for name, version in content.items()])
        assert copy == {obj.key: obj for obj in store.objects()} == {obj.key: obj for obj in store.of_kind("Mapping")}


def test_a_partition_that_is_dropped_leaves_nothing_behind() -> None:
    store = ObjectStore()
    store.set_status(SourceStatus("stays", synced=True, last_contact_s=1.0))
    store.set_status(SourceStatus("p", synced=False, last_contact_s=1.0))
    store.replace("p", [an_object("x")])
    store.report("p", [Problem(Severity.ERROR, "wrong", "p")])
    heard = listened(store)

    store.drop("p")
    store.drop("never there")

    assert heard == [{"x"}, set(), set()], "objects, problems, and that all is synced now"
    assert (list(store.objects()), store.problems(), store.synced()) == ([], (), True)
    assert [each.name for each in store.statuses()] == ["stays"]
