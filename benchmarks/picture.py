"""Charts of results, as SVG."""

from collections.abc import Mapping, Sequence
from math import log10
from typing import Any

COLOURS = {"TaskQL": "#2f6fde", "Mercurius": "#2e8b57", "plain": "#8a8a8a"}
LEFT, BAR, GAP, WIDTH = 250, 13, 12, 430
LINES = ("#2f6fde", "#d1495b", "#2e8b57", "#e09f3e", "#6f4e9c", "#00798c", "#7a7a7a")
HEIGHT, STEP = 220, 200


def costs(workloads: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    """CPU time of a request: for each workload a bar for each server, PostgreSQL's part lighter."""
    most = max(side["total"]["median"] for found in workloads.values() for side in found["servers"].values())
    parts, top = [_text(LEFT, 30, "CPU of a request, ms: the server, and PostgreSQL (lighter)")], 46
    for name, found in workloads.items():
        middle = top + BAR * (len(found["servers"]) + 1) / 2
        parts.append(_text(10, middle, f"{name} {titles[name]}"))
        for server, side in found["servers"].items():
            own, both = side["server"]["median"] / most * WIDTH, side["total"]["median"] / most * WIDTH
            parts.append(_rectangle(LEFT, top, max(own, 1), COLOURS[server]))
            parts.append(_rectangle(LEFT + own, top, max(both - own, 1), COLOURS[server], opacity=0.5))
            parts.append(_text(LEFT + both + 6, top + BAR - 2, f"{side['total']['median']:.2f} {server}"))
            top += BAR
        top += GAP
    return _svg(LEFT + WIDTH + 130, top + 4, parts)


def growth(tasks: Sequence[int], queries: Mapping[str, Any]) -> str:
    """The median latency of each query by the size of the table: a line for each query."""
    places = [60 + STEP * place for place in range(len(tasks))]
    most = max(size["median"] for found in queries.values() for size in found["p50"])
    parts = [_text(60, 20, "Latency of any user with 10,000 tasks, in ms, by the tasks of all users (median)")]
    parts += [_text(x, HEIGHT + 56, f"{count:,}", "middle") for x, count in zip(places, tasks, strict=True)]
    ends = _apart([_height(found["p50"][-1]["median"], most) for found in queries.values()])
    for (name, found), colour, end in zip(queries.items(), LINES, ends, strict=False):
        points = [f"{x},{_height(size['median'], most):.1f}" for x, size in zip(places, found["p50"], strict=True)]
        parts.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(_text(places[-1] + 8, end + 4, f"{found['p50'][-1]['median']:.2f} {name}"))
    return _svg(places[-1] + 200, HEIGHT + 70, parts)


def memory(readings: Sequence[tuple[int, float]]) -> str:
    """Memory in MB by the number of requests."""
    most, last = max(size for _, size in readings), readings[-1]
    points = [f"{60 + number / last[0] * WIDTH:.1f},{_height(size, most):.1f}" for number, size in readings]
    parts = [_text(60, 20, "Memory of the server in MB, by requests")]
    parts.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="{LINES[0]}" stroke-width="2"/>')
    parts += [_text(60, HEIGHT + 56, "0"), _text(60 + WIDTH, HEIGHT + 56, f"{last[0]:,}", "middle")]
    parts.append(_text(68 + WIDTH, _height(last[1], most) + 4, f"{last[1]:.1f}"))
    return _svg(WIDTH + 140, HEIGHT + 70, parts)


def latencies(percentiles: Mapping[str, Sequence[float]]) -> str:
    """Latency by percentile, on a logarithmic scale from 1 ms to 10 s: a line for each series."""
    parts, decades = [_text(60, 20, "From the write to the client, in ms, by the share of changes that came sooner")], 4
    for power in range(decades + 1):
        y = 36 + HEIGHT - power / decades * HEIGHT
        parts.append(f'<line x1="60" x2="{60 + WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(_text(52, y + 4, f"{10**power:,}", "end"))
    parts += [_text(60 + WIDTH * share / 100, HEIGHT + 56, f"{share} %", "middle") for share in (0, 50, 90)]
    for place, (name, found) in enumerate(percentiles.items()):
        heights = [36 + HEIGHT - min(max(log10(ms), 0), decades) / decades * HEIGHT for ms in found]
        points = " ".join(f"{60 + WIDTH * share / 100:.1f},{y:.1f}" for share, y in enumerate(heights, 1))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{LINES[place]}" stroke-width="2"/>')
        parts.append(f'<text x="{70 + WIDTH}" y="{56 + 18 * place}" style="fill: {LINES[place]}">{name}</text>')
    return _svg(WIDTH + 320, HEIGHT + 70, parts)


def _height(value: float, most: float) -> float:
    return 36 + HEIGHT - value / most * (HEIGHT - 20)


def _apart(heights: Sequence[float]) -> list[float]:
    """Positions of labels at the ends of lines, without overlaps."""
    result, last = dict.fromkeys(range(len(heights)), 0.0), 0.0
    for place, height in sorted(enumerate(heights), key=lambda item: item[1]):
        last = result[place] = max(height, last + 14)
    return list(result.values())


def _rectangle(left: float, top: int, width: float, colour: str, opacity: float = 1) -> str:
    size = f'x="{left:.1f}" y="{top}" width="{width:.1f}" height="{BAR}"'
    return f'<rect {size} fill="{colour}" fill-opacity="{opacity}"/>'


def _text(x: float, y: float, words: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{words}</text>'


def _svg(width: int, height: int, parts: Sequence[str]) -> str:
    style = 'font-family="sans-serif" font-size="12" fill="#444"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" {style}>'
    return "\n".join([head, f'<rect width="{width}" height="{height}" fill="#fff"/>', *parts, "</svg>", ""])
