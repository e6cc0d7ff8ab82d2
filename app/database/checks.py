"""Checks of a database and of the server's role. `serve` does not start after a failure; `doctor` suggests fixes."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ssl import SSLContext
from typing import Any, Literal

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Select,
    Text,
    case,
    cast,
    column,
    false,
    func,
    literal,
    literal_column,
    or_,
    select,
    table,
    true,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from app.database import fingerprint
from app.database.database import SESSION
from app.database.functions import ALL as FUNCTIONS
from app.database.functions import CONFIGURED, DEFINERS, FIRED, FOR_EVERYBODY, FOR_THE_SERVER
from app.database.statements import DIALECT
from app.database.url import DatabaseURL
from app.models import State
from app.settings import LOOPBACK

OLDEST_SERVER = 150000
# From this version, CREATEROLE is not enough to change a role that another role created.
ADMIN_OPTION_NEEDED = 160000
ON = ("on", "true", "yes", "1", "t", "y")
PUBLIC = 0  # in the role oids of a policy
# The tables of user data, for which row-level security is forced, so that it also applies to their owner.
FORCED = ("tasks", "task_clocks", "task_tags", "user_tags", "task_lists", "tombstones")
# Not forced here: the owner signs users up, and so do roles that do not act as users.
USERS = "users"
WALLED = (*FORCED, USERS)
RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE")

_roles = table(
    "pg_roles",
    column("oid"),
    column("rolname"),
    column("rolsuper", Boolean),
    column("rolbypassrls", Boolean),
    column("rolcreaterole", Boolean),
)
_members = table("pg_auth_members", column("roleid"), column("member"))
_classes = table(
    "pg_class",
    column("oid"),
    column("relname", Text),
    column("relowner"),
    column("relkind"),
    column("relrowsecurity", Boolean),
    column("relforcerowsecurity", Boolean),
)

_policy_rows = table(
    "pg_policy",
    column("polname", Text),
    column("polrelid"),
    column("polcmd"),
    column("polpermissive", Boolean),
    column("polroles"),
    column("polqual"),
    column("polwithcheck"),
)

_role_settings = table("pg_db_role_setting", column("setdatabase"), column("setrole"), column("setconfig", ARRAY(Text)))
_databases = table("pg_database", column("oid"), column("datname", Text))

_functions = table(
    "pg_proc",
    column("oid"),
    column("proowner"),
    column("prosecdef", Boolean),
    column("proconfig", ARRAY(Text)),
    column("proacl"),
)

_triggers = table(
    "pg_trigger", column("tgrelid"), column("tgname", Text), column("tgenabled"), column("tgisinternal", Boolean)
)
# pg_trigger.tgenabled of triggers that fire in sessions of servers: "origin" and "always".
FIRES = ("O", "A")
_CORRECT = "Then run `taskql doctor --recount` and `taskql restored`: writes in the meantime were not tracked."

_MINE = "user_id = nullif(current_setting('app.user_id', true), '')::uuid"
_MINE_IN_CATALOG = "(user_id = (NULLIF(current_setting('app.user_id'::text, true), ''::text))::uuid)"
_ME = (
    "id = nullif(current_setting('app.user_id', true), '')::uuid"
    " OR NOT has_function_privilege('public.act_as(uuid)'::regprocedure, 'EXECUTE')"
)
_ME_IN_CATALOG = (
    "((id = (NULLIF(current_setting('app.user_id'::text, true), ''::text))::uuid)"
    " OR (NOT has_function_privilege(('act_as(uuid)'::regprocedure)::oid, 'EXECUTE'::text)))"
)


_ANOTHER_ROLE = (
    "Use another role in DATABASE_URL, and this one in DATABASE_OWNER_URL: `taskql migrate` then creates that role."
)


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check: its level, what was found, and how to fix it."""

    level: Literal["ok", "warning", "failure"]
    seen: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.seen}. {self.fix}" if self.fix else f"{self.seen}."


