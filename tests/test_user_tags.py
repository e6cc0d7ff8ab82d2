"""The tags of a user over HTTP: counts, additions and removals, renaming, merging and deleting, limits, prices."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest
from conftest import User
from mirror import Mirror, stored
from test_tags import ASTRAY

from app.models import MOST_TAGS_OF_USER

Json = dict[str, Any]

TAGS = "query Tags($first: Int, $after: String) { tags(first: $first, after: $after) { name open total } }"
PAYLOAD = "{ tag { name open total } affectedCount userErrors { code field } token }"
RENAME = f"mutation Rename($from: String!, $to: String!) {{ done: renameTag(from: $from, to: $to) {PAYLOAD} }}"
DELETE = f"mutation Delete($name: String!) {{ done: deleteTag(name: $name) {PAYLOAD} }}"
TASK = "{ id title tags version updatedAt deletedAt }"
UPDATE = f"""
    mutation Update($id: ID!, $input: UpdateTaskInput!, $expectedVersion: Int) {{
        done: updateTask(id: $id, input: $input, expectedVersion: $expectedVersion) {{
            task {TASK} userErrors {{ code field }} token
        }}
    }}
"""
UPDATE_MANY = f"""
    mutation UpdateMany($input: UpdateTaskInput!, $dryRun: Boolean) {{
        done: updateTasks(where: {{ all: true }}, input: $input, dryRun: $dryRun) {{
            tasks {TASK} affectedCount userErrors {{ code field }}
        }}
    }}
"""
CREATE = """
    mutation Create($input: CreateTaskInput!) {
        createTask(input: $input) { task { id tags } userErrors { code field } }
    }
"""
CREATE_MANY = """
    mutation CreateMany($inputs: [CreateTaskInput!]!) {
        createTasks(inputs: $inputs) { tasks { id tags } userErrors { code field } }
    }
"""
UPDATE_LISTED = """
    mutation UpdateListed($list: ID!, $input: UpdateTaskInput!) {
        done: updateTasks(where: { filter: { list: { ids: [$list] }, tagsAny: ["T0"] } }, input: $input) {
            tasks { tags list { name } } affectedCount userErrors { code field }
        }
    }
"""
CREATE_LIST = "mutation ($name: String!) { createList(input: { name: $name }) { list { id } } }"
DELETE_LIST = "mutation ($id: ID!) { deleteList(id: $id) { list { id } } }"
RESTORE_LIST = "mutation ($id: ID!) { restoreList(id: $id) { list { id } } }"
COMPLETE = "mutation ($id: ID!, $done: Boolean!) { setTaskCompleted(id: $id, completed: $done) { task { id } } }"
TRASH = "mutation ($id: ID!) { deleteTask(id: $id) { task { id } } }"
RESTORE = "mutation ($id: ID!) { restoreTask(id: $id) { task { id } } }"
READ = f"query ($id: ID!) {{ task(id: $id) {TASK} }}"
FIND = "query ($filter: TaskFilter) { tasks(first: 100, filter: $filter) { nodes { id } } }"


async def tags(user: User, **page: Any) -> dict[str, tuple[int, int]]:
    """The open and total numbers of tasks by tag, in order."""
    listed = (await user.data(TAGS, **page))["tags"]
    return {tag["name"]: (tag["open"], tag["total"]) for tag in listed}


async def made_list(user: User, name: str) -> str:
    return str((await user.data(CREATE_LIST, name=name))["createList"]["list"]["id"])


async def done(user: User, query: str, **variables: Any) -> Json:
    payload: Json = (await user.data(query, **variables))["done"]
    return payload


async def read(user: User, task: Json) -> Json:
    found: Json = (await user.data(READ, id=task["id"]))["task"]
    return found


# The list


async def test_counts(alice: User, bob: User, owner: "asyncpg.Connection[Any]") -> None:
    """Tags count open and all live tasks through every write, remain without tasks, and are the user's own."""
    first, second = await alice.add(tags=["Work", "home"]), await alice.add(tags=["WORK"])
    await bob.add(tags=["work", "his"])
    assert await tags(alice) == {"home": (1, 1), "Work": (2, 2)}

    await alice.data(COMPLETE, id=first["id"], done=True)
    assert await tags(alice) == {"home": (0, 1), "Work": (1, 2)}
    await alice.data(TRASH, id=first["id"])
    assert await tags(alice) == {"home": (0, 0), "Work": (1, 1)}
    await alice.data(RESTORE, id=first["id"])
    assert await tags(alice) == {"home": (0, 1), "Work": (1, 2)}
    await alice.data(COMPLETE, id=first["id"], done=False)
    await done(alice, UPDATE, id=second["id"], input={"tags": None})
    assert await tags(alice) == {"home": (1, 1), "Work": (1, 1)}
    await owner.execute("DELETE FROM tasks WHERE user_id = $1", alice.id)
    assert await tags(alice) == {"home": (0, 0), "Work": (0, 0)}
    assert await tags(bob) == {"his": (1, 1), "work": (1, 1)}
    assert await owner.fetch(ASTRAY) == []


