"""KubernetesEndpointResolver: which pods stand behind a Service, and who is told when."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpcgw.discovery.resolvers.kubernetes_endpoints import EndpointsResolver, endpoints_of
from grpcgw.discovery.store import ObjectStore
from grpcgw.model.cluster import Addressing, Cluster, ResolverKind, ServiceRef
from grpcgw.model.endpoints import Endpoint, EndpointSet
from grpcgw.model.objects import KubeObject, ObjectKey, Source

SERVICE = ServiceRef("grpcserver", "there", 50051, "grpcserver.there")


def an_object(kind: str, body: dict[str, object], name: str = "grpcserver", namespace: str = "there") -> KubeObject:
    return KubeObject("v1", ObjectKey(kind, namespace, name), body, Source("test"))


def a_service(*ports: dict[str, object], **spec: object) -> KubeObject:
    return an_object("Service", {"spec": {"ports": list(ports or [{"port": 50051}]), **spec}})


def a_slice(
    addresses: Sequence[str],
    *,
    name: str = "grpcserver-abc",
    service: str = "grpcserver",
    ports: object = ({"name": "", "port": 8000},),
    family: str = "IPv4",
    conditions: object = None,
) -> KubeObject:
    labels = {"kubernetes.io/service-name": service}
    endpoints: list[object] = [
        {"addresses": [address], "conditions": conditions, "targetRef": {"kind": "Pod", "name": f"pod-{address}"}}
        for address in addresses
    ]
    body: dict[str, object] = {
        "metadata": {"labels": labels},
        "addressType": family,
        "endpoints": endpoints,
        "ports": list(ports) if isinstance(ports, tuple) else ports,
    }
    return an_object("EndpointSlice", body, name)


def an_endpoints(*subsets: dict[str, object]) -> KubeObject:
    return an_object("Endpoints", {"subsets": list(subsets)})


def a_subset(*ips: str, port: int = 8000, name: str | None = None, not_ready: Sequence[str] = ()) -> dict[str, object]:
    return {
        "addresses": [{"ip": ip, "targetRef": {"name": f"pod-{ip}"}} for ip in ips],
        "notReadyAddresses": [{"ip": ip} for ip in not_ready],
        "ports": [{"port": port} | ({"name": name} if name else {})],
    }


def shown(found: EndpointSet) -> list[str]:
    return [str(endpoint) for endpoint in found.endpoints]


def test_the_pods_port_is_the_slices_not_the_services() -> None:
    found = endpoints_of(SERVICE, a_service({"port": 50051, "targetPort": 9999}), [a_slice(["10.0.0.1"])], None)
    assert shown(found) == ["10.0.0.1:8000"]
    assert found.endpoints[0].name == "pod-10.0.0.1"
    assert found.error == ""


@pytest.mark.parametrize("target_port", ["grpc-in-pod", 8000, None])
def test_the_service_port_is_followed_by_its_name(target_port: object) -> None:
    service = a_service({"name": "web", "port": 80}, {"name": "grpc", "port": 50051, "targetPort": target_port})
    ports = ({"name": "web", "port": 8080}, {"name": "grpc", "port": 50000, "protocol": "TCP"})
    found = endpoints_of(SERVICE, service, [a_slice(["10.0.0.1"], ports=ports)], None)
    assert shown(found) == ["10.0.0.1:50000"]


def test_an_unnamed_port_matches_an_empty_a_null_and_an_absent_name() -> None:
    names: list[dict[str, object]] = [{"name": "", "port": 1}, {"name": None, "port": 2}, {"port": 3}]
    slices = [a_slice(["10.0.0.1"], name=str(n), ports=(port,)) for n, port in enumerate(names)]
    assert shown(endpoints_of(SERVICE, a_service(), slices, None)) == ["10.0.0.1:1", "10.0.0.1:2", "10.0.0.1:3"]


def test_all_slices_are_merged_sorted_and_without_duplicates() -> None:
    slices = [a_slice(["10.0.0.3", "10.0.0.1"], name="b"), a_slice(["10.0.0.1", "10.0.0.2"], name="a")]
    found = endpoints_of(SERVICE, a_service(), slices, None)
    assert shown(found) == ["10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000"]


def test_pods_of_one_service_may_have_different_ports_behind_one_name() -> None:
    service = a_service({"name": "grpc", "port": 50051})
    slices = [
        a_slice(["10.0.0.1"], name="a", ports=({"name": "grpc", "port": 1},)),
        a_slice(["10.0.0.2"], name="b", ports=({"name": "grpc", "port": 2},)),
    ]
    assert shown(endpoints_of(SERVICE, service, slices, None)) == ["10.0.0.1:1", "10.0.0.2:2"]


@pytest.mark.parametrize(
    ("conditions", "ready"),
    [
        (None, True),
        ({}, True),
        ({"ready": None}, True),
        ({"ready": True, "serving": True, "terminating": False}, True),
        ({"ready": False}, False),
        ({"ready": False, "serving": True}, False),
        ({"ready": False, "serving": True, "terminating": True}, False),
        ({"ready": True, "terminating": True}, False),
    ],
)
def test_only_ready_and_never_terminating_pods_count_beside_a_ready_one(conditions: object, ready: bool) -> None:
    slices = [a_slice(["10.0.0.1"], conditions=conditions), a_slice(["10.0.0.2"], name="another")]
    expected = ["10.0.0.1:8000", "10.0.0.2:8000"] if ready else ["10.0.0.2:8000"]
    assert shown(endpoints_of(SERVICE, a_service(), slices, None)) == expected


@pytest.mark.parametrize(
    ("conditions", "serves"),
    [
        ({"ready": False, "serving": True, "terminating": True}, True),
        ({"ready": False, "terminating": True}, True),
        ({"ready": True, "terminating": True}, True),
        ({"ready": False, "serving": False, "terminating": True}, False),
        ({"ready": False, "serving": True, "terminating": False}, False),
        ({"ready": False, "serving": True}, False),
        ({"ready": False}, False),
    ],
)
def test_pods_that_terminate_and_still_serve_are_taken_when_none_is_ready(conditions: object, serves: bool) -> None:
    """As for kube-proxy (KEP-1669)."""
    found = endpoints_of(SERVICE, a_service(), [a_slice(["10.0.0.1"], conditions=conditions)], None)
    assert found == EndpointSet((Endpoint("10.0.0.1", 8000),) if serves else ())


def test_ready_pods_without_the_port_do_not_count_as_ready() -> None:
    ending = {"ready": False, "serving": True, "terminating": True}
    slices = [
        a_slice(["10.0.0.1"], conditions=ending),
        a_slice(["10.0.0.2"], name="another", ports=({"name": "admin", "port": 8001},)),
    ]
    assert shown(endpoints_of(SERVICE, a_service(), slices, None)) == ["10.0.0.1:8000"]


def test_endpoints_serve_where_there_is_no_slice_with_all_subsets_and_no_unready_address() -> None:
    service = a_service({"name": "grpc", "port": 50051})
    endpoints = an_endpoints(
        a_subset("10.0.0.2", port=1, name="grpc", not_ready=["10.0.0.9"]), a_subset("10.0.0.1", port=2, name="grpc")
    )
    found = endpoints_of(SERVICE, service, [], endpoints)
    assert shown(found) == ["10.0.0.1:2", "10.0.0.2:1"]
    assert found.endpoints[0].name == "pod-10.0.0.1"


def test_a_slice_makes_endpoints_irrelevant_even_when_it_is_empty() -> None:
    assert endpoints_of(SERVICE, a_service(), [a_slice([])], an_endpoints(a_subset("10.0.0.1"))) == EndpointSet()


def test_endpoints_without_a_service_are_no_pods() -> None:
    found = endpoints_of(SERVICE, None, [a_slice(["10.0.0.1"])], an_endpoints(a_subset("10.0.0.1")))
    assert found == EndpointSet(error="no Service grpcserver in namespace there")


def test_a_port_the_service_does_not_have_is_an_error_that_lists_what_it_has() -> None:
    service = a_service({"name": "web", "port": 80}, {"port": 81}, {"name": "dns", "port": 50051, "protocol": "UDP"})
    found = endpoints_of(SERVICE, service, [a_slice(["10.0.0.1"])], None)
    assert found.endpoints == ()
    assert found.error == ("Service grpcserver in namespace there has no TCP port 50051; it has 80 (web), 81 (unnamed)")


def test_ready_pods_without_the_named_port_are_an_error() -> None:
    service = a_service({"name": "grpc", "port": 50051})
    found = endpoints_of(SERVICE, service, [a_slice(["10.0.0.1"])], None)
    assert found.endpoints == ()
    assert "none with a TCP port named 'grpc'" in found.error


def test_a_headless_service_without_ports_is_matched_by_the_pods_own_port_number() -> None:
    service = an_object("Service", {"spec": {"clusterIP": "None"}})
    ports = ({"name": "any", "port": 50051}, {"name": "other", "port": 9})
    assert shown(endpoints_of(SERVICE, service, [a_slice(["10.0.0.1"], ports=ports)], None)) == ["10.0.0.1:50051"]
    assert endpoints_of(SERVICE, service, [a_slice(["10.0.0.1"])], None).endpoints == ()


def test_an_external_name_tells_which_resolver_to_use() -> None:
    service = an_object("Service", {"spec": {"type": "ExternalName", "externalName": "api.example.com"}})
    found = endpoints_of(SERVICE, service, [], None)
    assert "api.example.com" in found.error
    assert "use a KubernetesServiceResolver" in found.error


def test_ipv6_slices_count_and_names_of_hosts_do_not() -> None:
    slices = [
        a_slice(["fd00:0:0::1"], name="six", family="IPv6"),
        a_slice(["10.0.0.1"], name="four"),
        a_slice(["pod.example.com"], name="fqdn", family="FQDN"),
    ]
    found = endpoints_of(SERVICE, a_service(), slices, None)
    assert shown(found) == ["10.0.0.1:8000", "[fd00::1]:8000"]
    assert "EndpointSlice fqdn" in found.error


def test_a_dual_stack_service_has_each_pod_once_by_its_first_family() -> None:
    slices = [a_slice(["fd00::1"], name="six", family="IPv6"), a_slice(["10.0.0.1"], name="four")]
    service = a_service(ipFamilies=["IPv6", "IPv4"])
    assert shown(endpoints_of(SERVICE, service, slices, None)) == ["[fd00::1]:8000"]


def of_pods(family: str, *pods: tuple[str, str], port: int = 8000, ready: bool = True) -> KubeObject:
    """A slice of pods, each with its uid and address."""
    endpoints: list[object] = [
        {"addresses": [address], "conditions": {"ready": ready}, "targetRef": {"kind": "Pod", "name": uid, "uid": uid}}
        for uid, address in pods
    ]
    labels, ports = {"kubernetes.io/service-name": "grpcserver"}, [{"name": "", "port": port}]
    body = {"metadata": {"labels": labels}, "addressType": family, "endpoints": endpoints, "ports": ports}
    return an_object("EndpointSlice", body, f"{family.lower()}-{port}")


def test_a_pod_of_a_dual_stack_service_has_its_other_address() -> None:
    """By its uid: neither the order of slices nor names tell which addresses are one pod's."""
    slices = [
        of_pods("IPv6", ("b", "fd00::1"), ("c", "fd00::3"), ("a", "fd00::2")),
        of_pods("IPv4", ("a", "10.0.0.1"), ("b", "10.0.0.2"), ("d", "10.0.0.4")),
    ]
    service = a_service(ipFamilies=["IPv4", "IPv6"])
    found = endpoints_of(SERVICE, service, slices, None)
    assert shown(found) == ["10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.4:8000"]
    assert found.other_addresses == ("fd00::2", "fd00::1", "")
    assert endpoints_of(SERVICE, service, slices, None, Addressing(ipv6=False)).other_addresses == ()
    assert endpoints_of(SERVICE, a_service(), slices, None).other_addresses == ()


