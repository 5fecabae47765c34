"""An API server for tests: the list, watch and discovery of the kinds grpcgw reads, over real HTTP, with bad days.

    with KubeApi() as api:
        api.put({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "greet", "name": "greet"}, ...})
        access = ClusterAccess(kubeconfig=api.kubeconfig(tmp_path / "kubeconfig"))
        ...                                   # start what reads the cluster
        api.delete("Service", "greet", "greet")

It runs in a thread with its own event loop; every method may be called from any other thread, takes effect before it
returns, and may be used while the server is down (`stop`), as if others had reached another API server meanwhile.

Emulated, as a real server does it: resourceVersions, pages (`limit`, `continue`), watches from a resourceVersion,
bookmarks, `timeoutSeconds`, field selectors (`metadata.name=ca,type!=Opaque`), namespaced and cluster-wide paths,
discovery, 410 for forgotten versions, built-in kinds without `kind` in lists, the same custom object under every served
version (no conversion).
Over HTTP it takes what grpcgw writes: a merge patch of a custom object's status, Events, and Leases (get, create,
replace); each with the conflicts a real server has (409 for a stale resourceVersion or a taken name).
Not emulated: TLS, label selectors, other writes; authentication is one bearer `token`, where set.

Bad days: `refuse`, `compact`, `stop`/`start`, `freeze`/`thaw`, `uninstall`/`install`, `send_raw`, `drop_connections`,
`lose_connections`, and the attributes `hang_lists`, `silent_watches`, `close_watches_after_s`, `ignore_timeouts`,
`bookmark_interval_s`, `bookmarks_follow_changes`, `compact_between_pages`, `write_delay_s`, `late_s`.
"""

from __future__ import annotations

import asyncio
import copy
import json
import socket
import struct
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import yaml
from aiohttp import web

Body = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Kind:
    name: str
    plural: str
    group: str
    versions: tuple[str, ...]
    namespaced: bool = True

    @property
    def kind(self) -> str:
        """As objects have it; `name` has the group where two groups have the kind."""
        return self.name.partition(".")[0]

    @property
    def paths(self) -> list[str]:
        return [f"/apis/{self.group}/{version}" if self.group else f"/api/{version}" for version in self.versions]


TCP_REPAIR = 19
"""Of Linux (linux/tcp.h); the socket module has no name for it."""

CUSTOM_VERSIONS = ("v3alpha1", "v2", "v1")
CUSTOM_KINDS = (
    Kind("Mapping", "mappings", "getambassador.io", CUSTOM_VERSIONS),
    Kind("Module", "modules", "getambassador.io", CUSTOM_VERSIONS),
    Kind("KubernetesEndpointResolver", "kubernetesendpointresolvers", "getambassador.io", CUSTOM_VERSIONS),
    Kind("KubernetesServiceResolver", "kubernetesserviceresolvers", "getambassador.io", CUSTOM_VERSIONS),
    Kind("ConsulResolver", "consulresolvers", "getambassador.io", CUSTOM_VERSIONS),
    Kind("TLSContext", "tlscontexts", "getambassador.io", CUSTOM_VERSIONS),
    Kind("Host", "hosts", "getambassador.io", CUSTOM_VERSIONS),
    Kind("Listener", "listeners", "getambassador.io", CUSTOM_VERSIONS[:1]),
    Kind("AuthService", "authservices", "getambassador.io", CUSTOM_VERSIONS),
    Kind("RateLimitService", "ratelimitservices", "getambassador.io", CUSTOM_VERSIONS),
    Kind("Filter", "filters", "getambassador.io", CUSTOM_VERSIONS),
    Kind("FilterPolicy", "filterpolicies", "getambassador.io", CUSTOM_VERSIONS),
    Kind("Filter.gateway.getambassador.io", "filters", "gateway.getambassador.io", ("v1alpha1",)),
    Kind("FilterPolicy.gateway.getambassador.io", "filterpolicies", "gateway.getambassador.io", ("v1alpha1",)),
    Kind("RateLimit", "ratelimits", "getambassador.io", CUSTOM_VERSIONS),
    Kind("WebApplicationFirewall", "webapplicationfirewalls", "gateway.getambassador.io", ("v1alpha1",)),
    Kind("WebApplicationFirewallPolicy", "webapplicationfirewallpolicies", "gateway.getambassador.io", ("v1alpha1",)),
    Kind("AuthorizationPolicy", "authorizationpolicies", "grpcgw.io", ("v1alpha1",)),
)
BUILT_IN_KINDS = (
    Kind("Service", "services", "", ("v1",)),
    Kind("Secret", "secrets", "", ("v1",)),
    Kind("Endpoints", "endpoints", "", ("v1",)),
    Kind("EndpointSlice", "endpointslices", "discovery.k8s.io", ("v1",)),
    Kind("Ingress", "ingresses", "networking.k8s.io", ("v1",)),
)


