"""The directory source: which files count, what a change does, and what a bad file must not do."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from dataclasses import replace
from pathlib import Path

import pytest

from grpcgw.discovery.sources import directory as module
from grpcgw.discovery.sources.directory import (
    DirectorySource,
    Files,
    ObjectFile,
    merge,
    parse_content,
    read_directory,
    read_file,
    scan,
)
from grpcgw.discovery.sources.directory_files import WatchDirectory, list_files, watch_directory
from grpcgw.discovery.sources.followed_files import CLOCK_STEP_NS, Stamp
from grpcgw.discovery.store import ObjectStore
from grpcgw.errors import UserError
from grpcgw.model.objects import UNREADABLE_FILE, KubeObject, ObjectKey, Severity
from tests.parsing import KINDS, READER

DEADLINE_S = 20


def document(name: str, version: int = 1, kind: str = "Service") -> str:
    return f"apiVersion: v1\nkind: {kind}\nmetadata:\n  name: {name}\nspec:\n  version: {version}\n"


def names(objects: tuple[KubeObject, ...]) -> list[str]:
    return [obj.key.name for obj in objects]


class Followed:
    """A directory source at work, and a way to wait until the store is as expected."""

    def __init__(self, directory: Path, watch: WatchDirectory = watch_directory) -> None:
        self.store = ObjectStore()
        self.source = DirectorySource(self.store, directory, READER, watch=watch, clock=self._count_reading)
        self.told: list[set[str]] = []
        self.readings = 0
        self._changed = asyncio.Event()
        self.store.subscribe(self._note)

    def _note(self, keys: frozenset[ObjectKey]) -> None:
        self.told.append({key.name for key in keys})
        self._changed.set()

    def _count_reading(self) -> float:
        """The clock of the source: it is asked once per complete reading."""
        self.readings += 1
        self._changed.set()
        return 0.0

    def versions(self) -> dict[str, object]:
        return {obj.key.name: obj.body["spec"]["version"] for obj in self.store.objects()}  # type: ignore[index]

    def messages(self) -> list[str]:
        return [str(problem) for problem in self.store.problems()]

    async def until(self, expected: Callable[[], object]) -> None:
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not expected():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pytest.fail(f"not reached; objects: {self.versions()}, problems: {self.messages()}")


def follow(
    directory: Path, scenario: Callable[[Followed], Awaitable[None]], source_of: Callable[[Path], Followed] = Followed
) -> None:
    """Run `scenario` beside a source that has read everything and waits; no task may be left afterwards."""

    async def main() -> None:
        followed = source_of(directory)
        await followed.source.load()
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(followed.source.run())
            await followed.until(lambda: followed.readings == 2)
            await scenario(followed)
            running.cancel()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


# Reading once


def test_yaml_and_json_files_are_read_in_order_below_the_directory_but_not_hidden_or_temporary_ones(
    tmp_path: Path,
) -> None:
    (tmp_path / "sub" / "deeper").mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    for name in ("b.yaml", "a.yml", "sub/c.yaml", "sub/deeper/d.yaml"):
        (tmp_path / name).write_text(document(Path(name).stem))
    (tmp_path / "e.json").write_text('{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "e"}}')
    for name in (".hidden.yaml", ".git/x.yaml", "b.yaml~", "b.yaml.swp", "#b.yaml#", "notes.txt"):
        (tmp_path / name).write_text(document("wrong"))

    objects, problems = read_directory(tmp_path, READER)

    assert names(objects) == ["a", "b", "e", "c", "d"]
    assert problems == ()


def test_origins_are_paths_as_the_user_gave_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "a.yaml").write_text("# one\n" + document("a"))
    monkeypatch.chdir(tmp_path)

    (obj,), _ = read_directory(Path("conf"), READER)
    assert obj.source.locate(("metadata", "name")) == "conf/a.yaml:5"


def test_what_is_not_there_is_a_user_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read the configuration directory .*missing"):
        read_directory(tmp_path / "missing", READER)


@pytest.mark.parametrize("name", ["missing", "file.yaml"])
def test_only_a_directory_is_followed(tmp_path: Path, name: str) -> None:
    (tmp_path / "file.yaml").write_text(document("a"))
    with pytest.raises(UserError, match=f"cannot read the configuration directory .*{name}"):
        asyncio.run(DirectorySource(ObjectStore(), tmp_path / name, READER).load())


def test_one_object_in_two_files_is_an_error_that_names_both_and_the_first_file_serves(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(document("x", 2))
    (tmp_path / "a.yaml").write_text(document("y") + "---\n" + document("x", 1))

    objects, (problem,) = read_directory(tmp_path, READER)

    assert [(obj.key.name, obj.body["spec"]) for obj in objects] == [("y", {"version": 1}), ("x", {"version": 1})]
    assert problem.where == f"{tmp_path}/b.yaml:1"
    assert f"already given at {tmp_path}/a.yaml:8" in problem.message
    assert problem.object == ObjectKey("Service", "default", "x")


def test_files_that_cannot_be_read_are_problems_and_the_others_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_FILE_BYTES", 2_000)
    (tmp_path / "good.yaml").write_text(document("good"))
    (tmp_path / "latin1.yaml").write_bytes(b"a: 1\nb: caf\xe9\n")
    (tmp_path / "huge.yaml").write_text("# comment\n" * 300)
    (tmp_path / "dangling.yaml").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.yaml")

    objects, problems = read_directory(tmp_path, READER)

    assert names(tuple(one for one in objects if one.key.kind == "Service")) == ["good"]
    told = {Path(problem.where.split(":")[0]).name: problem.message for problem in problems}
    assert "byte 0xe9 is not UTF-8" in told["latin1.yaml"]
    assert "larger than" in told["huge.yaml"]
    assert os.strerror(errno.ENOENT) in told["dangling.yaml"]
    assert "no regular file" in told["pipe.yaml"]
    assert len(problems) == 4


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_files_and_directories_without_permission_are_problems(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed.yaml").write_text(document("x"))
    (tmp_path / "closed.yaml").chmod(0)
    (tmp_path / "closed").chmod(0)
    try:
        objects, problems = read_directory(tmp_path, READER)
    finally:
        (tmp_path / "closed").chmod(0o700)
    assert {one.key.kind for one in objects} == {UNREADABLE_FILE}
    assert len(problems) == 2


def test_a_directory_that_cannot_be_listed_keeps_its_files(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.yaml").write_text(document("a"))
    before, _ = scan(tmp_path, {}, READER)
    (tmp_path / "sub").rename(tmp_path / "moved")

    after, problems = scan(tmp_path / "sub", before, READER)

    assert after == before
    assert "keep serving" in problems[0].message


def test_links_to_directories_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.yaml").write_text(document("a"))
    (tmp_path / "real" / "up").symlink_to(tmp_path)
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "linked").symlink_to(tmp_path / "real")

    paths, errors = list_files(tmp_path / "conf")

    assert paths == [tmp_path / "conf" / "linked" / "a.yaml"]
    assert errors == []


# Files that cannot be read, in which may be what keeps people out


def closing(files: Files) -> set[str]:
    objects, _ = merge(files, KINDS)
    return {Path(one.key.name).name for one in objects if one.key.kind == UNREADABLE_FILE}


def test_what_cannot_be_read_at_the_first_start_closes_until_it_can(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link.yaml"
    (tmp_path / "good.yaml").write_text(document("good"))
    link.symlink_to(target)
    first, _ = scan(tmp_path, {}, READER)
    assert closing(first) == {"link.yaml"}
    (problem,) = first[link].problems
    assert "no call is served until it can be read" in problem.message

    again, _ = scan(tmp_path, first, READER)
    assert again == first

    target.write_text("a: [\n")
    broken, _ = scan(tmp_path, again, READER)
    assert closing(broken) == set()
    assert "keep serving" not in broken[link].problems[0].message, "it was never good"

    target.write_text(document("late"))
    assert names(scan(tmp_path, again, READER)[0][link].objects) == ["late"]


def test_what_cannot_be_read_at_the_first_start_closes_until_it_is_gone(tmp_path: Path) -> None:
    link = tmp_path / "link.yaml"
    link.symlink_to(tmp_path / "nowhere")
    files, _ = scan(tmp_path, {}, READER)
    link.unlink()
    files, _ = scan(tmp_path, files, READER)
    assert closing(scan(tmp_path, files, READER)[0]) == set()


def test_a_file_that_comes_later_and_cannot_be_read_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "good.yaml").write_text(document("good"))
    first, _ = scan(tmp_path, {}, READER)
    (tmp_path / "late.yaml").symlink_to(tmp_path / "nowhere")
    second, _ = scan(tmp_path, first, READER)
    assert merge(second, KINDS)[0] == merge(first, KINDS)[0]
    assert len(second[tmp_path / "late.yaml"].problems) == 1


@pytest.mark.parametrize("content", [document("x", kind="Host").encode("utf-16"), b"\0GITCRYPT\0\xff\x00\x01"])
def test_a_file_in_another_encoding_or_encrypted_closes_too(content: bytes) -> None:
    objects, (problem,) = parse_content(content, "conf.yaml", READER)
    assert [one.key.kind for one in objects] == [UNREADABLE_FILE]
    assert "no call is served" in problem.message


# One file over time


def test_broken_content_keeps_the_objects_and_mended_content_clears_the_problem(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(document("a"))
    good = read_file(path, None, READER)

    path.write_text(document("a", 2) + "---\nkind: [\n")
    broken = read_file(path, good, READER)
    assert broken.objects == good.objects
    assert [problem.where for problem in broken.problems] == [f"{path}:9"]
    assert "the objects last read from this file keep serving" in broken.problems[0].message

    path.write_text(document("a", 3))
    mended = read_file(path, broken, READER)
    assert [obj.body["spec"] for obj in mended.objects] == [{"version": 3}]
    assert mended.problems == ()


@pytest.mark.parametrize(
    "content", ["", "# nothing left\n", "a: 1\n", "kind: Service\n", document("b") + "---\njust text\n", "a: 1\na: 2\n"]
)
def test_content_that_lost_its_objects_keeps_them_with_an_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(document("a"))
    good = read_file(path, None, READER)

    path.write_text(content)
    broken = read_file(path, good, READER)

    assert broken.objects == good.objects
    assert [problem.severity for problem in broken.problems] == [Severity.ERROR]
    assert "delete it to remove them" in broken.problems[0].message


def test_a_file_that_was_never_good_serves_its_good_documents(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(document("a") + "---\nkind: Nameless\n")
    state = read_file(path, None, READER)
    assert names(state.objects) == ["a"]
    assert "keep serving" not in state.problems[0].message


def test_content_without_a_last_newline_is_believed_only_when_it_is_read_twice(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(document("a"))
    good = read_file(path, None, READER)

    path.write_text(document("a", 2) + "---\n" + document("b").rstrip())
    once = read_file(path, good, READER)
    assert once.objects == good.objects
    assert not once.settled

    twice = read_file(path, once, READER)
    assert names(twice.objects) == ["a", "b"]
    assert twice.settled


def test_a_missing_file_loses_its_objects_only_when_it_is_missing_twice(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(document("a"))
    there, _ = scan(tmp_path, {}, READER)

    path.unlink()
    once, _ = scan(tmp_path, there, READER)
    assert names(once[path].objects) == ["a"]
    path.write_text(document("a"))
    back, _ = scan(tmp_path, once, READER)
    assert back == there

    path.unlink()
    assert scan(tmp_path, scan(tmp_path, back, READER)[0], READER)[0] == {}


def stamp_of(path: Path) -> Stamp:
    status = path.stat()
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)


def test_only_a_file_whose_stamp_changed_is_read_again_unless_all_are(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(document("former"))
    state = read_file(path, None, READER)
    path.write_text(document("a"))
    stamp = stamp_of(path)

    def with_stamp(known: Stamp | None) -> ObjectFile:
        return replace(state, read=replace(state.read, stamp=known))

    believed = with_stamp(stamp)

    def objects_after(former: ObjectFile, read_all: bool = False) -> list[str]:
        return names(scan(tmp_path, {path: former}, READER, read_all)[0][path].objects)

    assert objects_after(believed) == ["former"]
    assert objects_after(believed, read_all=True) == ["a"]
    for name in ("size", "modified_ns", "changed_ns", "inode", "device"):
        other = replace(stamp, **{name: getattr(stamp, name) + 1})
        assert objects_after(with_stamp(other)) == ["a"], name
    assert objects_after(with_stamp(None)) == ["a"]
    assert objects_after(replace(believed, gone=True)) == ["a"]
    assert objects_after(replace(believed, awaited=b"half")) == ["a"]


def test_a_stamp_proves_something_only_when_the_last_change_was_over_before_the_reading() -> None:
    changed_ns = 1_000 * CLOCK_STEP_NS
    stamp = Stamp(1, changed_ns - 5, changed_ns, 1, 1)
    for later_ns, proves in [(-1, False), (0, False), (CLOCK_STEP_NS - 1, False), (CLOCK_STEP_NS, True)]:
        assert stamp.is_final(changed_ns + later_ns) is proves
        assert replace(stamp, modified_ns=changed_ns, changed_ns=0).is_final(changed_ns + later_ns) is proves


def test_a_file_that_has_long_been_what_it_is_gets_a_stamp_and_one_just_saved_does_not(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(document("a"))
    os.utime(path, ns=(0, 0))
    assert read_file(path, None, READER).read.stamp is None
    long_there = Path(__file__)
    assert read_file(long_there, None, READER).read.stamp == stamp_of(long_there)


def test_changes_of_equal_size_in_one_step_of_the_clock_are_all_seen(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(document("a", 1000))
    status = path.stat()
    files, _ = scan(tmp_path, {}, READER)
    for version in range(1001, 1101):
        path.write_text(document("a", version))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        files, _ = scan(tmp_path, files, READER)
        assert [obj.body["spec"] for obj in files[path].objects] == [{"version": version}]


# Following


def test_saved_added_and_deleted_files_reach_the_store(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(document("a"))

    async def scenario(followed: Followed) -> None:
        assert followed.versions() == {"a": 1}
        (tmp_path / "a.yaml").write_text(document("a", 2))
        await followed.until(lambda: followed.versions() == {"a": 2})
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "b.yaml").write_text(document("b"))
        await followed.until(lambda: followed.versions() == {"a": 2, "b": 1})
        (tmp_path / "a.yaml").unlink()
        await followed.until(lambda: followed.versions() == {"b": 1})

    follow(tmp_path, scenario)


def test_a_saved_change_is_told_by_the_system_not_found_by_reading_again(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(document("a"))

    def never_on_its_own(place: Path) -> AsyncGenerator[Collection[object], None]:
        return watch_directory(place, rescan_ms=10 * DEADLINE_S * 1000)

    async def scenario(followed: Followed) -> None:
        (tmp_path / "a.yaml").write_text(document("a", 2))
        await followed.until(lambda: followed.versions() == {"a": 2})

    follow(tmp_path, scenario, lambda path: Followed(path, watch=never_on_its_own))


def test_without_any_event_every_file_is_read_whatever_its_stamp_says(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(document("a"))
    reports: asyncio.Queue[tuple[str, ...]] = asyncio.Queue()

    async def lying(place: Path) -> AsyncGenerator[Collection[object], None]:
        while True:
            yield await reports.get()

    async def scenario(followed: Followed) -> None:
        (state,) = followed.source._files.values()
        path.write_text(document("a", 2))
        followed.source._files = {path: replace(state, read=replace(state.read, stamp=stamp_of(path)))}
        for report, expected in ((("something",), 1), ((), 2)):
            readings = followed.readings
            reports.put_nowait(report)
            await followed.until(lambda: followed.readings > readings)  # noqa: B023 - ends in the round
            assert followed.versions() == {"a": expected}

    follow(tmp_path, scenario, lambda path: Followed(path, watch=lying))


def test_a_change_before_the_watch_is_set_up_is_not_missed(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(document("a"))

    async def main() -> None:
        followed = Followed(tmp_path)
        await followed.source.load()
        (tmp_path / "a.yaml").write_text(document("a", 2))
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(followed.source.run())
            await followed.until(lambda: followed.versions() == {"a": 2})
            running.cancel()

    asyncio.run(main())


def test_a_broken_save_changes_only_the_problems_and_an_atomic_rename_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(document("a"))

    async def scenario(followed: Followed) -> None:
        path.write_text("kind: [\n")
        await followed.until(followed.messages)
        assert followed.versions() == {"a": 1}
        assert f"{path}:2: error" in followed.messages()[0]
        (tmp_path / ".a.tmp").write_text(document("a", 2))
        (tmp_path / ".a.tmp").rename(path)
        await followed.until(lambda: followed.versions() == {"a": 2})
        await followed.until(lambda: not followed.messages())
        assert {name for keys in followed.told for name in keys} == {"a"}

    follow(tmp_path, scenario)


def test_moving_an_object_to_another_file_never_takes_it_away(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_text(document("x"))

    async def scenario(followed: Followed) -> None:
        missing: list[object] = []
        key = ObjectKey("Service", "default", "x")
        followed.store.subscribe(lambda _: missing.append(1) if followed.store.get(key) is None else None)
        (tmp_path / "a.yaml").write_text(document("x", 2))
        await followed.until(lambda: followed.versions() == {"x": 2} and followed.messages())
        (tmp_path / "b.yaml").unlink()
        await followed.until(lambda: not followed.messages())
        assert followed.versions() == {"x": 2}
        assert missing == []

    follow(tmp_path, scenario)


def test_the_swap_of_a_mounted_configmap_is_seen_as_one_change(tmp_path: Path) -> None:
    def publish(version: int) -> None:
        (tmp_path / f"..{version}").mkdir()
        for name in ("a", "b"):
            (tmp_path / f"..{version}" / f"{name}.yaml").write_text(document(name, version))
        (tmp_path / "..data_tmp").symlink_to(f"..{version}")
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")

    publish(1)
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").symlink_to(f"..data/{name}.yaml")

    async def scenario(followed: Followed) -> None:
        assert followed.versions() == {"a": 1, "b": 1}
        assert followed.messages() == []
        publish(2)
        await followed.until(lambda: followed.versions() == {"a": 2, "b": 2})
        assert followed.told[-1] == {"a", "b"}

    follow(tmp_path, scenario)


def test_a_hundred_changes_end_in_the_right_state(tmp_path: Path) -> None:
    async def scenario(followed: Followed) -> None:
        for number in range(100):
            (tmp_path / f"{number % 7}.yaml").write_text(document(f"n{number % 7}", number))
            if number % 5 == 4:
                (tmp_path / f"{(number + 2) % 7}.yaml").unlink(missing_ok=True)
            await asyncio.sleep(0)  # the source may read in between
        expected = {obj.key.name: obj.body["spec"] for obj in read_directory(tmp_path, READER)[0]}
        assert 4 <= len(expected) <= 7
        await followed.until(lambda: {name: {"version": n} for name, n in followed.versions().items()} == expected)

    follow(tmp_path, scenario)


def test_a_directory_that_disappears_keeps_the_last_state_and_is_followed_again_when_it_returns(tmp_path: Path) -> None:
    directory = tmp_path / "conf"
    directory.mkdir()
    (directory / "a.yaml").write_text(document("a"))

    async def scenario(followed: Followed) -> None:
        directory.rename(tmp_path / "away")
        await followed.until(followed.messages)
        assert "keep serving" in followed.messages()[0]
        assert followed.versions() == {"a": 1}
        (status,) = followed.store.statuses()
        assert not status.watching
        assert status.synced
        assert "cannot list directory" in status.error

        directory.mkdir()
        watched.clear()
        (directory / "a.yaml").write_text(document("a", 2))
        await followed.until(lambda: followed.versions() == {"a": 2})
        await followed.until(lambda: not followed.messages())
        (directory / "a.yaml").write_text(document("a", 3))
        await followed.until(lambda: followed.versions() == {"a": 3})
        await asyncio.wait_for(watched.wait(), DEADLINE_S)

    watched = asyncio.Event()

    def often(place: Path) -> AsyncGenerator[Collection[object], None]:
        watched.set()
        return watch_directory(place, rescan_ms=100)

    follow(directory, scenario, lambda path: Followed(path, watch=often))


def test_names_that_are_no_utf_8_end_nothing_and_can_be_shown(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(document("a"))

    async def scenario(followed: Followed) -> None:
        os.close(os.open(os.fsencode(tmp_path) + b"/\xff.txt", os.O_CREAT))
        (tmp_path / os.fsdecode(b"\xfe.yaml")).write_text("a: [\n")
        (tmp_path / "a.yaml").write_text(document("a", 2))
        await followed.until(lambda: followed.versions() == {"a": 2})
        await followed.until(lambda: any("\ufffd.yaml" in message for message in followed.messages()))
        assert "\n".join(followed.messages()).encode()

    follow(tmp_path, scenario)


@pytest.mark.parametrize("wrap", [lambda error: error, lambda error: ExceptionGroup("of a task group", [error])])
def test_without_inotify_files_are_polled_and_a_notice_says_so(
    tmp_path: Path, wrap: Callable[[Exception], Exception]
) -> None:
    (tmp_path / "a.yaml").write_text(document("a"))

    async def no_watch(directory: Path) -> AsyncGenerator[Collection[object], None]:
        raise wrap(OSError("inotify limit reached"))
        yield

    async def scenario(followed: Followed) -> None:
        await followed.until(followed.messages)
        assert "notice: changes are not reported by the system (inotify limit reached)" in followed.messages()[0]
        (tmp_path / "a.yaml").write_text(document("a", 2))
        await followed.until(lambda: followed.versions() == {"a": 2})

    follow(tmp_path, scenario, lambda directory: Followed(directory, watch=no_watch))


def test_the_status_is_synced_after_the_first_load_and_says_when_it_was_read(tmp_path: Path) -> None:
    store = ObjectStore()
    source = DirectorySource(store, tmp_path, READER, clock=lambda: 1234.5)
    assert not store.synced()
    asyncio.run(source.load())
    (status,) = store.statuses()
    assert (status.name, status.synced, status.last_contact_s) == (f"directory {tmp_path}", True, 1234.5)
    assert store.synced()


def test_what_is_read_and_what_is_not_is_logged_when_it_changes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "notes.txt").touch()
    caplog.set_level(logging.INFO)

    async def scenario(followed: Followed) -> None:
        assert followed.messages() == [
            f"{tmp_path}: notice: there is no YAML or JSON file here: is it the right directory?"
        ]
        (tmp_path / "one.yaml").write_text(document("one") + "---\n" + document("two", kind="Pod"))
        await followed.until(lambda: followed.versions() == {"one": 1, "two": 1} and followed.messages() == [])

    follow(tmp_path, scenario)
    said = [record.getMessage() for record in caplog.records if record.name == "grpcgw.discovery.sources.directory"]
    assert said == [
        f"directory {tmp_path}: no objects in no files read; ignored: notes.txt",
        f"directory {tmp_path}: 1 object in 1 file read; ignored: 1 Pod, notes.txt",
    ]
