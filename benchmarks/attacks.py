"""The attacks: each is a function that runs until it is cancelled. ATTACKS lists all of them.

Attacks that may be rejected for their size use several sizes, so that a size limit does not end the whole attack.
"""

import asyncio
import hashlib
import random
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count, cycle
from typing import Any

import orjson
from websockets.asyncio.client import ClientConnection

from benchmarks import crowd, wire
from benchmarks.flooding import Target, addresses, flood, repeated, suppressed, writing

ALL = "id title description completed completedAt priority dueDate tags position version createdAt updatedAt"
LEAVES = ALL.split()
MANY = 1000
FIELDS = 20
AGAIN_SECONDS = 0.02

Json = dict[str, Any]


def _fields(number: int, field_: Callable[[int], str]) -> str:
    return " ".join(map(field_, range(number)))


def _searches(words: int, fields: int, more: str = "") -> bytes:
    query = _fields(fields, lambda n: f"a{n}: tasks(first: 1, filter: $f{more}) {{ nodes {{ id }} }}")
    tree = {"or": [{"search": f"zzqq{number}"} for number in range(words)]}
    return wire.asked(f"query($f: TaskFilter) {{ {query} }}", {"f": tree})


async def searches(target: Target) -> None:
    """Searches of the user's own tasks, from large to minimal ones."""
    sorted_ = wire.asked(
        f"{{ {_fields(FIELDS, lambda n: f'a{n}: tasks(first: 1, orderBy: {{field: TITLE}}) {{nodes{{id}}}}')} }}"
    )
    counted = wire.asked(f"{{ {_fields(FIELDS - 1, lambda n: f'a{n}: tasks(first: 1) {{ totalCount }}')} }}")
    single = _searches(1, 1), _searches(1, 1, ", orderBy: {field: PRIORITY}"), _searches(3, 1)
    bodies = cycle([_searches(45, FIELDS), _searches(3, FIELDS), _searches(1, FIELDS), sorted_, counted, *single])
    await flood(target, "big", lambda: next(bodies))


CONDITIONS: list[Json] = [
    {"completed": True},
    {"priority": ["HIGH"]},
    {"tagsAny": ["a"]},
    {"tagsAll": ["a", "b"]},
    {"due": {"lt": "2026-02-01"}},
    {"due": {"isNull": True}},
    {"created": {"gte": "2026-01-01T00:00:00Z"}},
    {"updated": {"lt": "2027-01-01T00:00:00Z"}},
    {"search": "word"},
]


def tree(conditions: int) -> Json:
    """A random filter with this number of conditions, whose shape rarely repeats."""
    parts = [random.choice(CONDITIONS) for _ in range(conditions)]  # noqa: S311 - no secret
    while len(parts) > 1:
        size = random.randint(2, 4)  # noqa: S311 - no secret
        some, parts = parts[:size], parts[size:]
        joined: Json = {random.choice(("and", "or")): some}  # noqa: S311 - no secret
        parts.append({"not": joined} if random.random() < 0.2 else joined)  # noqa: PLR2004, S311 - one in five
    return parts[0]


def _filtered(fields: int, filters: Callable[[], Json]) -> bytes:
    """One document for each number of fields. Only its variables have different shapes."""
    names = [f"f{number}" for number in range(fields)]
    query = " ".join(f"{name}: tasks(first: 1, filter: ${name}) {{ nodes {{ id }} }}" for name in names)
    declared = ", ".join(f"${name}: TaskFilter" for name in names)
    return wire.asked(f"query({declared}) {{ {query} }}", {name: filters() for name in names})


def _shapes() -> Iterator[bytes]:
    empty = [{"or": []}, {"and": []}, {"not": {"and": []}}]
    while True:
        for fields, conditions in ((FIELDS, 30), (FIELDS, 5), (3, 45), (1, 45)):
            yield _filtered(fields, lambda: tree(conditions))  # noqa: B023 - called at once
        number = random.randint(2000, 2400)  # noqa: S311 - no secret
        yield _filtered(1, lambda: {"or": [random.choice(empty) for _ in range(number)]})  # noqa: B023, S311 - as above


async def shapes(target: Target) -> None:
    """Filters with new shapes, in the variables of known documents."""
    bodies = _shapes()
    await flood(target, "hostile", lambda: next(bodies))