def test_an_address_of_another_port_or_of_a_pod_that_is_not_ready_is_no_other_address() -> None:
    service = a_service(ipFamilies=["IPv4", "IPv6"])
    for other in (of_pods("IPv6", ("a", "fd00::1"), port=9), of_pods("IPv6", ("a", "fd00::1"), ready=False)):
        assert endpoints_of(SERVICE, service, [of_pods("IPv4", ("a", "10.0.0.1")), other], None).other_addresses == ()


@pytest.mark.parametrize(
    ("addressing", "addresses"),
    [
        (Addressing(ipv6=False), ["10.0.0.1:8000"]),
        (Addressing(ipv4=False), ["[fd00::1]:8000"]),
        (Addressing(), ["10.0.0.1:8000", "[fd00::1]:8000"]),
    ],
)
def test_only_pods_with_an_address_of_an_enabled_family_are_used(addressing: Addressing, addresses: list[str]) -> None:
    slices = [a_slice(["fd00::1"], name="six", family="IPv6"), a_slice(["10.0.0.1"], name="four")]
    assert shown(endpoints_of(SERVICE, a_service(), slices, None, addressing)) == addresses
    endpoints = an_endpoints(a_subset("fd00::1", "10.0.0.1"))
    assert shown(endpoints_of(SERVICE, a_service(), [], endpoints, addressing)) == addresses


