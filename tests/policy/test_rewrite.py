"""What the pod gets for the client's path and authority."""

from __future__ import annotations

import pytest

from grpcgw.model.edits import RegexRewrite
from grpcgw.model.match import MatchKind, PathMatch
from grpcgw.model.objects import ObjectKey
from grpcgw.model.regex import InvalidRegex
from grpcgw.model.route import Destination
from grpcgw.policy.rewrite import compile_rewrite

PREFIX = PathMatch(MatchKind.PREFIX, "/old.Greeter/")
PATH = "/old.Greeter/Greet"


def make_destination(
    rewrite: str | None = None, regex: tuple[str, str] | None = None, authority: str = ""
) -> Destination:
    return Destination(
        ObjectKey("Mapping", "default", "greet"),
        (),
        rewrite=rewrite,
        regex_rewrite=RegexRewrite(*regex) if regex else None,
        authority=authority,
    )


@pytest.mark.parametrize(
    ("match", "rewrite", "expected"),
    [
        (PREFIX, "/new.Greeter/", "/new.Greeter/Greet"),
        (PREFIX, "/", "/Greet"),
        (PREFIX, "/old.Greeter/", PATH),
        (PathMatch(MatchKind.EXACT, PATH), "/new.Greeter/Hello", "/new.Greeter/Hello"),
    ],
)
def test_the_matched_part_of_the_path_is_replaced(match: PathMatch, rewrite: str, expected: str) -> None:
    compiled = compile_rewrite(match, make_destination(rewrite))
    assert compiled is not None
    assert compiled(PATH) == expected


def test_without_rewrite_there_is_nothing_to_call() -> None:
    assert compile_rewrite(PREFIX, make_destination()) is None
    assert compile_rewrite(PathMatch(MatchKind.REGEX, "/.*"), make_destination("/x/")) is None


def test_a_regular_expression_wins_and_replaces_every_match() -> None:
    compiled = compile_rewrite(PREFIX, make_destination("/never/", (r"([a-z]+)\.([A-Z]\w+)", r"v2.\1.\2")))
    assert compiled is not None
    assert compiled("/old.Greeter/old.Greet") == "/v2.old.Greeter/v2.old.Greet"
    assert compiled("/OTHER/") == "/OTHER/"


def test_a_regular_expression_serves_a_regular_match() -> None:
    compiled = compile_rewrite(PathMatch(MatchKind.REGEX, "/v1/.*"), make_destination(None, ("^/v1", "")))
    assert compiled is not None
    assert compiled("/v1/greet.GrpcService/Greet") == "/greet.GrpcService/Greet"


def test_a_substitution_that_names_no_group_is_refused() -> None:
    with pytest.raises(InvalidRegex):
        compile_rewrite(PREFIX, make_destination(None, ("a", r"\1")))


def test_a_path_that_is_no_text_is_rewritten_all_the_same() -> None:
    compiled = compile_rewrite(PREFIX, make_destination(None, ("^/old", "/new")))
    assert compiled is not None
    assert compiled("/old\ud800").startswith("/new")