WRITTEN_KINDS = (
    Kind("Event", "events", "events.k8s.io", ("v1",)),
    Kind("Lease", "leases", "coordination.k8s.io", ("v1",)),
)


class Request(NamedTuple):
    """One request as it came in: `verb` is list, watch, discover, get, create, update or patch (of a status); `kind` is
    empty for discovery."""

    verb: str
    kind: str
    namespace: str
    path: str
    query: dict[str, str]
    at_s: float
    """Of `time.monotonic`."""


class _Change(NamedTuple):
    version: int
    type: str
    kind: str
    body: Body


class _Watcher:
    """An open watch: raw bytes to send besides its events, and its connection."""

    def __init__(self, kind: str, request: web.Request) -> None:
        self.kind = kind
        self.request = request
        self.raw: list[bytes] = []

    def abort(self) -> None:
        if self.request.transport is not None:
            self.request.transport.abort()

    async def vanish(self) -> None:
        if self.request.transport is not None:
            peer: socket.socket = self.request.transport.get_extra_info("socket")
            peer.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)  # closed in this state, a socket says no goodbye
            # An acknowledgement that is still to come would be answered with a reset; nothing else tells of it.
            while unacknowledged(peer):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            self.abort()


def unacknowledged(peer: socket.socket) -> int:
    """Segments the other side has not acknowledged."""
    (count,) = struct.unpack_from("I", peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 64), 24)
    return int(count)