def test_a_dual_stack_service_has_each_pod_by_its_first_enabled_family() -> None:
    slices = [a_slice(["fd00::1"], name="six", family="IPv6"), a_slice(["10.0.0.1"], name="four")]
    service = a_service(ipFamilies=["IPv6", "IPv4"])
    assert shown(endpoints_of(SERVICE, service, slices, None, Addressing(ipv6=False))) == ["10.0.0.1:8000"]


def test_pods_of_a_disabled_family_alone_are_an_error_that_names_the_field() -> None:
    found = endpoints_of(SERVICE, a_service(), [a_slice(["10.0.0.1"])], None, Addressing(ipv4=False))
    assert found.endpoints == ()
    assert found.error.endswith("has ready pods, but none with an IPv6 address, and enable_ipv4 is false")


def hinted(address: str, *zones: str, zone: str = "", name: str = "hinted") -> KubeObject:
    """A slice of one pod that is meant for `zones`."""
    hints = {"forZones": [{"name": zone} for zone in zones]}
    endpoints: list[object] = [{"addresses": [address], "hints": hints, "zone": zone}]
    labels = {"kubernetes.io/service-name": "grpcserver"}
    body: dict[str, object] = {"metadata": {"labels": labels}, "endpoints": endpoints, "ports": [{"port": 8000}]}
    return an_object("EndpointSlice", body, name)


