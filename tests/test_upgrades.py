"""Revisions leave the previous server working: they add, and take nothing away. See docs/upgrading.md."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from conftest import Server, connect

from app.database.url import DatabaseURL
from migrations.run import migrate

VERSIONS = Path(__file__).parent.parent / "migrations" / "versions"
REVISIONS = sorted(path.name.split("_")[3] for path in VERSIONS.glob("2*.py"))
# The rule is newer than the revisions up to this one.
FIRST = "0013"
# Later revisions that the previous server does not survive, with the reason. docs/upgrading.md must name them.
WITH_SERVERS_STOPPED: dict[str, str] = {}

# What a running server's statements rely on. An INSERT may omit a column that may be null or has a default.
RELIED_UPON = """
    SELECT 'column ' || table_name || '.' || column_name AS name, data_type || is_nullable AS state,
        is_nullable = 'YES' OR column_default IS NOT NULL OR is_identity = 'YES' OR is_generated = 'ALWAYS'
            AS is_optional
    FROM information_schema.columns WHERE table_schema = 'public'
    UNION ALL SELECT 'function ' || oid::regprocedure, pg_get_function_result(oid), true
    FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prorettype <> 'trigger'::regtype
    UNION ALL SELECT 'unique ' || indrelid::regclass || pg_get_indexdef(indexrelid, 1, true)
        || coalesce(pg_get_indexdef(indexrelid, 2, true), ''), '', true
    FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
    WHERE indisunique AND relnamespace = 'public'::regnamespace
    ORDER BY 1
"""


async def relied_upon(database: "asyncpg.Connection[Any]") -> dict[str, tuple[str, bool]]:
    return {row["name"]: (row["state"], row["is_optional"]) for row in await database.fetch(RELIED_UPON)}


def differences(old: dict[str, tuple[str, bool]], new: dict[str, tuple[str, bool]]) -> set[str]:
    """What the previous server relies on, and does not find. Columns of new tables are none of it."""
    tables = {name.partition(".")[0] for name in old if name.startswith("column ")}
    added = {name for name in new.keys() - old.keys() if name.partition(".")[0] in tables}
    changed = {name for name in old.keys() & new.keys() if old[name] != new[name]}
    return {
        *(f"{name} is gone" for name in old.keys() - new.keys()),
        *(f"{name} was {old[name][0]}, is {new[name][0]}" for name in changed),
        *(f"{name} must be written" for name in added if not new[name][1]),
    }


async def problems(database: Server, before: str, revision: str) -> set[str]:
    """What the step from one revision to the next takes from the previous server."""
    connection = await connect(database.owner_url)
    found = []
    for each in (before, revision):
        await migrate(DatabaseURL(database.owner_url), None, each)
        found.append(await relied_upon(connection))
    await connection.close()
    return differences(*found)


@pytest.mark.parametrize(("before", "revision"), [pair for pair in pairwise(REVISIONS) if pair[1] > FIRST])
async def test_a_revision_only_adds(empty: Server, before: str, revision: str) -> None:
    """No column, function or unique index is gone or different, and no new column must be written."""
    found = await problems(empty, before, revision)

    assert bool(found) == (revision in WITH_SERVERS_STOPPED), found


def test_exceptions_are_documented(repository: Path) -> None:
    """docs/upgrading.md names the revisions that need all servers stopped."""
    text = (repository / "docs" / "upgrading.md").read_text()

    assert [revision for revision in WITH_SERVERS_STOPPED if f"`{revision}`" not in text] == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("ALTER TABLE tasks DROP COLUMN completed_at CASCADE", "column tasks.completed_at is gone"),
        ("ALTER TABLE users ADD COLUMN shoe_size integer NOT NULL", "column users.shoe_size must be written"),
        ("ALTER TABLE users ALTER COLUMN name SET NOT NULL", "column users.name was textYES, is textNO"),
        ("DROP FUNCTION act_as(uuid) CASCADE", "function act_as(uuid) is gone"),
    ],
)
async def test_what_is_noticed(empty: Server, change: str, problem: str) -> None:
    """Each kind of change that breaks the previous server is found."""
    await migrate(DatabaseURL(empty.owner_url), DatabaseURL(empty.app_url))
    connection = await connect(empty.owner_url)
    old = await relied_upon(connection)
    await connection.execute(change)
    found = differences(old, await relied_upon(connection))
    await connection.close()

    assert problem in found
