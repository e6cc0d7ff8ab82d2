"""The queries about days on a front end's first screen, in one request: right around midnight, cheap, and by index."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from typing import Any

import asyncpg
import pytest
from conftest import Application, Server, User
from test_pages import MANY, MODES, Seeded, owning, seed, sent, serving
from test_plans import all_sorts, nodes, same_on_every_plan, whole_scans

Json = dict[str, Any]
NewUser = Callable[..., Awaitable[User]]

MOST_ROWS = 400
# Their offsets in November; a front end knows the user's day.
AUCKLAND, LOS_ANGELES = timezone(timedelta(hours=13)), timezone(timedelta(hours=-8))
FIRST_SCREEN = """
    query FirstScreen(
        $akl: Date!, $aklTomorrow: Date!, $aklFrom: DateTime!, $aklTo: DateTime!
        $lax: Date!, $laxTomorrow: Date!, $laxFrom: DateTime!, $laxTo: DateTime!
    ) {
        viewer {
            akl: taskStats(today: $akl) { open overdue dueToday }
            lax: taskStats(today: $lax) { open overdue dueToday }
        }
        aklToday: tasks(filter: { completed: false, due: { gte: $akl, lt: $aklTomorrow } }) { nodes { title } }
        aklOverdue: tasks(filter: { completed: false, due: { lt: $akl } }) { nodes { title } }
        aklLogbook: tasks(
            filter: { completedAt: { gte: $aklFrom, lt: $aklTo } }, orderBy: { field: COMPLETED_AT, direction: DESC }
        ) { nodes { title } }
        laxToday: tasks(filter: { completed: false, due: { gte: $lax, lt: $laxTomorrow } }) { nodes { title } }
        laxOverdue: tasks(filter: { completed: false, due: { lt: $lax } }) { nodes { title } }
        laxLogbook: tasks(
            filter: { completedAt: { gte: $laxFrom, lt: $laxTo } }, orderBy: { field: COMPLETED_AT, direction: DESC }
        ) { nodes { title } }
    }
"""
NOVEMBER = range(27, 31)


@dataclass(frozen=True)
class Day:
    """A user's own day: its date, and the bounds of the day before."""

    today: date
    zone: timezone

    @classmethod
    def at(cls, moment: datetime, zone: timezone) -> "Day":
        return cls(moment.astimezone(zone).date(), zone)

    def variables(self, name: str) -> Json:
        start = datetime.combine(self.today, time(), self.zone)
        return {
            name: self.today.isoformat(),
            f"{name}Tomorrow": (self.today + timedelta(1)).isoformat(),
            f"{name}From": (start - timedelta(1)).isoformat(),
            f"{name}To": start.isoformat(),
        }

    def expected(self, done: list[datetime]) -> tuple[Json, Json]:
        """The counts, and the titles of the lists."""
        overdue = [str(day) for day in NOVEMBER if date(2025, 11, day) < self.today]
        today = [str(day) for day in NOVEMBER if date(2025, 11, day) == self.today]
        yesterday = [moment for moment in done if moment.astimezone(self.zone).date() == self.today - timedelta(1)]
        logbook = [moment.isoformat() for moment in sorted(yesterday, reverse=True)]
        counts = {"open": len(NOVEMBER), "overdue": len(overdue), "dueToday": len(today)}
        return counts, {"Today": today, "Overdue": overdue[::-1], "Logbook": logbook}


def midnights() -> list[datetime]:
    """The moments of midnight in both places."""
    return [
        datetime(2025, 11, day, tzinfo=zone).astimezone(UTC) for zone in (AUCKLAND, LOS_ANGELES) for day in (28, 29, 30)
    ]


@pytest.fixture
async def screen(new_user: NewUser) -> tuple[User, list[datetime]]:
    """A user with a task due on each of some days, and tasks completed just before and at each midnight."""
    user, other = await new_user(), await new_user()
    done = [moment - before for moment in midnights() for before in (timedelta(microseconds=1), timedelta())]
    for owner in (user, other):
        for day in NOVEMBER:
            await owner.add(str(day) if owner is user else "other", dueDate=f"2025-11-{day}")
        for moment in done:
            title = moment.isoformat() if owner is user else "other"
            await owner.add(title, completedAt=moment.isoformat(), dueDate="2025-11-28")
    return user, done


