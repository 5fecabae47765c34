"""Compiles the Module's keys about clients to ClientRules: ip_allow, ip_deny, trusted hops, metadata limits.

An unreadable entry of `ip_allow` is an error and left out; the others hold. If none is left, no client is allowed. An
unreadable entry of `ip_deny` cannot be left out: that version of the Module does not serve.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_network

from grpcgw.ambassador.spec.module_spec import ModuleConfig
from grpcgw.ambassador.spec.parse import Findings
from grpcgw.model.clients import (
    DEFAULT_CLIENT_RULES,
    AddressRule,
    CertificateDetail,
    CertificateForwarding,
    ClientRules,
    Underscores,
)

LARGEST_METADATA_KB = 64


def compile_client_rules(config: ModuleConfig, findings: Findings, first_bytes_hidden_by: str) -> ClientRules:
    """The client rules of `config`; errors are in `findings`, and leave out only the value with the error."""
    allow = None if config.ip_allow is None else tuple(_read_rules(config.ip_allow, findings, "ip_allow"))
    deny = tuple(_read_rules(config.ip_deny or (), findings, "ip_deny"))
    if config.ip_allow and config.ip_deny:
        findings.fault("ip_allow and ip_deny may not both be set; both hold now", "config", "ip_deny")
    if config.use_proxy_proto and first_bytes_hidden_by:
        findings.error(
            f"the {first_bytes_hidden_by} engine cannot read PROXY headers, and connections that begin with one fail;"
            " use the http2 engine, or switch it off here and in the load balancer, and let that say who the client is"
            " in x-forwarded-for",
            *("config", "use_proxy_proto"),
        )
    rules = ClientRules(
        use_remote_address=config.use_remote_address is not False,
        trusted_hops=config.xff_num_trusted_hops or 0,
        preserve_request_id=bool(config.preserve_external_request_id),
        underscores=Underscores(config.headers_with_underscores_action or Underscores.ALLOW),
        allow=allow if config.ip_allow else None,
        deny=deny,
        proxy_protocol=bool(config.use_proxy_proto),
        max_metadata_bytes=_read_limit(config, findings),
        certificates=_read_forwarding(config, findings),
        certificate_details=tuple(_read_details(config, findings)),
    )
    return DEFAULT_CLIENT_RULES if rules == DEFAULT_CLIENT_RULES else rules


def _read_rules(entries: Sequence[Mapping[str, object]], findings: Findings, key: str) -> Iterator[AddressRule]:
    report, outcome = (findings.error, "") if key == "ip_deny" else (findings.fault, "; this entry is left out")
    for index, entry in enumerate(entries):
        if len(entry) != 1 or not entry.keys() <= {"remote", "peer"}:
            found = ", ".join(entry) or "nothing"
            report(f"takes one of remote and peer, not {found}{outcome}", "config", key, index)
            continue
        ((who, network),) = entry.items()
        try:
            read = ip_network(str(network), strict=False)
            yield AddressRule(str(read), of_peer=who == "peer")
        except ValueError:
            report(
                f"{network!r} is no IP address or network (10.0.0.0/8){outcome}",
                *("config", key, index, who),
            )


def _read_forwarding(config: ModuleConfig, findings: Findings) -> CertificateForwarding:
    given = config.forward_client_cert_details
    try:
        return CertificateForwarding.SANITIZE if given is None else CertificateForwarding(given.lower())
    except ValueError:
        known = ", ".join(one.upper() for one in CertificateForwarding)
        findings.fault(
            f"{given!r} should be one of {known}; pods get no x-forwarded-client-cert",
            *("config", "forward_client_cert_details"),
        )
        return CertificateForwarding.SANITIZE


def _read_details(config: ModuleConfig, findings: Findings) -> Iterator[CertificateDetail]:
    given = config.set_current_client_cert_details or {}
    known = ", ".join(CertificateDetail)
    for name, wanted in given.items():
        if name not in list(CertificateDetail) or not isinstance(wanted, bool):
            findings.fault(
                f"should be true or false, of one of {known}; it is left out",
                *("config", "set_current_client_cert_details", name),
            )
        elif wanted:
            yield CertificateDetail(name)


def _read_limit(config: ModuleConfig, findings: Findings) -> int | None:
    kb = config.max_request_headers_kb
    if kb is None:
        return None
    if kb > LARGEST_METADATA_KB:
        findings.notice(
            f"more than {LARGEST_METADATA_KB} has no effect: grpc takes no more from a client",
            *("config", "max_request_headers_kb"),
        )
        return None
    return 1024 * kb
