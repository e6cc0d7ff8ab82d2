"""Measures searches of 10,000 tasks of 60 words, in several scripts: python -m benchmarks.searching.

Prints a table. PostgreSQL's time is that of the search in EXPLAIN ANALYZE, and the CPU time of the session that runs
it, which other programs of the machine slow down less. The latency is that of a page over HTTP. Each is the least of
several rounds.
"""

import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import asyncpg
import click
import psutil

from app.database.embedded import EmbeddedPostgres
from app.database.url import DatabaseURL
from benchmarks import data, servers
from benchmarks.sent import sent
from benchmarks.servers import Server
from benchmarks.wire import connected
from migrations.run import migrate

TASKS, WORDS, IN_TITLE = 10_000, 60, 6
VOCABULARY = 3_000
LISTS, TAGS = 50, 200
ROUNDS = 15
LIMIT = 60.0
PAGE = "query ($words: String) { tasks(filter: { search: $words }, first: 20) { nodes { id title } } }"
USER = "INSERT INTO users (id, email) VALUES ($1, $2)"
LIST = """
    INSERT INTO task_lists (user_id, id, name)
    SELECT $1, gen_random_uuid(), name FROM unnest($2::text[]) AS name RETURNING id
"""
TASK = """
    INSERT INTO tasks (user_id, id, title, description, tags, list_id, version)
    VALUES ($1, gen_random_uuid(), $2, $3, $4, $5, 1)
"""


class Script(NamedTuple):
    """How words are made: of letters, each followed by a mark with some probability."""

    name: str
    letters: str
    marks: str
    probability: float
    lengths: tuple[int, int]


def _range(first: str, last: str) -> str:
    return "".join(map(chr, range(ord(first), ord(last) + 1)))


SCRIPTS = (
    Script("English", _range("a", "z"), "", 0, (2, 9)),
    Script("Latin with accents", _range("a", "z"), "\u0301\u0308\u0327\u030a", 0.2, (2, 9)),
    Script("Cyrillic", _range("\u0430", "\u044f"), "", 0, (2, 9)),
    Script("Arabic with vowel points", _range("\u0627", "\u063a"), _range("\u064b", "\u0652"), 0.6, (2, 7)),
    Script("Devanagari", _range("\u0915", "\u0939"), _range("\u093e", "\u094d"), 0.7, (2, 5)),
    Script("Japanese", _range("\u3042", "\u3093") + _range("\u4e00", "\u5000"), "", 0, (2, 6)),
    Script("Hangul", _range("\uac00", "\ud7a3"), "", 0, (2, 4)),
)


class Found(NamedTuple):
    """Milliseconds."""

    execution: float
    cpu: float
    latency: float


def _word(script: Script, pick: random.Random) -> str:
    letters = (pick.choice(script.letters) for _ in range(pick.randint(*script.lengths)))
    return "".join(
        letter + (pick.choice(script.marks) if pick.random() < script.probability else "") for letter in letters
    )


def _searches(vocabulary: list[str]) -> Iterator[tuple[str, str]]:
    """Searches that read all tasks, because fewer than a page match."""
    absent = vocabulary[0] + vocabulary[1]
    yield "a word that no task has", absent
    yield "a word of many, and one that none has", f"{vocabulary[2][:2]} {absent}"
    yield "four words that few tasks have", " ".join(vocabulary[10:14])


async def fill(owner_url: str, script: Script, owner: UUID) -> list[str]:
    """Add a user with tasks, and return the words that they are made of."""
    pick = random.Random(script.name)  # noqa: S311 - the same tasks in each run
    vocabulary = [_word(script, pick) for _ in range(VOCABULARY)]
    connection = await asyncpg.connect(owner_url)
    await connection.execute(USER, owner, f"{owner}@example.com")
    names = [" ".join(pick.choices(vocabulary, k=2)) for _ in range(LISTS)]
    lists = [row["id"] for row in await connection.fetch(LIST, owner, names)]
    rows = []
    for _ in range(TASKS):
        words = pick.choices(vocabulary, k=WORDS)
        text = " ".join(words[:IN_TITLE]), " ".join(words[IN_TITLE:])
        rows.append((owner, *text, [vocabulary[pick.randrange(TAGS)]], pick.choice(lists)))
    await connection.executemany(TASK, rows)
    await connection.execute("VACUUM ANALYZE tasks")
    await connection.close()
    return vocabulary


async def measure(app_url: str, server: Server, owner: UUID, words: str) -> Found:
    statement = max(await sent(app_url, owner, PAGE, {"words": words}), key=lambda one: len(one.text))
    connection = await asyncpg.connect(app_url)
    session = psutil.Process(connection.get_server_pid())
    explain = f"EXPLAIN (ANALYZE, FORMAT JSON, TIMING OFF) {statement.text}"
    execution, cpu = [], []
    for _ in range(ROUNDS):
        before = _cpu(session)
        explained = await connection.fetchval(explain, *statement.rounds[-1])
        cpu.append(_cpu(session) - before)
        execution.append(json.loads(explained)[0]["Execution Time"])
    await connection.close()
    return Found(min(execution), min(cpu), await _latency(server, owner, words))


def _cpu(process: psutil.Process) -> float:
    """CPU milliseconds of a process, more exactly than in ticks."""
    return int(Path(f"/proc/{process.pid}/schedstat").read_text().split()[0]) / 1e6


async def _latency(server: Server, owner: UUID, words: str) -> float:
    body = json.dumps({"query": PAGE, "variables": {"words": words}}).encode()
    found = []
    connection = await connected(server.port, data.token(owner))
    for _ in range(ROUNDS):
        start = time.perf_counter()
        answer = await connection.ask(body)
        found.append((time.perf_counter() - start) * 1000)
        if answer.told != "200 data":
            raise RuntimeError(f"TaskQL answers {answer.told}")
    connection.close()
    return min(found)


async def table(postgres: EmbeddedPostgres, server: Server) -> None:
    click.echo("| Script | Search | EXPLAIN ANALYZE, ms | CPU, ms | HTTP, ms |\n|---|---|---|---|---|")
    slowest = 0.0
    for number, script in enumerate(SCRIPTS):
        owner = data.user_id(number + 1)
        vocabulary = await fill(postgres.owner_url, script, owner)
        for name, words in _searches(vocabulary):
            found = await measure(postgres.app_url, server, owner, words)
            slowest = max(slowest, found.latency)
            click.echo(f"| {script.name} | {name} | {' | '.join(f'{value:.1f}' for value in found)} |")
    click.echo(f"\nThe slowest takes {slowest:.1f} ms of {LIMIT:.0f}.")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, EmbeddedPostgres.start(Path(folder)) as postgres:
        asyncio.run(migrate(DatabaseURL(postgres.owner_url), DatabaseURL(postgres.app_url)))
        with servers.running(servers.taskql(postgres.app_url), Path(sys.executable), cores=servers.ALL) as server:
            asyncio.run(table(postgres, server))


if __name__ == "__main__":
    main()
