"""The key sets (JWKS) of issuers: fetched rarely, with one request for all callers, without delaying known keys."""

import asyncio
import logging
import math
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import httpx
import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP521R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from app.errors import Unavailable
from app.sharing.turns import Turns

log = logging.getLogger(__name__)

# All in seconds.
FRESH = 300.0
COOLDOWN = 10.0
FETCH_TIMEOUT = 3.0

MOST_BYTES = 200_000
MOST_KEYS = 100
# Callers waiting for a fetch, in total and for each address.
MOST_WAITING, WAITING_OF_AN_ADDRESS = 200, 50
MOST_TRIED = 5
SMALLEST_RSA = 2048
ALGORITHMS = ("EdDSA", "ES256", "ES512", "RS256", "PS256")

Keys = tuple["Key", ...]

_NO_KEYS = "The keys of the token's issuer cannot be fetched; try again."


class FetchFailed(Exception):
    """A key set cannot be fetched; the text says why."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key that verifies tokens, and its algorithms. Two keys are equal if they were published with the same JSON."""

    kid: str | None
    algorithms: tuple[str, ...]
    material: Any = field(compare=False, repr=False)
    published: bytes = field(default=b"", repr=False)


class KeySet:
    """The keys that an issuer publishes.

    For five minutes they are used without a fetch. After that, a known key is used at once while the set is fetched in
    the background, also if fetches fail. If no fetch has ended for ten minutes, callers wait for one.

    An unknown key causes a fetch. All callers wait for the same fetch, and fetches are at least ten seconds apart. In
    between, tokens with an unknown key are rejected at once, because anyone can invent a key id.

    `now` returns seconds and is a parameter for tests.
    """

    def __init__(
        self,
        url: str,
        fetch: Callable[[str], Awaitable[Keys]] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url, self._fetch, self._now = url, fetch or fetched, now
        self._keys: Keys = ()
        self._fetched_at = self._failed_at = self._next_fetch = -math.inf
        self._fetching: asyncio.Task[None] | None = None
        self._waiting = Turns[str](MOST_WAITING, WAITING_OF_AN_ADDRESS)

    async def candidates(
        self, kid: str | None, algorithm: object, tried: Sequence[Key] = (), address: str = ""
    ) -> Keys:
        """The keys that may have signed a token, without those already `tried`.

        `address` is the caller's. Raises Unavailable if no key fits and the issuer cannot be asked.
        """
        if algorithm not in ALGORITHMS:
            return ()
        found = self._fitting(kid, algorithm, tried)
        if found and not self._is_old():
            self._renew_in_time()
            return found
        if not found and not tried:
            await self._renewed(address)
        elif found or self._may_fetch():
            with suppress(Unavailable):
                await self._renewed(address)
        return self._fitting(kid, algorithm, tried)

    def holds(self, key: Key) -> bool:
        """Whether a key is still valid, without waiting. Starts a fetch in the background if one is due."""
        if self._is_old():
            return False
        self._renew_in_time()
        return key in self._keys

    async def had(self) -> None:
        """Raise Unavailable if no keys were ever fetched and they cannot be fetched now."""
        if not self._keys:
            await self._renewed()

    async def close(self) -> None:
        """Cancel a running fetch."""
        if self._fetching is not None:
            self._fetching.cancel()
            with suppress(asyncio.CancelledError):
                await self._fetching

    def _fitting(self, kid: str | None, algorithm: object, tried: Sequence[Key]) -> Keys:
        """The keys with this id, or, if the token or the keys have no id, a few that fit the algorithm."""
        fitting = [key for key in self._keys if algorithm in key.algorithms]
        named = [key for key in fitting if kid is not None and key.kid == kid]
        unnamed = [key for key in fitting if kid is None or key.kid is None]
        return tuple(key for key in named or unnamed[:MOST_TRIED] if key not in tried)

    @property
    def _failed(self) -> bool:
        return self._failed_at > self._fetched_at

    def _is_old(self) -> bool:
        """Whether the last fetch is so long ago that a key may have been withdrawn unnoticed."""
        return self._now() - max(self._fetched_at, self._failed_at) > 2 * FRESH

    def _may_fetch(self) -> bool:
        return self._now() >= self._next_fetch

    def _renew_in_time(self) -> None:
        if self._now() - self._fetched_at > FRESH:
            self._renewal()

    def _renewal(self) -> "asyncio.Task[None] | None":
        """The running fetch, started now if allowed; None during the cooldown."""
        if self._fetching is not None and not self._fetching.done():
            return self._fetching
        if not self._may_fetch():
            return None
        self._next_fetch = self._now() + COOLDOWN
        self._fetching = asyncio.create_task(self._renew())
        return self._fetching

    async def _renewed(self, address: str = "") -> None:
        """Wait for new keys. Raises Unavailable if the fetch fails or is not allowed yet."""
        renewal = self._renewal()
        if renewal is None:
            raise Unavailable(_NO_KEYS, max(1, math.ceil(self._next_fetch - self._now())))
        if not self._waiting.take(address):
            raise Unavailable(_NO_KEYS)
        try:
            # Shielded: a client that disconnects must not cancel the fetch for the others.
            await asyncio.shield(renewal)
        finally:
            self._waiting.give(address)
        if self._failed:
            raise Unavailable(_NO_KEYS)

    async def _renew(self) -> None:
        try:
            self._keys = await self._fetch(self._url)
        except FetchFailed as error:
            self._failed_at = self._now()
            log.warning("the key set at %s cannot be fetched: %s", urlsplit(self._url).hostname, error)
        else:
            self._fetched_at = self._now()


async def fetched(url: str) -> Keys:
    """The usable keys at a URL, at least one. Raises FetchFailed."""
    try:
        async with asyncio.timeout(FETCH_TIMEOUT):
            body = await _body(url)
        published = orjson.loads(body)["keys"][:MOST_KEYS]
    except TimeoutError:
        raise FetchFailed(f"no response within {FETCH_TIMEOUT:.0f} seconds") from None
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError) as error:
        raise FetchFailed(str(error) or type(error).__name__) from None
    except (ValueError, TypeError, LookupError):
        raise FetchFailed("the response is not a JSON Web Key Set") from None
    keys = tuple(key for key in map(_key, published) if key)
    if not keys:
        raise FetchFailed(f"none of its {len(published)} keys can be used for {', '.join(ALGORITHMS)}")
    return keys


