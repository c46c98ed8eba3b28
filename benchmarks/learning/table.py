"""Rows of what methods learn, as JSON, a table and a picture."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headrace.benchmarks.learning.records import Trial
from headrace.benchmarks.learning.sets import SETS
from headrace.benchmarks.learning.speed import Speed
from headrace.benchmarks.learning.unlearnt import UNLEARNT
from headrace.benchmarks.machine import CHANGED, Machine
from headrace.benchmarks.report import OURS, THEIRS, figure, replace_file
from headrace.benchmarks.runner import NOISY_CORES

TITLES = {"knn": "k-NN", "linear": "linear"}
CHOSEN = (
    "The settings of most small recipes were chosen by scores on the same test samples, mostly with the first seed: "
    "what is trained has a start over what is not, over the input, and over lightly, which takes the settings that "
    "were chosen for ours. Settings that are chosen from now on are by held-out training samples (`--choose`).",
)
"""How settings were, for readers of the scores."""
SHORT = 7
"""Characters of a commit's name in a table."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method on one set by one probe. Scores are accuracies, 0 to 1, means over the seeds."""

    method: str
    data: str
    probe: str
    """knn or linear."""
    score: float
    untrained: float
    input: float
    """Without an encoder, of raw pixels for instance."""
    peer: float | None
    """None where there is no peer."""
    samples_per_s: float | None
    """Of the training, the median over the rounds; None where it was not measured."""
    peer_samples_per_s: float | None
    seeds: list[int]
    scores: list[float]
    """By seed."""
    untrained_scores: list[float]
    peer_scores: list[float] | None
    commits: list[str]
    """Of the sources that the trainings ran with."""
    speeds: Speed | None


def row(probe: str, given: Trial, ours: Sequence[Trial], theirs: Sequence[Trial], speed: Speed | None) -> Row:
    """Means and values of one probe over the seeds.

    Args:
        given: the input itself.
        ours, theirs: a trial a seed; `theirs` is empty where there is no peer.
    """
    scores = [each.scores[probe] for each in ours]
    before = [each.untrained[probe] for each in ours if each.untrained]
    peer = [each.scores[probe] for each in theirs]
    return Row(
        method=ours[0].method,
        data=ours[0].data,
        probe=probe,
        score=statistics.mean(scores),
        untrained=statistics.mean(before),
        input=given.scores[probe],
        peer=statistics.mean(peer) if peer else None,
        samples_per_s=statistics.median(speed.ours) if speed else None,
        peer_samples_per_s=statistics.median(speed.peer) if speed and speed.peer else None,
        seeds=[each.seed for each in ours],
        scores=scores,
        untrained_scores=before,
        peer_scores=peer or None,
        commits=sorted({each.commit for each in (*ours, *theirs)}),
        speeds=speed,
    )


@dataclass(frozen=True, kw_only=True)
class MethodsReport:
    """One run of this benchmark."""

    date: str
    commit: str
    machine: Machine
    versions: dict[str, str]
    settings: dict[str, Any]
    rows: list[Row]
    missing: dict[str, str]
    """Why a set, or a method, by its name, is not in the rows."""

    @property
    def stem(self) -> str:
        """File name without ending: benchmark, machine, day."""
        return f"methods_{self.machine.slug()}_{self.date[:10]}"

    @property
    def quiet(self) -> bool:
        """Whether other processes left the machine alone while speed was measured."""
        return all(each.speeds is None or each.speeds.foreign_cores <= NOISY_CORES for each in self.rows)


def as_markdown(report: MethodsReport) -> str:
    """The tables, with the conditions above."""
    where = report.machine
    commits = {report.commit, *(commit for each in report.rows for commit in each.commits)}
    lines = [
        "# methods: what they learn",
        "",
        f"- Machine: {where.cpu}, {where.cores} of {where.cores_present} cores, {where.memory_gb:g} GB; "
        f"{where.system}; Python {where.python}",
        f"- Date: {report.date}; source: {report.commit or 'unknown'}",
        f"- Settings: {', '.join(f'{name} {value}' for name, value in report.settings.items())}",
        f"- Versions: {', '.join(f'{name} {version}' for name, version in report.versions.items())}",
        "- Accuracy on test samples of probes on frozen features, in per cent: means over the seeds, lowest to highest "
        "in brackets. Every method takes its recipe `NAME_small`; on one set all see the same number of samples.",
        "- Lightly: its heads and loss in a plain loop, with the same batches, backbone, steps and optimiser. Samples "
        "a second are of whole training steps, taken apart from the scores: short trainings of both in turn, medians.",
        "- The last column names the commits whose sources a row was trained with.",
        *(f"- {line}" for line in CHOSEN),
    ]
    if any(commit.endswith(CHANGED) for commit in commits):
        lines += ["", "**The sources differ from the commit that is named: do not quote these figures.**"]
    if not report.quiet:
        lines += ["", "**Other processes were busy while speed was measured: do not quote samples a second.**"]
    for data, probe, rows in _tables(report):
        learning = SETS[data]
        heads = (
            "seeds",
            "trained",
            "untrained",
            learning.input_title,
            "lightly",
            "samples/s",
            "lightly, samples/s",
            "commit",
        )
        lines += ["", f"## {learning.title}, {TITLES[probe]}", ""]
        lines += [f"{learning.about}.", ""]
        lines += [f"| method | {' | '.join(heads)} |", "| --- |" + " ---: |" * len(heads)]
        for each in rows:
            cells = [
                str(len(each.seeds)),
                _percent(each.scores),
                _percent(each.untrained_scores),
                _percent([each.input]),
                _percent(each.peer_scores) if each.peer_scores else "",
                figure(each.samples_per_s) if each.samples_per_s is not None else "",
                figure(each.peer_samples_per_s) if each.peer_samples_per_s is not None else "",
                ", ".join(_short(commit) for commit in each.commits),
            ]
            lines.append(f"| {each.method} | {' | '.join(cells)} |")
    if report.missing:
        lines += ["", "## Not measured", "", *(f"- {name}: {reason}" for name, reason in report.missing.items())]
    if UNLEARNT:
        lines += ["", "## Not shown to learn", ""]
        lines += ["Three seeds are to beat the untrained encoder by more than they spread, in one probe on one set."]
        lines += ["", *(f"- {name}: {reason}" for name, reason in UNLEARNT.items())]
    return "\n".join(lines) + "\n"