def _new_documents() -> Iterator[bytes]:
    for number in count():
        for fields in (FIELDS, 5, 1):
            query = _fields(fields, lambda n: f"a{number}_{n}: tasks(first: 1) {{ nodes {{ {ALL} }} }}")  # noqa: B023 - as above
            yield wire.asked(f"{{ {query} }}")


async def documents(target: Target) -> None:
    """Documents that the server has not seen before."""
    bodies = _new_documents()
    await flood(target, "hostile", lambda: next(bodies))


CHANGE = f"__typename ... on TaskUpserted {{ task {{ {ALL} }} token }} ... on TaskRemoved {{ taskId token }}"
FEED = f"subscription ($since: SyncToken) {{ changes(since: $since) {{ changes {{ {CHANGE} }} token }} }}"


async def old_token(target: Target) -> None:
    """One subscription that starts at the first change of 100,000 tasks."""
    token = await _old_token(target)
    async with wire.socket(target.port, target.tokens["big"]) as connection:
        target.sent += 1
        await connection.send(wire.subscribe("1", FEED, {"since": token}))
        async for text in connection:
            _heard(target, text)
            target.facts["bytes"] += len(text)


async def _old_token(target: Target) -> str:
    connection = await wire.connected(target.port, target.tokens["big"])
    answer = await connection.ask(wire.asked("{ changes(first: 1) { token } }"))
    token: str = orjson.loads(answer.body)["data"]["changes"]["token"]
    return token


def _heard(target: Target, text: str | bytes) -> bool:
    """Count a message, and return whether it is the last of its operation."""
    message = text.encode() if isinstance(text, str) else text
    if b'"type":"next"' in message[:30] and b'"errors"' not in message:
        target.facts["delivered"] += 1
        return False
    ended = b'"type":"complete"' in message
    if not ended:
        target.told[f"message {wire.Answer(0, message).code}"] += 1
    return ended or b'"type":"error"' in message[:40]


async def subscriptions(target: Target) -> None:
    """40 sockets with 50 subscriptions that differ only in their aliases, and a write each second."""
    await _followed(target, 40, lambda number: f"... on TaskUpserted {{ a{number}: token }}")


async def selections(target: Target) -> None:
    """100 sockets with 50 subscriptions, each for different fields, and a write each second."""
    await _followed(target, 100, lambda number: f"... on TaskUpserted {{ task {{ {_some(number + 1)} }} }}")


def _some(number: int) -> str:
    """The fields selected by the bits of a number from 1 to 4,095; for larger numbers, one of them twice."""
    chosen = [leaf for at, leaf in enumerate(LEAVES) if number >> at & 1]
    again = [f"again: {leaf}" for leaf in chosen[:1] if number >> len(LEAVES)]
    return " ".join(chosen + again) or "id"


async def _followed(target: Target, sockets: int, shown: Callable[[int], str]) -> None:
    """Subscriptions, each restarted when it ends, and a write each second."""

    async def begin(connection: ClientConnection, place: int) -> None:
        target.sent += 1
        await connection.send(wire.subscribe(str(place), f"subscription {{ changes {{ {shown(place)} }} }}"))

    async def follow(number: int) -> None:
        async with wire.socket(target.port, target.tokens["hostile"]) as connection:
            for place in range(number * 50, number * 50 + 50):
                await begin(connection, place)
            async for text in connection:
                if _heard(target, text):
                    await asyncio.sleep(AGAIN_SECONDS)
                    await begin(connection, int(orjson.loads(text)["id"]))

    await asyncio.gather(repeated(target, sockets, follow), writing(target, "hostile"))


async def event_streams(target: Target) -> None:
    """As many event streams as one user can open, up to 3,000, and a write each second."""

    async def hold(_: int) -> None:
        reader, writer = await wire.streams(target.port)
        body = wire.asked("subscription { changes { ... on TaskUpserted { token } } }")
        headers = wire.bearer(target.tokens["hostile"]) + b"Accept: text/event-stream\r\n"
        writer.write(wire.request(body, headers))
        target.sent += 1
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            await _held(target, head, reader)
        finally:
            writer.transport.abort()

    async def fill() -> None:
        holding = set()
        for number in range(3 * MANY):
            holding.add(asyncio.ensure_future(_quietly(target, hold(number))))
            if number % 20 == 0:
                await asyncio.sleep(0.02)
        await asyncio.gather(*holding)

    await asyncio.gather(fill(), writing(target, "hostile"))


