"""Random sequences of all mutations by two users, compared with a simple model."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import hypothesis
import hypothesis.strategies as st
from conftest import ALL_FIELDS, NEVER_CHECKED, User
from declared import empty, given, inputs, strategy
from folding import is_found
from oracle import selects_all

FIELDS = f"{ALL_FIELDS} list {{ id }}"
ONE = f"{{ task {{ {FIELDS} }} userErrors {{ code field }} token }}"
LIST = "{ list { id name version updatedAt deletedAt } userErrors { code field } token }"
MANY = f"{{ tasks {{ {FIELDS} }} affectedCount userErrors {{ code field }} token }}"
BULK = "$where: TaskSelector!, $atMost: Int, $dryRun: Boolean"
BULK_GIVEN = "where: $where, atMost: $atMost, dryRun: $dryRun"
EXPECTED = "expectedVersion: $expectedVersion"
MUTATIONS = {
    "create_task": f"($input: CreateTaskInput!) {{ done: createTask(input: $input) {ONE} }}",
    "create_tasks": f"($inputs: [CreateTaskInput!]!) {{ done: createTasks(inputs: $inputs) {MANY} }}",
    "update_task": f"""($id: ID!, $input: UpdateTaskInput!, $expectedVersion: Int) {{
        done: updateTask(id: $id, input: $input, {EXPECTED}) {ONE}
    }}""",
    "set_task_completed": f"""($id: ID!, $completed: Boolean!, $expectedVersion: Int) {{
        done: setTaskCompleted(id: $id, completed: $completed, {EXPECTED}) {ONE}
    }}""",
    "delete_task": f"($id: ID!, $expectedVersion: Int) {{ done: deleteTask(id: $id, {EXPECTED}) {ONE} }}",
    "restore_task": f"($id: ID!) {{ done: restoreTask(id: $id) {ONE} }}",
    "move_task": f"($id: ID!, $to: MoveTarget!) {{ done: moveTask(id: $id, to: $to) {ONE} }}",
    "update_tasks": f"({BULK}, $input: UpdateTaskInput!) {{ done: updateTasks({BULK_GIVEN}, input: $input) {MANY} }}",
    "delete_tasks": f"({BULK}) {{ done: deleteTasks({BULK_GIVEN}) {MANY} }}",
    "create_list": f"($input: CreateListInput!) {{ done: createList(input: $input) {LIST} }}",
    "update_list": f"($id: ID!, $input: UpdateListInput!) {{ done: updateList(id: $id, input: $input) {LIST} }}",
    "delete_list": f"($id: ID!) {{ done: deleteList(id: $id) {LIST} }}",
    "restore_list": f"($id: ID!) {{ done: restoreList(id: $id) {LIST} }}",
    "restore_tasks": f"({BULK}) {{ done: restoreTasks({BULK_GIVEN}) {MANY} }}",
    "purge_tasks": f"({BULK}) {{ done: purgeTasks({BULK_GIVEN}) {MANY} }}",
    "empty_trash": """($atMost: Int, $dryRun: Boolean) {
        done: emptyTrash(atMost: $atMost, dryRun: $dryRun) { affectedCount userErrors { code field } token }
    }""",
}
PAGE = f"""
    query ($trashed: Boolean!) {{
        tasks(first: 100, orderBy: [{{ field: POSITION }}], filter: {{ trashed: $trashed }}) {{
            nodes {{ {FIELDS} }} totalCount
        }}
    }}
