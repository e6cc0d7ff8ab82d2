"""The user of a token: ids from subjects, accounts that are created on first use, accounts that were deleted."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from conftest import Application, Server, User, running
from issuer import AUDIENCE, NAME, SigningKey, claims, made_key, published, token
from pydantic import SecretStr

from app.identity.accounts import user_with_email
from app.settings import Settings

VIEWER = "{ viewer { id email name } }"
TASKS = "{ tasks { nodes { title } } }"
CREATE = 'mutation { createTask(input: { title: "Mine" }) { task { id } userErrors { code } } }'
WRITES = [
    CREATE,
    'mutation { createTasks(inputs: [{ title: "Mine" }]) { tasks { id } } }',
    'mutation { updateTasks(where: { all: true }, input: { title: "Mine" }) { affectedCount } }',
    'mutation { deleteTask(id: "01890a5d-ac96-774b-bcce-b302099a8057") { task { id } } }',
]
KEY = made_key("EdDSA", "key")
NOT_VERIFIED: list[object] = [False, "false", None, 0, 1, 1.0, "True", "1", "yes", "", [True], ["true"], {"true": True}]
ROW = "SELECT email, email_verified, name FROM users WHERE id = $1"


@dataclass(frozen=True)
class Door:
    """A server that accepts the tokens of one issuer."""

    application: Application
    key: SigningKey = KEY

    async def post(self, subject: object, query: str = VIEWER, **more: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token(self.key, claims(subject, **more))}"}
        return await self.application.http.post("/graphql", json={"query": query}, headers=headers)

    async def viewer(self, subject: object, **more: Any) -> dict[str, Any]:
        answer = (await self.post(subject, **more)).json()
        assert "errors" not in answer, answer
        viewer: dict[str, Any] = answer["data"]["viewer"]
        return viewer


@asynccontextmanager
async def door(server: Server, **auth: Any) -> AsyncIterator[Door]:
    async with published(KEY) as issuer:
        settings = Settings(
            database_url=SecretStr(server.app_url),
            auth_jwks_url=issuer.url,
            auth_issuer=NAME,
            auth_audience=AUDIENCE,
            **auth,
        )
        async with running(settings) as application:
            yield Door(application)


@pytest.fixture(scope="module")
async def plain(server: Server, settings: Settings) -> AsyncIterator[Door]:
    del settings
    async with door(server) as opened:
        yield opened


@pytest.fixture(scope="module")
async def provisioning(server: Server, settings: Settings) -> AsyncIterator[Door]:
    """AUTH_PROVISION is on; subjects are UUIDs."""
    del settings
    async with door(server, auth_provision=True) as opened:
        yield opened


@pytest.fixture(scope="module")
async def derived(server: Server, settings: Settings) -> AsyncIterator[Door]:
    """AUTH_PROVISION is on; subjects are any text."""
    del settings
    async with door(server, auth_provision=True, auth_subject="derived") as opened:
        yield opened


def refusal(response: httpx.Response) -> str:
    """The message of a response that consists of one UNAUTHENTICATED error."""
    assert response.status_code == 401, response.text
    (error,) = response.json()["errors"]
    assert error["extensions"]["code"] == "UNAUTHENTICATED"
    return str(error["message"])


async def test_a_uuid_is_the_user(plain: Door, alice: User) -> None:
    """A subject that is a UUID is used as the user's id."""
    assert (await plain.viewer(str(alice.id)))["email"] == alice.email


@pytest.mark.parametrize("query", WRITES)
async def test_a_write_for_an_unknown_user(plain: Door, query: str) -> None:
    """A write without an account is UNAUTHENTICATED and shows no database error."""
    assert "account" in refusal(await plain.post(str(uuid4()), query))