FAILURE = 2
# How long a worker of a cluster may take to accept a connection.
WORKER_SECONDS = 5.0


def worst(findings: Iterable[Finding]) -> int:
    """0 if all is well, 1 if there is a warning, 2 (FAILURE) if there is a failure."""
    return max(("ok", "warning", "failure").index(finding.level) for finding in findings)


def encryption(url: DatabaseURL) -> Finding:
    """Whether the connection to the database is encrypted and the server is verified."""
    if url.host in LOOPBACK or not url.host or url.host.startswith("/"):
        return Finding("ok", "The connection to the database stays on this machine")
    if isinstance(url.tls, SSLContext):
        return Finding("ok", f"The connection to {url.host} is encrypted, and its certificate is verified")
    fix = "Add sslmode=verify-full to DATABASE_URL, and sslrootcert=FILE if the certificate authority is not public."
    if url.tls == "require":
        return Finding("warning", f"The connection to {url.host} is encrypted, but the server is not verified", fix)
    return Finding("warning", f"The connection to {url.host} may be unencrypted", fix)


def way_around_pooler(server: DatabaseURL, owner: DatabaseURL) -> Finding:
    """Whether migrations and LISTEN, which need a session, can connect without a pooler."""
    if owner.pooled or server.direct.pooled:
        return Finding(
            "warning",
            "DATABASE_URL goes through a pooler, and there is no direct URL",
            "Set DATABASE_DIRECT_URL, and DATABASE_OWNER_URL for the owner, to URLs without the pooler.",
        )
    return Finding("ok", "Migrations and live changes connect to the database directly")


def database(session: Session, missing: list[str], url: DatabaseURL) -> list[Finding]:
    """All checks of a database, as the connected role."""
    findings = [_version(session), _pooler(session, url), _read_only(session), migrations(missing)]
    if missing:
        return [*findings, *_role(session)]
    findings += [*row_security(session), _session(session), *_restored(session)]
    return [*findings, *workers(session, WORKER_SECONDS)]


def row_security(session: Session) -> list[Finding]:
    """Whether row-level security is in place, and the connected role cannot bypass it."""
    return [*_role(session), *_walls(session)]


def workers(session: Session, patience: float) -> list[Finding]:
    """Whether each worker of a cluster accepts the connected role and applies row-level security to it.

    Empty without a cluster. A worker that does not respond within `patience` seconds affects only its own users, so it
    is a failure only if no worker responds.
    """
    if not _is_distributed(session):
        return []
    timeout = func.set_config("citus.node_connection_timeout", f"{round(patience * 1000)}ms", true())
    session.execute(select(timeout))
    asked = func.run_command_on_workers(_on_a_worker()).table_valued("nodename", "nodeport", "success", "result")
    rows = session.execute(select(asked)).all()
    level: Literal["warning", "failure"] = "warning" if any(row.success for row in rows) else "failure"
    return [_worker(row, level) for row in rows] or [Finding("failure", "The cluster has no workers", _ADD_WORKERS)]


def _is_distributed(session: Session) -> bool:
    """Whether Citus distributes the tables. False if the role may not ask, which another check reports."""
    may_ask = func.coalesce(_may_execute(func.to_regprocedure("is_distributed()")), false())
    if not session.execute(select(may_ask)).scalar_one():
        return False
    return bool(session.execute(select(func.is_distributed())).scalar_one())


_ADD_WORKERS = "As a superuser on the coordinator: SELECT citus_add_node(HOST, PORT);"


def _worker(row: Any, level: Literal["warning", "failure"]) -> Finding:
    place = f"The worker {row.nodename}:{row.nodeport}"
    if not row.success:
        fix = "Check that it is running, and that the coordinator has the password of the server's role: docs/citus.md."
        return Finding(level, f"{place} does not respond: {str(row.result).strip()}", fix)
    if row.result != "t":
        fix = "On that worker, as a superuser: check that the role has neither SUPERUSER nor BYPASSRLS, and that"
        fix += " row-level security of every table and shard is enabled and forced."
        return Finding("failure", f"{place} does not apply row-level security to the server's role", fix)
    return Finding("ok", f"{place} responds, and applies row-level security to the server's role")