"""

POOL = [f"00000000-0000-4000-8000-00000000000{n}" for n in range(4)]
STRANGER = "ffffffff-ffff-4fff-bfff-ffffffffffff"

Task = dict[str, Any]
Problem = tuple[str, list[str] | None]


class Later(NamedTuple):
    """The time of the write, taken from the response, and some microseconds."""

    microseconds: int


NOW = Later(0)
UNKNOWN = object()  # a generated id or position, taken from the response
EMPTY: Task = {name: value for name, value in empty("CreateTaskInput").items() if name != "listId"} | {"list": None}
OPEN: Task = {"completed": False, "completedAt": None, "deletedAt": None}


@dataclass
class Outcome:
    """The response to a mutation according to the model."""

    shown: list[Task] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    affected: int = 0
    refused: str | None = None
    token: bool = True


class Model:
    """One user's tasks in manual order, trash included, and lists, and a clock."""

    def __init__(self, account: str) -> None:
        self.account = account
        self.order: list[Task] = []
        self.lists: list[Task] = []
        # The ids of the tasks that are in the trash because their lists are.
        self.with_lists: set[str] = set()
        # The ids of what was deleted permanently.
        self.gone: set[str] = set()
        # The tasks that the current write of a list changes, too.
        self.along: list[Task] = []
        self.clock = 0
        # What tasks and lists with an id of the client's choice were created with.
        self.made: dict[str, Any] = {}
        # The names of tags, by their keys.
        self.names: dict[str, str] = {}
        self.tokens = {}  # type: dict[int, str]
        self.latest = datetime.fromisoformat("2000-01-01T00:00:00+00:00")

    def find(self, task_id: str) -> Task | None:
        return next((task for task in self.order if task["id"] == task_id.lower()), None)

    def live(self, task_id: str) -> Task | None:
        task = self.find(task_id)
        return task if task and task["deletedAt"] is None else None

    def written(self, task: Task, **values: Any) -> None:
        """Write the values if any of them differs."""
        if "tags" in values:
            same = list(map(str.lower, values["tags"])) == list(map(str.lower, task["tags"]))
            values["tags"] = task["tags"] if same else self.named(values["tags"])
        if any(task.get(name) != value for name, value in values.items() if name != "completedAt"):
            task.update(values, version=self.clock + 1, updatedAt=NOW)

    def named(self, tags: list[str]) -> list[str]:
        """Tags as they were first written."""
        return [self.names.setdefault(tag.lower(), tag) for tag in tags]

    # The mutations

    def create_task(self, *, input: Task) -> Outcome:  # noqa: A002, PLR0911 - the argument of the field; refusals
        if input.get("id") == self.account:
            return Outcome(problems=[("INVALID", ["input", "id"])], token=False)
        if wrong := problems(given(input), "input"):
            return Outcome(problems=wrong, token=False)
        there = self.find(input["id"]) if input.get("id") else None
        if there is None:
            if input.get("id", "").lower() in self.gone:
                return Outcome(problems=[("GONE", ["input", "id"])])
            if refused := self.refused(input, "input"):
                return Outcome(problems=[refused])
            if input.get("id") and self.one_list(input["id"]):
                return Outcome(problems=[("ID_TAKEN", ["input", "id"])])
            return Outcome([self.created(input, NOW)])
        return Outcome([there], [] if self.is_repeated(there, input) else [("ID_TAKEN", ["input", "id"])])

    def create_tasks(self, *, inputs: list[Task]) -> Outcome:
        if not 1 <= len(inputs) <= 100:
            return Outcome(problems=[("LIMIT_EXCEEDED", ["inputs"])], token=False)
        ids = [new["id"].lower() if new.get("id") else None for new in inputs]
        wrong = [wrong for place, new in enumerate(inputs) for wrong in problems(given(new), "inputs", str(place))]
        wrong += [taken(place) for place, wanted in enumerate(ids) if wanted and wanted in ids[:place]]
        own = [place for place, wanted in enumerate(ids) if wanted == self.account]
        wrong += [("INVALID", ["inputs", str(place), "id"]) for place in own]
        if wrong:
            return Outcome(problems=wrong, token=False)
        there = [self.find(wanted) if wanted else None for wanted in ids]
        pairs = list(zip(there, inputs, strict=True))
        wrong = [
            taken(place)
            for place, (old, new) in enumerate(pairs)
            if (old and not self.is_repeated(old, new)) or (not old and new.get("id") and self.one_list(new["id"]))
        ]
        gone = [place for place, wanted in enumerate(ids) if wanted in self.gone]
        wrong += [("GONE", ["inputs", str(place), "id"]) for place in gone]
        refused = [self.refused(new, "inputs", str(place)) for place, (old, new) in enumerate(pairs) if not old]
        wrong += sorted((one for one in refused if one), key=lambda one: one[0], reverse=True)
        if wrong:
            return Outcome(problems=wrong)
        shown = [old or self.created(new, Later(place)) for place, (old, new) in enumerate(pairs)]
        return Outcome(shown, affected=len(shown))

    def update_task(self, *, id: str, input: Task, expectedVersion: int | None = None) -> Outcome:  # noqa: A002, N803
        if contradicts(input):
            return Outcome(refused="BAD_USER_INPUT")
        if wrong := problems(input, "input"):
            return Outcome(problems=wrong, token=False)
        task = self.find(id)
        if task and task["deletedAt"]:
            return Outcome([task], [("IN_TRASH", ["id"])])
        if task and expectedVersion in {None, task["version"]}:
            if refused := self.refused(input, "input"):
                return Outcome([task], [refused])
            self.update(task, input)
        return told(task, expectedVersion)

    def set_task_completed(self, *, completed: bool, **found: Any) -> Outcome:
        return self.update_task(input={"completed": completed}, **found)

    def delete_task(self, *, id: str, expectedVersion: int | None = None) -> Outcome:  # noqa: A002, N803
        task = self.find(id)
        if task and expectedVersion in {None, task["version"]}:
            self.delete(task, {})
        return told(task, expectedVersion)

    def restore_task(self, *, id: str) -> Outcome:  # noqa: A002 - the argument of the field
        task = self.find(id)
        if task:
            self.restore(task, {})
        return told(task, None)

    def move_task(self, *, id: str, to: Mapping[str, Any]) -> Outcome:  # noqa: A002 - the argument of the field
        ((place, target),) = to.items()
        task = self.find(id)
        if target is False:
            return Outcome(refused="BAD_USER_INPUT")
        if task is None:
            return told(None, None)
        if task["deletedAt"]:
            return Outcome([task], [("IN_TRASH", ["id"])])
        anchor = None if target is True else self.live(target)
        if target is not True and anchor is None:
            return Outcome([task], [("IN_TRASH" if self.find(target) else "NOT_FOUND", ["to"])])
        if anchor is not task:
            self.place(task, place, anchor)
        return Outcome([task])

    def update_tasks(self, *, input: Task, **which: Any) -> Outcome:  # noqa: A002 - the argument of the field
        return self.many(self.update, input, **which)

    def delete_tasks(self, **which: Any) -> Outcome:
        return self.many(self.delete, {}, **which)

    def restore_tasks(self, **which: Any) -> Outcome:
        return self.many(self.restore, {}, **which)

    def purge_tasks(self, **which: Any) -> Outcome:
        before = len(self.order)
        outcome = self.many(self.purge, {}, **which)
        # One for the write, and one for the trigger.
        self.clock += 2 if len(self.order) < before else 0
        return outcome

    def empty_trash(self, *, atMost: int | None = None, dryRun: bool | None = None) -> Outcome:  # noqa: N803 - as above
        most = 100 if atMost is None else atMost
        if not 1 <= most <= 1000:
            return Outcome(refused="BAD_USER_INPUT")
        kinds = [[row for row in rows if row["deletedAt"]] for rows in (self.order, self.lists)]
        number = sum(map(len, kinds))
        if number > most:
            return Outcome(problems=[("LIMIT_EXCEEDED", ["atMost"])])
        if number and not dryRun:
            self.clock += 1 + sum(map(bool, kinds))
            for row in (*kinds[0], *kinds[1]):
                self.purge(row, {})
        return Outcome(affected=number)

    # Lists

    def create_list(self, *, input: Task) -> Outcome:  # noqa: A002 - the argument of the field
        if input.get("id") == self.account:
            return Outcome(problems=[("INVALID", ["input", "id"])], token=False)
        there = self.one_list(input["id"]) if input.get("id") else None
        if there:
            same = self.made.get(there["id"], there["name"]) == input["name"]
            return Outcome([there], [] if same else [("ID_TAKEN", ["input", "id"])])
        if input.get("id") and self.find(input["id"]):
            return Outcome(problems=[("ID_TAKEN", ["input", "id"])])
        if input.get("id", "").lower() in self.gone:
            return Outcome(problems=[("GONE", ["input", "id"])])
        if input.get("id"):
            self.made[input["id"]] = input["name"]
        made: Task = {"id": input.get("id", UNKNOWN), "name": input["name"], "deletedAt": None}
        made |= {"version": self.clock + 1, "updatedAt": NOW}
        self.lists.append(made)
        return Outcome([made])

    def update_list(self, *, id: str, input: Task) -> Outcome:  # noqa: A002 - as above
        one = self.one_list(id)
        if one is None:
            return told(None, None)
        if one["deletedAt"]:
            return Outcome([one], [("IN_TRASH", ["id"])])
        self.written(one, **input)
        return Outcome([one])

    def delete_list(self, *, id: str) -> Outcome:  # noqa: A002 - as above
        one = self.one_list(id)
        if one and not one["deletedAt"]:
            self.along = [task for task in self.order if task["list"] == {"id": one["id"]} and not task["deletedAt"]]
            self.with_lists |= {task["id"] for task in self.along}
            self.written(one, deletedAt=NOW)
        return told(one, None)

    def restore_list(self, *, id: str) -> Outcome:  # noqa: A002 - as above
        one = self.one_list(id)
        if one and one["deletedAt"]:
            gone = [task for task in self.order if task["id"] in self.with_lists]
            self.along = [task for task in gone if task["list"] == {"id": one["id"]}]
            self.with_lists -= {task["id"] for task in self.along}
            self.written(one, deletedAt=None)
        return told(one, None)

    def one_list(self, list_id: str) -> Task | None:
        return next((one for one in self.lists if one["id"] == list_id.lower()), None)

    def refused(self, content: Task, *path: str) -> Problem | None:
        """Why a task cannot be in the list that its input names."""
        if content.get("listId") is None:
            return None
        one = self.one_list(content["listId"])
        if one is None:
            return "NOT_FOUND", [*path, "listId"]
        return ("IN_TRASH", [*path, "listId"]) if one["deletedAt"] else None

    # Helpers of the mutations

    def is_repeated(self, task: Task, content: Task) -> bool:
        """Whether a create has the content of an earlier one. With an id of the server's choice, tasks are compared."""
        made = self.made.get(task["id"])
        return is_like(task, content) if made is None else made == canonical(content)

    def created(self, content: Task, at: Later) -> Task:
        done = bool(content.get("completed") or content.get("completedAt"))
        decided = {**OPEN, "createdAt": at, "completedAt": at if done else None}
        task: Task = {
            "id": UNKNOWN,
            **EMPTY,
            **decided,
            **cleaned(given(content)),
            "completed": done,
            "position": UNKNOWN,
        }
        task["tags"] = self.named(task["tags"])
        task["id"] = content["id"].lower() if content.get("id") else UNKNOWN
        if content.get("id"):
            self.made[task["id"]] = canonical(content)
        task |= {"version": self.clock + 1, "updatedAt": at}
        self.order.append(task)
        return task

    def update(self, task: Task, changes: Task) -> None:
        values = cleaned(changes)
        added, removed = values.pop("addTags", None) or [], values.pop("removeTags", None) or []
        if added or removed:
            gone = {tag.lower() for tag in removed} - {tag.lower() for tag in added}
            values["tags"] = without_doubles([tag for tag in task["tags"] if tag.lower() not in gone] + added)
        if "completed" in values:
            values["completedAt"] = (task["completedAt"] or NOW) if values["completed"] else None
        self.written(task, **values)

    def delete(self, task: Task, _changes: Task) -> None:
        self.written(task, deletedAt=task["deletedAt"] or NOW)
        if task["id"] in self.with_lists:
            self.with_lists.remove(task["id"])
            task.update(version=self.clock + 1, updatedAt=NOW)

    def restore(self, task: Task, _changes: Task) -> None:
        one = task["deletedAt"] and task["list"] and self.one_list(task["list"]["id"])
        self.written(task, deletedAt=None, list=None if one and one["deletedAt"] else task["list"])
        self.with_lists.discard(task["id"])

    def purge(self, row: Task, _changes: Task) -> None:
        for rows in (self.order, self.lists):
            rows[:] = [other for other in rows if other is not row]
        self.with_lists.discard(row["id"])
        self.gone.add(row["id"])

    def place(self, task: Task, place: str, anchor: Task | None) -> None:
        rest = [other for other in self.order if other is not task]
        beside = next((at for at, other in enumerate(rest) if other is anchor), 0)
        at = {"toStart": 0, "toEnd": len(rest), "before": beside, "after": beside + 1}[place]
        rest.insert(at, task)
        if any(old is not new for old, new in zip(self.order, rest, strict=True)):
            self.order = rest
            self.written(task, position=UNKNOWN)

    def many(
        self,
        change: Callable[[Task, Task], None],
        changes: Task,
        *,
        where: Mapping[str, Any],
        atMost: int | None = None,  # noqa: N803 - the argument of the field
        dryRun: bool | None = None,  # noqa: N803 - the same
    ) -> Outcome:
        most = 100 if atMost is None else atMost
        if contradicts(changes) or not 1 <= most <= 1000:
            return Outcome(refused="BAD_USER_INPUT")
        if wrong := problems(changes, "input"):
            return Outcome(problems=wrong, token=False)
        wanted, is_of_trash = where.get("filter"), change in {self.restore, self.purge}
        if wanted is not None and (selects_all(wanted) or (wanted.get("trashed") and not is_of_trash)):
            return Outcome(refused="BAD_USER_INPUT")
        found = sorted(self.selected(change, where), key=lambda task: str(task["id"]))
        if len(found) > most:
            return Outcome(problems=[("LIMIT_EXCEEDED", ["atMost"])])
        if refused := self.refused(changes, "input"):
            return Outcome(problems=[refused])
        ids = [task["id"] for task in found]
        skipped = [(place, given) for place, given in enumerate(where.get("ids", [])) if given.lower() not in ids]
        updates = change == self.update
        codes = [(place, "IN_TRASH" if updates and self.find(given) else "NOT_FOUND") for place, given in skipped]
        for task in found if not dryRun else []:
            change(task, changes)
        return Outcome(found, [(code, ["where", "ids", str(place)]) for place, code in codes], len(found))

    def selected(self, change: Callable[[Task, Task], None], where: Mapping[str, Any]) -> list[Task]:
        """By id: all, but to update live ones, to purge trashed ones. By filter: to restore or purge trashed ones."""
        if "ids" in where:
            ids = [given.lower() for given in where["ids"]]
            states = {self.update: (False,), self.purge: (True,)}.get(change, (False, True))
            return [task for task in self.order if task["id"] in ids and bool(task["deletedAt"]) in states]
        trashed = change in {self.restore, self.purge}
        wanted = where.get("filter", {})
        return [
            task
            for task in self.order
            if bool(task["deletedAt"]) is trashed and is_matched(task, wanted, self.one_list)
        ]

    # The comparison

    def settle(self, outcome: Outcome, done: Mapping[str, Any]) -> None:
        """Compare a response with the outcome, and take over generated values."""
        single = [one for one in [done.get("task") or done.get("list")] if one]
        shown = done.get("tasks", single)
        stamps = {
            datetime.fromisoformat(answer[name]) - timedelta(microseconds=value.microseconds)
            for task, answer in told_apart(outcome.shown, shown)
            for name, value in task.items()
            if isinstance(value, Later)
        }
        for task, answer in told_apart(outcome.shown, shown):
            unknown = [name for name, value in task.items() if isinstance(value, Later) or value is UNKNOWN]
            task.update({name: answer[name] for name in unknown})
        assert shown == outcome.shown
        for task in self.along:
            (one,) = shown
            task.update({name: one[name] for name in ("version", "updatedAt", "deletedAt")})
        self.along = []
        assert [(error["code"], error["field"]) for error in done["userErrors"]] == outcome.problems
        assert done.get("affectedCount", outcome.affected) == outcome.affected
        self.tick(stamps)
        assert (done["token"] is not None) is outcome.token
        if outcome.token:
            assert self.tokens.setdefault(self.clock, done["token"]) == done["token"]
            assert len(set(self.tokens.values())) == len(self.tokens)
        self.check_order()

    def tick(self, stamps: set[datetime]) -> None:
        """All changes of a write have the same time, later than all before."""
        if stamps:
            (stamp,) = stamps
            assert stamp > self.latest
            self.latest = stamp
            self.clock += 1

    def check_order(self) -> None:
        positions = [task["position"].encode() for task in self.order]
        assert positions == sorted(set(positions))
        assert len({UUID(task["id"]) for task in self.order}) == len(self.order)
        assert all((task["completedAt"] is not None) is task["completed"] for task in self.order)


