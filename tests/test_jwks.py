"""Key sets of issuers: fetch frequency, waiting requests, usable keys and failures."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from issuer import Published, SigningKey, claims, made_key, published, self_signed, token

from app.errors import RequestError, Unauthenticated, Unavailable
from app.identity import key_sets
from app.identity.key_sets import COOLDOWN, FRESH, FetchFailed, Key, KeySet, fetched
from app.identity.tokens import Authenticator
from app.settings import Issuer

ALICE = "01890a5d-ac96-774b-bcce-b302099a8057"
OLD, NEW = made_key("EdDSA", "old"), made_key("ES256", "new")


class Clock:
    """A clock that a test advances; sleepers wake when their time has passed."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds

    def pass_(self, seconds: float) -> None:
        self.seconds += seconds


class FakeIssuer:
    """A fake issuer that records fetches; it hangs until `answers` is set, and fails while it has no keys."""

    def __init__(self, clock: Clock, *keys: SigningKey) -> None:
        self.keys, self.clock, self.fetched_at = keys, clock, list[float]()
        self.answers = asyncio.Event()
        self.answers.set()

    async def fetch(self, _url: str) -> tuple[Key, ...]:
        self.fetched_at.append(self.clock.now())
        await self.answers.wait()
        if not self.keys:
            raise FetchFailed("none")
        found = tuple(key for key in (key_sets._key(dict(key.published)) for key in self.keys) if key)  # noqa: SLF001 - as published
        assert len(found) == len(self.keys)
        return found


class Stage:
    """An authenticator with the key set of a fake issuer, on a fake clock."""

    def __init__(self, *keys: SigningKey) -> None:
        self.clock = Clock()
        self.issuer = FakeIssuer(self.clock, *keys)
        self.set = KeySet("https://issuer.example/jwks", self.issuer.fetch, self.clock.now)
        self.authenticator = Authenticator([Issuer("https://issuer.example", "taskql", jwks_url="https://i.example")])
        self.authenticator._sources["https://issuer.example"].keys = self.set  # noqa: SLF001 - injects the clock

    async def outcome(self, key: SigningKey, **header: Any) -> str:
        """The user of a new token signed with a key, or the kind of error."""
        self._count = getattr(self, "_count", 0) + 1
        try:
            principal = await self.authenticator.principal(
                f"Bearer {token(key, claims(ALICE, count=self._count), **header)}"
            )
        except RequestError as refusal:
            return type(refusal).__name__
        return str(principal.user_id)

    def start(self, key: SigningKey, **header: Any) -> "asyncio.Task[str]":
        return asyncio.create_task(self.outcome(key, **header))

    @property
    def fetches(self) -> list[float]:
        return self.issuer.fetched_at


