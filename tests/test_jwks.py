"""The key set of an issuer: how often it is fetched, who waits for it, which of its keys count, what may go wrong."""

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
    """Time that passes when a test says so; who sleeps wakes when it has passed."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds

    def pass_(self, seconds: float) -> None:
        self.seconds += seconds


class FakeIssuer:
    """What is fetched, and when; it hangs for as long as `answers` is not set, and fails while it has no keys."""

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
    """An authenticator with the key set of a fake issuer, on a clock of its own."""

    def __init__(self, *keys: SigningKey) -> None:
        self.clock = Clock()
        self.issuer = FakeIssuer(self.clock, *keys)
        self.set = KeySet("https://issuer.example/jwks", self.issuer.fetch, self.clock.now)
        self.authenticator = Authenticator([Issuer("https://issuer.example", "taskql", jwks_url="https://i.example")])
        self.authenticator._sources["https://issuer.example"].keys = self.set  # noqa: SLF001 - time is injected

    async def outcome(self, key: SigningKey, **header: Any) -> str:
        """The user of a new token of a key, or the kind of its refusal."""
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
    """Let everything run that can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_many_at_once_share_one_fetch() -> None:
    """Fifty first requests wait for one and the same fetch."""
    stage = Stage(OLD)
    stage.issuer.answers.clear()
    waiting = [stage.start(OLD) for _ in range(50)]
    await turns()
    stage.issuer.answers.set()

    assert set(await asyncio.gather(*waiting)) == {ALICE}
    assert stage.fetches == [0.0]


async def test_a_set_is_fresh_for_five_minutes() -> None:
    """Within five minutes nothing is fetched; after them once, and nobody waits for it."""
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


async def test_a_hanging_issuer_slows_no_known_key() -> None:
    """While the issuer hangs and fifty unknown keys arrive, known ones hold at once; it is asked once in 10 s."""
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
    """Whatever comes, for two minutes, the issuer is asked at most once in ten seconds."""
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


async def test_an_unknown_key_right_after_a_fetch_is_refused_at_once() -> None:
    """Anybody can make up a key: within the cooldown nobody waits for one, and each is told when to come again."""
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
    """While a new key takes over, every valid token holds; when the old key is gone, its tokens do not."""
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


async def test_a_withdrawn_key_does_not_outlive_a_quiet_time() -> None:
    """After long without requests the set is fetched before any key counts, also for tokens that are remembered."""
    stage = Stage(OLD)
    bearer = f"Bearer {token(OLD, claims(ALICE))}"
    await stage.authenticator.principal(bearer)
    stage.issuer.keys = (NEW,)
    stage.clock.pass_(2 * FRESH + 1)

    with pytest.raises(Unauthenticated):
        await stage.authenticator.principal(bearer)


async def test_an_issuer_that_is_down_after_a_quiet_time_costs_no_known_key() -> None:
    """When the fetch that comes first fails, the key that was known still counts; and it is asked for again in time."""
    stage = Stage(OLD)
    await stage.outcome(OLD)
    stage.issuer.keys = ()
    stage.clock.pass_(2 * FRESH + 1)
    assert await stage.outcome(OLD) == await stage.outcome(OLD) == ALICE
    assert len(stage.fetches) == 2

    stage.issuer.keys = (NEW,)
    stage.clock.pass_(2 * FRESH + 1)
    assert await stage.outcome(OLD) == "Unauthenticated"


async def test_an_issuer_that_is_down_costs_no_known_key() -> None:
    """Keys stay good for as long as the issuer cannot be asked: hours, too."""
    stage = Stage(OLD)
    await stage.outcome(OLD)
    stage.issuer.keys = ()
    for _ in range(60):
        stage.clock.pass_(FRESH / 2)
        assert await stage.outcome(OLD) == ALICE
        await turns()