async def test_pages(alice: User) -> None:
    """`first` and `after` list all tags once, in the order of their names regardless of case."""
    await alice.add(tags=["b", "A", "ä", "Z", "c"])
    assert list(await tags(alice)) == ["A", "b", "c", "Z", "ä"]

    assert list(await tags(alice, first=2)) == ["A", "b"]
    assert list(await tags(alice, first=2, after="B")) == ["c", "Z"]
    assert list(await tags(alice, after="no such tag")) == ["Z", "ä"]
    for wrong in ({"first": 0}, {"first": 1001}, {"after": "\0"}):
        answer = await alice.ask(TAGS, **wrong)
        assert [error["extensions"]["code"] for error in answer["errors"]] == ["BAD_USER_INPUT"], wrong


PRICES = {
    "{ tags { name open total } }": 100,
    "{ tags(first: 30) { name } }": 30,
    '{ tags(first: 30) { name } task(id: "00000000-0000-4000-8000-000000000000") { tags } }': 31,
    'mutation { renameTag(from: "a", to: "b") { token } }': 101,
    'mutation { deleteTag(name: "a") { tag { open } } }': 101,
}


@pytest.mark.parametrize("query", PRICES)
async def test_prices(alice: User, query: str) -> None:
    """A tag of the list costs one row; renaming and deleting have a fixed price."""
    answer = (await alice.post(query, extensions={"cost": True})).json()

    assert answer["extensions"]["cost"]["rows"] == PRICES[query]


# Additions and removals


async def test_two_devices_keep_both_tags(alice: User, bob: User) -> None:
    """Concurrent additions and removals all take effect, also of the same tag in another case."""
    task, foreign = await alice.add(tags=["Old", "kept"]), await bob.add(tags=["old"])
    changes: list[Json] = [{"addTags": [f"tag {n}"]} for n in range(8)]
    changes += [{"removeTags": ["OLD"]}, {"addTags": ["Kept"]}]
    await asyncio.gather(*(done(alice, UPDATE, id=task["id"], input=change) for change in changes))

    found = (await read(alice, task))["tags"]
    assert sorted(found) == ["kept", *(f"tag {n}" for n in range(8))]
    assert (await read(bob, foreign))["tags"] == ["old"]


async def test_changes_of_tags(alice: User) -> None:
    """Tags are removed, then new ones added at the end. Added ones are not removed. Repeating changes nothing."""
    task = await alice.add(tags=["a", "b", "C"])
    steps: list[tuple[Json, list[str]]] = [
        ({"addTags": ["d", "A", "D "]}, ["a", "b", "C", "d"]),
        ({"removeTags": ["c", "nothing"]}, ["a", "b", "d"]),
        ({"addTags": ["C", "e"], "removeTags": ["A", "C"]}, ["b", "d", "C", "e"]),
        ({"addTags": ["B"], "removeTags": ["b"]}, ["b", "d", "C", "e"]),
        ({"addTags": None, "removeTags": []}, ["b", "d", "C", "e"]),
        ({"tags": ["E", "b"]}, ["e", "b"]),
        ({"tags": ["e", "B"]}, ["e", "b"]),
    ]
    for change, expected in steps:
        before = await read(alice, task)
        payload = await done(alice, UPDATE, id=task["id"], input=change)
        again = await done(alice, UPDATE, id=task["id"], input=change)
        assert (payload["task"]["tags"], payload["userErrors"]) == (expected, []), change
        assert (payload["task"]["version"] > before["version"]) is (before["tags"] != expected), change
        assert again == payload, change


