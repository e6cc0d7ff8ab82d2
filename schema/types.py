"""Output types. PostgreSQL renders the responses; these classes declare what they contain."""

import re
from contextlib import suppress
from datetime import date, datetime
from enum import Enum
from typing import Annotated, NewType

import strawberry
from strawberry import UNSET
from strawberry.schema.config import StrawberryConfig

from schema.arguments import After, Before, Filter, First, Last, OrderBy
from schema.enums import TaskPriority

SyncToken = NewType("SyncToken", str)

# What a field with arguments declares as its resolver is never called.
RENDERED = "PostgreSQL renders this field."

# fromisoformat() accepts more than RFC 3339: weeks, other separators, no offset.
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
    raise ValueError("A DateTime must be RFC 3339 text with an offset, such as 2026-01-31T09:30:00Z.")


def _parsed_date(value: object) -> date:
    if isinstance(value, str) and _DAY.fullmatch(value):
        with suppress(ValueError):
            return date.fromisoformat(value)
    raise ValueError("A Date must be a calendar date such as 2026-01-31.")


def _parsed_token(value: object) -> str:
    if isinstance(value, str):
        return value
    raise ValueError("A SyncToken must be a string, exactly as the server returned it.")


CONFIG = StrawberryConfig(
    scalar_map={
        datetime: strawberry.scalar(
            name="DateTime",
            description="A point in time as RFC 3339 text with an offset, such as `2026-01-31T09:30:00Z`. Responses"
            " are in UTC, with the offset `+00:00`.",
            specified_by_url="https://www.rfc-editor.org/rfc/rfc3339#section-5.6",
            serialize=_instant,
            parse_value=_parsed_instant,
        ),
        date: strawberry.scalar(
            name="Date",
            description="A calendar date as RFC 3339 text, such as `2026-01-31`.",
            specified_by_url="https://scalars.graphql.org/andimarek/local-date",
            serialize=date.isoformat,
            parse_value=_parsed_date,
        ),
        SyncToken: strawberry.scalar(
            name="SyncToken",
            description="An opaque position in the change history of the user's tasks. Store it and send it back"
            " unchanged. It does not expire, and is valid only for this user.",
            specified_by_url="https://www.rfc-editor.org/rfc/rfc4648#section-5",
            serialize=str,
            parse_value=_parsed_token,
        ),
    }
)


@strawberry.interface(description="An object that `node` can fetch by id.")
class Node:
    id: strawberry.ID = strawberry.field(
        description="A UUID in lower case, unique among the user's tasks and lists and the user's account."
    )


Today = Annotated[
    date | None,
    strawberry.argument(
        description="The user's own day, which decides what is overdue and what is due today. By default the current"
        " day in UTC."
    ),
]


@strawberry.type(description="Task counts. Tasks in the trash are not counted.")
class TaskStats:
    total: int = strawberry.field(description="Number of tasks.")
    open: int = strawberry.field(description="Number of tasks that are not completed.")
    completed: int = strawberry.field(description="Number of completed tasks.")
    overdue: int = strawberry.field(description="Number of open tasks with a due date before `today`.")
    due_today: int = strawberry.field(description="Number of open tasks with `today` as their due date.")


@strawberry.type(description="A tag of the user's tasks, with counts of its tasks. Tasks in the trash are not counted.")
class Tag:
    name: str = strawberry.field(
        description="The tag as it was first written, or as it was renamed. Tasks show it like this."
    )
    open: int = strawberry.field(description="Number of tasks with this tag that are not completed.")
    total: int = strawberry.field(
        description="Number of tasks with this tag. A tag without tasks remains until `deleteTag`."
    )


@strawberry.type(description="A user's account.")
class User(Node):
    email: str = strawberry.field(
        description="Email address. A placeholder at `users.invalid` if the issuer of the token gave no verified"
        " address."
    )
    name: str | None = strawberry.field(description="Display name; null if unknown.")
    image: str | None = strawberry.field(description="URL of the user's picture; null if there is none.")
    created_at: datetime = strawberry.field(description="When the account was created.")

    @strawberry.field(  # type: ignore[untyped-decorator]  # it is, on a type that inherits
        description="Counts of the user's tasks, without the trash. Adds 100 rows to the cost of the operation."
    )
    def task_stats(self, today: Today = UNSET) -> TaskStats:
        raise NotImplementedError(RENDERED)