def told_apart(expected: list[Task], shown: list[Task]) -> list[tuple[Task, Task]]:
    assert len(shown) == len(expected), (shown, expected)
    return list(zip(expected, shown, strict=True))


def told(task: Task | None, expected: int | None) -> Outcome:
    """The response about one task. If it was written, its version is the model's next one."""
    if task is None:
        return Outcome(problems=[("NOT_FOUND", ["id"])])
    stale = expected is not None and task["updatedAt"] is not NOW and expected != task["version"]
    return Outcome([task], [("VERSION_CONFLICT", ["expectedVersion"])] if stale else [])


def taken(place: int) -> Problem:
    return "ID_TAKEN", ["inputs", str(place), "id"]


def cleaned(content: Task) -> Task:
    """Content as stored: without the id, null as the empty value, tags trimmed and deduplicated."""
    result = {name: value for name, value in content.items() if name not in {"id", "listId"}}
    if "listId" in content:
        result["list"] = content["listId"] and {"id": content["listId"].lower()}
    if "priority" in result:
        result["priority"] = result["priority"] or "NONE"
    if "tags" in result:
        result["tags"] = without_doubles(result["tags"] or [])
    return result


def without_doubles(tags: list[str]) -> list[str]:
    """Each tag once, as it is written first."""
    names: dict[str, str] = {}
    for tag in tags:
        names.setdefault(tag.strip().lower(), tag.strip())
    return list(names.values())


