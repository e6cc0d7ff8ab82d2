"""A client's copy of its lists and tasks, kept in sync as docs/realtime.md describes."""

import json
from typing import Any

import asyncpg
from conftest import ALL_FIELDS, User
from declared import leaves, snake

from app.models import PRIORITIES

Json = dict[str, Any]

MOST_PAGES = 1000

LIST_FIELDS = " ".join(leaves("TaskList"))
CHANGE = f"""
    __typename
    ... on ListUpserted {{ list {{ {LIST_FIELDS} }} token }} ... on ListRemoved {{ listId version token }}
    ... on TaskUpserted {{ task {{ {ALL_FIELDS} }} within: task {{ list {{ id }} }} token }}
    ... on TaskRemoved {{ taskId version token }}
"""
CHANGES = f"""
    query Changes($since: SyncToken, $first: Int, $trash: Boolean) {{
        changes(since: $since, first: $first, trash: $trash) {{ changes {{ {CHANGE} }} token hasMore fullSync }}
    }}
"""
FOLLOW = f"""
    subscription Follow($since: SyncToken, $trash: Boolean) {{
        changes(since: $since, trash: $trash) {{ changes {{ {CHANGE} }} token upToDate fullSync }}
    }}
"""
# The expected content of a mirror, read from the tables instead of a response.
SHOWN = ", ".join(
    f"'{name}', " + (f"($2::text[])[{snake(name)} + 1]" if name == "priority" else snake(name))
    for name in leaves("Task")
)
SHOWN_OF_LISTS = ", ".join(f"'{name}', {snake(name)}" for name in leaves("TaskList"))
STORED = f"SELECT id::text, json_build_object({SHOWN}) FROM tasks WHERE user_id = $1"  # noqa: S608 - constants of this module
STORED_LISTS = f"SELECT id::text, json_build_object({SHOWN_OF_LISTS}) FROM task_lists WHERE user_id = $1"  # noqa: S608 - constants of this module
LISTED = "SELECT id::text, list_id::text FROM tasks WHERE user_id = $1 AND list_id IS NOT NULL"
LIVE = " AND deleted_at IS NULL"


class Mirror:
    """A user's lists and tasks according to the changes applied so far, and the token to continue from."""

    def __init__(self, user: User, *, trash: bool = False) -> None:
        self.lists: dict[str, Json] = {}
        self.tasks: dict[str, Json] = {}
        # The ids of the lists that tasks are in, by the tasks' ids.
        self.listed: dict[str, str] = {}
        self.token: str | None = None
        self._user, self.trash = user, trash

    @property
    def version(self) -> int:
        """The highest version seen."""
        return max((row["version"] for row in (*self.lists.values(), *self.tasks.values())), default=0)

    def copy_of(self, other: "Mirror") -> "Mirror":
        """Start with what another mirror contains."""
        self.lists, self.tasks, self.listed = dict(other.lists), dict(other.tasks), dict(other.listed)
        self.token = other.token
        return self

    async def is_exact(self, owner: "asyncpg.Connection[Any]") -> bool:
        """Whether it has the user's lists and tasks as the tables have them."""
        tasks, live = await stored(owner, self._user, trash=self.trash), "" if self.trash else LIVE
        lists, listed = [dict(await owner.fetch(query + live, self._user.id)) for query in (STORED_LISTS, LISTED)]
        return (self.lists, self.tasks, self.listed) == (lists, tasks, listed)

    async def pull(self, first: int = 100) -> Json:
        """Fetch and apply one page."""
        page: Json = (await self._user.data(CHANGES, since=self.token, first=first, trash=self.trash))["changes"]
        self.apply(page)
        return page

    async def catch_up(self, first: int = 100) -> list[Json]:
        """Fetch and apply pages until `hasMore` is false."""
        pages = [await self.pull(first)]
        while pages[-1]["hasMore"]:
            assert len(pages) < MOST_PAGES, "there is no end of pages"
            pages.append(await self.pull(first))
        return pages

    def apply(self, page: Json) -> None:
        if page["fullSync"]:
            self.lists, self.tasks, self.listed = {}, {}, {}
        for change in page["changes"]:
            self.change(change)
        self.token = page["token"]
        has_more = page["hasMore"] if "hasMore" in page else not page["upToDate"]
        assert has_more or set(self.listed.values()) <= set(self.lists), "a task's list is missing"

    def change(self, change: Json) -> None:
        """Apply one change, which must be newer than what is known."""
        self.token = change["token"]
        match change["__typename"]:
            case "ListUpserted":
                _replace(self.lists, change["list"])
            case "ListRemoved":
                _remove(self.lists, change["listId"], change["version"])
            case "TaskUpserted":
                _replace(self.tasks, change["task"])
                self._put(change["task"]["id"], change["within"]["list"])
            case "TaskRemoved":
                _remove(self.tasks, change["taskId"], change["version"])
                self._put(change["taskId"], None)

    def _put(self, task_id: str, within: Json | None) -> None:
        self.listed.pop(task_id, None)
        if within:
            self.listed[task_id] = within["id"]


def _replace(rows: dict[str, Json], row: Json) -> None:
    known = rows.get(row["id"])
    assert known is None or known["version"] < row["version"], "a change came again"
    rows[row["id"]] = row


def _remove(rows: dict[str, Json], row_id: str, version: int) -> None:
    known = rows.pop(row_id, None)
    assert known is None or known["version"] < version, "a removal is older than the copy"


async def stored(owner: "asyncpg.Connection[Any]", user: User, *, trash: bool = False) -> dict[str, Json]:
    """The tasks that an up-to-date mirror has."""
    await owner.set_type_codec("json", schema="pg_catalog", encoder=str, decoder=json.loads)
    return {row[0]: row[1] for row in await owner.fetch(STORED + ("" if trash else LIVE), user.id, list(PRIORITIES))}