@strawberry.type(description="A task. Each user sees only their own tasks.")
class Task(Node):
    title: str = strawberry.field(description="1 to 200 characters on one line, not blank.")
    description: str | None = strawberry.field(description="At most 4,000 characters; null if there is none.")
    completed: bool = strawberry.field(description="Whether the task is done.")
    completed_at: datetime | None = strawberry.field(description="When the task was completed; null while it is open.")
    priority: TaskPriority = strawberry.field(description="Priority; `NONE` by default.")
    due_date: date | None = strawberry.field(description="Due date; null if there is none.")
    tags: list[str] = strawberry.field(
        description="At most 20 different tags of 1 to 50 characters, in the order in which they were given."
    )
    position: str = strawberry.field(
        description="Sort key of the manual order. Compare keys by character code (`<` in JavaScript), not by locale."
        " It can also change when another task is moved."
    )
    version: int = strawberry.field(
        description="Increases with each change of the task, not always by 1. Pass it as `expectedVersion` to detect"
        " concurrent changes."
    )
    created_at: datetime = strawberry.field(description="When the task was created.")
    updated_at: datetime = strawberry.field(
        description="When the task was last changed. Moving, deleting and restoring are changes, too."
    )
    deleted_at: datetime | None = strawberry.field(
        description="When the task was moved to the trash; null if it is not in the trash."
    )
    list_: "TaskList | None" = strawberry.field(
        name="list", description="The list that the task is in; null for the inbox."
    )


@strawberry.type(description="Position of a page in its list.")
class PageInfo:
    has_next_page: bool = strawberry.field(
        description="Whether anything follows this page. If you page forward with `before` set, only what is before"
        " that cursor counts."
    )
    has_previous_page: bool = strawberry.field(
        description="Whether anything precedes this page. If you page backward with `after` set, only what is after"
        " that cursor counts."
    )
    start_cursor: str | None = strawberry.field(
        description="Cursor of the first item; null if the page is empty. Pass it as `before`, with `last`, to get the"
        " previous page."
    )
    end_cursor: str | None = strawberry.field(
        description="Cursor of the last item; null if the page is empty. Pass it as `after` to get the next page."
    )


@strawberry.type(description="A task in a page, with its cursor.")
class TaskEdge:
    cursor: str = strawberry.field(
        description="Opaque position of the task in this order. Pass it as `after` or `before`."
    )
    node: Task = strawberry.field(description="The task.")


@strawberry.type(description="A page of tasks.")
class TaskConnection:
    edges: list[TaskEdge] = strawberry.field(description="The tasks of this page, each with its cursor.")
    nodes: list[Task] = strawberry.field(description="The tasks of this page, without cursors.")
    page_info: PageInfo = strawberry.field(description="Cursors for the pages before and after this one.")
    total_count: int = strawberry.field(
        description="Number of matching tasks on all pages. Computed only if selected; adds 100 rows to the cost of the"
        " operation."
    )


@strawberry.type(description="A list of tasks. Each user sees only their own lists. A task is in one list or in none.")
class TaskList(Node):
    name: str = strawberry.field(description="1 to 100 characters on one line, not blank.")
    icon: str | None = strawberry.field(
        description="A color or an emoji, as a client wrote it: 1 to 32 characters on one line; null if there is none."
    )
    position: str = strawberry.field(
        description="Sort key of the manual order of lists. Compare keys by character code (`<` in JavaScript), not by"
        " locale. It can also change when another list is moved."
    )
    version: int = strawberry.field(
        description="Increases with each change of the list itself, not always by 1. Pass it as `expectedVersion` to"
        " detect concurrent changes."
    )
    created_at: datetime = strawberry.field(description="When the list was created.")
    updated_at: datetime = strawberry.field(
        description="When the list itself was last changed. Moving, deleting and restoring are changes, too."
    )
    deleted_at: datetime | None = strawberry.field(
        description="When the list was moved to the trash; null if it is not in the trash."
    )

    @strawberry.field(  # type: ignore[untyped-decorator]  # it is, on a type that inherits
        description="Counts of the list's tasks, without the trash. Adds 100 rows to the cost of the operation, for a"
        " page of lists once."
    )
    def task_stats(self, today: Today = UNSET) -> TaskStats:
        raise NotImplementedError(RENDERED)

    @strawberry.field(  # type: ignore[untyped-decorator]  # with graphql_type it is
        graphql_type=TaskConnection,
        description="The list's tasks, in pages. The manual order is the list's part of the order of all tasks.",
    )
    def tasks(
        self,
        filter: Filter = UNSET,
        order_by: OrderBy = UNSET,
        first: First = UNSET,
        after: After = UNSET,
        last: Last = UNSET,
        before: Before = UNSET,
    ) -> None:
        raise NotImplementedError(RENDERED)