def contradicts(changes: Task) -> bool:
    """Whether an update has both new tags and changes of tags."""
    return "tags" in changes and any(changes.get(name) is not None for name in ("addTags", "removeTags"))


def canonical(content: Task) -> Task:
    """The content of a new task without what it has by default."""
    keyed = cleaned(given(content))
    keyed["tags"] = [tag.lower() for tag in keyed.get("tags", [])]
    return {name: value for name, value in keyed.items() if value not in (None, False, "NONE", [])}


def is_like(task: Task, content: Task) -> bool:
    """Whether this input would create such a task; omitted fields count as empty."""
    wanted = EMPTY | cleaned(given(content))
    same = [tag.lower() for tag in wanted.pop("tags")] == [tag.lower() for tag in task["tags"]]
    return same and all(task[name] == value for name, value in wanted.items())


def problems(content: Task, *path: str) -> list[Problem]:
    found: list[Problem] = []
    if "title" in content and not (content["title"] or "").strip():
        found.append(("BLANK", [*path, "title"]))
    elif len(content.get("title", "")) > 200:
        found.append(("TOO_LONG", [*path, "title"]))
    if "completed" in content and content["completed"] is None:
        found.append(("INVALID", [*path, "completed"]))
    lists = {name: enumerate(content.get(name) or []) for name in ("tags", "addTags", "removeTags")}
    found += [
        ("BLANK", [*path, name, str(place)]) for name, tags in lists.items() for place, tag in tags if not tag.strip()
    ]
    if content.get("completed") is False and content.get("completedAt"):
        found.append(("INVALID", [*path, "completedAt"]))
    return found


