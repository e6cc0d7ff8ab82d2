"""Formats and stores results: JSON, tables and charts."""

import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from operator import attrgetter
from pathlib import Path
from typing import Any

import orjson

from benchmarks.measure import Round

Rounds = Mapping[str, Mapping[str, Sequence[Round]]]

OURS = "TaskQL"
# CPU time of a request, in milliseconds.
COSTS: Mapping[str, Callable[[Round], float]] = {
    "server": lambda part: part.cost,
    "database": lambda part: part.database_cost,
    "total": lambda part: part.total_cost,
}
RATE: Callable[[Round], float] = attrgetter("rate")


def machine(python: str) -> dict[str, Any]:
    """The date and the machine of the figures."""
    return {
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": python,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def compared(
    rounds: Rounds, single: Rounds, floors: Mapping[str, Mapping[str, float]], calls: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """The figures of each server for each workload, and those of the others relative to TaskQL's, by round."""
    return {
        name: {
            "servers": {
                server: _server(seen, single[name][server]) | {"statements": calls[name][server]}
                for server, seen in found.items()
            },
            "ratio": {other: _ratios(found[OURS], seen) for other, seen in found.items() if other != OURS},
            "pgbench": floors.get(name),
        }
        for name, found in rounds.items()
    }


def costs_of(rounds: Rounds) -> dict[str, Any]:
    """Only the cost and rate of each server for each workload."""
    figures = {"total": COSTS["total"], "rate": RATE}
    return {
        name: {
            server: {title: spread([figure(part) for part in seen]) for title, figure in figures.items()}
            for server, seen in found.items()
        }
        for name, found in rounds.items()
    }


def _server(seen: Sequence[Round], alone: Sequence[Round]) -> dict[str, Any]:
    figures: dict[str, Callable[[Round], float]] = {
        **COSTS,
        "rate": RATE,
        "p50": lambda part: part.median * 1000,
        "p99": lambda part: part.high * 1000,
        "server_core": lambda part: part.server_cpu / part.seconds,
        "client_core": lambda part: part.client_cpu / part.seconds,
        "database_core": lambda part: part.database_cpu / part.seconds,
    }
    result: dict[str, Any] = {name: spread([figure(part) for part in seen]) for name, figure in figures.items()}
    alone_figures = (*COSTS, "p50", "p99")
    return result | {"alone": {name: spread([figures[name](part) for part in alone]) for name in alone_figures}}


def _ratios(ours: Sequence[Round], theirs: Sequence[Round]) -> dict[str, Any]:
    pairs = list(zip(ours, theirs, strict=True))
    figures = {**COSTS, "rate": RATE}
    return {name: spread([figure(their) / figure(our) for our, their in pairs]) for name, figure in figures.items()}


def costs(workloads: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    """A Markdown table of the CPU time of requests."""
    servers = _servers(workloads)
    heads = [f"{server}, ms" for server in servers] + [f"{server}, total relative to TaskQL" for server in servers[1:]]
    return _table(heads, {f"{name} {titles[name]}": _cost(found) for name, found in workloads.items()})


def speeds(workloads: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    """A Markdown table of rates and latencies, under load and with one connection."""
    servers = _servers(workloads)
    heads = [f"{server}, requests/s" for server in servers] + ["pgbench"]
    heads += [f"{server}, p50 and p99, ms" for server in servers] + [f"{server}, alone" for server in servers]
    return _table(heads, {f"{name} {titles[name]}": _speed(found) for name, found in workloads.items()})


def loads(workloads: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    """A Markdown table of how busy the servers' core was, and of the statements per request."""
    servers = _servers(workloads)
    heads = [f"{server}, core busy, %" for server in servers] + [f"{server}, statements" for server in servers]
    return _table(heads, {f"{name} {titles[name]}": _load(found) for name, found in workloads.items()})


def others(more: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    """A Markdown table of cost and rate of the other workloads."""
    servers = list(next(iter(more.values())))
    heads = [f"{server}, total ms" for server in servers] + [f"{server}, requests/s" for server in servers]
    return _table(heads, {titles[name]: _other(found) for name, found in more.items()})


def _servers(workloads: Mapping[str, Any]) -> list[str]:
    return list(next(iter(workloads.values()))["servers"])


def _cost(found: Mapping[str, Any]) -> list[str]:
    costs = [
        f"{side['server']['median']:.3f} + {side['database']['median']:.3f} = **{side['total']['median']:.3f}**"
        for side in found["servers"].values()
    ]
    ratios = [other["total"] for other in found["ratio"].values()]
    return costs + [f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})" for ratio in ratios]


def _speed(found: Mapping[str, Any]) -> list[str]:
    sides = list(found["servers"].values())
    floor = f"{found['pgbench']['rate']:,.0f}" if found["pgbench"] else ""
    latencies = [*sides, *(side["alone"] for side in sides)]
    rates = [f"{side['rate']['median']:,.0f}" for side in sides]
    return [*rates, floor, *(f"{side['p50']['median']:.2f}, {side['p99']['median']:.2f}" for side in latencies)]


def _load(found: Mapping[str, Any]) -> list[str]:
    sides = found["servers"].values()
    busy = [f"{side['server_core']['median']:.0%}".rstrip("%") for side in sides]
    return busy + [f"{side['statements']:.1f}" for side in sides]


def _other(found: Mapping[str, Any]) -> list[str]:
    costs = [f"{side['total']['median']:.2f}" for side in found.values()]
    return costs + [f"{side['rate']['median']:,.0f}" for side in found.values()]


def _table(heads: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    ruler = "|---" * (len(heads) + 1) + "|\n"
    return _row("", heads) + ruler + "".join(_row(title, cells) for title, cells in rows.items())


def text(results: Mapping[str, Any]) -> str:
    """Tables of all other results."""
    return orjson.dumps(_rounded(results), option=orjson.OPT_INDENT_2).decode()


def _row(title: str, cells: Sequence[str]) -> str:
    return "| " + " | ".join([title, *cells]) + " |\n"


def memory(results: Mapping[str, Any]) -> str:
    """A Markdown table of the servers' idle memory, and of the effect of many different operations."""
    both = [results["different_operations"][name] for name in ("TaskQL", "plain")]
    counts = [int(name.rpartition("_")[2]) for name in both[0] if name.startswith("memory_after_")]
    titles = {
        "memory when idle, MB": "idle_memory",
        **{f"after {count:,} different operations, MB": f"memory_after_{count}" for count in counts},
        "CPU of W1 before them, ms": "cost_before",
        "CPU of W1 after them, ms": "cost_after",
    }
    rows = [_row(title, [f"{found[name]:.4g}" for found in both]) for title, name in titles.items()]
    loaded = _row("after W1 to W7, MB", [f"{results['memory_after_load'][name]:.4g}" for name in ("TaskQL", "plain")])
    return "".join(("| | TaskQL | plain |\n|---|---|---|\n", *rows, loaded))


def workers(found: Mapping[str, Any]) -> str:
    """A Markdown table of one and several processes, not pinned, on the same cores as PostgreSQL and the load."""
    rows = [
        _row(number, [f"{seen['rate']:,.0f}", f"{seen['cpu']:.2f}", f"{seen['memory']:.0f}"])
        for number, seen in found.items()
    ]
    return "".join(("| `--workers` | W1, requests/s | CPU, ms | memory, MB |\n|---|---|---|---|\n", *rows))


def scaled(results: Mapping[str, Any]) -> str:
    """Markdown tables of latency at each size, with one user and with any, by PostgreSQL's memory."""
    sizes = "".join(f" {count:,} |" for count in results["tasks"])
    head = f"| p50 (p95), ms |{sizes} growth (min to max) | limit |\n|---|{'---|' * len(results['tasks'])}---|---|\n"
    kinds = {
        "A different user each time, tables and indexes in PostgreSQL's memory": "any_user",
        "The same user each time, otherwise as before": "one_user",
        "A different user each time, 128 MB of memory, pages from the system's cache or the disk": "any_user_elsewhere",
    }
    tables = {title: "".join(_latency(*item) for item in results[kind].items()) for title, kind in kinds.items()}
    most, count = results["bytes_a_task"][-1], results["tasks"][-1]
    room = f"At {count:,} tasks, a task takes {most:,.0f} bytes, including its tags and index entries.\n"
    return "\n".join((*(f"{title}:\n\n{head}{rows}" for title, rows in tables.items()), room))


def _latency(name: str, found: Mapping[str, Any]) -> str:
    sizes = zip(found["p50"], found["p95"], strict=True)
    growth = found["growth"]
    return _row(
        name,
        [
            *(f"{low['median']:.2f} ({high['median']:.2f})" for low, high in sizes),
            f"{growth['median']:.2f} ({growth['min']:.2f} to {growth['max']:.2f})",
            str(found["limit"]),
        ],
    )


def live(results: Mapping[str, Any]) -> str:
    """Markdown tables of the latency of changes, the cost of idle sockets, and the cost of notifications."""
    titles = {"spread": "1,000 sockets, 4 per user, 50 writes per second", "one_user": "1,000 sockets of one user"}
    rows = [_latencies(title, results[name]) for name, title in titles.items()]
    idle = results["idle"]
    sentence = (
        f"{idle['sockets']:,} idle sockets: {idle['kilobytes_each']:.1f} KB each,"
        f" {idle['cpu_in_10_s']:.2f} s of CPU in 10 s.\n"
    )
    head = "| creates per second, by pgbench's connections | all followed | none followed |\n|---|---|---|\n"
    notices = [_row(n, [f"{both['followed']:,.0f}", f"{both['alone']:,.0f}"]) for n, both in results["notices"].items()]
    return f"{LATENCIES}{''.join(rows)}\n{sentence}\n{head}{''.join(notices)}"


def killed(results: Mapping[str, Any]) -> str:
    """The kills and their effects, in Markdown."""
    counts = ", ".join(f"{count:,} of {kind}" for kind, count in results["killed"].items())
    return (
        f"Killed: {counts}. Acknowledged writes: {results['acknowledged_writes']:,}. In the end each of"
        f" {results['copies']} copies was equal to the database; {results['came_again']:,} changes were repeated,"
        f" {results['began_anew']:,} copies needed a full sync.\n\n"
        f"{LATENCIES}{_latencies('through kills', results['latency'])}"
    )


LATENCIES = "| from the write to the client, ms | changes | p50 | p95 | p99 |\n|---|---|---|---|---|\n"


def _latencies(title: str, found: Mapping[str, Any]) -> str:
    shown = [f"{found['percentiles'][share - 1]:.1f}" for share in (50, 95, 99)]
    return _row(title, [f"{found['changes']:,}", *shown])


def counted(workloads: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    """A Markdown table of the instructions of a request: in total, and by library."""
    libraries = [name for name in next(iter(workloads.values()))["TaskQL"] if name != "all"]
    head = ["", "Instructions of a request, thousands", "plain", "ratio", *(f"{name}, %" for name in libraries)]
    table = f"| {' | '.join(head)} |\n|{'---|' * len(head)}\n"
    for name, found in workloads.items():
        ours, plain = found["TaskQL"], found["plain"]["all"]
        shares = [f"{ours[library] / ours['all']:.1%}".rstrip("%") for library in libraries]
        cells = [f"{ours['all'] / 1000:,.0f}", f"{plain / 1000:,.0f}", f"{plain / ours['all']:.1f}", *shares]
        table += _row(f"{name} {titles[name]}", cells)
    return table


def keep(folder: Path, name: str, results: Mapping[str, Any], tables: str, picture: str | None) -> None:
    """Store the results as NAME.json, their tables as NAME.md, and the chart, if any, as NAME.svg."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(text(results) + "\n")
    (folder / f"{name}.md").write_text(tables)
    if picture:
        (folder / f"{name}.svg").write_text(picture)


def _rounded(value: Any) -> Any:
    """Round to four digits, which is more precise than the measurements."""
    if isinstance(value, Mapping):
        return {name: _rounded(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
