"""Which certificate files on the gateway's disk a TLSContext or Host names."""

from __future__ import annotations

from grpcgw.ambassador.spec.host_specs import HostSpec, TLSContextSpec, TlsSettings
from grpcgw.ambassador.spec.parse import Findings, parse_spec
from grpcgw.model.certificate_objects import make_key
from grpcgw.model.objects import KubeObject, ObjectKey


def name_key_pair_files(spec: TlsSettings) -> ObjectKey | None:
    """None: not both files are named."""
    if not spec.cert_chain_file or not spec.private_key_file:
        return None
    return make_key(spec.cert_chain_file, spec.private_key_file)


def name_authorities_file(spec: TlsSettings) -> ObjectKey | None:
    return make_key(spec.cacert_chain_file) if spec.cacert_chain_file else None


def find_named_files(obj: KubeObject) -> frozenset[ObjectKey] | None:
    """All files that an object names; None: it is too broken to tell (its compilation says why)."""
    findings = Findings(obj)
    if obj.key.kind == "Filter":
        return frozenset()
    if obj.key.kind == "TLSContext":
        settings: TlsSettings | None = parse_spec(obj, TLSContextSpec, findings)
    else:
        host = parse_spec(obj, HostSpec, findings)
        settings = None if host is None else host.tls
    if findings.rejected:
        return None
    if settings is None:
        return frozenset()
    named = (name_key_pair_files(settings), name_authorities_file(settings))
    return frozenset(key for key in named if key is not None)