def searched(task: Task, named: Callable[[str], Task | None]) -> list[str]:
    """The texts of a task that a search reads."""
    one = named(task["list"]["id"]) if task["list"] else None
    return [task["title"], task["description"] or "", *task["tags"], *([one["name"]] if one else [])]


def is_matched(task: Task, conditions: Mapping[str, Any], named: Callable[[str], Task | None]) -> bool:
    """Whether a task matches a filter, for the conditions used here."""
    tests: Mapping[str, Callable[[Any], bool]] = {
        "ids": lambda ids: task["id"] in [given.lower() for given in ids],
        "completed": lambda completed: task["completed"] is completed,
        "priority": lambda priorities: task["priority"] in priorities,
        "tagsAny": lambda tags: not {tag.lower() for tag in tags}.isdisjoint(map(str.lower, task["tags"])),
        "list": lambda wanted: (
            (task["list"] is None) is wanted["isNull"]
            if "isNull" in wanted
            else task["list"] is not None and task["list"]["id"] in wanted["ids"]
        ),
        "due": lambda span: (task["dueDate"] is None) is span["isNull"],
        "search": lambda words: is_found(words, searched(task, named)),
        "trashed": lambda _: True,
        "not": lambda inner: not is_matched(task, inner, named),
        "or": lambda branches: any(is_matched(task, branch, named) for branch in branches),
    }
    return all(tests[name](value) for name, value in conditions.items())


