"""Own policies, for the user's code to import: a class that decides on RPCs in the gateway (docs/policies.md).

    class NoDeletes(OwnPolicy):
        def check(self, call: CallView) -> Allow | Deny:
            if call.method.startswith("Delete"):
                return deny(Code.PERMISSION_DENIED, "nothing is deleted here")
            return allow()

`grpcgw run --policy module:NoDeletes` decides so on all calls, a Filter of type Plugin on some.
`grpcgw.policies.testing` tests a policy without a gateway.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Mapping
from typing import ClassVar, Generic, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails
from pydantic_core.core_schema import ErrorType
from typing_extensions import TypeVar

from grpcgw.model.codes import Code
from grpcgw.model.metadata import Metadata, MetadataValue
from grpcgw.model.plugins import InvalidPluginConfig
from grpcgw.model.status import Reason, Status
from grpcgw.policy.call_view import CallView
from grpcgw.policy.verdicts import ALLOW, Allow, Deny

__all__ = ["Allow", "CallView", "Code", "Deny", "NoConfig", "OwnPolicy", "Status", "allow", "deny"]

Pairs = Mapping[str, MetadataValue] | Iterable[tuple[str, MetadataValue]]
"""Metadata: `{"x-tenant": "acme"}`, or pairs where a key has several values."""


class NoConfig(BaseModel):
    """Of a policy without configuration."""

    model_config = ConfigDict(extra="forbid")


C = TypeVar("C", bound=BaseModel, default=NoConfig)


class OwnPolicy(Generic[C]):
    """Base of own policies; `OwnPolicy[Config]` for one with a configuration, of the pydantic model `Config`.

    One instance for each configuration in each worker process; it lives on over reloads while its configuration stays
    the same. It may also have `on_end(self, call: CallView, status: Status) -> None`: called when an RPC that it
    allowed is over.
    """

    timeout_ms: int = 1000
    """Limit for an asynchronous check; a Filter may set another. Without a verdict in time the RPC is refused with
    UNAVAILABLE."""
    config_model: ClassVar[type[BaseModel]] = NoConfig
    """Set by `OwnPolicy[Config]`."""
    _model_index: ClassVar[int | None] = 0
    """Which type parameter of a generic subclass is its model; it may have others. None: its model is known."""

    def __init_subclass__(cls, **options: object) -> None:
        super().__init_subclass__(**options)
        cls._model_index = None
        for base in cls.__dict__.get("__orig_bases__", ()):
            origin = get_origin(base)
            if isinstance(origin, type) and issubclass(origin, OwnPolicy) and origin._model_index is not None:
                cls._take_model(get_args(base)[origin._model_index])

    @classmethod
    def _take_model(cls, model: object) -> None:
        parameters: tuple[object, ...] = getattr(cls, "__parameters__", ())
        if model in parameters:
            cls._model_index = parameters.index(model)
        elif isinstance(model, type) and issubclass(model, BaseModel):
            cls.config_model = model
        elif "config_model" not in cls.__dict__:
            raise TypeError(f"{cls.__qualname__}: its configuration should be a pydantic model, not {model!r}")

    def __init__(self, config: C | None = None) -> None:
        """`config`: None for the defaults of the model."""
        self.config: C = self.config_model() if config is None else config  # type: ignore[assignment]

    def check(self, call: CallView) -> Allow | Deny | Awaitable[Allow | Deny]:
        """The verdict on one RPC: `allow(…)` or `deny(…)`. `def` decides at once and must not block; `async def` may
        wait. What it raises ends the RPC with INTERNAL."""
        raise NotImplementedError

    @classmethod
    def from_json(cls, config: str) -> Self:
        """Raises InvalidPluginConfig, whose text holds no value, where `config` does not fit the model."""
        try:
            made = cls.config_model.model_validate_json(config)
        except ValidationError as error:
            faults = error.errors(include_url=False, include_context=False, include_input=False)
            raise InvalidPluginConfig("; ".join(map(_describe, faults))) from None
        return cls(made)  # type: ignore[arg-type]  # C is the type of `config_model`


def allow(
    *,
    set: Pairs = (),
    add: Pairs = (),
    remove: str | Iterable[str] = (),
    add_response: Pairs = (),
    facts: Mapping[str, str] | None = None,
) -> Allow:
    """The RPC may go on.

    `set`: metadata for the pod in the place of what the client sent under these keys. `add`, `remove`: more and less
    metadata for the pod. `add_response`: metadata for the client. `facts`: for later policies and the access log.
    Raises ValueError for what gRPC cannot send: keys are in lower case, values are bytes for `-bin` keys and printable
    ASCII text for all others.
    """
    if not (set or add or remove or add_response or facts):
        return ALLOW
    replaced = _pairs(set)
    removed = (remove,) if isinstance(remove, str) else remove
    keys = (*removed, *[key for key, _ in replaced])
    return Allow((*replaced, *_pairs(add)), keys, tuple((facts or {}).items()), _pairs(add_response))


def deny(
    code: Code | int,
    message: str,
    *,
    reason: str = Reason.OWN_POLICY,
    trailers: Pairs = (),
    details: bytes = b"",
    retry_after_ms: int | None = None,
) -> Deny:
    """The RPC ends with this status.

    `reason`: `x-grpcgw-reason` and a label in metrics, so one of few words. `trailers`: more metadata for the client.
    `details`: a serialized google.rpc.Status. `retry_after_ms`: how long a client that retries should wait.
    Raises ValueError for what no status can have.
    """
    return Deny(reason, message, code, details, _pairs(trailers), retry_after_ms)


def _pairs(given: Pairs) -> Metadata:
    return tuple(given.items()) if isinstance(given, Mapping) else tuple([(key, value) for key, value in given])


_WITH_VALUE = frozenset({"value_error", "assertion_error", "union_tag_invalid", "byte_size_unit"})
"""Types of faults whose messages may quote the value: those of the model's own validators, and a few of pydantic's."""
_KNOWN = frozenset(get_args(ErrorType)) - _WITH_VALUE


def _describe(fault: ErrorDetails) -> str:
    message = fault["msg"] if fault["type"] in _KNOWN else "the model does not accept the value"
    return ": ".join([*filter(None, [".".join(map(str, fault["loc"]))]), message])
