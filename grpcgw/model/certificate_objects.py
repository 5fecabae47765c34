"""Certificates in files on the gateway's disk, as objects: their keys and their content.

Such an object stands beside the others in the store, of a kind that no cluster and no YAML file has. It holds the files
that are used together, so that they change together, in the form of a Secret: their content in `data`, by path, or why
there is none in `unreadable`. `discovery.sources.certificate_files` reads the files; a dialect says which are named.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

from grpcgw.model.objects import KubeObject, ObjectKey, Source

CERTIFICATE_FILES = "CertificateFiles"

_SEPARATOR = "\n"
"""Between the paths in a key: no path holds it (dialects check that)."""


def make_key(*paths: str) -> ObjectKey:
    """Of a certificate chain and its private key, or of authorities alone."""
    return ObjectKey(CERTIFICATE_FILES, "", _SEPARATOR.join(paths))


def list_paths(key: ObjectKey) -> list[str]:
    """The paths that `make_key` was given."""
    return key.name.split(_SEPARATOR)


def make_object(key: ObjectKey, contents: Mapping[str, bytes], unreadable: Mapping[str, str]) -> KubeObject:
    """Each path of `key` is in one of the two: with what the file holds, or why it cannot be read."""
    data = {path: base64.b64encode(content).decode() for path, content in contents.items()}
    return KubeObject("", key, {"data": data, "unreadable": dict(unreadable)}, Source(", ".join(list_paths(key))))
