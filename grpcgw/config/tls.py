"""What TLSContexts and Hosts say: which certificates the TLS port serves, for which names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from grpcgw.config.certificates import InvalidSecret, KeyPair, read_key_pair
from grpcgw.config.generations import SERVES_ON, Generations
from grpcgw.config.objects import KubeObject, ObjectKey
from grpcgw.config.parse import Findings, parse_spec
from grpcgw.config.resources import HostSpec, TLSContextSpec
from grpcgw.config.snapshot import ServerCertificate


@dataclass(frozen=True, slots=True)
class _TLSContext:
    hosts: tuple[str, ...]
    key_pair: KeyPair | None


class TLSCompiler:
    """Finds the certificates of one compilation. Secrets have generations as other objects do."""

    def __init__(self, secrets: Mapping[ObjectKey, KubeObject], generations: Generations, now: datetime | None) -> None:
        """`now` is what expiry is judged by; None: it is not judged."""
        self._secrets = secrets
        self._generations = generations
        self._now = now
        self._contexts: dict[ObjectKey, _TLSContext] = {}

    def compile(self, contexts: Iterable[KubeObject], hosts: Iterable[KubeObject]) -> tuple[ServerCertificate, ...]:
        """In the order of their names. A TLSContext without hosts serves only the Hosts that name it."""
        found: list[ServerCertificate] = []
        for obj in contexts:
            context = self._generations.serve(obj, self._build_context)
            if context is not None:
                self._contexts[obj.key] = context
                found += _certify(obj.key, context.hosts, context.key_pair)
        for obj in hosts:
            found += self._generations.serve(obj, self._build_host) or ()
        return tuple(sorted(found, key=lambda certificate: certificate.name))

    def _build_context(self, obj: KubeObject, findings: Findings) -> _TLSContext | None:
        spec = parse_spec(obj, TLSContextSpec, findings)
        if spec is None:
            return None
        offered = [protocol.strip() for protocol in (spec.alpn_protocols or "h2").split(",")]
        if "h2" not in offered:
            findings.error(f"{spec.alpn_protocols!r} should contain h2, without which gRPC cannot be", "alpn_protocols")
        if spec.hosts and not spec.secret:
            findings.error("is required with hosts: name the Secret with the certificate", "secret")
        key_pair = self._find_key_pair(_secret_of_context(obj.key, spec), findings, "secret")
        return _TLSContext(tuple(spec.hosts or ()), key_pair)

    def _build_host(self, obj: KubeObject, findings: Findings) -> list[ServerCertificate] | None:
        spec = parse_spec(obj, HostSpec, findings)
        if spec is None:
            return None
        context = None
        if spec.tlsContext is not None:
            context = self._find_context(spec.tlsContext.name, obj.key.namespace)
            if context is None:
                findings.error(f"TLSContext {spec.tlsContext.name} is unknown or left out", "tlsContext", "name")
        key_pair = self._find_key_pair(_secret_of_host(obj.key, spec), findings, "tlsSecret", "name")
        if key_pair is None and context is not None:
            key_pair = context.key_pair
        return _certify(obj.key, (spec.hostname or "*",), key_pair)

    def _find_context(self, name: str, namespace: str) -> _TLSContext | None:
        """By name in the namespace, else in any: Ambassador's TLSContext names are global."""
        own = self._contexts.get(ObjectKey("TLSContext", namespace, name))
        return own or next((context for key, context in self._contexts.items() if key.name == name), None)

    def _find_key_pair(self, key: ObjectKey | None, findings: Findings, *path: str) -> KeyPair | None:
        """The certificate in the Secret, or in its last good version; what is wrong is said of who refers to it."""
        if key is None:
            return None
        try:
            key_pair = self._read(self._secrets, key)
        except InvalidSecret as error:
            earlier = self._read_earlier(key)
            if earlier is None:
                findings.error(str(error), *path)
                return None
            key_pair = earlier
            findings.fault(f"{error}; {SERVES_ON}", *path)
        if self._now is not None and key_pair.expires_at <= self._now:
            findings.notice(f"the certificate in {key} expired on {key_pair.expires_at:%Y-%m-%d}; renew it", *path)
        return key_pair

    def _read(self, secrets: Mapping[ObjectKey, KubeObject], key: ObjectKey) -> KeyPair:
        secret = secrets.get(key)
        if secret is None:
            raise InvalidSecret(f"{key} does not exist")
        try:
            key_pair = read_key_pair(secret)
        except InvalidSecret as error:
            raise InvalidSecret(f"{key} ({secret.source.locate()}) cannot be used: {error}") from error
        self._generations.last_good[key] = secret
        return key_pair

    def _read_earlier(self, key: ObjectKey) -> KeyPair | None:
        try:
            return self._read(self._generations.earlier, key)
        except InvalidSecret:
            return None  # the caller reports what is wrong with the new version


def _secret_of_context(key: ObjectKey, spec: TLSContextSpec) -> ObjectKey | None:
    """The Secret a TLSContext names: `name[.namespace]`, its own namespace by default."""
    if not spec.secret:
        return None
    name, dot, namespace = spec.secret.rpartition(".")
    if not dot or spec.secret_namespacing is False:
        return ObjectKey("Secret", key.namespace, spec.secret)
    return ObjectKey("Secret", namespace, name)


def _secret_of_host(key: ObjectKey, spec: HostSpec) -> ObjectKey | None:
    if spec.tlsSecret is None:
        return None
    return ObjectKey("Secret", spec.tlsSecret.namespace or key.namespace, spec.tlsSecret.name)


def _certify(key: ObjectKey, hosts: tuple[str, ...], key_pair: KeyPair | None) -> list[ServerCertificate]:
    if key_pair is None or not hosts:
        return []
    return [ServerCertificate(str(key), hosts, key_pair.chain, key_pair.private_key)]