def test_zones_and_zone_hints_are_read() -> None:
    slices = [hinted("10.0.0.2", "west", "east", zone="west", name="b"), hinted("10.0.0.1", "east", name="a")]
    found = endpoints_of(SERVICE, a_service(), slices, None)
    assert [endpoint.zone for endpoint in found.endpoints] == ["", "west"]
    assert found.zone_hints == (frozenset({"east"}), frozenset({"west", "east"}))


def test_hints_that_a_pod_lacks_are_no_hints() -> None:
    slices = [hinted("10.0.0.1", "east"), a_slice(["10.0.0.2"])]
    assert endpoints_of(SERVICE, a_service(), slices, None).zone_hints == ()


def test_new_hints_are_published_and_the_endpoints_stay_what_they_were() -> None:
    store = ObjectStore()
    store.replace("p", [a_service(), hinted("10.0.0.1", "east")])
    _, published = watched(store)
    store.apply("p", hinted("10.0.0.1", "west"))
    assert [found.zone_hints for found in published] == [(frozenset({"east"}),), (frozenset({"west"}),)]
    assert published[0].endpoints == published[1].endpoints


def test_clusters_of_one_service_have_the_families_they_enable() -> None:
    store = ObjectStore()
    six, four = a_slice(["fd00::1"], name="six", family="IPv6"), a_slice(["10.0.0.1"], name="four")
    store.replace("p", [a_service(), six, four])
    resolver, published = watched(store)
    narrowed: list[EndpointSet] = []
    resolver.watch(replace(cluster_of(SERVICE), addressing=Addressing(ipv6=False)), narrowed.append)
    store.apply("p", a_slice(["10.0.0.2"], name="four"))
    assert shown(published[-1]) == ["10.0.0.2:8000", "[fd00::1]:8000"]
    assert [shown(found) for found in narrowed] == [["10.0.0.1:8000"], ["10.0.0.2:8000"]]


