"""Fields of the service that an AuthService or RateLimitService asks, beside its name, and the limit for its answer."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator

from grpcgw.ambassador.spec.fields import served
from grpcgw.ambassador.spec.mapping_spec import check_tls

AskedTls = Annotated[
    Annotated[bool | str, BeforeValidator(check_tls)] | None,
    served("`true` or a TLSContext's name: TLS to the service"),
]
_UNLIMITED_MS = 300_000
"""As the idle timeout of calls. Envoy would wait for ever."""


def limit_ms(given: int | None, default_ms: int) -> int:
    """Of `timeout_ms`; 0 sets no limit in Ambassador."""
    return default_ms if given is None else given or _UNLIMITED_MS


AskedResolver = Annotated[
    str | None, served("not in Ambassador; how the service's pods are found; default: the Module's `resolver`")
]
