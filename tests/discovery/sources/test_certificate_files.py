"""Certificate files as a source: which are read, when new content is believed, and what is never opened."""

from __future__ import annotations

import asyncio
import base64
import errno
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from grpcgw.ambassador.spec.certificate_paths import find_named_files
from grpcgw.discovery.sources.certificate_files import (
    MAX_FILE_BYTES,
    CertificateFiles,
    read_certificate_files,
    read_file,
)
from grpcgw.discovery.store import ObjectStore
from grpcgw.model.certificate_objects import CERTIFICATE_FILES, list_paths
from grpcgw.model.objects import KubeObject
from tests.compiling import obj
from tests.parsing import KINDS
from tests.pems import key_pair

CHAIN, PRIVATE = key_pair("a")
OTHER_CHAIN, OTHER_PRIVATE = key_pair("b")


def tls_context(folder: Path, **fields: object) -> KubeObject:
    files = {"cert_chain_file": str(folder / "tls.crt"), "private_key_file": str(folder / "tls.key")}
    return obj("TLSContext", "tls", {"hosts": ["*"], **files, **fields})


def write_pair(folder: Path, chain: bytes = CHAIN, private: bytes = PRIVATE) -> None:
    (folder / "tls.crt").write_bytes(chain)
    (folder / "tls.key").write_bytes(private)


class Source:
    """A source whose store holds the objects given, looked at without waiting."""

    def __init__(self, *objects: KubeObject) -> None:
        self.store = ObjectStore()
        self.source = CertificateFiles(self.store, KINDS)
        self.changes = 0
        self.put(*objects)
        self.store.subscribe(self._count)

    def _count(self, _: object) -> None:
        self.changes += 1

    def put(self, *objects: KubeObject) -> None:
        self.store.replace("test", objects)

    def read_wanted(self) -> dict[str, bytes | str]:
        asyncio.run(self.source.read_wanted())
        return self.held()

    def refresh(self, times: int = 1) -> dict[str, bytes | str]:
        for _ in range(times):
            asyncio.run(self.source.refresh())
        return self.held()

    def held(self) -> dict[str, bytes | str]:
        """By the names of the files in the store, their content, or why there is none."""
        found: dict[str, bytes | str] = {}
        for one in self.store.of_kind(CERTIFICATE_FILES):
            found |= in_object(one)
        return found


def in_object(found: KubeObject) -> dict[str, bytes | str]:
    data, unreadable = found.body["data"], found.body["unreadable"]
    assert isinstance(data, dict)
    assert isinstance(unreadable, dict)
    assert data.keys() | unreadable.keys() == set(list_paths(found.key))
    contents = {Path(path).name: base64.b64decode(content) for path, content in data.items()}
    return contents | {Path(path).name: reason for path, reason in unreadable.items()}


# Which files are read


def test_what_tls_contexts_and_hosts_name_is_in_the_store_when_it_is_wanted(tmp_path: Path) -> None:
    write_pair(tmp_path)
    (tmp_path / "ca.crt").write_bytes(OTHER_CHAIN)
    host = obj("Host", "host", {"tls": {"cacertChainFile": str(tmp_path / "ca.crt")}})
    assert Source(tls_context(tmp_path), host).read_wanted() == {
        "tls.crt": CHAIN,
        "tls.key": PRIVATE,
        "ca.crt": OTHER_CHAIN,
    }


@pytest.mark.parametrize(
    "other",
    [
        {"ambassador_id": "another"},
        {"cert_chain_file": "tls.crt"},
        {"private_key_file": None},
        {"hosts": 1},
    ],
    ids=["of another gateway", "relative path", "half a pair", "broken object"],
)
def test_what_does_not_serve_is_not_read(other: dict[str, object], tmp_path: Path) -> None:
    write_pair(tmp_path)
    assert Source(tls_context(tmp_path, **other)).read_wanted() == {}