def _on_a_worker() -> str:
    """The command that checks on a worker whether row-level security of tables and shards applies to the role."""
    named = _classes.c.relname.regexp_match(f"^({'|'.join(FORCED)})(_[0-9]+)?$")
    walls = func.bool_and(_classes.c.relrowsecurity & _classes.c.relforcerowsecurity)
    stands = select(walls).where(named, cast(_classes.c.relkind, Text) == "r").scalar_subquery()
    held = select(~or_(_roles.c.rolsuper, _roles.c.rolbypassrls) & stands).where(
        _roles.c.rolname == func.current_user()
    )
    return str(held.compile(dialect=DIALECT, compile_kwargs={"literal_binds": True}))


def is_read_only(session: Session) -> bool:
    """Whether the database accepts no writes in new sessions: it is a standby, or read-only by its settings."""
    # The catalog shows settings that were changed after this session started.
    stored = _read_only_settings().exists()
    now = or_(func.pg_is_in_recovery(), func.current_setting("transaction_read_only") == "on", stored)
    return bool(session.execute(select(now)).scalar_one())


def _read_only_settings() -> Select[Any]:
    """Where sessions are set to read-only, for the database or the connected role, in the syntax of ALTER."""
    database, role = func.quote_ident(func.current_database()), func.quote_ident(func.current_user())
    here = select(_databases.c.oid).where(_databases.c.datname == func.current_database()).scalar_subquery()
    me = select(_roles.c.oid).where(_roles.c.rolname == func.current_user()).scalar_subquery()
    for_all, anywhere = _role_settings.c.setrole == 0, _role_settings.c.setdatabase == 0
    place = case(
        (for_all & anywhere, literal("ROLE ALL", Text)),
        (for_all, func.concat("DATABASE ", database)),
        (anywhere, func.concat("ROLE ", role)),
        else_=func.concat("ROLE ", role, " IN DATABASE ", database),
    )
    return (
        select(place)
        .where(_role_settings.c.setdatabase.in_([here, 0]), _role_settings.c.setrole.in_([me, 0]))
        .where(_role_settings.c.setconfig.overlap([f"default_transaction_read_only={value}" for value in ON]))
    )


def _read_only(session: Session) -> Finding:
    if not is_read_only(session):
        return Finding("ok", "The database accepts writes")
    places = session.execute(_read_only_settings()).scalars().all()
    resets = "".join(f" ALTER {place} RESET default_transaction_read_only;" for place in places)
    # The session that changes the setting is read-only, too.
    fix = f"As the owner of the database or a superuser: SET default_transaction_read_only = off;{resets}"
    if not places:
        fix = "If it is a standby, use the primary in DATABASE_URL; otherwise check postgresql.conf."
    return Finding("warning", "The database accepts no writes", fix)


def _restored(session: Session) -> list[Finding]:
    """Whether the database is the one that was last seen. Empty if the role lacks the privilege to read that."""
    if not session.execute(select(func.has_table_privilege(State.__tablename__, "SELECT"))).scalar_one():
        return []
    if not fingerprint.differs(session):
        return [Finding("ok", "The database has not been restored or replaced since it was last checked")]
    seen = "The database was restored or copied, or a standby was promoted, since it was last checked"
    fix = (
        "If writes may have been lost, run `taskql restored`, so that all clients sync again. If none was lost, as"
        " after pg_upgrade, run `taskql restored --nothing-lost`."
    )
    return [Finding("warning", seen, fix)]


