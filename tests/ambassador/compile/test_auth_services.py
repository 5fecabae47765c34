"""AuthServices: the policy that they are, the Mappings that they protect, and what becomes of bad ones."""

from __future__ import annotations

import pytest

from grpcgw.model.codes import Code
from grpcgw.model.ext_authz import MAX_INCLUDED_BYTES, AnswerCaching, AuthProtocol, ExtAuthzSettings, IncludedMessage
from grpcgw.model.objects import KubeObject, Severity
from grpcgw.model.resilience import CircuitBreaker
from grpcgw.model.route_source import Compiled, CompileOptions
from tests.compiling import compile_objects, destinations, guard_of, mapping, module, obj, said

WITHOUT = CompileOptions(serve_without_auth=True)
GRPC = {"proto": "grpc", "protocol_version": "v3"}


def auth(name: str = "auth", **fields: object) -> KubeObject:
    given = {"auth_service": "auth:50051", **GRPC, **fields}
    return obj("AuthService", name, {key: value for key, value in given.items() if value is not None})


def policies(compiled: Compiled) -> dict[str, ExtAuthzSettings | None]:
    found = {label: one.policies for label, one in destinations(compiled).items()}
    assert all(isinstance(one, ExtAuthzSettings) for each in found.values() for one in each)
    return {label: each[0] if each else None for label, each in found.items()}  # type: ignore[misc]


def only_policy(*objects: KubeObject) -> ExtAuthzSettings:
    compiled = compile_objects(*objects, mapping())
    assert said(compiled, Severity.ERROR) == []
    (found,) = policies(compiled).values()
    assert found is not None
    return found


def guarded(compiled: Compiled) -> dict[str, str]:
    return {label: guard_of(one) for label, one in destinations(compiled).items()}


@pytest.mark.parametrize("api", ["getambassador.io/v1", "getambassador.io/v2", "getambassador.io/v3alpha1"])
def test_every_mapping_is_asked_about_but_those_that_bypass_it(api: str) -> None:
    service = obj("AuthService", "auth", {"auth_service": "auth:50051", **GRPC}, api=api)
    others = mapping("open", prefix="/open.S/", bypass_auth=True), mapping("far", "other", prefix="/far.S/")
    compiled = compile_objects(service, mapping(), *others)
    found = policies(compiled)
    assert found["open.shop"] is None
    assert found["greet.shop"] == found["far.other"]
    settings = found["greet.shop"]
    assert settings is not None
    assert (settings.name, settings.protocol) == ("AuthService auth.shop", AuthProtocol.GRPC)
    assert (settings.timeout_ms, settings.failure_mode_allow, settings.code_on_error) == (5000, False, None)
    (upstream,) = settings.upstreams
    cluster = compiled.snapshot.clusters[upstream.clusters[0].cluster]
    assert (cluster.service.name, cluster.service.port) == ("auth", 50051)


def test_an_auth_service_of_another_gateway_protects_nothing() -> None:
    compiled = compile_objects(auth(ambassador_id=["other"]), mapping())
    assert policies(compiled) == {"greet.shop": None}
    assert said(compiled) == []


EDGE_STACKS = {"auth_service": "127.0.0.1:8500", "status_on_error": {"code": 503}, "allow_request_body": False}


@pytest.mark.parametrize(
    ("name", "labels"), [("ambassador-edge-stack-auth", {}), ("edge-stack-auth", {}), ("auth", {"product": "aes"})]
)
def test_the_one_that_edge_stack_installs_for_its_filters_is_not_asked(name: str, labels: dict[str, str]) -> None:
    given = obj("AuthService", name, {**EDGE_STACKS, **GRPC}, metadata={"labels": labels})
    compiled = compile_objects(given, mapping())
    assert policies(compiled) == {"greet.shop": None}
    (notice,) = said(compiled)
    assert (
        f"notice: AuthService {name}.shop spec.auth_service: has no effect: it is the service of Edge Stack" in notice
    )


@pytest.mark.parametrize(
    "given", [auth("sidecar", **EDGE_STACKS), auth("edge-stack-auth", **{**EDGE_STACKS, "auth_service": "auth:8500"})]
)
def test_another_one_at_its_address_or_of_its_name_is_asked(given: KubeObject) -> None:
    assert only_policy(given).name == str(given.key)


def test_its_fields_become_settings() -> None:
    settings = only_policy(
        auth(
            timeout_ms=250,
            failure_mode_allow=True,
            status_on_error={"code": 503},
            include_body={"max_bytes": 100, "allow_partial": True},
            add_auth_headers={"X-Gateway": "a", "x-internal": True},
            circuit_breakers=[{"max_requests": 5}],
            stats_name="who",
        )
    )
    assert (settings.timeout_ms, settings.failure_mode_allow, settings.code_on_error) == (250, True, Code.UNAVAILABLE)
    assert settings.message == IncludedMessage(100, True)
    assert settings.added_metadata == (("x-gateway", "a"), ("x-internal", "true"))
    assert settings.upstreams[0].circuit_breakers == (CircuitBreaker(max_requests=5),)
    assert settings.upstreams[0].stats_name == "who"