@pytest.mark.parametrize("midnight", midnights()[1:5], ids=str)
@pytest.mark.parametrize("after", [timedelta(seconds=-1), timedelta(), timedelta(hours=5)])
async def test_days_are_those_of_the_caller(
    screen: tuple[User, list[datetime]], midnight: datetime, after: timedelta
) -> None:
    """Before and after midnight in Auckland and in Los Angeles, each sees the counts and lists of its own day."""
    user, done = screen
    places = {"akl": Day.at(midnight + after, AUCKLAND), "lax": Day.at(midnight + after, LOS_ANGELES)}
    variables = {name: value for place, day in places.items() for name, value in day.variables(place).items()}

    data = await user.data(FIRST_SCREEN, **variables)

    for place, day in places.items():
        counts, lists = day.expected(done)
        assert data["viewer"][place] == counts
        titles = {name: [task["title"] for task in data[f"{place}{name}"]["nodes"]] for name in lists}
        assert titles == lists, place


WHOLE_SCREEN = """
    query WholeScreen($akl: Date!, $aklTomorrow: Date!, $aklFrom: DateTime!, $aklTo: DateTime!) {
        viewer { taskStats(today: $akl) { open overdue dueToday } }
        lists { nodes { id name icon taskStats(today: $akl) { open dueToday } } }
        tags { name open total }
        today: tasks(filter: { completed: false, due: { gte: $akl, lt: $aklTomorrow } }) { nodes { title } }
        overdue: tasks(filter: { completed: false, due: { lt: $akl } }) { nodes { title } }
        logbook: tasks(
            filter: { completedAt: { gte: $aklFrom, lt: $aklTo } }, orderBy: { field: COMPLETED_AT, direction: DESC }
        ) { nodes { title } }
    }
"""
CREATE_LIST = "mutation ($name: String!) { createList(input: { name: $name }) { list { id } } }"


async def test_the_whole_first_screen_is_one_cheap_request(
    screen: tuple[User, list[datetime]], new_user: NewUser
) -> None:
    """Lists and tags with their counts, Today, Overdue and the logbook: one request of fewer than 400 rows."""
    user, _ = screen
    other = await new_user()
    for owner, name in ((user, "Home"), (other, "Other's")):
        made = (await owner.data(CREATE_LIST, name=name))["createList"]["list"]["id"]
        await owner.add("In a list", listId=made, dueDate="2025-11-29", tags=["shop" if owner is user else "other"])
        await owner.add("Done", listId=made, completed=True, tags=["Shop"])
    variables = Day.at(datetime(2025, 11, 28, 12, tzinfo=UTC), AUCKLAND).variables("akl")

    answer = (await user.post(WHOLE_SCREEN, variables, extensions={"cost": True})).json()

    assert answer["extensions"]["cost"]["rows"] < MOST_ROWS
    data = answer["data"]
    (home,) = data["lists"]["nodes"]
    assert (home["name"], home["taskStats"]) == ("Home", {"open": 1, "dueToday": 1})
    assert data["tags"] == [{"name": "shop", "open": 1, "total": 2}]
    assert data["viewer"]["taskStats"] == {"open": 5, "overdue": 2, "dueToday": 2}
    assert {task["title"] for task in data["today"]["nodes"]} == {"29", "In a list"}
    assert {task["title"] for task in data["overdue"]["nodes"]} == {"27", "28"}


async def test_the_first_screen_is_cheap(screen: tuple[User, list[datetime]]) -> None:
    """All of it is one request of fewer than 400 rows."""
    user, _ = screen
    now = datetime(2025, 11, 29, 12, tzinfo=UTC)
    variables = Day.at(now, AUCKLAND).variables("akl") | Day.at(now, LOS_ANGELES).variables("lax")

    cost = (await user.post(FIRST_SCREEN, variables, extensions={"cost": True})).json()["extensions"]["cost"]

    assert cost["rows"] < MOST_ROWS


# Plans


