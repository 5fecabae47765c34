"""Certificates in files on the gateway's disk: which a TLSContext or Host names, and the objects they are read as.

Such an object stands beside the others in the store, of a kind that no cluster and no YAML file has. It holds the files
that are used together, so that they change together, in the form of a Secret: their content in `data`, by path, or why
there is none in `unreadable`. Knows nothing of what a certificate is; reading is `discovery.certificate_files`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

from grpcgw.ambassador.spec.host_specs import HostSpec, TLSContextSpec, TlsSettings
from grpcgw.ambassador.spec.parse import Findings, parse_spec
from grpcgw.model.objects import KubeObject, ObjectKey, Source

CERTIFICATE_FILES = "CertificateFiles"

_SEPARATOR = "\n"
"""Between the paths in a key: none holds it (`fields.FilePath`)."""


def name_key_pair_files(spec: TlsSettings) -> ObjectKey | None:
    """None: not both files are named."""
    if not spec.cert_chain_file or not spec.private_key_file:
        return None
    return _key_of(spec.cert_chain_file, spec.private_key_file)


def name_authorities_file(spec: TlsSettings) -> ObjectKey | None:
    return _key_of(spec.cacert_chain_file) if spec.cacert_chain_file else None


def find_named_files(obj: KubeObject) -> frozenset[ObjectKey] | None:
    """All that a TLSContext or Host names; None: it is too broken to tell (its compilation says why)."""
    findings = Findings(obj)
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


def list_paths(key: ObjectKey) -> list[str]:
    """Of a certificate chain and its private key, or of authorities alone."""
    return key.name.split(_SEPARATOR)


def make_object(key: ObjectKey, contents: Mapping[str, bytes], unreadable: Mapping[str, str]) -> KubeObject:
    """Each path of `key` is in one of the two: with what the file holds, or why it cannot be read."""
    data = {path: base64.b64encode(content).decode() for path, content in contents.items()}
    return KubeObject("", key, {"data": data, "unreadable": dict(unreadable)}, Source(", ".join(list_paths(key))))


def _key_of(*paths: str) -> ObjectKey:
    return ObjectKey(CERTIFICATE_FILES, "", _SEPARATOR.join(paths))
