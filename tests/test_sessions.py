"""Resolvers with SQLAlchemy sessions: the documented example, both walls, and clean connections."""

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
import strawberry
from conftest import Application, Server, User, made_settings, running, untold
from graphql import OperationType
from mirror import Mirror, stored
from patience import PATIENCE_SECONDS
from sqlalchemy import Executable, delete, exists, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased, make_transient_to_detached
from strawberry.permission import BasePermission

from app.identifiers import uuid7
from app.models import TASKS, Base, Owned, Task, TaskClock, TaskTag
from app.models import User as Account
from app.settings import Settings
from schema import schema
from schema.context import Info
from schema.engine.direct import direct
from schema.engine.single import RENDERED
from schema.inputs import TaskFilter, tree
from schema.mutations import Mutation
from schema.queries import Query
from schema.types import CONFIG
from schema.types import Task as TaskType
from schema.types import User as UserType

GRAPHQL_SCHEMA = schema._schema  # noqa: SLF001 - Strawberry has no public name for it
Work = Callable[[AsyncSession, UUID], Awaitable[Any]]
SECTION = "## A resolver with AsyncSession"
STALE = "query ($days: Int!) { staleTasks(days: $days) { id title updatedAt } }"
RENAME = "mutation ($old: String!, $new: String!) { replaceTag(old: $old, new: $new) { id tags version } }"
RUN = "mutation ($work: String!, $about: ID!) { run(work: $work, about: $about) }"
PID = "SELECT pg_backend_pid()"
UNAVAILABLE = {"code": "UNAVAILABLE", "retryAfter": 1}

WORK: dict[str, Work] = {}


def work(function: Work) -> Work:
    """Register a function that the field `run` calls by name."""
    WORK[function.__name__] = function
    return function


@strawberry.type
class Running:
    @strawberry.mutation
    async def run(self, info: Info, work: str, about: strawberry.ID) -> str:
        """Call a registered function, and return its result as text."""
        async with info.context.session() as session:
            return str(await WORK[work](session, UUID(about)))


def served(*mutations: type, queries: tuple[type, ...] = ()) -> strawberry.Schema:
    """The schema with additional root fields."""
    query = strawberry.type(type("Query", (Query, *queries), {}), name="Query")
    mutation = strawberry.type(type("Mutation", (Mutation, *mutations), {}), name="Mutation")
    return direct(strawberry.Schema(query, mutation, types=[TaskType, UserType], config=CONFIG))


@pytest.fixture
async def sessions(settings: Settings) -> AsyncIterator[Application]:
    """A server whose resolvers use sessions, with both walls and a single connection."""
    async with running(settings.model_copy(update={"db_pool_size": 1}), served(Running)) as application:
        yield application


@pytest.fixture
async def one_wall(server: Server, settings: Settings) -> AsyncIterator[Application]:
    """The same with a superuser, who bypasses row-level security: wall 1 only."""
    del settings
    alone = made_settings(Server(server.owner_url, server.owner_url), db_pool_size=1)
    async with running(alone, served(Running)) as application:
        yield application


def at(application: Application, *users: User) -> list[User]:
    return [replace(user, http=application.http) for user in users]


async def ran(user: User, name: str, about: object = None) -> str:
    done: str = (await user.data(RUN, work=name, about=str(about or uuid4())))["run"]
    return done


async def refused(user: User, name: str, about: object = None) -> dict[str, Any]:
    """The extensions of the only error of a call that fails."""
    answer = await user.ask(RUN, work=name, about=str(about or uuid4()))
    assert answer["data"] is None
    (error,) = answer["errors"]
    extensions: dict[str, Any] = error["extensions"]
    return extensions


# The documented example


@pytest.fixture
def documented(repository: Path) -> Iterator[ModuleType]:
    """The modules of docs/adding.md, created from its text."""
    section = (repository / "docs" / "adding.md").read_text().partition(SECTION)[2].partition("\n## ")[0]
    files = re.findall(r"in `([a-z/]+)\.py`:\n\n```python\n(.*?)```", section, re.DOTALL)
    assert len(files) == 2
    module = ModuleType("")
    for path, code in files:
        module = ModuleType(path.replace("/", "."))
        sys.modules[module.__name__] = module
        exec(compile(code, f"{path}.py", "exec"), module.__dict__)  # noqa: S102 - code of the documentation
    yield module
    for path, _ in files:
        del sys.modules[path.replace("/", ".")]


