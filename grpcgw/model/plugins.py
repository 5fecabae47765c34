"""Settings of an own policy: a Python class of the user's (`grpcgw.policies`), and its configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import ClassVar

from grpcgw.errors import GrpcgwError
from grpcgw.model.objects import ObjectKey
from grpcgw.model.route import PolicySettings


class InvalidPluginConfig(GrpcgwError, ValueError):
    """The configuration does not fit the class. The text says where, and holds no value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginSettings(PolicySettings):
    """Made by `make_plugin`."""

    kind: ClassVar[str] = "plugin"
    plugin: str
    """`module:Class`, or the name of an entry point of the group `grpcgw.policies`."""
    config: str = field(repr=False)
    """JSON, which the class validates. It may hold secrets."""
    config_digest: str
    """Of `config`, for the version of the configuration: what `repr` hides is not hashed."""
    timeout_ms: int | None = None
    """Limit for an asynchronous check; None: the class's own."""
    by: ObjectKey | None = None
    """The Filter; None: the command line."""

    @property
    def reads_certificate(self) -> bool:
        """Always: the class's code may look at it."""
        return True


def make_plugin(
    name: str,
    plugin: str,
    config: Mapping[str, object],
    timeout_ms: int | None = None,
    by: ObjectKey | None = None,
) -> PluginSettings:
    """`name`: what asks for it, for the operator. Equal configurations give equal settings."""
    written = json.dumps(config, sort_keys=True)
    digest = sha256(written.encode()).hexdigest()
    return PluginSettings(name=name, plugin=plugin, config=written, config_digest=digest, timeout_ms=timeout_ms, by=by)
