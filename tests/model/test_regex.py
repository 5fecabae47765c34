"""RE2 patterns and durations: what is read, and what is refused with a reason."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpcgw.ambassador.spec.durations import InvalidDuration, parse_duration_ms
from grpcgw.model.regex import FullRegex, InvalidRegex, Replacement, check_regex

PIECE = st.sampled_from(["a", "b", "/", "[.]", "(a|b)", "a*", "b?", "[ab]+", ".*", "(?i)a", "é", "a{2,3}", "^", "$"])
PATTERN = st.lists(PIECE, max_size=6).map("".join)


@given(pattern=PATTERN, text=st.text(alphabet="abAB/.é", max_size=8))
def test_everything_a_pattern_matches_begins_with_its_literal_prefix(pattern: str, text: str) -> None:
    regex = FullRegex(pattern)
    if regex.matches(text):
        assert text.startswith(regex.literal_prefix())


@pytest.mark.parametrize(("pattern", "prefix"), [("/pkg[.]Service/.*", "/pkg.Service/"), (".*", ""), ("(?i)/Ab", "/")])
def test_a_literal_prefix_is_found_where_there_is_one(pattern: str, prefix: str) -> None:
    assert FullRegex(pattern).literal_prefix() == prefix


@pytest.mark.parametrize(
    ("pattern", "substitution", "text", "replaced"),
    [
        ("/v1[.](.*)", r"/v2.\1", "/v1.Service/Method", "/v2.Service/Method"),
        ("a(b)?", r"[\0\1]", "aab", "[a][abb]"),
        ("a", r"\\", "aa", "\\\\"),
        ("x", "y", "/é", "/é"),
        ("", "-", "ab", "-a-b-"),
    ],
)
def test_every_match_is_replaced(pattern: str, substitution: str, text: str, replaced: str) -> None:
    assert Replacement(pattern, substitution).apply(text) == replaced


@pytest.mark.parametrize("substitution", [r"\2", r"\x", "\\"])
def test_a_substitution_that_means_nothing_is_refused(substitution: str) -> None:
    with pytest.raises(InvalidRegex):
        Replacement("(a)", substitution)


def test_no_pattern_can_stall_the_gateway() -> None:
    assert not FullRegex("(a|aa)+b").matches("a" * 50_000)


def test_a_pattern_larger_than_allowed_is_refused_with_its_size() -> None:
    check_regex("/a.*", max_size=200)
    with pytest.raises(InvalidRegex, match="more than the 10 allowed"):
        check_regex("/abcdefgh.*", max_size=10)


@pytest.mark.parametrize(
    ("text", "duration_ms"),
    [
        ("3s", 3_000),
        ("1500ms", 1_500),
        ("0.5s", 500),
        ("1m30s", 90_000),
        ("2h", 7_200_000),
        ("0s", 0),
        ("0", 0),
        ("0.1ms", 1),
    ],
)
def test_durations(text: str, duration_ms: int) -> None:
    assert parse_duration_ms(text) == duration_ms


@pytest.mark.parametrize("text", ["", "3", "00", "3 s", "s", "-1s", "1d", "1s!", "1e3s", "99999h", "\u0663s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidDuration):
        parse_duration_ms(text)