WRONG: list[tuple[Json, list[Json]]] = [
    ({"addTags": ["a", " "]}, [{"code": "BLANK", "field": ["input", "addTags", "1"]}]),
    ({"addTags": ["t" * 51]}, [{"code": "TOO_LONG", "field": ["input", "addTags", "0"]}]),
    ({"removeTags": ["\u200b"]}, [{"code": "BLANK", "field": ["input", "removeTags", "0"]}]),
    ({"addTags": [f"t{n}" for n in range(21)]}, [{"code": "LIMIT_EXCEEDED", "field": ["input", "addTags"]}]),
    ({"addTags": [f"t{n}" for n in range(19)]}, [{"code": "LIMIT_EXCEEDED", "field": ["input", "addTags"]}]),
    ({"removeTags": ["t"] * 1001}, [{"code": "LIMIT_EXCEEDED", "field": ["input", "removeTags"]}]),
]


@pytest.mark.parametrize(("change", "errors"), WRONG)
async def test_wrong_changes(alice: User, change: Json, errors: list[Json]) -> None:
    """Invalid tags and too many after merging are user errors at their fields, of one task or of several."""
    task = await alice.add(tags=["a", "b"])
    await alice.add()
    before = await read(alice, task)

    assert (await done(alice, UPDATE, id=task["id"], input=change))["userErrors"] == errors
    many = await done(alice, UPDATE_MANY, input=change)
    assert (many["userErrors"], many["tasks"], many["affectedCount"]) == (errors, [], 0)
    assert await read(alice, task) == before


async def test_as_many_tags_as_allowed(alice: User) -> None:
    """The limit applies to the tags after merging: removing some makes room, and doubles do not count."""
    task = await alice.add(tags=[f"t{n}" for n in range(20)])
    change = {"addTags": ["new", "T5"], "removeTags": ["t0"]}

    assert (await done(alice, UPDATE, id=task["id"], input={"addTags": ["T7"]}))["userErrors"] == []
    tags_ = (await done(alice, UPDATE, id=task["id"], input=change))["task"]["tags"]
    assert tags_ == [*(f"t{n}" for n in range(1, 20)), "new"]
    stale = await done(alice, UPDATE, id=task["id"], input={"addTags": ["more"]}, expectedVersion=1)
    assert [error["code"] for error in stale["userErrors"]] == ["VERSION_CONFLICT"]


@pytest.mark.parametrize("change", [{"addTags": ["a"]}, {"removeTags": []}])
async def test_all_tags_and_changes_contradict(alice: User, change: Json) -> None:
    """`tags` together with `addTags` or `removeTags` is BAD_USER_INPUT."""
    task = await alice.add(tags=["a"])
    for query in (UPDATE, UPDATE_MANY):
        for new in (["b"], [], None):
            answer = await alice.ask(query, id=task["id"], input={"tags": new, **change})
            assert [error["extensions"]["code"] for error in answer["errors"]] == ["BAD_USER_INPUT"]
    assert (await read(alice, task))["tags"] == ["a"]


async def test_many_tasks_get_and_lose_tags(alice: User, bob: User) -> None:
    """A bulk update merges the tags of each task, and changes only tasks that differ, of one user."""
    for given in (["a", "x"], ["X"], []):
        await alice.add(tags=given)
    foreign = await bob.add(tags=["x"])
    change = {"addTags": ["A"], "removeTags": ["x"]}

    dry = await done(alice, UPDATE_MANY, input=change, dryRun=True)
    assert sorted(task["tags"] for task in dry["tasks"]) == [[], ["a", "x"], ["x"]]
    first = await done(alice, UPDATE_MANY, input=change)
    assert [task["tags"] for task in first["tasks"]] == [["a"]] * 3
    assert await done(alice, UPDATE_MANY, input=change) == first
    assert (await read(bob, foreign))["tags"] == ["x"]


# One tag regardless of case and Unicode form


