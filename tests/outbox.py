"""Devices of one user that write offline, as docs/offline.md describes, and what must be true of them at the end."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from random import Random
from typing import Any
from uuid import UUID

import asyncpg
import httpx
from conftest import ALL_FIELDS, User
from mirror import CHANGES, Mirror

Json = dict[str, Any]

WRITE = f"""mutation ($writes: [Write!]!) {{ write(writes: $writes) {{
    task {{ {ALL_FIELDS} }} list {{ id name icon }} userErrors {{ code message field }}
}} }}"""
# What a request without a usable response raises.
LOST = (httpx.TransportError,)
# Fields of tasks whose values are made only once, so that a value tells which edit wrote it.
UNIQUE = ("title", "description", "dueDate")
MOST_AT_ONCE = 20
MOST_TRIES = 500


class Unavailable(Exception):
    """The server has answered, but could not run the request."""


@dataclass(frozen=True)
class Edit:
    """A sent change of one field, from the value that the device has seen to a value of its own."""

    row: str
    field: str
    base: Any
    value: Any


@dataclass
class History:
    """What all devices have sent, and what was acknowledged."""

    random: Random
    made: int = 0
    sent: set[str] = field(default_factory=set)
    created: set[str] = field(default_factory=set)
    edits: list[Edit] = field(default_factory=list)
    acknowledged: list[Edit] = field(default_factory=list)
    tagged: set[tuple[str, str]] = field(default_factory=set)
    # Rows that were deleted for good, whose later history is not checked.
    purged: set[str] = field(default_factory=set)

    def fresh(self, name: str) -> Any:
        """A value for a field that no edit has written before."""
        self.made += 1
        if name == "dueDate":
            return (date(2000, 1, 1) + timedelta(self.made)).isoformat()
        return f"{name} {self.made}"

    def new_id(self) -> str:
        return str(UUID(int=self.random.getrandbits(128), version=4))


class Device:
    """A copy of the user's data, and an outbox. `send` and `pull` may be cut off at any time."""

    def __init__(self, user: User, history: History) -> None:
        self.user, self.history, self.random = user, history, history.random
        self.mirror, self.outbox = Mirror(user), list[Json]()
        self.is_online = True

    # The person

    def act(self) -> None:
        """Write something to the outbox."""
        rows = self.shown()
        tasks = sorted(key for key, row in rows.items() if "title" in row)
        lists = sorted(key for key, row in rows.items() if "name" in row)
        kinds = ["task", "task"] + ["list"] * (len(lists) < 4)
        kinds += ["edit"] * 6 + ["others"] * 7 if tasks else []
        kinds += ["rename", "rename", "delete"] if lists else []
        match self.random.choice(kinds):
            case "task":
                new: Json = {"id": self.history.new_id(), "title": self.history.fresh("title")}
                self.outbox.append({"createTask": new | self._within(lists)})
            case "list":
                self.outbox.append({"createList": {"id": self.history.new_id(), "name": self.history.fresh("name")}})
            case "edit":
                names = self.random.sample(UNIQUE, self.random.choice([1, 1, 2]))
                self._edit("updateTask", self.random.choice(tasks), names, rows)
            case "rename":
                self._edit("updateList", self.random.choice(lists), ["name"], rows)
            case "delete":
                self.outbox.append({"deleteList": {"id": self.random.choice(lists)}})
            case "others":
                self._change(self.random.choice(tasks), tasks, lists)

    def _change(self, task: str, tasks: list[str], lists: list[str]) -> None:
        tag = {"addTags": [f"tag {self.random.randrange(30)}"]}
        places: list[Json] = [{"toStart": True}, {"toEnd": True}, {"after": self.random.choice(tasks)}]
        writes: list[Json] = [
            {"updateTask": {"id": task, "input": tag}},
            {"updateTask": {"id": task, "input": self._within(lists)}},
            {"moveTask": {"id": task, "to": self.random.choice(places)}},
            {"deleteTask": {"id": task}},
            {"restoreTask": {"id": task}},
        ]
        self.outbox.append(self.random.choice(writes))

    def _within(self, lists: list[str]) -> Json:
        return self.random.choice([{}, {"listId": None}, *({"listId": one} for one in lists)])

    def _edit(self, kind: str, row: str, names: list[str], rows: dict[str, Json]) -> None:
        changes, base = {name: self.history.fresh(name) for name in names}, {name: rows[row][name] for name in names}
        self.outbox.append({kind: {"id": row, "input": changes, "base": base}})

    def shown(self) -> dict[str, Json]:
        """The copy with the outbox applied to it."""
        rows = {key: dict(row) for key, row in (*self.mirror.tasks.items(), *self.mirror.lists.items())}
        for write in self.outbox:
            ((kind, given),) = write.items()
            if kind in {"createTask", "createList"}:
                rows.setdefault(given["id"], {"description": None, "dueDate": None, **given})
            elif kind in {"updateTask", "updateList"} and given["id"] in rows:
                rows[given["id"]].update(given["input"])
        return rows

    # The network

    async def send(self, most: int = MOST_AT_ONCE) -> None:
        """Send the first writes, and handle their results. The outbox stays as it is if no results arrive."""
        writes = self.outbox[:most]
        if not writes:
            return
        self._note(writes)
        results = (await self._data(WRITE, writes=writes))["write"]
        del self.outbox[: len(writes)]
        again = [new for write, result in zip(writes, results, strict=True) if (new := self._settle(write, result))]
        self.outbox += again

    def _note(self, writes: list[Json]) -> None:
        for write in writes:
            ((kind, given),) = write.items()
            if kind in {"createTask", "createList"}:
                self.history.sent.add(given["id"])
            self.history.edits += self._edits(kind, given)

    @staticmethod
    def _edits(kind: str, given: Json) -> list[Edit]:
        base = given.get("base", {}) if kind in {"updateTask", "updateList"} else {}
        return [Edit(given["id"], name, seen, given["input"][name]) for name, seen in base.items()]

    def _settle(self, write: Json, result: Json) -> Json | None:
        """Handle a result as docs/offline.md says; returns what to send instead."""
        ((kind, given),) = write.items()
        codes = {error["code"] for error in result["userErrors"]}
        if not codes:
            if kind in {"createTask", "createList"}:
                self.history.created.add(given["id"])
            self.history.acknowledged += self._edits(kind, given)
            for tag in given.get("input", {}).get("addTags", []):
                self.history.tagged.add((given["id"], tag))
            return None
        assert codes <= {"CONFLICT", "NOT_FOUND", "IN_TRASH", "GONE", "LIMIT_EXCEEDED"}, (write, result)
        if codes != {"CONFLICT"} or self.random.random() < 0.5:
            return None  # the other's value stays
        current = result["task"] or result["list"]
        changes = {name: self.history.fresh(name) for name in given["input"]}
        return {kind: {"id": given["id"], "input": changes, "base": {name: current[name] for name in changes}}}

    async def pull(self) -> None:
        first, has_more = self.random.choice([3, 100]), True
        while has_more:
            page = (await self._data(CHANGES, since=self.mirror.token, first=first))["changes"]
            self.mirror.apply(page)
            has_more = page["hasMore"]

    async def _data(self, query: str, **variables: Any) -> Json:
        answer = (await self.user.post(query, variables)).json()
        if "errors" in answer:
            assert answer["errors"][0]["extensions"]["code"] == "UNAVAILABLE", answer
            raise Unavailable
        data: Json = answer["data"]
        return data

    async def meet(self) -> None:
        """Do what a device does when it is online, as far as the network allows."""
        try:
            await self.send(self.random.choice([1, 5, MOST_AT_ONCE]))
            await self.pull()
        except (*LOST, Unavailable):
            pass

    async def finish(self) -> None:
        """Send and pull until nothing is left."""
        for _ in range(MOST_TRIES):
            try:
                while self.outbox:
                    await self.send()
                await self.pull()
            except (*LOST, Unavailable):
                continue
            return
        raise AssertionError("the network never came back")


