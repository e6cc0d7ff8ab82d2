"""What must hold of a database and of the role that serves from it: `serve` refuses without, `doctor` explains."""

from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Boolean, Connection, Select, Text, column, false, func, literal, or_, select, table

OLDEST_SERVER = 150000
WALLED = ("tasks", "task_clocks", "task_tags")
RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE")

_roles = table("pg_roles", column("rolname"), column("rolsuper", Boolean), column("rolbypassrls", Boolean))
_classes = table(
    "pg_class",
    column("oid"),
    column("relname", Text),
    column("relowner"),
    column("relkind"),
    column("relrowsecurity", Boolean),
    column("relforcerowsecurity", Boolean),
)

_policies_view = table(
    "pg_policies",
    column("tablename", Text),
    column("policyname", Text),
    column("qual", Text),
    column("with_check", Text),
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a report: how it stands, what was seen, and what mends it."""

    level: Literal["ok", "warning", "failure"]
    seen: str
    mend: str = ""

    def __str__(self) -> str:
        return f"{self.seen}. {self.mend}" if self.mend else f"{self.seen}."


def database(connection: Connection, missing: list[str]) -> list[Finding]:
    """Everything about a database as the connected role sees it."""
    findings = [_version(connection), migrations(missing), *_role(connection)]
    return findings if missing else [*findings, *_walls(connection)]


def _version(connection: Connection) -> Finding:
    number = int(connection.execute(select(func.current_setting("server_version_num"))).scalar_one())
    shown = f"PostgreSQL {number // 10000}.{number % 10000}"
    if number < OLDEST_SERVER:
        return Finding("failure", f"The server is {shown}", "TaskQL needs PostgreSQL 15 or newer.")
    return Finding("ok", f"The server is {shown}")


def migrations(missing: list[str]) -> Finding:
    """Whether the database is at the newest revision."""
    if missing:
        return Finding(
            "failure",
            f"The database lacks the revisions {', '.join(missing)}",
            "Run `taskql migrate`, or start with `taskql serve --migrate`.",
        )
    return Finding("ok", "The database is at the newest revision")


def _role(connection: Connection) -> list[Finding]:
    rights: Select[Any] = select(_roles.c.rolname, _roles.c.rolsuper, _roles.c.rolbypassrls)
    role, superuser, bypasses = connection.execute(rights.where(_roles.c.rolname == func.current_user())).one()
    mend = (
        "Name another role in DATABASE_URL and this one in DATABASE_OWNER_URL; `taskql migrate` then makes that role."
    )
    if superuser:
        return [Finding("failure", f"The role {role} is a superuser, whom row security does not hold", mend)]
    if bypasses:
        return [Finding("failure", f"The role {role} has BYPASSRLS: row security does not hold it", mend)]
    return [Finding("ok", f"The role {role} is held by row security")]


def _walls(connection: Connection) -> list[Finding]:
    owned = func.pg_has_role(_classes.c.relowner, literal("MEMBER", Text))
    rows = connection.execute(
        select(_classes.c.relname, owned, _classes.c.relrowsecurity, _classes.c.relforcerowsecurity)
        .where(_classes.c.oid.in_([func.to_regclass(name) for name in WALLED]))
        .order_by(_classes.c.relname)
    )
    return [*(_wall(*row) for row in rows), *_policies(connection), _rights(connection)]


def _policies(connection: Connection) -> list[Finding]:
    """Policies add up: one more, or another, lets through what ours would not."""
    mine = "(user_id = (NULLIF(current_setting('app.user_id'::text, true), ''::text))::uuid)"
    rows = connection.execute(
        select(_policies_view.c.tablename, _policies_view.c.policyname)
        .where(_policies_view.c.tablename.in_(WALLED))
        .where(or_(_policies_view.c.qual.is_distinct_from(mine), _policies_view.c.with_check.is_distinct_from(mine)))
    )
    mend = "As the tables' owner: DROP POLICY {} ON {};"
    return [
        Finding("failure", f"The policy {name} of {table} is not TaskQL's", mend.format(name, table))
        for table, name in rows
    ]


def _rights(connection: Connection) -> Finding:
    """What the server's role needs, it has."""
    needs = [func.has_table_privilege(name, right) for name in WALLED for right in RIGHTS]
    needs += [func.has_table_privilege("users", "SELECT")]
    needs += [func.coalesce(func.has_function_privilege(func.to_regprocedure("act_as(uuid)"), "EXECUTE"), false())]
    if all(connection.execute(select(*needs)).one()):
        return Finding("ok", "The role has the rights it needs")
    return Finding(
        "failure", "The role lacks rights on the tables or on act_as()", "Run `taskql migrate`: it grants them."
    )


def _wall(name: str, owned: bool, enabled: bool, forced: bool) -> Finding:  # noqa: FBT001 - the columns of a row
    if not (enabled and forced):
        mend = f"As its owner: ALTER TABLE {name} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
        return Finding("failure", f"Row security of {name} is not enabled and forced", mend)
    if owned:
        return Finding(
            "failure",
            f"The server's role owns {name} and could take its row security away",
            "Name another role in DATABASE_URL and the owner in DATABASE_OWNER_URL; `taskql migrate` makes that role.",
        )
    return Finding("ok", f"Row security of {name} is enabled and forced")