async def test_the_first_name_stays(alice: User, bob: User, owner: "asyncpg.Connection[Any]") -> None:
    """Every task shows a tag by its first name, also tasks of SQL and of sessions, until the tag is deleted."""
    await alice.add(tags=["Café"])
    await bob.add(tags=["CAFÉ"])
    second = await alice.add(tags=[" cafe\u0301", "CAFÉ", "new"])
    assert second["tags"] == ["Café", "new"]
    insert = "INSERT INTO tasks (user_id, id, title, tags) VALUES ($1, gen_random_uuid(), 'x', $2) RETURNING tags"
    assert await owner.fetchval(insert, alice.id, ["New", "cafÉ", "NEW"]) == ["new", "Café"]
    assert await owner.fetchval(insert, bob.id, ["café"]) == ["CAFÉ"]

    await done(alice, DELETE, name="CAFE\u0301")
    assert (await alice.add(tags=["CAFÉ"]))["tags"] == ["CAFÉ"]
    assert await owner.fetch(ASTRAY) == []


async def test_filters_ignore_case_and_form(alice: User, bob: User) -> None:
    """Filters find tasks by any form of a tag, at any depth, and by bulk selectors."""
    both, one = await alice.add(tags=["Straße", "Über"]), await alice.add(tags=["STRASSE"])
    await bob.add(tags=["strasse"])
    cases: list[tuple[Json, set[str]]] = [
        ({"tagsAny": ["strasse"]}, {both["id"], one["id"]}),
        ({"tagsAll": ["STRAẞE", "u\u0308ber"]}, {both["id"]}),
        ({"tagsAll": ["straße", "unknown"]}, set()),
        ({"tagsAny": ["ÜBER", "unknown", ""]}, {both["id"]}),
        ({"not": {"tagsAny": ["ÜBER"]}}, {one["id"]}),
        ({"or": [{"tagsAll": [" über "]}, {"tagsAny": []}]}, {both["id"]}),
        ({"tagsAny": ["\u200b"]}, set()),
    ]
    for asked, expected in cases:
        found = (await alice.data(FIND, filter=asked))["tasks"]["nodes"]
        assert {task["id"] for task in found} == expected, asked


async def test_creating_again_compares_tags_by_key(alice: User) -> None:
    """A create with an id succeeds again with the same tags in any form, and is ID_TAKEN with others."""
    given = {"id": "5c1f0f63-6d8b-4b5e-9d43-3a0c54f0d111", "title": "T", "tags": ["Work", "home"]}
    first = (await alice.data(CREATE, input=given))["createTask"]
    for form, code in ((["WORK ", "Home", "work"], None), (["home", "work"], "ID_TAKEN"), (["work"], "ID_TAKEN")):
        again = (await alice.data(CREATE, input={**given, "tags": form}))["createTask"]
        assert [error["code"] for error in again["userErrors"]] == ([code] if code else []), form
        assert again["task"] == first["task"]
        many = (await alice.data(CREATE_MANY, inputs=[{**given, "tags": form}]))["createTasks"]
        assert [error["code"] for error in many["userErrors"]] == ([code] if code else []), form


async def test_a_rejected_create_leaves_no_tag(alice: User) -> None:
    """Creates that are rejected, or repeat earlier ones, add nothing to the list of tags."""
    task = await alice.add("Old", tags=["a"])
    for given in ({"id": task["id"], "title": "New", "tags": ["b"]}, {"id": task["id"], "title": "Old", "tags": ["A"]}):
        await alice.data(CREATE, input=given)
        await alice.data(CREATE_MANY, inputs=[given, {"title": "Other"}])

    assert list(await tags(alice)) == ["a"]


async def test_blank_tags_by_sql_are_rejected(alice: User, owner: "asyncpg.Connection[Any]") -> None:
    """SQL cannot write a tag without any visible character, either."""
    task = await alice.add()
    with pytest.raises(asyncpg.CheckViolationError, match="blank"):
        await owner.execute("UPDATE tasks SET tags = $2 WHERE id = $1", task["id"], ["a", "\u200b "])


# Renaming and deleting


