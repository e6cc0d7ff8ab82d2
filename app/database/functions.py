"""TaskQL's functions in the database: who may execute each, and how each is protected against its caller.

A caller chooses the `search_path`, and with it the meaning of unqualified names and operators. So a function either has
a fixed `search_path`, or qualifies all names.
"""

SEARCH_PATH = "search_path=pg_catalog, pg_temp"
# If row-level security would hide rows from the function, PostgreSQL then raises an error.
NO_ROW_SECURITY = "row_security=off"

CHECK_TASK = "check_task(text, smallint, boolean, timestamp with time zone, date, text[])"

# These qualify all names, because they run with every request, and a SET clause would cost 4 to 6 µs.
QUALIFIED = (
    "act_as(uuid)",
    "begin_write(uuid)",
    "act_in_transaction(uuid)",
    # The second one is called by servers of the version before lists.
    "begin_distributed_write(uuid, integer, integer)",
    "begin_distributed_write(uuid, integer)",
    "begin_writes(uuid)",
    "begin_distributed_writes(uuid)",
    "search_key(text)",
    "title_key(text)",
    "tag_name(text)",
    "tag_key(text)",
    "tag_keys(text[])",
    "retagged(text[], text[], text[])",
    "derive_task()",
    CHECK_TASK,
    "is_distributed()",
    "tell(uuid, integer)",
)
# These run as their owner for any role that writes tasks, lists or users. Firing a trigger needs no EXECUTE privilege.
TRIGGERS = (
    "name_task_tags()",
    "keep_task_tags()",
    "stamp_task()",
    "forget_tasks()",
    "stamp_list()",
    "clear_list()",
    "forget_lists()",
    "begin_clock()",
)
# The server's operations across users. They run as their owner, to whom row-level security of `users` does not apply.
ACROSS_USERS = ("provision_user(uuid, text, text)", "user_with_email(text)", "users_after(uuid, integer)")

_NOT_KEPT = "current_setting('app.tags_kept', true) IS DISTINCT FROM 'yes'"
_NAMES_CHANGE = f"WHEN (NEW.tags <> '{{}}' AND (OLD.user_id, OLD.tags) <> (NEW.user_id, NEW.tags) AND {_NOT_KEPT})"
_TAGS_CHANGE = f"WHEN ((OLD.user_id, OLD.id, OLD.tags) <> (NEW.user_id, NEW.id, NEW.tags) AND {_NOT_KEPT})"
# A batch writes rows more than once with one version.
_ALONE = "current_setting('app.together', true) IS DISTINCT FROM 'yes'"
# The triggers by name. If one is missing or disabled, clocks, counters, tags or the tasks of lists become wrong.
FIRED = {
    "derive_inserted_task": ("tasks", "BEFORE INSERT ON tasks FOR EACH ROW", "derive_task()"),
    "derive_updated_task": (
        "tasks",
        "BEFORE UPDATE OF title, description, search, title_key ON tasks FOR EACH ROW",
        "derive_task()",
    ),
    "stamp_inserted_task": ("tasks", "BEFORE INSERT ON tasks FOR EACH ROW WHEN (NEW.version = 0)", "stamp_task()"),
    "stamp_updated_task": (
        "tasks",
        f"BEFORE UPDATE ON tasks FOR EACH ROW WHEN (NEW.version = OLD.version AND {_ALONE})",
        "stamp_task()",
    ),
    "forget_deleted_tasks": (
        "tasks",
        "AFTER DELETE ON tasks REFERENCING OLD TABLE AS gone FOR EACH STATEMENT",
        "forget_tasks()",
    ),
    "tag_inserted_task": (
        "tasks",
        "BEFORE INSERT ON tasks FOR EACH ROW WHEN (NEW.tags <> '{}')",
        "name_task_tags()",
    ),
    "tag_updated_task": (
        "tasks",
        f"BEFORE UPDATE OF user_id, tags ON tasks FOR EACH ROW {_NAMES_CHANGE}",
        "name_task_tags()",
    ),
    "keep_task_tags_on_insert": (
        "tasks",
        "AFTER INSERT ON tasks FOR EACH ROW WHEN (NEW.tags <> '{}')",
        "keep_task_tags()",
    ),
    "keep_task_tags_on_update": (
        "tasks",
        f"AFTER UPDATE OF user_id, id, tags ON tasks FOR EACH ROW {_TAGS_CHANGE}",
        "keep_task_tags()",
    ),
    "keep_task_tags_on_delete": (
        "tasks",
        "AFTER DELETE ON tasks FOR EACH ROW WHEN (OLD.tags <> '{}')",
        "keep_task_tags()",
    ),
    "stamp_inserted_list": (
        "task_lists",
        "BEFORE INSERT ON task_lists FOR EACH ROW WHEN (NEW.version = 0)",
        "stamp_list()",
    ),
    "stamp_updated_list": (
        "task_lists",
        f"BEFORE UPDATE ON task_lists FOR EACH ROW WHEN (NEW.version = OLD.version AND {_ALONE})",
        "stamp_list()",
    ),
    "clear_deleted_list": ("task_lists", "BEFORE DELETE ON task_lists FOR EACH ROW", "clear_list()"),
    "forget_deleted_lists": (
        "task_lists",
        "AFTER DELETE ON task_lists REFERENCING OLD TABLE AS gone FOR EACH STATEMENT",
        "forget_lists()",
    ),
    "begin_clock_of_user": ("users", "AFTER INSERT ON users FOR EACH ROW", "begin_clock()"),
}

DEFINERS = (*TRIGGERS, *ACROSS_USERS)
CONFIGURED = {
    "position_between(text, text)": (SEARCH_PATH,),
    "positions_between(text, text, integer)": (SEARCH_PATH,),
    "positions_around(text, text, integer, integer)": (SEARCH_PATH,),
    **dict.fromkeys(TRIGGERS, (SEARCH_PATH,)),
    # Their lookups must use an index, also in a cached plan from when the table was empty.
    **dict.fromkeys(
        ("stamp_task()", "name_task_tags()", "keep_task_tags()", "stamp_list()", "clear_list()"),
        (SEARCH_PATH, "enable_seqscan=off"),
    ),
    **dict.fromkeys(ACROSS_USERS, (SEARCH_PATH, NO_ROW_SECURITY)),
}
ALL = (*QUALIFIED, *CONFIGURED)
# The first is called only by triggers, which run as the owner. The other is a trigger with the rights of its caller.
OF_TRIGGERS = ("tell(uuid, integer)", "derive_task()")
FOR_THE_SERVER = tuple(name for name in ALL if name not in (*TRIGGERS, *OF_TRIGGERS))
# A trigger and a constraint of `tasks` call them as the role that writes. They read only their arguments.
FOR_EVERYBODY = ("search_key(text)", "title_key(text)", CHECK_TASK)