def test_allow_request_body_is_a_part_of_the_body() -> None:
    assert only_policy(auth(allow_request_body=True)).message == IncludedMessage(4096, True)
    assert only_policy(auth(allow_request_body=False)).message is None


def test_a_huge_body_is_cut_to_what_the_gateway_holds() -> None:
    compiled = compile_objects(auth(include_body={"max_bytes": 2**30}), mapping())
    assert "at most 1048576 bytes" in said(compiled, Severity.NOTICE)[0]
    settings = policies(compiled)["greet.shop"]
    assert settings is not None
    assert settings.message == IncludedMessage(MAX_INCLUDED_BYTES)


@pytest.mark.parametrize(("version", "used"), [("v2", "v2"), ("v3", "v3")])
def test_v2_is_the_same_under_another_name(version: str, used: str) -> None:
    assert only_policy(auth(protocol_version=version)).api_version == used


def test_without_a_version_it_is_v3_and_a_notice() -> None:
    compiled = compile_objects(auth(protocol_version=None), mapping())
    (notice,) = said(compiled)
    assert "notice: AuthService auth.shop spec.proto: calls envoy.service.auth.v3" in notice


def test_http_is_the_default_protocol() -> None:
    settings = only_policy(
        auth(
            proto=None,
            protocol_version=None,
            path_prefix="/check",
            allowed_request_headers=["X-Key", "x-key"],
            allowed_authorization_headers=["X-User"],
        )
    )
    assert (settings.protocol, settings.path_prefix) == (AuthProtocol.HTTP, "/check")
    assert settings.allowed_request_headers == ("x-key",)
    assert settings.allowed_authorization_headers == ("x-user",)


@pytest.mark.parametrize(
    ("given", "taken"),
    [("check", "/check"), ("/check?call=", "/check?call="), ("check/", "/check/"), ("", ""), ("/", "/")],
)
def test_the_path_begins_with_a_slash(given: str, taken: str) -> None:
    assert only_policy(auth(proto=None, protocol_version=None, path_prefix=given)).path_prefix == taken


def test_the_code_on_error_is_ambassadors_where_none_is_given() -> None:
    assert only_policy(auth(status_on_error={})).code_on_error == Code.PERMISSION_DENIED


def test_without_a_limit_an_answer_may_take_five_minutes() -> None:
    """Envoy, which Ambassador gives it to, waits for ever."""
    assert only_policy(auth(timeout_ms=0)).timeout_ms == 300_000


def test_what_a_grpc_service_does_not_need_is_a_notice() -> None:
    compiled = compile_objects(auth(allowed_request_headers=["x-a"], path_prefix="/x", add_linkerd_headers=True))
    assert [one.partition(" has no effect")[0].rpartition("spec.")[2] for one in said(compiled, Severity.NOTICE)] == [
        "add_linkerd_headers:",
        "allowed_request_headers:",
        "path_prefix:",
    ]


def test_a_mapping_may_say_more_to_the_service() -> None:
    compiled = compile_objects(auth(), mapping(auth_context_extensions={"tier": "gold", "a": "b"}))
    settings = policies(compiled)["greet.shop"]
    assert settings is not None
    assert settings.context_extensions == (("a", "b"), ("tier", "gold"))


def test_answers_are_kept_if_asked_for() -> None:
    cache = {"headers": ["Authorization"], "max_age_ms": 500}
    assert only_policy(auth()).caching is None
    assert only_policy(auth(cache=cache)).caching == AnswerCaching(("authorization",), 500, 10_000)
    compiled = compile_objects(auth(cache=cache, allow_request_body=True), mapping())
    assert "answers cannot be kept where the service looks at messages" in said(compiled, Severity.ERROR)[0]


def test_the_service_is_found_by_the_modules_resolver_or_its_own() -> None:
    for objects in ((auth(), module(resolver="endpoint")), (auth(resolver="endpoint"),)):
        compiled = compile_objects(*objects, mapping())
        settings = policies(compiled)["greet.shop"]
        assert settings is not None
        assert (
            compiled.snapshot.clusters[settings.upstreams[0].clusters[0].cluster].resolver
            == "KubernetesEndpointResolver"
        )


def test_several_that_agree_take_turns() -> None:
    settings = only_policy(auth("one"), auth("two", auth_service="two:50051"), auth("three", auth_service="two:50051"))
    assert [one.key.name for one in settings.upstreams] == ["one", "three"]