async def test_the_documented_example(
    documented: ModuleType, settings: Settings, alice: User, bob: User, owner: "asyncpg.Connection[Any]"
) -> None:
    """Users see and change their own tasks; changes get new versions and appear in the change feed."""
    extended = served(documented.StaleMutations, queries=(documented.StaleQueries,))
    async with running(settings, extended) as application:
        alice, bob = at(application, alice, bob)
        old, both = await alice.add("Old", tags=["home"]), await alice.add("Both", tags=["garden", "home"])
        his = await bob.add("His", tags=["home"])
        async with untold(owner):
            await owner.execute("UPDATE tasks SET updated_at = '2020-01-01' WHERE title IN ('Old', 'His')")
        copies = [Mirror(user) for user in (alice, bob)]
        for copy in copies:
            await copy.catch_up()

        stale = {"id": old["id"], "title": "Old", "updatedAt": "2020-01-01T00:00:00+00:00"}
        assert (await alice.data(STALE, days=30))["staleTasks"] == [stale]
        assert [task["id"] for task in (await alice.data(STALE, days=0))["staleTasks"]] == [old["id"], both["id"]]
        assert [task["id"] for task in (await bob.data(STALE, days=30))["staleTasks"]] == [his["id"]]
        assert (await alice.ask(STALE, days=-1))["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"

        renamed = (await alice.data(RENAME, old="home", new="house"))["replaceTag"]
        assert sorted(task["tags"] for task in renamed) == [["garden", "house"], ["house"]]
        assert sorted(task["version"] for task in renamed) == [both["version"] + 1, both["version"] + 2]
        assert len((await copies[0].pull())["changes"]) == 2
        assert copies[0].tasks == await stored(owner, alice)
        versions = {task["id"]: task["version"] for task in renamed}
        assert {name: copies[0].tasks[name]["version"] for name in versions} == versions
        assert (await copies[1].pull())["changes"] == []


# Two walls

# The user whose data another user tries to access.
FOREIGN: list[UUID] = []


@work
async def read(session: AsyncSession, about: UUID) -> list[Any]:
    """Read another user's task in the ways that wall 1 restricts."""
    other, some = aliased(Task), select(Task.id, Task.title).subquery()
    queries = [
        select(Task.id).where(Task.id == about),
        select(other.id).where(other.id == about),
        select(TaskTag.tag).where(TaskTag.task_id == about),
        select(some.c.id).where(some.c.id == about),
        select(Account.id).join(Task, Task.user_id == Account.id).where(Task.id == about),
        select(TASKS.c.id).where(TASKS.c.id.in_(select(Task.id)), TASKS.c.id == about),
        select(select(Task.id).where(Task.id == about).cte("named").c.id),
        select(Account.email).where(Account.id.in_(select(Task.user_id).where(Task.id == about))),
    ]
    return [found for query in queries for found in await session.scalars(query)]


@work
async def count(session: AsyncSession, _about: UUID) -> tuple[int | None, int | None, int | None]:
    """The numbers of visible tasks, clocks and users."""
    numbers = [await session.scalar(select(func.count()).select_from(kind)) for kind in (Task, TaskClock, Account)]
    return numbers[0], numbers[1], numbers[2]


@work
async def get(session: AsyncSession, about: UUID) -> list[bool]:
    """Whether Alice's task and account are found by their keys."""
    found = [await session.get(Task, (FOREIGN[0], about)), await session.get(Account, FOREIGN[0])]
    return [item is not None for item in found]


@work
async def update_all(session: AsyncSession, about: UUID) -> int:
    changed = await session.execute(update(Task).where(Task.id == about).values(title="Taken").returning(Task.id))
    return len(changed.all())


@work
async def delete_all(session: AsyncSession, about: UUID) -> int:
    return len((await session.execute(delete(Task).where(Task.id == about).returning(Task.id))).all())


@work
async def add(session: AsyncSession, _about: UUID) -> None:
    session.add(Task(user_id=FOREIGN[0], id=uuid7(), title="Slipped in"))


@work
async def give_away(session: AsyncSession, _about: UUID) -> None:
    mine = Task(id=uuid7(), title="Given away")
    session.add(mine)
    await session.flush()
    mine.user_id = FOREIGN[0]


def _attached(session: AsyncSession, about: UUID) -> Task:
    """Another user's object in the session, as if from a cache or an earlier session."""
    foreign = Task(user_id=FOREIGN[0], id=about, title="As it was")
    make_transient_to_detached(foreign)
    session.add(foreign)
    return foreign


@work
async def change_attached(session: AsyncSession, about: UUID) -> None:
    _attached(session, about).title = "Taken"


@work
async def take(session: AsyncSession, about: UUID) -> None:
    _attached(session, about).user_id = session.info["owner"]


@work
async def delete_attached(session: AsyncSession, about: UUID) -> None:
    await session.delete(_attached(session, about))


@work
async def merge(session: AsyncSession, about: UUID) -> None:
    await session.merge(Task(user_id=FOREIGN[0], id=about, title="Taken"))


@work
async def change_account(session: AsyncSession, _about: UUID) -> None:
    user = Account(id=FOREIGN[0], email="taken@example.com")
    make_transient_to_detached(user)
    session.add(user)
    user.name = "Taken"


@pytest.fixture
async def foreign(alice: User) -> AsyncIterator[dict[str, Any]]:
    """A task of Alice, which Bob tries to access."""
    FOREIGN[:] = [alice.id]
    yield await alice.add("Hers", tags=["hers"])
    FOREIGN.clear()


@pytest.fixture(params=["both walls", "wall 1 alone"])
def walled(request: pytest.FixtureRequest) -> Application:
    name = "sessions" if request.param == "both walls" else "one_wall"
    application: Application = request.getfixturevalue(name)
    return application


async def test_what_is_read_is_the_callers(
    walled: Application, foreign: dict[str, Any], alice: User, bob: User
) -> None:
    """Queries of mapped classes show nothing of other users, with and without row-level security."""
    alice, bob = at(walled, alice, bob)
    await bob.add("His")
    assert await ran(alice, "get", foreign["id"]) == "[True, True]"
    assert len((await ran(alice, "read", foreign["id"])).split(", ")) == 8  # each query finds her own row

    assert await ran(bob, "read", foreign["id"]) == "[]"
    assert await ran(bob, "get", foreign["id"]) == "[False, False]"
    assert await ran(bob, "count") == "(1, 1, 1)"


@pytest.mark.parametrize("name", ["update_all", "delete_all"])
async def test_statements_change_only_the_callers(  # noqa: PLR0913, PLR0917 - fixtures
    walled: Application, foreign: dict[str, Any], alice: User, bob: User, owner: "asyncpg.Connection[Any]", name: str
) -> None:
    """UPDATE and DELETE of mapped classes match the caller's rows only."""
    bob, alice = at(walled, bob, alice)
    before = await stored(owner, alice)
    assert await ran(bob, name, foreign["id"]) == "0"
    assert await stored(owner, alice) == before
    assert await ran(alice, name, foreign["id"]) == "1"
    assert await stored(owner, alice) != before


@pytest.mark.parametrize(
    "name", ["add", "give_away", "change_attached", "take", "delete_attached", "merge", "change_account"]
)
async def test_a_flush_rejects_objects_of_other_users(  # noqa: PLR0913, PLR0917 - fixtures
    walled: Application,
    foreign: dict[str, Any],
    alice: User,
    bob: User,
    owner: "asyncpg.Connection[Any]",
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    """A flush with another user's object is rejected and writes nothing at all."""
    (bob,) = at(walled, bob)
    before, accounts = await stored(owner, alice), "SELECT * FROM users WHERE id = $1"
    account = await owner.fetchrow(accounts, alice.id)

    assert (await refused(bob, name, foreign["id"]))["code"] == "INTERNAL"
    assert "ForeignObject" in caplog.text
    assert await stored(owner, alice) == before
    assert await stored(owner, bob) == {}
    assert await owner.fetchrow(accounts, alice.id) == account
    assert (await bob.add())["version"] == 1


@work
async def around(session: AsyncSession, about: UUID) -> list[Any]:
    """Read another user's task in the ways that wall 1 does not restrict."""
    queries: list[Executable] = [
        select(TASKS.c.id).where(TASKS.c.id == about),
        select(exists().where(Task.id == about)),
        select(Task.id).from_statement(select(TASKS.c.id).where(TASKS.c.id == about)),
        text("SELECT id FROM tasks WHERE id = :about").bindparams(about=about),
        update(TASKS).where(TASKS.c.id == about).values(title="Taken").returning(TASKS.c.id),
        delete(TASKS).where(TASKS.c.id == about).returning(TASKS.c.id),
    ]
    return [found for query in queries for found in (await session.execute(query)).scalars() if found]


@work
async def insert_core(session: AsyncSession, _about: UUID) -> None:
    await session.execute(insert(TASKS).values(user_id=FOREIGN[0], id=uuid7(), title="Slipped in"))


@work
async def insert_many(session: AsyncSession, _about: UUID) -> None:
    await session.execute(insert(Task), [{"user_id": FOREIGN[0], "id": uuid7(), "title": "Slipped in"}])


@work
async def give_away_core(session: AsyncSession, _about: UUID) -> None:
    session.add(Task(id=uuid7(), title="Given away"))
    await session.flush()
    await session.execute(update(TASKS).values(user_id=FOREIGN[0]))


async def test_row_level_security_covers_everything_else(
    sessions: Application, foreign: dict[str, Any], alice: User, bob: User, owner: "asyncpg.Connection[Any]"
) -> None:
    """Row-level security hides other users' rows from Core statements and text; violations are INTERNAL."""
    (bob,) = at(sessions, bob)
    before = await stored(owner, alice)

    assert await ran(bob, "around", foreign["id"]) == "[]"
    for name in ("insert_core", "insert_many", "give_away_core"):
        assert (await refused(bob, name, foreign["id"]))["code"] == "INTERNAL"
    assert await stored(owner, alice) == before
    assert await stored(owner, bob) == {}


def test_every_table_of_users_data_is_behind_wall_1() -> None:
    """Every mapped class with a `user_id` derives from Owned."""
    classes = [mapper.class_ for mapper in Base.registry.mappers if "user_id" in mapper.columns]

    assert {kind for kind in classes if not issubclass(kind, Owned)} == set()
    tables = [table for table in Base.metadata.tables.values() if "user_id" in table.c]
    assert len(classes) == len(tables)
    assert {table.primary_key.columns.keys()[0] for table in tables} == {"user_id"}


# Transactions


@work
async def make(session: AsyncSession, about: UUID) -> list[Any]:
    """Add and change a task, and return what the triggers set."""
    task = Task(id=about, title="New", tags=["a"])
    session.add(task)
    await session.flush()
    seen = [task.version, task.position != ""]
    task.title, made_at = "Changed", task.updated_at
    await session.flush()
    return [*seen, task.version, task.updated_at > made_at]


async def test_a_task_of_a_session_is_like_any_other(
    sessions: Application, alice: User, owner: "asyncpg.Connection[Any]"
) -> None:
    """A session's task gets versions and a position, is counted, and appears in the change feed."""
    (alice,) = at(sessions, alice)
    mirror, task_id = Mirror(alice), uuid4()
    await mirror.catch_up()

    assert await ran(alice, "make", task_id) == "[1, True, 2, True]"
    (change,) = (await mirror.pull())["changes"]
    assert (change["task"]["title"], change["task"]["version"]) == ("Changed", 2)
    assert mirror.tasks == await stored(owner, alice)
    assert await owner.fetchval("SELECT tasks FROM task_clocks WHERE user_id = $1", alice.id) == 1
    assert (await alice.add())["version"] == 3


async def test_a_session_notifies_subscribers(
    sessions: Application, alice: User, owner: "asyncpg.Connection[Any]"
) -> None:
    """A session's write notifies the listening servers on commit."""
    told = asyncio.Queue[str]()
    await owner.add_listener("taskql", lambda *heard: told.put_nowait(heard[-1]))
    (alice,) = at(sessions, alice)
    await ran(alice, "make")
    async with asyncio.timeout(PATIENCE_SECONDS):
        while await told.get() != f"{alice.id} 2":
            pass


@work
async def fail(session: AsyncSession, about: UUID) -> None:
    session.add(Task(id=about, title="Never"))
    await session.flush()
    raise ZeroDivisionError


@work
async def fail_by_itself(session: AsyncSession, about: UUID) -> None:
    session.add(Task(id=about, title="Never"))
    await session.flush()
    raise FileNotFoundError("a file of the resolver's")


@work
async def break_a_rule(session: AsyncSession, about: UUID) -> None:
    session.add_all([Task(id=about, title="Never"), Task(id=uuid7(), title=" ")])


@work
async def pid(session: AsyncSession, _about: UUID) -> int | None:
    return await session.scalar(select(func.pg_backend_pid()))


@pytest.mark.parametrize("name", ["fail", "fail_by_itself", "break_a_rule"])
async def test_what_fails_is_rolled_back(
    sessions: Application, alice: User, owner: "asyncpg.Connection[Any]", name: str
) -> None:
    """After an error nothing is kept, the error is masked, and the connection is reused."""
    (alice,) = at(sessions, alice)
    before = await ran(alice, "pid")

    assert (await refused(alice, name))["code"] == "INTERNAL"
    assert await stored(owner, alice) == {}
    assert await ran(alice, "pid") == before


@work
async def commit_between(session: AsyncSession, about: UUID) -> int:
    """Two transactions and a savepoint in one session."""
    session.add(Task(id=uuid7(), title="First"))
    await session.commit()
    session.add(Task(id=uuid7(), title="Second"))
    with pytest.raises(ZeroDivisionError):
        async with session.begin_nested():
            await fail(session, about)
    return len((await session.scalars(select(TASKS.c.title))).all())


async def test_each_transaction_of_a_session_acts_as_the_caller(sessions: Application, alice: User) -> None:
    """Each transaction acts as the caller, also after a commit in between and a rolled back savepoint."""
    (alice,) = at(sessions, alice)

    assert await ran(alice, "commit_between") == "2"


# Connections


@work
async def leave_things(session: AsyncSession, about: UUID) -> None:
    """Change the state of the connection instead of the transaction."""
    for setting in ("app.user_id", "application_name"):
        await session.execute(select(func.set_config(setting, str(about), text("false"))))
    await session.execute(select(func.pg_advisory_lock(7)))
    await session.execute(text("SET statement_timeout = 1"))


async def test_the_connection_is_given_back_clean(
    sessions: Application, alice: User, bob: User, owner: "asyncpg.Connection[Any]"
) -> None:
    """Settings and locks of a session do not affect the connection's next user."""
    alice, bob = at(sessions, alice, bob)
    before = await ran(alice, "pid")
    await ran(alice, "leave_things", alice.id)
    await refused(alice, "fail")

    with await sessions.database.connections.take(bob.id) as connection:
        assert str(connection.get_server_pid()) == before
        assert not connection.is_in_transaction()
        assert await connection.fetchval("SELECT current_setting('app.user_id', true)") in {None, ""}
        assert await connection.fetchval("SHOW statement_timeout") == f"{PATIENCE_SECONDS // 60}min"
        assert await connection.fetchval("SELECT count(*) FROM tasks") == 0
    assert await owner.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 7") == 0


kept: list[AsyncSession] = []


@work
async def keep(session: AsyncSession, _about: UUID) -> None:
    kept.append(session)
    await session.execute(select(Task.id))


async def test_a_session_ends_with_its_block(sessions: Application, alice: User) -> None:
    """A session that a resolver keeps cannot be used after its block."""
    (alice,) = at(sessions, alice)
    await ran(alice, "keep")
    with pytest.raises(Exception, match="permanently closed"):
        await kept.pop().execute(select(Task.id))


@work
async def end_backend(session: AsyncSession, about: UUID) -> None:
    session.add(Task(id=about, title="Lost"))
    await session.flush()
    await session.execute(select(func.pg_terminate_backend(func.pg_backend_pid())))


async def test_a_connection_that_is_lost(sessions: Application, alice: User, owner: "asyncpg.Connection[Any]") -> None:
    """A lost connection is UNAVAILABLE; nothing is kept, and the next request uses another one."""
    (alice,) = at(sessions, alice)
    before = await ran(alice, "pid")

    assert await refused(alice, "end_backend") == UNAVAILABLE
    assert await stored(owner, alice) == {}
    assert await ran(alice, "pid") != before


async def test_a_connection_that_is_lost_after_the_commit(
    sessions: Application, alice: User, owner: "asyncpg.Connection[Any]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection lost after the commit does not fail the response."""
    (alice,) = at(sessions, alice)
    before, reset = await ran(alice, "pid"), asyncpg.Connection.reset

    async def lost(connection: "asyncpg.Connection[Any]") -> None:
        await owner.execute("SELECT pg_terminate_backend($1::integer, 5000)", connection.get_server_pid())
        await reset(connection)

    with monkeypatch.context() as patch:
        patch.setattr(asyncpg.Connection, "reset", lost)
        await ran(alice, "make")
    assert len(await stored(owner, alice)) == 1
    assert await ran(alice, "pid") != before


@work
async def sleep(session: AsyncSession, _about: UUID) -> None:
    await session.execute(select(func.pg_sleep(PATIENCE_SECONDS)))


@work
async def write_where_none_may(session: AsyncSession, about: UUID) -> None:
    await session.execute(text("SET TRANSACTION READ ONLY"))
    session.add(Task(id=about, title="Never"))


async def test_what_takes_too_long(sessions: Application, alice: User, monkeypatch: pytest.MonkeyPatch) -> None:
    """A statement of a session has the usual time limit."""
    (alice,) = at(sessions, alice)
    await ran(alice, "pid")
    with monkeypatch.context() as patch:
        patch.setattr("app.database.database.COMMAND_TIMEOUT", 0.2)
        assert await refused(alice, "sleep") == UNAVAILABLE

    assert await ran(alice, "count") == "(0, 0, 1)"


async def test_a_database_that_takes_no_writes(sessions: Application, alice: User) -> None:
    """A read-only database is UNAVAILABLE, and the connection is replaced."""
    (alice,) = at(sessions, alice)
    before = await ran(alice, "pid")

    assert await refused(alice, "write_where_none_may") == UNAVAILABLE
    assert await ran(alice, "pid") != before


going = asyncio.Event()
inside: list[int] = []


@work
async def hold(session: AsyncSession, about: UUID) -> None:
    await session.execute(select(Task.id))
    inside.append(about.int)
    await going.wait()


async def test_sessions_are_within_the_users_share(settings: Settings, alice: User, bob: User) -> None:
    """One user's sessions hold at most two of six connections; another user is served at once."""
    async with running(settings.model_copy(update={"db_pool_size": 6}), served(Running)) as application:
        alice, bob = at(application, alice, bob)
        going.clear()
        inside.clear()
        flood = [asyncio.create_task(ran(alice, "hold", alice.id)) for _ in range(5)]
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(inside) < 2:  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(0)
        for _ in range(5):
            assert await ran(bob, "count") == "(0, 0, 1)"
        assert inside == [alice.id.int] * 2
        going.set()
        await asyncio.gather(*flood)
        assert len(inside) == 5


async def test_sessions_are_charged(settings: Settings, alice: User) -> None:
    """The time that a session holds a connection is charged to its user."""
    async with running(settings, served(Running)) as application:
        (alice,), spent = at(application, alice), list[tuple[str, float]]()
        application.database.connections.spend = lambda payer, seconds: spent.append((payer, seconds))
        begun = datetime.now(UTC)
        await ran(alice, "count")
        ((payer, seconds),) = spent
        assert payer == str(alice.id)
        assert 0 < seconds <= (datetime.now(UTC) - begun).total_seconds()


async def test_anonymous_callers_get_no_session(sessions: Application) -> None:
    """An anonymous caller gets no session."""
    answer = await sessions.http.post("/graphql", json={"query": RUN, "variables": {"work": "count", "about": "1"}})
    assert answer.status_code == 401


# Plain fields of Strawberry


@strawberry.enum
class Size(Enum):
    SMALL = "small"
    LARGE = "large"


@strawberry.input
class Wish:
    title: str
    sizes: list[Size] = strawberry.field(default_factory=list)
    due: strawberry.Maybe[datetime | None]
    inner: "Wish | None" = None


@strawberry.type
class Heard:
    titles: list[str]
    size: Size | None
    due: str

    @strawberry.field
    def shouted(self, mark: str = "!") -> str:
        return f"{self.titles[0]}{mark}"


class Never(BasePermission):
    message = "Nobody may."

    def has_permission(self, source: Any, info: Any, **_kwargs: Any) -> bool:  # noqa: ARG002 - Strawberry's signature
        return False


@strawberry.type
class Plain:
    @strawberry.field
    def wish(self, wish: Wish) -> Heard:
        titles = [wish.title, *([wish.inner.title] if wish.inner else [])]
        due = "omitted" if wish.due is None else str(wish.due.value)
        return Heard(titles=titles, size=wish.sizes[0] if wish.sizes else None, due=due)

    @strawberry.field(permission_classes=[Never])  # type: ignore[untyped-decorator]  # because of permission_classes
    async def forbidden(self) -> int:
        return 1

    @strawberry.field
    async def sum(self, numbers: list[int], start: int = 1) -> int | None:
        return sum(numbers, start)

    @strawberry.field
    async def filtered(self, filter: TaskFilter) -> str:  # noqa: A002 - as in the schema
        return str(tree(filter))


WISH = """
    query ($wish: Wish!) {
        wish(wish: $wish) { titles size due shouted loud: shouted(mark: "!!") }
    }
"""


async def test_plain_fields_of_strawberry(settings: Settings, alice: User) -> None:
    """Strawberry's arguments, inputs, enums, permissions and nested fields work as usual."""
    async with running(settings, served(queries=(Plain,))) as application:
        (alice,) = at(application, alice)
        wish = {"title": "A", "sizes": ["LARGE"], "due": None, "inner": {"title": "B"}}
        heard = (await alice.data(WISH, wish=wish))["wish"]
        assert heard == {"titles": ["A", "B"], "size": "LARGE", "due": "None", "shouted": "A!", "loud": "A!!"}
        assert (await alice.data(WISH, wish={"title": "A"}))["wish"]["due"] == "omitted"
        assert (await alice.data('{ wish(wish: { title: "A", sizes: [SMALL] }) { size } }'))["wish"]["size"] == "SMALL"
        assert (await alice.ask(WISH, wish={}))["errors"][0]["extensions"]["code"] == "BAD_USER_INPUT"

        assert await alice.data("{ sum(numbers: [1, 2]) viewer { id } }") == {
            "sum": 4,
            "viewer": {"id": str(alice.id)},
        }
        assert await alice.data("query ($n: [Int!]!) { sum(numbers: $n, start: 0) }", n=[0]) == {"sum": 0}
        assert (await alice.data("{ filtered(filter: { completed: true }) }"))[
            "filtered"
        ] == "{'completed': True, 'trashed': False}"
        answer = await alice.ask("{ forbidden }")
        assert (answer["data"], answer["errors"][0]["message"]) == (None, "Nobody may.")


def test_the_fields_of_the_schema_take_the_short_way() -> None:
    """All root fields of TaskQL return JSON rendered by PostgreSQL, and are resolved directly."""
    roots = [GRAPHQL_SCHEMA.get_root_type(kind) for kind in (OperationType.QUERY, OperationType.MUTATION)]

    assert {
        name for root in roots if root for name, field in root.fields.items() if RENDERED not in field.extensions
    } == set()