async def test_a_deleted_user(plain: Door, alice: User, owner: "asyncpg.Connection[Any]") -> None:
    """After its account is deleted, a token reads and writes nothing, cached or not, and errors give the reason."""
    subject, remembered = str(alice.id), claims(str(alice.id))
    await alice.add("Gone soon")
    headers = {"Authorization": f"Bearer {token(KEY, remembered)}"}
    http = plain.application.http
    before = await http.post("/graphql", json={"query": TASKS}, headers=headers)
    assert before.json()["data"]["tasks"]["nodes"] == [{"title": "Gone soon"}]

    await owner.execute("DELETE FROM users WHERE id = $1", alice.id)

    for query in (VIEWER, CREATE):
        assert "no longer exists" in refusal(await http.post("/graphql", json={"query": query}, headers=headers))
        assert "no longer exists" in refusal(await plain.post(subject, query))
    after = await http.post("/graphql", json={"query": TASKS}, headers=headers)
    assert after.json() == {"data": {"tasks": {"nodes": []}}}


async def test_without_provisioning_no_user_is_created(plain: Door, owner: "asyncpg.Connection[Any]") -> None:
    """Without AUTH_PROVISION a token creates no user."""
    subject = uuid4()
    refusal(await plain.post(str(subject), email=f"{subject}@example.com"))

    assert await owner.fetchrow(ROW, subject) is None


async def test_a_user_is_created_on_first_use(provisioning: Door, owner: "asyncpg.Connection[Any]") -> None:
    """A user's first token creates the row from its claims; later tokens do not change it."""
    subject = uuid4()
    email = f"{subject}@example.com"
    about = {"email": email.upper(), "email_verified": True, "name": "Ada Löwe"}

    viewer = await provisioning.viewer(str(subject), **about)
    assert viewer == {"id": str(subject), "email": email, "name": "Ada Löwe"}
    await provisioning.viewer(str(subject), email="other@example.com", name="Other")

    assert tuple(await owner.fetchrow(ROW, subject) or ()) == (email, True, "Ada Löwe")
    assert (await provisioning.post(str(subject), CREATE)).json()["data"]["createTask"]["userErrors"] == []


async def test_a_first_request_may_be_a_mutation(provisioning: Door) -> None:
    """A user's first request may be a mutation."""
    answer = (await provisioning.post(str(uuid4()), CREATE)).json()

    assert answer["data"]["createTask"]["userErrors"] == []


@pytest.mark.parametrize(
    "about",
    [
        {},
        {"email": None},
        {"email": ""},
        {"email": 5},
        {"email": "a\0b@example.com"},
        {"email": "x" * 300 + "@example.com"},
        {"email": " "},
        {"email": "example.com", "email_verified": True},
        {"email": f"{uuid4()}@Users.invalid"},
        {"email": "unverified@example.com"},
        *({"email": "unverified@example.com", "email_verified": claim} for claim in NOT_VERIFIED),
        *({"email": "unverified@example.com", "emailVerified": claim} for claim in NOT_VERIFIED),
        {"email": "unverified@example.com", "email_verified": True, "emailVerified": False},
        {"email": "unverified@example.com", "email_verified": "false", "emailVerified": True},
    ],
)
async def test_a_user_without_an_address(
    provisioning: Door, owner: "asyncpg.Connection[Any]", about: dict[str, Any]
) -> None:
    """If the email claim is missing, unverified or invalid, the user gets an undeliverable address."""
    subject = uuid4()
    viewer = await provisioning.viewer(str(subject), **about)

    assert viewer["email"] == f"{subject}@users.invalid"
    assert tuple(await owner.fetchrow(ROW, subject) or ()) == (viewer["email"], False, None)


@pytest.mark.parametrize("name", [5, "", "a\0b", "x" * 300, ["Ada"], "a\nb"])
async def test_an_invalid_name_is_omitted(provisioning: Door, name: object) -> None:
    """A name that cannot be stored is omitted."""
    assert (await provisioning.viewer(str(uuid4()), name=name))["name"] is None


@pytest.mark.parametrize("claim", [{"email_verified": True}, {"email_verified": "true"}, {"emailVerified": True}])
async def test_a_verified_address_is_taken(
    provisioning: Door, owner: "asyncpg.Connection[Any]", claim: dict[str, Any]
) -> None:
    """`email_verified` may be a boolean or text; Better Auth's own claim name is accepted too."""
    subject = uuid4()
    viewer = await provisioning.viewer(str(subject), email=f"{subject}@Example.com", **claim)

    assert viewer["email"] == f"{subject}@example.com"
    assert (await owner.fetchrow(ROW, subject) or {})["email_verified"] is True