async def _body(url: str) -> bytes:
    """The response body, up to MOST_BYTES. Redirects are not followed: they could lead anywhere."""
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    # trust_env=False: otherwise httpx takes proxies and credentials from variables and from .netrc.
    async with (
        httpx.AsyncClient(verify=_tls(), timeout=FETCH_TIMEOUT, trust_env=False) as client,
        client.stream("GET", url, headers=headers) as response,
    ):
        if response.status_code != httpx.codes.OK:
            raise FetchFailed(f"the response is {response.status_code} {response.reason_phrase}")
        body = b""
        async for part in response.aiter_raw():
            body += part
            if len(body) > MOST_BYTES:
                raise FetchFailed(f"the response is longer than {MOST_BYTES:,} bytes")
        return body


@cache
def _tls() -> ssl.SSLContext:
    """The system's certificate authorities. Cached because loading them takes some milliseconds."""
    return ssl.create_default_context()


def _key(published: Any) -> Key | None:
    """A published key, with those of our algorithms that it can verify; None if there are none."""
    if not isinstance(published, dict) or published.get("use") not in (None, "sig") or "d" in published:
        return None
    kid, operations = published.get("kid"), published.get("key_ops") or ["verify"]
    if not isinstance(kid, str | None) or not isinstance(operations, list) or "verify" not in operations:
        return None
    try:
        # Without `alg`, which PyJWT accepts even if it does not fit the type of the key.
        material = jwt.PyJWK({name: value for name, value in published.items() if name != "alg"}).key
        text = orjson.dumps(published, option=orjson.OPT_SORT_KEYS)
    except Exception:  # noqa: BLE001 - PyJWT raises many types of errors, and one malformed key must not invalidate the others
        return None
    named = published.get("alg")
    algorithms = tuple(name for name in _algorithms(material) if named is None or named == name)
    return Key(kid, algorithms, material, text) if algorithms else None


def _algorithms(material: object) -> tuple[str, ...]:
    """The supported algorithms that fit a key."""
    if isinstance(material, Ed25519PublicKey):
        return ("EdDSA",)
    if isinstance(material, RSAPublicKey) and material.key_size >= SMALLEST_RSA:
        return ("RS256", "PS256")
    curve = material.curve if isinstance(material, EllipticCurvePublicKey) else None
    if isinstance(curve, SECP256R1):
        return ("ES256",)
    return ("ES512",) if isinstance(curve, SECP521R1) else ()
