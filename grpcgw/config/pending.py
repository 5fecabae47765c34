"""What is read, checked and compiled, but not carried out by the data plane yet: one line each.

Where a field is wired, its line is deleted; the note in the model then holds, in notices and in the documentation.
"""

from __future__ import annotations

from grpcgw.config.fields import FieldNote, Resource, planned, refused

NOT_WIRED: dict[str, FieldNote] = {
    "Mapping.tls": refused("calls would go to the pods in clear text; leave it out"),
    "Mapping.service.https": refused("calls are not sent in clear text instead"),
    "Mapping.shadow": refused("copies of calls are not sent; the Mapping would answer real calls; leave it out"),
    "Mapping.stats_name": planned("metrics name the Mapping"),
    "Mapping.v3StatsName": planned("it stands for `stats_name`"),
    "Mapping.priority": planned("there are no circuit breakers", "default"),
    "Mapping.connect_timeout_ms": planned("the gateway's own connect timeout applies"),
    "Mapping.cluster_idle_timeout_ms": planned("idle connections to pods stay open"),
    "Mapping.cluster_max_connection_lifetime_ms": planned("connections to pods have no greatest age"),
    "Mapping.keepalive": planned("connections to pods are not probed"),
    "Mapping.retry_policy": planned("only calls that never reached a pod are tried again"),
    "Mapping.circuit_breakers": planned("there are no circuit breakers"),
    "Mapping.health_checks": planned("pods are not checked actively"),
    "Mapping.v3health_checks": planned("it stands for `health_checks`"),
    "Mapping.outlier_detection": planned("failing pods are not ejected"),
    "TLSContext.cert_required": refused("client certificates are not checked; every client would be served"),
    "TLSContext.ca_secret": planned("client certificates are not asked for"),
    "TLSContext.sni": planned("pods are spoken to in clear text"),
    "Host.requestPolicy": planned(
        "clear text and TLS are both served; gRPC follows no redirect", {"insecure": {"action": "Route"}}
    ),
    "Host.selector": planned("every Mapping serves every host"),
    "Host.mappingSelector": planned("every Mapping serves every host"),
    "Listener": planned("ports are flags of `grpcgw run`"),
}
"""By `<Kind>.<field>`, or by the kind alone; the Module's keys and defaults go with the Mapping's fields."""


def find_pending(name: str) -> FieldNote | None:
    """What is said of a field, value or kind that is not wired; None: it is."""
    return NOT_WIRED.get(name)


def note_of(model: type[Resource], name: str, note: FieldNote | None) -> FieldNote | None:
    """The note of a field today; `note` is what the model says."""
    kind = model.kind
    return (find_pending(f"{kind}.{name}") if kind else None) or note