async def test_an_issuer_that_comes_back() -> None:
    """When the first fetch fails, callers are told to try again; after the cooldown the keys are there."""
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
async def test_a_key_replaced_under_its_name(before: SigningKey, after: SigningKey) -> None:
    """A key that comes in the place of another, under the same kid or none, fails no request."""
    stage = Stage(before)
    assert await stage.outcome(before) == ALICE
    stage.clock.pass_(COOLDOWN)
    stage.issuer.keys = (after,)

    assert await stage.outcome(after) == ALICE
    assert len(stage.fetches) == 2


async def test_a_bad_signature_never_waits() -> None:
    """A known key that did not sign is no reason to wait for the cooldown, nor to call the issuer down."""
    stage = Stage(OLD)
    await stage.outcome(OLD)
    stranger = made_key("EdDSA", "old")
    assert await stage.outcome(stranger) == "Unauthenticated"
    stage.issuer.keys = ()
    stage.clock.pass_(COOLDOWN)
    assert await stage.outcome(stranger) == "Unauthenticated"
    assert await stage.outcome(stranger) == "Unauthenticated"

    assert stage.fetches == [0.0, COOLDOWN]


async def test_two_keys_of_one_name() -> None:
    """Under a kid that two keys have, either may have signed."""
    twins = made_key("EdDSA", "twin"), made_key("EdDSA", "twin"), made_key("ES256", "twin")
    stage = Stage(*twins)

    assert [await stage.outcome(key) for key in twins] == [ALICE] * 3
    assert stage.fetches == [0.0]


async def test_keys_and_tokens_without_a_name() -> None:
    """A token without kid holds by whichever key of its algorithm, also while two are published for a rotation."""
    unnamed = made_key("ES256", None)
    stage = Stage(OLD, unnamed)
    assert await stage.outcome(OLD, kid=None) == await stage.outcome(unnamed) == ALICE
    assert await stage.outcome(unnamed, kid="unheard of") == ALICE

    more = made_key("EdDSA", "more")
    stage = Stage(OLD, more)
    assert await stage.outcome(OLD, kid=None) == await stage.outcome(more, kid=None) == ALICE
    assert await stage.outcome(made_key("EdDSA", "stranger"), kid=None) == "Unauthenticated"


async def test_too_many_that_wait_are_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown keys cannot pile up requests without bound, and one address leaves room for the others."""
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


async def test_a_caller_who_goes_away_takes_nothing_along() -> None:
    """When the first of those who wait is cancelled, the others still get their keys from the same fetch."""
    stage = Stage(OLD)
    stage.issuer.answers.clear()
    first, second = stage.start(OLD), stage.start(OLD)
    await turns()
    first.cancel()
    await turns()
    stage.issuer.answers.set()

    assert await second == ALICE
    assert stage.fetches == [0.0]


async def test_closing_ends_what_is_under_way() -> None:
    """The application does not wait for an issuer when it stops."""
    stage = Stage(OLD)
    stage.issuer.answers.clear()
    waiting = stage.start(OLD)
    await turns()
    await stage.authenticator.close()

    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_what_does_not_suspend() -> None:
    """A token by the secret, and any that is remembered, is verified without a turn of the event loop."""
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


async def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many tokens come, no more than the bound are kept, and none of their text."""
    monkeypatch.setattr("app.identity.tokens.MOST_VERIFIED", 10)
    stage = Stage(OLD)
    for _ in range(25):
        assert await stage.outcome(OLD) == ALICE
        await stage.outcome(made_key("EdDSA", "old"))

    remembered = stage.authenticator._verified  # noqa: SLF001 - what it holds is the point
    assert 0 < len(remembered) <= 10
    assert {len(digest) for digest in remembered} == {32}


async def test_a_token_is_remembered_once() -> None:
    """However its header is written, a token takes one place among the remembered."""
    stage = Stage(OLD)
    bearer, principal = token(OLD, claims(ALICE)), None
    for authorization in (f"Bearer {bearer}", f"bearer {bearer}", f"Bearer   {bearer}\t", f"Bearer \xa0{bearer}"):
        principal = await stage.authenticator.principal(authorization)

    assert len(stage.authenticator._verified) == 1  # noqa: SLF001 - what it holds is the point
    assert stage.authenticator.remembered(f"Bearer {bearer}") == principal
    for other in (None, "", bearer, f"Digest {bearer}", f"Bearer {bearer}x", f"Bearer {bearer[:-1]}"):
        assert stage.authenticator.remembered(other) is None


