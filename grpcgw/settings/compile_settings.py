"""Settings that decide what resources are compiled to: of the gateway, and of the commands that only compile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from grpcgw.settings.choices import EngineName
from grpcgw.settings.flag import DATA_PLANE, SOURCE, Flag, GivenPolicy, parse_policies


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileSettings:
    """What routes depend on besides the resources: `grpcgw check` and `grpcgw routes` take these settings alone."""

    ambassador_id: Annotated[
        str,
        Flag(
            "--ambassador-id", SOURCE, "Read only objects with this `ambassador_id`.", "ID", ambassador="AMBASSADOR_ID"
        ),
    ] = "default"
    ambassador_namespace: Annotated[
        str,
        Flag("--ambassador-namespace", SOURCE, "The gateway's own namespace.", "NS", ambassador="AMBASSADOR_NAMESPACE"),
    ] = "default"
    """A Module may make short service names relative to it."""
    serve_without_auth: Annotated[
        bool,
        Flag(
            "--serve-without-auth",
            SOURCE,
            "Serve calls without an AuthService, Filter, FilterPolicy or RateLimit that has an error or is not "
            "supported. Otherwise grpcgw refuses the calls that it protects.",
        ),
    ] = False
    engine: Annotated[
        EngineName,
        Flag(
            "--engine",
            DATA_PLANE,
            "Data-plane engine: `http2`, on libnghttp2, or `generic-handler`, on grpcio's public API, which costs "
            "several times as much.",
            "NAME",
        ),
    ] = EngineName.HTTP2

    policies: Annotated[
        tuple[GivenPolicy, ...],
        Flag(
            "--policy",
            DATA_PLANE,
            "Own policy for all calls: a class, or the name of an entry point, with a configuration in JSON where it "
            "takes one. May be given several times; in the variable they are one a line.",
            "MODULE:CLASS[={…}]",
            parse_policies,
            repeated=True,
        ),
    ] = ()
    """They run in this order, after the policies of the Mapping."""
