"""The order of an upgrade: the previous server works on the migrated database. scripts/test-upgrade runs this."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
from conftest import SECRET, Server, Serving, announced, connect, run, serving
from patience import PATIENCE_SECONDS

from app.identity.tokens import Signer

PREVIOUS = Path(os.environ["TEST_DEPLOYMENT"])
CREATE = "mutation ($title: String!) { createTask(input: { title: $title }) { task { id } userErrors { code } } }"
RENAME = """mutation ($id: ID!, $title: String!) {
    updateTask(id: $id, input: { title: $title }) { userErrors { code } }
    setTaskCompleted(id: $id, completed: true) { userErrors { code } }
}"""
DELETE = (
    "mutation ($id: ID!) { deleteTask(id: $id) { userErrors { code } } restoreTask(id: $id) { userErrors { code } } }"
)
MOVE = "mutation ($id: ID!) { moveTask(id: $id, to: { toStart: true }) { userErrors { code } } }"
LIST = "{ tasks(first: 100) { totalCount nodes { title } } viewer { taskStats { total completed } } }"


@contextmanager
def previous(environment: dict[str, str]) -> Iterator[Serving]:
    """The previous version's server."""
    process = subprocess.Popen(
        [sys.executable, "-m", "app", "serve", "--port", "0"],
        env={"PATH": os.environ["PATH"], "LOG_LEVEL": "warning", **environment},
        cwd=PREVIOUS,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with announced(process, has_demo=False) as served:
        yield served


def fine(answer: dict[str, Any]) -> dict[str, Any]:
    """The data of a response without any error."""
    assert "errors" not in answer, answer
    data: dict[str, Any] = answer["data"]
    assert [part["userErrors"] for part in data.values() if part.get("userErrors")] == []
    return data


def works(served: Serving, token: str, title: str) -> None:
    """Every kind of write, and a page that shows it."""
    task = fine(served.ask(CREATE, token, title=title))["createTask"]["task"]["id"]
    fine(served.ask(RENAME, token, id=task, title=f"{title}, renamed"))
    fine(served.ask(MOVE, token, id=task))
    fine(served.ask(DELETE, token, id=task))
    assert f"{title}, renamed" in titles(served, token)


def titles(served: Serving, token: str) -> set[str]:
    return {node["title"] for node in fine(served.ask(LIST, token))["tasks"]["nodes"]}


async def user_of(server: Server) -> str:
    """The token of a new user."""
    owner = await connect(server.owner_url)
    user_id = await owner.fetchval("INSERT INTO users (email) VALUES ('a@example.com') RETURNING id")
    await owner.close()
    return Signer(SECRET).token(user_id, timedelta(hours=1))


def is_ready(served: Serving) -> bool:
    return httpx.get(f"{served.url}/readyz", timeout=PATIENCE_SECONDS).status_code == 200


async def test_the_previous_server_goes_on(empty: Server, repository: Path) -> None:
    """Before the migration, after it, and next to the new server, which sees the same tasks."""
    urls = {"DATABASE_URL": empty.app_url, "AUTH_SECRET": SECRET}
    as_owner = {**urls, "DATABASE_OWNER_URL": empty.owner_url}
    run(PREVIOUS, sys.executable, "-m", "app", "migrate", **as_owner)
    token = await user_of(empty)
    with previous(urls) as old:
        works(old, token, "Before")
        said = run(repository, sys.executable, "-m", "app", "migrate", **as_owner)
        works(old, token, "After")
        assert is_ready(old), said
        with serving(**urls) as new:
            works(new, token, "New")
            works(old, token, "Beside")
            assert (
                titles(new, token)
                == titles(old, token)
                == {f"{title}, renamed" for title in ("Before", "After", "New", "Beside")}
            )