async def _quietly(target: Target, work: Awaitable[None]) -> None:
    with suppressed(target):
        await work


async def _held(target: Target, head: bytes, reader: asyncio.StreamReader) -> None:
    """Count a stream while it is open and has not been rejected."""
    if b"text/event-stream" not in head:
        target.told[f"stream {head[9:12].decode()}"] += 1
        return
    target.facts["held"] += 1
    target.facts["held at once"] = max(target.facts["held at once"], target.facts["held"])
    try:
        while data := await reader.read(65536):
            target.facts["delivered"] += data.count(b"event: next")
            if b'"errors"' in data:
                target.told[f"stream {wire.Answer(0, data).code}"] += 1
                return
    finally:
        target.facts["held"] -= 1


async def _unfinished(target: Target, wanted: bytes, sources: list[str]) -> None:
    """1,000 connections that send the start of a request and wait. Each is reopened when it is closed."""

    async def once(number: int) -> None:
        reader, writer = await wire.streams(target.port, sources[number % len(sources)])
        try:
            target.sent += 1
            writer.write(wanted)
            answer = await reader.read(65536)
            target.told[wire.Answer(int(answer[9:12]), answer).told if answer else "closed"] += 1
        finally:
            writer.transport.abort()

    await repeated(target, MANY, once)


async def bodies(target: Target) -> None:
    """Bodies that stop after the first byte, from one address."""
    await _unfinished(target, wire.request(b"{", length=1000), addresses(1))


async def scattered_bodies(target: Target) -> None:
    """The same from 1,000 addresses."""
    await _unfinished(target, wire.request(b"{", length=1000), addresses(MANY))


async def heads(target: Target) -> None:
    """Incomplete request heads."""
    await _unfinished(target, wire.request(b"", b"Accept: */*\r\n")[:-2], addresses(1))


async def users_bodies(target: Target) -> None:
    """Bodies that stop after the first byte, with the token of one user."""
    start = wire.request(b"{", wire.bearer(target.tokens["hostile"]), length=1000)
    await _unfinished(target, start, addresses(1))


async def forged_keys(target: Target) -> None:
    """Tokens with the issuer's name and an unknown key id."""
    made = cycle([wire.bearer(crowd.forged()) for _ in range(2 * MANY)])
    body = wire.asked("{ viewer { id } }")
    await flood(target, None, lambda: body, connections=MANY, sources=addresses(MANY), headers=lambda: next(made))


def _padded() -> Iterator[bytes]:
    for _ in count():
        yield wire.asked(f"{{ __typename }} #{secrets.token_hex(10_000)}")
        text = f"{{ __typename }} #{secrets.token_hex(40_000)}"
        hash_ = hashlib.sha256(text.encode()).hexdigest()
        yield wire.asked(text, extensions={"persistedQuery": {"version": 1, "sha256Hash": hash_}})


async def padding(target: Target) -> None:
    """Documents of 20 KB and persisted documents of 80 KB, padded with comments."""
    made = _padded()
    await flood(target, None, lambda: next(made), sources=addresses(10))


async def users_padding(target: Target) -> None:
    """The same by a user."""
    made = _padded()
    await flood(target, "hostile", lambda: next(made))


async def forwarded(target: Target) -> None:
    """Each request has a different X-Forwarded-For of 90 KB. The last address is the one that a proxy would add."""
    body = wire.asked("{ __schema { types { fields { name } } } }")
    long = "x" * 90_000

    def headers() -> bytes:
        return f"X-Forwarded-For: {secrets.token_hex(8)}{long}, 203.0.113.7\r\n".encode()

    await flood(target, None, lambda: body, headers=headers)


CREATE_MANY = """
    mutation ($inputs: [CreateTaskInput!]!) { createTasks(inputs: $inputs) { affectedCount userErrors { code } } }
"""