def _version(session: Session) -> Finding:
    number = _version_number(session)
    shown = f"PostgreSQL {number // 10000}.{number % 10000}"
    if number < OLDEST_SERVER:
        return Finding("failure", f"The server is {shown}", "TaskQL needs PostgreSQL 15 or newer.")
    return Finding("ok", f"The server is {shown}")


def _version_number(session: Session) -> int:
    return int(session.execute(select(func.current_setting("server_version_num"))).scalar_one())


def migrations(missing: list[str]) -> Finding:
    """Whether all migrations have been applied."""
    if missing:
        return Finding(
            "failure",
            f"The database lacks the migrations {', '.join(missing)}",
            "Run `taskql migrate`, or start with `taskql serve --migrate`.",
        )
    return Finding("ok", "All migrations have been applied")


def _pooler(session: Session, url: DatabaseURL) -> Finding:
    """Whether there is an undeclared pooler. A pooler reports its own process ids, but so does Neon without one."""
    if url.pooled:
        return Finding("ok", "DATABASE_URL goes through a transaction pooler, as declared")
    driver: Any = session.connection().connection.driver_connection
    if driver.get_server_pid() == session.execute(select(func.pg_backend_pid())).scalar() or url.is_neon:
        return Finding("ok", "DATABASE_URL connects to the database directly")
    fix = "If it pools transactions, set DB_POOLER=1, and DATABASE_DIRECT_URL to the database without the pooler."
    return Finding("warning", "There seems to be a pooler in front of the database", fix)


def _session(session: Session) -> Finding:
    """Whether sessions have the settings that statements need. Behind a pooler they are defaults of the role."""
    names = list(SESSION)
    values = session.execute(select(*(func.current_setting(name) for name in names))).one()
    other = [name for name, value in zip(names, values, strict=True) if value != SESSION[name]]
    if not other:
        return Finding("ok", "Sessions have the settings they need")
    return Finding(
        "warning", f"Sessions lack the settings {', '.join(other)}", "Run `taskql migrate`: it sets them for the role."
    )


def _role(session: Session) -> list[Finding]:
    rights: Select[Any] = select(func.quote_ident(_roles.c.rolname), _roles.c.rolsuper, _roles.c.rolbypassrls)
    role, superuser, bypasses = session.execute(rights.where(_roles.c.rolname == func.current_user())).one()
    fix = f"{_ANOTHER_ROLE} Or, as a superuser: ALTER ROLE {{}} {{}};"
    if superuser:
        seen = f"The role {role} is a superuser, which bypasses row-level security"
        return [Finding("failure", seen, fix.format(role, "NOSUPERUSER NOBYPASSRLS"))]
    if bypasses:
        seen = f"The role {role} has BYPASSRLS, which bypasses row-level security"
        return [Finding("failure", seen, fix.format(role, "NOBYPASSRLS"))]
    memberships = [
        Finding(
            "failure",
            f"The role {role} is a member of {other}, and could so become a role that bypasses row-level security",
            f"As a superuser: REVOKE {other} FROM {role};",
        )
        for other in session.execute(_memberships()).scalars()
    ]
    return memberships or [Finding("ok", f"The role {role} is subject to row-level security")]


def _memberships() -> Select[Any]:
    """The roles granted to this one through which it can become a superuser, BYPASSRLS, or the tables' owner."""
    granted, unheld, member = _roles.alias("granted"), _roles.alias("unheld"), _roles.alias("member")
    owners = select(_classes.c.relowner).where(_walled())
    return (
        select(func.quote_ident(granted.c.rolname))
        .select_from(_members)
        .join(member, member.c.oid == _members.c.member)
        .join(granted, granted.c.oid == _members.c.roleid)
        .join(unheld, func.pg_has_role(granted.c.oid, unheld.c.oid, literal("MEMBER", Text)))
        .where(member.c.rolname == func.current_user())
        .where(or_(unheld.c.rolsuper, unheld.c.rolbypassrls, unheld.c.oid.in_(owners)))
        .distinct()
    )