async def purge(owner: "asyncpg.Connection[Any]", user: User, history: History) -> None:
    """Delete the user's trash for good, as `taskql purge` does."""
    for table in ("tasks", "task_lists"):
        gone = await owner.fetch(
            f"DELETE FROM {table} WHERE user_id = $1 AND deleted_at IS NOT NULL RETURNING id",  # noqa: S608 - constants
            user.id,
        )
        history.purged |= {str(row["id"]) for row in gone}


async def check(owner: "asyncpg.Connection[Any]", user: User, devices: list[Device], history: History) -> None:
    """Every device equals the database, acknowledged rows exist, and no edit has undone another one."""
    for device in devices:
        assert await device.mirror.is_exact(owner)
    rows = await stored(owner, user)
    assert rows.keys() <= history.sent
    assert history.created - history.purged <= rows.keys()
    kept = {key: row for key, row in rows.items() if key not in history.purged}
    for key, tag in history.tagged:
        assert key not in kept or tag in kept[key]["tags"], (key, tag)
    for edit in history.acknowledged:
        if edit.row in kept:
            assert edit.value in _written(history, kept[edit.row], edit), edit


def _written(history: History, row: Mapping[str, Any], edit: Edit) -> list[Any]:
    """The values that the field had, from the present one back to the first: each edit was made from its base."""
    bases = {one.value: one.base for one in history.edits if (one.row, one.field) == (edit.row, edit.field)}
    values = [row[edit.field]]
    while values[-1] in bases:
        values.append(bases[values[-1]])
    return values


async def stored(owner: "asyncpg.Connection[Any]", user: User) -> dict[str, Json]:
    """All rows of the user, also those in the trash."""
    tasks = await owner.fetch("SELECT id, title, description, due_date, tags FROM tasks WHERE user_id = $1", user.id)
    lists = await owner.fetch("SELECT id, name FROM task_lists WHERE user_id = $1", user.id)
    found: dict[str, Json] = {str(row["id"]): dict(row) for row in (*tasks, *lists)}
    for row in found.values():
        if row.get("due_date"):
            row["due_date"] = row["due_date"].isoformat()
        row["dueDate"] = row.pop("due_date", None)
    return found
