"""Which ports open, change and close, without an engine: what must never happen when one of them cannot be opened."""

from __future__ import annotations

from dataclasses import replace

import pytest

from grpcgw.errors import UserError
from grpcgw.listeners.data_ports import NO_PORTS, DataPorts
from grpcgw.listeners.open_ports import OpenPort, PortFault, Ports, PortViews
from grpcgw.model.clients import ClientRules
from grpcgw.model.host_policy import HostPolicy
from grpcgw.model.listener import Listener, SecurityModel, ServerCertificate, Transport
from grpcgw.model.match import HostKind, HostMatch
from grpcgw.model.snapshot import Snapshot
from grpcgw.model.status import Reason
from grpcgw.model.tls_parameters import TlsParameters, TlsVersion
from grpcgw.policy.verdicts import Deny
from grpcgw.routing.host_rules import Entry, compile_rules

SELF_SIGNED = ServerCertificate("self-signed", ("*",), b"chain", b"key")
PLAIN = ServerCertificate("Host a", ("*",), b"chain", b"key")
ASKING = replace(PLAIN, client_ca=b"authority")


class FakePort:
    def __init__(self, listener: Listener, views: PortViews, engine: Engine) -> None:
        self._engine = engine
        self.number, self.views, self.certificates = listener.port, views, listener.certificates
        self.closed = 0
        self.fault = ""

    def set_certificates(self, certificates: tuple[ServerCertificate, ...]) -> None:
        if self._engine.fails:
            raise UserError("no")
        self.certificates = certificates

    def close(self) -> None:
        self.closed += 1


class Engine:
    """Opens ports and changes them, unless it fails."""

    def __init__(self) -> None:
        self.made: list[FakePort] = []
        self.fails = False
        self.ports = Ports(self._open)

    def _open(self, listener: Listener, views: PortViews) -> FakePort:
        if self.fails:
            raise UserError("no")
        self.made.append(FakePort(listener, views, self))
        return self.made[-1]


def tls(*certificates: ServerCertificate, **fields: object) -> Listener:
    return Listener("tls", 8443, Transport.TLS, SecurityModel.XFP, certificates=certificates, **fields)  # type: ignore[arg-type]


def test_a_port_that_takes_no_connections_is_not_open_and_says_why() -> None:
    engine = Engine()
    engine.ports.update([tls(PLAIN)])
    assert engine.ports.numbers() == (8443,)
    engine.made[0].fault = "its server died"
    assert engine.ports.numbers() == ()
    assert engine.ports.faults() == (PortFault("tls", "its server died"),)
    engine.made[0].fault = ""
    assert engine.ports.numbers() == (8443,)
    assert engine.ports.faults() == ()


def test_what_stays_is_not_opened_again() -> None:
    engine = Engine()
    for hosts in ((), (HostPolicy(None),)):
        assert engine.ports.update([tls(PLAIN, hosts=hosts)]) == ()
    assert [port.closed for port in engine.made] == [0]


def test_new_certificates_are_set_without_opening() -> None:
    engine = Engine()
    engine.ports.update([tls(PLAIN)])
    renewed = replace(PLAIN, certificate_chain=b"renewed")
    engine.ports.update([tls(renewed)])
    assert [port.certificates for port in engine.made] == [(renewed,)]


def test_a_port_that_a_refused_snapshot_had_retired_serves_again() -> None:
    """A worker that cannot serve a snapshot goes back to the ports of the one before."""
    engine = Engine()
    engine.ports.update([tls(PLAIN)])
    engine.ports.retire([])
    assert engine.made[0].views.tls.closing
    engine.ports.update([tls(PLAIN)])
    assert [(port.closed, port.views.tls.closing) for port in engine.made] == [(0, False)]


CHANGED = [
    tls(ASKING),
    tls(PLAIN, max_concurrent_streams=7),
    tls(PLAIN, idle_timeout_ms=1000),
    replace(tls(PLAIN), port=9443),
    replace(tls(), transport=Transport.CLEAR),
    replace(tls(PLAIN), transport=Transport.BOTH),
    tls(PLAIN, proxy_protocol=True),
]


def test_rpcs_over_tls_and_in_clear_text_see_the_same_port_differently() -> None:
    engine = Engine()
    engine.ports.update([replace(tls(ASKING), transport=Transport.BOTH)])
    views = engine.made[0].views
    views.limit_messages(7)
    secure, clear = views.view_of(tls=True), views.view_of(tls=False)
    assert [(one.tls, one.asks_clients) for one in (secure, clear)] == [(True, True), (False, False)]
    assert [(one.listener, one.max_message_bytes) for one in (secure, clear)] == [("tls", 7)] * 2
    engine.ports.retire([])
    assert secure.closing
    assert clear.closing