def server_role(session: Session, role: str) -> Finding:
    """Whether the connected owner may create the server's role, or change the existing one."""
    named = select(_roles.c.oid).where(_roles.c.rolname == role).scalar_subquery()
    makes = or_(_roles.c.rolsuper, _roles.c.rolcreaterole)
    changes = func.coalesce(func.pg_has_role(named, literal("MEMBER WITH ADMIN OPTION", Text)), true())
    rights = select(func.quote_ident(_roles.c.rolname), func.quote_ident(role), makes, changes)
    owner, quoted, may_make, may_change = session.execute(rights.where(_roles.c.rolname == func.current_user())).one()
    if not may_make:
        fix = f"As a superuser: ALTER ROLE {owner} CREATEROLE;"
        return Finding("failure", f"The owner {owner} may not create the server's role", fix)
    if not may_change and _version_number(session) >= ADMIN_OPTION_NEEDED:
        fix = f"As a superuser: GRANT {quoted} TO {owner} WITH ADMIN OPTION;"
        return Finding("failure", f"The owner {owner} may not change the server's role {quoted}", fix)
    return Finding("ok", "The owner can log in, and may create the server's role")


def _walled() -> ColumnElement[bool]:
    return _classes.c.oid.in_([func.to_regclass(name) for name in WALLED])


def _walls(session: Session) -> list[Finding]:
    owned = _classes.c.relowner == select(_roles.c.oid).where(_roles.c.rolname == func.current_user()).scalar_subquery()
    rows = session.execute(
        select(_classes.c.relname, owned, _classes.c.relrowsecurity, _classes.c.relforcerowsecurity)
        .where(_walled())
        .order_by(_classes.c.relname)
    )
    found = [finding for row in rows for finding in _wall(*row)]
    found += [*_policies(session), _rights(session), *_function_findings(session)]
    return [*found, *_trigger_findings(session)]


def _wall(name: str, owned: bool, enabled: bool, forced: bool) -> list[Finding]:  # noqa: FBT001 - the columns of a row
    found = []
    force, expected = ("FORCE", "enabled and forced") if name in FORCED else ("NO FORCE", "enabled and not forced")
    if not enabled or forced != (name in FORCED):
        fix = f"As its owner: ALTER TABLE {name} ENABLE ROW LEVEL SECURITY, {force} ROW LEVEL SECURITY;"
        found.append(Finding("failure", f"Row-level security of {name} is not {expected}", fix))
    if owned:
        fix = (
            f"{_ANOTHER_ROLE} Or, as a superuser that will own it: ALTER TABLE {name} OWNER TO CURRENT_USER; use that"
            " superuser in DATABASE_OWNER_URL, and run `taskql migrate`."
        )
        seen = f"The server's role owns {name}, and could disable its row-level security"
        found.append(Finding("failure", seen, fix))
    return found or [Finding("ok", f"Row-level security of {name} is {expected}")]


def _policies(session: Session) -> list[Finding]:
    """Whether each table has our policy and no other: policies are additive, so another one may allow more rows.

    Policies for roles that the server's role cannot become are ignored, unless they have the name of ours.
    """
    mine = {PUBLIC, *session.execute(select(_roles.c.oid).where(_is_member(_roles.c.oid))).scalars()}
    rows = [(*names, seen, bool(mine & set(roles))) for *names, roles, seen in _policy_list(session)]
    ours = [walled for walled, _, seen, applies in rows if seen and applies]
    foreign = [
        (walled, name)
        for walled, name, seen, applies in rows
        if not (seen and applies) and (applies or name == f"{walled}_of_user")
    ]
    drop = "As the tables' owner: DROP POLICY {} ON {};"
    create = "As the tables' owner: CREATE POLICY {0}_of_user ON {0} USING ({1}) WITH CHECK ({1});"
    return [
        *(
            Finding("failure", f"The policy {name} of {walled} is not TaskQL's", drop.format(name, walled))
            for walled, name in foreign
        ),
        *(
            Finding("failure", f"The policy of {walled} is missing", create.format(walled, _policy_of(walled)))
            for walled in WALLED
            if walled not in ours
        ),
    ]


