"""A client's copy of its tasks, which it keeps as docs/realtime.md tells it to."""

import json
from typing import Any

import asyncpg
from conftest import ALL_FIELDS, User
from declared import leaves, snake

from app.models import PRIORITIES

Json = dict[str, Any]

MOST_PAGES = 1000

CHANGE = f"__typename ... on TaskUpserted {{ task {{ {ALL_FIELDS} }} token }} ... on TaskRemoved {{ taskId token }}"
CHANGES = f"""
    query Changes($since: SyncToken, $first: Int) {{
        taskChanges(since: $since, first: $first) {{ changes {{ {CHANGE} }} token hasMore fullSync }}
    }}
"""
# What a mirror is to hold, of the tables and not of any answer.
SHOWN = ", ".join(
    f"'{name}', " + (f"($2::text[])[{snake(name)} + 1]" if name == "priority" else snake(name))
    for name in leaves("Task")
)
STORED = f"SELECT id::text, json_build_object({SHOWN}) FROM tasks WHERE user_id = $1 AND deleted_at IS NULL"  # noqa: S608 - ours


class Mirror:
    """The tasks of a user as far as pages and changes have told, and the token to go on with."""

    def __init__(self, user: User) -> None:
        self.tasks: dict[str, Json] = {}
        self.token: str | None = None
        self._user = user

    @property
    def version(self) -> int:
        """The last write that it has seen."""
        return max((task["version"] for task in self.tasks.values()), default=0)

    async def pull(self, first: int = 100) -> Json:
        """Take in one page."""
        page: Json = (await self._user.data(CHANGES, since=self.token, first=first))["taskChanges"]
        self.apply(page)
        return page

    async def catch_up(self, first: int = 100) -> list[Json]:
        """Take in pages until no more are announced."""
        pages = [await self.pull(first)]
        while pages[-1]["hasMore"]:
            assert len(pages) < MOST_PAGES, "there is no end of pages"
            pages.append(await self.pull(first))
        return pages

    def apply(self, page: Json) -> None:
        if page["fullSync"]:
            self.tasks.clear()
        for change in page["changes"]:
            self.change(change)
        self.token = page["token"]

    def change(self, change: Json) -> None:
        """Take in one change, which must be news."""
        self.token = change["token"]
        if change["__typename"] == "TaskRemoved":
            self.tasks.pop(change["taskId"], None)
            return
        task = change["task"]
        known = self.tasks.get(task["id"])
        assert known is None or known["version"] < task["version"], "a change came again"
        self.tasks[task["id"]] = task


async def stored(owner: "asyncpg.Connection[Any]", user: User) -> dict[str, Json]:
    """What an exact mirror holds."""
    await owner.set_type_codec("json", schema="pg_catalog", encoder=str, decoder=json.loads)
    return {row[0]: row[1] for row in await owner.fetch(STORED, user.id, list(PRIORITIES))}
