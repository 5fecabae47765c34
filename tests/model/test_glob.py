"""Globs: what each part matches, and what is no glob."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpcgw.model.glob import InvalidGlob, compile_glob


@pytest.mark.parametrize(
    ("glob", "matching", "others"),
    [
        ("*", ["", "/a.S/M"], []),
        ("/a.S/*", ["/a.S/", "/a.S/M"], ["/a.S", "/b.S/M", "x/a.S/M"]),
        ("/a.S/M", ["/a.S/M"], ["/a.S/Mx", "/axS/M", "/A.S/M"]),
        ("*/M", ["/a.S/M", "/b/c/M"], ["/a.S/N"]),
        ("*.example.com", ["a.example.com", "a.b.example.com", ".example.com"], ["example.com", "a.example.comx"]),
        ("/?.S/M", ["/a.S/M", "/é.S/M"], ["/ab.S/M", "/.S/M"]),
        ("/[ab].S/M", ["/a.S/M", "/b.S/M"], ["/c.S/M", "/ab.S/M"]),
        ("/[a-c].S/M", ["/b.S/M"], ["/-.S/M", "/d.S/M"]),
        ("/[!a-c].S/M", ["/d.S/M"], ["/b.S/M"]),
        ("/[!ab].S/M", ["/c.S/M"], ["/a.S/M"]),
        ("/{a,b.c}.S/*", ["/a.S/M", "/b.c.S/M"], ["/bxc.S/M", "/c.S/M"]),
        ("/{a,{b,c}*}/M", ["/a/M", "/bx/M", "/c/M"], ["/ax/M"]),
        ("/{a,}/M", ["/a/M", "//M"], ["/b/M"]),
        (r"/\*/\{a", ["/*/{a"], ["/x/{a"]),
        ("a**b", ["ab", "axxb"], ["a"]),
    ],
)
def test_parts_of_globs(glob: str, matching: list[str], others: list[str]) -> None:
    matches = compile_glob(glob)
    assert [text for text in matching if not matches(text)] == []
    assert [text for text in others if matches(text)] == []


@pytest.mark.parametrize("glob", ["[", "[]", "[!]", "a]", "{a", "{a,b", "a}", "{a]", "\\", "{" * 2000])
def test_what_is_no_glob_is_refused(glob: str) -> None:
    with pytest.raises(InvalidGlob, match="is no glob that can be used"):
        compile_glob(glob)


def test_case_counts_unless_it_is_ignored() -> None:
    assert not compile_glob("/a.S/*")("/A.s/M")
    assert compile_glob("/a.S/*", ignore_case=True)("/A.s/M")


@given(st.text(max_size=20), st.text(max_size=20))
def test_an_escaped_text_matches_itself_alone(text: str, other: str) -> None:
    glob = "".join("\\" + character for character in text)
    assert compile_glob(glob)(text)
    assert compile_glob(glob)(other) is (text == other)
    assert compile_glob(f"{glob}*")(text + other)