def test_an_object_of_the_same_kind_in_another_api_group_names_nothing(tmp_path: Path) -> None:
    write_pair(tmp_path)
    spec = tls_context(tmp_path).body["spec"]
    assert Source(obj("TLSContext", "tls", spec, api="example.com/v2")).read_wanted() == {}


def test_what_nobody_names_any_more_is_dropped(tmp_path: Path) -> None:
    write_pair(tmp_path)
    source = Source(tls_context(tmp_path))
    assert source.read_wanted()
    source.put()
    assert source.read_wanted() == {}


def test_an_object_that_names_other_files_gets_those(tmp_path: Path) -> None:
    write_pair(tmp_path)
    (tmp_path / "other.crt").write_bytes(OTHER_CHAIN)
    source = Source(tls_context(tmp_path))
    source.read_wanted()
    source.put(tls_context(tmp_path, cert_chain_file=str(tmp_path / "other.crt")))
    assert source.read_wanted() == {"other.crt": OTHER_CHAIN, "tls.key": PRIVATE}


def test_the_files_of_an_object_that_broke_are_followed_for_its_last_good_version(tmp_path: Path) -> None:
    write_pair(tmp_path)
    source = Source(tls_context(tmp_path))
    source.read_wanted()
    source.put(tls_context(tmp_path, hosts=1))
    write_pair(tmp_path, OTHER_CHAIN, OTHER_PRIVATE)
    assert source.read_wanted()
    assert source.refresh(2) == {"tls.crt": OTHER_CHAIN, "tls.key": OTHER_PRIVATE}


def test_a_pair_and_its_order_make_the_name_of_the_object(tmp_path: Path) -> None:
    (key,) = find_named_files(tls_context(tmp_path)) or ()
    assert list_paths(key) == [str(tmp_path / "tls.crt"), str(tmp_path / "tls.key")]


def test_nothing_is_told_while_nothing_changes(tmp_path: Path) -> None:
    write_pair(tmp_path)
    source = Source(tls_context(tmp_path))
    source.read_wanted()
    source.refresh()
    held = list(source.store.of_kind(CERTIFICATE_FILES))
    source.refresh(2)
    source.read_wanted()
    assert source.changes == 1
    assert [id(one) for one in source.store.of_kind(CERTIFICATE_FILES)] == [id(one) for one in held], "nor done"


def test_files_are_read_once_for_a_check(tmp_path: Path) -> None:
    write_pair(tmp_path)
    (found,) = read_certificate_files([tls_context(tmp_path)], KINDS)
    assert in_object(found) == {"tls.crt": CHAIN, "tls.key": PRIVATE}


# When new content is believed


def test_new_content_is_believed_when_it_was_the_same_twice(tmp_path: Path) -> None:
    write_pair(tmp_path)
    source = Source(tls_context(tmp_path))
    source.read_wanted()
    source.refresh()
    write_pair(tmp_path, OTHER_CHAIN, PRIVATE)
    assert source.refresh()["tls.crt"] == CHAIN
    write_pair(tmp_path, OTHER_CHAIN, OTHER_PRIVATE)
    assert source.refresh() == {"tls.crt": CHAIN, "tls.key": PRIVATE}, "the pair changes together"
    assert source.refresh() == {"tls.crt": OTHER_CHAIN, "tls.key": OTHER_PRIVATE}
    assert source.changes == 2


def test_a_volume_whose_link_is_turned_to_another_version_is_followed(tmp_path: Path) -> None:
    for version, chain, private in (("v1", CHAIN, PRIVATE), ("v2", OTHER_CHAIN, OTHER_PRIVATE)):
        (tmp_path / version).mkdir()
        write_pair(tmp_path / version, chain, private)
    (tmp_path / "..data").symlink_to("v1")
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(Path("..data", name))
    source = Source(tls_context(tmp_path))
    assert source.read_wanted()["tls.crt"] == CHAIN
    source.refresh()
    (tmp_path / "new").symlink_to("v2")
    (tmp_path / "new").rename(tmp_path / "..data")
    assert source.refresh(2) == {"tls.crt": OTHER_CHAIN, "tls.key": OTHER_PRIVATE}