def _policy_of(walled: str) -> str:
    return _ME if walled == USERS else _MINE


def _policy_list(session: Session) -> list[Any]:
    """Table, name, roles, and whether it is equal to ours, for each policy of our tables."""
    policy = _policy_rows.c
    conditions = [func.pg_get_expr(policy[name], policy.polrelid) for name in ("polqual", "polwithcheck")]
    says_ours = policy.polpermissive & (cast(policy.polcmd, Text) == "*")
    ours = case((_classes.c.relname == USERS, _ME_IN_CATALOG), else_=_MINE_IN_CATALOG)
    for condition in conditions:
        # If the session's search_path lacks our schema, expressions contain its name.
        says_ours &= func.coalesce(func.replace(condition, "public.", "") == ours, false())
    listed = select(_classes.c.relname, func.quote_ident(policy.polname), policy.polroles, says_ours)
    return list(session.execute(listed.where(policy.polrelid == _classes.c.oid, _walled())))


def _is_member(role: ColumnElement[Any]) -> ColumnElement[bool]:
    return func.pg_has_role(role, literal("MEMBER", Text))


def _rights(session: Session) -> Finding:
    """Whether the server's role has the privileges that it needs."""
    needs = [func.has_table_privilege(name, right) for name in FORCED for right in RIGHTS]
    needs += [func.has_table_privilege(name, "SELECT") for name in (USERS, State.__tablename__)]
    needs += [func.coalesce(_may_execute(func.to_regprocedure(name)), false()) for name in FOR_THE_SERVER]
    if all(session.execute(select(*needs)).one()):
        return Finding("ok", "The role has the privileges it needs")
    return Finding(
        "failure", "The role lacks privileges on tables or functions", "Run `taskql migrate`: it grants them."
    )


def _may_execute(function: ColumnElement[Any], *role: ColumnElement[Any]) -> ColumnElement[bool]:
    may: ColumnElement[bool] = func.has_function_privilege(*role, function, literal_column("'EXECUTE'"), type_=Boolean)
    return may


def _function_findings(session: Session) -> list[Finding]:
    """Whether the functions have the settings, owners and privileges that migrations give them."""
    found = [finding for name in FUNCTIONS for finding in _function(session, name)]
    return found or [Finding("ok", "The functions are protected from their callers")]


def _function(session: Session, name: str) -> Iterator[Finding]:
    """The problems of one of our functions. A missing one is reported with the privileges."""
    row = session.execute(_function_row(name)).first()
    if row is None:
        return
    settings = CONFIGURED.get(name, ())
    if row.prosecdef != (name in DEFINERS) or not {*settings} <= {*(row.proconfig or ())}:
        clauses = "".join(f" SET {setting.replace('=', ' = ')}" for setting in settings)
        fix = f"As its owner: ALTER FUNCTION {name} SECURITY {'DEFINER' if name in DEFINERS else 'INVOKER'}{clauses};"
        yield Finding("failure", f"The function {name} is not protected against its caller's settings", fix)
    if row.everybody and name not in FOR_EVERYBODY:
        fix = f"As its owner: REVOKE EXECUTE ON FUNCTION {name} FROM PUBLIC;"
        yield Finding("failure", f"Every role may execute the function {name}", fix)
    if name not in FOR_EVERYBODY:
        for role in session.execute(_others(name)).scalars():
            fix = f"As its owner: REVOKE EXECUTE ON FUNCTION {name} FROM {role};"
            yield Finding("failure", f"The role {role}, which is not a server's, may execute the function {name}", fix)
    if name in DEFINERS and not row.sees_users:
        fix = f"As a superuser: ALTER FUNCTION {name} OWNER TO {row.owner_of_users};"
        yield Finding("failure", f"The function {name} and the table {USERS} have different owners", fix)