@strawberry.type(description="A list in a page, with its cursor.")
class TaskListEdge:
    cursor: str = strawberry.field(
        description="Opaque position of the list in this order. Pass it as `after` or `before`."
    )
    node: TaskList = strawberry.field(description="The list.")


@strawberry.type(description="A page of lists.")
class TaskListConnection:
    edges: list[TaskListEdge] = strawberry.field(description="The lists of this page, each with its cursor.")
    nodes: list[TaskList] = strawberry.field(description="The lists of this page, without cursors.")
    page_info: PageInfo = strawberry.field(description="Cursors for the pages before and after this one.")
    total_count: int = strawberry.field(
        description="Number of matching lists on all pages. Computed only if selected; adds 100 rows to the cost of the"
        " operation."
    )


@strawberry.enum(description="What is wrong with the input.")
class UserErrorCode(Enum):
    BLANK = strawberry.enum_value("BLANK", description="A required text is null or blank: nothing of it can be seen.")
    TOO_LONG = strawberry.enum_value("TOO_LONG", description="A text has too many characters.")
    INVALID = strawberry.enum_value("INVALID", description="This field does not accept this value.")
    NOT_FOUND = strawberry.enum_value(
        "NOT_FOUND",
        description="You have no such task, list or tag.",
    )
    VERSION_CONFLICT = strawberry.enum_value(
        "VERSION_CONFLICT",
        description="The version is not `expectedVersion`. The payload has the current state.",
    )
    CONFLICT = strawberry.enum_value(
        "CONFLICT",
        description="The field has neither the value in `base` nor the new one. The payload has the current state.",
    )
    ID_TAKEN = strawberry.enum_value(
        "ID_TAKEN",
        description="A task or list with this id was created with different content, or `inputs` uses the id twice.",
    )
    GONE = strawberry.enum_value(
        "GONE",
        description="The task or list with this id was deleted permanently. It is not created again.",
    )
    IN_TRASH = strawberry.enum_value(
        "IN_TRASH",
        description="The task or list to change is in the trash, or the list to put a task into: restore it first. The"
        " payload has the current state.",
    )
    LIMIT_EXCEEDED = strawberry.enum_value(
        "LIMIT_EXCEEDED",
        description="Too many tags, inputs, tasks or lists; `message` states the limit.",
    )


@strawberry.type(description="An error that the user can correct.")
class UserError:
    code: UserErrorCode = strawberry.field(description="What is wrong, for programs.")
    message: str = strawberry.field(description="What is wrong, for people, in English.")
    field: list[str] | None = strawberry.field(
        description='Path of the input field, such as `["input", "title"]` or `["inputs", "0", "id"]`; null if no'
        " single"
        " field is wrong."
    )


@strawberry.type(description="Result of a mutation of one task.")
class TaskPayload:
    task: Task | None = strawberry.field(
        description="The task after the mutation. If there are errors, the existing task, unchanged; null if there is"
        " none, or if the input is invalid."
    )
    task_edge: TaskEdge | None = strawberry.field(
        description="The same task as an edge, to insert into a page of `tasks`. The cursor is that of the default"
        " order, newest first."
    )
    user_errors: list[UserError] = strawberry.field(
        description="Why nothing was changed; empty if the mutation succeeded."
    )
    token: SyncToken | None = strawberry.field(
        description="Position in the history after this mutation; null if the input is invalid. Do not sync from here:"
        " your copy may lack earlier changes by other clients."
    )


