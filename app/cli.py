"""The command line: taskql serve, migrate, token, schema, purge, restored, doctor. `app.cli_data` has the others."""

import asyncio
import logging
import platform
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, NoReturn
from uuid import UUID

import click
import uvicorn
from graphql import GraphQLError, GraphQLSchema, build_schema, find_breaking_changes, is_input_object_type
from starlette.applications import Starlette
from uvicorn.supervisors import Multiprocess

from app import startup
from app.cli_data import COMMANDS
from app.cli_options import data_dir, loaded
from app.database import checks
from app.database.checks import Finding
from app.database.database import Database
from app.database.failures import FAILURES
from app.database.url import owner_url
from app.errors import RequestError, StartupError
from app.identity.accounts import demo_user, user_with_email
from app.main import DEMO_TOKEN_LIFETIME, connect, create_app, engine_of, signer
from app.observability import logs, metrics
from app.settings import Settings
from app.sharing import garbage
from app.tasks import purge as purging
from app.tasks import restored as restoring
from app.version import VERSION
from app.web.connections import Connections
from app.web.http_protocol import BoundedRequests
from app.web.long_messages import MOST_BYTES
from app.web.socket_protocol import BoundedSockets
from schema import sdl

log = logging.getLogger(__name__)

GRACE_SECONDS = 10
# How long a worker may take to start, and to answer its parent's health check, before it is replaced.
WORKER_SECONDS = 30
BACKLOG = 2048
# The kernel's receive buffer of each connection, approximately. It bounds what large bodies occupy before they get a
# place. It costs a large body one more round trip for each of these, as on any new connection.
UNREAD_BYTES = 16_384
# A connection is closed if its client reads nothing for this long.
UNREAD_MILLISECONDS = 30_000
# Pings detect clients that have vanished. Messages are small, and compression would cost each idle socket 42 KB.
# ws_max_size exceeds the application's limit, so that the application can report messages that are too long. It applies
# until connection_init; then the application allows longer messages.
WEB_SOCKETS: Mapping[str, Any] = {
    "ws": BoundedSockets,
    "ws_max_size": 2 * MOST_BYTES,
    "ws_ping_interval": 20.0,
    "ws_ping_timeout": 20.0,
    "ws_per_message_deflate": False,
}
PROGRESS_EVERY = 1000
COMMITTED = Path(__file__).parent.parent / "schema" / "schema.graphql"


