"""The commands that move the data of users: taskql seed, reset, users, export, import. `app.data` does the work."""

import asyncio
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import ExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from app import startup
from app.cli_options import data_dir, loaded
from app.data import exporting, files, importing, resetting, seeding, todoist
from app.data import users as accounts
from app.data.exporting import Exported
from app.data.files import STANDARD
from app.data.importing import Imported, Refused
from app.data.lines import TaskLine
from app.data.seeding import Plan, Seeded
from app.data.users import Reference, printable
from app.database.transfers import Transfers
from app.database.url import owner_url, server_url
from app.errors import StartupError
from app.settings import Settings

T = TypeVar("T")

MOST_PROBLEMS = 20
MOST_FOUND = 50

email = click.option("--email", required=True, help="Email address of the user, or the user's id.")
dry_run = click.option("--dry-run", is_flag=True, help="Show what would happen, and change nothing.")
yes = click.option("--yes", is_flag=True, help="Do not ask, for scripts.")


@click.command()
@click.option("--users", type=click.IntRange(1, 100_000), default=10, show_default=True, help="Number of users.")
@click.option("--tasks", type=click.IntRange(0), default=100, show_default=True, help="Number of tasks of each user.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Another seed makes other users.")
@click.option(
    "--today",
    type=click.DateTime(["%Y-%m-%d"]),
    help="The day on which the data ends. The same seed and day give the same data. [default: today]",
)
@data_dir
def seed(*, users: int, tasks: int, seed: int, today: datetime | None, data_dir: Path | None) -> None:
    """Add users with lists and tasks that look real, for development.

    A user gets all tasks or none. Users that have lists or tasks are left as they are, so an interrupted run can be
    continued by running it again.
    """
    plan = Plan(users, tasks, seed, (today or datetime.now(UTC)).date())
    with startup.database_settings(loaded(data_dir=data_dir)) as settings:
        done = _run(_seeded(settings, plan), "Interrupted. Users are complete or missing; run it again to continue.")
    click.echo(f"Created {done.created:,} users with {done.created * tasks:,} tasks.")
    if done.present:
        click.echo(f"{done.present:,} users were there already, and were left as they are.")


@click.command()
@yes
@data_dir
def reset(*, yes: bool, data_dir: Path | None) -> None:
    """Delete all users and all of their data, for development.

    Accepts only a database on this machine. It also empties all other tables that refer to users, such as Better Auth's
    sessions and accounts.
    """
    with startup.database_settings(loaded(data_dir=data_dir)) as settings:
        click.echo(_run(_reset(settings, sure=yes), "Interrupted. Nothing was deleted."))


@click.group()
def users() -> None:
    """List, find and delete users. Connects with DATABASE_OWNER_URL."""


@users.command("list")
@data_dir
def list_users(data_dir: Path | None) -> None:
    """Print all users, the oldest first: id, time of creation, email address, name; separated by tabs."""
    with startup.database_settings(loaded(data_dir=data_dir)) as settings:
        _run(_listed(settings), "Interrupted.")


@users.command("find")
@click.argument("words")
@data_dir
def find_users(words: str, data_dir: Path | None) -> None:
    """Print users with their numbers of lists and tasks.

    WORDS is an id, or a part of an email address or a name. Upper and lower case are the same.
    """
    with startup.database_settings(loaded(data_dir=data_dir)) as settings:
        _run(_found(settings, words), "Interrupted.")


@users.command("delete")
@click.argument("user")
@dry_run
@yes
@data_dir
def delete_user(*, user: str, dry_run: bool, yes: bool, data_dir: Path | None) -> None:
    """Delete a user with everything: lists, tasks, and the rows of other tables that refer to the user.

    USER is an email address or an id. With an issuer elsewhere, delete the account there first: with AUTH_PROVISION, a
    token that is still valid creates the user again.
    """
    with startup.database_settings(loaded(data_dir=data_dir)) as settings:
        click.echo(_run(_deleted(settings, user, dry_run=dry_run, sure=yes), "Interrupted. Nothing was deleted."))


@click.command()
@email
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=STANDARD,
    help="File to write, only readable by you. It replaces an existing one when it is complete. [default: stdout]",
)
@data_dir
def export(email: str, output: Path, data_dir: Path | None) -> None:
    """Write the lists and tasks of one user as JSON Lines, including the trash."""
    with startup.database_settings(loaded(data_dir=data_dir)) as settings:
        done = _run(_exported(settings, email, output), "Interrupted. No file was written.")
    click.echo(f"Exported {done.lists:,} lists and {done.tasks:,} tasks.", err=True)


@click.command("import")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@email
@click.option("--list", "name", help="Name of the list for Todoist's CSV. [default: the name of the file]")
@dry_run
@data_dir
def import_(*, file: Path, email: str, name: str | None, dry_run: bool, data_dir: Path | None) -> None:
    """Add lists and tasks to the account of a user, from an export or from Todoist's CSV.

    FILE is a name, or - for the standard input. Everything is imported, or nothing. Lists and tasks with ids that the
    account has are left as they are, so the same file can be imported again.
    """
    content = files.read(file)
    with startup.database_settings(loaded(data_dir=data_dir)) as settings:
        work = _imported(settings, content, email, name or todoist.project(file.stem), dry_run=dry_run)
        done = _run(work, "Interrupted. Nothing was imported.")
    for sentence in importing.summary(done, dry_run=dry_run):
        click.echo(sentence)


COMMANDS = (seed, reset, users, export, import_)


