"""Settings of the policy `jwt`: which tokens are accepted, and what of a token goes into metadata (RFC 7519, RFC 8725).

Keys are public keys only (`model.jwks` reads them), so no token can be verified with a shared secret: a public key is
never taken for one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from grpcgw.model.header_template import HeaderTemplate
from grpcgw.model.route import PolicySettings

RSA_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
EC_ALGORITHMS = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
"""By curve (RFC 7518, 3.4)."""
ED25519_ALGORITHMS = ("EdDSA", "Ed25519")
"""Two names of one algorithm (RFC 8037, RFC 9864)."""
ALGORITHMS = (*RSA_ALGORITHMS, *EC_ALGORITHMS.values(), *ED25519_ALGORITHMS)
"""All that can be accepted (`alg`): neither `none` nor HMAC."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that verifies tokens."""

    jwk: str
    """Its public members as JSON (RFC 7517), in one spelling: equal keys have equal texts."""
    algorithms: tuple[str, ...]
    """The algorithms it may verify: by its type, its curve, and its own `alg`."""
    kid: str = ""
    """Empty: it has none, and may verify a token with any `kid`."""


@dataclass(frozen=True, slots=True)
class MissingKey:
    """A token has a key that its key set, as far as it is known, lacks."""

    key_set: str
    """`JwtSettings.key_set`."""
    kid: str


@dataclass(frozen=True, slots=True)
class TimeRule:
    """How `exp`, `nbf` or `iat` is checked."""

    required: bool = False
    """A token without the claim is refused."""
    leeway_s: float = 0.0
    """Difference of clocks that is tolerated."""


@dataclass(frozen=True, slots=True)
class RequiredClaim:
    name: str
    """Of the claim; a dot goes into an object: `realm.tenant`. A claim whose own name has the dots goes first."""
    values: tuple[str, ...] = ()
    """The claim, or one of its elements, must be one of these; empty: it must be there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtSettings(PolicySettings):
    kind: ClassVar[str] = "jwt"

    keys: tuple[PublicKey, ...] = ()
    no_keys: str = ""
    """Why there are no keys yet: RPCs are refused with UNAVAILABLE until there are. Empty: `keys` are there."""
    key_set: str = ""
    """`KeySetSource.id` of the set with the `keys`, which is fetched again for a token that has another `kid`; empty:
    they come from a Secret."""
    algorithms: tuple[str, ...] = ALGORITHMS
    """Those that are accepted, of `ALGORITHMS`."""
    issuers: tuple[str, ...] = ()
    """`iss` must be one of these; empty: it is not checked."""
    issuer_required: bool = False
    """A token without `iss` is refused."""
    audiences: tuple[str, ...] = ()
    """`aud` must have one of these; empty: it is not checked."""
    audience_required: bool = False
    """A token without `aud` is refused."""
    expires: TimeRule = TimeRule()
    """Of `exp`."""
    not_before: TimeRule = TimeRule()
    """Of `nbf`."""
    issued: TimeRule = TimeRule()
    """Of `iat`: a token from the future is refused."""
    required_claims: tuple[RequiredClaim, ...] = ()
    """All must hold."""
    scopes: tuple[str, ...] = ()
    """The token must have all of these in `scope` or `scp` (text with spaces, or an array)."""
    header: str = "authorization"
    """Metadata key of the token, in lower case."""
    scheme: str = "Bearer"
    """Word before the token; empty: none."""
    token_optional: bool = False
    """An RPC without a token passes, without identity and claims. One with a bad token is refused in any case."""
    inject: tuple[HeaderTemplate, ...] = ()
    """Set in the request's metadata. What the client sent under these keys is removed, also where nothing is set."""
    realm: str = ""
    """Of `www-authenticate` in a refusal; empty: that of the settings' name."""
    error_headers: tuple[HeaderTemplate, ...] = ()
    """More trailers of a refusal."""
    error_body: str = ""
    """Go template of a refusal's message; empty: the gateway's own text."""

    @property
    def owned_keys(self) -> tuple[str, ...]:
        return tuple(one.name for one in self.inject)

    @property
    def credential_keys(self) -> tuple[str, ...]:
        return (self.header,)
