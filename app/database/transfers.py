"""Long transactions of commands, which read or write many rows of one user at once.

Row-level security applies as to the server. PostgreSQL does not support COPY into a table with row-level security, so
rows are copied into a temporary table, and inserted from there.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from sqlalchemy import Column, MetaData, Table, bindparam, cast, func, insert, not_, or_, select, text, true
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.schema import CreateTable
from sqlalchemy.types import TypeEngine

from app.database.sessions import OWNER, ActingSession
from app.database.url import DatabaseURL

Row = Mapping[str, Any]
# How each column is bound, and the type to cast it to.
Types = Mapping[str, tuple[TypeEngine[Any], TypeEngine[Any] | None]]

# For each transaction, because a transaction pooler rejects session settings. The other limits are for requests.
WRITING = {"statement_timeout": "0", "lock_timeout": "10s", "idle_in_transaction_session_timeout": "60s"}
# The output may wait for its reader, such as a pager, for any time.
READING = {**WRITING, "idle_in_transaction_session_timeout": "0"}


class Transfers:
    """Sessions without the time limits of requests, on a connection of their own. Close it by `async with`."""

    def __init__(self, url: DatabaseURL) -> None:
        self._engine = create_async_engine(
            url.sqlalchemy, connect_args=url.connect_arguments({"jit": "off"}), pool_size=1, max_overflow=0
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._engine.dispose()

    @asynccontextmanager
    async def session(self, owner: UUID | None, *, reading: bool = False) -> AsyncIterator[AsyncSession]:
        """One transaction that acts as a user, or as none. It is rolled back if the block raises.

        For `reading`, all statements see the same data.
        """
        isolation, limits = ("REPEATABLE READ", READING) if reading else ("READ COMMITTED", WRITING)
        kind = Session if owner is None else ActingSession
        async with AsyncSession(
            self._engine, sync_session_class=kind, info={OWNER: owner}, expire_on_commit=False
        ) as session:
            await session.connection(execution_options={"isolation_level": isolation})
            await session.execute(select(*(func.set_config(name, value, true()) for name, value in limits.items())))
            yield session
            await session.commit()


async def act(session: AsyncSession, owner: UUID) -> None:
    """Let the transaction act as a user from here on: for one that has just created the user."""
    await session.execute(select(func.act_in_transaction(owner)))


class Staging:
    """Inserts rows into a table of user data. `types` are the columns of the rows.

    The rows are inserted one by one if the role may not create temporary tables, and on a Citus cluster, whose workers
    would copy into the tables themselves.
    """

    def __init__(self, session: AsyncSession, table: Table, types: Types) -> None:
        self._session, self._table, self._types = session, table, types
        columns = [Column(name, bound) for name, (bound, _) in types.items()]
        options: dict[str, Any] = {"prefixes": ["TEMPORARY"], "postgresql_on_commit": "DROP"}
        self._staged = Table(f"staged_{table.name}", MetaData(), *columns, **options)
        self._is_copying: bool | None = None

    async def insert(self, rows: Sequence[Row]) -> None:
        if self._is_copying is None:
            self._is_copying = await self._can_copy()
            if self._is_copying:
                await self._session.execute(CreateTable(self._staged))
        if self._is_copying:
            await self._copy(rows)
        elif rows:
            values = {name: _cast(bindparam(name, type_=bound), to) for name, (bound, to) in self._types.items()}
            await self._session.execute(insert(self._table).values(values), list(rows))

    async def _can_copy(self) -> bool:
        may_create = func.has_database_privilege(func.current_database(), "TEMPORARY")
        return not await self._session.scalar(select(or_(func.is_distributed(), not_(may_create))))

    async def _copy(self, rows: Sequence[Row]) -> None:
        connection = await self._session.connection()
        driver: Any = (await connection.get_raw_connection()).driver_connection
        names, staged = list(self._types), self._staged
        records = [[row[name] for name in names] for row in rows]
        await driver.copy_records_to_table(staged.name, schema_name="pg_temp", columns=names, records=records)
        values = [_cast(staged.c[name], to) for name, (_, to) in self._types.items()]
        await self._session.execute(insert(self._table).from_select(names, select(*values)))
        await self._session.execute(text(f"TRUNCATE pg_temp.{staged.name}"))


def _cast(value: Any, to: TypeEngine[Any] | None) -> Any:
    return value if to is None else cast(value, to)