# Generated arguments: references to ids and versions are resolved when the mutation runs.


class Ref(NamedTuple):
    """A task by its origin and a number."""

    whose: str
    number: int = 0

    def resolved(self, own: Model, other: Model) -> str:
        tasks = {
            "own": own.order,
            "OWN": own.order,
            "other": other.order,
            "list": own.lists,
            "other list": other.lists,
        }.get(self.whose, [])
        known = [task["id"] for task in tasks]
        known = known or {"pool": POOL, "account": [own.account]}.get(self.whose, [STRANGER])
        task_id: str = known[self.number % len(known)]
        return task_id.upper() if self.whose == "OWN" else task_id


class Version(NamedTuple):
    """A task's version plus an offset."""

    off: int


def resolved(value: Any, own: Model, other: Model) -> Any:
    if isinstance(value, Ref):
        return value.resolved(own, other)
    if isinstance(value, list):
        return [resolved(item, own, other) for item in value]
    if isinstance(value, dict):
        result = {name: resolved(item, own, other) for name, item in value.items()}
        expected = result.get("expectedVersion")
        if isinstance(expected, Version):
            task = own.find(result["id"]) or own.one_list(result["id"])
            result["expectedVersion"] = (task["version"] if task else 1) + expected.off
        return result
    return value


WHOSE = ["own"] * 10 + ["OWN", "pool", "pool", "other", "stranger", "account"]
REFS = st.builds(Ref, st.sampled_from(WHOSE), st.integers(0, 11))
NEW_IDS = st.builds(Ref, st.sampled_from(["pool"] * 9 + ["own", "account", "list"]), st.integers(0, 7))
LIST_REFS = st.builds(Ref, st.sampled_from(["list"] * 8 + ["other list", "own", "stranger"]), st.integers(0, 4))
LISTED = st.none() | st.builds(Ref, st.sampled_from(["list"] * 8 + ["other list", "stranger"]), st.integers(0, 4))
NAMES = st.fixed_dictionaries({"name": st.sampled_from(["Home", "Work"])})
TITLES = st.sampled_from(["Rest", "Work"] * 6 + ["Wörk “more”", " x ", "", " \t", "x" * 201])
TAGS = st.sampled_from([None, [], ["a"], ["b", "a"], ["a", " b ", "b"], ["a", "c"], ["A"], ["B ", "a"], ["a", " "]])
CONTENT = {name: strategy(type_) for name, type_ in inputs("CreateTaskInput").items() if name in EMPTY} | {
    "listId": LISTED,
    "description": st.sampled_from([None, "", "More about it"]),
    "priority": st.sampled_from([None, "NONE", "LOW", "URGENT"]),
    "dueDate": st.sampled_from([None, "2026-12-24", "9999-12-31"]),
    "tags": TAGS,
}
COMPLETED = st.sampled_from([True, False] * 5 + [None])
PLAIN = st.fixed_dictionaries({"title": TITLES}, optional={"id": NEW_IDS})
PAST = st.sampled_from([None, "2020-01-02T03:04:05.6+00:00", "2021-01-01T00:00:00+00:00"])
IMPORTED = {"completed": COMPLETED, "completedAt": PAST, "createdAt": PAST}
NEW = (
    PLAIN
    | st.fixed_dictionaries({"title": TITLES}, optional={"id": NEW_IDS, **CONTENT})
    | st.fixed_dictionaries({"title": TITLES}, optional={"id": NEW_IDS, **IMPORTED})
)
TAG_CHANGES = dict.fromkeys(("addTags", "removeTags"), TAGS)
CHANGES = (
    st.fixed_dictionaries({}, optional={"title": TITLES, "completed": COMPLETED, **CONTENT})
    | st.fixed_dictionaries({}, optional={"title": TITLES, **TAG_CHANGES})
    | st.fixed_dictionaries({}, optional={"tags": TAGS, **TAG_CHANGES})
)
VERSIONS = st.sampled_from([None, Version(0), Version(0), Version(0), Version(-1), Version(1)])
VERSIONED = {"expectedVersion": VERSIONS}