async def creates(target: Target) -> None:
    """Creates of 100 tasks per request, without end."""
    body = wire.asked(CREATE_MANY, {"inputs": [{"title": "One of very many"}] * 100})
    await flood(target, "hostile", lambda: body)


async def conditions(target: Target) -> None:
    """One large document whose @include and @skip select different fields each time."""
    names = [f"b{number}" for number in range(24)]

    def leaf(at: int) -> str:
        return f"{LEAVES[at % len(LEAVES)]} @{'include' if at % 2 else 'skip'}(if: ${names[at % len(names)]})"

    def field_(number: int) -> str:
        shown = _fields(len(LEAVES), lambda at: leaf(at + number * len(LEAVES))) if number < 4 else ALL  # noqa: PLR2004 - 48 directives
        return f"a{number}: tasks(first: 1) {{ nodes {{ {shown} }} }}"

    declared = ", ".join(f"${name}: Boolean!" for name in names)
    query = f"query({declared}) {{ {_fields(10, field_)} }}"

    def body() -> bytes:
        return wire.asked(query, {name: random.random() < 0.5 for name in names})  # noqa: PLR2004, S311 - a coin

    await flood(target, "hostile", body)


def _variables() -> Iterator[bytes]:
    """Variables with up to 5,000 values and more, and deeply nested lists."""
    tags = [f"tag {number}" for number in range(20)]
    created = wire.asked(CREATE_MANY, {"inputs": [{"title": "t", "tags": tags}] * 100})
    wrong = wire.asked(CREATE_MANY, {"inputs": [{"title": 1, "tags": [1] * 20, "priority": "NO"}] * 100})
    unknown = wire.asked(CREATE_MANY, {"inputs": [{f"field{number}": 1 for number in range(4000)}]})
    query = "query ($f: TaskFilter, $o: [TaskOrder!]) { tasks(filter: $f, orderBy: $o, first: 1) { nodes { id } } }"
    ids = [f"01900000-0000-7000-8000-{number:012d}" for number in range(1000)]
    listed = wire.asked(query, {"f": {"ids": ids}})
    words = wire.asked(query, {"f": {"or": [{"tagsAny": [f"{at} {n}" for n in range(900)]} for at in range(5)]}})
    ordered = wire.asked(query, {"o": [{"field": "TITLE"}] * 2000})
    deep = b'{"query":"query($f:TaskFilter){tasks(filter:$f,first:1){nodes{id}}}","variables":{"f":%b}}'
    lists = deep % (b"[" * 900 + b"]" * 900)
    nested = deep % (b'{"not":' * 400 + b"{}" + b"}" * 400)
    while True:
        yield from (created, wrong, unknown, listed, words, ordered, lists, nested)


async def variables(target: Target) -> None:
    """Thousands of values in variables, valid and invalid."""
    made = _variables()
    await flood(target, "hostile", lambda: next(made))


INTROSPECTION = """
    { __schema { types { kind name description fields(includeDeprecated: true) { name description isDeprecated
      args { name description type { name kind ofType { name kind ofType { name } } } defaultValue }
      type { name kind ofType { name kind ofType { name kind ofType { name } } } } } inputFields { name description
      type { name kind ofType { name kind } } defaultValue } enumValues { name description } } } }
"""


async def introspection(target: Target) -> None:
    """The whole schema, by anonymous callers on 1,000 connections from ten addresses, and by a user."""
    body = wire.asked(INTROSPECTION)
    await asyncio.gather(
        flood(target, None, lambda: body, connections=MANY, sources=addresses(10)),
        flood(target, "hostile", lambda: body),
    )


async def crowding(target: Target) -> None:
    """A slow query on each of 1,000 connections of one user."""
    body = _searches(1, 1)
    await flood(target, "big", lambda: body, connections=MANY)


async def sockets(target: Target) -> None:
    """50 concurrent operations on each of 100 sockets."""
    query = 'query { tasks(first: 1, filter: { search: "zzqq" }) { nodes { id } } }'

    async def ask(_: int) -> None:
        async with wire.socket(target.port, target.tokens["big"]) as connection:
            for place in range(50):
                target.sent += 1
                await connection.send(wire.subscribe(str(place), query))
            async for text in connection:
                if _heard(target, text):
                    target.sent += 1
                    await connection.send(wire.subscribe(orjson.loads(text)["id"], query))

    await repeated(target, 100, ask)