async def turns() -> None:
    """Let all tasks of the event loop run until they wait."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_many_at_once_share_one_fetch() -> None:
    """Fifty concurrent first requests share one fetch."""
    stage = Stage(OLD)
    stage.issuer.answers.clear()
    waiting = [stage.start(OLD) for _ in range(50)]
    await turns()
    stage.issuer.answers.set()

    assert set(await asyncio.gather(*waiting)) == {ALICE}
    assert stage.fetches == [0.0]


async def test_a_key_set_is_fresh_for_five_minutes() -> None:
    """A key set is not fetched again within five minutes; then it is once, in the background."""
    stage = Stage(OLD)
    await stage.outcome(OLD)
    stage.clock.pass_(FRESH)
    assert await stage.outcome(OLD) == ALICE
    assert stage.fetches == [0.0]

    stage.clock.pass_(1)
    stage.issuer.answers.clear()
    assert await stage.outcome(OLD) == ALICE
    await turns()
    assert stage.fetches == [0.0, FRESH + 1]
    await stage.set.close()


async def test_a_hanging_issuer_does_not_delay_known_keys() -> None:
    """A hanging issuer and unknown keys do not delay known keys; fetches are at least 10 s apart."""
    stage = Stage(OLD)
    await stage.outcome(OLD)
    stage.clock.pass_(FRESH + 1)
    stage.issuer.answers.clear()
    strangers = [stage.start(made_key("EdDSA", f"stranger {place}")) for place in range(50)]
    await turns()

    assert [await stage.outcome(OLD) for _ in range(50)] == [ALICE] * 50
    assert not any(stranger.done() for stranger in strangers)
    assert stage.fetches == [0.0, FRESH + 1]

    stage.issuer.keys = ()
    stage.issuer.answers.set()
    assert set(await asyncio.gather(*strangers)) == {"Unavailable"}
    for _ in range(9):
        stage.clock.pass_(1)
        assert await stage.outcome(made_key("EdDSA", "one more")) == "Unavailable"
        assert await stage.outcome(OLD) == ALICE
        await turns()
    assert stage.fetches == [0.0, FRESH + 1]

    stage.clock.pass_(1)
    await turns()
    assert await stage.outcome(OLD) == ALICE
    await turns()
    assert stage.fetches == [0.0, FRESH + 1, FRESH + 1 + COOLDOWN]
    await stage.set.close()


async def test_no_two_fetches_within_the_cooldown() -> None:
    """Under any load for two minutes, fetches are at least ten seconds apart."""
    stage = Stage(OLD)
    for second in range(120):
        for kid in ("old", "nobody", f"new {second}"):
            stage.start(made_key("EdDSA", kid))
        stage.issuer.keys = (OLD,) if second % 30 < 20 else ()
        await turns()
        stage.clock.pass_(1)
        await turns()

    gaps = [later - earlier for earlier, later in zip(stage.fetches, stage.fetches[1:], strict=False)]
    assert len(stage.fetches) > 5
    assert min(gaps) >= COOLDOWN
    stage.issuer.keys = (OLD,)
    stage.clock.pass_(COOLDOWN)
    await turns()


async def test_an_unknown_key_within_the_cooldown_is_rejected_at_once() -> None:
    """Within the cooldown an unknown key, which anyone can invent, is rejected at once with a time to retry."""
    stage = Stage(OLD)
    assert await stage.outcome(OLD) == ALICE
    stage.issuer.keys = (OLD, NEW)
    stage.clock.pass_(3)
    with pytest.raises(Unavailable) as refused:
        await stage.authenticator.principal(f"Bearer {token(NEW, claims(ALICE))}")
    assert refused.value.extensions["retryAfter"] == COOLDOWN - 3
    assert await stage.outcome(OLD) == ALICE

    stage.clock.pass_(COOLDOWN - 3)
    assert await stage.outcome(NEW) == ALICE
    assert stage.fetches == [0.0, COOLDOWN]


async def test_rotation_fails_no_request() -> None:
    """During rotation every valid token is accepted; once the old key is removed, its tokens are rejected."""
    stage = Stage(OLD)
    assert await stage.outcome(OLD) == ALICE
    stage.clock.pass_(60)
    stage.issuer.keys = (OLD, NEW)
    assert await stage.outcome(OLD) == await stage.outcome(NEW) == ALICE
    stage.clock.pass_(60)
    stage.issuer.keys = (NEW,)
    stage.clock.pass_(FRESH)
    await stage.outcome(NEW)
    await turns()

    assert await stage.outcome(NEW) == ALICE
    stage.clock.pass_(COOLDOWN)
    assert await stage.outcome(OLD) == "Unauthenticated"


async def test_a_withdrawn_key_is_rejected_after_a_pause() -> None:
    """After a long time without requests the set is fetched before any key is used, even for cached tokens."""
    stage = Stage(OLD)
    bearer = f"Bearer {token(OLD, claims(ALICE))}"
    await stage.authenticator.principal(bearer)
    stage.issuer.keys = (NEW,)
    stage.clock.pass_(2 * FRESH + 1)

    with pytest.raises(Unauthenticated):
        await stage.authenticator.principal(bearer)


async def test_known_keys_survive_a_failed_fetch_after_a_pause() -> None:
    """If that fetch fails, the known keys stay valid, and the next request after another pause fetches again."""
    stage = Stage(OLD)
    await stage.outcome(OLD)
    stage.issuer.keys = ()
    stage.clock.pass_(2 * FRESH + 1)
    assert await stage.outcome(OLD) == await stage.outcome(OLD) == ALICE
    assert len(stage.fetches) == 2

    stage.issuer.keys = (NEW,)
    stage.clock.pass_(2 * FRESH + 1)
    assert await stage.outcome(OLD) == "Unauthenticated"


async def test_known_keys_survive_an_outage_of_the_issuer() -> None:
    """Known keys stay valid while the issuer is unavailable, even for hours."""
    stage = Stage(OLD)
    await stage.outcome(OLD)
    stage.issuer.keys = ()
    for _ in range(60):
        stage.clock.pass_(FRESH / 2)
        assert await stage.outcome(OLD) == ALICE
        await turns()


async def test_an_issuer_that_comes_back() -> None:
    """If the first fetch fails, callers are told to retry; after the cooldown the keys are fetched."""
    stage = Stage()
    assert await stage.outcome(OLD) == "Unavailable"
    stage.issuer.keys = (OLD,)
    assert await stage.outcome(OLD) == "Unavailable"
    stage.clock.pass_(COOLDOWN)

    assert await stage.outcome(OLD) == ALICE
    assert stage.fetches == [0.0, COOLDOWN]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (made_key("RS256", "same"), made_key("EdDSA", "same")),
        (made_key("EdDSA", "same"), made_key("EdDSA", "same")),
        (made_key("ES256", None), made_key("ES256", None)),
        (made_key("EdDSA", None), made_key("RS256", None)),
    ],
    ids=["another algorithm", "another key", "no kid", "no kid, another algorithm"],
)
async def test_a_replaced_key_with_the_same_kid(before: SigningKey, after: SigningKey) -> None:
    """A new key with the kid of another, or without one, is picked up without a failed request."""
    stage = Stage(before)
    assert await stage.outcome(before) == ALICE
    stage.clock.pass_(COOLDOWN)
    stage.issuer.keys = (after,)

    assert await stage.outcome(after) == ALICE
    assert len(stage.fetches) == 2


async def test_a_bad_signature_never_waits() -> None:
    """An invalid signature for a known kid is rejected without waiting, and is not reported as an outage."""
    stage = Stage(OLD)
    await stage.outcome(OLD)
    stranger = made_key("EdDSA", "old")
    assert await stage.outcome(stranger) == "Unauthenticated"
    stage.issuer.keys = ()
    stage.clock.pass_(COOLDOWN)
    assert await stage.outcome(stranger) == "Unauthenticated"
    assert await stage.outcome(stranger) == "Unauthenticated"

    assert stage.fetches == [0.0, COOLDOWN]


async def test_two_keys_with_one_kid() -> None:
    """If two keys have the same kid, either may have signed a token."""
    twins = made_key("EdDSA", "twin"), made_key("EdDSA", "twin"), made_key("ES256", "twin")
    stage = Stage(*twins)

    assert [await stage.outcome(key) for key in twins] == [ALICE] * 3
    assert stage.fetches == [0.0]


async def test_keys_and_tokens_without_a_kid() -> None:
    """A token without kid is verified with every key of its algorithm, also during rotation."""
    unnamed = made_key("ES256", None)
    stage = Stage(OLD, unnamed)
    assert await stage.outcome(OLD, kid=None) == await stage.outcome(unnamed) == ALICE
    assert await stage.outcome(unnamed, kid="unheard of") == ALICE

    more = made_key("EdDSA", "more")
    stage = Stage(OLD, more)
    assert await stage.outcome(OLD, kid=None) == await stage.outcome(more, kid=None) == ALICE
    assert await stage.outcome(made_key("EdDSA", "stranger"), kid=None) == "Unauthenticated"


async def test_waiting_requests_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of requests that wait for unknown keys is limited, in total and per address."""
    monkeypatch.setattr(key_sets, "MOST_WAITING", 4)
    monkeypatch.setattr(key_sets, "WAITING_OF_AN_ADDRESS", 3)
    stage = Stage(OLD)
    await stage.outcome(OLD)
    stage.clock.pass_(COOLDOWN)
    stage.issuer.answers.clear()
    waiting = [stage.start(NEW) for _ in range(3)]
    await turns()

    assert await stage.outcome(NEW) == "Unavailable"
    assert await stage.outcome(OLD) == ALICE
    stage.issuer.keys = (OLD, NEW)
    other = asyncio.create_task(stage.authenticator.principal(f"Bearer {token(NEW, claims(ALICE))}", "192.0.2.1"))
    await turns()
    stage.issuer.answers.set()
    assert set(await asyncio.gather(*waiting)) == {ALICE}
    assert str((await other).user_id) == ALICE


