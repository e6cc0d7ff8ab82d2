"""A client's copy of its tasks, kept in sync as docs/realtime.md describes."""

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
        changes(since: $since, first: $first) {{ changes {{ {CHANGE} }} token hasMore fullSync }}
    }}
"""
# The expected content of a mirror, read from the tables instead of a response.
SHOWN = ", ".join(
    f"'{name}', " + (f"($2::text[])[{snake(name)} + 1]" if name == "priority" else snake(name))
    for name in leaves("Task")
)
STORED = f"SELECT id::text, json_build_object({SHOWN}) FROM tasks WHERE user_id = $1 AND deleted_at IS NULL"  # noqa: S608 - constants of this module


class Mirror:
    """A user's tasks according to the pages and changes applied so far, and the token to continue from."""

    def __init__(self, user: User) -> None:
        self.tasks: dict[str, Json] = {}
        self.token: str | None = None
        self._user = user

    @property
    def version(self) -> int:
        """The highest version seen."""
        return max((task["version"] for task in self.tasks.values()), default=0)

    async def pull(self, first: int = 100) -> Json:
        """Fetch and apply one page."""
        page: Json = (await self._user.data(CHANGES, since=self.token, first=first))["changes"]
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
            self.tasks.clear()
        for change in page["changes"]:
            self.change(change)
        self.token = page["token"]

    def change(self, change: Json) -> None:
        """Apply one change, which must be newer than what is known."""
        self.token = change["token"]
        if change["__typename"] == "TaskRemoved":
            self.tasks.pop(change["taskId"], None)
            return
        task = change["task"]
        known = self.tasks.get(task["id"])
        assert known is None or known["version"] < task["version"], "a change came again"
        self.tasks[task["id"]] = task


async def stored(owner: "asyncpg.Connection[Any]", user: User) -> dict[str, Json]:
    """The expected content of an up-to-date mirror."""
    await owner.set_type_codec("json", schema="pg_catalog", encoder=str, decoder=json.loads)
    return {row[0]: row[1] for row in await owner.fetch(STORED, user.id, list(PRIORITIES))}