def _tables(report: MethodsReport) -> list[tuple[str, str, list[Row]]]:
    """Set, probe and rows of each table."""
    names = dict.fromkeys((each.data, each.probe) for data in SETS for each in report.rows if each.data == data)
    return [
        (data, probe, [each for each in report.rows if (each.data, each.probe) == (data, probe)])
        for data, probe in names
    ]


def _short(commit: str) -> str:
    return commit[:SHORT] + (CHANGED if commit.endswith(CHANGED) else "")


def _percent(scores: Sequence[float]) -> str:
    low, mean, high = (100 * f(scores) for f in (min, statistics.mean, max))
    return f"{mean:.1f}" if len(scores) == 1 else f"{mean:.1f} ({low:.1f} to {high:.1f})"


def picture(report: MethodsReport, path: Path) -> None:
    """A row of panels a set, one a probe: bars of ours and lightly's with whiskers from lowest to highest, ticks for
    the untrained encoder, and a line for the input."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    tables = _tables(report)
    sets = list(dict.fromkeys(data for data, _, _ in tables))
    heights = [0.6 * max(len(rows) for data, _, rows in tables if data == name) + 0.8 for name in sets]
    figure_, panels = plt.subplots(
        len(sets),
        len(TITLES),
        figsize=(10.0, sum(heights) + 1.0),
        height_ratios=heights,
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    for data, probe, rows in tables:
        panel = panels[sets.index(data), list(TITLES).index(probe)]
        for place, each in enumerate(rows):
            bars = ((each.scores, OURS, "Headrace", -0.2), (each.peer_scores, THEIRS, "lightly", 0.2))
            for scores, colour, label, offset in bars:
                if scores is None:
                    continue
                mean = statistics.mean(scores)
                whiskers = [[100 * (mean - min(scores))], [100 * (max(scores) - mean)]]
                panel.barh(
                    place + offset, 100 * mean, xerr=whiskers, height=0.38, color=colour, label=label, ecolor="#333333"
                )
            mark = panel.scatter(100 * each.untrained, place, marker="|", s=260, color="#8a2f2f", zorder=3)
            mark.set_label("untrained")
        title = SETS[data].input_title
        panel.axvline(100 * rows[0].input, color="#555555", linestyle="--", linewidth=1.0, label=title)
        panel.set_yticks(range(len(rows)), [each.method for each in rows], fontsize=9)
        panel.set_ylim(len(rows) - 0.5, -0.5)
        heading = f"{SETS[data].title}, {TITLES[probe]}, accuracy in %"
        panel.set_title(heading, loc="left", fontsize=10, fontweight="bold")
        panel.spines[["top", "right"]].set_visible(False)
    first: dict[str, Any] = {}
    for panel in panels.flat:
        handles, labels = panel.get_legend_handles_labels()
        first = {**dict(zip(labels, handles, strict=True)), **first}
    figure_.legend(first.values(), first.keys(), loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    figure_.savefig(path, dpi=160)
    plt.close(figure_)


def save(report: MethodsReport, folder: Path, json_file: Path | None) -> list[Path]:
    """JSON, Markdown and picture in `folder`, and the JSON in `json_file` too; returns the paths."""
    text = json.dumps({"benchmark": "methods", **asdict(report), "quiet": report.quiet}, indent=1) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{report.stem}{ending}" for ending in (".json", ".md", ".png")]
    replace_file(paths[0], lambda path: path.write_text(text, encoding="utf-8"))
    replace_file(paths[1], lambda path: path.write_text(as_markdown(report), encoding="utf-8"))
    replace_file(paths[2], lambda path: picture(report, path))
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(json_file, lambda path: path.write_text(text, encoding="utf-8"))
        paths.append(json_file)
    return paths
