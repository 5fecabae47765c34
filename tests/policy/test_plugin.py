"""Own policies are loaded by name, made once for each configuration, and refuse routes where they cannot be."""

from __future__ import annotations

import asyncio
import pickle
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from grpcgw.model.content_hash import digest
from grpcgw.model.objects import ObjectKey
from grpcgw.model.plugins import PluginSettings, make_plugin
from grpcgw.model.route import Destination, WeightedCluster
from grpcgw.model.status import Reason
from grpcgw.policy.catalogue import CATALOGUE
from grpcgw.policy.contract import CoroutineWork, FailMode, Policy, Wait
from grpcgw.policy.plugin import PluginPolicy, build_plugin, load_class
from grpcgw.policy.services import PolicyServices
from grpcgw.policy.verdicts import Allow, Deny

KEY = ObjectKey("Mapping", "default", "greet")
MODULE = """
import functools
import time
from typing import Literal
from pydantic import BaseModel, Field, field_validator
from grpcgw.policies import OwnPolicy, allow, deny

class Config(BaseModel):
    most: int = 3

class Counting(OwnPolicy[Config]):
    seen = 0
    def check(self, call):
        self.seen += 1
        return allow(facts={"seen": str(self.seen), "most": str(self.config.most)})

class Ending(OwnPolicy):
    def check(self, call):
        return allow()
    def on_end(self, call, status):
        pass

class Late(OwnPolicy):
    timeout_ms = 250
    async def check(self, call):
        return allow()

def traced(check):
    @functools.wraps(check)
    def run(*given):
        return check(*given)
    return run

class Traced(OwnPolicy):
    @traced
    async def check(self, call):
        return allow(facts={"traced": "yes"})

class NoTime(Late):
    timeout_ms = 0

class Failing(OwnPolicy):
    def __init__(self, config):
        raise KeyError("a password")

class Exiting(OwnPolicy):
    def __init__(self, config):
        raise SystemExit(3)

class Reading(OwnPolicy[Config]):
    def __init__(self, config):
        int("a password")

class Unsettled(Late):
    @property
    def timeout_ms(self):
        raise RuntimeError("a password")

class LateEnding(Ending):
    async def on_end(self, call, status):
        pass

class Blocking(OwnPolicy):
    def check(self, call):
        time.sleep(0.06)
        raise LookupError("nobody answers")

class Stranger:
    pass

class Cat(BaseModel):
    kind: Literal["cat"]

class Dog(BaseModel):
    kind: Literal["dog"]

class Checked(BaseModel):
    word: str = ""
    pet: Cat | Dog | None = Field(None, discriminator="kind")

    @field_validator("word")
    @classmethod
    def check_word(cls, value):
        raise ValueError(f"{value} is no word")

class Picky(OwnPolicy[Checked]):
    def check(self, call):
        return allow()
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A module of a user's, of a name of its own: what is loaded stays so."""
    name = f"own_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def build(settings: PluginSettings, services: PolicyServices | None = None) -> Policy | Deny:
    return build_plugin(KEY, settings, services or PolicyServices())


def instance(policy: Policy | Deny) -> object:
    assert isinstance(policy, PluginPolicy)
    return policy._check.__self__  # type: ignore[attr-defined]


def why(policy: Policy | Deny) -> str:
    assert isinstance(policy, Deny)
    assert policy.reason == Reason.POLICY_NOT_BUILT
    return policy.message


# --- settings


def test_settings_are_equal_where_the_configurations_are() -> None:
    one, other = (make_plugin("f", "m:C", config) for config in ({"a": 1, "b": 2}, {"b": 2, "a": 1}))
    assert one == other
    assert pickle.loads(pickle.dumps(one)) == one


def test_settings_hide_the_configuration_and_yet_it_counts_for_the_version() -> None:
    one, other = (make_plugin("f", "m:C", {"token": token}) for token in ("password", "secret"))
    assert "password" not in repr(one)
    assert digest(one) != digest(other)


# --- instances


def test_an_instance_is_kept_over_reloads_while_its_configuration_stays(module: str) -> None:
    services, settings = PolicyServices(), make_plugin("f", f"{module}:Counting", {"most": 1})
    before = build(settings, services)
    assert instance(build(settings, services)) is instance(before)
    changed = build(make_plugin("f", f"{module}:Counting", {"most": 2}), services)
    assert instance(changed) is not instance(before)


def test_a_policy_has_an_end_only_where_the_class_has(module: str) -> None:
    policies = [build(make_plugin("f", f"{module}:{name}", {})) for name in ("Counting", "Ending")]
    assert [getattr(one, "on_end", None) is not None for one in policies] == [False, True]


@pytest.mark.parametrize(("set_ms", "limit_s"), [(None, 0.25), (40, 0.04)])
def test_an_asynchronous_check_waits_for_the_classs_time_or_the_settings(
    module: str, set_ms: int | None, limit_s: float
) -> None:
    policy = build(make_plugin("f", f"{module}:Late", {}, set_ms))
    assert not isinstance(policy, Deny)
    wait = policy.check(None)  # type: ignore[arg-type]  # it is looked at when the coroutine runs
    assert isinstance(wait, Wait)
    assert isinstance(wait.work, CoroutineWork)
    assert (wait.timeout_s, wait.fail_mode) == (limit_s, FailMode.CLOSED)


