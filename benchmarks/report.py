"""What was measured, as JSON, as tables and as a picture."""

import os
import platform
import statistics
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from benchmarks.measure import Round

Rounds = Mapping[str, Mapping[str, Sequence[Round]]]
COLOURS = {"plain": "#b8b8b8", "TaskQL": "#2f6fde"}
LEFT, BAR, GAP, WIDTH = 250, 13, 12, 430


def machine(python: str) -> dict[str, Any]:
    """What the figures hold for."""
    return {
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": python,
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
    }


def interpreter() -> str:
    """The version of this Python, and whether it was built to be fast."""
    arguments = sysconfig.get_config_var("CONFIG_ARGS") or ""
    flags = sysconfig.get_config_var("PY_CORE_CFLAGS") or ""
    profiled = "--enable-optimizations" in arguments or "-fprofile-use" in flags
    return f"CPython {platform.python_version()}, {'with' if profiled else 'without'} profile-guided optimization"


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def compared(
    rounds: Rounds, single: Rounds, floors: Mapping[str, Mapping[str, float]], calls: Mapping[str, Mapping[str, float]]
) -> dict[str, Any]:
    """For each workload what each server did, and how they compare round by round."""
    return {
        name: {
            **{
                server: _server(seen, single[name][server]) | {"statements": calls[name][server]}
                for server, seen in both.items()
            },
            "ratio": {
                "cpu": spread(_ratios(both, lambda seen: seen.cost)),
                "rate": spread([1 / value for value in _ratios(both, lambda seen: seen.rate)]),
            },
            "pgbench": floors.get(name),
        }
        for name, both in rounds.items()
    }


def costs_of(rounds: Rounds) -> dict[str, Any]:
    """For each workload and server its cost and rate alone."""
    return {
        name: {
            server: {"cpu": spread([part.cost for part in seen]), "rate": spread([part.rate for part in seen])}
            for server, seen in both.items()
        }
        for name, both in rounds.items()
    }


def _server(seen: Sequence[Round], alone: Sequence[Round]) -> dict[str, Any]:
    figures: dict[str, Callable[[Round], float]] = {
        "cpu": lambda part: part.cost,
        "rate": lambda part: part.rate,
        "p50": lambda part: part.median * 1000,
        "p99": lambda part: part.high * 1000,
        "server_core": lambda part: part.server_cpu / part.seconds,
        "client_core": lambda part: part.client_cpu / part.seconds,
        "database_core": lambda part: part.database_cpu / part.seconds,
    }
    result: dict[str, Any] = {name: spread([figure(part) for part in seen]) for name, figure in figures.items()}
    return result | {"alone": {name: spread([figures[name](part) for part in alone]) for name in ("cpu", "p50", "p99")}}


def _ratios(both: Mapping[str, Sequence[Round]], figure: Callable[[Round], float]) -> list[float]:
    return [figure(plain) / figure(ours) for ours, plain in zip(both["TaskQL"], both["plain"], strict=True)]


COST = """| | CPU of a request, ms | plain | times less (least to most) | statements | plain |
|---|---|---|---|---|---|
"""
MORE = """| | CPU of a request, ms | plain | requests/s | plain |
|---|---|---|---|---|
"""
SPEED = """| | requests/s | plain | pgbench | p50 and p99, ms | plain | alone | plain |
|---|---|---|---|---|---|---|---|
"""


def costs(workloads: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    """What requests cost, as a table in Markdown."""
    return COST + "".join(_row(f"{name} {titles[name]}", _cost(found)) for name, found in workloads.items())


def speeds(workloads: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    """How fast answers come, under load and with one connection, as a table in Markdown."""
    return SPEED + "".join(_row(f"{name} {titles[name]}", _speed(found)) for name, found in workloads.items())


def others(more: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    """Cost and speed of what is measured besides, as a table in Markdown."""
    return MORE + "".join(_row(titles[name], _other(found)) for name, found in more.items())


def _other(found: Mapping[str, Any]) -> list[str]:
    ours, plain = found["TaskQL"], found["plain"]
    costs = [f"{side['cpu']['median']:.2f}" for side in (ours, plain)]
    return [*costs, *(f"{side['rate']['median']:,.0f}" for side in (ours, plain))]


def text(results: Mapping[str, Any]) -> str:
    """Whatever else there is."""
    return orjson.dumps(_rounded(results), option=orjson.OPT_INDENT_2).decode()


def _cost(found: Mapping[str, Any]) -> list[str]:
    ours, plain, ratio = found["TaskQL"], found["plain"], found["ratio"]["cpu"]
    return [
        f"{ours['cpu']['median']:.3f}",
        f"{plain['cpu']['median']:.2f}",
        f"{ratio['median']:.1f} ({ratio['min']:.1f} to {ratio['max']:.1f})",
        *(f"{side['statements']:.1f}" for side in (ours, plain)),
    ]


def _speed(found: Mapping[str, Any]) -> list[str]:
    both = (found["TaskQL"], found["plain"])
    floor = f"{found['pgbench']['rate']:,.0f}" if found["pgbench"] else ""
    alone = [side["alone"] for side in both]
    rates = [f"{side['rate']['median']:,.0f}" for side in both]
    return [*rates, floor, *(f"{side['p50']['median']:.2f}, {side['p99']['median']:.2f}" for side in (*both, *alone))]


def _row(title: str, cells: Sequence[str]) -> str:
    return "| " + " | ".join([title, *cells]) + " |\n"


def chart(workloads: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    """Bars of CPU a request, as SVG."""
    most = max(found["plain"]["cpu"]["median"] for found in workloads.values())
    bars, top = [], 46
    for name, found in workloads.items():
        bars.append(_text(LEFT - 10, top + BAR + 4, f"{name} {titles[name]}", "end"))
        for server in ("plain", "TaskQL"):
            cost = found[server]["cpu"]["median"]
            width = max(cost / most * WIDTH, 1)
            bars.append(f'<rect x="{LEFT}" y="{top}" width="{width:.1f}" height="{BAR}" fill="{COLOURS[server]}"/>')
            times = f": {found['ratio']['cpu']['median']:.1f} times less" if server == "TaskQL" else ""
            bars.append(_text(LEFT + width + 6, top + BAR - 2, f"{cost:.2f} ms{times}"))
            top += BAR
        top += GAP
    legend = [_text(LEFT, 30, "CPU of the server for a request, in ms: Strawberry with SQLAlchemy's ORM, and TaskQL")]
    return _svg(LEFT + WIDTH + 130, top + 4, [*legend, *bars])


def _text(x: float, y: float, words: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{words}</text>'


def _svg(width: int, height: int, parts: Sequence[str]) -> str:
    style = 'font-family="sans-serif" font-size="12" fill="#444"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" {style}>'
    return "\n".join([head, f'<rect width="{width}" height="{height}" fill="#fff"/>', *parts, "</svg>", ""])


def write(folder: Path, name: str, results: Mapping[str, Any]) -> Path:
    """The results as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    rounded = _rounded(results)
    path.write_bytes(orjson.dumps(rounded, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    return path


def _rounded(value: Any) -> Any:
    """Four digits are more than the noise allows."""
    if isinstance(value, Mapping):
        return {name: _rounded(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_rounded(inner) for inner in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