async def test_renaming(alice: User, bob: User, owner: "asyncpg.Connection[Any]") -> None:
    """A tag gets another name on all tasks, also in the trash; they get one new version; other users keep theirs."""
    live, trashed, other = [await alice.add(tags=given) for given in (["a", "Old"], ["old", "z"], ["z"])]
    await alice.data(TRASH, id=trashed["id"])
    foreign = await bob.add(tags=["old"])
    payload = await done(alice, RENAME, **{"from": "OLD", "to": " The  new\tone "})

    assert payload["tag"] == {"name": "The new one", "open": 1, "total": 1}
    assert (payload["affectedCount"], payload["userErrors"]) == (2, [])
    shown = [await read(alice, task) for task in (live, trashed, other)]
    assert [task["tags"] for task in shown] == [["a", "The new one"], ["The new one", "z"], ["z"]]
    assert shown[0]["version"] == shown[1]["version"] > trashed["version"]
    assert shown[0]["updatedAt"] == shown[1]["updatedAt"] > live["updatedAt"]
    assert shown[2]["version"] == other["version"]
    assert await tags(alice) == {"a": (1, 1), "The new one": (1, 1), "z": (1, 1)}
    assert (await read(bob, foreign))["tags"] == ["old"]
    assert await owner.fetch(ASTRAY) == []
    again = await done(alice, RENAME, **{"from": "OLD", "to": "the new one"})
    assert again == {**payload, "affectedCount": 0}


async def test_merging(alice: User, owner: "asyncpg.Connection[Any]") -> None:
    """Renaming to an existing tag merges both, which keep that tag's name; a task that had both has it once."""
    tasks = [await alice.add(tags=given) for given in (["wrk", "x"], ["x", "Work", "WRK"], ["work"], ["wrk"])]
    await alice.data(COMPLETE, id=tasks[3]["id"], done=True)
    payload = await done(alice, RENAME, **{"from": "wrk", "to": "WORK"})

    assert payload["tag"] == {"name": "Work", "open": 3, "total": 4}
    assert payload["affectedCount"] == 3
    assert [(await read(alice, task))["tags"] for task in tasks] == [["Work", "x"], ["x", "Work"], ["Work"], ["Work"]]
    assert await tags(alice) == {"Work": (3, 4), "x": (2, 2)}
    assert await owner.fetch(ASTRAY) == []


async def test_renaming_by_case_alone(alice: User, owner: "asyncpg.Connection[Any]") -> None:
    """A tag can change its case alone; the second time nothing is changed."""
    task = await alice.add(tags=["work"])
    first = await done(alice, RENAME, **{"from": "work", "to": "WORK"})
    again = await done(alice, RENAME, **{"from": "work", "to": "WORK"})

    assert (first["tag"]["name"], first["affectedCount"]) == ("WORK", 1)
    assert again == {**first, "affectedCount": 0}
    assert (await read(alice, task))["tags"] == ["WORK"]
    assert (await alice.add(tags=["work"]))["tags"] == ["WORK"]
    assert await owner.fetch(ASTRAY) == []


async def test_renaming_a_tag_without_tasks(alice: User) -> None:
    """A tag without tasks is renamed and merged too; the history does not move."""
    task = await alice.add(tags=["a", "b"])
    token = (await done(alice, UPDATE, id=task["id"], input={"tags": []}))["token"]

    renamed = await done(alice, RENAME, **{"from": "a", "to": "c"})
    assert renamed == {
        "tag": {"name": "c", "open": 0, "total": 0},
        "affectedCount": 0,
        "userErrors": [],
        "token": token,
    }
    assert await tags(alice) == {"b": (0, 0), "c": (0, 0)}
    assert (await done(alice, RENAME, **{"from": "b", "to": "C"}))["tag"]["name"] == "c"
    assert await tags(alice) == {"c": (0, 0)}


