"""The part of Go's templates that Filters use: what is written, and what is an error when the Filter is read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpcgw.model.go_template import HeaderOfRequest, TemplateError, parse_template
from grpcgw.model.go_values import Duration, Integer

CLAIMS = {
    "sub": "ann", "iat": 1516239022, "half": 0.5, "on": True, "off": False, "null": None, "empty": "",
    "groups": ["dev", "ops"], "realm": {"roles": ["a"], "n": 1}, "zero": 0,
}  # fmt: skip
DATA = {
    "token": {"Claims": CLAIMS, "Header": {"alg": "RS256", "typ": "JWT"}, "Raw": "a.b.c"},
    "httpRequestHeader": HeaderOfRequest(lambda name: {"x-tenant": "a"}.get(name.lower(), "")),
    "status_code": 401,
    "message": 'say "hi"',
    "wait": Duration.of_seconds(90.5),
    "none": Duration(0),
    "calls": Integer(2_000_000),
}


def render(text: str) -> str | None:
    return parse_template(text).render(DATA)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("", ""),
        ("plain } text {", "plain } text {"),
        ("{{ .token.Claims.sub }}", "ann"),
        ("{{.token.Claims.sub}}-{{.token.Header.alg}}", "ann-RS256"),
        ("{{ .token.Claims.absent }}", "<no value>"),
        ("{{ .token.Claims.null }}", "<no value>"),
        ("{{ .token.Claims.absent.roles }}", "<no value>"),
        (
            '{{ printf "%.0f %q %v" .token.Claims.absent .token.Claims.absent .token.Claims.null }}',
            "%!f(<nil>) %!q(<nil>) <nil>",
        ),
        ("{{ print .token.Claims.absent }}", "<nil>"),
        ("{{ .token.Claims.on }} {{ .token.Claims.off }}", "true false"),
        ("{{ .token.Claims.groups }}", "[dev ops]"),
        ("{{ .token.Claims.realm }}", "map[n:1 roles:[a]]"),
        ("{{ .token.Claims.iat }}", "1.516239022e+09"),
        ("{{ .token.Claims.half }}", "0.5"),
        ("{{ .calls }}", "2000000"),
        ("{{ .wait }} {{ .none }}", "1m30.5s 0s"),
        ("{{ .wait.Seconds }} {{ .wait.Milliseconds }} {{ .wait.String }}", "90.5 90500 1m30.5s"),
        ('{{ printf "%.0f" .wait.Seconds }} {{ printf "%d" .wait }}', "90 90500000000"),
        ("{{ if gt .wait 0 }}wait{{ end }}{{ if .none }}never{{ end }}", "wait"),
        ('{{ printf "%.0f" .token.Claims.iat }}', "1516239022"),
        ('{{ printf "%q and %s, %d%%" .token.Claims.sub .token.Claims.sub 7 }}', '"ann" and ann, 7%'),
        ('{{ printf "%v" .token.Claims.groups }}', "[dev ops]"),
        ('{{ index .token.Claims "sub" }}', "ann"),
        ("{{ index .token.Claims.groups 1 }}", "ops"),
        ('{{ (index .token.Claims "realm").n }}', "1"),
        ("{{ len .token.Claims.groups }}", "2"),
        ('{{ print "a" 1 }}', "a1"),
        ("{{ .token.Claims.sub | print }}", "ann"),
        ("{{ `raw \\n` }}", "raw \\n"),
        ('{{ "a\\tb}}" }}', "a\tb}}"),
        ('{{ .httpRequestHeader.Get "X-Tenant" }}', "a"),
        ('{{ .httpRequestHeader.Get "X-Absent" }}', ""),
        ('{{ json "" .token.Claims.sub }}', '"ann"'),
        ('{{ .message | json "" }}', '"say \\"hi\\""'),
        ('{{ json "indent>" "value" }}', 'indent>"value"'),
        ("{{ if .token.Claims.on }}yes{{ end }}", "yes"),
        ("{{ if .token.Claims.zero }}yes{{ else }}no{{ end }}", "no"),
        ("{{ if .token.Claims.empty }}a{{ else if .token.Claims.on }}b{{ else }}c{{ end }}d", "bd"),
        ("{{ if .token.Claims.on }}{{ if .token.Claims.off }}a{{ else }}b{{ end }}c{{ end }}", "bc"),
        ('{{ if eq .token.Claims.sub "bob" "ann" }}a{{ end }}', "a"),
        ('{{ if and (ne .token.Claims.sub "bob") (gt .token.Claims.iat 5) }}a{{ end }}', "a"),
        ("{{ if or .token.Claims.off .token.Claims.sub }}a{{ end }}", "a"),
        ('{{ if hasKey .token.Claims "absent" | not }}a{{ end }}', "a"),
        ("{{ if lt .token.Claims.half 1 }}{{ if le 1 1 }}{{ if ge 2 1 }}a{{ end }}{{ end }}{{ end }}", "a"),
        ("a  {{- 1 -}}  b", "a1b"),
        ("a {{ 1 }} b", "a 1 b"),
        ("a{{/* a comment */}}b", "ab"),
        ("{\n {{- if .message }}\n x {{ end -}}\n}", "{\n x }"),
    ],
)
def test_what_is_written(text: str, written: str) -> None:
    assert render(text) == written


def test_do_not_set_discards_the_whole() -> None:
    assert render("a{{ doNotSet }}b") is None
    assert render('{{ if hasKey .token.Claims "sub" }}a{{ else }}{{ doNotSet }}{{ end }}') == "a"
    assert render('{{ if hasKey .token.Claims "x" | not }}{{ doNotSet }}{{ end }}{{ .token.Claims.x }}') is None


@pytest.mark.parametrize(
    "text",
    [
        "{{", "{{ }}", "{{ .a", "{{ end }}", "{{ else }}", "{{ if .a }}", "{{ if .a }}{{ else }}", "{{ if }}a{{ end }}",
        "{{ range .a }}{{ end }}", "{{ with .a }}{{ end }}", '{{ template "x" }}', "{{ $x := 1 }}", "{{ unknown 1 }}",
        "{{ .a | .b }}", "{{ .a .b }}", "{{ (.a }}", "{{ .a) }}", "{{ 'a' }}", "{{ | }}", '{{ "\\x41" }}',
        "{{ " + "(" * 30 + "1" + ")" * 30 + " }}", "{{ if .a }}" * 30 + "{{ end }}" * 30,
    ],
)  # fmt: skip
def test_what_is_no_template_or_needs_more_of_go_is_an_error(text: str) -> None:
    with pytest.raises(TemplateError):
        parse_template(text)


@pytest.mark.parametrize(
    "text",
    [
        "{{ .token.Claims.sub.x }}", '{{ index .token.Claims.sub "x" }}',
        "{{ index .token.Claims.groups 9 }}", "{{ index .token.Claims.groups -1 }}", '{{ printf "%x" 1 }}',
        '{{ printf "%d" }}', '{{ printf "%d" "a" }}', '{{ printf "" 1 }}', "{{ len 1 }}", '{{ eq "a" 1 }}',
        "{{ not }}", "{{ not 1 2 }}", '{{ hasKey "a" "b" }}', '{{ .token.Get "a" }}', "{{ .httpRequestHeader.Get 1 }}",
        "{{ and }}", "{{ json 1 }}", "{{ lt true 1 }}",
    ],
)  # fmt: skip
def test_what_does_not_fit_the_values_is_an_error_without_them(text: str) -> None:
    with pytest.raises(TemplateError) as error:
        render(text)
    assert "ann" not in str(error.value)


def test_the_fields_that_a_template_reads() -> None:
    text = '{{ if .message }}{{ .token.Raw }}{{ else }}{{ (index .error "x").y | json "" }}{{ end }}'
    assert parse_template(text).fields() == {"message", "token", "error"}
    assert parse_template("{{ . | json `` }}").fields() == {""}
    assert parse_template("a").fields() == frozenset()


@given(st.text(alphabet='{}"`()|. -$ifelsendx1\\/*', max_size=60))
def test_any_text_is_parsed_and_rendered_or_an_error(text: str) -> None:
    try:
        parse_template(text).render(DATA)
    except TemplateError:
        return
