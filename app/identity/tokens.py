"""Verifies bearer tokens: the result is a Principal, or Unauthenticated is raised."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

import jwt

from app.errors import BadUserInput, Unauthenticated
from app.identifiers import identifier
from app.identity.key_sets import Key, Keys, KeySet
from app.settings import Issuer
from app.sharing.caches import FairCache
from app.sharing.rate_limits import network

LEEWAY_SECONDS = 30
JWT_PARTS = 3
LONGEST_TOKEN = 16_000
LONGEST_SUBJECT = 255
# The year 10000 in Unix seconds. Later times are rejected.
END_OF_TIME = 253_402_300_800
MOST_VERIFIED = 10_000
_USUAL = "Bearer "

Claims = Mapping[str, Any]

# Invalid tokens make PyJWT raise more than its own errors.
_INVALID = (jwt.InvalidTokenError, ValueError, TypeError, OverflowError, RecursionError)


@dataclass(frozen=True, slots=True)
class Principal:
    """The user of a request, and when its token expires: `exp` plus the leeway, in Unix seconds."""

    user_id: UUID
    expires_at: float


FirstSight = Callable[[Principal, Claims], Awaitable[None]]


class Signer:
    """Creates HS256 tokens that an Authenticator with the same secret accepts."""

    def __init__(self, secret: str, issuer: str | None = None, audience: str | None = None) -> None:
        self._secret = secret
        self._claims = {"iss": issuer} if issuer else {}
        self._claims |= {"aud": audience} if audience else {}

    def token(self, user_id: UUID, lifetime: timedelta) -> str:
        """A token for a user, valid from now on."""
        now = datetime.now(UTC)
        claims = {"sub": str(user_id), "iat": now, "exp": now + lifetime}
        return jwt.encode(self._claims | claims, self._secret, algorithm="HS256")


class Authenticator:
    """Verifies tokens, each only with the keys of its own issuer.

    Verified tokens are cached by digest until they expire or their key is withdrawn. `first_sight` is awaited for each
    token that is not in the cache, and may reject it.
    """

    def __init__(self, issuers: Sequence[Issuer], first_sight: FirstSight | None = None) -> None:
        self._sources = {issuer.name: _Source(issuer) for issuer in issuers}
        self._first_sight = first_sight
        self._verified = FairCache[bytes, _Verified](MOST_VERIFIED)

    async def principal(self, authorization: str | None, address: str = "") -> Principal:
        """The principal of an Authorization header. Raises Unauthenticated, or Unavailable if keys cannot be fetched.

        Does not suspend with a secret or for a cached token. How many callers of one `address` may wait for keys is
        limited.
        """
        token = _bearer(authorization)
        known = self._known(token)
        if known:
            return known
        verified, claims = await self._verify(token, network(address))
        if self._first_sight:
            await self._first_sight(verified.principal, claims)
        self._verified.put(_digest(token), verified, str(verified.principal.user_id))
        return verified.principal

    def remembered(self, authorization: str | None) -> Principal | None:
        """The principal of a header if its token is cached, otherwise None. Supports only the usual header format."""
        if authorization is None or not authorization.startswith(_USUAL):
            return None
        return self._known(authorization[len(_USUAL) :])

    def _known(self, token: str) -> Principal | None:
        known = self._verified.entries.get(_digest(token))
        return known.value.principal if known and known.value.holds() else None

    async def keys_had(self) -> None:
        """Raise Unavailable if there are no keys of an issuer."""
        for source in self._sources.values():
            await source.keys.had()

    async def close(self) -> None:
        for source in self._sources.values():
            await source.keys.close()

    async def _verify(self, token: str, address: str) -> tuple["_Verified", Claims]:
        header, claims = _unverified(token)
        source = self._source(claims.get("iss"))
        tried: list[Key] = []
        while candidates := await source.keys.candidates(header.get("kid"), header.get("alg"), tried, address):
            for key in candidates:
                if source.verifies(token, key):
                    return _Verified(source.principal(claims), source, key), claims
            tried += candidates
        raise Unauthenticated("The token is not valid: its signature matches none of the issuer's keys.")

    def _source(self, name: object) -> "_Source":
        # The key None exists only for a secret without AUTH_ISSUER: the claim `iss` is then not checked.
        source = self._sources.get(None) or (self._sources.get(name) if isinstance(name, str) else None)
        if source is None:
            raise Unauthenticated("The token is not valid: this server does not accept tokens of its issuer (iss).")
        return source


@dataclass(frozen=True, slots=True)
class _Verified:
    principal: Principal
    source: "_Source"
    key: Key

    def holds(self) -> bool:
        return self.principal.expires_at > time.time() and self.source.keys.holds(self.key)


class _Secret:
    """The single key of an issuer with a shared secret, with the interface of KeySet."""

    def __init__(self, secret: str) -> None:
        self._key = Key(None, ("HS256",), secret.encode())

    async def candidates(
        self, _kid: str | None, algorithm: object, tried: Sequence[Key] = (), _address: str = ""
    ) -> Keys:
        return (self._key,) if algorithm in self._key.algorithms and not tried else ()

    def holds(self, _key: Key) -> bool:
        return True

    async def had(self) -> None:
        """Do nothing: the key is always available."""

    async def close(self) -> None:
        """Do nothing: nothing is open."""


class _Source:
    """One issuer and its keys."""

    def __init__(self, issuer: Issuer) -> None:
        self._issuer = issuer
        self.keys = KeySet(issuer.jwks_url) if issuer.jwks_url else _Secret(issuer.secret or "")

    def verifies(self, token: str, key: Key) -> bool:
        """Whether a key has signed a token. Raises Unauthenticated if it has, but the claims are not valid."""
        try:
            jwt.decode(
                token,
                key.material,
                algorithms=list(key.algorithms),
                issuer=self._issuer.name,
                audience=self._issuer.audience,
                leeway=LEEWAY_SECONDS,
                options={"verify_aud": self._issuer.audience is not None},
            )
        except jwt.InvalidSignatureError:
            return False
        except jwt.ExpiredSignatureError:
            raise Unauthenticated("The token has expired; get a new one.", Unauthenticated.EXPIRED) from None
        except jwt.ImmatureSignatureError:
            reason = Unauthenticated.NOT_YET_VALID
            raise Unauthenticated("The token is not valid yet: its nbf or iat is in the future.", reason) from None
        except jwt.InvalidAudienceError:
            raise Unauthenticated("The token is not valid: it is for another audience (aud).") from None
        except _INVALID:
            raise Unauthenticated("The token is not valid.") from None
        return True

    def principal(self, claims: Claims) -> Principal:
        subject = claims["sub"]
        user_id = self._derived(subject) if self._issuer.derives_ids else _uuid(subject)
        return Principal(user_id, float(int(claims["exp"]) + LEEWAY_SECONDS))

    def _derived(self, subject: str) -> UUID:
        """A UUID that is unique for each issuer and subject: the subject is hashed in the namespace of its issuer."""
        if not (0 < len(subject) <= LONGEST_SUBJECT and subject.isprintable()):
            raise Unauthenticated(
                f"The token's sub must have 1 to {LONGEST_SUBJECT} characters, all of them printable."
            )
        return uuid5(uuid5(NAMESPACE_URL, self._issuer.name or ""), subject)


def _uuid(subject: str) -> UUID:
    try:
        return identifier(subject, "sub")
    except BadUserInput:
        raise Unauthenticated(
            "The token's sub is not a UUID. For issuers with other user ids, set AUTH_SUBJECT=derived on the server."
        ) from None


def _digest(token: str) -> bytes:
    return sha256(token.encode(errors="surrogatepass")).digest()


def _bearer(authorization: str | None) -> str:
    if authorization is None:
        raise Unauthenticated("Send a token: Authorization: Bearer <token>.", Unauthenticated.MISSING)
    scheme, _, token = authorization.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated("The Authorization header must read: Bearer <token>.")
    if token.count(".") != JWT_PARTS - 1:
        raise Unauthenticated("The token is not a JWT. With Better Auth, get one from its endpoint /api/auth/token.")
    if len(token) > LONGEST_TOKEN:
        raise Unauthenticated(f"The token is longer than {LONGEST_TOKEN:,} characters.")
    return token


def _unverified(token: str) -> tuple[Claims, Claims]:
    """Header and claims of a token before verification, to choose the key. Checks what PyJWT does not."""
    try:
        parts = jwt.decode_complete(token, options={"verify_signature": False})
    except _INVALID:
        raise Unauthenticated("The token is not valid: it is not a JWT.") from None
    claims = parts["payload"]
    # PyJWT accepts strings, Booleans and times out of range.
    if not all(_is_time(claims.get(name)) for name in ("exp", "iat")) or not _is_time(claims.get("nbf", 0)):
        raise Unauthenticated("The token must have exp and iat, and these and nbf must be Unix times in seconds.")
    if not isinstance(claims.get("sub"), str):
        raise Unauthenticated("The token has no sub.")
    return parts["header"], claims


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < END_OF_TIME
