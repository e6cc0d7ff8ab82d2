"""The functions of TaskQL in the database: who may execute each, and how each is protected against its caller.

A caller chooses the `search_path`, and with it what an unqualified name or operator means. So a function either has
a fixed one, or qualifies all that it names.
"""

SEARCH_PATH = "search_path=pg_catalog, pg_temp"
# Reading behind row security is then an error, instead of a result without the rows it hides.
NO_ROW_SECURITY = "row_security=off"

# Qualified throughout: they run with every request, where a SET clause takes PostgreSQL 4 to 6 µs.
QUALIFIED = (
    "act_as(uuid)",
    "begin_write(uuid)",
    "begin_distributed_write(uuid, integer)",
    "search_key(text)",
    "is_distributed()",
    "tell(uuid, integer)",
)
# Run as their owner for whoever writes tasks or deletes users. Nobody needs EXECUTE to fire a trigger.
TRIGGERS = ("keep_task_tags()", "stamp_task()", "forget_tasks()", "begin_clock()")
# What the server may do across users; they run as their owner, whom the row security of `users` does not hold.
ACROSS_USERS = ("provision_user(uuid, text, text)", "user_with_email(text)", "users_after(uuid, integer)")

_TAGS_CHANGE = "WHEN ((OLD.user_id, OLD.id, OLD.tags) <> (NEW.user_id, NEW.id, NEW.tags))"
# The triggers of `tasks` and `users` by name. One that is missing or does not fire leaves clocks and tags wrong.
FIRED = {
    "stamp_inserted_task": ("tasks", "BEFORE INSERT ON tasks FOR EACH ROW WHEN (NEW.version = 0)", "stamp_task()"),
    "stamp_updated_task": (
        "tasks",
        "BEFORE UPDATE ON tasks FOR EACH ROW WHEN (NEW.version = OLD.version)",
        "stamp_task()",
    ),
    "forget_deleted_tasks": (
        "tasks",
        "AFTER DELETE ON tasks REFERENCING OLD TABLE AS gone FOR EACH STATEMENT",
        "forget_tasks()",
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
    "begin_clock_of_user": ("users", "AFTER INSERT ON users FOR EACH ROW", "begin_clock()"),
}

DEFINERS = (*TRIGGERS, *ACROSS_USERS)
CONFIGURED = {
    "position_between(text, text)": (SEARCH_PATH,),
    **dict.fromkeys(TRIGGERS, (SEARCH_PATH,)),
    # Its look for an id must go by the primary key, also in a plan that was made while the table was empty.
    "stamp_task()": (SEARCH_PATH, "enable_seqscan=off"),
    **dict.fromkeys(ACROSS_USERS, (SEARCH_PATH, NO_ROW_SECURITY)),
}
ALL = (*QUALIFIED, *CONFIGURED)
# Called by triggers alone, which run as the owner.
OF_TRIGGERS = ("tell(uuid, integer)",)
FOR_THE_SERVER = tuple(name for name in ALL if name not in (*TRIGGERS, *OF_TRIGGERS))
# A generated column of `tasks` calls it as the role that writes, whichever that is. It reads nothing but its argument.
FOR_EVERYBODY = ("search_key(text)",)
