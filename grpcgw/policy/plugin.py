"""Own policies: loads the user's class, makes one instance for each configuration, and checks RPCs with it. Pure.

An instance lives on over reloads while its configuration stays the same.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from functools import lru_cache, partial
from importlib.metadata import entry_points
from inspect import iscoroutinefunction, unwrap
from typing import Any, Protocol, Self

from grpcgw.logs import BlockLog, DefectLog
from grpcgw.model.objects import ObjectKey
from grpcgw.model.plugins import InvalidPluginConfig, PluginSettings
from grpcgw.model.route import PolicySettings
from grpcgw.model.status import Reason, Status
from grpcgw.policy.call_view import CallView
from grpcgw.policy.contract import CoroutineWork, FailMode, OnEnd, Policy, PolicyRequest, Verdict, Wait
from grpcgw.policy.services import PolicyServices
from grpcgw.policy.verdicts import Allow, Deny
from grpcgw.telemetry.policy_counters import SlowChecks

_log = logging.getLogger(__name__)
_defects, _blocks = DefectLog(_log), BlockLog(_log)
_clock = _blocks.clock
BLOCKS_S = 0.05
"""A synchronous check that takes longer is counted and in the log: it holds up the other calls of its worker."""
ENTRY_POINTS = "grpcgw.policies"
"""The group of entry points that names own policies."""


class PluginFault(Exception):
    """Why an own policy cannot be used. The text holds no value of its configuration."""


class UserPolicy(Protocol):
    """An instance of a subclass of `grpcgw.policies.OwnPolicy`."""

    timeout_ms: int

    @classmethod
    def from_json(cls, config: str) -> Self:
        """Raises InvalidPluginConfig."""
        ...

    def check(self, call: CallView) -> Any:
        """A verdict, or an awaitable of one."""
        ...


def build_plugin(key: ObjectKey, settings: PolicySettings, services: PolicyServices) -> Policy | Deny:
    assert isinstance(settings, PluginSettings)
    loaded = load_class(settings.plugin)
    if isinstance(loaded, PluginFault):
        return _refuse(key, settings, loaded)
    identity = (settings.name, settings.plugin, settings.config)
    try:
        instance = services.keep(loaded, identity, partial(_make_instance, loaded, settings.config))
        return wrap(instance, settings.timeout_ms, services.counters.of_slow_checks(settings.name))
    except PluginFault as fault:
        return _refuse(key, settings, fault)
    except Exception as error:  # of an attribute that is a property, or of __getattr__
        _defects.note("an own policy cannot be used:", settings.plugin)
        return _refuse(key, settings, PluginFault(f"using it raised {type(error).__name__}; the log has more"))


def wrap(instance: UserPolicy, timeout_ms: int | None = None, slow: SlowChecks | None = None) -> Policy:
    """The policy that checks with `instance`; `slow` counts its slow checks. Raises PluginFault."""
    check: Callable[[CallView], Any] = instance.check
    on_end = getattr(instance, "on_end", None)
    if iscoroutinefunction(on_end):
        raise PluginFault("its on_end is asynchronous: nothing would wait for it")
    limit_ms = instance.timeout_ms if timeout_ms is None else timeout_ms
    if not isinstance(limit_ms, int) or limit_ms <= 0:
        raise PluginFault("its timeout_ms is no number of milliseconds above 0")
    if not iscoroutinefunction(unwrap(check)):
        return PluginPolicy(check, on_end, limit_ms / 1000, slow or SlowChecks())
    if not iscoroutinefunction(check):  # a decorator's, which returns what the coroutine function does
        check = partial(_await, check)
    return AsyncPluginPolicy(check, on_end, limit_ms / 1000)


class PluginPolicy:
    """Checks at once, unless it returns an awaitable of its verdict."""

    def __init__(
        self,
        check: Callable[[CallView], Any],
        on_end: Callable[[CallView, Status], None] | None,
        timeout_s: float,
        slow: SlowChecks,
    ) -> None:
        self._check, self._timeout_s, self._slow = check, timeout_s, slow
        self._name = getattr(check, "__qualname__", type(check).__qualname__)
        self.on_end: OnEnd | None = None if on_end is None else partial(_end, on_end)

    def check(self, request: PolicyRequest) -> Verdict:
        since_s = _clock()
        try:
            verdict: Verdict = self._check(CallView(request))  # the chain refuses what is no verdict
        finally:
            took_s = _clock() - since_s
            if took_s > BLOCKS_S:
                self._slow.count += 1
                _blocks.note(f"{self._name} of an own policy", took_s)
        if hasattr(verdict, "__await__"):
            return Wait(CoroutineWork(partial(_resolve, verdict)), self._timeout_s, FailMode.CLOSED)
        return verdict


class AsyncPluginPolicy:
    """Waits for a coroutine; without a verdict in time the RPC is refused."""

    def __init__(
        self,
        check: Callable[[CallView], Coroutine[Any, Any, Allow | Deny]],
        on_end: Callable[[CallView, Status], None] | None,
        timeout_s: float,
    ) -> None:
        self._check, self._timeout_s = check, timeout_s
        self.on_end: OnEnd | None = None if on_end is None else partial(_end, on_end)

    def check(self, request: PolicyRequest) -> Wait:
        work = CoroutineWork(partial(self._check, CallView(request)))
        return Wait(work, self._timeout_s, FailMode.CLOSED)


async def _resolve(later: Awaitable[Allow | Deny]) -> Allow | Deny:
    return await later


async def _await(check: Callable[[CallView], Any], call: CallView) -> Allow | Deny:
    verdict: Allow | Deny = await check(call)
    return verdict


def _end(on_end: Callable[[CallView, Status], None], request: PolicyRequest, status: Status) -> None:
    on_end(CallView(request), status)


@lru_cache(maxsize=1024)
def load_class(plugin: str) -> type[UserPolicy] | PluginFault:
    """The class, or why it cannot be had; once per process, also where it fails: routes of thousands may ask for it."""
    try:
        found = _import(plugin)
    except PluginFault as fault:
        return fault
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever the user's module raises: other routes serve on
        _defects.note("an own policy cannot be imported:", plugin)
        return PluginFault(f"importing {plugin} raised {_describe(error)}")
    if not (isinstance(found, type) and callable(getattr(found, "from_json", None)) and hasattr(found, "check")):
        return PluginFault(f"{plugin} is no subclass of grpcgw.policies.OwnPolicy")
    return found


def _import(plugin: str) -> object:
    module, _, name = plugin.partition(":")
    if not name:
        return _find_entry_point(plugin)
    found: object = importlib.import_module(module)
    for part in name.split("."):
        if not hasattr(found, part):
            raise PluginFault(f"the module {module} has no {name}")
        found = getattr(found, part)
    return found


def _find_entry_point(name: str) -> object:
    found = tuple(entry_points(group=ENTRY_POINTS, name=name))
    if not found:
        raise PluginFault(
            f"no installed package has an entry point {name} in the group {ENTRY_POINTS}; module:Class names a class"
        )
    if len(found) > 1:
        raise PluginFault(f"{len(found)} installed packages have an entry point {name} in the group {ENTRY_POINTS}")
    return found[0].load()


def _make_instance(loaded: type[UserPolicy], config: str) -> UserPolicy:
    try:
        return loaded.from_json(config)
    except InvalidPluginConfig as error:
        raise PluginFault(f"its configuration is not valid: {error}") from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also SystemExit: it would end the process. Its text may hold a secret
        _defects.note("an own policy cannot be made:", loaded.__qualname__)
        raise PluginFault(f"making it raised {type(error).__name__}; the log has more") from None


def _describe(error: BaseException) -> str:
    """Without the text of what the user's code raises: it may hold a secret, and clients read it."""
    if isinstance(error, ImportError | SyntaxError):
        return f"{type(error).__name__}: {error}"
    return f"{type(error).__name__}; the log has more"


def _refuse(key: ObjectKey, settings: PluginSettings, fault: PluginFault) -> Deny:
    return Deny(Reason.POLICY_NOT_BUILT, f"{key}: {settings.name} cannot be built: {fault}")