@pytest.mark.parametrize("after", CHANGED)
def test_what_grpc_settles_at_opening_is_opened_anew_before_the_old_one_closes(after: Listener) -> None:
    engine = Engine()
    engine.ports.update([tls(PLAIN)])
    engine.ports.update([after])
    assert [port.closed for port in engine.made] == [1, 0]


def test_a_port_that_must_ask_for_certificates_and_cannot_be_opened_so_is_closed() -> None:
    engine = Engine()
    engine.ports.update([tls(PLAIN)])
    engine.fails = True
    assert engine.ports.update([tls(ASKING)]) == (PortFault("tls", "no"),)
    assert [port.closed for port in engine.made] == [1]
    assert engine.ports.numbers() == ()


STRICTER = [
    (PLAIN, replace(ASKING, name="Host b", hosts=("b.example",))),
    (replace(PLAIN, parameters=TlsParameters(TlsVersion.TLS_1_3)),),
    (replace(ASKING, client_crl=b"list"),),
    (replace(ASKING, client_ca=b"other"),),
]


@pytest.mark.parametrize("after", STRICTER)
def test_a_port_that_cannot_demand_of_clients_what_it_must_is_closed(after: tuple[ServerCertificate, ...]) -> None:
    engine = Engine()
    engine.ports.update([tls(ASKING if after[0].client_ca else PLAIN)])
    engine.fails = True
    assert engine.ports.update([tls(*after)]) == (PortFault("tls", "no"),)
    assert [port.closed for port in engine.made] == [1]


def test_a_port_whose_certificates_cannot_be_set_keeps_the_old_if_clients_must_do_no_more() -> None:
    engine = Engine()
    engine.ports.update([tls(ASKING)])
    engine.fails = True
    assert engine.ports.update([tls(replace(ASKING, certificate_chain=b"renewed"))]) == (PortFault("tls", "no"),)
    assert [port.closed for port in engine.made] == [0]
    assert engine.ports.numbers() == (8443,)


def test_a_port_whose_limit_cannot_be_changed_keeps_the_old_one_until_it_can() -> None:
    engine = Engine()
    engine.ports.update([tls(PLAIN)])
    engine.fails = True
    assert engine.ports.update([tls(PLAIN, max_concurrent_streams=7)]) == (PortFault("tls", "no"),)
    assert [port.closed for port in engine.made] == [0]
    engine.fails = False
    assert engine.ports.update([tls(PLAIN, max_concurrent_streams=7)]) == ()
    assert [port.closed for port in engine.made] == [1, 0]


def bound(snapshot: Snapshot) -> tuple[Listener, ...]:
    ports = DataPorts("127.0.0.1", 0, 0, SELF_SIGNED)
    try:
        return ports.bind(snapshot)
    finally:
        ports.release()


def as_opened(snapshot: Snapshot) -> Snapshot:
    """As a worker serves it: with the ports that it opens."""
    return replace(snapshot, listeners=bound(snapshot))


def test_without_listeners_the_flags_are_the_ports() -> None:
    strict = HostPolicy(HostMatch(HostKind.EXACT, "a"), clear_text=False)
    clear, secure = bound(Snapshot("1", hosts=(strict,), certificates=(PLAIN,)))
    assert (clear.name, clear.certificates, clear.hosts) == ("--port", (), (strict, HostPolicy(None)))
    assert (secure.name, secure.certificates, secure.hosts) == ("--tls-port", (PLAIN,), clear.hosts)


def test_all_ports_have_the_modules_idle_timeout() -> None:
    flags = bound(Snapshot("1", client_idle_timeout_ms=1000))
    assert [port.idle_timeout_ms for port in flags] == [1000, 1000]
    free = Listener("Listener free.shop", flags[0].port, Transport.CLEAR, SecurityModel.XFP)
    (listener,) = bound(Snapshot("1", listeners=(free,), client_idle_timeout_ms=None))
    assert listener.idle_timeout_ms is None


def test_with_listeners_good_or_bad_the_flags_are_not_opened() -> None:
    assert bound(Snapshot("1", listeners=())) == ()


def test_a_tls_port_without_a_certificate_shows_a_self_signed_one() -> None:
    assert bound(Snapshot("1"))[-1].certificates == (SELF_SIGNED,)


