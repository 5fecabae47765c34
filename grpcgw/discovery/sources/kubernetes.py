"""Objects from a Kubernetes API server: one reflector for each watched kind and one for each named Secret.

Owns the connection and the tasks. Each reflector writes its own partition of the store. Runs in the control process's
event loop, without threads.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from random import Random

from grpcgw.discovery.sources.annotations import AnnotatedObjects
from grpcgw.discovery.sources.api_discovery import ApiDiscovery
from grpcgw.discovery.sources.kubernetes_api import ClusterAccess, KubernetesApi
from grpcgw.discovery.sources.kubernetes_health import ApiHealth
from grpcgw.discovery.sources.named_secrets import NamedSecrets
from grpcgw.discovery.sources.reflector import Reflector, ReflectorContext, ReflectorPace, name_partition
from grpcgw.discovery.sources.watch_events import BUILT_IN_KINDS, CERTIFICATES, watch_secret
from grpcgw.discovery.store import ObjectStore
from grpcgw.model.dialect import DialectObjects
from grpcgw.model.objects import ObjectKey


class KubernetesSource:
    """Keeps the store equal to the cluster: the watched kinds of the dialect, `BUILT_IN_KINDS` and the named Secrets.

    Once it is made, the store is not `synced` until every kind has been read. An empty `namespace` means all. `clock`
    gives seconds since the epoch.
    """

    def __init__(
        self,
        store: ObjectStore,
        access: ClusterAccess,
        dialect: DialectObjects,
        namespace: str = "",
        *,
        pace: ReflectorPace | None = None,
        clock: Callable[[], float] = time.time,
        random: Random | None = None,
    ) -> None:
        pace = pace or ReflectorPace()
        self._api = KubernetesApi(access)
        discovery = ApiDiscovery(self._api, pace.request_s, pace.recheck_s / 2)
        health = ApiHealth(self._api, pace.answer_s, pace.silence_s / 6)
        shared = ReflectorContext(self._api, discovery, health, dialect, pace, clock, random or Random())

        def make_secret_reflector(key: ObjectKey) -> Reflector:
            return Reflector(watch_secret(key), shared, store, key.namespace)

        self._named = NamedSecrets(store, make_secret_reflector, name_partition(CERTIFICATES), namespace, dialect)
        watched = (*dialect.watched, *BUILT_IN_KINDS)
        self._reflectors = [Reflector(kind, shared, store, namespace) for kind in watched]
        self._annotated = AnnotatedObjects(store, dialect)

    async def run(self) -> None:
        """Run until cancelled. An API server that is away is no error: the reflectors retry.

        Raises UserError when address or credentials cannot be loaded.
        """
        await self._api.connect()
        unfollow = self._annotated.follow()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._named.run(), name="kubernetes named Secrets")
                for reflector in self._reflectors:
                    group.create_task(reflector.run(), name=reflector.partition)
        finally:
            unfollow()
            await self._api.aclose()