async def test_accounts_are_never_merged(provisioning: Door, alice: User, owner: "asyncpg.Connection[Any]") -> None:
    """A second subject with a user's address becomes a separate user without it, and does not change the first."""
    await alice.add("Hers")
    for email in (alice.email, alice.email.upper()):
        for query in (VIEWER, TASKS, CREATE):
            stranger = uuid4()
            answer = await provisioning.post(str(stranger), query, email=email, email_verified=True)
            assert answer.status_code == 200
            assert alice.email not in answer.text
            assert "Hers" not in answer.text
            assert tuple(await owner.fetchrow(ROW, stranger) or ()) == (f"{stranger}@users.invalid", False, None)

    assert (await owner.fetchrow(ROW, alice.id) or {})["email"] == alice.email
    assert (await provisioning.viewer(str(alice.id), email=alice.email))["id"] == str(alice.id)


@pytest.mark.parametrize("claim", [{}, *({"email_verified": claim} for claim in NOT_VERIFIED)])
async def test_an_unverified_address_is_not_reserved(provisioning: Door, claim: dict[str, Any]) -> None:
    """An unverified claim does not reserve an address: its verified owner gets it later."""
    email = f"{uuid4()}@example.com"
    stranger, real = str(uuid4()), str(uuid4())

    assert (await provisioning.viewer(stranger, email=email, **claim))["email"] == f"{stranger}@users.invalid"
    assert (await provisioning.viewer(real, email=email, email_verified=True))["email"] == email


async def test_a_taken_substitute_address_admits_the_user(provisioning: Door, owner: "asyncpg.Connection[Any]") -> None:
    """A user is admitted even if another account has her substitute address."""
    subject = uuid4()
    await owner.execute("INSERT INTO users (email) VALUES ($1)", f"{subject}@users.invalid")

    viewer = await provisioning.viewer(str(subject))

    assert viewer["id"] == str(subject)
    assert viewer["email"].endswith("@users.invalid")
    assert await provisioning.viewer(str(subject)) == viewer


async def test_an_address_that_is_verified_later(
    provisioning: Door, alice: User, owner: "asyncpg.Connection[Any]"
) -> None:
    """A verified address that is free replaces the substitute address, but no other address."""
    subject, email = uuid4(), f"{uuid4()}@example.com"
    substitute = f"{subject}@users.invalid"
    for claim in ({}, {"email": email}, {"email": alice.email, "email_verified": True}):
        assert (await provisioning.viewer(str(subject), **claim))["email"] == substitute
    assert (await provisioning.viewer(str(subject), email=email, email_verified=True))["email"] == email
    assert tuple(await owner.fetchrow(ROW, subject) or ()) == (email, True, None)

    later = {"email": f"{uuid4()}@example.com", "email_verified": True}
    assert (await provisioning.viewer(str(subject), **later))["email"] == email


async def test_many_first_tokens_at_once(server: Server, provisioning: Door, owner: "asyncpg.Connection[Any]") -> None:
    """Concurrent first requests to two servers create one user, and all of them succeed."""
    async with door(server, auth_provision=True) as other:
        for _ in range(5):
            subject = uuid4()
            email = f"{subject}@example.com"
            asked = [
                opened.viewer(str(subject), email=email, email_verified=True, number=number)
                for number in range(8)
                for opened in (provisioning, other)
            ]
            viewers = await asyncio.gather(*asked)
            assert {(viewer["id"], viewer["email"]) for viewer in viewers} == {(str(subject), email)}
            assert await owner.fetchval("SELECT count(*) FROM users WHERE email = $1", email) == 1


@pytest.mark.parametrize("are_known", [False, True])
async def test_a_race_for_an_address(provisioning: Door, owner: "asyncpg.Connection[Any]", *, are_known: bool) -> None:
    """Of several subjects that claim one address at once, new or known, one gets it and all are admitted."""
    email, subjects = f"{uuid4()}@example.com", [str(uuid4()) for _ in range(6)]
    if are_known:
        await asyncio.gather(*(provisioning.viewer(subject) for subject in subjects))
    viewers = await asyncio.gather(
        *(provisioning.viewer(subject, email=email, email_verified=True) for subject in subjects)
    )

    assert [viewer["id"] for viewer in viewers] == subjects
    assert sorted(viewer["email"] == email for viewer in viewers) == [False] * 5 + [True]
    assert await owner.fetchval("SELECT count(*) FROM users WHERE email = $1", email) == 1