async def unread(target: Target) -> None:
    """Responses of a megabyte that the client does not read, on 100 connections and on 20 sockets."""
    query = f"{{ {_fields(FIELDS, lambda n: f'a{n}: tasks(first: 100) {{ nodes {{ {ALL} }} }}')} }}"
    body = wire.request(wire.asked(query), wire.bearer(target.tokens["big"]))
    token = await _old_token(target)

    async def ask(_: int) -> None:
        loop, reading = asyncio.get_running_loop(), socket.socket()
        with reading:
            reading.settimeout(0)
            reading.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await loop.sock_connect(reading, (wire.LOOPBACK, target.port))
            for _ in range(5):
                target.sent += 1
                await loop.sock_sendall(reading, body)
            await asyncio.Event().wait()

    async def follow(_: int) -> None:
        async with wire.socket(target.port, target.tokens["big"]) as connection:
            connection.transport.pause_reading()
            for place in range(50):
                target.sent += 1
                some = (
                    wire.subscribe(str(place), FEED, {"since": token})
                    if place % 2
                    else wire.subscribe(str(place), query)
                )
                await connection.send(some)
            await asyncio.Event().wait()

    await asyncio.gather(repeated(target, 100, ask), repeated(target, 20, follow))


async def locks(target: Target) -> None:
    """Writes of 100 tasks on 50 connections, which wait for each other's locks."""
    body = wire.asked(CREATE_MANY, {"inputs": [{"title": "One of very many", "tags": ["a", "b"]}] * 100})
    await flood(target, "hostile", lambda: body, connections=50)


async def compression(target: Target) -> None:
    """Responses of a megabyte, with compression requested."""
    query = f"{{ {_fields(FIELDS, lambda n: f'a{n}: tasks(first: 100) {{ nodes {{ {ALL} }} }}')} }}"
    body = wire.asked(query)
    await flood(target, "big", lambda: body, headers=lambda: b"Accept-Encoding: gzip\r\n")


async def large_writes(target: Target) -> None:
    """Updates of 1,000 tasks at a time, selected by a search, and the same as dry runs."""
    query = """
        mutation ($where: TaskSelector!, $dry: Boolean!, $priority: TaskPriority!) {
          updateTasks(where: $where, input: { priority: $priority }, atMost: 1000, dryRun: $dry) {
            affectedCount userErrors { code } } }
    """
    ids = [f"01900000-0000-7000-8000-{number:012d}" for number in range(1, 1001)]
    changes: list[tuple[Json, bool, str]] = [
        ({"ids": ids}, False, "HIGH"),
        ({"filter": {"search": "zzqq"}}, False, "HIGH"),
        ({"ids": ids}, False, "LOW"),
        ({"filter": {"search": "task 77"}}, True, "LOW"),
    ]
    made = cycle([wire.asked(query, {"where": where, "dry": dry, "priority": to}) for where, dry, to in changes])
    await flood(target, "big", lambda: next(made))


async def hanging_up(target: Target) -> None:
    """Slow queries whose client disconnects at once, so that each must be cancelled in the database."""
    body = wire.request(_searches(1, 5), wire.bearer(target.tokens["big"]))

    async def once(_: int) -> None:
        _reader, writer = await wire.streams(target.port)
        target.sent += 1
        writer.write(body)
        await asyncio.sleep(0.02)
        writer.transport.abort()

    await repeated(target, 50, once)


async def churn(target: Target) -> None:
    """Subscriptions that are started and completed as fast as possible on ten sockets."""

    async def once(number: int) -> None:
        async with wire.socket(target.port, target.tokens["hostile"]) as connection:
            reading = asyncio.ensure_future(_read(target, connection))
            try:
                for place in count():
                    text = f"subscription {{ changes {{ ... on TaskUpserted {{ b{number}_{place}: token }} }} }}"
                    await connection.send(wire.subscribe(str(place), text))
                    await connection.send(wire.message("complete", id=str(place)))
                    target.sent += 1
                    await asyncio.sleep(0)
            finally:
                reading.cancel()

    await repeated(target, 10, once)


async def _read(target: Target, connection: ClientConnection) -> None:
    async for text in connection:
        _heard(target, text)