class _OneLine(click.Group):
    """Prints an expected error as one line, and exits with code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except StartupError as error:
            return self._end(ctx, error)
        except BrokenPipeError:
            raise  # the program that read stdout has ended, as in `taskql users list | head`: click ends quietly
        except (RequestError, *FAILURES) as error:
            # The command has lost its connection to the database.
            return self._end(ctx, startup.interruption(error))

    def _end(self, ctx: click.Context, error: StartupError) -> NoReturn:
        click.echo(f"taskql: {' '.join(str(error).split())}", err=True)
        ctx.exit(1)


@click.group(cls=_OneLine, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION)
def main() -> None:
    """A GraphQL server for tasks, on PostgreSQL.

    Without DATABASE_URL it starts an embedded PostgreSQL with a demo user. docs/settings.md lists all settings.
    """


for _command in COMMANDS:
    main.add_command(_command)


@main.command()
@click.option("--host", help="Address to listen on. [HOST, 127.0.0.1]")
@click.option("--port", type=int, help="Port to listen on; 0 picks a free one. [PORT, 8000]")
@click.option("--workers", type=int, help="Number of server processes. [WORKERS, 1]")
@click.option(
    "--trusted-documents",
    type=click.Path(path_type=Path),
    help="Run only the documents of this JSON file. [TRUSTED_DOCUMENTS]",
)
@click.option("--migrate", is_flag=True, help="Apply missing migrations first. Always on with the embedded database.")
@data_dir
def serve(*, migrate: bool, **options: object) -> None:
    """Serve the API and its explorer."""
    given = loaded(**options)
    engine_of(given)
    stop = _Stop()
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGHUP, _hang_up)
    with (
        listening(given) as listener,
        listening_for_metrics(given) as metrics_listener,
        startup.database_settings(given) as settings,
    ):
        demo = asyncio.run(_prepared(settings, embedded=given.database_url is None, migrate=migrate))
        log.info("TaskQL %s on Python %s", VERSION, platform.python_version())
        run = _server(settings, listener, metrics_listener)
        if not stop.asked:
            _announce(settings, listener, metrics_listener, demo)
            with metrics.shared_directory(settings):
                run()


@main.command()
@click.option("--citus", is_flag=True, help="Distribute the tables over the machines of a Citus cluster.")
@data_dir
def migrate(citus: bool, data_dir: Path | None) -> None:  # noqa: FBT001 - a flag of the command line
    """Apply migrations, and create the server's database role.

    Connects with DATABASE_OWNER_URL (or else DATABASE_URL), and grants the role of DATABASE_URL what it needs. Several
    can run at the same time: they wait for each other.
    """
    with startup.database_settings(loaded(data_dir=data_dir)) as settings:
        applied = asyncio.run(startup.bring_up_to_date(settings, spread=citus))
    click.echo(f"Applied {', '.join(applied)}." if applied else "Nothing to apply: the database is up to date.")
    if citus:
        click.echo("The tables are distributed by user.")


@main.command()
@click.option("--email", required=True, help="Email address of the user, who is created if necessary.")
@click.option("--ttl", default="1h", show_default=True, help="How long the token is valid: 90s, 15m, 12h, 30d.")
@data_dir
def token(email: str, ttl: str, data_dir: Path | None) -> None:
    """Print a token for a user, and nothing else."""
    lifetime = _duration(ttl, "--ttl")
    with startup.database_settings(loaded(data_dir=data_dir)) as settings:
        signs = signer(settings)
        if signs is None:
            raise StartupError("Tokens come from the issuer in AUTH_ISSUER; sign in there to get one.")
        user_id = asyncio.run(_user(settings, email))
        click.echo(signs.token(user_id, lifetime))


@main.command()
@click.option("--check", is_flag=True, help="Compare with the committed schema.graphql instead of printing.")
@click.option(
    "--against",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="List changes that break clients of the schema in this file; exit code 1 if there are any.",
)
def schema(check: bool, against: Path | None) -> None:  # noqa: FBT001 - a flag of the command line
    """Print the schema in GraphQL's schema definition language."""
    if check and sdl() != COMMITTED.read_text():
        raise StartupError("schema/schema.graphql is out of date; run: taskql schema > schema/schema.graphql")
    if against is not None:
        _refuse_breaking_changes(_read_schema(against))
    if not (check or against):
        click.echo(sdl(), nl=False)


@main.command()
@click.option("--older-than", default="30d", show_default=True, help="Minimum time in the trash: 12h, 30d; 0d for all.")
@data_dir
def purge(older_than: str, data_dir: Path | None) -> None:
    """Permanently delete tasks and lists that have been in the trash for some time.

    It works in batches, and can be interrupted and run again at any time. Clients learn of it for TOMBSTONE_DAYS; those
    that were offline for longer do a full sync.
    """
    age = _duration(older_than, "--older-than", least=0)
    with startup.database_settings(loaded(data_dir=data_dir)) as settings:
        done = asyncio.run(_purged(settings, age))
    click.echo(f"Deleted {done.tasks} tasks and {done.lists} lists of {done.users} users.")


@main.command()
@click.option(
    "--nothing-lost",
    is_flag=True,
    help="Only record this database as the current one: after pg_upgrade, or a failover that lost no write.",
)
@data_dir
def restored(nothing_lost: bool, data_dir: Path | None) -> None:  # noqa: FBT001 - a flag of the command line
    """Make all clients sync again, after the database was restored to an earlier state.

    It advances every user's clock by a large step and gives every task and list a new version, in batches, as the role
    of DATABASE_OWNER_URL. Servers can keep running, and it can be interrupted and run again. Clocks have room for at
    least 20 runs.
    """
    with startup.database_settings(loaded(data_dir=data_dir)) as settings:
        click.echo(asyncio.run(_restored(settings, nothing_lost=nothing_lost)))


@main.command()
@click.option("--recount", is_flag=True, help="Check the task counters of all users, however long it takes.")
@data_dir
def doctor(recount: bool, data_dir: Path | None) -> None:  # noqa: FBT001 - a flag of the command line
    """Check settings, documents, issuers, Redis and database, and suggest fixes. It creates nothing.

    It also corrects wrong task counters, for as many users as it can check in ten seconds. The exit code is 0 if all is
    well, 1 for a warning, 2 for a failure.
    """
    progress = _recounted if recount else None
    try:
        given = loaded(data_dir=data_dir)
        with startup.database_settings(given, create=False) as settings:
            report = startup.report(settings, progress, embedded=given.database_url is None)
            found = [*_documents(settings), *asyncio.run(report)]
    except StartupError as error:
        found = [startup.failed(error)]
    for finding in found:
        click.echo(f"{finding.level:8} {' '.join(str(finding).split())}")
    sys.exit(checks.worst(found))


