"""The plain server: the same API with Strawberry and SQLAlchemy's ORM, as their documentation shows it.

An ASGI server with a session for each request, the token decoded in the context, every query filtered by user_id, and
Strawberry's caches of parsed and validated documents on. No row-level security, limits, retries or clocks.

Reads PLAIN_DATABASE_URL and AUTH_SECRET; arguments: the port.
"""

import base64
import os
import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime
from enum import Enum
from typing import Annotated, Any, TypeAlias
from uuid import UUID, uuid4

import jwt
import strawberry
import uvicorn
from sqlalchemy import ARRAY, DateTime, String, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket
from strawberry.asgi import GraphQL
from strawberry.extensions import ParserCache, ValidationCache

from app.database.url import DatabaseURL

Instant: TypeAlias = Annotated[datetime, mapped_column(DateTime(timezone=True))]


class Base(DeclarativeBase):
    pass


class UserRow(Base):
    __tablename__ = "users"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    email: Mapped[str]
    name: Mapped[str | None]


class TaskRow(Base):
    __tablename__ = "tasks"

    user_id: Mapped[UUID] = mapped_column(primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    title: Mapped[str]
    description: Mapped[str | None]
    completed: Mapped[bool] = mapped_column(default=False)
    completed_at: Mapped[Instant | None]
    priority: Mapped[int] = mapped_column(default=0)
    due_date: Mapped[date | None]
    tags: Mapped[list[str]] = mapped_column(ARRAY(String), default=list)
    position: Mapped[str] = mapped_column(default=lambda: uuid4().hex)
    version: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[Instant] = mapped_column(default=lambda: datetime.now(UTC))
    updated_at: Mapped[Instant] = mapped_column(default=lambda: datetime.now(UTC), onupdate=lambda: datetime.now(UTC))
    deleted_at: Mapped[Instant | None]


@strawberry.enum
class TaskPriority(Enum):
    NONE = 0
    LOW = 1
    MEDIUM = 2
    HIGH = 3
    URGENT = 4


@strawberry.type
class Task:
    id: strawberry.ID
    title: str
    description: str | None
    completed: bool
    completed_at: datetime | None
    priority: TaskPriority
    due_date: date | None
    tags: list[str]
    version: int
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, row: TaskRow) -> "Task":
        return cls(
            id=strawberry.ID(str(row.id)),
            title=row.title,
            description=row.description,
            completed=row.completed,
            completed_at=row.completed_at,
            priority=TaskPriority(row.priority),
            due_date=row.due_date,
            tags=row.tags,
            version=row.version,
            created_at=row.created_at,
            updated_at=row.updated_at,
        )


@strawberry.type
class PageInfo:
    has_next_page: bool
    has_previous_page: bool
    start_cursor: str | None
    end_cursor: str | None


@strawberry.type
class TaskEdge:
    cursor: str
    node: Task


@strawberry.type
class TaskConnection:
    edges: list[TaskEdge]
    nodes: list[Task]
    page_info: PageInfo


@strawberry.type
class TaskStats:
    total: int
    open: int
    completed: int
    overdue: int


class Context(dict[str, Any]):
    """The context of resolvers: the session of this request, and the caller."""

    @property
    def session(self) -> AsyncSession:
        session: AsyncSession = self["request"].scope["session"]
        return session

    @property
    def user_id(self) -> UUID:
        user_id: UUID = self["user_id"]
        return user_id


Info = strawberry.Info[Context, None]


@strawberry.type
class User:
    id: strawberry.ID
    email: str

    @strawberry.field
    async def task_stats(self, info: Info) -> TaskStats:
        done, overdue = TaskRow.completed, TaskRow.due_date < func.current_date()
        counts = select(
            func.count(), func.count().filter(~done), func.count().filter(done), func.count().filter(~done, overdue)
        ).where(TaskRow.user_id == info.context.user_id, TaskRow.deleted_at.is_(None))
        total, open_, completed, late = (await info.context.session.execute(counts)).one()
        return TaskStats(total=total, open=open_, completed=completed, overdue=late)


@strawberry.type
class UserError:
    code: str
    message: str
    field: list[str] | None


@strawberry.type
class TaskPayload:
    task: Task | None
    user_errors: list[UserError]


@strawberry.input
class CreateTaskInput:
    title: str
    description: str | None = None
    priority: TaskPriority | None = TaskPriority.NONE
    due_date: date | None = None
    tags: list[str] | None = None


