"""What the data plane does not carry out yet is said to be so: never silently ignored, never claimed."""

from __future__ import annotations

import pytest

from grpcgw.config.fields import State, planned, refused
from grpcgw.config.mapping_spec import LoadBalancerSpec
from grpcgw.config.pending import NOT_WIRED, note_of
from grpcgw.config.resources import MODELS
from grpcgw.config.snapshot import ResolverKind
from tests.compiling import compile_objects, mapping, said


@pytest.mark.parametrize("name", sorted(NOT_WIRED))
def test_every_line_names_a_field_a_policy_or_a_kind(name: str) -> None:
    _kind, _, _field = name.partition(".")
    policies = LoadBalancerSpec.model_fields["policy"].annotation.__args__  # type: ignore[union-attr]
    known = {
        *MODELS,
        *ResolverKind,
        *(f"{kind}.{field}" for kind, model in MODELS.items() for field in model.model_fields),
        *(f"LoadBalancer.{field}" for field in (*LoadBalancerSpec.model_fields, *policies)),
    }
    assert name in known


def test_nothing_is_pending_under_another_state() -> None:
    assert {note.state for note in NOT_WIRED.values()} <= {State.PLANNED, State.REFUSED}


def test_a_line_wins_over_the_model_and_its_deletion_gives_the_model_its_say(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = mapping(connect_timeout_ms=1, headers={"x-a": "b"})
    for name, state in {"connect_timeout_ms": State.PLANNED, "headers": State.REFUSED}.items():
        monkeypatch.setattr("grpcgw.config.pending.NOT_WIRED", {f"Mapping.{name}": PENDING[state]})
        (problem,) = said(compile_objects(waiting))
        assert f"spec.{name}: " in problem
    monkeypatch.setattr("grpcgw.config.pending.NOT_WIRED", {})
    assert said(compile_objects(waiting)) == []


PENDING = {note.state: note for note in (planned("it waits"), refused("it waits"))}


def test_models_without_a_kind_have_their_own_notes() -> None:
    note = MODELS["ConsulResolver"].model_fields["datacenter"].metadata[-1]
    assert note_of(MODELS["ConsulResolver"], "datacenter", note) is note
