"""Tokens over HTTP, verified with a secret or a key set: the valid ones, and the uniform rejection of others."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from conftest import SECRET, Application, Server, User, running, taskql
from issuer import AUDIENCE, NAME, Published, SigningKey, claims, confused, made_key, published, shared_key, token
from jwt.utils import base64url_decode, base64url_encode
from patience import PATIENCE_SECONDS
from pydantic import SecretStr

from app.errors import Unauthenticated
from app.identity.tokens import LEEWAY_SECONDS
from app.settings import Settings

VIEWER = "{ viewer { id email } }"
NOW = int(time.time())
HOUR = 3600

ED = made_key("EdDSA", "ed")
RSA = made_key("RS256", "rsa")
ENCRYPTING = made_key("RS256", "enc", use="enc")
WEAK = made_key("RS256", "weak", bits=1024)
OTHER_CURVE = made_key("ES384", "p384")
STRANGER = made_key("EdDSA", "ed")
SYMMETRIC = SigningKey(
    "HS256", SECRET.encode(), "oct", {"kty": "oct", "kid": "oct", "k": "c2VjcmV0" * 8, "alg": "HS256"}
)
SET = [ED, RSA, ENCRYPTING, WEAK, OTHER_CURVE, SYMMETRIC]

SUB = str(uuid4())
GOOD = claims(SUB)


@dataclass(frozen=True)
class Mode:
    """A server with one of the two kinds of verification, and the key that it trusts."""

    name: str
    application: Application
    key: SigningKey

    async def post(self, authorization: str | None, query: str = VIEWER) -> httpx.Response:
        headers = {} if authorization is None else {"Authorization": authorization}
        return await self.application.http.post("/graphql", json={"query": query}, headers=headers)

    async def bearing(self, bearer: str, query: str = VIEWER) -> httpx.Response:
        return await self.post(f"Bearer {bearer}", query)


def settings_for(server: Server, **auth: Any) -> Settings:
    return Settings(database_url=SecretStr(server.app_url), auth_issuer=NAME, auth_audience=AUDIENCE, **auth)


@pytest.fixture(scope="module")
async def issuer() -> AsyncIterator[Published]:
    async with published(*SET) as issuer:
        yield issuer


@pytest.fixture(scope="module")
async def by_secret(server: Server, settings: Settings) -> AsyncIterator[Mode]:
    del settings
    async with running(settings_for(server, auth_secret=SecretStr(SECRET))) as application:
        yield Mode("secret", application, shared_key(SECRET))


@pytest.fixture(scope="module")
async def by_keys(server: Server, settings: Settings, issuer: Published) -> AsyncIterator[Mode]:
    """A server with a key set, without a cooldown between fetches for unknown keys."""
    del settings
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("app.identity.key_sets.COOLDOWN", 0)
        async with running(settings_for(server, auth_jwks_url=issuer.url)) as application:
            yield Mode("keys", application, ED)


@pytest.fixture(params=["by_secret", "by_keys"])
def mode(request: pytest.FixtureRequest) -> Mode:
    found: Mode = request.getfixturevalue(request.param)
    return found


@dataclass
class Clock:
    """Replaces the module `time`."""

    now: float

    def time(self) -> float:
        return self.now


def refuse_everything(_token: str) -> Any:
    raise Unauthenticated("not remembered")


Forged = Callable[[SigningKey], str]


def saying(**changed: Any) -> Forged:
    """A correctly signed token with changed claims."""
    return lambda key: token(key, claims(SUB, **changed))


def headed(**header: Any) -> Forged:
    return lambda key: token(key, GOOD, **header)


def holding(payload: bytes) -> Forged:
    return lambda key: token(key, payload)


def by(key: SigningKey, content: dict[str, Any], **header: Any) -> Forged:
    """A token signed with another key than the trusted one."""
    return lambda _key: token(key, content, **header)


def fixed(bearer: str) -> Forged:
    return lambda _key: bearer


def unsigned(algorithm: str) -> Forged:
    head = base64url_encode(json.dumps({"alg": algorithm, "typ": "JWT"}).encode()).decode()
    return lambda key: f"{head}.{token(key, GOOD).split('.')[1]}."


def cut(key: SigningKey) -> str:
    return token(key, GOOD)[:-8]


def swapped(key: SigningKey) -> str:
    """One token's signature with another one's claims."""
    head, _, signature = token(key, GOOD).split(".")
    return f"{head}.{token(key, claims(str(uuid4()))).split('.')[1]}.{signature}"


def text_of(claim: str, value: str) -> Forged:
    """A claim as raw JSON that no encoder would write."""
    raw = json.dumps({name: given for name, given in GOOD.items() if name != claim})
    return holding(f'{raw[:-1]}, "{claim}": {value}}}'.encode())


# Invalid tokens for both kinds of verification.
FORGED: dict[str, Forged] = {
    "alg none": unsigned("none"),
    "alg None": unsigned("None"),
    "alg nOnE": unsigned("nOnE"),
    "alg NONE": unsigned("NONE"),
    "alg empty": unsigned(""),
    "alg missing": headed(alg=None),
    "alg a list": headed(alg=["HS256"]),
    "alg a number": headed(alg=5),
    "alg in lower case": lambda key: token(key, GOOD, alg=key.algorithm.lower()),
    "alg in other case": lambda key: token(key, GOOD, alg=key.algorithm.swapcase()),
    "alg of others": headed(alg="HS999"),
    "alg HS384": by(shared_key(SECRET * 2, "HS384"), GOOD),
    "crit unknown": headed(crit=["exp"]),
    "crit empty": headed(crit=[]),
    "crit no list": headed(crit="b64"),
    "crit of b64": headed(crit=["b64"], b64=False),
    "b64 without crit": headed(b64=False),
    "kid a number": headed(kid=7),
    "kid an object": headed(kid={"a": 1}),
    "another's key": lambda key: token(
        STRANGER if key is ED else shared_key("another secret of the same length, 32"), GOOD
    ),
    "jku of others": by(STRANGER, GOOD, jku="https://evil.example/jwks"),
    "x5u of others": by(STRANGER, GOOD, x5u="https://evil.example/cert"),
    "jwk of others": by(STRANGER, GOOD, jwk=dict(STRANGER.published)),
    "signature cut": cut,
    "signature of other claims": swapped,
    "signature empty": lambda key: token(key, GOOD).rpartition(".")[0] + ".",
    "header no JSON": lambda key: "bm8." + token(key, GOOD).partition(".")[2],
    "header a list": lambda key: base64url_encode(b"[1]").decode() + "." + token(key, GOOD).partition(".")[2],
    "header nested deeply": lambda key: (
        base64url_encode(b"[" * 3000).decode() + "." + token(key, GOOD).partition(".")[2]
    ),
    "claims a list": holding(b"[1, 2]"),
    "claims null": holding(b"null"),
    "claims a string": holding(b'"sub"'),
    "claims no JSON": holding(b"{sub: 1}"),
    "claims no UTF-8": holding(b'{"sub": "\xff"}'),
    "claims nested deeply": holding(b"[" * 4000),
    "claims empty": holding(b""),
    "exp missing": saying(exp=None),
    "exp null": text_of("exp", "null"),
    "exp past": saying(exp=NOW - HOUR),
    "exp beyond the leeway": lambda key: token(key, claims(SUB, exp=int(time.time()) - 35)),
    "exp as text": saying(exp=str(NOW + HOUR)),
    "exp true": saying(exp=True),
    "exp a list": saying(exp=[NOW + HOUR]),
    "exp 1e300": saying(exp=1e300),
    "exp 10**400": text_of("exp", "1" + "0" * 400),
    "exp of 5000 digits": text_of("exp", "9" * 5000),
    "exp NaN": text_of("exp", "NaN"),
    "exp Infinity": text_of("exp", "Infinity"),
    "exp negative": saying(exp=-1),
    "exp in milliseconds": saying(exp=(NOW + HOUR) * 1000),
    "nbf to come": saying(nbf=NOW + HOUR),
    "nbf beyond the leeway": lambda key: token(key, claims(SUB, nbf=int(time.time()) + HOUR)),
    "nbf as text": saying(nbf="0"),
    "nbf null": text_of("nbf", "null"),
    "iat missing": saying(iat=None),
    "iat to come": saying(iat=NOW + HOUR),
    "iat as text": saying(iat="now"),
    "iat 1e300": saying(iat=1e300),
    "sub missing": saying(sub=None),
    "sub null": text_of("sub", "null"),
    "sub empty": saying(sub=""),
    "sub a number": saying(sub=42),
    "sub a list": saying(sub=[SUB]),
    "sub with U+0000": saying(sub=SUB + "\0"),
    "sub a lone surrogate": text_of("sub", '"\\ud800"'),
    "sub in braces": saying(sub="{" + SUB + "}"),
    "sub a URN": saying(sub="urn:uuid:" + SUB),
    "sub without hyphens": saying(sub=SUB.replace("-", "")),
    "sub with a space": saying(sub=" " + SUB),
    "sub with a line feed": saying(sub=SUB + "\n"),
    "sub no UUID": saying(sub="auth0|507f1f77bcf86cd799439011"),
    "sub in other digits": saying(sub="\u0661" * 8 + SUB[8:]),
    "aud missing": saying(aud=None),
    "aud of others": saying(aud="others"),
    "aud in capitals": saying(aud=AUDIENCE.upper()),
    "aud a list of others": saying(aud=["others", "more"]),
    "aud an empty list": saying(aud=[]),
    "aud an object": saying(aud={AUDIENCE: 1}),
    "aud a mixed list": saying(aud=[AUDIENCE, 1]),
    "iss missing": saying(iss=None),
    "iss of others": saying(iss="https://evil.example"),
    "iss with a slash": saying(iss=NAME + "/"),
    "iss a list": saying(iss=[NAME]),
    "iss a number": saying(iss=1),
    "iss a lone surrogate": text_of("iss", '"\\ud800"'),
    "jti a number": saying(jti=5),
    "garbage": fixed("a.b.c"),
    "only dots": fixed(".."),
    "8 KB of dots": fixed("." * 8192),
    "8 KB between dots": fixed("a" * 4000 + "." + "b" * 4000 + ".c"),
    "longer than tokens are": lambda key: token(key, claims(SUB, more="x" * 16_000)),
    "base64 that is none": lambda key: token(key, GOOD).replace(".", ".!", 1),
    "base64 of the other alphabet": lambda key: token(key, GOOD)[:-4] + "+/+/",
    "padding": lambda key: token(key, GOOD) + "====",
    "five parts": fixed("eyJhbGciOiJkaXIifQ..a.b.c"),
    "an opaque session token": fixed("Xq4Wm0y1Z8aLxk3cT5uJ7dV9bN2eR6sF"),
}

# Invalid tokens that only concern sets of public keys.
FORGED_FOR_KEYS: dict[str, Forged] = {
    "HS256 by the public key's text": fixed(confused(RSA.pem(), GOOD)),
    "HS256 by the public key's text, its end cut": fixed(confused(RSA.pem().rstrip(), GOOD)),
    "HS256 by the published key": fixed(confused(json.dumps(dict(RSA.published)).encode(), GOOD)),
    "HS256 by the raw public key": fixed(confused(base64url_decode(ED.published["x"]), GOOD)),
    "HS256 by a symmetric key of the set": by(SYMMETRIC, GOOD),
    "RS512 by a key for RS256": by(SigningKey("RS512", RSA.private, "rsa"), GOOD),
    "PS256 by a key for RS256": by(SigningKey("PS256", RSA.private, "rsa"), GOOD),
    "ES384 by a key of the set": by(OTHER_CURVE, GOOD),
    "RS256 by a key for encryption": by(ENCRYPTING, GOOD),
    "RS256 by a weak key": by(WEAK, GOOD),
    "EdDSA under the kid of another key": headed(kid="rsa"),
    "kid of nobody": headed(kid="nobody"),
    "kid a path": headed(kid="../../../../dev/null"),
    "kid SQL": headed(kid="ed' OR '1'='1"),
    "kid a URL": headed(kid="https://evil.example/jwks#ed"),
    "kid with U+0000": headed(kid="ed\0"),
    "kid empty": headed(kid=""),
    "kid of 6 KB": headed(kid="k" * 6000),
    "no kid, and no key that signed": by(STRANGER, GOOD, kid=None),
}


async def refused(mode: Mode, bearer: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> str:
    """The error message for an invalid token, after checking: complete 401, no SQL, no part of the token in any log."""
    await mode.application.wire.statements()
    with caplog.at_level(logging.DEBUG):
        response = await mode.bearing(bearer)

    assert response.status_code == 401, response.text
    assert response.headers["www-authenticate"].startswith("Bearer")
    (error,) = response.json()["errors"]
    assert error["extensions"].pop("reason") in {"MISSING", "EXPIRED", "NOT_YET_VALID", "INVALID"}
    assert error["extensions"] == {"code": "UNAUTHENTICATED"}
    assert response.json()["data"] == {"viewer": None}
    assert await mode.application.wire.statements() == []
    out, err = capfd.readouterr()
    for part in (SUB, *bearer.split(".")):
        assert len(part) < 8 or part not in response.text + caplog.text + out + err
    return str(error["message"])


@pytest.mark.parametrize("name", FORGED)
async def test_an_invalid_token(
    mode: Mode, name: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """An invalid token is UNAUTHENTICATED, whatever is wrong, and is not logged."""
    await refused(mode, FORGED[name](mode.key), caplog, capfd)


@pytest.mark.parametrize("name", FORGED_FOR_KEYS)
async def test_a_token_that_misuses_a_key_set(
    by_keys: Mode, name: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Public key material cannot sign tokens, and only keys for signatures verify them."""
    await refused(by_keys, FORGED_FOR_KEYS[name](by_keys.key), caplog, capfd)


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
async def test_the_secret_is_for_one_algorithm(
    by_secret: Mode, algorithm: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """The right secret with another algorithm is rejected."""
    await refused(by_secret, token(shared_key(SECRET, algorithm), GOOD), caplog, capfd)


@pytest.mark.parametrize("bearer", ["Xq4Wm0y1Z8aLxk3cT5uJ7dV9bN2eR6sF", "a.b", "." * 8192])
async def test_an_opaque_token_is_told_where_to_get_a_jwt(
    mode: Mode, bearer: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """The rejection of an opaque session token names the endpoint for JWTs."""
    assert "/api/auth/token" in await refused(mode, bearer, caplog, capfd)


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer ", "Basic dTpw", "bearer", "Bearer\t"])
async def test_no_token(mode: Mode, authorization: str | None) -> None:
    """Without a bearer token the response is 401 and says how to send one."""
    response = await mode.post(authorization)

    assert response.status_code == 401
    assert "Bearer <token>" in response.json()["errors"][0]["message"]


async def test_every_field_says_so_and_introspection_works(mode: Mode) -> None:
    """With an invalid token each field that needs the caller fails on its own path, and others do not."""
    response = await mode.bearing("a.b.c", '{ __typename a: task(id: "1") { id } b: task(id: "2") { id } }')

    answer = response.json()
    assert answer["data"] == {"__typename": "Query", "a": None, "b": None}
    assert [error["path"] for error in answer["errors"]] == [["a"], ["b"]]
    assert {error["extensions"]["code"] for error in answer["errors"]} == {"UNAUTHENTICATED"}


# Unusual valid tokens.
HOLDING: dict[str, Callable[[SigningKey, str], str]] = {
    "plain": lambda key, sub: token(key, claims(sub)),
    "aud a list": lambda key, sub: token(key, claims(sub, aud=["others", AUDIENCE])),
    "exp a fraction": lambda key, sub: token(key, claims(sub, exp=time.time() + HOUR)),
    "exp within the leeway": lambda key, sub: token(key, claims(sub, exp=int(time.time()) - 1)),
    "nbf within the leeway": lambda key, sub: token(key, claims(sub, nbf=int(time.time()) + 20)),
    "iat within the leeway": lambda key, sub: token(key, claims(sub, iat=int(time.time()) + 20)),
    "no typ": lambda key, sub: token(key, claims(sub), typ=None),
    "typ at+jwt": lambda key, sub: token(key, claims(sub), typ="at+jwt"),
    "jku that nobody follows": lambda key, sub: token(key, claims(sub), jku="https://evil.example/jwks"),
    "much else": lambda key, sub: token(key, claims(sub, more="ü" * 500, nested={"a": [1]})),
}


@pytest.mark.parametrize("name", HOLDING)
async def test_a_valid_token(mode: Mode, new_user: Callable[..., Awaitable[User]], name: str) -> None:
    """A valid token authenticates the user in its sub, also when it is cached."""
    user = await new_user()
    bearer = HOLDING[name](mode.key, str(user.id))

    for authorization in (f"Bearer {bearer}", f"bearer {bearer}", f"Bearer {bearer}"):
        answer = (await mode.post(authorization)).json()
        assert answer == {"data": {"viewer": {"id": str(user.id), "email": user.email}}}


@pytest.mark.parametrize("algorithm", ["EdDSA", "ES256", "ES512", "RS256", "PS256"])
@pytest.mark.parametrize("members", [{}, {"alg": None}, {"use": "sig"}, {"key_ops": ["verify"]}, {"kid": None}])
async def test_the_algorithms_of_keys(
    by_keys: Mode,
    issuer: Published,
    new_user: Callable[..., Awaitable[User]],
    algorithm: str,
    members: dict[str, Any],
) -> None:
    """A key verifies its algorithm as soon as it is published, with or without alg, use and kid."""
    user, key = await new_user(), made_key(algorithm, **({"kid": str(uuid4())} | members))
    issuer.publish(key)
    try:
        response = await by_keys.bearing(token(key, claims(str(user.id))))
        unnamed = await by_keys.bearing(token(key, claims(str(user.id), more=1), kid=None))
    finally:
        issuer.publish(*SET)

    assert response.json() == {"data": {"viewer": {"id": str(user.id), "email": user.email}}}
    assert unnamed.json() == response.json()


async def test_a_cached_token_expires(by_secret: Mode, alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cached token is rejected after its expiry and the leeway."""
    expires = NOW + HOUR
    bearer = token(by_secret.key, claims(str(alice.id), exp=expires))
    assert (await by_secret.bearing(bearer)).status_code == 200

    clock = Clock(expires + LEEWAY_SECONDS - 1)
    monkeypatch.setattr("app.identity.tokens.time", clock)
    assert (await by_secret.bearing(bearer)).status_code == 200
    clock.now += 1
    # PyJWT has its own clock, by which the token is still valid, and would verify it again as a new one.
    monkeypatch.setattr("app.identity.tokens._unverified", refuse_everything)
    assert (await by_secret.bearing(bearer)).status_code == 401


async def test_a_token_of_a_withdrawn_key(by_keys: Mode, issuer: Published, alice: User) -> None:
    """When a key is withdrawn, its tokens are rejected, even if they were cached."""
    gone, there = made_key("ES256", "gone"), made_key("ES256", "there")
    issuer.publish(gone)
    bearer = token(gone, claims(str(alice.id)))
    assert (await by_keys.bearing(bearer)).status_code == 200

    issuer.publish(there)
    assert (await by_keys.bearing(token(there, claims(str(alice.id))))).status_code == 200
    after = await by_keys.bearing(bearer)
    issuer.publish(*SET)

    assert after.status_code == 401


@asynccontextmanager
async def several(server: Server, *issuers: Published, **auth: Any) -> AsyncIterator[Application]:
    names = ",".join(f"https://{place}.example" for place in range(len(issuers)))
    given = {"auth_issuer": names, "auth_jwks_url": ",".join(issuer.url for issuer in issuers), **auth}
    async with running(Settings(database_url=SecretStr(server.app_url), **given)) as application:
        yield application


async def test_several_issuers(server: Server, settings: Settings, alice: User, bob: User) -> None:
    """Each token is verified with its own issuer's keys and audience only."""
    del settings
    first, second = made_key("EdDSA", "k"), made_key("EdDSA", "k")
    async with (
        published(first) as one,
        published(second) as two,
        several(server, one, two, auth_audience="taskql,none") as application,
    ):

        async def status(key: SigningKey, issuer: str, user: User, **more: Any) -> int:
            bearer = token(key, claims(str(user.id), iss=issuer, **more))
            headers = {"Authorization": f"Bearer {bearer}"}
            return (await application.http.post("/graphql", json={"query": VIEWER}, headers=headers)).status_code

        assert await status(first, "https://0.example", alice) == 200
        assert await status(second, "https://1.example", bob, aud=None) == 200
        assert await status(second, "https://1.example", bob, aud="whatever") == 200
        assert await status(first, "https://1.example", alice) == 401
        assert await status(second, "https://0.example", bob) == 401
        assert await status(first, "https://0.example", alice, aud=None) == 401
        assert await status(first, "https://2.example", alice) == 401


async def test_a_header_that_is_not_ascii(mode: Mode) -> None:
    """A non-ASCII Authorization header is an invalid token."""
    headers = [(b"Authorization", b"Bearer \xff\xfe.\xc3\xbc.c"), (b"Content-Type", b"application/json")]
    body = json.dumps({"query": VIEWER})
    response = await mode.application.http.post("/graphql", content=body, headers=headers)

    assert response.status_code == 401


ISSUED = {"AUTH_JWKS_URL": "http://127.0.0.1:9/jwks", "AUTH_ISSUER": NAME, "AUTH_AUDIENCE": "none"}


@pytest.mark.parametrize(
    "auth", [ISSUED, {"AUTH_SECRET": SECRET, "AUTH_ISSUER": NAME, "AUTH_SUBJECT": "derived"}], ids=["keys", "derived"]
)
def test_tokens_of_an_issuer_are_not_created_here(server: Server, settings: Settings, auth: dict[str, str]) -> None:
    """If only the issuer can create tokens, `taskql token` fails and says so."""
    del settings
    with taskql("token", "--email", "a@example.com", DATABASE_URL=server.app_url, **auth) as process:
        out, err = process.communicate(timeout=PATIENCE_SECONDS)

    assert (process.returncode, out) == (1, "")
    assert "Tokens come from the issuer in AUTH_ISSUER" in err


def test_no_demo_token_with_an_issuer(tmp_path: Path) -> None:
    """With a key set the embedded database is served without demo tokens."""
    with taskql("serve", "--port", "0", "--data-dir", tmp_path, **ISSUED) as process:
        assert process.stdout
        url = process.stdout.readline().split()[-1]
        page = httpx.get(url, headers={"Accept": "text/html"}, timeout=PATIENCE_SECONDS).text
        answer = httpx.post(
            url, json={"query": VIEWER}, headers={"Authorization": "Bearer a.b.c"}, timeout=PATIENCE_SECONDS
        )
        process.terminate()
        rest = process.stdout.read()

    assert '"token": "' not in page
    assert answer.status_code == 401
    assert "ey" not in rest
    assert not (tmp_path / "secret").exists()


async def test_known_keys_work_while_the_issuer_hangs(by_keys: Mode, issuer: Published, alice: User) -> None:
    """While tokens with unknown keys wait for a hanging issuer, tokens with known keys work."""
    assert (await by_keys.bearing(token(ED, claims(str(alice.id))))).status_code == 200
    before = issuer.fetches
    issuer.answers.clear()
    unknown = [token(STRANGER, claims(SUB), kid=f"unknown {place}") for place in range(50)]
    strangers = [asyncio.create_task(by_keys.bearing(bearer)) for bearer in unknown]
    try:
        known = [by_keys.bearing(token(ED, claims(str(alice.id), number=number))) for number in range(50)]
        assert {response.status_code for response in await asyncio.gather(*known)} == {200}
        assert not any(stranger.done() for stranger in strangers)
    finally:
        issuer.answers.set()

    assert {response.status_code for response in await asyncio.gather(*strangers)} == {401}
    assert issuer.fetches == before + 1


async def test_an_issuer_that_is_down(server: Server, settings: Settings) -> None:
    """Without available keys the response is 503 instead of 401; introspection still works."""
    del settings
    async with running(settings_for(server, auth_jwks_url="http://127.0.0.1:9/jwks")) as application:
        mode = Mode("down", application, ED)
        response = await mode.bearing(token(ED, GOOD))
        schema = await mode.bearing(token(ED, GOOD), "{ __typename }")

    assert (response.status_code, response.json()["errors"][0]["extensions"]["code"]) == (503, "UNAVAILABLE")
    assert "retry-after" in response.headers
    assert schema.json() == {"data": {"__typename": "Query"}}
