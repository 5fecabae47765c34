"""Certificates in files on the gateway's disk, as objects: their keys and their content.

Such an object is in the store like any other, with a kind that no cluster and no YAML file has. It holds files that are
used together, so that they change together, in the form of a Secret: content by path in `data`, or the reason why a
file cannot be read in `unreadable`. `discovery.sources.certificate_files` reads the files; a dialect lists their paths.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

from grpcgw.model.objects import KubeObject, ObjectKey, Source

CERTIFICATE_FILES = "CertificateFiles"

_SEPARATOR = "\n"
"""Separates the paths in a key: no path contains it (dialects check that)."""


def make_key(*paths: str) -> ObjectKey:
    """Key of a certificate chain with its private key, or of CA certificates alone."""
    return ObjectKey(CERTIFICATE_FILES, "", _SEPARATOR.join(paths))


def list_paths(key: ObjectKey) -> list[str]:
    """The paths that `make_key` was given."""
    return key.name.split(_SEPARATOR)


def make_object(key: ObjectKey, contents: Mapping[str, bytes], unreadable: Mapping[str, str]) -> KubeObject:
    """The object of `key`. Each of its paths is in one of the two: with its content, or why it cannot be read."""
    data = {path: base64.b64encode(content).decode() for path, content in contents.items()}
    return KubeObject("", key, {"data": data, "unreadable": dict(unreadable)}, Source(", ".join(list_paths(key))))
