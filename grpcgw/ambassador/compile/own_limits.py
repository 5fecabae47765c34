"""Compiles the limits that a Mapping itself has: `rate_limit` and `concurrency_limit`."""

from __future__ import annotations

from collections.abc import Iterator

from grpcgw.ambassador.compile.metadata_edits import check_key
from grpcgw.ambassador.spec.mapping_spec import MappingSpec
from grpcgw.ambassador.spec.parse import Findings
from grpcgw.ambassador.spec.rate_limit_specs import OwnRateLimitSpec
from grpcgw.model.labels import AddressLabel, FixedLabel, HeaderLabel, Label
from grpcgw.model.objects import ObjectKey
from grpcgw.model.rate_limits import ConcurrencyLimitSettings, LabelLimit, Rate, RateLimitSettings, Unit
from grpcgw.model.route import PolicySettings

REMOTE_ADDRESS = "remote_address"


def compile_own_limits(key: ObjectKey, spec: MappingSpec, findings: Findings) -> tuple[PolicySettings, ...]:
    """`rate_limit` and `concurrency_limit` of a Mapping."""
    return tuple(_own_limits(key, spec, findings))


def _own_limits(key: ObjectKey, spec: MappingSpec, findings: Findings) -> Iterator[PolicySettings]:
    if spec.rate_limit is not None:
        yield _compile_own_rate(key, spec.rate_limit, findings)
    if spec.concurrency_limit is not None:
        yield ConcurrencyLimitSettings(name=f"concurrency_limit of {key}", most=spec.concurrency_limit)


def _compile_own_rate(key: ObjectKey, spec: OwnRateLimitSpec, findings: Findings) -> RateLimitSettings:
    """A call that lacks what is counted by counts with the others that lack it."""
    labels: list[Label] = [FixedLabel("mapping", key.label)]
    for index, name in enumerate(spec.per or ()):
        if name == REMOTE_ADDRESS:
            labels.append(AddressLabel(name, missing=""))
        else:
            header = check_key(name, findings, "rate_limit", "per", str(index))
            labels.append(HeaderLabel(header, header, missing=""))
    rate = Rate(spec.rate, Unit(spec.unit or "second"), spec.burst)
    pattern = tuple(((one.key, one.value if isinstance(one, FixedLabel) else ""),) for one in labels)
    limit = LabelLimit("rate_limit", pattern, rate)
    return RateLimitSettings(name=f"rate_limit of {key}", domain="", groups=(tuple(labels),), limits=(limit,))