def _function_row(name: str) -> Select[Any]:
    owner = select(_classes.c.relowner).where(_classes.c.oid == func.to_regclass(USERS)).scalar_subquery()
    owner_name = func.quote_ident(func.pg_get_userbyid(owner))
    sees_users = or_(_roles.c.rolsuper, _roles.c.rolbypassrls, _roles.c.oid == owner)
    return (
        select(_functions.c.prosecdef, _functions.c.proconfig, owner_name.label("owner_of_users"))
        .add_columns(sees_users.label("sees_users"))
        .add_columns(_may_execute(_functions.c.oid, literal_column("'public'")).label("everybody"))
        .join_from(_functions, _roles, _roles.c.oid == _functions.c.proowner)
        .where(_functions.c.oid == func.to_regprocedure(name))
    )


def _others(name: str) -> Select[Any]:
    """The roles that may execute a function but, unlike servers, may not write clocks."""
    granted = func.aclexplode(_functions.c.proacl).table_valued("grantee").lateral()
    writes_clocks: ColumnElement[bool] = func.has_table_privilege(
        _roles.c.oid, func.to_regclass("task_clocks"), "UPDATE", type_=Boolean
    )
    return (
        select(func.quote_ident(_roles.c.rolname))
        .select_from(_functions)
        .join(granted, true())
        .join(_roles, _roles.c.oid == granted.c.grantee)
        .where(_functions.c.oid == func.to_regprocedure(name), _roles.c.oid != _functions.c.proowner, ~writes_clocks)
        .order_by(_roles.c.rolname)
    )


def _trigger_findings(session: Session) -> list[Finding]:
    """Whether the triggers exist and are enabled."""
    states = {(table_name, name): state for table_name, name, state in session.execute(_trigger_list())}
    # On a cluster `users` is a reference table, which cannot have triggers.
    distributed = _is_distributed(session)
    found = []
    for name, (table_name, event, function) in FIRED.items():
        state = states.get((table_name, name))
        if state is None and not (distributed and table_name == USERS):
            fix = f"As the table's owner: CREATE TRIGGER {name} {event} EXECUTE FUNCTION {function};"
            found.append(Finding("failure", f"The trigger {name} of {table_name} is missing", f"{fix} {_CORRECT}"))
        elif state not in {None, *FIRES}:
            fix = f"As the table's owner: ALTER TABLE {table_name} ENABLE TRIGGER {name};"
            found.append(Finding("failure", f"The trigger {name} of {table_name} is disabled", f"{fix} {_CORRECT}"))
    return found or [Finding("ok", "The triggers exist and are enabled")]


def _trigger_list() -> Select[Any]:
    named = select(_classes.c.relname, _triggers.c.tgname, cast(_triggers.c.tgenabled, Text))
    return named.where(_triggers.c.tgrelid == _classes.c.oid, ~_triggers.c.tgisinternal, _walled())


def open_to_all(session: Session) -> Finding:
    """Whether every role may connect to the database, which is enough to listen and to hold subscribers' locks."""
    database, role = func.quote_ident(func.current_database()), func.quote_ident(func.current_user())
    everybody = func.has_database_privilege(literal_column("'public'"), func.current_database(), literal("CONNECT"))
    name, server, may_connect = session.execute(select(database, role, everybody)).one()
    if not may_connect:
        return Finding("ok", "Only roles with an explicit privilege may connect to the database")
    fix = (
        f"As the database's owner: GRANT CONNECT ON DATABASE {name} TO {server}; and to each other role that needs it;"
        f" then REVOKE CONNECT ON DATABASE {name} FROM PUBLIC;"
    )
    seen = "Every role may connect to the database, listen for user ids, and hold the locks of subscribers"
    return Finding("warning", seen, fix)