CONDITIONS = st.fixed_dictionaries(
    {},
    optional={
        "ids": st.lists(REFS, max_size=5),
        "completed": st.booleans(),
        "priority": st.lists(st.sampled_from(["NONE", "LOW", "URGENT"]), max_size=2, unique=True),
        "tagsAny": st.lists(st.sampled_from(["a", "b", "C"]), max_size=2),
        "due": st.fixed_dictionaries({"isNull": st.booleans()}),
        "list": st.fixed_dictionaries({"isNull": st.booleans()}) | st.fixed_dictionaries({"ids": st.lists(LIST_REFS)}),
        "search": st.sampled_from(["rest", "R", "about", "", "home", "work o"]),
    },
)
SIMPLE = st.sampled_from([{}, {"completed": True}, {"completed": False}, {"search": "WORK"}, {"trashed": True}])
FILTERS = (
    SIMPLE
    | CONDITIONS
    | st.fixed_dictionaries({"not": CONDITIONS})
    | st.fixed_dictionaries({"or": st.lists(CONDITIONS, max_size=2)})
)
SELECTORS = (
    st.fixed_dictionaries({"ids": st.lists(REFS, max_size=6)})
    | st.fixed_dictionaries({"filter": FILTERS})
    | st.just({"all": True})
)
LIMITS = {
    "atMost": st.sampled_from([1, 2, 4, 100, 500, None, 500, 4, 100, 0, 0]),
    "dryRun": st.sampled_from([False, True, None, False]),
}
TARGETS = (
    st.fixed_dictionaries({"before": REFS})
    | st.fixed_dictionaries({"after": REFS})
    | st.sampled_from([{place: True} for place in ("toStart", "toEnd") for _ in range(6)] + [{"toStart": False}])
)
SELECTED = st.fixed_dictionaries({"where": SELECTORS}, optional=LIMITS)
VARIABLES: Mapping[str, st.SearchStrategy[dict[str, Any]]] = {
    "create_task": st.fixed_dictionaries({"input": NEW}),
    "create_tasks": st.fixed_dictionaries({"inputs": st.lists(NEW, max_size=4)}),
    "update_task": st.fixed_dictionaries({"id": REFS, "input": CHANGES}, optional=VERSIONED),
    "set_task_completed": st.fixed_dictionaries({"id": REFS, "completed": st.booleans()}, optional=VERSIONED),
    "delete_task": st.fixed_dictionaries({"id": REFS}, optional=VERSIONED),
    "restore_task": st.fixed_dictionaries({"id": REFS}),
    "move_task": st.fixed_dictionaries({"id": REFS, "to": TARGETS}),
    "create_list": st.fixed_dictionaries(
        {"input": NAMES | st.fixed_dictionaries({"id": NEW_IDS, "name": st.just("Home")})}
    ),
    "update_list": st.fixed_dictionaries({"id": LIST_REFS, "input": NAMES}),
    "delete_list": st.fixed_dictionaries({"id": LIST_REFS}),
    "restore_list": st.fixed_dictionaries({"id": LIST_REFS}),
    "update_tasks": st.fixed_dictionaries({"where": SELECTORS, "input": CHANGES}, optional=LIMITS),
    "delete_tasks": SELECTED,
    "restore_tasks": SELECTED,
    "purge_tasks": SELECTED,
    "empty_trash": st.fixed_dictionaries({}, optional=LIMITS),
}
Step = tuple[bool, str, dict[str, Any]]
# The initial tasks of each user; both users have the first two ids.
FIRST: list[Task] = [
    {"title": "Rest", "id": POOL[0]},
    {"title": "Work", "id": POOL[1], "priority": "LOW", "tags": ["a"]},
    {"title": "Rest", "dueDate": "2026-12-24"},
    {"title": "Work", "description": "More about it", "tags": ["b", "a"]},
    {"title": "Rest", "priority": "URGENT"},
]
KINDS = [
    *VARIABLES,
    "create_list",
    "delete_list",
    "restore_list",
    "create_task",
    "update_task",
    "move_task",
    "move_task",
    "move_task",
]
STEPS: st.SearchStrategy[Step] = st.one_of(
    [st.tuples(st.sampled_from([True, True, False]), st.just(kind), VARIABLES[kind]) for kind in KINDS]
)

