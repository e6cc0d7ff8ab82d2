"""Checks whether the database can serve, as rarely as possible: a database that sleeps when idle must be able to sleep.

For a minute after the last request, and while anything is wrong, each health check queries the database, at most once
a second. After that the last result is reused. Migrations and row security are checked once a minute.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping
from functools import partial

from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from app.database import checks
from app.database.checks import Finding
from app.database.database import SESSION
from app.database.failures import driver_error
from app.database.url import DatabaseURL
from app.errors import StartupError
from app.observability.masking import outline
from migrations.run import missing

log = logging.getLogger(__name__)

# All in seconds.
FRESH = 1.0
AWAKE = 60.0
DEEP = 60.0
PATIENCE = 1.5
WORKER_PATIENCE = 1.0

States = dict[str, str]

DATABASE, MIGRATIONS, ROW_SECURITY, WORKERS = "database", "migrations", "row_security", "workers"
OK, FAILED, UNKNOWN, READ_ONLY = "ok", "failed; the log says how to fix it", "unknown", "read-only"
SILENT: States = {DATABASE: "unreachable", MIGRATIONS: UNKNOWN, ROW_SECURITY: UNKNOWN}


class Probe:
    """Queries the database on a connection of its own, since those for requests may all be in use.

    last_used: When the connections for requests were last used.
    last_trouble: When a request last failed with a permanent error; the next check then includes all.
    now: The clock, in seconds, which tests replace.
    """

    def __init__(
        self,
        url: DatabaseURL,
        last_used: Callable[[], float],
        now: Callable[[], float] = time.monotonic,
        last_trouble: Callable[[], float] = lambda: -math.inf,
    ) -> None:
        arguments = url.connect_arguments(SESSION) | {"timeout": PATIENCE, "command_timeout": PATIENCE}
        self.engine = create_async_engine(
            url.sqlalchemy, connect_args=arguments, pool_size=1, max_overflow=0, pool_pre_ping=True
        )
        self._last_used, self._last_trouble, self._now = last_used, last_trouble, now
        self._states: States = SILENT
        # The workers of a cluster: those who have none of their data on one that is lost can be served.
        self._workers: States = {}
        self._asked_at = self._looked_at = -math.inf
        self._asking: asyncio.Task[None] | None = None

    async def states(self) -> States:
        """The result of each check: `ok` or the problem."""
        if not self._is_current():
            if self._asking is None or self._asking.done():
                self._asking = asyncio.create_task(self._ask())
            if not (await asyncio.wait({self._asking}, timeout=PATIENCE))[0]:
                return SILENT
        return self._states

    def notes(self) -> States:
        """What was found besides, and is no reason to send nobody here any more."""
        return self._workers

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait({self._asking})
        await self.engine.dispose()

    def _is_current(self) -> bool:
        """Whether the last result is still valid."""
        now = self._now()
        is_asleep = now - self._last_used() > AWAKE and self._all_is_well()
        return is_asleep or now - self._asked_at < FRESH

    def _all_is_well(self) -> bool:
        return {*self._states.values(), *self._workers.values()} == {OK}

    async def _ask(self) -> None:
        is_due = self._now() - self._looked_at > DEEP or not self._all_is_well()
        is_due = is_due or self._last_trouble() >= self._looked_at
        try:
            async with AsyncSession(self.engine) as session:  # pre-ping checks that the database responds
                if await session.run_sync(checks.is_read_only):
                    self._remember(SILENT | {DATABASE: READ_ONLY}, "the database is read-only")
                    # A session keeps the default that it started with.
                    await session.invalidate()
                elif is_due:
                    failures = await session.run_sync(_failures)
                    workers = await _workers(session)
                    self._note_workers(workers)
                    # The server is ready as long as one worker is.
                    if workers and checks.worst(workers) == checks.FAILURE:
                        failures |= {WORKERS: workers}
                    self._note(failures)
        except Exception as error:  # noqa: BLE001 - whatever the error, the database is not ready
            self._remember(SILENT, f"the database is unreachable: {outline(driver_error(error))}")
        self._asked_at = self._now()

    def _note(self, failures: Mapping[str, list[Finding]]) -> None:
        self._looked_at = self._now()
        seen = " ".join(str(finding) for failing in failures.values() for finding in failing)
        found = {name: FAILED if failing else OK for name, failing in failures.items()}
        self._remember(SILENT | {DATABASE: OK} | found, seen)

    def _note_workers(self, findings: list[Finding]) -> None:
        lost = [finding for finding in findings if finding.level != "ok"]
        state = f"{len(lost)} of {len(findings)} do not serve; the log says which" if lost else OK
        workers = {WORKERS: state} if findings else {}
        if workers != self._workers and (lost or self._workers):
            log.warning("%s", " ".join(map(str, lost))) if lost else log.info("all workers serve again")
        self._workers = workers

    def _remember(self, states: States, problem: str) -> None:
        """Store the states, and log them if they have changed. The response omits details, because it is public."""
        if states != self._states or self._asked_at == -math.inf:
            log.warning("not ready: %s", problem) if problem else log.info("the database is ready")
        self._states = states


def _failures(session: Session) -> dict[str, list[Finding]]:
    """The failures of migrations and row-level security, which a response of the database alone does not show."""
    try:
        lacking = missing(session.connection())
    except StartupError:
        # A newer version has migrated already and takes over soon; this one must serve until then.
        lacking = []
    if lacking:
        return {MIGRATIONS: [checks.migrations(lacking)]}
    walls = [finding for finding in checks.row_security(session) if finding.level == "failure"]
    return {MIGRATIONS: [], ROW_SECURITY: walls}


async def _workers(session: AsyncSession) -> list[Finding]:
    try:
        async with asyncio.timeout(WORKER_PATIENCE):
            return await session.run_sync(partial(checks.workers, patience=WORKER_PATIENCE))
    except TimeoutError:
        return [Finding("warning", "The cluster's workers do not all answer in time")]