async def silent_sockets(target: Target) -> None:
    """1,000 sockets that never send connection_init."""
    handshake = (
        b"GET /graphql HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n"
    )

    async def once(_: int) -> None:
        reader, writer = await wire.streams(target.port, addresses(1)[0])
        try:
            target.sent += 1
            writer.write(handshake)
            head = await reader.readuntil(b"\r\n\r\n")
            target.told[head[9:12].decode()] += 1
            await reader.read()
        finally:
            writer.transport.abort()

    await repeated(target, MANY, once)


async def serial_writes(target: Target) -> None:
    """20 mutations of 100 tasks in one request."""
    given = {"inputs": [{"title": "One"}] * 100}
    fields = _fields(FIELDS, lambda n: f"a{n}: createTasks(inputs: $inputs) {{ affectedCount userErrors {{ code }} }}")
    body = wire.asked(f"mutation ($inputs: [CreateTaskInput!]!) {{ {fields} }}", given)
    await flood(target, "hostile", lambda: body)


async def malformed(target: Target) -> None:
    """Bodies of 95 KB that are not JSON, or not a GraphQL request."""
    members = b'"a":1,' * 15_000 + b'"a":1'
    made = cycle((b"[" * 95_000, orjson.dumps([0] * 47_000), b'{"query":1,"variables":{%b}}' % members))
    await flood(target, None, lambda: next(made), connections=MANY, sources=addresses(1))


def _unused() -> Iterator[bytes]:
    """Undeclared variables, whose lists and objects take thirty times their size in memory, up to all limits."""
    lists, objects, texts = [b"[]"] * 31_000, [b'{"a":1}'] * 11_000, [b'"ab"'] * 4000
    many = (lists, objects, lists[:11_999], objects[:11_999])
    allowed = (objects[:980] + texts, objects[:980] + texts[:1500], lists[:980] + texts[:1500])
    while True:
        for values in (*many, *allowed, *allowed):
            joined = b",".join(values)
            yield b'{"query":"{ tasks(first: 1) { nodes { id } } }","variables":{"unused":[%b]}}' % joined


