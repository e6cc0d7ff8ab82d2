"""The database tables, for Alembic and for building statements. Every key of task data begins with the user's id."""

from datetime import date, datetime
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Computed,
    Date,
    DateTime,
    FetchedValue,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Text,
    Uuid,
    case,
    func,
    literal_column,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from app.characters import CONTROL, UNSEEN

TITLE_LENGTH = 200
DESCRIPTION_LENGTH = 4000
TAG_LENGTH = 50
MOST_TAGS = 20
# As the function name_task_tags() has it.
MOST_TAGS_OF_USER = 1000
LIST_NAME_LENGTH = 100
ICON_LENGTH = 32
PRIORITIES = ("NONE", "LOW", "MEDIUM", "HIGH", "URGENT")


class Base(DeclarativeBase):
    """Names every constraint, so that an error can be recognized by the constraint that it violated."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class User(Base):
    """An account. The columns match those that Better Auth writes when it signs users up in the same database."""

    __tablename__ = "users"

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True, server_default=func.gen_random_uuid())
    email: Mapped[str] = mapped_column(Text, unique=True)
    email_verified: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))
    name: Mapped[str | None] = mapped_column(Text)
    image: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now(), index=True)
    updated_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


class Owned:
    """Rows of one user. All ORM statements of a session are filtered by the user that it acts as."""

    # The first column of the table, and of its primary key.
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, sort_order=-1)


class TaskClock(Owned, Base):
    """One row per user. `version` increases with each write of the user's tasks and lists.

    `tasks.version` and `task_lists.version` are the clock's version at the row's last write. `tasks` and `lists` count
    the user's rows, including those in the trash.
    """

    __tablename__ = "task_clocks"

    version: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    purged_through: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    tasks: Mapped[int] = mapped_column(Integer, server_default=text("0"))
    lists: Mapped[int] = mapped_column(Integer, server_default=text("0"))


class TaskList(Owned, Base):
    """A list of tasks of one user; deleting sets `deleted_at`, and moves its tasks to the trash with it."""

    __tablename__ = "task_lists"

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    name: Mapped[str] = mapped_column(String(LIST_NAME_LENGTH))
    icon: Mapped[str | None] = mapped_column(String(ICON_LENGTH))
    # The key by which a search of tasks finds the names of their lists.
    search: Mapped[str | None] = mapped_column(Text, Computed("search_key(name)", persisted=True))
    # Triggers maintain these as those of tasks.
    position: Mapped[str] = mapped_column(Text(collation="C"), server_default=text("''"))
    version: Mapped[int] = mapped_column(Integer, server_default=text("0"), server_onupdate=FetchedValue())
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now(), server_onupdate=FetchedValue()
    )
    deleted_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    # A hash of the content that the row was created with, by which a repeated create is recognized.
    create_hash: Mapped[int | None] = mapped_column(BigInteger)

    __mapper_args__ = {"eager_defaults": True}  # noqa: RUF012 - as SQLAlchemy has it
    __table_args__ = (
        CheckConstraint(f"name ~ '[^{UNSEEN}]'", "name_not_blank"),
        CheckConstraint(f"name !~ '[{CONTROL}]'", "name_one_line"),
        CheckConstraint(f"icon ~ '[^{UNSEEN}]'", "icon_not_blank"),
        CheckConstraint(f"icon !~ '[{CONTROL}]'", "icon_one_line"),
    )


class Task(Owned, Base):
    """A task of one user; deleting sets `deleted_at`."""

    __tablename__ = "tasks"

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    title: Mapped[str] = mapped_column(String(TITLE_LENGTH))
    description: Mapped[str | None] = mapped_column(String(DESCRIPTION_LENGTH))
    completed: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))
    completed_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    priority: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))
    due_date: Mapped[date | None] = mapped_column(Date)
    tags: Mapped[list[str]] = mapped_column(ARRAY(String(TAG_LENGTH)), server_default=text("'{}'"))
    # The key by which titles are sorted. A trigger computes it, so that no server must write it.
    title_key: Mapped[str | None] = mapped_column(Text(collation="C"), FetchedValue(), server_onupdate=FetchedValue())
    # Triggers set the position and the version if a write does not, and update `updated_at`.
    position: Mapped[str] = mapped_column(Text(collation="C"), server_default=text("''"))
    version: Mapped[int] = mapped_column(Integer, server_default=text("0"), server_onupdate=FetchedValue())
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.now(), server_onupdate=FetchedValue()
    )
    deleted_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    # Null in the inbox. No live task is in a list in the trash.
    list_id: Mapped[UUID | None] = mapped_column(Uuid)
    # Whether the task is in the trash because its list is: restoring the list restores the task.
    trashed_with_list: Mapped[bool] = mapped_column(Boolean, server_default=text("false"))
    # A hash of the content that the row was created with, by which a repeated create is recognized.
    create_hash: Mapped[int | None] = mapped_column(BigInteger)
    # The search keys of title and description, set by triggers. A line break separates the two; no word contains
    # one, so that each is found within one of them.
    search: Mapped[str | None] = mapped_column(Text, FetchedValue(), server_onupdate=FetchedValue())

    # Updates, too, read back what triggers have set.
    __mapper_args__ = {"eager_defaults": True}  # noqa: RUF012 - as SQLAlchemy has it
    # A single check, because PostgreSQL prepares each anew in each write. The function's errors name the rule. The
    # trigger that sets `search` checks texts, when they are written.
    __table_args__ = (
        CheckConstraint("check_task(title, priority, completed, completed_at, due_date, tags)", "valid"),
        # A trigger on lists clears `list_id`: Citus has no ON DELETE SET NULL for keys with the user.
        ForeignKeyConstraint(["user_id", "list_id"], ["task_lists.user_id", "task_lists.id"]),
    )


class TaskTag(Owned, Base):
    """Index of tasks by the key of a tag: one row for each tag of a task. Maintained by triggers on `tasks`."""

    __tablename__ = "task_tags"

    tag: Mapped[str] = mapped_column(Text(collation="C"), primary_key=True)
    task_id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)


class UserTag(Owned, Base):
    """The tags of a user, also those that no task has. `tasks.tags` contains their names.

    Triggers on `tasks` add a tag when a task first has it; the name that it had then is kept until it is renamed.
    """

    __tablename__ = "user_tags"

    key: Mapped[str] = mapped_column(Text(collation="C"), primary_key=True)
    name: Mapped[str] = mapped_column(String(TAG_LENGTH))
    # The key by which a search of tasks finds their tags.
    search: Mapped[str | None] = mapped_column(Text, Computed("search_key(name)", persisted=True))


class Tombstone(Owned, Base):
    """What remains of a task or list that was deleted permanently, so that clients learn of it: triggers leave it.

    `version` is the clock's version at the deletion. `trashed_version` is that of the row in the trash, or `version` if
    the row was not there.
    """

    __tablename__ = "tombstones"

    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    # The place of the row's entity in the feed: 0 for a list, 1 for a task.
    kind: Mapped[int] = mapped_column(SmallInteger)
    version: Mapped[int] = mapped_column(Integer)
    trashed_version: Mapped[int] = mapped_column(Integer)
    purged_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), server_default=func.now())


class State(Base):
    """The single row about the database itself: its fingerprint when last seen, and the first clock of new users."""

    __tablename__ = "taskql_state"

    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False, server_default=text("1"))
    system_identifier: Mapped[str | None] = mapped_column(Text)
    timeline: Mapped[int | None] = mapped_column(Integer)
    database_oid: Mapped[int | None] = mapped_column(BigInteger)
    first_version: Mapped[int] = mapped_column(Integer, server_default=text("0"))

    __table_args__ = (CheckConstraint("id = 1", "one_row"),)


# Statements use the tables directly: mapped attributes take the compiler half as much time again.
USERS, CLOCKS, TASKS, TAGS = (Base.metadata.tables[name] for name in ("users", "task_clocks", "tasks", "task_tags"))
USER_TAGS, LISTS, TOMBSTONES = (Base.metadata.tables[name] for name in ("user_tags", "task_lists", "tombstones"))
STATE = Base.metadata.tables["taskql_state"]

# A missing due date sorts after every date. This is a CASE instead of coalesce() because row-level security lets the
# planner use only leakproof expressions as index conditions, and PostgreSQL considers CASE leakproof.
due_sort = case((TASKS.c.due_date.is_(None), literal_column("'infinity'::date")), else_=TASKS.c.due_date)

# The same expression as PostgreSQL's catalog prints it, so that Alembic can compare.
_DUE_SORT_IN_CATALOG = "(\nCASE\n    WHEN due_date IS NULL THEN 'infinity'::date\n    ELSE due_date\nEND)"

# Each index serves the pages of one order, in both directions.
Index("ix_tasks_created", TASKS.c.user_id, TASKS.c.created_at, TASKS.c.id)
# Also covers counting the tasks of tags.
Index(
    "ix_tasks_completed_created",
    TASKS.c.user_id,
    TASKS.c.completed,
    TASKS.c.created_at,
    TASKS.c.id,
    postgresql_include=["deleted_at"],
)
Index("ix_tasks_updated", TASKS.c.user_id, TASKS.c.updated_at, TASKS.c.id)
Index("ix_tasks_due", TASKS.c.user_id, text(_DUE_SORT_IN_CATALOG), TASKS.c.id)
Index("ix_tasks_position", TASKS.c.user_id, TASKS.c.position, TASKS.c.id)
Index("ix_tasks_version", TASKS.c.user_id, TASKS.c.version, TASKS.c.id)
# Covers counting all tasks and those of a list: PostgreSQL can use an index-only scan for vacuumed pages. It also finds
# the tasks of a list.
Index(
    "ix_tasks_counts",
    TASKS.c.user_id,
    TASKS.c.list_id,
    TASKS.c.completed,
    TASKS.c.due_date,
    postgresql_where=TASKS.c.deleted_at.is_(None),
)
Index("ix_task_lists_position", LISTS.c.user_id, LISTS.c.position, LISTS.c.id)
Index("ix_task_lists_version", LISTS.c.user_id, LISTS.c.version, LISTS.c.id)
# In the order of the feed.
Index("ix_tombstones_version", TOMBSTONES.c.user_id, TOMBSTONES.c.version, TOMBSTONES.c.kind, TOMBSTONES.c.id)
# For a few of the tasks, so that creating a task does not maintain these.
Index(
    "ix_tasks_completed_at",
    TASKS.c.user_id,
    TASKS.c.completed_at,
    TASKS.c.id,
    postgresql_where=TASKS.c.completed_at.is_not(None),
)
Index(
    "ix_tasks_trash",
    TASKS.c.user_id,
    TASKS.c.deleted_at,
    TASKS.c.id,
    postgresql_where=TASKS.c.deleted_at.is_not(None),
)