def _run(work: Coroutine[Any, Any, T], interrupted: str) -> T:
    """Run work. Ctrl-C rolls back its transaction."""
    try:
        return asyncio.run(work)
    except KeyboardInterrupt:
        raise StartupError(interrupted) from None


@asynccontextmanager
async def _as_server(settings: Settings) -> AsyncIterator[Transfers]:
    """Transactions with the server's role, which row-level security restricts to the user as whom they act."""
    await startup.refuse_failures(settings)
    async with Transfers(server_url(settings)) as transfers:
        yield transfers


@asynccontextmanager
async def _as_owner(settings: Settings) -> AsyncIterator[Transfers]:
    """Transactions with the owner's role, which sees all users."""
    await startup.refuse_failures(settings)
    async with Transfers(owner_url(settings)) as transfers:
        yield transfers


async def _seeded(settings: Settings, plan: Plan) -> Seeded:
    async with _as_server(settings) as transfers:
        with _bar(plan.users * plan.tasks, "Tasks") as bar:
            return await seeding.seed(transfers, plan, settings.quotas, bar.update)


async def _reset(settings: Settings, *, sure: bool) -> str:
    owner = owner_url(settings)
    for url in (owner, server_url(settings)):
        resetting.refuse_remote(url)
    async with _as_owner(settings) as transfers:
        target = await resetting.inspect(transfers, owner)
        click.echo(f"Database {target.database}, {target.users:,} users. Tables to empty: {', '.join(target.tables)}.")
        if sure and target.is_forwarded:
            raise StartupError(
                "PostgreSQL has another address than this machine, as in a container or behind a tunnel: run it"
                " without --yes, and answer the question."
            )
        _ask("Delete all of this?", sure=sure)
        await resetting.empty(transfers)
    return f"Deleted {target.users:,} users with all of their data."


def _ask(question: str, *, sure: bool) -> None:
    """Ask for consent. Raises StartupError if it is not given."""
    if not sure and not click.confirm(question, default=False, err=True):
        raise StartupError("Nothing was deleted.")


async def _listed(settings: Settings) -> None:
    async with _as_owner(settings) as transfers:
        async for user in accounts.all_users(transfers):
            created = user.created_at.isoformat(timespec="seconds")
            click.echo(f"{user.id}\t{created}\t{printable(user.email)}\t{printable(user.name)}")


async def _found(settings: Settings, words: str) -> None:
    async with _as_owner(settings) as transfers:
        found = await accounts.matching(transfers, words, MOST_FOUND + 1)
        if not found:
            raise StartupError("No user has this id, or these words in the email address or the name.")
        for user in found[:MOST_FOUND]:
            for name, value in accounts.described(user, await accounts.size(transfers, user.id)):
                click.echo(f"{name:8} {value}")
            click.echo()
    if len(found) > MOST_FOUND:
        click.echo(f"There are more than {MOST_FOUND}; use more words.", err=True)


async def _deleted(settings: Settings, name: str, *, dry_run: bool, sure: bool) -> str:
    async with _as_owner(settings) as transfers:
        user = await accounts.known(transfers, name)
        for reference in await accounts.delete_user(transfers, user.id, dry_run=True):
            click.echo(_shown(reference))
        if dry_run:
            return f"Would delete the user {printable(user.email)} ({user.id}). Nothing was deleted."
        _ask(f"Delete the user {printable(user.email)} ({user.id}) with all of this?", sure=sure)
        await accounts.delete_user(transfers, user.id, dry_run=False)
    again = " With AUTH_PROVISION, a token that is still valid creates the user again." * settings.auth_provision
    return f"Deleted the user {printable(user.email)} ({user.id}).{again}"


def _shown(reference: Reference) -> str:
    return f"{reference.table}: {reference.rows:,} rows, {reference.fate}"


async def _user(settings: Settings, name: str) -> accounts.Account:
    async with Transfers(owner_url(settings)) as transfers:
        return await accounts.known(transfers, name)


async def _exported(settings: Settings, name: str, output: Path) -> Exported:
    async with _as_server(settings) as transfers:
        user, size = await _user(settings, name), Exported(0, 0)
        with ExitStack() as stack:
            write = stack.enter_context(files.writing(output))
            async for part in exporting.export(transfers, user.id):
                if isinstance(part, Exported):
                    size = part
                    bar = stack.enter_context(_bar(sum(size), "Lists and tasks", hidden=output == STANDARD))
                else:
                    write(part + b"\n")
                    bar.update(1)
    return size


async def _imported(settings: Settings, content: bytes, email: str, name: str, *, dry_run: bool) -> Imported:
    async with _as_server(settings) as transfers:
        user = await _user(settings, email)
        try:
            source = importing.read(content, user.id, name)
            for note in source.notes:
                click.echo(f"{note}", err=True)
            with _bar(sum(isinstance(each.line, TaskLine) for each in source.lines), "Tasks") as bar:
                return await importing.import_(
                    transfers, user.id, source.lines, settings.quotas, bar.update, dry_run=dry_run
                )
        except Refused as refused:
            for wrong in refused.wrong[:MOST_PROBLEMS]:
                click.echo(f"{wrong}", err=True)
            raise


def _bar(length: int, label: str, *, hidden: bool = False) -> Any:
    """A progress bar on stderr, if that is a terminal."""
    hidden = hidden or not sys.stderr.isatty()
    return click.progressbar(length=length, label=label, file=sys.stderr, show_pos=True, hidden=hidden)
