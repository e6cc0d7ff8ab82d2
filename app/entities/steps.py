"""The writes of one entity as steps of a batch: checked, and bound to the statement of their kind."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import UUID

from app.database.batches import Row
from app.database.rendering import Selection
from app.database.statements import Statement
from app.entities import membership, moving, writing
from app.entities.content import COMPARES, SEEN, SETS, seen, taken
from app.entities.creation import creation_hash
from app.entities.entity import Content, Entity
from app.entities.problems import Problem
from app.entities.repository import NOTHING, Repository, Values, own_id, refusal, tags_in, too_many_tags
from app.entities.writing import Change
from app.errors import LimitExceeded, RequestError, TooManyTags
from app.identifiers import identifier, uuid7

T = TypeVar("T")

Build = Callable[[Entity, Selection, Change], Statement]


class Rejected(Exception):
    """The input of a write is invalid. `makes` is the id that it would have given to a new row."""

    def __init__(self, problems: list[Problem], makes: UUID | None = None) -> None:
        super().__init__()
        self.problems, self.makes = problems, makes


def rejected(error: RequestError, makes: UUID | None = None) -> Rejected:
    """The same for an error that rejects the whole request if the write is one."""
    code = "LIMIT_EXCEEDED" if isinstance(error, LimitExceeded) else "INVALID"
    field = getattr(error, "field", None)
    return Rejected([Problem(code, str(error), tuple(field.split(".")) if field else None)], makes)


@dataclass(frozen=True, slots=True)
class Step:
    """A write of a batch: how its statement is built, and the values to bind.

    `key` identifies the statement among those of a selection. `refusals` are the problems for a row with an error code,
    `missing` is the problem of an id whose create was rejected in the batch, and `unnamed` that of too many tags.
    `remedy` builds the statement that does the same if the row has no room in the manual order.
    """

    key: Hashable
    build: Callable[[Selection], Statement]
    values: Values
    refusals: Callable[[Row], list[Problem]]
    missing: Callable[[UUID], Problem]
    unnamed: Callable[[TooManyTags], Problem]
    repository: Repository | None = None
    makes: UUID | None = None
    names: frozenset[UUID] = frozenset()
    remedy: Callable[[Selection], Statement] | None = None


class Steps:
    """Makes the steps of one entity, for one user. Each method raises Rejected for invalid input."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._entity, self._owner = repository.entity, repository.owner

    def create(self, given: Values) -> Step:
        """Create a row."""
        entity, content = self._entity, {**self._entity.omitted, **given}
        wanted = content.pop("id", None)
        row_id = uuid7() if wanted is None else self._id(wanted, "input.id")
        if row_id == self._owner:
            raise Rejected([own_id("input")], row_id)
        bound = self._bound(content, row_id)
        values = {**dict.fromkeys(entity.at_creation), **bound, **self._repository.limits(1), "id": row_id}
        if wanted is not None:
            values["create_hash"] = creation_hash(entity, bound)
        change = Change("create", tuple(entity.at_creation), in_batch=True)
        return self._step(writing.create, change, values, makes=row_id, names=self._container(bound))

    def update(self, row_id: str, changes: Values, expected: int | None, base: Values = NOTHING) -> Step:
        """Change fields, as `Repository.update` does."""
        entity, wanted = self._entity, self._id(row_id, "id")
        bound = self._bound(changes)
        compared = self._checked(lambda: seen(entity, base, changes))
        columns = {name: content for name, content in entity.in_updates.items() if name not in entity.more_contents}
        values = {
            **{name: _empty(content) for name, content in entity.in_updates.items()},
            **{SEEN + name: _empty(content) for name, content in columns.items()},
            **{SETS + name: name in bound for name in columns},
            **{COMPARES + name: name in base for name in columns},
            **bound,
            **compared,
            "id": wanted,
            "expected": expected,
        }
        change = Change("update", tuple(entity.in_updates), expects_version=True, seen=tuple(columns), in_batch=True)
        tags = tags_in(changes)
        return self._step(writing.update, change, values, names=self._container(bound) | {wanted}, tags=tags)

    def move(self, row_id: str, place: str, anchor: str | None) -> Step:
        """Move a row, as `Repository.move` does."""
        wanted = self._id(row_id, "id")
        beside = None if anchor is None else self._id(anchor, f"to.{place}")
        names = frozenset({wanted} if beside is None else {wanted, beside})
        change, apart = (Change(kind, (), in_batch=True) for kind in (moving.ANY_PLACE, place + moving.APART))
        values = {"id": wanted, "anchor": beside, "place": place}
        return self._step(moving.move, change, values, names=names, remedy=self._building(moving.move_apart, apart))

    def delete(self, row_id: str, expected: int | None) -> Step:
        """Move a row to the trash."""
        change = Change("delete", (), expects_version=True, in_batch=True)
        return self._of_one(writing.delete, change, row_id, expected=expected)

    def restore(self, row_id: str) -> Step:
        """Take a row out of the trash."""
        return self._of_one(writing.restore, Change("restore", (), in_batch=True), row_id)

    def _of_one(self, build: Build, change: Change, row_id: str, **values: Any) -> Step:
        wanted = self._id(row_id, "id")
        return self._step(build, change, {**values, "id": wanted}, names=frozenset([wanted]))

    def _step(  # noqa: PLR0913 - the parts of a step
        self,
        build: Build,
        change: Change,
        values: Values,
        *,
        makes: UUID | None = None,
        names: frozenset[UUID],
        tags: str = "tags",
        remedy: Callable[[Selection], Statement] | None = None,
    ) -> Step:
        entity, repository = self._entity, self._repository
        return Step(
            key=(entity.one, change),
            build=self._building(build, change),
            values={"user_id": self._owner, **values},
            refusals=repository.refusals,
            missing=lambda row_id: self._missing(row_id, values),
            unnamed=lambda error: too_many_tags(error, "input", tags),
            repository=repository,
            makes=makes,
            names=names,
            remedy=remedy,
        )

    def _building(self, build: Build, change: Change) -> Callable[[Selection], Statement]:
        entity, complete = self._entity, self._repository.complete
        return lambda payload: complete(payload, lambda shown: build(entity, shown, change))

    def _missing(self, row_id: UUID, values: Values) -> Problem:
        """The problem of an id of which there is no row, because the batch has not created it."""
        if row_id == values["id"]:
            return refusal(self._entity, "NOT_FOUND")
        if row_id == values.get("anchor"):
            return refusal(self._entity, "ANCHOR_NOT_FOUND")
        return self._repository.not_contained(membership.NOT_FOUND, "input")

    def _container(self, bound: Values) -> frozenset[UUID]:
        """The id of the row that contains the row."""
        member = self._entity.member
        container = bound.get(member.reference.name) if member else None
        return frozenset([identifier(container, "")] if container else [])

    def _bound(self, changes: Values, makes: UUID | None = None) -> dict[str, Any]:
        bound, wrong = self._checked(lambda: taken(self._entity, changes), makes)
        if wrong:
            raise Rejected(wrong, makes)
        return bound

    @staticmethod
    def _id(value: str, name: str) -> UUID:
        return Steps._checked(lambda: identifier(value, name))

    @staticmethod
    def _checked(check: Callable[[], T], makes: UUID | None = None) -> T:
        try:
            return check()
        except RequestError as error:
            raise rejected(error, makes) from error


def _empty(content: Content) -> Any:
    """The value to bind to a field that is not given."""
    return content.stored(None) if content.stored else None