async def unused_variables(target: Target) -> None:
    """Large values in undeclared variables, by a user and by anonymous callers."""
    made = _unused()
    await asyncio.gather(
        flood(target, "hostile", lambda: next(made), connections=MANY // 2),
        flood(target, None, lambda: next(made), connections=MANY // 2, sources=addresses(10)),
    )


async def pings(target: Target) -> None:
    """Pings of the subprotocol with a payload of 90 KB, which the pong would return."""
    ping = wire.message("ping", payload={"numbers": [0] * 45_000})

    async def once(_: int) -> None:
        async with wire.socket(target.port, target.tokens["hostile"]) as connection:
            while True:
                target.sent += 1
                await connection.send(ping)
                await connection.recv()
                target.told["pong"] += 1

    await repeated(target, 10, once)


async def wrong_tokens(target: Target) -> None:
    """Invalid tokens, each a different one, of 100 bytes and of 90 KB."""
    body = wire.asked("{ viewer { id } }")
    head = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9"
    lengths = cycle((45_000, 50))

    def headers() -> bytes:
        return wire.bearer(f"{head}.{secrets.token_hex(next(lengths))}.{secrets.token_hex(16)}")

    await flood(target, None, lambda: body, connections=MANY, sources=addresses(1), headers=headers)


async def probes(target: Target) -> None:
    """/readyz and /metrics, which need no token."""

    async def once(number: int) -> None:
        connection = await wire.connected(target.port, address=addresses(1)[0])
        try:
            while True:
                target.sent += 1
                answer = await connection.get("/readyz" if number % 2 else "/metrics")
                target.told[str(answer.status)] += 1
        finally:
            connection.close()

    await repeated(target, MANY, once)


Found = Mapping[str, Any]


def _any(_: Found) -> bool:
    return True


def _fact(name: str, most: float) -> Callable[[Found], bool]:
    return lambda found: bool(found["facts"].get(name, 0) <= most)


def _refused(code: str) -> Callable[[Found], bool]:
    return lambda found: any(code in told for told in found["told"])


@dataclass(frozen=True, slots=True)
class Attack:
    """An attack: its title, the attacker, the server's settings, and a check of what the attacker achieved.

    `large`: the victim also uses a large prepared and persisted document. `pace`: seconds between the victim's
    requests.
    """

    title: str
    by: str
    run: Callable[[Target], Awaitable[None]]
    settings: Mapping[str, str] = field(default_factory=dict)
    bounded: Callable[[Found], bool] = _any
    bound: str = ""
    key_set: bool = False
    large: bool = False
    pace: float = 0.02


USER = "a user, 10 connections"

ATTACKS: dict[int, Attack] = {
    1: Attack("searches of 100,000 own tasks", USER, searches),
    2: Attack("filters with new shapes in variables", USER, shapes),
    3: Attack("new documents", USER, documents),
    4: Attack(
        "a subscription with an old token, RATE_LIMIT=2000/minute",
        "a user, one socket",
        old_token,
        {"RATE_LIMIT": "2000/minute"},
        _fact("delivered", 4000),
        "at most two minutes' rows delivered",
        pace=0.05,
    ),
    5: Attack("2,000 subscriptions with different aliases", "a user, 40 sockets", subscriptions),
    6: Attack(
        "event streams",
        "a user, up to 3,000 streams",
        event_streams,
        bounded=_fact("held at once", 1000),
        bound="at most 1,000 streams held",
    ),
    7: Attack("incomplete bodies", "anonymous, 1,000 connections, one address", bodies),
    8: Attack("tokens with unknown keys", "anonymous, 1,000 connections and addresses", forged_keys, key_set=True),
    9: Attack("padded documents, also persisted", "anonymous, 10 connections and addresses", padding, large=True),
    10: Attack(
        "X-Forwarded-For of 90 KB, FORWARDED_ALLOW_IPS=*",
        "anonymous, 10 connections",
        forwarded,
        {"FORWARDED_ALLOW_IPS": "*"},
        _refused("RATE_LIMITED"),
        "the rate limit of addresses applies",
    ),
    11: Attack(
        "creates without end, LIMIT_TASKS=5000",
        USER,
        creates,
        {"LIMIT_TASKS": "5000"},
        _refused("LIMIT_EXCEEDED"),
        "the quota applies",
    ),
    13: Attack("variants by @skip and @include", USER, conditions),
    14: Attack("5,000 values in variables, deep lists", USER, variables),
    15: Attack("introspection", "anonymous, 1,000 connections from 10 addresses; a user", introspection),
    16: Attack("a slow query on each connection", "a user, 1,000 connections", crowding),
    17: Attack("50 concurrent slow queries on each socket", "a user, 100 sockets", sockets),
    18: Attack("responses that are not read", "a user, 100 connections, 20 sockets", unread),
    19: Attack("writes that wait for each other", "a user, 50 connections", locks),
    20: Attack("incomplete bodies", "anonymous, 1,000 connections and addresses", scattered_bodies),
    21: Attack("incomplete bodies", "a user, 1,000 connections", users_bodies),
    22: Attack("padded documents, also persisted", USER, users_padding, large=True),
    23: Attack("incomplete heads", "anonymous, 1,000 connections, one address", heads),
    24: Attack("sockets without connection_init", "anonymous, 1,000 connections, one address", silent_sockets),
    25: Attack("5,000 subscriptions to different fields", "a user, 100 sockets", selections),
    26: Attack("responses of 2,000 rows, compressed", USER, compression),
    27: Attack("updates of 1,000 tasks at a time", USER, large_writes),
    28: Attack("slow queries, client disconnects", "a user, 50 connections", hanging_up),
    29: Attack("subscriptions started and completed", "a user, 10 sockets", churn),
    30: Attack("20 mutations of 100 tasks in a request", USER, serial_writes),
    31: Attack("malformed bodies", "anonymous, 1,000 connections, one address", malformed),
    32: Attack("pings of 90 KB", "a user, 10 sockets", pings),
    33: Attack("invalid tokens", "anonymous, 1,000 connections, one address", wrong_tokens),
    34: Attack("/readyz and /metrics", "anonymous, 1,000 connections, one address", probes),
    35: Attack("large undeclared variables", "a user and anonymous, 500 connections each", unused_variables),
}
