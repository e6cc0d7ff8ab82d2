"""The commands as users run them: processes, ports, directories, exit codes and output."""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from uuid import uuid4

import httpx
import jwt
import psutil
import pytest
from conftest import SECRET, Server, Serving, serving, taskql
from patience import PATIENCE_SECONDS
from test_migrations import REVISIONS

TITLES = "{ tasks { nodes { title } } }"
CREATE = 'mutation { createTask(input: { title: "Kept" }) { userErrors { code } } }'
VIEWER = "{ viewer { id email } }"


def finished(*arguments: str | Path, **environment: str) -> tuple[int, str, str]:
    """The exit code of a command, and its output."""
    with taskql(*arguments, **environment) as process:
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode, out, err


def refused(*arguments: str | Path, **environment: str) -> str:
    """The single error line of a command that must fail."""
    code, _, err = finished(*arguments, **environment)
    assert code == 1
    assert err.startswith("taskql: ")
    assert err.count("\n") == 1, err
    return err


def titles(served: Serving) -> list[str]:
    return [node["title"] for node in served.ask(TITLES)["data"]["tasks"]["nodes"]]


def environment(server: Server) -> dict[str, str]:
    return {"DATABASE_URL": server.app_url, "DATABASE_OWNER_URL": server.owner_url, "AUTH_SECRET": SECRET}


def test_the_curl_line_works_when_pasted(demo: Serving) -> None:
    """The printed curl command works in a shell and shows the demo tasks."""
    shown = subprocess.run(demo.curl, shell=True, capture_output=True, text=True, check=True)  # noqa: S602 - as pasted

    assert '"totalCount":5' in shown.stdout
    assert "Renew the passport" in shown.stdout


def test_the_explorer_page_does_not_contain_the_token(demo: Serving) -> None:
    """The page never contains the token, whatever the Host header; only the printed address does."""
    assert demo.explorer == f"{demo.url}/graphql#token={demo.token}"
    for host in ("127.0.0.1", "localhost", "evil.example"):
        page = httpx.get(f"{demo.url}/graphql", headers={"Accept": "text/html", "Host": host}, timeout=PATIENCE_SECONDS)
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "ey" not in page.text.replace("keyboard", "")
        assert page.headers["cache-control"] == "no-store"


def test_data_and_secret_survive_a_restart(tmp_path: Path) -> None:
    """Data and tokens stay valid after a restart."""
    with serving("--data-dir", tmp_path) as first:
        first.ask(CREATE)
        token = first.token
        assert first.stop() == 0
    with serving("--data-dir", tmp_path) as second:
        assert "Kept" in titles(second)
        assert second.ask(VIEWER, token)["data"]["viewer"]["email"] == "demo@example.com"
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


def test_killing_everything_loses_nothing(tmp_path: Path) -> None:
    """After SIGKILL of the server and its database the next start has every acknowledged write."""
    with serving("--data-dir", tmp_path) as first:
        first.ask(CREATE)
        victims = [first.process.pid, *postgres_of(tmp_path)]
        assert len(victims) > 1
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        first.process.wait(PATIENCE_SECONDS)
    with serving("--data-dir", tmp_path) as second:
        assert "Kept" in titles(second)


def postgres_of(data_dir: Path) -> list[int]:
    """The database processes of a data directory."""
    postmaster = psutil.Process(int((data_dir / "postgres" / "postmaster.pid").read_text().split()[0]))
    return [postmaster.pid, *(child.pid for child in postmaster.children(recursive=True))]


def test_a_second_server_shares_the_database(tmp_path: Path) -> None:
    """Two servers on one directory share the database; when the first stops, the second keeps it."""
    with serving("--data-dir", tmp_path) as first, serving("--data-dir", tmp_path) as second:
        first.ask(CREATE)
        assert first.stop() == 0
        assert "Kept" in titles(second)


def test_several_workers_share_a_port(tmp_path: Path) -> None:
    """--workers starts that many processes on one address."""
    with serving("--data-dir", tmp_path, "--workers", "2") as served:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(psutil.Process(served.process.pid).children()) < 3 and time.monotonic() < deadline:
            titles(served)
        assert len(titles(served)) == 5
        assert served.stop() == 0


