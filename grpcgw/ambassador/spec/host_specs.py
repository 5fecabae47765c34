"""TLSContext, Host and Listener as typed models: ports, the names served on them, and their certificates."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from grpcgw.ambassador.spec.fields import (
    AmbassadorId,
    Count,
    FilePath,
    PositiveCount,
    Resource,
    StringOrList,
    Table,
    http_only,
    no_meaning,
    rules,
    served,
)

WrittenTlsVersion = Literal["v1.0", "v1.1", "v1.2", "v1.3"]
Port = Annotated[int, Field(ge=1, le=65535)]


class TlsSettings(Resource):
    """Fields that a TLSContext and the `tls` of a Host have in common."""

    alpn_protocols: Annotated[
        str | None, served("`h2`, or `h2,http/1.1` (the default); others are not offered, and without `h2` an error")
    ] = None
    cert_chain_file: Annotated[
        FilePath | None, served("PEM file on the gateway's disk with the certificate, in place of a Secret; followed")
    ] = None
    private_key_file: Annotated[
        FilePath | None, served("PEM file with the key of the certificate in `cert_chain_file`, which needs it")
    ] = None
    cert_required: Annotated[
        bool | None, served("clients must show a certificate of an authority in `ca_secret` or its file; see below")
    ] = None
    ca_secret: Annotated[
        str | None,
        served("Secret with authorities (`ca.crt`, else `tls.crt`): of clients with `cert_required`, and of pods"),
    ] = None
    cacert_chain_file: Annotated[
        FilePath | None, served("PEM file on the gateway's disk with authorities; `ca_secret` goes before it")
    ] = None
    crl_secret: Annotated[
        str | None,
        served("Secret with revocation lists (`crl.pem`), one of each authority in `ca_secret`; http2 engine only"),
    ] = None
    v3CRLSecret: Annotated[str | None, served("stands for `crl_secret`")] = None  # noqa: N815
    min_tls_version: Annotated[
        WrittenTlsVersion | None,
        served("default `v1.2`, the least that HTTP/2 allows; `v1.3`: http2 engine only"),
    ] = None
    max_tls_version: Annotated[
        WrittenTlsVersion | None, served("default `v1.3`; `v1.2`: http2 engine only; a lower one is an error")
    ] = None
    cipher_suites: Annotated[
        list[str] | None, served("ciphers of TLS 1.2, by Envoy's names; those of TLS 1.3 are fixed; http2 engine only")
    ] = None
    ecdh_curves: Annotated[
        list[str] | None,
        served("`X25519`, `P-256`, `P-384`, `P-521`; of several, the first is offered alone; http2 engine only"),
    ] = None
    redirect_cleartext_from: Annotated[int | None, http_only("gRPC clients do not follow redirects")] = None
    sni: Annotated[
        str | None, served("name a pod is asked for and its certificate must carry; default: the host of `service`")
    ] = None

    @model_validator(mode="after")
    def _check_files(self) -> TlsSettings:
        if bool(self.cert_chain_file) != bool(self.private_key_file):
            raise ValueError("cert_chain_file and private_key_file are used together; set both, or none")
        return self


class TLSContextSpec(TlsSettings):
    model_config = rules(
        (
            "(has(self.cert_chain_file) && self.cert_chain_file != '')"
            " == (has(self.private_key_file) && self.private_key_file != '')",
            "cert_chain_file and private_key_file are used together; set both, or none",
        ),
        (
            "!(has(self.secret) && self.secret != '' && has(self.cert_chain_file) && self.cert_chain_file != '')",
            "secret and cert_chain_file exclude each other; leave one out",
        ),
    )

    ambassador_id: AmbassadorId = None
    hosts: Annotated[
        list[str] | None,
        served("names the certificate is for; without, it serves only the Hosts and Mappings that name the TLSContext"),
    ] = None
    secret: Annotated[
        str | None,
        served("`name` or `name.namespace` of the Secret with the certificate; not beside `cert_chain_file`"),
    ] = None
    secret_namespacing: Annotated[
        bool | None, served("default true; `false`: dots in `secret` belong to the name, the namespace is its own")
    ] = None

    @model_validator(mode="after")
    def _check_certificate(self) -> TLSContextSpec:
        if self.secret and self.cert_chain_file:
            raise ValueError("secret and cert_chain_file exclude each other; leave one out")
        return self


def _as_snake_case(value: object) -> object:
    """Ambassador takes both `ca_secret` and `caSecret` in a Host."""
    if not isinstance(value, Mapping):
        return value
    return {
        name if name == "v3CRLSecret" else re.sub("[A-Z]", lambda match: "_" + match[0].lower(), str(name)): part
        for name, part in value.items()
    }


def _as_reference(value: object) -> object:
    """A reference to the empty name is none, as in Ambassador's CRDs."""
    return None if isinstance(value, Mapping) and value.get("name") == "" else value


class SecretReference(Resource):
    name: str
    namespace: str | None = None


class NameReference(Resource):
    name: str


class Selector(Resource):
    matchLabels: dict[str, str] | None = None  # noqa: N815 (the name is Kubernetes', here and below)
    matchExpressions: list[Table] | None = None  # noqa: N815

    @model_validator(mode="after")
    def _check_form(self) -> Selector:
        if self.matchExpressions:
            raise ValueError("matchExpressions are not supported, by Ambassador neither; use matchLabels")
        return self