async def test_tokens_do_not_change_users(provisioning: Door, alice: User, owner: "asyncpg.Connection[Any]") -> None:
    """Tokens do not change user rows that Better Auth maintains in the same database."""
    about = {"email": f"{uuid4()}@example.com", "email_verified": True, "name": "Another"}

    assert await provisioning.viewer(str(alice.id), **about) == {
        "id": str(alice.id),
        "email": alice.email,
        "name": None,
    }
    assert tuple(await owner.fetchrow(ROW, alice.id) or ()) == (alice.email, False, None)


async def test_the_user_of_an_address(application: Application, owner: "asyncpg.Connection[Any]") -> None:
    """An address has one user, regardless of its case and of concurrent requests for it."""
    name = uuid4()
    asked = [
        user_with_email(application.database, email) for email in (f"{name}@Example.com", f"{name}@example.com") * 3
    ]
    found = await asyncio.gather(*asked)
    assert len({user for user, _ in found}) == 1
    assert [is_new for _, is_new in found].count(True) == 1

    kept = f"{name}@OLD.example"
    old = await owner.fetchval("INSERT INTO users (email) VALUES ($1) RETURNING id", kept)
    assert await user_with_email(application.database, kept) == (old, False)


async def test_a_new_token_costs_one_transaction(provisioning: Door) -> None:
    """A new token costs one transaction, a cached token none."""
    wire = provisioning.application.wire
    headers = {"Authorization": f"Bearer {token(KEY, claims(str(uuid4())))}"}
    sent = []
    for _ in range(2):
        await wire.statements()
        await provisioning.application.http.post("/graphql", json={"query": VIEWER}, headers=headers)
        sent.append([statement.partition(";")[0] for statement in await wire.statements()])

    assert [statements.count("COMMIT") for statements in sent] == [1, 0]
    assert len(sent[1]) == 1


@pytest.mark.parametrize(
    "subject", ["auth0|507f1f77bcf86cd799439011", "user_2abcDEF", "google-oauth2|1", "{curly}", "ü 1", "1", "x" * 255]
)
async def test_a_derived_id(derived: Door, subject: str) -> None:
    """With AUTH_SUBJECT=derived any text always identifies the same user, who owns her tasks."""
    subject = f"{uuid4().hex}{subject}"[:255]
    first = await derived.viewer(subject)
    await derived.post(subject, CREATE)

    assert await derived.viewer(subject) == first
    assert UUID(first["id"]).version == 5
    assert (await derived.viewer(subject[:-1] + "."))["id"] != first["id"]
    assert (await derived.post(subject, TASKS)).json()["data"]["tasks"]["nodes"] == [{"title": "Mine"}]


@pytest.mark.parametrize("subject", ["", "a\0b", "a\nb", "x" * 256, "\ud800", None, 5, ["a"], {"a": 1}])
async def test_an_invalid_subject_is_rejected(derived: Door, subject: object) -> None:
    """A subject that is not a string, empty, too long or unprintable is rejected."""
    refusal(await derived.post(subject))


async def test_a_derived_id_depends_on_the_issuer(server: Server, settings: Settings) -> None:
    """The same subject of two issuers is two users, and a UUID as subject does not become a user's id."""
    del settings
    keys = made_key("EdDSA", "a"), made_key("EdDSA", "b")
    async with published(keys[0]) as first, published(keys[1]) as second:
        several = Settings(
            database_url=SecretStr(server.app_url),
            auth_jwks_url=f"{first.url}, {second.url}",
            auth_issuer="https://a.example,https://b.example",
            auth_audience="taskql,none",
            auth_subject="derived",
            auth_provision=True,
        )
        async with running(several) as application:
            a, b = Door(application, keys[0]), Door(application, keys[1])
            subject = str(uuid4())
            one = (await a.viewer(subject, iss="https://a.example"))["id"]
            other = (await b.viewer(subject, iss="https://b.example", aud=None))["id"]

    assert len({one, other, subject}) == 3