@pytest.mark.parametrize(
    ("names", "error"),
    [
        ({"from": "nothing", "to": "new"}, {"code": "NOT_FOUND", "field": ["from"]}),
        ({"from": "", "to": "new"}, {"code": "NOT_FOUND", "field": ["from"]}),
        ({"from": "a", "to": " \u200d"}, {"code": "BLANK", "field": ["to"]}),
        ({"from": "a", "to": "t" * 51}, {"code": "TOO_LONG", "field": ["to"]}),
    ],
)
async def test_wrong_names(alice: User, bob: User, names: Json, error: Json) -> None:
    """Unknown tags, also those of other users, and invalid names are user errors, and change nothing."""
    task = await alice.add(tags=["a"])
    await bob.add(tags=["nothing"])
    payload = await done(alice, RENAME, **names)

    assert (payload["userErrors"], payload["tag"], payload["affectedCount"]) == ([error], None, 0)
    assert await tags(alice) == {"a": (1, 1)}
    assert (await read(alice, task))["version"] == task["version"]


async def test_deleting(alice: User, bob: User, owner: "asyncpg.Connection[Any]") -> None:
    """A deleted tag is gone from all tasks, also in the trash, and from the list. Repeating changes nothing."""
    live, trashed = await alice.add(tags=["a", "Old"]), await alice.add(tags=["old"])
    await alice.data(TRASH, id=trashed["id"])
    await bob.add(tags=["old"])
    payload = await done(alice, DELETE, name=" oLD")

    assert (payload["tag"], payload["affectedCount"], payload["userErrors"]) == (None, 2, [])
    assert [(await read(alice, task))["tags"] for task in (live, trashed)] == [["a"], []]
    assert (await tags(alice), await tags(bob)) == ({"a": (1, 1)}, {"old": (1, 1)})
    assert await done(alice, DELETE, name="old") == {**payload, "affectedCount": 0}
    assert await owner.fetch(ASTRAY) == []


async def test_copies_follow(alice: User, owner: "asyncpg.Connection[Any]") -> None:
    """Renaming, merging and deleting reach copies by the change feed."""
    for given in (["a"], ["a", "b"], ["b"], ["c"]):
        await alice.add(tags=given)
    mirror = Mirror(alice)
    await mirror.catch_up()
    for query, names in (
        (RENAME, {"from": "a", "to": "A"}),
        (RENAME, {"from": "a", "to": "b"}),
        (DELETE, {"name": "B"}),
    ):
        payload = await done(alice, query, **names)
        pages = await mirror.catch_up(first=2)
        assert sum(len(page["changes"]) for page in pages) == payload["affectedCount"]
        assert mirror.token == payload["token"]
        assert mirror.tasks == await stored(owner, alice)


async def test_concurrent_renames_and_additions(alice: User, owner: "asyncpg.Connection[Any]") -> None:
    """Renames in both directions while tasks get both tags: the tables agree, and each task has one name of a tag."""
    tasks = [await alice.add(tags=["a", f"own {n}"]) for n in range(6)]
    writes: list[Awaitable[Any]] = []
    for number, task in enumerate(tasks):
        writes.append(alice.ask(UPDATE, id=task["id"], input={"addTags": ["B", "A"][: number % 3]}))
        writes.append(alice.ask(RENAME, **{"from": "ab"[number % 2], "to": "ba"[number % 2]}))
        writes.append(alice.ask(CREATE, input={"title": "New", "tags": ["A", "b"]}))
    answers = await asyncio.gather(*writes)

    assert [answer for answer in answers if "errors" in answer] == []
    assert await owner.fetch(ASTRAY) == []
    names = await owner.fetch("SELECT key FROM user_tags WHERE user_id = $1 AND key IN ('a', 'b')", alice.id)
    used = await owner.fetch("SELECT DISTINCT unnest(tags) FROM tasks WHERE user_id = $1", alice.id)
    assert len(names) == len([row for row in used if row[0].lower() in {"a", "b"}])


async def test_a_tag_of_very_many_tasks(
    new_user: Callable[..., Awaitable[User]], owner: "asyncpg.Connection[Any]"
) -> None:
    """A tag of 10,000 tasks is renamed, merged and deleted."""
    user = await new_user()
    insert = """
        INSERT INTO tasks (user_id, id, title, tags)
        SELECT $1, gen_random_uuid(), 'Task', ARRAY['big', 'tag ' || n % 7] FROM generate_series(1, 10000) AS n
    """
    await owner.execute(insert, user.id)
    for query, names in (
        (RENAME, {"from": "big", "to": "huge"}),
        (RENAME, {"from": "huge", "to": "HUGE"}),
        (RENAME, {"from": "huge", "to": "tag 1"}),
        (DELETE, {"name": "tag 1"}),
    ):
        assert (await done(user, query, **names))["affectedCount"] == 10_000
    assert sum(total for _, total in (await tags(user)).values()) == 10_000 - 1429
    assert await owner.fetch(ASTRAY) == []