@pytest.fixture
async def issuer() -> AsyncIterator[Published]:
    async with published(OLD, NEW) as issuer:
        yield issuer


async def test_fetching(issuer: Published) -> None:
    """Keys come over HTTP, with the algorithms that they are for."""
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
async def test_what_is_no_key_set(issuer: Published, body: bytes, words: str) -> None:
    """Whatever stands at the address is told from a key set, and read no further than one is long."""
    issuer.body = body

    with pytest.raises(FetchFailed, match=words):
        await fetched(issuer.url)


@pytest.mark.parametrize("status", ["404 Not Found", "500 Oops", "204 No Content", "401 Unauthorized"])
async def test_an_answer_that_is_none(issuer: Published, status: str) -> None:
    """Only 200 gives keys; the failure names what came instead."""
    issuer.status = status

    with pytest.raises(FetchFailed, match=status):
        await fetched(issuer.url)


async def test_https_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys come only from whom an authority of this machine vouches for."""
    certificate = self_signed(tmp_path)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate)
    key_sets._tls.cache_clear()  # noqa: SLF001 - what this machine trusts is read once
    async with published(OLD, tls=server) as issuer:
        with pytest.raises(FetchFailed, match="certificate verify failed"):
            await fetched(issuer.url)
        assert issuer.fetches == 0

        key_sets._tls.cache_clear()  # noqa: SLF001 - the same
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert [key.kid for key in await fetched(issuer.url)] == ["old"]
        with pytest.raises(FetchFailed, match="certificate verify failed"):
            await fetched(issuer.url.replace("localhost", "127.0.0.1"))
    key_sets._tls.cache_clear()  # noqa: SLF001 - the same


async def turns_of_fetch(keys: KeySet) -> None:
    """Wait for the fetch that is under way."""
    assert keys._fetching  # noqa: SLF001 - nobody else tells of it
    await keys._fetching  # noqa: SLF001 - as above


async def test_a_set_that_becomes_empty(issuer: Published) -> None:
    """When the issuer publishes no keys, or none that count, those it had still do."""
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


async def test_redirects_are_refused(issuer: Published) -> None:
    """An issuer that points elsewhere is not followed."""
    async with published(OLD) as elsewhere:
        issuer.status, issuer.headers = "302 Found", f"Location: {elsewhere.url}\r\n"

        with pytest.raises(FetchFailed, match="302"):
            await fetched(issuer.url)
        assert elsewhere.fetches == 0


async def test_an_issuer_that_hangs(issuer: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fetch ends in time, whatever the issuer does."""
    monkeypatch.setattr(key_sets, "FETCH_TIMEOUT", 0.05)
    issuer.answers.clear()

    with pytest.raises(FetchFailed, match="no response"):
        await fetched(issuer.url)


async def test_an_address_where_nobody_is() -> None:
    """A refused connection is a failure like any other."""
    async with published(OLD) as issuer:
        gone = issuer.url

    with pytest.raises(FetchFailed):
        await fetched(gone)


async def test_proxies_of_the_environment_are_not_asked(issuer: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but the settings decides where keys come from."""
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
async def test_a_key_that_does_not_count(issuer: Published, name: str) -> None:
    """A key that is not for verifying, too weak or odd is passed over, and costs its neighbours nothing."""
    issuer.publish(SigningKey("", None, None, ODD[name]), OLD)

    assert [key.kid for key in await fetched(issuer.url)] == ["old"]


async def test_an_issuer_whose_keys_are_not_to_be_had(caplog: pytest.LogCaptureFixture) -> None:
    """The log says that and why a key set could not be fetched, and nothing of any token."""
    stage = Stage()
    bearer = token(OLD, claims(ALICE))
    with pytest.raises(Unavailable):
        await stage.authenticator.principal(f"Bearer {bearer}")

    assert "key set at issuer.example cannot be fetched: none" in caplog.text
    assert not any(part in caplog.text for part in bearer.split("."))
