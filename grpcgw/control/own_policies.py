"""Makes the settings of the own policies that the command line names for all calls (`--policy`)."""

from __future__ import annotations

import json

from grpcgw.model.plugins import make_plugin
from grpcgw.model.route import PolicySettings
from grpcgw.settings import CompileSettings


def make_shared_policies(settings: CompileSettings) -> tuple[PolicySettings, ...]:
    return tuple(
        [make_plugin(f"--policy {one.plugin}", one.plugin, json.loads(one.config)) for one in settings.policies]
    )