FIELDS = (
    "spec ports port name protocol addressType endpoints addresses conditions ready targetRef subsets ip zone "
    "ipFamilies metadata labels hints forZones uid"
)
odd = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 70_000) | st.sampled_from(["", "grpc", "10.0.0.1", "::1", "IPv4", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS.split(" ")), inner, max_size=4),
    max_leaves=20,
)


@given(spec=odd, slices=st.lists(st.tuples(odd, odd, odd), max_size=3), subsets=odd, service=odd)
def test_odd_shapes_never_raise_and_the_result_is_sorted_and_unique(
    spec: object, slices: list[tuple[object, object, object]], subsets: object, service: object
) -> None:
    slice_objects = [
        an_object("EndpointSlice", {"addressType": family, "endpoints": endpoints, "ports": ports}, f"s{n}")
        for n, (family, endpoints, ports) in enumerate(slices)
    ]
    body: dict[str, object] = service if isinstance(service, dict) else {"spec": spec}
    for given_slices in (slice_objects, []):
        endpoints = an_object("Endpoints", {"subsets": subsets})
        found = endpoints_of(SERVICE, an_object("Service", body), given_slices, endpoints).endpoints
        assert list(found) == sorted(set(found))
        assert all(0 < endpoint.port < 65536 and endpoint.address for endpoint in found)


pods = st.lists(
    st.tuples(st.integers(1, 9), st.sampled_from([True, False, None]), st.sampled_from([True, False, None])), max_size=6
)


@given(st.lists(pods, max_size=3))
def test_exactly_the_ready_pods_of_all_slices_are_found_else_those_that_terminate(
    slices: list[list[tuple[int, bool | None, bool | None]]],
) -> None:
    objects = []
    expected, ending = set(), set()
    for number, pods_of_slice in enumerate(slices):
        endpoints = [
            {"addresses": [f"10.0.0.{host}"], "conditions": {"ready": ready, "terminating": terminating}}
            for host, ready, terminating in pods_of_slice
        ]
        body: dict[str, object] = {"addressType": "IPv4", "endpoints": endpoints, "ports": [{"port": 1}]}
        objects.append(an_object("EndpointSlice", body, f"s{number}"))
        expected |= {
            host for host, ready, terminating in pods_of_slice if ready is not False and terminating is not True
        }
        ending |= {host for host, _, terminating in pods_of_slice if terminating}
    expected = expected or ending
    found = endpoints_of(SERVICE, a_service(), objects, None)
    assert [str(endpoint) for endpoint in found.endpoints] == [f"10.0.0.{host}:1" for host in sorted(expected)]


def cluster_of(service: ServiceRef) -> Cluster:
    return Cluster(str(service), ResolverKind.KUBERNETES_ENDPOINT, "endpoint", service)


def watched(store: ObjectStore, service: ServiceRef = SERVICE) -> tuple[EndpointsResolver, list[EndpointSet]]:
    resolver = EndpointsResolver(store)
    published: list[EndpointSet] = []
    resolver.watch(cluster_of(service), published.append)
    return resolver, published


def test_a_watch_publishes_at_once_and_only_what_is_new() -> None:
    store = ObjectStore()
    _, published = watched(store)
    assert [found.error for found in published] == ["no Service grpcserver in namespace there"]

    store.replace("p", [a_service(), a_slice(["10.0.0.1"])])
    store.apply("p", a_slice(["10.0.0.1"], conditions={"ready": True}))
    assert [shown(found) for found in published[1:]] == [["10.0.0.1:8000"]]


def test_an_empty_set_is_published_when_the_last_pod_goes_not_ready() -> None:
    store = ObjectStore()
    store.replace("p", [a_service(), a_slice(["10.0.0.1"])])
    _, published = watched(store)

    store.apply("p", a_slice(["10.0.0.1"], conditions={"ready": False}))
    assert published[-1] == EndpointSet()