LOGBOOK = """
    query ($from: DateTime, $to: DateTime, $direction: OrderDirection, $nulls: Nulls, $after: String) {
        tasks(
            first: 20, after: $after, filter: { completedAt: { gte: $from, lt: $to } }
            orderBy: { field: COMPLETED_AT, direction: $direction, nulls: $nulls }
        ) { nodes { id } pageInfo { endCursor hasPreviousPage } }
    }
"""
TRASH = """
    query ($direction: OrderDirection, $after: String) {
        tasks(
            first: 20, after: $after, filter: { trashed: true }, orderBy: { field: DELETED_AT, direction: $direction }
        ) { nodes { id } pageInfo { endCursor hasPreviousPage } }
    }
"""
YESTERDAY = {"from": "2026-03-01T00:00:00Z", "to": "2026-03-02T00:00:00Z"}


@pytest.fixture(scope="module")
async def many(server: Server, application: Application) -> Seeded:
    """A user of 10,000 tasks: a third completed, 50 a day; a hundredth in the trash, ten at a time."""
    async with owning(server) as connection:
        seeded = await seed(connection, application, MANY)
        await connection.execute(
            """
            UPDATE tasks SET completed_at = '2026-01-01Z'::timestamptz + version * interval '10 minutes'
            WHERE user_id = $1 AND completed
            """,
            seeded.user.id,
        )
        await connection.execute(
            """
            UPDATE tasks SET deleted_at = '2026-01-01Z'::timestamptz + version % 7 * interval '1 hour'
            WHERE user_id = $1 AND right(title_key, 1) = 'a' AND abs(hashtext(id::text)) % 40 = 0
            """,
            seeded.user.id,
        )
        await connection.execute("ANALYZE tasks")
        return seeded


@pytest.fixture(scope="module")
async def served(server: Server) -> AsyncIterator["asyncpg.Connection[Any]"]:
    async with serving(server) as connection:
        yield connection


@pytest.mark.parametrize("direction", ["ASC", "DESC"])
@pytest.mark.parametrize(
    ("query", "index", "column", "variables"),
    [
        (LOGBOOK, "ix_tasks_completed_at", "completed_at", YESTERDAY),
        (LOGBOOK, "ix_tasks_completed_at", "completed_at", {**YESTERDAY, "nulls": "FIRST"}),
        (TRASH, "ix_tasks_trash", "deleted_at", {}),
    ],
)
async def test_the_logbook_and_the_trash_are_walked_by_an_index(  # noqa: PLR0913, PLR0917 - what a page depends on
    many: Seeded,
    application: Application,
    served: "asyncpg.Connection[Any]",
    owner: "asyncpg.Connection[Any]",
    query: str,
    index: str,
    column: str,
    variables: Json,
    direction: str,
) -> None:
    """With any plan their pages sort nothing, and their cursors continue in the index, too."""
    span = variables or {"from": "1999-01-01T00:00:00Z", "to": "2099-01-01T00:00:00Z"}
    begin, end = (datetime.fromisoformat(span[bound]) for bound in ("from", "to"))
    rows = await owner.fetch(
        f"SELECT id::text FROM tasks WHERE user_id = $1 AND {column} >= $2 AND {column} < $3"  # noqa: S608 - ours
        f" AND (deleted_at IS NOT NULL) = $4 ORDER BY {column} {direction}, id {direction}",
        many.user.id,
        begin,
        end,
        query == TRASH,
    )
    expected = [row["id"] for row in rows]
    assert len(expected) > 40

    after = None
    for first in (0, 20):
        statement = await sent(application, many.user, query, direction=direction, after=after, **variables)
        plans = await same_on_every_plan(served, statement)
        page = json.loads(statement.answer or "")
        assert [node["id"] for node in page["nodes"]] == expected[first : first + 20]
        assert page["pageInfo"]["hasPreviousPage"] is (first > 0)
        after = page["pageInfo"]["endCursor"]
        assert [(all_sorts(plan), whole_scans(plan)) for plan in plans.values()] == [([], [])] * len(MODES)
        used = {node.get("Index Name") for plan in plans.values() for node in nodes(plan)}
        assert {name for name in used if name and "_tasks" in name} == {index}
