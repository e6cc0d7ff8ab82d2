"""Output types. Answers are rendered by PostgreSQL; these classes are their contract."""

import re
from contextlib import suppress
from datetime import date, datetime
from enum import Enum
from typing import Annotated, NewType

import strawberry
from strawberry.schema.config import StrawberryConfig

SyncToken = NewType("SyncToken", str)

# fromisoformat() takes more than RFC 3339: weeks, other separators, no offset.
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def _instant(value: datetime) -> str:
    """RFC 3339 with the shortest fraction, as PostgreSQL writes it."""
    whole, _, offset = value.isoformat().partition("+")
    return (whole.rstrip("0") if "." in whole else whole) + "+" + offset


def _parsed_instant(value: object) -> datetime:
    if isinstance(value, str) and _RFC_3339.fullmatch(value):
        with suppress(ValueError):
            return datetime.fromisoformat(value.upper())
    raise ValueError("A DateTime is RFC 3339 text with its offset, such as 2026-01-31T09:30:00Z.")


def _parsed_date(value: object) -> date:
    if isinstance(value, str) and _DAY.fullmatch(value):
        with suppress(ValueError):
            return date.fromisoformat(value)
    raise ValueError("A Date is a day of the calendar such as 2026-01-31.")


def _parsed_token(value: object) -> str:
    if isinstance(value, str):
        return value
    raise ValueError("A SyncToken is text, as it was given.")


CONFIG = StrawberryConfig(
    scalar_map={
        datetime: strawberry.scalar(
            name="DateTime",
            description="A moment as RFC 3339 text with its offset; answers are in UTC.",
            specified_by_url="https://scalars.graphql.org/andimarek/date-time",
            serialize=_instant,
            parse_value=_parsed_instant,
        ),
        date: strawberry.scalar(
            name="Date",
            description="A day of the calendar as RFC 3339 text: 2026-01-31.",
            specified_by_url="https://scalars.graphql.org/andimarek/local-date",
            serialize=date.isoformat,
            parse_value=_parsed_date,
        ),
        SyncToken: strawberry.scalar(
            name="SyncToken",
            description="A place in the history of your tasks. Opaque: keep it, and send it back as it is.",
            specified_by_url="https://www.rfc-editor.org/rfc/rfc4648#section-5",
            serialize=str,
            parse_value=_parsed_token,
        ),
    }
)


@strawberry.enum(description="How urgent a task is.")
class TaskPriority(Enum):
    NONE = strawberry.enum_value("NONE", description="Not decided; what a task has unless told otherwise.")
    LOW = strawberry.enum_value("LOW", description="Some day.")
    MEDIUM = strawberry.enum_value("MEDIUM", description="Soon.")
    HIGH = strawberry.enum_value("HIGH", description="Before others.")
    URGENT = strawberry.enum_value("URGENT", description="Now.")


@strawberry.interface(description="Anything with an id that `node` can fetch.")
class Node:
    id: strawberry.ID = strawberry.field(description="A UUID, unique among all nodes of a user.")


@strawberry.type(description="Counts of a user's tasks, without the trash.")
class TaskStats:
    total: int = strawberry.field(description="All tasks.")
    open: int = strawberry.field(description="Tasks that are not completed.")
    completed: int = strawberry.field(description="Tasks that are completed.")
    overdue: int = strawberry.field(description="Open tasks whose due date is before today, in UTC.")


@strawberry.type(description="The account that a token speaks for.")
class User(Node):
    email: str = strawberry.field(description="The address the account was made with.")
    name: str | None = strawberry.field(description="What to call this person.")
    image: str | None = strawberry.field(description="The URL of a picture.")
    created_at: datetime = strawberry.field(description="When the account was made.")
    task_stats: TaskStats = strawberry.field(description="Counts of the user's tasks.")


@strawberry.type(description="Something to do.")
class Task(Node):
    title: str = strawberry.field(description="What is to be done: 1 to 200 characters, not blank.")
    description: str | None = strawberry.field(description="More about it: at most 1,000 characters.")
    completed: bool = strawberry.field(description="Whether it is done.")
    completed_at: datetime | None = strawberry.field(description="When it was done; null while it is open.")
    priority: TaskPriority = strawberry.field(description="How urgent it is.")
    due_date: date | None = strawberry.field(description="The day it is due.")
    tags: list[str] = strawberry.field(description="At most 20 labels of 1 to 50 characters, in the order given.")
    position: str = strawberry.field(description="Its place in the manual order: compare as bytes, never by locale.")
    version: int = strawberry.field(description="Grows with each write; send it as `expectedVersion`.")
    created_at: datetime = strawberry.field(description="When it was made.")
    updated_at: datetime = strawberry.field(description="When it was last written.")
    deleted_at: datetime | None = strawberry.field(description="When it was put in the trash; null otherwise.")


