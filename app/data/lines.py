"""The format of exports: JSON Lines. The first line is an Export, then follow lists and tasks in their manual order.

Fields have the names and values of the API. Left out are `position`, which the order of the lines replaces, and
`version`, because an import is a write of its own.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Annotated, Any, ClassVar, Literal, NamedTuple
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from app.entities.content import taken
from app.entities.entity import Entity
from app.entities.kinds import past_moment
from app.entities.naming import api_name
from app.entities.problems import Problem, utc
from app.errors import BadUserInput
from app.models import PRIORITIES
from app.tasks.fields import TASK
from app.tasks.lists import LIST

FORMAT = 1
Priority = Literal["NONE", "LOW", "MEDIUM", "HIGH", "URGENT"]


class _Strict(BaseModel):
    # Without the input in errors: it is text of a user.
    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        alias_generator=api_name,
        populate_by_name=True,
        hide_input_in_errors=True,
    )


class Export(_Strict):
    """The first line. `lists` and `tasks` are the numbers of the lines that follow, to detect an incomplete file."""

    type: Literal["Export"] = "Export"
    format: Literal[1]
    lists: int | None = None
    tasks: int | None = None
    user: dict[str, Any] | None = None


class Line(_Strict):
    """A list or a task: its content as the API takes it, and its state."""

    entity: ClassVar[Entity]

    id: UUID
    created_at: AwareDatetime | None = None
    updated_at: AwareDatetime | None = None
    deleted_at: AwareDatetime | None = None

    def content(self) -> dict[str, Any]:
        """The values of the columns that creates accept."""
        return {name: getattr(self, name) for name in self.entity.at_creation}


class ListLine(Line):
    entity = LIST

    type: Literal["TaskList"] = "TaskList"
    name: str
    icon: str | None = None


class TaskLine(Line):
    entity = TASK

    type: Literal["Task"] = "Task"
    title: str
    description: str | None = None
    completed: bool | None = None
    completed_at: AwareDatetime | None = None
    priority: Priority = "NONE"
    due_date: date | None = None
    tags: list[str] = []
    list_id: UUID | None = None
    trashed_with_list: bool = False

    def content(self) -> dict[str, Any]:
        is_completed = self.completed_at is not None if self.completed is None else self.completed
        return {
            **super().content(),
            "completed": is_completed,
            "priority": PRIORITIES.index(self.priority),
            "list_id": self.list_id and str(self.list_id),
        }


class Numbered(NamedTuple):
    """A list or a task, and the number of its line in the file."""

    number: int
    line: Line


class Wrong(NamedTuple):
    """What is wrong with a line of a file. `field` is empty if it is the line as a whole."""

    number: int
    field: str
    message: str

    def __str__(self) -> str:
        return f"line {self.number}: {self.field + ': ' if self.field else ''}{self.message}"


ANY: TypeAdapter[Export | ListLine | TaskLine] = TypeAdapter(
    Annotated[Export | ListLine | TaskLine, Field(discriminator="type")]
)


def parsed(lines: Iterable[bytes]) -> tuple[list[Numbered], list[Wrong]]:
    """The lists and tasks of an export, and everything that is wrong with it."""
    found, wrong, header = list[Numbered](), list[Wrong](), None
    for number, text in enumerate(lines, 1):
        try:
            line = ANY.validate_json(text) if text.strip() else None
        except ValidationError as error:
            wrong += _invalid(number, error)
            continue
        if isinstance(line, Export):
            wrong += [Wrong(number, "", "there is a second Export; import one file at a time")] if header else []
            header = line
        elif line is not None:
            found.append(Numbered(number, line))
    if not wrong:
        wrong += _incomplete(header, found)
    return found, wrong


def _invalid(number: int, error: ValidationError) -> Iterator[Wrong]:
    for item in error.errors(include_input=False, include_url=False):
        # The first part of a location is the type of the line.
        yield Wrong(number, ".".join(map(str, item["loc"][1:])), item["msg"])


def _incomplete(header: Export | None, found: Sequence[Numbered]) -> Iterator[Wrong]:
    if header is None:
        yield Wrong(1, "type", f'the file must begin with {{"type": "Export", "format": {FORMAT}}}')
        return
    for name, entity in (("lists", LIST), ("tasks", TASK)):
        expected, there = getattr(header, name), sum(each.line.entity is entity for each in found)
        if expected not in {None, there}:
            text = f"the file has {there} {name} instead of {expected}: it is incomplete. Export it again, or"
            yield Wrong(1, name, f"{text} remove this number to import what is there")


def columns(each: Numbered, now: datetime) -> tuple[dict[str, Any], list[Wrong]]:
    """The values to write for a line, as those of a create, and what is wrong with them. Missing times are `now`."""
    line = each.line
    times = {"created_at": line.created_at or now, "updated_at": line.updated_at or now, "deleted_at": line.deleted_at}
    content = line.content()
    if content.get("completed") and content["completed_at"] is None:
        content["completed_at"] = times["updated_at"]
    content |= {"created_at": times["created_at"]} if "created_at" in content else {}
    omitted = {name for name, value in content.items() if value is None and line.entity.contents[name].optional}
    content = {name: value for name, value in content.items() if name not in omitted}
    try:
        bound, problems = taken(line.entity, content, ())
        problems += _in_the_future(times)
    except BadUserInput as error:
        return {}, [Wrong(each.number, "", str(error))]
    wrong = [_placed(each.number, problem) for problem in problems]
    if wrong:
        return {}, wrong
    state = {name: value and utc(value) for name, value in times.items()}
    mark = {"trashed_with_list": line.trashed_with_list} if isinstance(line, TaskLine) else {}
    return {**dict.fromkeys(omitted), **bound, **state, **mark, "id": line.id}, []


def _in_the_future(times: Mapping[str, datetime | None]) -> list[Problem]:
    found = list[Problem]()
    for name, value in times.items():
        check = past_moment(api_name(name)).check
        if value is not None and check is not None:
            found += [Problem(each.code, each.message, (api_name(name),)) for each in check(value)]
    return found


def _placed(number: int, problem: Problem) -> Wrong:
    return Wrong(number, ".".join(problem.field or ()), problem.message)


def current() -> datetime:
    return datetime.now(UTC)
