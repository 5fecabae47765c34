"""Kubernetes API discovery: which candidate of a watched kind the cluster serves, with a short cache of the answers."""

from __future__ import annotations

import asyncio

from grpcgw.discovery.sources.kubernetes_api import ApiAway, ApiRefused, KubernetesApi
from grpcgw.discovery.sources.watch_events import read_kinds
from grpcgw.model.dialect import ApiResource, WatchedKind


class NotInstalled(Exception):
    """The cluster does not serve the kind."""


class ApiDiscovery:
    """One for all reflectors of a source: several of them need the kinds of the same API version."""

    def __init__(self, api: KubernetesApi, timeout_s: float, lifetime_s: float) -> None:
        """`timeout_s` bounds a request, `lifetime_s` is how long its answer is cached."""
        self._api, self._timeout_s, self._lifetime_s = api, timeout_s, lifetime_s
        self._known: dict[str, tuple[float, frozenset[str]]] = {}

    async def choose(self, kind: WatchedKind) -> ApiResource:
        """The resource to read. Raises NotInstalled and ApiAway."""
        served = {each.api_version: await self._kinds(each.group_path) for each in kind.candidates if each.group}
        resource = kind.choose(served)
        if resource is None:
            raise NotInstalled
        return resource

    async def _kinds(self, group_path: str) -> frozenset[str]:
        now = asyncio.get_running_loop().time()
        until, kinds = self._known.get(group_path, (now, frozenset()))
        if now < until:
            return kinds
        try:
            kinds = read_kinds(await self._api.get(group_path, {}, self._timeout_s))
        except ApiRefused as refusal:
            if refusal.status != 404:
                raise ApiAway(f"the API server refused to list the kinds of {group_path}: {refusal}") from refusal
            kinds = frozenset()
        self._known[group_path] = (now + self._lifetime_s, kinds)
        return kinds