@strawberry.type(description="Where a page lies in its list.")
class PageInfo:
    has_next_page: bool = strawberry.field(description="Whether tasks follow this page, up to `before`.")
    has_previous_page: bool = strawberry.field(
        description="Whether tasks precede this page; with `last`, down to `after`."
    )
    start_cursor: str | None = strawberry.field(description="The first task's cursor; null on an empty page.")
    end_cursor: str | None = strawberry.field(description="The last task's cursor; send it as `after`.")


@strawberry.type(description="A task in a page.")
class TaskEdge:
    cursor: str = strawberry.field(description="The task's place in the order of this list.")
    node: Task = strawberry.field(description="The task.")


@strawberry.type(description="A page of tasks.")
class TaskConnection:
    edges: list[TaskEdge] = strawberry.field(description="The tasks with their cursors.")
    nodes: list[Task] = strawberry.field(description="The tasks alone.")
    page_info: PageInfo = strawberry.field(description="Where this page lies.")
    total_count: int = strawberry.field(description="All tasks that match, on every page; counted only when asked for.")


@strawberry.type(description="A task was made, written or taken out of the trash.")
class TaskUpserted:
    task: Task = strawberry.field(description="The task as it now is.")
    token: SyncToken = strawberry.field(description="The history up to and with this change.")


@strawberry.type(description="A task was put in the trash, and may be gone for good by now.")
class TaskRemoved:
    task_id: strawberry.ID = strawberry.field(description="The task's id; your copy may never have had it.")
    token: SyncToken = strawberry.field(description="The history up to and with this change.")


TaskChange = Annotated[
    TaskUpserted | TaskRemoved,
    strawberry.union("TaskChange", description="What has become of a task since its copy was made."),
]


@strawberry.type(description="A page of changes, in the order of the tasks' last writes.")
class TaskChangePage:
    changes: list[TaskChange] = strawberry.field(description="Each task that has changed, once, as it now is.")
    token: SyncToken = strawberry.field(description="The history up to and with this page; send it as `since`.")
    has_more: bool = strawberry.field(description="Whether more has changed; ask again with `token`.")
    full_sync: bool = strawberry.field(
        description="Whether it begins anew: drop your copy, then apply this page and those that follow. True without"
        " `since`, and with a token that does not lead on: what was removed since then is no longer known, the database"
        " was restored, or it is no token of yours."
    )


@strawberry.enum(description="What is wrong with an input.")
class UserErrorCode(Enum):
    BLANK = strawberry.enum_value("BLANK", description="Text is missing.")
    TOO_LONG = strawberry.enum_value("TOO_LONG", description="Text has too many characters.")
    INVALID = strawberry.enum_value("INVALID", description="The value cannot be taken.")
    NOT_FOUND = strawberry.enum_value("NOT_FOUND", description="You have no such task, or it is in the trash.")
    VERSION_CONFLICT = strawberry.enum_value(
        "VERSION_CONFLICT", description="The task has another version than expected; `task` shows it as it is."
    )
    ID_TAKEN = strawberry.enum_value("ID_TAKEN", description="You have another task with this id.")
    LIMIT_EXCEEDED = strawberry.enum_value("LIMIT_EXCEEDED", description="There are too many of something.")


@strawberry.type(description="Something the caller can mend.")
class UserError:
    code: UserErrorCode = strawberry.field(description="For programs.")
    message: str = strawberry.field(description="For people.")
    field: list[str] | None = strawberry.field(description='The path of the input field: ["input", "title"].')


@strawberry.type(description="What a mutation of one task did.")
class TaskPayload:
    task: Task | None = strawberry.field(
        description="The task as it now is; null when there is none. With VERSION_CONFLICT or ID_TAKEN, what is there."
    )
    user_errors: list[UserError] = strawberry.field(description="What kept it from being done; empty when it was.")
    token: SyncToken | None = strawberry.field(description="The history up to and with this write.")


@strawberry.type(description="What a mutation of many tasks did.")
class TasksPayload:
    tasks: list[Task] = strawberry.field(description="The selected tasks as they now are, or as they are in a dry run.")
    affected_count: int = strawberry.field(description="How many tasks are now as asked, or would be after a dry run.")
    user_errors: list[UserError] = strawberry.field(description="What kept it from being done; empty when it was.")
    token: SyncToken | None = strawberry.field(description="The history up to and with this write.")