# Moves to both ends next to a task, then moves and creates that go to these ends.
ENDS: list[Step] = [
    (True, "move_task", {"id": Ref("own", 0), "to": {"after": Ref("own", 4)}}),
    (True, "create_task", {"input": {"title": "Rest"}}),
    (True, "move_task", {"id": Ref("own", 1), "to": {"toEnd": True}}),
    (True, "move_task", {"id": Ref("own", 3), "to": {"before": Ref("own", 0)}}),
    (True, "move_task", {"id": Ref("own", 2), "to": {"toStart": True}}),
    (True, "create_tasks", {"inputs": [{"title": "Rest"}, {"title": "Work"}]}),
]


async def take(user: User, own: Model, other: Model, kind: str, drawn: dict[str, Any]) -> None:
    """Run one mutation on the server and on the model."""
    variables = resolved(drawn, own, other)
    outcome: Outcome = getattr(own, kind)(**variables)
    answer = await user.ask(f"mutation {MUTATIONS[kind]}", **variables)
    if outcome.refused:
        assert answer["errors"][0]["extensions"]["code"] == outcome.refused
    else:
        assert "errors" not in answer, answer
        own.settle(outcome, answer["data"]["done"])


async def check_counter(user: User, model: Model, owner: "asyncpg.Connection[Any]") -> None:
    """The user's task counter equals the number of rows and the model's number of tasks."""
    lists = await owner.fetchrow("SELECT lists, version FROM task_clocks WHERE user_id = $1", user.id)
    assert lists == (len(model.lists), model.clock)
    counter = await owner.fetchval("SELECT tasks FROM task_clocks WHERE user_id = $1", user.id)
    number = await owner.fetchval("SELECT count(*) FROM tasks WHERE user_id = $1", user.id)
    assert counter == number == len(model.order)


async def check_lists(user: User, model: Model) -> None:
    """The live tasks and the trash equal the model's, in its order."""
    for trashed in (False, True):
        expected = [task for task in model.order if bool(task["deletedAt"]) is trashed]
        page = (await user.data(PAGE, trashed=trashed))["tasks"]
        assert page == {"nodes": expected, "totalCount": len(expected)}


@hypothesis.settings(
    max_examples=120,
    # Shrinking a sequence this long takes minutes; the failing response and the steps are enough.
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    # new_user has no state: each sequence creates two users with it.
    suppress_health_check=[*NEVER_CHECKED, hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.example(steps=ENDS)
@hypothesis.given(steps=st.lists(STEPS, min_size=25, max_size=40))
async def test_any_sequence_of_mutations(
    new_user: Callable[..., Awaitable[User]], owner: "asyncpg.Connection[Any]", steps: Sequence[Step]
) -> None:
    """Every response matches the model, and so do both users' lists, trash and counters at the end."""
    alice, bob = await new_user(), await new_user()
    hers, his = Model(str(alice.id)), Model(str(bob.id))
    for name in ("Home", "Work"):
        await take(alice, hers, his, "create_list", {"input": {"name": name}})
        await take(bob, his, hers, "create_list", {"input": {"name": name}})
    await take(alice, hers, his, "create_tasks", {"inputs": FIRST})
    await take(bob, his, hers, "create_tasks", {"inputs": FIRST[:3]})
    for is_hers, kind, drawn in steps:
        user, own, other = (alice, hers, his) if is_hers else (bob, his, hers)
        await take(user, own, other, kind, drawn)
    await check_lists(alice, hers)
    await check_lists(bob, his)
    await check_counter(alice, hers, owner)
    await check_counter(bob, his, owner)
