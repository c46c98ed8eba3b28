"""Runs side by side: the settings in which they differ, how each went, what their encoders are worth."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from headrace.shards.printing import printable
from headrace.shards.remote.remote import redact
from headrace.tools.errors import UserError
from headrace.tools.evaluation.results import in_interval, read_results
from headrace.tools.evaluation.table import PROTOCOLS
from headrace.tools.runs import RunState, state_of
from headrace.train import RunConfig

ABSENT = "-"
"""In the place of a setting that a run has not, or of a score that was not taken."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Several runs, by names that tell them apart."""

    runs: Mapping[str, RunState]
    differences: Mapping[str, Mapping[str, Any]]
    """Dotted key of the configuration to each run's value, of those that are not the same for all; a run without that
    key is left out."""
    scores: Mapping[str, Mapping[str, Mapping[str, Any]]]
    """Protocol to run to "value" and, where `headrace eval` kept them, "low", "high", "version" and "settings"."""
    warnings: Sequence[str]
    """Why scores of one protocol must not be compared, a line each."""

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "runs": {name: run.to_dict() for name, run in self.runs.items()},
            "differences": self.differences,
            "scores": self.scores,
            "warnings": list(self.warnings),
        }

    def rows_of_settings(self) -> list[list[str]]:
        """A line a setting that differs: its key, and each run's value."""
        return [
            [key, *(redact(str(found[name])) if name in found else ABSENT for name in self.runs)]
            for key, found in self.differences.items()
        ]

    def rows_of_progress(self) -> list[list[str]]:
        """A line a figure of how the runs went."""
        made = [["state", *(run.state for run in self.runs.values())]]
        made.append(["steps", *(run.progress for run in self.runs.values())])
        for name, label, form in (
            ("loss", "last loss", "{:.4f}"),
            ("samples_per_s", "samples/s, last", "{:,.0f}"),
            ("data_wait", "waits for data", "{:.1%}"),
            ("memory_mb", "memory, MiB", "{:,.0f}"),
            ("device_memory_mb", "on the device, MiB", "{:,.0f}"),
        ):
            cells = [form.format(run.last[name]) if name in run.last else ABSENT for run in self.runs.values()]
            if any(cell != ABSENT for cell in cells):
                made.append([label, *cells])
        return made

    def rows_of_scores(self) -> list[list[str]]:
        """A line a protocol: each run's score, with its interval where there is one."""
        return [
            [PROTOCOLS[name].title, *(self._score(name, found.get(run)) for run in self.runs)]
            for name, found in self.scores.items()
        ]

    def _score(self, protocol: str, found: Mapping[str, Any] | None) -> str:
        if found is None:
            return ABSENT
        if "low" not in found:
            return PROTOCOLS[protocol].text(found["value"])
        return in_interval(PROTOCOLS[protocol].share, **{end: found[end] for end in ("value", "low", "high")})

    def tables(self) -> list[Table]:
        """For a terminal."""
        made = []
        for title, rows in (
            ("settings that differ", self.rows_of_settings()),
            ("how they went", self.rows_of_progress()),
            ("scores of the trained encoders on held-out samples", self.rows_of_scores()),
        ):
            if rows:
                caption = "\n".join(self.warnings) if title.startswith("scores") else None
                table = Table("", *map(printable, self.runs), title=title, caption=caption)
                for head, *cells in rows:
                    table.add_row(head, *map(printable, cells))
                made.append(table)
        return made


def compare(folders: Sequence[Path]) -> Comparison:
    """Read runs.

    Raises:
        UserError: for fewer than two different ones, or one that cannot be read.
    """
    folders = list(dict.fromkeys(Path(os.path.normpath(folder)) for folder in folders))
    if len(folders) < 2:
        raise UserError("compare takes at least two different runs")
    names = short_names(folders)
    for folder in folders:
        if not (folder / "config.yaml").is_file():
            raise UserError(f"{folder}: no run in it, as it has no config.yaml")
    runs = {name: state_of(folder) for name, folder in names.items()}
    scores = _scores(names, runs)
    return Comparison(runs=runs, differences=_differences(names), scores=scores, warnings=tuple(_warnings(scores)))


def short_names(folders: Sequence[Path]) -> dict[str, Path]:
    """Folders by what is left of their paths without the folders that all have in common."""
    common = Path(os.path.commonpath([folder.absolute().parent for folder in folders]))
    return {str(folder.absolute().relative_to(common)): folder for folder in folders}


def _differences(names: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    settings = {name: dict(_dotted(RunConfig.load(folder / "config.yaml").to_dict())) for name, folder in names.items()}
    keys = dict.fromkeys(key for found in settings.values() for key in found if key != "out")
    differing = {}
    for key in keys:
        values = {name: found[key] for name, found in settings.items() if key in found}
        if len(values) < len(settings) or len({repr(value) for value in values.values()}) > 1:
            differing[key] = values
    return differing


def _dotted(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _scores(names: Mapping[str, Path], runs: Mapping[str, RunState]) -> dict[str, dict[str, dict[str, Any]]]:
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name, folder in names.items():
        results = read_results(folder)
        kept = results.get("protocols", {})
        for protocol, score in runs[name].scores.items():
            if protocol not in PROTOCOLS:
                continue
            one: dict[str, Any] = {"value": score}
            if protocol in kept and "trained" in kept[protocol]["encoders"]:
                full = kept[protocol]
                one = dict(full["encoders"]["trained"]["metrics"][full["metric"]])
                one |= {"version": full["version"], "settings": full["settings"]}
            one |= {"data": results.get("data"), "test": results.get("test")}
            found.setdefault(protocol, {})[name] = one
    return {protocol: found[protocol] for protocol in PROTOCOLS if protocol in found}


def _warnings(scores: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Iterator[str]:
    """What makes scores of one protocol different things."""
    for protocol, found in scores.items():
        for part, what in (
            ("version", "versions of the protocol"),
            ("settings", "settings"),
            ("data", "sets to learn from"),
            ("test", "sets to score on"),
        ):
            values = {repr(one.get(part)) for one in found.values()}
            if len(values) > 1:
                yield f"{PROTOCOLS[protocol].title}: not comparable, these are of different {what}"