class KubeApi:
    """See the module's docstring. `port` 0 lets the system choose; it stays the same over `stop` and `start`."""

    def __init__(self, port: int = 0, kinds: Sequence[Kind] = CUSTOM_KINDS + BUILT_IN_KINDS + WRITTEN_KINDS) -> None:
        self.port = port
        self.requests: list[Request] = []
        """Every request ever received, oldest first."""
        self.hang_lists = False
        """Accept lists and never answer."""
        self.silent_watches = False
        """Accept watches, and send nothing any more, not even on those already open."""
        self.close_watches_after_s: float | None = None
        """End each watch properly after this time, whatever the client asked for."""
        self.ignore_timeouts = False
        """Never end a watch, whatever `timeoutSeconds` says."""
        self.bookmark_interval_s = 60.0
        self.bookmarks_follow_changes = False
        """Send bookmarks only on watches whose kind has changed since they began: what a real server does where etcd
        sends no progress notifications."""
        self.write_delay_s = 0.0
        """How long the write of a status takes."""
        self.most_writes = 0
        """The most writes of statuses that were ever under way at a time."""
        self._writes = 0
        self.crds: list[Body] = []
        """Whose schemas the server tells clients (OpenAPI v3, for `kubectl explain`). Nothing is checked by them."""
        self.late_s: dict[str, float] = {}
        """By kind: how much later than at once its watches get a change."""
        self.compact_between_pages = False
        """Forget the version of a list as soon as its first page is out."""
        self.token: str | None = None
        """The only token that is let in; None: anybody is."""
        self._kinds = {kind.name: kind for kind in kinds}
        self._objects: dict[tuple[str, str, str], Body] = {}
        self._changes: list[_Change] = []
        self._version = 100
        self._oldest = 100
        self._refusals: dict[tuple[str, str, str], tuple[int, int | None]] = {}
        self._watchers: set[_Watcher] = set()
        self._lists: dict[str, tuple[int, list[Body]]] = {}
        self._loop = asyncio.new_event_loop()
        self._changed = asyncio.Event()
        self._thawed = threading.Event()
        self._listener: socket.socket
        self._runner: web.AppRunner | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="kube-api", daemon=True)

    # ---- life

    def __enter__(self) -> Self:
        self._thread.start()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.thaw()
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def kubeconfig(self, path: Path, token: str = "secret") -> Path:
        """Write a kubeconfig for this server to `path` (context `emulator`) and return it."""
        context = {"name": "emulator", "context": {"cluster": "emulator", "user": "tester"}}
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "emulator",
            "contexts": [context],
            "clusters": [{"name": "emulator", "cluster": {"server": self.url}}],
            "users": [{"name": "tester", "user": {"token": token}}],
        }
        path.write_text(yaml.safe_dump(document))
        return path

    def start(self) -> None:
        """Listen (again), with all objects as they are by now; nothing if it does already."""
        self._wait(self._start())

    def stop(self) -> None:
        """Go down at once: the port refuses, open connections are reset. Objects stay, and may change meanwhile."""
        self._wait(self._stop())

    def freeze(self) -> None:
        """Stand still as a process does after SIGSTOP: the system accepts connections, nothing is read or answered. Of
        the other methods only `thaw` may be called until then."""
        standing = threading.Event()

        def stand_still() -> None:
            standing.set()
            self._thawed.wait()

        self._thawed.clear()
        self._loop.call_soon_threadsafe(stand_still)
        standing.wait(30)

    def thaw(self) -> None:
        """Go on after `freeze`; nothing if there was none."""
        self._thawed.set()

    # ---- objects

    def put(self, obj: Body) -> str:
        """Create or replace an object; returns its resourceVersion. The caller's dict is not changed."""
        return self._do(lambda: self._put(copy.deepcopy(obj)))

    def put_all(self, text: str) -> None:
        """Every document of a YAML text (`Path("deploy/….yaml").read_text()`)."""
        for document in yaml.safe_load_all(text):
            if document:
                self.put(document)

    def delete(self, kind: str, namespace: str, name: str) -> None:
        """Raises KeyError if there is no such object."""
        self._do(lambda: self._delete(kind, namespace, name))

    def swap(self, gone: Sequence[tuple[str, str, str]], new: Sequence[Body]) -> None:
        """Delete objects (kind, namespace, name) and put others; every watch hears of all of it together."""
        self._do(lambda: ([self._delete(*key) for key in gone], [self._put(copy.deepcopy(obj)) for obj in new]))

    def get(self, kind: str, namespace: str, name: str) -> Body | None:
        """A copy of an object as it is now."""
        return self._do(lambda: copy.deepcopy(self._objects.get((kind, namespace, name))))

    def all(self, kind: str) -> list[Body]:
        """Copies of all objects of `kind`, in the order they were made."""
        return self._do(lambda: [copy.deepcopy(body) for key, body in self._objects.items() if key[0] == kind])

    def versions(self, kind: str) -> dict[str, str]:
        """The resourceVersion of each object of `kind`, by name."""
        objects = self._do(lambda: dict(self._objects))
        return {name: body["metadata"]["resourceVersion"] for (its, _, name), body in objects.items() if its == kind}

    # ---- bad days

    def refuse(
        self, status: int, kind: str = "*", verb: str = "*", retry_after_s: int | None = None, name: str = "*"
    ) -> None:
        """Answer `status` to every verb (or the one in `verb`) of `kind`, until `accept`; with `name` only to lists and
        watches of that object alone."""
        self._do(lambda: self._refusals.__setitem__((kind, verb, name), (status, retry_after_s)))

    def accept(self) -> None:
        """Take back every `refuse`."""
        self._do(self._refusals.clear)

    def compact(self) -> None:
        """Forget history: a watch or page from any version before now is answered with 410."""
        self._do(self._compact)

    def uninstall(self, kind: str) -> None:
        """Remove a kind and its objects, as deleting its CRD does."""
        self._do(lambda: self._uninstall(kind))

    def install(self, kind: str) -> None:
        """Serve a custom or built-in kind (again)."""
        found = next(each for each in CUSTOM_KINDS + BUILT_IN_KINDS if each.name == kind)
        self._do(lambda: self._kinds.__setitem__(kind, found))

    def send_raw(self, data: bytes, kind: str) -> None:
        """Send `data` as it is on every open watch of `kind` (an ERROR event, garbage, half a line)."""
        self._do(lambda: [watcher.raw.append(data) for watcher in self._watchers if watcher.kind == kind])

    def send_error(self, code: int, kind: str) -> None:
        """Send an ERROR event with a Status of `code` on every open watch of `kind`."""
        event = {"type": "ERROR", "object": _status(code, "made to fail")}
        self.send_raw(json.dumps(event).encode() + b"\n", kind)

    def drop_connections(self, kind: str = "*") -> None:
        """Reset the connection of every open watch, without a proper end."""
        self._do(lambda: [watcher.abort() for watcher in self._watchers if kind in ("*", watcher.kind)])

    def lose_connections(self, kind: str) -> None:
        """Forget the connection of every open watch of `kind` without a word to the client, as a machine does that was
        switched off and came back. Needs the right to administer the network; raises PermissionError without."""
        watchers = self._do(lambda: [watcher for watcher in self._watchers if watcher.kind == kind])
        for watcher in watchers:
            self._wait(watcher.vanish())

    def watches(self, kind: str) -> int:
        """How many watches of `kind` are open."""
        return self._do(lambda: sum(watcher.kind == kind for watcher in self._watchers))

    def watched_names(self, kind: str) -> list[str]:
        """The names of the objects of `kind` that have an open watch of their own, in order."""
        watchers = self._do(lambda: [watcher for watcher in self._watchers if watcher.kind == kind])
        return sorted(filter(None, (_named_in(dict(watcher.request.query)) for watcher in watchers)))

    # ---- on the server's loop

    def _wait(self, coroutine: Any) -> None:
        future: Future[None] = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        future.result(30)

    def _do(self, action: Callable[[], T]) -> T:
        async def run() -> T:
            result = action()
            self._wake()
            return result

        future: Future[T] = asyncio.run_coroutine_threadsafe(run(), self._loop)
        return future.result(30)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _start(self) -> None:
        if self._runner is not None:
            return
        application = web.Application()
        application.router.add_get("/{path:.*}", self._serve)
        for method in ("POST", "PUT", "PATCH"):
            application.router.add_route(method, "/{path:.*}", self._serve)
        self._runner = web.AppRunner(application, shutdown_timeout=0.01, access_log=None, handler_cancellation=True)
        await self._runner.setup()
        self._listener = socket.create_server(("127.0.0.1", self.port))
        await web.SockSite(self._runner, self._listener).start()
        self.port = self._listener.getsockname()[1]

    async def _stop(self) -> None:
        if self._runner is not None:
            # A connection that is being accepted while the server closes fails in asyncio of Python 3.13: none is then.
            self._loop.remove_reader(self._listener)
            await asyncio.sleep(0)
            await self._runner.cleanup()
            self._runner = None

    def _put(self, obj: Body) -> str:
        in_group = f"{obj['kind']}.{obj.get('apiVersion', '').partition('/')[0]}"
        kind = self._kinds.get(in_group) or self._kinds[obj["kind"]]
        obj["kind"] = kind.name
        metadata = obj.setdefault("metadata", {})
        metadata.setdefault("namespace", "default")
        key = (kind.name, metadata["namespace"], metadata["name"])
        known = key in self._objects
        if known and "status" in self._objects[key]:  # a subresource: a write of the object does not touch it
            obj.setdefault("status", self._objects[key]["status"])
        self._objects[key] = obj
        self._record("MODIFIED" if known else "ADDED", obj)
        return str(metadata["resourceVersion"])

    def _delete(self, kind: str, namespace: str, name: str) -> None:
        self._record("DELETED", copy.deepcopy(self._objects.pop((kind, namespace, name))))

    def _record(self, change: str, obj: Body) -> None:
        self._version += 1
        obj["metadata"]["resourceVersion"] = str(self._version)
        self._changes.append(_Change(self._version, change, obj["kind"], copy.deepcopy(obj)))

    def _compact(self) -> None:
        # A version of its own, so that a watcher who is up to date with its kind must relist as well.
        self._version += 1
        self._oldest = self._version
        self._lists.clear()

    def _uninstall(self, kind: str) -> None:
        for _, namespace, name in [key for key in self._objects if key[0] == kind]:
            self._delete(kind, namespace, name)
        del self._kinds[kind]

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        path, query = request.path.rstrip("/"), dict(request.query)
        kind, version, namespace = self._resource_at(path)
        if kind is None and (found := self._object_at(path)) is not None:
            kind, version, namespace = found[0], found[1], found[2]
        verb = self._verb(request, kind, path, query)
        name = kind.name if kind else ""
        self.requests.append(Request(verb, name, namespace, path, query, time.monotonic()))
        if self.token is not None and request.headers.get("Authorization") != f"Bearer {self.token}":
            return _refusal(401, "Unauthorized")
        for key in product((name, "*"), (verb, "*"), (_named_in(query), "*")):
            if key in self._refusals:
                status, retry_after_s = self._refusals[key]
                return _refusal(status, "made to fail", retry_after_s)
        if kind is None:
            return self._discover(path)
        if verb in ("get", "create", "update", "patch"):
            body = await request.json() if request.can_read_body else {}
            if verb == "patch":
                await self._take_time()
            return self._serve_object(
                verb, kind, version, namespace, path.removesuffix("/status").rpartition("/")[2], body
            )
        if verb == "list":
            return await self._list(kind, version, namespace, query)
        return await self._watch(kind, version, namespace, query, request)

    async def _take_time(self) -> None:
        self._writes += 1
        self.most_writes = max(self.most_writes, self._writes)
        try:
            await asyncio.sleep(self.write_delay_s)
        finally:
            self._writes -= 1

    def _resource_at(self, path: str) -> tuple[Kind | None, str, str]:
        """Kind, version and namespace (empty: all) of `…/<version>[/namespaces/<namespace>]/<plural>`."""
        for kind in self._kinds.values():
            for base in kind.paths:
                rest = path.removeprefix(base + "/").split("/")
                if path.startswith(base + "/") and rest[-1] == kind.plural and len(rest) in (1, 3):
                    return kind, base.rpartition("/")[2], rest[1] if len(rest) == 3 else ""
        return None, "", ""

    def _object_at(self, path: str) -> tuple[Kind, str, str] | None:
        """Kind, version and namespace of `…/namespaces/<namespace>/<plural>/<name>[/status]`."""
        parent = path.removesuffix("/status").rpartition("/")[0]
        kind, version, namespace = self._resource_at(parent)
        return (kind, version, namespace) if kind is not None and namespace else None

    def _verb(self, request: web.Request, kind: Kind | None, path: str, query: dict[str, str]) -> str:
        if kind is None:
            return "discover"
        if request.method != "GET":
            return {"POST": "create", "PUT": "update", "PATCH": "patch"}[request.method]
        if not path.endswith(f"/{kind.plural}"):
            return "get"
        return "watch" if query.get("watch") in ("1", "true") else "list"

    def _serve_object(self, verb: str, kind: Kind, version: str, namespace: str, name: str, body: Body) -> web.Response:
        if verb == "create":
            name = body["metadata"]["name"]
        known = self._objects.get((kind.name, namespace, name))
        if verb == "create" and known is not None:
            return _refusal(409, f"{kind.plural} {name!r} already exists")
        if verb != "create" and known is None:
            return _refusal(404, f"{kind.plural} {name!r} not found")
        expected = body.get("metadata", {}).get("resourceVersion")
        if known is not None and verb != "get" and expected not in (None, known["metadata"]["resourceVersion"]):
            return _refusal(409, f"{kind.plural} {name!r}: the object has been modified")
        if verb == "patch":
            assert known is not None
            written = {**copy.deepcopy(known), "status": _merge(known.get("status", {}), body.get("status", {}))}
            if written == known:
                return web.json_response(_as_watched(known, kind, version))
            body = written
        if verb != "get":
            body["kind"] = kind.name
            self._put(body)
            self._wake()
        return web.json_response(
            _as_watched(self._objects[kind.name, namespace, name], kind, version),
            status=201 if verb == "create" else 200,
        )

    def _discover(self, path: str) -> web.Response:
        groups: dict[str, set[str]] = {}
        for kind in self._kinds.values():
            groups.setdefault(kind.group, set()).update(kind.versions)
        if path.startswith("/openapi/v3"):
            return self._tell_schemas(path.removeprefix("/openapi/v3").strip("/"))
        if path == "/api":
            return web.json_response({"kind": "APIVersions", "versions": ["v1"]})
        if path == "/apis":
            found = [_group(name, versions) for name, versions in groups.items() if name]
            return web.json_response({"kind": "APIGroupList", "apiVersion": "v1", "groups": found})
        if path.removeprefix("/apis/") in groups:
            name = path.removeprefix("/apis/")
            return web.json_response({"kind": "APIGroup", "apiVersion": "v1", **_group(name, groups[name])})
        kinds = [kind for kind in self._kinds.values() if path in kind.paths]
        if not kinds and path != "/api/v1":
            return _refusal(404, "the server could not find the requested resource")
        api_version = path.removeprefix("/apis/").removeprefix("/api/")
        return web.json_response({"kind": "APIResourceList", "groupVersion": api_version, "resources": _entries(kinds)})

    def _tell_schemas(self, name: str) -> web.Response:
        """OpenAPI v3: where the schemas of each version are, or those of one."""
        documents: dict[str, Body] = {}
        for crd in self.crds:
            group, names = crd["spec"]["group"], crd["spec"]["names"]
            for version in crd["spec"]["versions"]:
                document = documents.setdefault(f"apis/{group}/{version['name']}", _open_api())
                origin = {"group": group, "version": version["name"], "kind": names["kind"]}
                schema = {**version["schema"]["openAPIV3Schema"], "x-kubernetes-group-version-kind": [origin]}
                document["components"]["schemas"][f"{group}.{version['name']}.{names['kind']}"] = schema
                path = f"/apis/{group}/{version['name']}/namespaces/{{namespace}}/{names['plural']}"
                document["paths"][path] = {"get": {"x-kubernetes-group-version-kind": origin}}
        if name:
            return web.json_response(documents[name])
        return web.json_response({"paths": {each: {"serverRelativeURL": f"/openapi/v3/{each}"} for each in documents}})

    async def _list(self, kind: Kind, version: str, namespace: str, query: dict[str, str]) -> web.Response:
        if self.hang_lists:
            await asyncio.Event().wait()
        if token := query.get("continue"):
            if token not in self._lists:
                return _refusal(410, "The provided continue parameter is too old")
            at, rest = self._lists.pop(token)
        else:
            at = self._version
            wanted = _selector(kind.name, namespace, query)
            rest = [copy.deepcopy(self._objects[key]) for key in sorted(self._objects) if wanted(self._objects[key])]
        limit = int(query.get("limit", "0")) or len(rest)
        page, rest = rest[:limit], rest[limit:]
        metadata = {"resourceVersion": str(at)}
        if rest:
            metadata["continue"] = f"{at}-{len(rest)}-{len(self.requests)}"
            self._lists[metadata["continue"]] = (at, rest)
        if self.compact_between_pages:
            self._compact()
        items = [_as_listed(obj, kind, version) for obj in page]
        head = {"kind": f"{kind.name}List", "apiVersion": _api_version(kind, version)}
        return web.json_response({**head, "metadata": metadata, "items": items})

    async def _watch(
        self, kind: Kind, version: str, namespace: str, query: dict[str, str], request: web.Request
    ) -> web.StreamResponse:
        since = int(query.get("resourceVersion") or self._version)
        if since < self._oldest:
            return _refusal(410, f"too old resource version: {since} ({self._oldest})")
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        watcher = _Watcher(kind.name, request)
        self._watchers.add(watcher)
        try:
            async with asyncio.timeout(self._lifetime_s(query)):
                await self._send_changes(response, watcher, (kind, version, namespace), query, since)
        except TimeoutError:
            with suppress(ConnectionError):
                await response.write_eof()
        except ConnectionError:
            pass  # the client left, or the test dropped the connection
        finally:
            self._watchers.discard(watcher)
        return response

    def _lifetime_s(self, query: dict[str, str]) -> float | None:
        if self.ignore_timeouts:
            return None
        asked_s = float(query.get("timeoutSeconds", "1800"))
        return asked_s if self.close_watches_after_s is None else min(asked_s, self.close_watches_after_s)

    async def _send_changes(
        self,
        response: web.StreamResponse,
        watcher: _Watcher,
        resource: tuple[Kind, str, str],
        query: dict[str, str],
        since: int,
    ) -> None:
        kind, version, namespace = resource
        wanted = _selector(kind.name, namespace, query)
        is_quiet = True
        while True:
            changed = self._changed
            news = self._changes[bisect_right(self._changes, since, key=lambda change: change.version) :]
            due = [change for change in news if wanted(change.body)]
            is_quiet = is_quiet and not due
            since = self._version
            lines = [_line(change.type, _as_watched(change.body, kind, version)) for change in due]
            lines += watcher.raw
            watcher.raw = []
            if due and kind.name in self.late_s:  # else without a pause, in which the watch may come to its end
                await asyncio.sleep(self.late_s[kind.name])
            for line in lines:
                await self._send(response, line)
            try:
                async with asyncio.timeout(self.bookmark_interval_s):
                    await changed.wait()
            except TimeoutError:
                drops_bookmarks = self.bookmarks_follow_changes and is_quiet
                if query.get("allowWatchBookmarks") == "true" and not drops_bookmarks:
                    await self._send(response, self._bookmark(kind, version, since))

    async def _send(self, response: web.StreamResponse, line: bytes) -> None:
        if not self.silent_watches:
            await response.write(line)

    def _bookmark(self, kind: Kind, version: str, since: int) -> bytes:
        head = {"kind": kind.name, "apiVersion": _api_version(kind, version)}
        return _line("BOOKMARK", {**head, "metadata": {"resourceVersion": str(since)}})