async def test_a_cancelled_request_does_not_cancel_the_fetch() -> None:
    """If the first waiting request is cancelled, the others still get the result of the shared fetch."""
    stage = Stage(OLD)
    stage.issuer.answers.clear()
    first, second = stage.start(OLD), stage.start(OLD)
    await turns()
    first.cancel()
    await turns()
    stage.issuer.answers.set()

    assert await second == ALICE
    assert stage.fetches == [0.0]


async def test_closing_cancels_the_fetch() -> None:
    """Closing the application cancels a fetch in progress."""
    stage = Stage(OLD)
    stage.issuer.answers.clear()
    waiting = stage.start(OLD)
    await turns()
    await stage.authenticator.close()

    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_cached_tokens_do_not_suspend() -> None:
    """A token signed with the secret, or a cached one, is verified without suspending."""
    stage = Stage(OLD)
    bearer = f"Bearer {token(OLD, claims(ALICE))}"
    await stage.authenticator.principal(bearer)
    secret = SigningKey("HS256", b"a secret of the tests, long enough")
    authenticator = Authenticator([Issuer(secret="a secret of the tests, long enough")])

    for coroutine in (
        stage.authenticator.principal(bearer),
        authenticator.principal(f"Bearer {token(secret, claims(ALICE))}"),
    ):
        with pytest.raises(StopIteration):
            coroutine.send(None)