def test_one_that_disagrees_is_left_out() -> None:
    compiled = compile_objects(auth("one"), auth("two", auth_service="two:50051", timeout_ms=1), mapping())
    (error,) = said(compiled, Severity.ERROR)
    assert "AuthService two.shop: differs from AuthService one.shop in more than its service" in error
    settings = policies(compiled)["greet.shop"]
    assert settings is not None
    assert len(settings.upstreams) == 1


BAD: list[dict[str, object]] = [
    {"auth_service": None},
    {"auth_service": "auth:99999"},
    {"proto": "soap"},
    {"timeout_ms": "5s"},
    {"tls": "nowhere"},
    {"resolver": "nowhere"},
    {"add_auth_headers": {":path": "/"}},
    {"add_auth_headers": {"x-a": "two\nlines"}},
    {"add_auth_headers": {"x-bin": "AAE"}},
    {"typo": 1},
    {"proto": "http", "protocol_version": None, "path_prefix": "/a b"},
    {"proto": "http", "protocol_version": None, "path_prefix": "/a#b"},
]


@pytest.mark.parametrize("fields", BAD, ids=str)
def test_a_bad_one_refuses_what_it_would_protect(fields: dict[str, object]) -> None:
    objects = auth(**fields), mapping(), mapping("open", prefix="/open.S/", bypass_auth=True)
    compiled = compile_objects(*objects)
    assert guarded(compiled) == {"greet.shop": "AuthService auth.shop", "open.shop": ""}
    (error,) = said(compiled, Severity.ERROR)
    assert "the calls of the Mappings without bypass_auth are refused" in error
    served = compile_objects(*objects, options=WITHOUT)
    assert guarded(served) == {"greet.shop": "", "open.shop": ""}
    assert "calls are not authenticated (--serve-without-auth)" in said(served, Severity.ERROR)[0]


@pytest.mark.parametrize("fields", BAD, ids=str)
def test_a_bad_change_leaves_the_last_good_version_in_force(fields: dict[str, object]) -> None:
    before = compile_objects(auth(), mapping())
    after = compile_objects(auth(**fields), mapping(), last=before)
    assert policies(after) == policies(before)
    assert "the last good version keeps serving" in said(after, Severity.ERROR)[0]


def test_a_good_one_beside_a_bad_one_does_not_let_calls_in() -> None:
    compiled = compile_objects(auth(), auth("bad", proto="soap"), mapping())
    assert guarded(compiled) == {"greet.shop": "AuthService bad.shop"}


def test_the_module_of_ambassador_0_is_an_auth_service() -> None:
    config = {"auth_service": "auth:80", "allowed_headers": ["x-user"], "weight": 50}
    old = obj("Module", "authentication", {"config": config}, api="ambassador/v1")
    compiled = compile_objects(old, mapping(), mapping("open", prefix="/open.S/", bypass_auth=True))
    assert said(compiled, Severity.ERROR) == []
    found = policies(compiled)
    assert found["open.shop"] is None
    assert found["greet.shop"] is not None
    assert found["greet.shop"].name == "Module authentication.shop"
    assert found["greet.shop"].allowed_authorization_headers == ("x-user",)


def test_a_bad_module_of_ambassador_0_refuses_too() -> None:
    old = obj("Module", "authentication", {"config": {"auth_service": 5}}, api="ambassador/v1")
    assert guarded(compile_objects(old, mapping())) == {"greet.shop": "Module authentication.shop"}


def test_one_that_comes_and_goes_protects_while_it_is_there() -> None:
    without = compile_objects(mapping())
    within = compile_objects(mapping(), auth(), last=without)
    assert within.snapshot.version != without.snapshot.version
    assert compile_objects(mapping(), last=within).snapshot == without.snapshot


def test_a_header_that_connections_set_is_not_added() -> None:
    compiled = compile_objects(auth(add_auth_headers={"te": "x", "x-a": "100%"}), mapping())
    settings = policies(compiled)["greet.shop"]
    assert settings is not None
    assert settings.added_metadata == (("x-a", "100%"),)
    assert "has no effect: each connection sets it" in said(compiled)[0]


def test_a_header_for_the_service_may_be_a_password_and_is_never_shown() -> None:
    before = compile_objects(auth(add_auth_headers={"x-password": "hunter2"}), mapping())
    after = compile_objects(auth(add_auth_headers={"x-password": "hunter3"}), mapping())
    assert "hunter" not in repr(before.snapshot)
    assert before.snapshot.version != after.snapshot.version
    settings = policies(before)["greet.shop"]
    assert settings is not None
    assert settings.added_metadata == (("x-password", "hunter2"),)