# Together with lists


async def test_counts_follow_lists(alice: User, bob: User, owner: "asyncpg.Connection[Any]") -> None:
    """A list takes its tasks out of the counts of tags when it goes to the trash, and back when it is restored."""
    one = await made_list(alice, "a")
    first = await alice.add(tags=["home", "work"], listId=one)
    await alice.data(COMPLETE, id=first["id"], done=True)
    await alice.add(tags=["Home"], listId=one)
    await alice.add(tags=["home"])
    await bob.add(tags=["home"])
    before = {"home": (2, 3), "work": (0, 1)}
    assert await tags(alice) == before

    await alice.data(DELETE_LIST, id=one)
    assert await tags(alice) == {"home": (1, 1), "work": (0, 0)}
    await alice.data(RESTORE_LIST, id=one)
    assert await tags(alice) == before
    await alice.data(DELETE_LIST, id=one)
    await alice.data(RESTORE, id=first["id"])
    assert await tags(alice) == {"home": (1, 2), "work": (0, 1)}
    await owner.execute("DELETE FROM task_lists WHERE user_id = $1", alice.id)
    assert await tags(alice) == {"home": (1, 2), "work": (0, 1)}
    assert await tags(bob) == {"home": (1, 1)}
    assert await owner.fetch(ASTRAY) == []


async def test_tags_of_a_list_in_the_trash(alice: User, owner: "asyncpg.Connection[Any]") -> None:
    """Tasks that are in the trash with their list get the new tags, and come back with them; copies follow."""
    one = await made_list(alice, "a")
    tasks = [await alice.add(tags=["old", "gone", "kept"], listId=one) for _ in range(2)]
    mirror = Mirror(alice)
    await mirror.catch_up()
    await alice.data(DELETE_LIST, id=one)

    assert (await done(alice, RENAME, **{"from": "OLD", "to": "New"}))["affectedCount"] == 2
    assert (await done(alice, DELETE, name="gone"))["affectedCount"] == 2
    await alice.data(RESTORE_LIST, id=one)
    assert [(await read(alice, task))["tags"] for task in tasks] == [["New", "kept"]] * 2
    assert await tags(alice) == {"kept": (2, 2), "New": (2, 2)}
    await mirror.catch_up(first=1)
    assert mirror.tasks == await stored(owner, alice)


async def test_a_list_that_refuses_leaves_no_tag(alice: User, bob: User) -> None:
    """A write that is refused because of its list, or of an id, adds no tag."""
    trashed, foreign = await made_list(alice, "a"), await made_list(bob, "b")
    await alice.data(DELETE_LIST, id=trashed)
    task = await alice.add(tags=["first"])
    before = await read(alice, task)
    for one in (trashed, foreign):
        given = {"title": "T", "tags": ["new"], "listId": one}
        for more in ({}, {"id": "5c1f0f63-6d8b-4b5e-9d43-3a0c54f0d113"}):
            assert (await alice.data(CREATE, input={**given, **more}))["createTask"]["task"] is None
            inputs = [{"title": "Other", "tags": ["other"]}, {**given, **more}]
            assert (await alice.data(CREATE_MANY, inputs=inputs))["createTasks"]["tasks"] == []
        for change in ({"tags": ["new"]}, {"addTags": ["new"]}):
            for query in (UPDATE, UPDATE_MANY):
                payload = await done(alice, query, id=task["id"], input={**change, "listId": one})
                assert [problem["field"] for problem in payload["userErrors"]] == [["input", "listId"]]
    payload = (await alice.data(CREATE, input={"id": trashed, "title": "T", "tags": ["new"]}))["createTask"]
    assert [problem["code"] for problem in payload["userErrors"]] == ["ID_TAKEN"]
    assert (await read(alice, task), await tags(alice)) == (before, {"first": (1, 1)})