def test_a_check_may_be_asynchronous_under_a_decorator(module: str) -> None:
    policy = build(make_plugin("f", f"{module}:Traced", {}))
    assert not isinstance(policy, Deny)
    wait = policy.check(None)  # type: ignore[arg-type]  # it does not look at the call
    assert isinstance(wait, Wait)
    assert isinstance(wait.work, CoroutineWork)
    assert asyncio.run(wait.work.start()) == Allow(facts=(("traced", "yes"),))


def test_a_check_that_blocks_is_counted_and_in_the_log_once_a_minute(
    module: str, caplog: pytest.LogCaptureFixture
) -> None:
    services = PolicyServices()
    policies = [build(make_plugin(name, f"{module}:{name}", {}), services) for name in ("Counting", "Blocking")]
    for policy in policies:
        assert not isinstance(policy, Deny)
        for _ in range(2):
            with suppress(LookupError):
                policy.check(None)  # type: ignore[arg-type]  # they do not look at the call
    (line,) = caplog.messages
    assert line.startswith("Blocking.check of an own policy took ")
    assert services.counters.slow_check_reports() == {"Counting": 0, "Blocking": 2}


# --- what cannot be built


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        (":Missing", "has no Missing"),
        (":Stranger", "no subclass of grpcgw.policies.OwnPolicy"),
        (":NoTime", "timeout_ms is no number of milliseconds above 0"),
        (":Failing", "making it raised KeyError"),
        (":Exiting", "making it raised SystemExit"),
        (":Reading", "making it raised ValueError"),
        (":Unsettled", "using it raised RuntimeError"),
        (":LateEnding", "its on_end is asynchronous"),
        (".missing:X", "ModuleNotFoundError"),
    ],
)
def test_what_cannot_be_used_refuses_its_routes(module: str, name: str, cause: str) -> None:
    message = why(build(make_plugin("Filter own.default", module + name, {})))
    assert message.startswith("Mapping greet.default: Filter own.default cannot be built: ")
    assert cause in message
    assert "password" not in message


def test_a_configuration_that_does_not_fit_refuses_its_routes(module: str) -> None:
    message = why(build(make_plugin("f", f"{module}:Counting", {"most": "a password"})))
    assert "its configuration is not valid: most: Input should be a valid integer" in message
    assert "password" not in message


@pytest.mark.parametrize(
    ("config", "cause"), [({"word": "password"}, "word: the model"), ({"pet": {"kind": "password"}}, "pet: the model")]
)
def test_no_value_of_a_configuration_is_shown(module: str, config: dict[str, object], cause: str) -> None:
    message = why(build(make_plugin("f", f"{module}:Picky", config)))
    assert f"its configuration is not valid: {cause} does not accept the value" in message
    assert "password" not in message


def test_what_a_module_raises_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "telltale.py").write_text("raise RuntimeError('postgres://me:password@db')")
    monkeypatch.syspath_prepend(tmp_path)
    message = why(build(make_plugin("f", "telltale:X", {})))
    assert message.endswith("importing telltale:X raised RuntimeError; the log has more")


@pytest.mark.parametrize("text", ["raise SystemExit(3)", "1 / 0", "def", "raise GeneratorExit"])
def test_a_module_that_cannot_be_imported_is_tried_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    name = f"broken_{abs(hash(text))}"
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    first = why(build(make_plugin("f", f"{name}:X", {})))
    assert f"importing {name}:X raised" in first
    (tmp_path / f"{name}.py").write_text(MODULE)
    assert why(build(make_plugin("f", f"{name}:X", {}))) == first
    assert name not in sys.modules


# --- entry points


def installed(folder: Path, distribution: str, name: str, target: str) -> None:
    """A distribution with one entry point, as an installer leaves it."""
    info = folder / f"{distribution}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[grpcgw.policies]\n{name} = {target}\n")


def test_an_entry_point_names_a_class(module: str, tmp_path: Path) -> None:
    installed(tmp_path, "tenants", f"{module}_counting", f"{module}:Counting")
    found = load_class(f"{module}_counting")
    assert getattr(found, "__name__", found) == "Counting"


def test_an_entry_point_that_is_missing_or_ambiguous_refuses(module: str, tmp_path: Path) -> None:
    assert "no installed package has an entry point none" in str(load_class("none"))
    for distribution in ("one", "two"):
        installed(tmp_path, distribution, f"{module}_twice", f"{module}:Counting")
    assert "2 installed packages have an entry point" in str(load_class(f"{module}_twice"))


# --- policies of all Mappings


def destination() -> Destination:
    return Destination(KEY, (WeightedCluster("greet"),))


def test_a_shared_policy_decides_on_every_mapping(module: str) -> None:
    shared = (make_plugin("--policy", f"{module}:Counting", {}),)
    built = CATALOGUE.build(destination(), PolicyServices(), shared)
    assert not isinstance(built, Deny)
    assert [one.name for one in built] == ["--policy"]
    assert CATALOGUE.find_shared_faults(shared) == []


def test_a_shared_policy_that_cannot_be_built_is_one_fault_and_refuses_every_mapping(module: str) -> None:
    shared = (make_plugin("--policy x", f"{module}:Missing", {}),)
    assert "--policy x cannot be built" in why(CATALOGUE.build(destination(), PolicyServices(), shared))  # type: ignore[arg-type]
    (fault,) = CATALOGUE.find_shared_faults(shared)
    assert fault.startswith("--policy x cannot be built: ")
