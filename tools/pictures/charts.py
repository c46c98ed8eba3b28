"""Charts as inline SVG: line charts and class maps that take their colours from the page, light or dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 400, 220  # user units; a phone shows them at 0.85 of a pixel, a column of a desk at 1.2
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 12, 42
COLORS = 8  # of lines, which the page has
MAX_POINTS = 600  # a line has no more points than the screen has pixels for them


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """At most `most` + 1 round numbers that cover [low, high] in steps of 1, 2 or 5 times a power of ten."""
    span = max(high - low, 1e-12)
    step = 10.0 ** math.floor(math.log10(span / most))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= most)
    first, last = math.floor(low / step), math.ceil(high / step)
    if last - first > most:  # rounding outward may add a step at both ends
        first, last = math.ceil(low / step), math.floor(high / step)
    return [step * i for i in range(first, last + 1)]


def number(value: float) -> str:
    """A tick label: 12000 as 12k, no trailing zeros."""
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:.6g}"


def line_chart(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    label: str,
    x_label: str = "step",
    percent: bool = False,
    from_zero: bool = False,
) -> str:
    """An SVG of one line a series (name to x and y); `label` names the y axis and its unit.

    With `percent`, y holds shares of 1. With `from_zero`, the y axis starts at 0.
    """
    drawn = {name: _thin(np.asarray(x, float), np.asarray(y, float)) for name, (x, y) in series.items()}
    drawn = {name: (x, y) for name, (x, y) in drawn.items() if len(x)}
    if not drawn:
        return f'<p class="note">No values of {escape(label)} were logged.</p>'
    scale = 100.0 if percent else 1.0
    all_x = np.concatenate([x for x, _ in drawn.values()])
    all_y = np.concatenate([y for _, y in drawn.values()]) * scale
    low = 0.0 if from_zero else float(all_y.min())
    x_ticks = ticks(float(all_x.min()), float(all_x.max()) if np.ptp(all_x) else float(all_x.min()) + 1, 6)
    y_ticks = ticks(low, float(all_y.max()) if all_y.max() > low else low + 1)
    x_range = float(all_x.min()), max(float(all_x.max()), float(all_x.min()) + 1)
    y_range = min(y_ticks[0], low), max(y_ticks[-1], float(all_y.max()))

    def px(x: float) -> float:
        return LEFT + (x - x_range[0]) / (x_range[1] - x_range[0]) * (WIDTH - LEFT - RIGHT)

    def py(y: float) -> float:
        return HEIGHT - BOTTOM - (y - y_range[0]) / (y_range[1] - y_range[0]) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">']
    for tick in y_ticks:
        line = f"{py(tick):.1f}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{line}" y2="{line}"/>')
        text = number(tick) + ("%" if percent else "")
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{line}" dy=".32em" text-anchor="end">{text}</text>')
    for tick in x_ticks:
        if x_range[0] <= tick <= x_range[1]:
            parts.append(
                f'<text class="tick" x="{px(tick):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">'
                f"{number(tick)}</text>"
            )
    parts.append(
        f'<text class="axis" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}" text-anchor="middle">'
        f"{escape(x_label)}</text>"
    )
    for place, (name, (x, y)) in enumerate(drawn.items()):
        color = place % COLORS
        points = " ".join(f"{px(a):.1f},{py(b * scale):.1f}" for a, b in zip(x, y, strict=True))
        parts.append(f'<polyline class="line s{color}" points="{points}"><title>{escape(name)}</title></polyline>')
        if len(x) == 1:
            parts.append(f'<circle class="dot s{color}" cx="{px(x[0]):.1f}" cy="{py(y[0] * scale):.1f}" r="4"/>')
    parts.append("</svg>")
    return "".join(parts)


def legend(names: Sequence[str]) -> str:
    """The key of a line chart with these series; nothing for a single one."""
    if len(names) < 2:
        return ""
    keys = "".join(
        f'<span><svg viewBox="0 0 18 4"><line class="line s{i % COLORS}" x1="0" x2="18" y1="2" y2="2"/></svg>'
        f"{escape(name)}</span>"
        for i, name in enumerate(names)
    )
    return f'<div class="legend">{keys}</div>'


def class_map(points: NDArray[np.floating], classes: NDArray[np.integer], names: Mapping[int, str]) -> str:
    """An SVG of points (n, 2), one colour a class (n,), each class's name written at its middle.

    Every dot carries `data-i`, its row, so that the page can show the sample behind it.
    """
    side = 640
    spread = points - points.min(axis=0)
    spread = 16 + spread / max(float(spread.max()), 1e-12) * (side - 32)
    extent = spread.max(axis=0) + 16
    parts = [f'<svg class="map" viewBox="0 0 {extent[0]:.0f} {extent[1]:.0f}" role="img" aria-label="feature map">']
    for i, ((x, y), c) in enumerate(zip(spread, classes, strict=True)):
        parts.append(f'<circle class="k{c % 10}" cx="{x:.1f}" cy="{y:.1f}" r="3.2" data-i="{i}"/>')
    for c in np.unique(classes).tolist():
        x, y = np.median(spread[classes == c], axis=0)
        parts.append(f'<text class="class" x="{x:.1f}" y="{y:.1f}" dy=".35em">{escape(names[c])}</text>')
    parts.append("</svg>")
    return "".join(parts)


def _thin(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Finite points only, averaged in equal runs down to at most MAX_POINTS."""
    finite = np.isfinite(x) & np.isfinite(y)
    x, y = x[finite], y[finite]
    if len(x) <= MAX_POINTS:
        return x, y
    edges = np.linspace(0, len(x), MAX_POINTS + 1).astype(int)[:-1]
    counts = np.diff(np.append(edges, len(x)))
    return np.add.reduceat(x, edges) / counts, np.add.reduceat(y, edges) / counts