def _selector(kind: str, namespace: str, query: dict[str, str]) -> Callable[[Body], bool]:
    terms = [term for term in query.get("fieldSelector", "").split(",") if term]
    return lambda body: (
        body["kind"] == kind
        and namespace in ("", body["metadata"]["namespace"])
        and all(_holds(term, body) for term in terms)
    )


def _holds(term: str, body: Body) -> bool:
    """One term of a field selector: `field=value` or `field!=value`."""
    field, _, value = term.partition("=")
    is_negated = field.endswith("!")
    parent, _, leaf = field.removesuffix("!").rpartition(".")
    return ((body[parent] if parent else body).get(leaf) == value) is not is_negated


def _named_in(query: dict[str, str]) -> str:
    """The one name that a list or watch asks for; empty: all."""
    terms = (term.partition("=") for term in query.get("fieldSelector", "").split(","))
    return next((value for field, _, value in terms if field == "metadata.name"), "")


def _merge(target: Body, patch: Body) -> Body:
    """RFC 7386, for a flat object."""
    return {name: value for name, value in {**target, **patch}.items() if value is not None}


def _api_version(kind: Kind, version: str) -> str:
    return f"{kind.group}/{version}" if kind.group else version


def _as_watched(obj: Body, kind: Kind, version: str) -> Body:
    return {**obj, "kind": kind.kind, "apiVersion": _api_version(kind, version)}


