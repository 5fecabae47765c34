"""Fields of the service that an AuthService or RateLimitService asks, beside its name."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator

from grpcgw.ambassador.spec.fields import served
from grpcgw.ambassador.spec.mapping_spec import check_tls

AskedTls = Annotated[
    Annotated[bool | str, BeforeValidator(check_tls)] | None,
    served("`true` or a TLSContext's name: TLS to the service"),
]
AskedResolver = Annotated[
    str | None, served("not in Ambassador; how the service's pods are found; default: the Module's `resolver`")
]