async def test_tasks_of_a_list_get_tags(alice: User, bob: User, owner: "asyncpg.Connection[Any]") -> None:
    """A bulk update by list and tag moves tasks and merges their tags; if one would have too many, none is changed."""
    one, other = await made_list(alice, "a"), await made_list(alice, "b")
    full = await alice.add(tags=[f"t{n}" for n in range(20)], listId=one)
    rest = [await alice.add(tags=["T0", "x"], listId=one) for _ in range(2)]
    beside = await alice.add(tags=["t0", "x"], listId=other)
    foreign = await bob.add(tags=["t0", "x"])
    given = {"list": one, "input": {"addTags": ["y"], "removeTags": ["X"], "listId": other}}

    payload = await done(alice, UPDATE_LISTED, **given)
    assert payload["userErrors"] == [{"code": "LIMIT_EXCEEDED", "field": ["input", "addTags"]}]
    await done(alice, UPDATE, id=full["id"], input={"removeTags": ["t19"]})
    payload = await done(alice, UPDATE_LISTED, **given)
    assert payload["affectedCount"] == 3
    assert {task["list"]["name"] for task in payload["tasks"]} == {"b"}
    assert sorted(len(task["tags"]) for task in payload["tasks"]) == [2, 2, 20]
    assert [(await read(alice, task))["tags"] for task in [*rest, beside]] == [["t0", "y"]] * 2 + [["t0", "x"]]
    assert (await read(bob, foreign))["tags"] == ["t0", "x"]
    assert await owner.fetch(ASTRAY) == []


# Limits


async def test_at_most_a_thousand_tags(alice: User, bob: User, owner: "asyncpg.Connection[Any]") -> None:
    """Beyond 1,000 tags of a user, new ones are LIMIT_EXCEEDED at their field, and nothing is written."""
    task = await alice.add(tags=["first"])
    fill = "INSERT INTO user_tags SELECT $1, 'k' || n, 'k' || n FROM generate_series(1, $2) AS n"
    await owner.execute(fill, alice.id, MOST_TAGS_OF_USER - 2)
    assert (await alice.add(tags=["last", "FIRST", "K7"]))["tags"] == ["last", "first", "k7"]
    before, listed = await read(alice, task), await tags(alice, first=1000)
    assert len(listed) == MOST_TAGS_OF_USER

    def error(*field: str) -> list[Json]:
        return [{"code": "LIMIT_EXCEEDED", "field": [*field]}]

    for change in ("tags", "addTags"):
        payload = await done(alice, UPDATE, id=task["id"], input={"title": "New", change: ["last", "more"]})
        assert (payload["userErrors"], payload["task"]) == (error("input", change), before)
        assert (await done(alice, UPDATE_MANY, input={change: ["more"]}))["userErrors"] == error("input", change)
    for more in ({}, {"id": "5c1f0f63-6d8b-4b5e-9d43-3a0c54f0d112"}):
        given = {"title": "T", "tags": ["more"], **more}
        assert (await alice.data(CREATE, input=given))["createTask"] == {
            "task": None,
            "userErrors": error("input", "tags"),
        }
        assert (await alice.data(CREATE_MANY, inputs=[given]))["createTasks"]["userErrors"] == error("inputs")
    missing = await done(alice, UPDATE, id=str(bob.id), input={"addTags": ["more"]})
    assert [problem["code"] for problem in missing["userErrors"]] == ["NOT_FOUND"]
    assert (await read(alice, task), await tags(alice, first=1000)) == (before, listed)
    await bob.add(tags=["more"])
    assert (await done(alice, RENAME, **{"from": "k1", "to": "more"}))["userErrors"] == []
    await done(alice, DELETE, name="more")
    assert (await alice.add(tags=["other"]))["tags"] == ["other"]


# Accounts


async def test_tags_go_with_their_account(alice: User, bob: User, owner: "asyncpg.Connection[Any]") -> None:
    """Deleting a user deletes the user's tags, and no one else's."""
    await alice.add(tags=["a"])
    await bob.add(tags=["a"])
    await owner.execute("DELETE FROM users WHERE id = $1", alice.id)

    count = "SELECT count(*) FROM user_tags WHERE user_id = $1"
    assert [await owner.fetchval(count, user.id) for user in (alice, bob)] == [0, 1]