def test_a_port_in_use(tmp_path: Path) -> None:
    """If the port is in use, the error names it and the remedy, and no database is started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = refused("serve", "--port", port, "--data-dir", tmp_path)

    assert port in line
    assert "--port" in line
    assert list(tmp_path.iterdir()) == []


def test_an_invalid_data_directory(tmp_path: Path) -> None:
    """The error names a file that is in place of the data directory."""
    (tmp_path / "file").write_text("")

    assert str(tmp_path / "file") in refused("serve", "--port", "0", "--data-dir", tmp_path / "file" / "data")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nonsense", "postgresql://user:password@host:5432/database"),
        ("mysql://u:p@localhost/db", "must begin with postgresql://"),
        ("postgresql://u:hidden@localhost/db?sslmod=require", "sslmod"),
        ("postgresql://u:hidden@127.0.0.1:9/db", "cannot be reached"),
        ("postgresql://u:hidden@localhost:54x2/db", "postgresql://user:password@host:5432/database"),
        ("postgresql://u:hidden@localhost/db?connect_timeout=abc", "connect_timeout"),
        ("postgresql://u:hidden@localhost/db?sslmode=verify-full&sslrootcert=/nope", "/nope"),
    ],
)
def test_mistakes_in_the_database_url(url: str, words: str) -> None:
    """Each mistake in DATABASE_URL has its own error line, which never shows the password."""
    line = refused("serve", "--port", "0", DATABASE_URL=url, AUTH_SECRET=SECRET)

    assert words in line
    assert "hidden" not in line


def test_a_missing_database(server: Server) -> None:
    """A missing database is reported by name, unlike an unreachable server."""
    missing = server.database("no_such_database").app_url

    assert "no_such_database" in refused("serve", "--port", "0", DATABASE_URL=missing, AUTH_SECRET=SECRET)


@pytest.mark.parametrize("secret", [None, "too short"])
def test_a_missing_or_short_secret(server: Server, secret: str | None) -> None:
    """With DATABASE_URL, a long enough AUTH_SECRET is required; the error says how to make one."""
    given = {} if secret is None else {"AUTH_SECRET": secret}
    line = refused("serve", "--port", "0", DATABASE_URL=server.app_url, **given)

    assert "AUTH_SECRET" in line
    assert "openssl rand" in line
    assert "too short" not in line


@pytest.mark.parametrize(
    ("name", "value"), [("PORT", "http"), ("PORT", "70000"), ("WORKERS", "0"), ("DB_POOL_SIZE", "x")]
)
def test_an_invalid_setting(name: str, value: str) -> None:
    """An invalid setting is reported with its variable."""
    assert f"taskql: {name}: " in refused("serve", **{name: value})


async def test_serve_migrates_only_on_request(empty: Server) -> None:
    """`serve` refuses to start with missing migrations, and applies them only with --migrate."""
    assert "lacks the migrations 0001, 0002, 0003, 0004, 0005, 0006, 0007, 0008, 0009" in refused(
        "serve", "--port", "0", **environment(empty)
    )

    with serving("--migrate", **environment(empty)) as served:
        code, token, _ = finished("token", "--email", "someone@example.com", **environment(empty))
        assert code == 0
        assert served.ask(VIEWER, token.strip())["data"]["viewer"]["email"] == "someone@example.com"


async def test_citus_requires_the_extension(empty: Server) -> None:
    """`migrate --citus` without the extension applies nothing and reports what is missing."""
    assert "CREATE EXTENSION citus" in refused("migrate", "--citus", **environment(empty))

    code, out, _ = finished("migrate", **environment(empty))
    assert (code, out) == (0, "Nothing to apply: the database is up to date.\n")


async def test_migrate_says_what_it_did(empty: Server) -> None:
    """The first run prints the revisions applied, the second that there is nothing to do."""
    assert finished("migrate", **environment(empty)) == (
        0,
        f"Applied {', '.join(REVISIONS)}.\n",
        "",
    )
    code, out, _ = finished("migrate", **environment(empty))

    assert code == 0
    assert "up to date" in out


def test_token_prints_a_token_and_nothing_else(server: Server, settings: object) -> None:
    """Stdout has only the token; the user is the same each time, and --ttl sets the lifetime."""
    del settings
    email = f"{uuid4()}@example.com"
    claims = []
    for _ in range(2):
        code, out, err = finished("token", "--email", email, "--ttl", "15m", **environment(server))
        assert (code, err) == (0, "")
        claims.append(jwt.decode(out.strip(), SECRET, ["HS256"]))

    assert claims[0]["sub"] == claims[1]["sub"]
    assert claims[0]["exp"] - claims[0]["iat"] == 15 * 60


@pytest.mark.parametrize(
    ("email", "ttl", "words"), [("nobody", "1h", "must be an email address"), ("a@b.example", "soon", "--ttl")]
)
def test_token_rejects_invalid_options(server: Server, settings: object, email: str, ttl: str, words: str) -> None:
    """An invalid option gives one error line."""
    del settings
    assert words in refused("token", "--email", email, "--ttl", ttl, **environment(server))


def test_schema_prints_and_checks(repository: Path) -> None:
    """The printed schema is the committed one, and is compatible with itself."""
    committed = (repository / "schema" / "schema.graphql").read_text()
    assert finished("schema") == (0, committed, "")
    assert finished("schema", "--check") == (0, "", "")

    assert finished("schema", "--check", "--against", repository / "schema" / "schema.graphql")[0] == 0


# Changes from another version of the schema, and how they are reported.
CHANGES = {
    "FIELD_REMOVED: Field Query.oldField": ("type Query {", "type Query { oldField: String "),
    "TYPE_REMOVED: Project": ("type Query {", "type Project { name: String } type Query {"),
    "ARG_REMOVED: Argument Query.task(draft:)": ("  task(", "  task(draft: Boolean "),
    "ARG_CHANGED_KIND: Argument Query.task(id:)": ("    id: ID!\n  ): Task\n", "    id: ID\n  ): Task\n"),
    "VALUE_REMOVED_FROM_ENUM: Enum value TaskPriority.SOMEDAY": ("  LOW\n", "  LOW SOMEDAY\n"),
    "FIELD_CHANGED_KIND: Field Task.dueDate": (
        '  dueDate: Date\n\n  """\n  At most 20 different',
        '  dueDate: Date! """At most 20 different',
    ),
    "FIELD_CHANGED_KIND: Field CreateTaskInput.title": (
        '  title: String!\n\n  """\n  A UUID',
        '  title: String """A UUID',
    ),
    "ONE_OF_ADDED: MoveTarget": ("input MoveTarget @oneOf {", "input MoveTarget {"),
}