class InsecurePolicy(Resource):
    action: Annotated[
        Literal["Redirect", "Reject", "Route"] | None,
        served("`Route`: calls in clear text are served; `Reject` and `Redirect`: they are refused"),
    ] = None
    additionalPort: Annotated[int | None, http_only("gRPC clients do not follow redirects", -1)] = None  # noqa: N815


class RequestPolicy(Resource):
    insecure: InsecurePolicy | None = None


class HostSpec(Resource):
    model_config = rules(
        (
            "!has(self.tls) || !has(self.tlsContext) || self.tlsContext.name == ''",
            "tls and tlsContext exclude each other; leave one out",
        )
    )

    ambassador_id: AmbassadorId = None
    ambassadorId: Annotated[  # noqa: N815
        StringOrList | None, served("other name of `ambassador_id`; both count")
    ] = None
    hostname: Annotated[str | None, served("glob for the names of the Host, `*` by default")] = None
    tlsSecret: Annotated[  # noqa: N815
        Annotated[SecretReference | None, BeforeValidator(_as_reference)],
        served("the Secret with the certificate, of the Host's namespace by default"),
    ] = None
    tlsContext: Annotated[  # noqa: N815
        Annotated[NameReference | None, BeforeValidator(_as_reference)],
        served("a TLSContext, whose certificate serves where `tlsSecret` is absent, and whose settings apply"),
    ] = None
    tls: Annotated[
        Annotated[TlsSettings, BeforeValidator(_as_snake_case)] | None,
        served("settings of a TLSContext, in place; not beside `tlsContext`"),
    ] = None
    acmeProvider: Annotated[  # noqa: N815
        Table | None, no_meaning("certificates are not requested; put one into `tlsSecret`", {"authority": "none"})
    ] = None
    requestPolicy: Annotated[  # noqa: N815
        RequestPolicy | None,
        served("`insecure.action`: `Route` (default: Ambassador's `Redirect` leads no gRPC client anywhere), `Reject`"),
    ] = None
    selector: Annotated[Selector | None, served("older name of `mappingSelector`")] = None
    mappingSelector: Annotated[  # noqa: N815
        Selector | None,
        served(
            "only Mappings with these labels serve this `hostname`; without a host of their own they serve nothing else"
        ),
    ] = None
    previewUrl: Annotated[Table | None, no_meaning("Ambassador ignores it too")] = None  # noqa: N815

    @model_validator(mode="after")
    def _check_tls(self) -> HostSpec:
        if self.tls is not None and self.tlsContext is not None:
            raise ValueError("tls and tlsContext exclude each other; leave one out")
        if self.tlsSecret is not None and self.tls is not None and self.tls.cert_chain_file:
            raise ValueError("tlsSecret and the cert_chain_file of tls exclude each other; leave one out")
        return self


Protocol = Literal["HTTP", "HTTPS", "HTTPPROXY", "HTTPSPROXY", "TCP", "TLS", "UDP"]
Layer = Literal["HTTP", "PROXY", "TLS", "TCP", "UDP"]


class NamespaceBinding(Resource):
    from_: Annotated[Literal["SELF", "ALL"] | None, Field(alias="from")] = None


class HostBinding(Resource):
    namespace: NamespaceBinding | None = None
    selector: Selector | None = None


class ListenerSpec(Resource):
    model_config = rules(
        (
            "has(self.protocol) != (has(self.protocolStack) && self.protocolStack.size() > 0)",
            "exactly one of protocol and protocolStack is required",
        )
    )

    ambassador_id: AmbassadorId = None
    port: Annotated[Port, served("required; the port to listen on")]
    protocol: Annotated[
        Protocol | None,
        served(
            "`HTTP`: gRPC in clear text; `HTTPS`: gRPC over TLS, and in clear text for Hosts that want it;"
            " `HTTPPROXY`, `HTTPSPROXY`: each connection begins with a PROXY header (errors on the generic-handler"
            " engine); `TCP`, `TLS`, `UDP`: the port is not opened"
        ),
    ] = None
    protocolStack: Annotated[  # noqa: N815
        list[Layer] | None, served("in place of `protocol`: HTTP and TCP, and TLS or PROXY or both, in any order")
    ] = None
    securityModel: Annotated[  # noqa: N815
        Literal["XFP", "SECURE", "INSECURE"],
        served("required; what counts as clear text for `requestPolicy`: no TLS (or `x-forwarded-proto`), none, all"),
    ]
    http2MaxConcurrentStreams: Annotated[  # noqa: N815
        PositiveCount | None, served("calls at a time on one client connection")
    ] = None
    maxMessageBytes: Annotated[  # noqa: N815
        PositiveCount | None,
        served("not in Ambassador; the largest message of a client, uncompressed; default `--max-message-bytes`"),
    ] = None
    hostBinding: Annotated[  # noqa: N815
        HostBinding | None, served("which Hosts it serves: `namespace.from` SELF (default) or ALL, `selector`")
    ] = None
    statsPrefix: Annotated[str | None, no_meaning("metrics name the Mapping")] = None  # noqa: N815
    l7Depth: Annotated[  # noqa: N815
        Count | None,
        served("number of proxies before this port that are trusted; 0: the Module's `xff_num_trusted_hops`"),
    ] = None

    @model_validator(mode="after")
    def _check_protocol(self) -> ListenerSpec:
        if (self.protocol is None) == (not self.protocolStack):
            raise ValueError("exactly one of protocol and protocolStack is required")
        return self