def test_a_taken_port_is_a_fault_until_it_is_free() -> None:
    first = DataPorts("127.0.0.1", 0, None, SELF_SIGNED)
    (held,) = first.bind(Snapshot("1"))
    mine = Listener("Listener mine.shop", held.port, Transport.CLEAR, SecurityModel.XFP)
    second = DataPorts("127.0.0.1", None, None, SELF_SIGNED)
    assert second.bind(Snapshot("1", listeners=(mine,))) == ()
    (fault,) = second.faults
    assert fault.listener == mine.name
    assert fault.why.startswith(f"cannot listen on 127.0.0.1:{held.port}")
    first.release()
    assert second.bind(Snapshot("1", listeners=(mine,))) == (mine,)
    assert second.faults == ()
    second.release()


def test_an_address_of_another_machine_is_no_matter_of_ports() -> None:
    with pytest.raises(UserError, match=r"cannot listen on 192\.0\.2\.1:0: .*; choose another --address"):
        DataPorts("192.0.2.1", 0, None, SELF_SIGNED)


def refused(snapshot: Snapshot, listener: str = "--port", authority: str = "a", tls: bool = False) -> bool | None:
    """None: served; True: refused for its clear text."""
    rules = compile_rules(snapshot)
    assert rules is not None
    judged = rules.judge(Entry(listener, tls, authority, ()))
    return judged.reason is Reason.CLEAR_TEXT if isinstance(judged, Deny) else None


def test_an_unknown_name_is_judged_by_the_strictest_host() -> None:
    strict = as_opened(Snapshot("1", hosts=(HostPolicy(HostMatch(HostKind.EXACT, "a"), clear_text=False),)))
    assert [refused(strict, authority=name) for name in ("a", "b", "")] == [True, None, True]
    assert refused(strict, authority="", tls=True) is None


def test_a_port_that_no_listener_speaks_of_any_more_serves_nothing() -> None:
    strict = as_opened(Snapshot("1", hosts=(HostPolicy(None, clear_text=False),)))
    assert refused(strict, listener="Listener gone.shop", tls=True) is False
    assert refused(strict, listener="", tls=True) is None, "another program's port"


def test_a_port_that_could_not_be_changed_is_shown_as_it_is() -> None:
    engine = Engine()
    engine.ports.update([tls(PLAIN)])
    engine.fails = True
    engine.ports.update([replace(tls(PLAIN), port=9443)])
    assert engine.ports.list_open() == (OpenPort("tls", 8443, Transport.TLS),)


@pytest.mark.parametrize("listeners", [None, ()])
def test_a_gateway_without_any_port_has_a_fault(listeners: tuple[Listener, ...] | None) -> None:
    ports = DataPorts("127.0.0.1", None, None, SELF_SIGNED)
    ports.bind(Snapshot("1", listeners=listeners))
    assert ports.faults == (NO_PORTS,)
    ports.bind(Snapshot("1", listeners=(Listener("web", 0, Transport.CLEAR, SecurityModel.XFP),)))
    assert ports.faults == ()
    ports.release()


def test_all_ports_read_proxy_headers_where_the_module_says_so() -> None:
    rules = ClientRules(proxy_protocol=True)
    flags = bound(Snapshot("1", clients=rules))
    assert [port.proxy_protocol for port in flags] == [True, True]
    free = Listener("Listener free.shop", flags[0].port, Transport.CLEAR, SecurityModel.XFP)
    assert [port.proxy_protocol for port in bound(Snapshot("1", listeners=(free,), clients=rules))] == [True]
    assert [port.proxy_protocol for port in bound(Snapshot("1", listeners=(free,)))] == [False]


def test_the_port_of_the_rate_limit_service_is_there_beside_any_listeners_on_its_own_address() -> None:
    ports = DataPorts("127.0.0.1", None, None, SELF_SIGNED, ("127.0.0.2", 0))
    (service,) = ports.bind(Snapshot("1", listeners=()))
    assert (service.name, service.address, service.counts_for_others) == ("rate limit service", "127.0.0.2", True)
    assert ports.faults == ()
    free = Listener("Listener free.shop", 0, Transport.CLEAR, SecurityModel.XFP)
    _, again = ports.bind(Snapshot("2", listeners=(free,), client_idle_timeout_ms=5))
    assert again == replace(service, idle_timeout_ms=5)
    with pytest.raises(UserError, match=f"127.0.0.2:{service.port}"):
        DataPorts("127.0.0.1", None, None, SELF_SIGNED, ("127.0.0.2", service.port))
    ports.release()
