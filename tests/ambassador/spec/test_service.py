"""The grammar of `service`: what is a Service, what is an address, and what is refused with its place."""

from __future__ import annotations

import ipaddress
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpcgw.ambassador.spec.service import InvalidService, ParsedService, parse_service
from grpcgw.model.cluster import ServiceRef


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("greet", ServiceRef("greet", "home", 80, "greet.home")),
        ("greet:50051", ServiceRef("greet", "home", 50051, "greet.home")),
        ("greet.shop", ServiceRef("greet", "shop", 80, "greet.shop")),
        ("greet.shop:50051", ServiceRef("greet", "shop", 50051, "greet.shop")),
        ("http://greet.shop", ServiceRef("greet", "shop", 80, "greet.shop")),
        ("grpc://greet.shop:1", ServiceRef("greet", "shop", 1, "greet.shop")),
        ("GRPC://Greet.Shop:65535", ServiceRef("greet", "shop", 65535, "greet.shop")),
        ("localhost:50051", ServiceRef("localhost", "home", 50051, "localhost")),
        ("api.example.com:443", ServiceRef("api", "example", 443, "api.example.com")),
    ],
)
def test_a_name_takes_its_parts_or_the_defaults(text: str, expected: ServiceRef) -> None:
    parsed = parse_service(text, "home")
    assert (parsed.service, parsed.tls, parsed.is_ip) == (expected, False, False)


@pytest.mark.parametrize(
    ("text", "port"), [("https://greet", 443), ("grpcs://greet", 443), ("https://greet:8443", 8443)]
)
def test_a_tls_scheme_is_told_and_moves_the_default_port(text: str, port: int) -> None:
    parsed = parse_service(text, "home")
    assert (parsed.tls, parsed.service.port) == (True, port)


@pytest.mark.parametrize(
    ("text", "ignored"),
    [
        ("greet.shop", ""),
        ("greet.shop.svc", ""),
        ("greet.shop.svc.cluster.local:50051", ""),
        ("greet.shop.svc.my.domain", ""),
        ("greet.shop.example.com", "example.com"),
    ],
)
def test_parts_beyond_the_namespace_are_told_unless_they_are_the_cluster_domain(text: str, ignored: str) -> None:
    parsed = parse_service(text, "home")
    assert parsed.ignored == ignored
    assert (parsed.service.name, parsed.service.namespace) == ("greet", "shop")
    assert parsed.service.hostname == text.partition(":")[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.1", ServiceRef("10.0.0.1", "", 80, "10.0.0.1")),
        ("10.0.0.1:50051", ServiceRef("10.0.0.1", "", 50051, "10.0.0.1")),
        ("[::1]:50051", ServiceRef("::1", "", 50051, "::1")),
        ("grpc://[2001:DB8::1]", ServiceRef("2001:db8::1", "", 80, "2001:db8::1")),
    ],
)
def test_an_ip_address_is_in_no_namespace(text: str, expected: ServiceRef) -> None:
    parsed = parse_service(text, "home")
    assert parsed.service == expected
    assert parsed.is_ip


