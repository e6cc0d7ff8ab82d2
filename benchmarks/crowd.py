"""The users of the benchmark of noisy neighbours, their tokens, and the issuer that signs these."""

import json
import secrets
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from uuid import UUID

import asyncpg
import click
import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm

from app.database.embedded import EmbeddedPostgres
from app.database.url import DatabaseURL
from benchmarks import data
from migrations.run import migrate

VICTIM, BIG = data.user_id(1), data.user_id(2)
BIG_TASKS, BATCH = 100_000, 1000
HOSTILE, MOST_ATTACKS = 100, 100
ISSUER = "https://issuer.example"
DAY_SECONDS = 86_400

MAKE_USERS = """
    INSERT INTO users (id, email)
    SELECT ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid, 'user' || n || '@example.com'
    FROM unnest($1::int[]) AS n ON CONFLICT DO NOTHING
"""
# As other SQL clients write: triggers set versions and positions, and maintain tags and counters.
MAKE_TASKS = """
    INSERT INTO tasks (user_id, id, title, description, completed, completed_at, priority, due_date, tags, created_at)
    SELECT $1, ('01900000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid,
           'Task ' || n || ' of many, to be searched',
           (SELECT string_agg(left(md5(n || ' ' || w), 6), ' ') FROM generate_series(1, 54) AS w),
           n % 3 = 0, CASE WHEN n % 3 = 0 THEN now() END, n % 5,
           CASE WHEN n % 4 = 0 THEN date '2026-01-01' + n % 28 END, ARRAY['tag ' || n % 7],
           timestamptz '2026-01-01 00:00:00Z' + n * interval '1 minute'
    FROM generate_series($2::int, $3::int) AS n
"""
BUSY = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'taskql_app'"
END = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'taskql_app'"


async def prepare(postgres: EmbeddedPostgres) -> None:
    """Migrate, create the users and the tasks of the large one, and delete what attacks have written."""
    await migrate(DatabaseURL(postgres.owner_url), DatabaseURL(postgres.app_url))
    connection = await asyncpg.connect(postgres.owner_url)
    try:
        await connection.execute(MAKE_USERS, [1, 2, *range(HOSTILE, HOSTILE + MOST_ATTACKS)])
        await connection.execute("DELETE FROM tasks WHERE user_id <> $1", BIG)
        await _fill(connection)
        for table in ("tasks", "task_tags", "user_tags", "task_clocks", "users"):
            await connection.execute(f"VACUUM (ANALYZE) {table}")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()


async def _fill(connection: "asyncpg.Connection[Any]") -> None:
    done = await connection.fetchval("SELECT count(*) FROM tasks WHERE user_id = $1", BIG)
    starts = range(done + 1, BIG_TASKS, BATCH)
    if not starts:
        return
    with click.progressbar(starts, label="Creating 100,000 tasks", file=sys.stderr) as shown:
        for start in shown:
            await connection.execute(MAKE_TASKS, BIG, start, min(start + BATCH - 1, BIG_TASKS))


async def end_statements(owner_url: str) -> None:
    """Terminate statements that a stopped server has left running."""
    connection = await asyncpg.connect(owner_url)
    try:
        while await connection.fetchval(BUSY):
            await connection.execute(END)
    finally:
        await connection.close()


class Secret:
    """Signs with the shared secret."""

    def __init__(self) -> None:
        self.settings = {"AUTH_SECRET": data.SECRET}

    def token(self, user: UUID) -> str:
        return data.token(user)


class KeySet:
    """Signs with a published key."""

    def __init__(self, url: str, key: Ed25519PrivateKey) -> None:
        self.settings = {"AUTH_JWKS_URL": url, "AUTH_ISSUER": ISSUER, "AUTH_AUDIENCE": "none"}
        self._key = key

    def token(self, user: UUID) -> str:
        now = int(time.time())
        claims = {"iss": ISSUER, "sub": str(user), "iat": now, "exp": now + DAY_SECONDS}
        return jwt.encode(claims, self._key, "EdDSA", {"kid": "known"})


@contextmanager
def key_set(port: int) -> Iterator[KeySet]:
    """An issuer that publishes its key on a local port."""
    key = Ed25519PrivateKey.generate()
    public = {**OKPAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": "known", "alg": "EdDSA"}
    body = json.dumps({"keys": [public]}).encode()

    class Published(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Do not log."""

    with ThreadingHTTPServer(("127.0.0.1", port), Published) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield KeySet(f"http://127.0.0.1:{port}/jwks", key)
        finally:
            server.shutdown()


def forged() -> str:
    """A token of the issuer, signed with an unpublished key."""
    now = int(time.time())
    claims = {"iss": ISSUER, "sub": str(data.user_id(1)), "iat": now, "exp": now + DAY_SECONDS}
    return jwt.encode(claims, _FORGER, "EdDSA", {"kid": secrets.token_hex(8)})


_FORGER = Ed25519PrivateKey.generate()
