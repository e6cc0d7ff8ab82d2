"""Hash-partition the migrated tables of user data by user, keeping their names, constraints, indexes and policies."""

from typing import Any

import asyncpg

TABLES = ("tasks", "task_clocks", "task_tags", "user_tags", "tombstones")
PARTS = 4

# Statements that recreate what a table has besides its columns.
OBJECTS = """
    SELECT format('ALTER TABLE %I ADD CONSTRAINT %I %s', $1::text, conname, pg_get_constraintdef(oid))
    FROM pg_constraint WHERE conrelid = $1::regclass AND contype IN ('c', 'f', 'p')
    UNION ALL
    SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = $1::regclass AND NOT indisprimary
    UNION ALL
    SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = $1::regclass AND NOT tgisinternal
    UNION ALL
    SELECT format('CREATE POLICY %I ON %I USING (%s) WITH CHECK (%s)', policyname, tablename, qual, with_check)
    FROM pg_policies WHERE tablename = $1
    UNION ALL
    SELECT format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', $1::text)
    UNION ALL
    SELECT format('GRANT %s ON %I TO %I', privilege_type, $1::text, grantee)
    FROM information_schema.role_table_grants WHERE table_name = $1 AND grantee <> grantor
"""


async def partition(url: str) -> None:
    """Replace the empty tables of user data in a migrated database with partitioned ones."""
    connection = await asyncpg.connect(url)
    async with connection.transaction():
        for table in TABLES:
            await _replace(connection, table)
    await connection.close()


async def _replace(connection: "asyncpg.Connection[Any]", table: str) -> None:
    objects = [row[0] for row in await connection.fetch(OBJECTS, table)]
    await connection.execute(f"ALTER TABLE {table} RENAME TO whole")
    columns = "LIKE whole INCLUDING DEFAULTS INCLUDING GENERATED"
    await connection.execute(f"CREATE TABLE {table} ({columns}) PARTITION BY HASH (user_id)")
    await connection.execute("DROP TABLE whole")
    for part in range(PARTS):
        bounds = f"FOR VALUES WITH (MODULUS {PARTS}, REMAINDER {part})"
        await connection.execute(f"CREATE TABLE {table}_{part} PARTITION OF {table} {bounds}")
    for statement in objects:
        await connection.execute(statement)
