"""`grpcgw run`: settings in, the control process started with them."""

from __future__ import annotations

import os
from dataclasses import replace

import typer

from grpcgw.cli.options import takes
from grpcgw.settings import Settings


def start_gateway(settings: Settings) -> int:
    """Run the control process until it ends; returns the exit code. Raises UserError for what the user can fix."""
    import grpcgw.control.control

    return grpcgw.control.control.run(settings)


@takes(Settings)
def run(caller: typer.Context, settings: Settings) -> int:
    """Run the gateway until SIGTERM or Ctrl-C."""
    check_source(settings)
    if not settings.namespace and os.environ.get("AMBASSADOR_SINGLE_NAMESPACE"):
        settings = replace(settings, namespace=settings.ambassador_namespace)
    return int(caller.obj(settings))


def check_source(settings: Settings) -> None:
    """Refuse contradictions about the source of the configuration. Raises BadParameter."""
    if (settings.config_dir is not None) == settings.kubernetes:
        raise typer.BadParameter("say where configuration comes from: either --config DIR or --kubernetes")
    named = bool(settings.kubeconfig or settings.context)
    if not settings.kubernetes and (named or settings.in_cluster):
        raise typer.BadParameter("--kubeconfig, --context and --in-cluster need --kubernetes")
    if settings.in_cluster and named:
        raise typer.BadParameter("--in-cluster uses the pod's service account: leave out --kubeconfig and --context")