def test_breaking_changes_are_reported(tmp_path: Path, repository: Path) -> None:
    """--against reports removed and incompatible fields, arguments, values, nullability and inputs."""
    old = (repository / "schema" / "schema.graphql").read_text()
    for now, before in CHANGES.values():
        assert now in old
        old = old.replace(now, before, 1)
    (tmp_path / "old.graphql").write_text(old)

    code, out, err = finished("schema", "--against", tmp_path / "old.graphql")
    assert code == 1
    assert [name for name in CHANGES if name not in out] == []
    assert out.count("\n") == len(CHANGES)
    assert f"{len(CHANGES)} changes break clients" in err


def test_a_file_without_a_schema(tmp_path: Path) -> None:
    """--against a file without a schema gives one error line."""
    (tmp_path / "no.graphql").write_text("type {")

    assert "no.graphql" in refused("schema", "--against", tmp_path / "no.graphql")


def test_serve_from_its_script(tmp_path: Path, repository: Path) -> None:
    """scripts/serve passes its arguments on, may be run again, and serves."""
    for _ in range(2):
        command = [str(repository / "scripts" / "serve"), "--port", "0", "--data-dir", str(tmp_path / "a b")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603 - our own script
            assert process.stdout
            said = iter(process.stdout.readline, "")
            line = next(line for line in said if line.startswith("curl "))
            shown = subprocess.run(line, shell=True, capture_output=True, text=True, check=True)  # noqa: S602 - as pasted
            process.terminate()
        assert '"totalCount":5' in shown.stdout


def test_a_closed_terminal_stops_the_database_too(tmp_path: Path) -> None:
    """SIGHUP stops the server and its database gracefully, as SIGTERM does."""
    with serving("--data-dir", tmp_path) as served:
        assert len(titles(served)) == 5
        postmaster = psutil.Process(postgres_of(tmp_path)[0])
        served.process.send_signal(signal.SIGHUP)
        served.process.wait(PATIENCE_SECONDS)
        postmaster.wait(PATIENCE_SECONDS)
        assert not postmaster.is_running()


@pytest.mark.parametrize("command", ["serve", "migrate", "token", "schema", "restored", "doctor"])
def test_help(command: str) -> None:
    """Every command has a help text."""
    code, out, _ = finished(command, "--help")

    assert code == 0
    assert len(out.splitlines()) > 4


def test_help_names_the_commands() -> None:
    """`--help` lists the commands."""
    _, out, _ = finished("--help")

    commands = ("serve", "migrate", "token", "schema", "restored", "doctor")
    assert all(command in out for command in (*commands, "seed", "reset", "users", "export", "import"))