def test_a_deleted_slice_is_taken_from_the_service_it_belonged_to() -> None:
    store = ObjectStore()
    store.replace("p", [a_service(), a_slice(["10.0.0.1"], name="a"), a_slice(["10.0.0.2"], name="b")])
    _, published = watched(store)

    store.remove("p", ObjectKey("EndpointSlice", "there", "a"))
    assert shown(published[-1]) == ["10.0.0.2:8000"]


def test_a_slice_that_changes_its_label_leaves_one_service_and_joins_the_other() -> None:
    store = ObjectStore()
    store.replace(
        "p", [a_service(), an_object("Service", {"spec": {"ports": [{"port": 50051}]}}, "other"), a_slice(["10.0.0.1"])]
    )
    resolver, published = watched(store)
    others: list[EndpointSet] = []
    resolver.watch(cluster_of(ServiceRef("other", "there", 50051)), others.append)

    store.apply("p", a_slice(["10.0.0.1"], service="other"))
    assert published[-1] == EndpointSet()
    assert shown(others[-1]) == ["10.0.0.1:8000"]


def test_the_last_slice_gone_falls_back_to_endpoints() -> None:
    store = ObjectStore()
    store.replace("p", [a_service(), a_slice(["10.0.0.1"]), an_endpoints(a_subset("10.0.0.7"))])
    _, published = watched(store)

    store.remove("p", a_slice([]).key)
    assert shown(published[-1]) == ["10.0.0.7:8000"]


def test_a_change_is_not_told_to_watches_of_other_services_or_namespaces() -> None:
    store = ObjectStore()
    store.replace("p", [a_service(), a_slice(["10.0.0.1"])])
    _, published = watched(store)

    store.apply("p", a_slice(["10.0.0.2"], name="x", service="other"))
    store.apply("p", an_object("Service", {}, namespace="elsewhere"))
    assert len(published) == 1


def test_two_ports_of_one_service_are_watched_apart() -> None:
    store = ObjectStore()
    ports = ({"name": "a", "port": 1}, {"name": "b", "port": 2})
    store.replace("p", [a_service({"name": "a", "port": 50051}, {"name": "b", "port": 81})])
    resolver, published = watched(store)
    others: list[EndpointSet] = []
    resolver.watch(cluster_of(ServiceRef("grpcserver", "there", 81)), others.append)

    store.apply("p", a_slice(["10.0.0.1"], ports=ports))
    assert shown(published[-1]) == ["10.0.0.1:1"]
    assert shown(others[-1]) == ["10.0.0.1:2"]


def test_an_ended_watch_hears_nothing_even_when_it_ends_inside_a_publication() -> None:
    store = ObjectStore()
    resolver = EndpointsResolver(store)
    heard: list[str] = []
    second: list[EndpointSet] = []

    def publish(_: EndpointSet) -> None:
        heard.append("first")
        if len(heard) == 2:
            end_second()

    end_first = resolver.watch(cluster_of(SERVICE), publish)
    end_second = resolver.watch(cluster_of(SERVICE), second.append)
    store.replace("p", [a_service(), a_slice(["10.0.0.1"])])
    end_first()
    end_first()
    store.apply("p", a_slice(["10.0.0.2"]))

    assert heard == ["first", "first"]
    assert len(second) == 1


def test_a_hundred_changes_end_in_the_right_state() -> None:
    store = ObjectStore()
    store.replace("p", [a_service()])
    _, published = watched(store)

    for number in range(100):
        name = f"slice-{number % 7}"
        if number % 3 == 2:
            store.remove("p", ObjectKey("EndpointSlice", "there", name))
        else:
            store.apply("p", a_slice([f"10.0.0.{number}"], name=name))

    present = list(store.of_kind("EndpointSlice"))
    assert present
    assert published[-1] == endpoints_of(SERVICE, a_service(), present, None)
    assert len(published[-1].endpoints) == len(present)


def test_after_run_is_cancelled_nothing_is_published() -> None:
    store = ObjectStore()
    _, published = resolver_and_published = watched(store)

    async def start_and_cancel() -> None:
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(resolver_and_published[0].run())
            await asyncio.sleep(0)
            task.cancel()

    asyncio.run(start_and_cancel())
    store.replace("p", [a_service(), a_slice(["10.0.0.1"])])
    assert len(published) == 1