@strawberry.type(description="Result of one write of a batch.")
class WriteResult:
    task: Task | None = strawberry.field(
        description="For a write of a task: the task after this write. If there are errors, the existing task,"
        " unchanged; null if there is none, or if the input is invalid."
    )
    list_: TaskList | None = strawberry.field(
        name="list", description="For a write of a list: the list after this write, in the same way."
    )
    user_errors: list[UserError] = strawberry.field(
        description="Why this write has changed nothing; empty if it succeeded. Paths begin with the argument, such as"
        ' `["writes", "0", "updateTask", "input", "title"]`.'
    )


@strawberry.type(description="Result of a mutation of one list.")
class ListPayload:
    list_: TaskList | None = strawberry.field(
        name="list",
        description="The list after the mutation. If there are errors, the existing list, unchanged; null if there is"
        " none, or if the input is invalid.",
    )
    list_edge: TaskListEdge | None = strawberry.field(
        description="The same list as an edge, to insert into a page of `lists`. The cursor is that of the default"
        " order, the manual one."
    )
    user_errors: list[UserError] = strawberry.field(
        description="Why nothing was changed; empty if the mutation succeeded."
    )
    token: SyncToken | None = strawberry.field(
        description="Position in the history after this mutation; null if the input is invalid. Do not sync from here:"
        " your copy may lack earlier changes by other clients."
    )


@strawberry.type(description="Result of a mutation of a tag.")
class TagPayload:
    tag: Tag | None = strawberry.field(
        description="The tag after the mutation; null if it was deleted, or if there are errors."
    )
    affected_count: int = strawberry.field(
        description="Number of tasks that were changed, including those in the trash."
    )
    user_errors: list[UserError] = strawberry.field(
        description="Why nothing was changed; empty if the mutation succeeded."
    )
    token: SyncToken | None = strawberry.field(
        description="Position in the history after this mutation; null if the input is invalid. Do not sync from here:"
        " your copy may lack earlier changes by other clients."
    )


@strawberry.type(description="Result of a mutation of several tasks.")
class TasksPayload:
    tasks: list[Task] = strawberry.field(
        description="The selected tasks after the mutation; in a dry run, in their current state. `purgeTasks` shows"
        " them as they were. Empty if the mutation was rejected."
    )
    task_edges: list[TaskEdge] = strawberry.field(
        description="The same tasks as edges, to insert into a page of `tasks`. The cursors are those of the default"
        " order, newest first."
    )
    affected_count: int = strawberry.field(
        description="Number of tasks in `tasks`, including those that needed no change; 0 if the mutation was rejected."
    )
    user_errors: list[UserError] = strawberry.field(
        description="Empty if the mutation succeeded. NOT_FOUND at `where.ids`, and for `updateTasks` IN_TRASH, name"
        " ids that were skipped; with any other error the mutation was rejected, and nothing was changed."
    )
    token: SyncToken | None = strawberry.field(
        description="Position in the history after this mutation; null if the input is invalid. Do not sync from here:"
        " your copy may lack earlier changes by other clients."
    )


@strawberry.type(description="Result of a mutation of several lists.")
class ListsPayload:
    lists: list[TaskList] = strawberry.field(
        description="The selected lists, as they were before the mutation. Empty if the mutation was rejected."
    )
    affected_count: int = strawberry.field(description="Number of lists in `lists`; 0 if the mutation was rejected.")
    user_errors: list[UserError] = strawberry.field(
        description="Empty if the mutation succeeded. NOT_FOUND names ids that were skipped; with any other error the"
        " mutation was rejected, and nothing was changed."
    )
    token: SyncToken | None = strawberry.field(
        description="Position in the history after this mutation; null if the input is invalid. Do not sync from here:"
        " your copy may lack earlier changes by other clients."
    )


@strawberry.type(description="Result of `emptyTrash`.")
class TrashPayload:
    affected_count: int = strawberry.field(
        description="Number of tasks and lists that were deleted, or in a dry run would be; 0 if the mutation was"
        " rejected."
    )
    user_errors: list[UserError] = strawberry.field(
        description="Why nothing was deleted; empty if the mutation succeeded."
    )
    token: SyncToken | None = strawberry.field(
        description="Position in the history after this mutation; null if the input is invalid. Do not sync from here:"
        " your copy may lack earlier changes by other clients."
    )
