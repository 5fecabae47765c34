"""`grpcgw explain`: the Mapping of a call, and what each of its policies would decide. Sends nothing."""

from __future__ import annotations

import json
import time
from base64 import b64decode
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from grpcgw.cli.compiled_directory import PANEL, compile_directory
from grpcgw.cli.options import takes
from grpcgw.cli.output import complain
from grpcgw.errors import UserError
from grpcgw.logs import count
from grpcgw.settings import CompileSettings

if TYPE_CHECKING:  # loaded when a directory is compiled, not for --help
    from grpcgw.model.metadata import MetadataValue
    from grpcgw.model.snapshot import Snapshot
    from grpcgw.policy.client_certificates import ClientCertificate
    from grpcgw.policy.request import Request
    from grpcgw.session.explanation import Explanation, MappingOutcome


@takes(CompileSettings, PANEL)
def explain(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="`package.Service/Method`.")],
    config: Annotated[Path, typer.Option("--config", exists=True, help="Directory of YAML files, or one such file.")],
    settings: CompileSettings,
    header: Annotated[list[str] | None, typer.Option("--header", help="Metadata: `key=value`.")] = None,
    token: Annotated[str, typer.Option("--token", help="Sent as `authorization: Bearer …`.")] = "",
    authority: Annotated[str, typer.Option("--authority", help="The name that is called.")] = "localhost",
    peer: Annotated[str, typer.Option("--peer", help="IP address of the client.")] = "127.0.0.1",
    tls: Annotated[bool, typer.Option("--tls", help="The call comes over TLS.")] = False,
    client_certificate: Annotated[
        Path | None,
        typer.Option("--client-certificate", exists=True, dir_okay=False, help="PEM file: what the client shows."),
    ] = None,
    client_san: Annotated[
        list[str] | None,
        typer.Option("--client-san", help="In place of a file: a URI (SPIFFE ID) or DNS name in the certificate."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Show which Mapping serves a call, and which policies would allow or refuse it, and why. Sends nothing."""
    from grpcgw.session.explanation import explain_rpc

    certificate = make_certificate(client_certificate, client_san or [])
    request = make_request(method, header or [], token, authority, peer, tls or certificate is not None)
    request.certificate = certificate
    if not settings.engine.shows_authority:
        request.authority = ""
    compiled = compile_directory(config, settings)
    found = add_own_answer(explain_rpc(compiled.snapshot, request, time.monotonic()), request.path)
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2))
    else:
        typer.echo("\n".join(render(found)))
    if certificate is not None and not asks_for_certificates(compiled.snapshot):
        complain("no TLSContext or Host asks clients for a certificate: a gateway with this configuration sees none")
    if compiled.problems:
        complain(f"{count(len(compiled.problems), 'problem')} found: see `grpcgw check {config}`")
    return 0


def make_certificate(file: Path | None, names: list[str]) -> ClientCertificate | None:
    """What a client shows, taken as verified; None: nothing. Raises UserError for a file without a certificate."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    from grpcgw.engines.http2.peer_certificates import describe_certificate
    from grpcgw.policy.client_certificates import ClientCertificate

    if file is None:
        uris, hosts = [one for one in names if ":" in one], [one for one in names if ":" not in one]
        return ClientCertificate(b"", b"", "", tuple(uris), tuple(hosts)) if names else None
    if names:
        raise UserError("--client-certificate or --client-san, not both: the file has the names")
    try:
        own, *chain = x509.load_pem_x509_certificates(file.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{file} has no certificate as PEM") from error
    return describe_certificate(
        own.public_bytes(Encoding.DER), b"".join(one.public_bytes(Encoding.PEM) for one in chain)
    )


def asks_for_certificates(snapshot: Snapshot) -> bool:
    listeners = [one for listener in snapshot.listeners or () for one in listener.certificates]
    return any(one.client_ca for one in (*snapshot.certificates, *listeners))


def make_request(method: str, headers: list[str], token: str, authority: str, peer: str, tls: bool) -> Request:
    """Raises UserError for a header that is no `key=value`."""
    from grpcgw.listeners.open_ports import PortView
    from grpcgw.policy.request import Peer, Request
    from grpcgw.session.forwarding import has_own_keys

    metadata: list[tuple[str, MetadataValue]] = []
    for text in headers:
        key, sign, value = text.partition("=")
        if not key or not sign:
            raise UserError("--header should be key=value")
        metadata.append((key.lower(), _read_bytes(value) if key.lower().endswith("-bin") else value.strip()))
    if token:
        metadata.append(("authorization", f"Bearer {token}"))
    path = method if method.startswith("/") else f"/{method}"
    request = Request(path, authority, tuple(metadata), None, Peer(peer), time.time(), PortView(tls=tls))
    request.has_own_keys = has_own_keys(request.metadata)
    return request


def _read_bytes(value: str) -> bytes:
    try:
        return b64decode(value + "=" * (-len(value) % 4), validate=True)
    except ValueError:
        raise UserError("--header: the value of a -bin key should be base64") from None


def add_own_answer(found: Explanation, path: str) -> Explanation:
    """With what the gateway answers itself where no Mapping matches."""
    from grpcgw.services.health_service import HEALTH_PREFIX
    from grpcgw.services.reflection import REFLECTION_PATHS

    answers = "the gateway answers the call itself, without any policy"
    if found.unmatched and path.startswith(HEALTH_PREFIX):
        return replace(found, refused="", own=answers)
    if found.unmatched and path in REFLECTION_PATHS:
        return replace(found, own=f"with --reflection {answers}")
    return found


def render(found: Explanation) -> list[str]:
    if found.refused or found.own:
        return [*([f"refused: {found.refused}"] if found.refused else []), *([found.own] if found.own else [])]
    return [line for one in found.mappings for line in _render_mapping(one)]


def _render_mapping(one: MappingOutcome) -> list[str]:
    lines = [f"Mapping {one.mapping}, {one.percent:g} % of such calls, to {', '.join(one.clusters)} ({one.where})"]
    if one.refused:
        lines.append(f"  refuses all calls: {one.refused}")
    for number, policy in enumerate(one.policies, 1):
        why = f": {policy.why}" if policy.why else ""
        fails = f"; fails {policy.fail_mode}" if policy.fail_mode else ""
        lines += [f"  {number}. {policy.name} {policy.verdict}{why}", f"     {policy.kind}: {policy.what}{fails}"]
    return lines if one.policies or one.refused else [*lines, "  no policies: the call is allowed"]