@pytest.mark.parametrize(
    ("text", "reason", "position"),
    [
        ("", "names no host", 1),
        (":50051", "names no host", 1),
        ("http://", "names no host", 8),
        ("ftp://greet", "unknown scheme 'ftp'", 1),
        ("://greet", "unknown scheme ''", 1),
        ("greet:", "without a port", 6),
        ("greet:http", "bad port 'http'", 7),
        ("greet:0", "bad port '0'", 7),
        ("greet:65536", "bad port '65536'", 7),
        ("greet:-1", "bad port '-1'", 7),
        ("greet:+80", "bad port '+80'", 7),
        ("greet:٣", "bad port", 7),
        ("greet:x/path", "bad port 'x'", 7),
        ("http:///greet", "bad name part '/greet'", 8),
        ("unix:/run/greet", "ends in ':' without a port", 5),
        ("greet:80:90", "several colons", 1),
        ("::1", "in brackets", 1),
        (".greet", "a dot too many", 1),
        ("greet..", "a dot too many", 7),
        ("greet..shop", "a dot too many", 7),
        ("greet.shop..:50051", "a dot too many", 12),
        ("http://greet..shop:1", "a dot too many", 14),
        ("-greet", "bad name part '-greet'", 1),
        ("greet.sh op", "bad name part 'sh op'", 7),
        ("example.com}:443", "bad name part 'com}'", 9),
        ("a" * 64, "bad name part", 1),
        (".".join(["a" * 60] * 5), "at most 253", 1),
        ("\N{KELVIN SIGN}ube", "bad name part", 1),
        ("10.0.0.300:80", "neither an IPv4 address nor a name", 1),
        ("10.0.0", "neither an IPv4 address nor a name", 1),
        ("[::1:50051", "'[' without ']'", 1),
        ("[greet]:50051", "no IPv6 address", 2),
        ("[fe80::1%eth0]:1", "zone", 2),
        ("[::1]50051", "only :port may follow", 6),
        ("[::1]:", "without a port", 6),
    ],
)
def test_dots_ports_and_brackets_in_odd_places_are_refused_with_the_place(
    text: str, reason: str, position: int
) -> None:
    with pytest.raises(InvalidService) as caught:
        parse_service(text, "home")
    assert reason in str(caught.value)
    assert repr(text) in str(caught.value)
    assert str(caught.value).endswith(f"(character {position})")


LABEL = st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
PORT = st.integers(1, 65535)


@given(st.one_of(st.text(), st.text(alphabet=string.ascii_lowercase + "0123456789.:[]/-%")))
def test_any_text_is_a_service_or_an_invalid_one(text: str) -> None:
    try:
        parsed = parse_service(text, "home")
    except InvalidService:
        return
    assert 1 <= parsed.service.port <= 65535
    assert parsed.service.hostname


@given(name=LABEL, namespace=LABEL, port=PORT)
def test_a_printed_service_reads_back_as_itself(name: str, namespace: str, port: int) -> None:
    ref = ServiceRef(name, namespace, port, f"{name}.{namespace}")
    assert parse_service(str(ref), "elsewhere").service == ref


@given(address=st.ip_addresses(), port=PORT)
def test_a_printed_address_reads_back_as_itself(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int
) -> None:
    ref = ServiceRef(str(address), "", port, str(address))
    parsed = parse_service(str(ref), "elsewhere")
    assert parsed == ParsedService(ref, is_ip=True, qualified=True, port_given=True)


@pytest.mark.parametrize(
    ("text", "qualified", "port_given"),
    [
        ("greet", False, False),
        ("greet:1", False, True),
        ("greet.shop", True, False),
        ("https://greet:443", False, True),
    ],
)
def test_what_was_written_is_told_from_what_was_filled_in(text: str, qualified: bool, port_given: bool) -> None:
    parsed = parse_service(text, "home")
    assert (parsed.qualified, parsed.port_given) == (qualified, port_given)


def test_tls_asked_for_elsewhere_changes_the_default_port_alone() -> None:
    assert parse_service("greet", "home", tls=True).service.port == 443
    assert parse_service("greet:80", "home", tls=True).service.port == 80
    assert parse_service("greet", "home", tls=True).tls


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("grpc.shop.example.com:443", "grpc.shop.example.com:443"),
        ("greet", "greet.home:80"),
        ("greet.shop", "greet.shop:80"),
        ("localhost:1", "localhost:1"),
        ("10.0.0.1:1", "10.0.0.1:1"),
        ("[::1]:1", "[::1]:1"),
    ],
)
def test_a_service_is_shown_as_it_is_looked_up(text: str, shown: str) -> None:
    assert str(parse_service(text, "home").service) == shown


@pytest.mark.parametrize(
    ("text", "path"),
    [("http://greet:50051/", "/"), ("greet:50051/a/b", "/a/b"), ("https://[::1]:1/x", "/x"), ("greet:50051", "")],
)
def test_the_path_of_a_url_is_passed_over(text: str, path: str) -> None:
    parsed = parse_service(text, "home")
    assert parsed.path == path
    assert parsed.service == parse_service(text.removesuffix(path), "home").service