def _recounted(users: int, wrong: int) -> None:
    if users % PROGRESS_EVERY == 0:
        click.echo(f"{users} users, {wrong} counters corrected", err=True)


def _documents(settings: Settings) -> list[Finding]:
    """Check that the manifest, if there is one, is readable, and that all of its operations are valid."""
    if settings.trusted_documents is None:
        return []
    try:
        engine_of(settings)
    except StartupError as error:
        return [startup.failed(error)]
    return [Finding("ok", f"All operations of {settings.trusted_documents} are valid")]


class _Stop:
    """Exits by an exception, so that the embedded database is shut down properly.

    Python ignores exceptions that are raised while it runs a finalizer; `asked` is set in any case.
    """

    asked = False

    def __call__(self, _signal: int, _frame: object) -> None:
        self.asked = True
        sys.exit(0)


def _hang_up(_signal: int, _frame: object) -> None:
    """Treat a closed terminal like SIGTERM."""
    signal.raise_signal(signal.SIGTERM)


@contextmanager
def listening(settings: Settings) -> Iterator[socket.socket]:
    """The server's socket. It is opened before the embedded database is started, since the port may be in use."""
    with _bound(settings.host, settings.port, "--port") as listener:
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_MILLISECONDS)
        yield listener


@contextmanager
def listening_for_metrics(settings: Settings) -> Iterator[socket.socket | None]:
    """The socket for metrics; None if they are off."""
    if settings.metrics == "on" and settings.metrics_port is None:
        raise StartupError("METRICS=on needs METRICS_PORT: metrics are served on a separate port.")
    if not settings.has_metrics:
        yield None
        return
    host = settings.host if settings.metrics == "on" else "127.0.0.1"
    with _bound(host, settings.metrics_port or 0, "METRICS_PORT") as listener:
        yield listener


def _bound(host: str, port: int, setting: str) -> socket.socket:
    """A listening socket; raises StartupError if the address is not available."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        advice = f"Choose another port with {setting} (0 picks a free one)."
        raise StartupError(f"Cannot listen on {host} port {port}: {reason}. {advice}") from None
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, UNREAD_BYTES)  # inherited by its connections
    return listener


async def _prepared(settings: Settings, *, embedded: bool, migrate: bool) -> UUID | None:
    """Prepare and check the database; returns the demo user if it is embedded."""
    settings.issuers()
    if embedded or migrate:
        await startup.bring_up_to_date(settings)
    for warning in await startup.refuse_failures(settings):
        log.warning("%s", warning)
    if not embedded:
        return None
    database = connect(settings)
    try:
        return await demo_user(database)
    finally:
        await database.close()


async def _user(settings: Settings, email: str) -> UUID:
    if not re.fullmatch(r"[^@\s]+@[^@\s]+", email):
        raise StartupError(f"--email must be an email address; it is {email!r}.")
    await startup.refuse_failures(settings)
    database = connect(settings)
    try:
        return (await user_with_email(database, email))[0]
    finally:
        await database.close()


async def _purged(settings: Settings, age: timedelta) -> purging.Progress:
    await startup.refuse_failures(settings)
    database, done = connect(settings), purging.Progress(0, 0, 0)
    try:
        async for done in purging.purge(database, age, timedelta(days=settings.tombstone_days)):
            if done.users % PROGRESS_EVERY == 0:
                click.echo(f"{done.users} users, {done.tasks} tasks and {done.lists} lists deleted", err=True)
    finally:
        await database.close()
    return done


async def _restored(settings: Settings, *, nothing_lost: bool) -> str:
    await startup.refuse_failures(settings)
    database = Database(owner_url(settings), pool_size=1, quotas=settings.quotas)
    done = restoring.Progress(0, 0, 0)
    try:
        if not nothing_lost:
            async for done in restoring.jump(database):
                if done.users % PROGRESS_EVERY == 0:
                    click.echo(f"{done.users} users, {done.rows} tasks and lists", err=True)
        if done.full:
            raise StartupError(
                f"The clocks of {done.full} of {done.users} users cannot be advanced further; see docs/operations.md."
            )
        await restoring.remember(database)
    finally:
        await database.close()
    if nothing_lost:
        return "Recorded this database as the current one."
    return f"Advanced the clocks of {done.users} users, and gave {done.rows} tasks and lists new versions."


def _announce(
    settings: Settings, listener: socket.socket, metrics_listener: socket.socket | None, demo: UUID | None
) -> None:
    """Print the server's URL, and for the embedded database a token and example requests."""
    url = f"{_url(listener)}/graphql"
    click.echo(f"TaskQL serves {url}")
    if metrics_listener is not None:
        click.echo(f"Metrics are at {_url(metrics_listener)}/metrics")
    signs = signer(settings)
    if demo is not None and signs is not None:
        ready = signs.token(demo, DEMO_TOKEN_LIFETIME)
        click.echo(f"\nThe explorer, signed in as the demo user:\n\n{url}#token={ready}\n")
        click.echo(f"The token alone, valid for a week:\n\n{ready}\n")
        click.echo(f"A request from a shell:\n\n{_curl(url, ready)}\n")
    sys.stdout.flush()