def test_a_write_that_leaves_size_and_time_as_they_were_is_seen(tmp_path: Path) -> None:
    """As after two writes within one tick of the file system's clock, with a reading in between."""
    path = tmp_path / "tls.crt"
    path.write_bytes(b"-----BEGIN a")
    first, modified_ns = read_file(str(path), None), path.stat().st_mtime_ns
    path.write_bytes(b"-----BEGIN b")
    os.utime(path, ns=(0, modified_ns))
    second = read_file(str(path), first)
    assert (second.read.content, second.settled) == (b"-----BEGIN b", False)
    third = read_file(str(path), second)
    assert third.settled
    assert read_file(str(path), third) == third


def test_a_file_that_comes_and_goes(tmp_path: Path) -> None:
    source = Source(tls_context(tmp_path))
    assert source.read_wanted() == dict.fromkeys(("tls.crt", "tls.key"), os.strerror(errno.ENOENT))
    write_pair(tmp_path)
    assert source.refresh(2) == {"tls.crt": CHAIN, "tls.key": PRIVATE}
    (tmp_path / "tls.key").unlink()
    assert source.refresh()["tls.key"] == PRIVATE, "for a moment only, as while it is replaced"
    assert source.refresh() == {"tls.crt": CHAIN, "tls.key": os.strerror(errno.ENOENT)}


# What is never opened, or never kept


def make_folder(path: Path) -> None:
    path.mkdir()


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def make_link_to_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def make_loop(path: Path) -> None:
    path.symlink_to(path)


def make_large(path: Path) -> None:
    path.write_bytes(CHAIN + bytes(MAX_FILE_BYTES))


def make_other(path: Path) -> None:
    path.write_text("root:hunter2:0:0\n")


def make_empty(path: Path) -> None:
    path.touch()


UNUSABLE: list[tuple[Callable[[Path], None], str]] = [
    (make_folder, "it is no regular file"),
    (make_pipe, "it is no regular file"),
    (make_socket, "it is no regular file"),
    (make_link_to_device, "it is no regular file"),
    (make_loop, "Too many levels of symbolic links"),
    (make_large, "it is larger than 1 MB"),
    (make_other, "it holds no PEM"),
    (make_empty, "it holds no PEM"),
]


@pytest.mark.parametrize(("make", "reason"), UNUSABLE)
def test_what_cannot_be_a_certificate_is_not_kept(make: Callable[[Path], None], reason: str, tmp_path: Path) -> None:
    write_pair(tmp_path)
    (tmp_path / "tls.crt").unlink()
    make(tmp_path / "tls.crt")
    source = Source(tls_context(tmp_path))
    assert source.read_wanted() == {"tls.crt": reason, "tls.key": PRIVATE}
    assert source.refresh(2) == source.held(), "nor later"


def test_the_largest_file_is_read(tmp_path: Path) -> None:
    write_pair(tmp_path, CHAIN + bytes(MAX_FILE_BYTES - len(CHAIN)))
    assert len(Source(tls_context(tmp_path)).read_wanted()["tls.crt"]) == MAX_FILE_BYTES


def test_no_key_is_in_anything_printed(tmp_path: Path) -> None:
    write_pair(tmp_path)
    source = Source(tls_context(tmp_path))
    source.read_wanted()
    hidden = PRIVATE.decode().splitlines()[1]
    (held,) = source.store.of_kind(CERTIFICATE_FILES)
    for shown in (repr(held), str(held.source), repr(read_file(str(tmp_path / "tls.key"), None))):
        assert hidden not in shown
        assert base64.b64encode(PRIVATE).decode() not in shown
