"""A bearer token becomes a Principal, or Unauthenticated."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import jwt

from app.errors import BadUserInput, Unauthenticated
from app.validation import identifier

ALGORITHM = "HS256"
LEEWAY_SECONDS = 30
JWT_PARTS = 3


@dataclass(frozen=True, slots=True)
class Principal:
    """Whom a request speaks for, and until when (Unix seconds)."""

    user_id: UUID
    expires_at: float


class Authenticator:
    """Verifies and signs HS256 tokens."""

    def __init__(self, secret: str, issuer: str | None = None, audience: str | None = None) -> None:
        self._secret, self._issuer, self._audience = secret, issuer, audience

    def principal(self, authorization: str | None) -> Principal:
        """The principal of an Authorization header."""
        claims = self._claims(_bearer(authorization))
        try:
            return Principal(identifier(claims["sub"], "sub"), float(claims["exp"]))
        except (BadUserInput, OverflowError):
            raise Unauthenticated("The token's sub is not the UUID of a user, or its exp no time.") from None

    def token(self, user_id: UUID, lifetime: timedelta) -> str:
        """A token for a user, valid from now on."""
        now = datetime.now(UTC)
        claims: dict[str, Any] = {"sub": str(user_id), "iat": now, "exp": now + lifetime}
        claims |= {"iss": self._issuer} if self._issuer else {}
        claims |= {"aud": self._audience} if self._audience else {}
        return jwt.encode(claims, self._secret, algorithm=ALGORITHM)

    def _claims(self, token: str) -> dict[str, Any]:
        try:
            return jwt.decode(
                token,
                self._secret,
                algorithms=[ALGORITHM],
                issuer=self._issuer,
                audience=self._audience,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iat", "sub"], "verify_aud": self._audience is not None},
            )
        except jwt.ExpiredSignatureError:
            raise Unauthenticated("The token has expired; get a new one.") from None
        # PyJWT lets some of what a hostile token makes it meet pass through as it is.
        except (jwt.InvalidTokenError, ValueError, TypeError, OverflowError, RecursionError):
            raise Unauthenticated("The token does not hold.") from None


def _bearer(authorization: str | None) -> str:
    if authorization is None:
        raise Unauthenticated("Send a token: Authorization: Bearer <token>.")
    scheme, _, token = authorization.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated("The Authorization header must read: Bearer <token>.")
    if token.count(".") != JWT_PARTS - 1:
        raise Unauthenticated("This is no JWT. With Better Auth, fetch one from its /api/auth/token endpoint.")
    return token