@strawberry.type
class Query:
    @strawberry.field
    async def viewer(self, info: Info) -> User:
        row = await info.context.session.get_one(UserRow, info.context.user_id)
        return User(id=strawberry.ID(str(row.id)), email=row.email)

    @strawberry.field
    async def task(self, info: Info, id: strawberry.ID) -> Task | None:
        row = await _find(info, id)
        return None if row is None else Task.of(row)

    @strawberry.field
    async def tasks(self, info: Info, first: int = 20, after: str | None = None) -> TaskConnection:
        statement = (
            select(TaskRow)
            .where(TaskRow.user_id == info.context.user_id, TaskRow.deleted_at.is_(None))
            .order_by(TaskRow.created_at.desc(), TaskRow.id.desc())
            .limit(first + 1)
        )
        if after is not None:
            statement = statement.where(tuple_(TaskRow.created_at, TaskRow.id) < _place(after))
        rows = (await info.context.session.scalars(statement)).all()
        return _connection(rows[:first], has_previous=after is not None, has_next=len(rows) > first)


@strawberry.type
class Mutation:
    @strawberry.mutation
    async def create_task(self, info: Info, input: CreateTaskInput) -> TaskPayload:
        row = TaskRow(
            user_id=info.context.user_id,
            title=input.title,
            description=input.description,
            priority=(input.priority or TaskPriority.NONE).value,
            due_date=input.due_date,
            tags=input.tags or [],
        )
        info.context.session.add(row)
        await info.context.session.commit()
        return TaskPayload(task=Task.of(row), user_errors=[])

    @strawberry.mutation
    async def set_task_completed(self, info: Info, id: strawberry.ID, completed: bool) -> TaskPayload:
        row = await _find(info, id)
        if row is None:
            missing = UserError(code="NOT_FOUND", message="There is no such task.", field=["id"])
            return TaskPayload(task=None, user_errors=[missing])
        row.completed, row.version = completed, row.version + 1
        row.completed_at = datetime.now(UTC) if completed else None
        await info.context.session.commit()
        return TaskPayload(task=Task.of(row), user_errors=[])


async def _find(info: Info, task_id: str) -> TaskRow | None:
    wanted = select(TaskRow).where(TaskRow.user_id == info.context.user_id, TaskRow.id == UUID(task_id))
    row: TaskRow | None = await info.context.session.scalar(wanted)
    return row


def _connection(rows: Sequence[TaskRow], *, has_previous: bool, has_next: bool) -> TaskConnection:
    edges = [TaskEdge(cursor=_cursor(row), node=Task.of(row)) for row in rows]
    info = PageInfo(
        has_next_page=has_next,
        has_previous_page=has_previous,
        start_cursor=edges[0].cursor if edges else None,
        end_cursor=edges[-1].cursor if edges else None,
    )
    return TaskConnection(edges=edges, nodes=[edge.node for edge in edges], page_info=info)


def _cursor(row: TaskRow) -> str:
    return base64.urlsafe_b64encode(f"{row.created_at.isoformat()} {row.id}".encode()).decode()


def _place(cursor: str) -> tuple[datetime, UUID]:
    when, task_id = base64.urlsafe_b64decode(cursor).decode().split(" ")
    return datetime.fromisoformat(when), UUID(task_id)


class Server(GraphQL[Context, None]):
    """Strawberry's ASGI application, with a session for each request and the caller in the context."""

    def __init__(self, sessions: async_sessionmaker[AsyncSession], secret: str) -> None:
        caches = [ParserCache, ValidationCache]
        super().__init__(strawberry.Schema(query=Query, mutation=Mutation, extensions=caches))
        self.sessions, self.secret = sessions, secret

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self.sessions() as scope["session"]:
            await super().__call__(scope, receive, send)

    async def get_context(self, request: Request | WebSocket, response: Response | WebSocket) -> Context:
        token = request.headers["Authorization"].removeprefix("Bearer ")
        claims = jwt.decode(token, self.secret, algorithms=["HS256"], options={"require": ["exp", "iat", "sub"]})
        return Context(request=request, response=response, user_id=UUID(claims["sub"]))


def create_app() -> Starlette:
    url = DatabaseURL(os.environ["PLAIN_DATABASE_URL"])
    # More than SQLAlchemy's default, which beyond 5 connections opens and closes one for each request.
    engine = create_async_engine(url.sqlalchemy, connect_args=url.connect_arguments({}), pool_size=15, max_overflow=0)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    return Starlette(routes=[Route("/graphql", Server(sessions, os.environ["AUTH_SECRET"]))])


if __name__ == "__main__":
    uvicorn.run(
        "benchmarks.plain:create_app",
        factory=True,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        workers=int(sys.argv[2]) if len(sys.argv) > 2 else 1,  # noqa: PLR2004 - the second argument
        access_log=False,
        log_level="warning",
        server_header=False,
    )