async def test_the_token_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache of verified tokens is bounded, and does not contain their text."""
    monkeypatch.setattr("app.identity.tokens.MOST_VERIFIED", 10)
    stage = Stage(OLD)
    for _ in range(25):
        assert await stage.outcome(OLD) == ALICE
        await stage.outcome(made_key("EdDSA", "old"))

    remembered = stage.authenticator._verified  # noqa: SLF001 - the cache's content is the point
    assert 0 < len(remembered) <= 10
    assert {len(digest) for digest in remembered} == {32}


async def test_a_token_is_cached_once() -> None:
    """Encodings of the same token share one cache entry."""
    stage = Stage(OLD)
    bearer, principal = token(OLD, claims(ALICE)), None
    for authorization in (f"Bearer {bearer}", f"bearer {bearer}", f"Bearer   {bearer}\t", f"Bearer \xa0{bearer}"):
        principal = await stage.authenticator.principal(authorization)

    assert len(stage.authenticator._verified) == 1  # noqa: SLF001 - the cache's content is the point
    assert stage.authenticator.remembered(f"Bearer {bearer}") == principal
    for other in (None, "", bearer, f"Digest {bearer}", f"Bearer {bearer}x", f"Bearer {bearer[:-1]}"):
        assert stage.authenticator.remembered(other) is None


@pytest.fixture
async def issuer() -> AsyncIterator[Published]:
    async with published(OLD, NEW) as issuer:
        yield issuer


async def test_fetching(issuer: Published) -> None:
    """Keys are fetched over HTTP, with their algorithms."""
    keys = await fetched(issuer.url)

    assert [(key.kid, key.algorithms) for key in keys] == [("old", ("EdDSA",)), ("new", ("ES256",))]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not a JSON Web Key Set"),
        (b"<html>", "not a JSON Web Key Set"),
        (b"[]", "not a JSON Web Key Set"),
        (b"null", "not a JSON Web Key Set"),
        (b"{}", "not a JSON Web Key Set"),
        (b'{"keys": 5}', "not a JSON Web Key Set"),
        (b'{"keys": {"a": 1}}', "not a JSON Web Key Set"),
        (b"[" * 100_000, "not a JSON Web Key Set"),
        (b'{"keys": []}', "none of its 0 keys"),
        (b'{"keys": [1, null, "a", [], {}]}', "none of its 5 keys"),
        (b" " * (key_sets.MOST_BYTES + 1), "longer than"),
    ],
)
async def test_invalid_key_sets(issuer: Published, body: bytes, words: str) -> None:
    """An invalid key set is reported with the reason, and reading stops at the size limit."""
    issuer.body = body

    with pytest.raises(FetchFailed, match=words):
        await fetched(issuer.url)


@pytest.mark.parametrize("status", ["404 Not Found", "500 Oops", "204 No Content", "401 Unauthorized"])
async def test_an_error_status(issuer: Published, status: str) -> None:
    """A status other than 200 is a failure that names it."""
    issuer.status = status

    with pytest.raises(FetchFailed, match=status):
        await fetched(issuer.url)


async def test_https_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The certificate must be signed by a trusted authority and match the host."""
    certificate = self_signed(tmp_path)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate)
    key_sets._tls.cache_clear()  # noqa: SLF001 - the trusted certificates are read once
    async with published(OLD, tls=server) as issuer:
        with pytest.raises(FetchFailed, match="certificate verify failed"):
            await fetched(issuer.url)
        assert issuer.fetches == 0

        key_sets._tls.cache_clear()  # noqa: SLF001 - as above
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert [key.kid for key in await fetched(issuer.url)] == ["old"]
        with pytest.raises(FetchFailed, match="certificate verify failed"):
            await fetched(issuer.url.replace("localhost", "127.0.0.1"))
    key_sets._tls.cache_clear()  # noqa: SLF001 - as above


