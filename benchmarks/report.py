"""Figures of a benchmark with all that a reader needs to judge them, as JSON, a Markdown table and a picture."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from headrace.benchmarks.machine import CHANGED, Machine
from headrace.benchmarks.runner import NOISY_CORES, Comparison, Result, Spread

COLUMNS = (
    "contestant",
    "per second",
    "range",
    "Headrace is",
    "ratio range",
    "target",
    "of the limit",
    "cores used",
    "peak RSS",
    "PSS",
    "first batch",
)
ABOUT = "Headrace and its peers"
EQUAL = "Every contestant has the same photographs, views, cores and batch size"
OURS = "#0b6e8f"
THEIRS = "#b9c2c9"
LIMIT = "#8a2f2f"


@dataclass(frozen=True, kw_only=True)
class Report:
    """One run of one benchmark."""

    benchmark: str
    """Its module: loader, shard or step."""
    date: str
    """Day and time it began, ISO 8601, local with offset."""
    commit: str
    """Source that was measured."""
    machine: Machine
    versions: Mapping[str, str]
    settings: Mapping[str, Any]
    """What was asked for, and what the data was."""
    comparisons: Sequence[Comparison] = field(default_factory=list)
    about: str = ABOUT
    """What is measured, for the heading."""
    equal: str = EQUAL
    """What contestants have in common."""

    @property
    def stem(self) -> str:
        """File name without ending: benchmark, machine, day."""
        return f"{self.benchmark}_{self.machine.slug()}_{self.date[:10]}"

    @property
    def quiet(self) -> bool:
        """Whether other processes left the machine alone, so that the figures may be quoted."""
        return all(each.foreign_cores <= NOISY_CORES for each in self.comparisons)


def now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def as_json(report: Report) -> dict[str, Any]:
    """The report as plain data: every round, and the summary that the table shows."""
    return {
        "benchmark": report.benchmark,
        "date": report.date,
        "commit": report.commit,
        "quiet": report.quiet,
        "machine": asdict(report.machine),
        "versions": dict(report.versions),
        "settings": dict(report.settings),
        "comparisons": [_comparison_json(comparison) for comparison in report.comparisons],
    }


def _comparison_json(comparison: Comparison) -> dict[str, Any]:
    contestants = []
    for result in comparison.results:
        shares = comparison.shares(result.name)
        contestants.append(
            {
                "name": result.name,
                "limit": result.limit,
                "note": result.note,
                **asdict(result.opened),
                "per_second": asdict(Spread.of(result.rates)),
                "headrace_times": asdict(Spread.of(comparison.ratios(result.name))),
                "target": comparison.targets.get(result.name),
                "of_limit": asdict(Spread.of(shares)) if shares else None,
                "cores": Spread.of([each.cores for each in result.rounds]).median,
                "peak_rss_mb": result.peak_rss_mb,
                "pss_mb": result.pss_mb,
                "rounds": [asdict(each) for each in result.rounds],
            }
        )
    return {
        "name": comparison.name,
        "title": comparison.title,
        "reference": comparison.reference,
        "unit": comparison.unit,
        "ratio": comparison.ratio,
        "findings": comparison.findings,
        "foreign_cores": comparison.foreign_cores,
        "contestants": contestants,
        "missing": [asdict(missing) for missing in comparison.missing],
    }


def as_markdown(report: Report) -> str:
    """The tables, with the conditions above and the notes below them."""
    machine = report.machine
    settings = ", ".join(f"{name} {value}" for name, value in report.settings.items())
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    lines = [
        f"# {report.benchmark}: {report.about}",
        "",
        f"- Machine: {machine.cpu}, {machine.cores} of {machine.cores_present} cores, {machine.memory_gb:g} GB"
        + (f", {machine.gpu}" if machine.gpu else "")
        + f"; {machine.system}; Python {machine.python}",
        f"- Date: {report.date}; source: {report.commit or 'unknown'}",
        f"- Settings: {settings}",
        f"- Versions: {versions}",
        "- Rounds run A B C A B C; a ratio is taken inside a round. Figures are medians over the rounds, ranges are "
        f"lowest to highest. {report.equal}; files are in the page cache; an idle contestant is stopped.",
        "- RSS is the sum over a contestant's processes of each one's peak (shared pages count in each), PSS divides "
        "shared pages; both include mapped files. Every process starts with torch, torchvision and Headrace imported; "
        "a first batch includes other imports, the start of workers, and kernels that nothing before has compiled.",
    ]
    if report.commit.endswith(CHANGED):
        lines += ["", "**The sources differ from the commit that is named: do not quote these figures.**"]
    if not report.quiet:
        lines += ["", "**Other processes were busy during this run: do not quote its figures.**"]
    for comparison in report.comparisons:
        lines += ["", f"## {comparison.title}", ""]
        lines += _table(comparison)
        notes = [f"- {result.name}: {result.note}" for result in comparison.results if result.note]
        lines += ["", *notes] if notes else []
        lines += ["", *(f"- {finding}" for finding in comparison.findings)] if comparison.findings else []
    return "\n".join(lines) + "\n"


def _table(comparison: Comparison) -> list[str]:
    heads = list(COLUMNS)
    heads[1], heads[3] = comparison.unit, comparison.ratio
    lines = ["| " + " | ".join(heads) + " |", "| --- " + "| ---: " * (len(heads) - 1) + "|"]
    for result in comparison.results if comparison.curve else sorted(comparison.results, key=_speed, reverse=True):
        rate = Spread.of(result.rates)
        ratio = Spread.of(comparison.ratios(result.name))
        shares = comparison.shares(result.name)
        cells = [
            f"**{result.name}**" if result.name == comparison.reference else result.name,
            figure(rate.median),
            f"{figure(rate.low)} to {figure(rate.high)}",
            f"{times(ratio.median)} x",
            f"{times(ratio.low)} to {times(ratio.high)}",
            _target(comparison, result.name, ratio.median),
            f"{Spread.of(shares).median:.0%}" if shares else "",
            f"{Spread.of([each.cores for each in result.rounds]).median:.2f}",
            f"{result.peak_rss_mb:,.0f} MB",
            f"{result.pss_mb:,.0f} MB",
            f"{result.opened.first_batch_s:.1f} s",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [f"| {each.name} | {each.reason} " + "| " * (len(heads) - 2) + "|" for each in comparison.missing]
    return lines


def _target(comparison: Comparison, name: str, ratio: float) -> str:
    """The ratio that is wanted, and whether the median reaches it; empty where none is."""
    wanted = comparison.targets.get(name)
    return "" if wanted is None else f"{wanted:g} x, {'met' if ratio >= wanted else 'missed'}"


def figure(value: float) -> str:
    """Three significant digits, thousands separated."""
    if value >= 100:
        digits = len(str(int(value))) - 3
        return f"{round(value, -digits):,.0f}"
    return f"{value:.3g}"


def times(ratio: float) -> str:
    """Two decimals, or of a small ratio two digits."""
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.2g}"


def _speed(result: Result) -> float:
    return Spread.of(result.rates).median


def picture(report: Report, path: Path) -> None:
    """One panel of horizontal bars a comparison: medians, with whiskers from the lowest to the highest round."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    heights = [0.42 * len(comparison.results) + 0.75 for comparison in report.comparisons]
    figure_, panels = plt.subplots(
        len(heights),
        figsize=(8.5, sum(heights) + 0.9),
        height_ratios=heights,
        squeeze=False,
        layout=ConstrainedLayoutEngine(h_pad=0.09),
    )
    for panel, comparison in zip(panels[:, 0], report.comparisons, strict=True):
        compared = comparison.ratio.removesuffix(" is")
        results = comparison.results[::-1] if comparison.curve else sorted(comparison.results, key=_speed)
        spreads = [Spread.of(result.rates) for result in results]
        medians = [spread.median for spread in spreads]
        whiskers = [
            [spread.median - spread.low for spread in spreads],
            [spread.high - spread.median for spread in spreads],
        ]
        colours = [OURS if result.name.startswith(comparison.reference) else THEIRS for result in results]
        bars = panel.barh(
            range(len(results)),
            medians,
            xerr=whiskers,
            color=colours,
            height=0.66,
            error_kw={"ecolor": "#333333", "elinewidth": 1.0, "capsize": 2.5},
        )
        for bar, result in zip(bars, results, strict=True):
            if result.limit:
                bar.set(facecolor="none", edgecolor=LIMIT, linestyle="--", linewidth=1.0)
        for row, (result, spread) in enumerate(zip(results, spreads, strict=True)):
            ratio = Spread.of(comparison.ratios(result.name)).median
            beside = "" if result.name == comparison.reference or result.limit else f"   ({compared} {times(ratio)} x)"
            panel.annotate(
                f"{figure(spread.median)}{beside}",
                (spread.high, row),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=8.5,
            )
        panel.set_yticks(range(len(results)), [result.name for result in results], fontsize=9)
        panel.set_xlim(0, max(spread.high for spread in spreads) * 1.28)
        panel.set_title(f"{comparison.title}, {comparison.unit}", loc="left", fontsize=10, fontweight="bold")
        panel.spines[["top", "right", "left"]].set_visible(False)
        panel.tick_params(axis="y", length=0)
        panel.tick_params(axis="x", labelsize=8)
    machine = report.machine
    rounds = len(report.comparisons[0].results[0].rounds)
    caption = (
        f"{machine.gpu or machine.cpu}, {machine.cores} cores, {report.date[:10]}; "
        f"median of {rounds} rounds, whiskers lowest to highest"
    )
    figure_.supxlabel(caption, fontsize=8, color="#555555")
    figure_.savefig(path, dpi=160)
    plt.close(figure_)


def save(report: Report, folder: Path, json_file: Path | None = None) -> list[Path]:
    """Writes JSON, Markdown and PNG to `folder`, and the JSON to `json_file` too; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(as_json(report), indent=1) + "\n"
    paths = [folder / f"{report.stem}{ending}" for ending in (".json", ".md", ".png")]
    replace_file(paths[0], lambda temporary: temporary.write_text(text, encoding="utf-8"))
    replace_file(paths[1], lambda temporary: temporary.write_text(as_markdown(report), encoding="utf-8"))
    replace_file(paths[2], lambda temporary: picture(report, temporary))
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(json_file, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        paths.append(json_file)
    return paths


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Writes aside and renames, so that there is a whole file at any time."""
    temporary = path.with_name(f".{os.getpid()}.{path.name}")  # keeps the ending, which picks the picture's format
    write(temporary)
    temporary.replace(path)