def _url(listener: socket.socket) -> str:
    """The URL of a socket on this machine."""
    host, port = listener.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104 - shown only
    return f"http://{shown}:{port}"


def _curl(url: str, bearer: str) -> str:
    query = '{"query": "{ tasks { totalCount nodes { title completed dueDate } } }"}'
    headers = f"-H 'Content-Type: application/json' -H 'Authorization: Bearer {bearer}'"
    return f"curl -s '{url}' {headers} -d '{query}'"


def _application(settings: Settings, metrics_listener: socket.socket | None) -> Starlette:
    """The application of one server process, with logging configured."""
    logs.configure(settings)
    app = create_app(settings, metrics_listener)
    garbage.settle()
    return app


def _server(settings: Settings, listener: socket.socket, metrics_listener: socket.socket | None) -> Callable[[], None]:
    """A function that serves until a signal stops it. From now on, signals do not raise exceptions."""
    config = uvicorn.Config(
        partial(_application, settings, metrics_listener),
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        access_log=False,
        log_config=None,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        timeout_worker_healthcheck=WORKER_SECONDS,
        http=partial(BoundedRequests, Connections(settings)),  # type: ignore[arg-type]  # it is only called
        **WEB_SOCKETS,
        proxy_headers=False,  # app.addresses replaces it
    )
    if settings.workers > 1:
        return _Workers(config, [listener]).run
    server = uvicorn.Server(config)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, server.handle_exit)
    return partial(server.run, sockets=[listener])


class _Workers(Multiprocess):
    """uvicorn's parent process. SIGHUP restarts its workers one by one; on a terminal, SIGHUP ends it."""

    def __init__(self, config: uvicorn.Config, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        self._has_terminal = sys.stdin is not None and sys.stdin.isatty()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._end)

    def _end(self, _signal: int, _frame: object) -> None:
        """Stop at once, also during a restart, which takes seconds for each worker.

        A thread sets the event, because the signal can arrive while the main thread holds the event's lock.
        """
        Thread(target=self.should_exit.set).start()

    def handle_hup(self) -> None:
        if self._has_terminal:
            self.handle_term()
        else:
            super().handle_hup()


def _duration(text: str, option: str, least: int = 1) -> timedelta:
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    if text[-1:] not in units or not text[:-1].isdecimal() or not least <= int(text[:-1]) < 10**6:
        raise StartupError(f"{option} must be a number with the unit s, m, h or d, such as 15m; it is {text!r}.")
    return timedelta(seconds=int(text[:-1]) * units[text[-1]])


def _read_schema(path: Path) -> GraphQLSchema:
    try:
        return build_schema(path.read_text())
    except (GraphQLError, TypeError, UnicodeDecodeError) as error:
        raise StartupError(f"{path} is not a valid GraphQL schema: {error}") from None


def _refuse_breaking_changes(old: GraphQLSchema) -> None:
    new = build_schema(sdl())
    breaking = [f"{change.type.name}: {change.description}" for change in find_breaking_changes(old, new)]
    breaking += [f"ONE_OF_ADDED: {name} now requires exactly one of its fields." for name in _narrowed(old, new)]
    click.echo("".join(f"{line}\n" for line in breaking), nl=False)
    if breaking:
        raise StartupError(f"{len(breaking)} changes break clients of the old schema; see the list above.")


def _narrowed(old: GraphQLSchema, new: GraphQLSchema) -> list[str]:
    """The input types that have become @oneOf, which graphql-core does not report as a breaking change."""
    pairs = ((old.type_map.get(name), type_) for name, type_ in new.type_map.items())
    return [
        type_.name
        for before, type_ in pairs
        if is_input_object_type(before) and is_input_object_type(type_) and type_.is_one_of and not before.is_one_of
    ]