async def turns_of_fetch(keys: KeySet) -> None:
    """Wait for the fetch in progress."""
    assert keys._fetching  # noqa: SLF001 - no public way to wait for it
    await keys._fetching  # noqa: SLF001 - as above


async def test_a_set_that_becomes_empty(issuer: Published) -> None:
    """If the issuer publishes no usable keys, the previous ones stay valid."""
    clock = Clock()
    keys = KeySet(issuer.url, now=clock.now)
    known = await keys.candidates("old", "EdDSA")
    for published_now in ([], [made_key("ES384", "odd")]):
        issuer.publish(*published_now)
        clock.pass_(FRESH + 1)
        assert await keys.candidates("old", "EdDSA") == known
        await turns_of_fetch(keys)
        assert await keys.candidates("old", "EdDSA") == known

    assert issuer.fetches >= 3
    await keys.close()


async def test_redirects_are_not_followed(issuer: Published) -> None:
    """Redirects are not followed."""
    async with published(OLD) as elsewhere:
        issuer.status, issuer.headers = "302 Found", f"Location: {elsewhere.url}\r\n"

        with pytest.raises(FetchFailed, match="302"):
            await fetched(issuer.url)
        assert elsewhere.fetches == 0


async def test_an_issuer_that_hangs(issuer: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fetch from a hanging issuer times out."""
    monkeypatch.setattr(key_sets, "FETCH_TIMEOUT", 0.05)
    issuer.answers.clear()

    with pytest.raises(FetchFailed, match="no response"):
        await fetched(issuer.url)


async def test_a_refused_connection() -> None:
    """A refused connection is reported as a failed fetch."""
    async with published(OLD) as issuer:
        gone = issuer.url

    with pytest.raises(FetchFailed):
        await fetched(gone)


async def test_proxy_variables_have_no_effect(issuer: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxy variables in the environment have no effect on fetches."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    assert len(await fetched(issuer.url)) == 2


P256 = dict(made_key("ES256", "k").published)
ODD: dict[str, dict[str, Any]] = {
    "symmetric": {"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"},
    "symmetric for EdDSA": {"kty": "oct", "k": "c2VjcmV0", "alg": "EdDSA"},
    "for encryption": dict(made_key("RS256", "k", use="enc").published),
    "for wrapping": dict(made_key("RS256", "k", key_ops=["wrapKey"]).published),
    "operations that are none": P256 | {"key_ops": "verify"},
    "a weak RSA key": dict(made_key("RS256", "k", bits=1024).published),
    "an algorithm of others": dict(made_key("RS256", "k", alg="RS512").published),
    "an algorithm for encryption": dict(made_key("RS256", "k", alg="RSA-OAEP").published),
    "an algorithm of another kind": P256 | {"alg": "EdDSA"},
    "an algorithm that is HS256": P256 | {"alg": "HS256"},
    "an algorithm that is no text": P256 | {"alg": ["ES256"]},
    "a curve of others": dict(made_key("ES384", "k").published),
    "a curve for exchange": {"kty": "OKP", "crv": "X25519", "x": "A" * 43},
    "a curve that is none": P256 | {"crv": "P-1"},
    "a point beside the curve": P256 | {"y": P256["x"]},
    "a short point": P256 | {"x": "AQAB"},
    "numbers for text": P256 | {"x": 5},
    "a kid that is no text": P256 | {"kid": 5},
    "with its private half": P256 | {"d": "A" * 43},
    "no kty": {"crv": "P-256"},
    "an unknown kty": {"kty": "AKP", "alg": "ML-DSA-44"},
    "base64 that is none": P256 | {"x": "ü!"},
    "nested too deeply": P256 | {"more": json.loads("[" * 300 + "]" * 300)},
}


@pytest.mark.parametrize("name", ODD)
async def test_unusable_keys_are_skipped(issuer: Published, name: str) -> None:
    """An unusable key, such as one for encryption or a weak one, is skipped, and the other keys are used."""
    issuer.publish(SigningKey("", None, None, ODD[name]), OLD)

    assert [key.kid for key in await fetched(issuer.url)] == ["old"]


async def test_a_failed_fetch_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The log gives the reason of a failed fetch, and no part of any token."""
    stage = Stage()
    bearer = token(OLD, claims(ALICE))
    with pytest.raises(Unavailable):
        await stage.authenticator.principal(f"Bearer {bearer}")

    assert "key set at issuer.example cannot be fetched: none" in caplog.text
    assert not any(part in caplog.text for part in bearer.split("."))
