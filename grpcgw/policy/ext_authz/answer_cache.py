"""Answers of an authorization service, kept for a bounded time and in bounded number. Pure: the time is an argument.

Keys are digests: the values that they are made of may be tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from threading import Lock

from cachetools import TTLCache

from grpcgw.policy.contract import PolicyRequest
from grpcgw.policy.ext_authz.ext_authz_request import find_principal, list_headers
from grpcgw.policy.verdicts import Allow, Deny
from grpcgw.telemetry.policy_counters import CacheCounters


class AnswerCache:
    """Any thread may call."""

    def __init__(self, max_entries: int, max_age_s: float, counters: CacheCounters | None = None) -> None:
        self._now_s = 0.0
        self._verdicts: TTLCache[bytes, Allow | Deny] = TTLCache(max_entries, max_age_s, timer=lambda: self._now_s)
        self._lock = Lock()
        self.counters = counters or CacheCounters()

    def find(self, key: bytes, now_s: float) -> Allow | Deny | None:
        with self._lock:
            self._now_s = max(self._now_s, now_s)
            found = self._verdicts.get(key)
            if found is None:
                self.counters.misses += 1
            else:
                self.counters.hits += 1
            return found

    def keep(self, key: bytes, verdict: Allow | Deny, now_s: float) -> None:
        with self._lock:
            self._now_s = max(self._now_s, now_s)
            self._verdicts[key] = verdict

    def __len__(self) -> int:
        with self._lock:
            return len(self._verdicts)


def make_key(request: PolicyRequest, headers: Iterable[str], extensions: Iterable[tuple[str, str]] = ()) -> bytes:
    """Of the Mapping and its `auth_context_extensions`, scheme, host, path, the client's certificate, and the values of
    `headers` as the service gets them, each with its length, so that no two questions meet."""
    asked, sent = request.request, list_headers(request)
    parts = [str(request.key), asked.authority, asked.path, sent[":scheme"]]
    parts += [find_principal(request), asked.peer.certificate]
    named = [text for pair in extensions for text in pair]
    parts += [str(len(named)), *named]
    for wanted in headers:
        found = sent.get(wanted)
        parts += ["absent"] if found is None else ["present", found]
    text = "".join([f"{len(part)}:{part}" for part in parts])
    return sha256(text.encode("utf-8", "surrogatepass")).digest()
