"""The settings of a Filter of type External as typed models, in Edge Stack's older form and in its newer one."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from grpcgw.ambassador.spec.auth_specs import AuthServiceSpec
from grpcgw.ambassador.spec.durations import parse_duration_ms
from grpcgw.ambassador.spec.fields import Duration, PositiveCount, Resource, Text, served
from grpcgw.ambassador.spec.mapping_spec import check_service
from grpcgw.model.objects import ObjectKey

# ruff: noqa: N815 (the names are Ambassador's)


class NamedSecretSpec(Resource):
    name: Text
    namespace: str | None = None


class FromSecretSpec(Resource):
    fromSecret: NamedSecretSpec


class ServiceTlsSpec(Resource):
    certificate: FromSecretSpec | None = None
    caCertificate: FromSecretSpec | None = None

    def secrets(self, namespace: str) -> tuple[ObjectKey | None, ObjectKey | None]:
        """With the certificate that the service is shown, and with the authorities of its own, of a Filter there."""
        return _name(self.certificate, namespace), _name(self.caCertificate, namespace)


def _name(given: FromSecretSpec | None, namespace: str) -> ObjectKey | None:
    if given is None:
        return None
    return ObjectKey("Secret", given.fromSecret.namespace or namespace, given.fromSecret.name)


class ExternalSpec(AuthServiceSpec):
    """`External`, in `getambassador.io`: an AuthService, and certificates in place of a TLSContext."""

    tlsConfig: Annotated[
        ServiceTlsSpec | None,
        served("TLS to the service: `certificate`, which it is shown, and `caCertificate`, by `fromSecret`"),
    ] = None


class HttpSettingsSpec(Resource):
    pathPrefix: str | None = None
    allowedRequestHeaders: list[str] | None = None
    allowedAuthorizationHeaders: list[str] | None = None
    addLinkerdHeaders: bool | None = None


class GrpcSettingsSpec(Resource):
    protocolVersion: Literal["v3"] | None = None


class BodySpec(Resource):
    maxBytes: PositiveCount = 4096
    allowPartial: bool = True


class NewExternalSpec(Resource):
    """`external`, in `gateway.getambassador.io/v1alpha1`."""

    protocol: Literal["http", "grpc"]
    authServiceURL: Annotated[str, AfterValidator(check_service)]
    statusOnError: Annotated[int, Field(ge=100, le=599)] | None = None
    failureModeAllow: bool | None = None
    timeout: Duration | None = None
    httpSettings: HttpSettingsSpec | None = None
    grpcSettings: GrpcSettingsSpec | None = None
    include_body: BodySpec | None = None
    tlsConfig: ServiceTlsSpec | None = None

    def older(self) -> ExternalSpec:
        """The same in the older form."""
        http, body = self.httpSettings or HttpSettingsSpec(), self.include_body
        return ExternalSpec.model_validate(
            {
                "auth_service": self.authServiceURL,
                "proto": self.protocol,
                "protocol_version": "v3" if self.protocol == "grpc" else None,
                "timeout_ms": None if self.timeout is None else parse_duration_ms(self.timeout),
                "failure_mode_allow": self.failureModeAllow,
                "status_on_error": None if self.statusOnError is None else {"code": self.statusOnError},
                "path_prefix": http.pathPrefix,
                "allowed_request_headers": http.allowedRequestHeaders,
                "allowed_authorization_headers": http.allowedAuthorizationHeaders,
                "include_body": body and {"max_bytes": body.maxBytes, "allow_partial": body.allowPartial},
                "tlsConfig": self.tlsConfig and self.tlsConfig.model_dump(),
            }
        )