def _as_listed(obj: Body, kind: Kind, version: str) -> Body:
    if kind.group == "getambassador.io":
        return _as_watched(obj, kind, version)
    return {name: value for name, value in obj.items() if name not in ("kind", "apiVersion")}


def _line(change: str, body: Body) -> bytes:
    return json.dumps({"type": change, "object": body}).encode() + b"\n"


def _status(code: int, message: str) -> Body:
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code}


def _refusal(code: int, message: str, retry_after_s: int | None = None) -> web.Response:
    headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    return web.json_response(_status(code, message), status=code, headers=headers)


def _open_api() -> Body:
    info = {"title": "emulator", "version": "1"}
    return {"openapi": "3.0.0", "info": info, "paths": {}, "components": {"schemas": {}}}


def _group(name: str, versions: set[str]) -> Body:
    entries = [{"groupVersion": f"{name}/{version}", "version": version} for version in sorted(versions)]
    return {"name": name, "versions": entries, "preferredVersion": entries[0]}


def _entries(kinds: Sequence[Kind]) -> list[Body]:
    def entries() -> Iterator[Body]:
        for kind in kinds:
            yield {"name": kind.plural, "kind": kind.kind, "namespaced": kind.namespaced, "verbs": ["list", "watch"]}
            yield {"name": f"{kind.plural}/status", "kind": kind.kind, "namespaced": kind.namespaced, "verbs": ["get"]}

    return list(entries())
