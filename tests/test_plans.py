"""The second wall: every reading statement acts as its user before it reads, on whatever plan PostgreSQL makes of it."""

import json
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from conftest import Application, Server
from sqlalchemy import Select, Uuid, bindparam, column, func, select, true
from test_pages import (
    ARGUMENTS,
    EACH_WAY,
    INDEXED_EACH_WAY,
    MANY,
    MODES,
    PAGE_INFO,
    TASKS,
    Row,
    Seeded,
    Sent,
    explained,
    order_by,
    owning,
    page_of,
    predicted,
    seed,
    sent,
    serving,
)

from app import models
from app.statements import Reader, Statement, compiled, read, user_id

VIEWER = "{ viewer { id email createdAt } }"
STATS = "{ viewer { id taskStats { total open completed overdue } } }"
TASK = "query Task($id: ID!) { task(id: $id) { id title description tags } }"
NODE = "query Node($id: ID!) { node(id: $id) { id ... on Task { description } ... on User { taskStats { total } } } }"
PAGE = f"query Page({ARGUMENTS}) {{ {TASKS} {{ nodes {{ id }} {PAGE_INFO} }} }}"
COUNTED = f"query Counted({ARGUMENTS}) {{ {TASKS} {{ edges {{ cursor node {{ id }} }} {PAGE_INFO} totalCount }} }}"
COUNT = f"query Count({ARGUMENTS}) {{ {TASKS} {{ totalCount }} }}"

# What most users have: a plan that does not know its user takes her for one of these.
CROWD = """
    WITH crowd AS (INSERT INTO users (email) SELECT gen_random_uuid() FROM generate_series(1, 500) RETURNING id)
    INSERT INTO tasks (user_id, id, title, position, version)
    SELECT crowd.id, gen_random_uuid(), 'One of many', 'a' || n, n FROM crowd, generate_series(1, 40) AS n
"""


@pytest.fixture(scope="module")
async def many(server: Server, application: Application) -> Seeded:
    """Two users of 10,000 tasks each, with the same ids, in a crowd of users who have 40 each."""
    async with owning(server) as connection:
        await connection.execute(CROWD.replace("WITH", "WITH"))
        return await seed(connection, application, MANY)


@pytest.fixture(scope="module")
async def connection(server: Server) -> AsyncIterator["asyncpg.Connection[Any]"]:
    """A connection such as the server's."""
    async with serving(server) as connection:
        yield connection


def nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A plan's nodes, from the top."""
    yield plan
    for below in plan.get("Plans", []):
        yield from nodes(below)
