"""Figures, each written as soon as there is one: a run that is cut off has lost only what it had not measured."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from headrace.benchmarks.machine import commit, machine, versions
from headrace.benchmarks.report import now
from headrace.shards.machine import cores


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure."""

    part: str
    """views, training or learning."""
    work: str
    contestant: str
    value: float
    """In `unit`."""
    unit: str
    trials: int
    """Of which `value` is the median."""
    ratio: float | None = None
    """`value` over that of the row that the part compares with, the median of ratios of trials in turn."""
    compared: str = ""
    """With which contestant."""
    note: str = ""


@dataclass(kw_only=True)
class Rows:
    """The rows of one run, in FOLDER/gpu.json and, as a table, FOLDER/gpu.md."""

    folder: Path
    about: Mapping[str, Any]
    """Machine, versions and settings."""
    rows: list[Row] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """One more, on the disk before this returns."""
        self.rows.append(row)
        self.folder.mkdir(parents=True, exist_ok=True)
        document = {**self.about, "rows": [asdict(row) for row in self.rows]}
        (self.folder / "gpu.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        (self.folder / "gpu.md").write_text("\n".join(self._table()) + "\n", encoding="utf-8")
        ratio = f", {row.ratio:.2f} times {row.compared}" if row.ratio is not None else ""
        print(f"{row.part}: {row.work}: {row.contestant}: {row.value:,.4g} {row.unit}{ratio}", flush=True)

    def _table(self) -> Iterator[str]:
        about = self.about
        yield "# gpu: Headrace on a GPU"
        yield ""
        yield f"- {about['gpu'] or 'no GPU'}, {about['machine']['cores']} cores of {about['machine']['cpu']}"
        yield f"- {about['date']}, commit {about['commit'] or 'unknown'}, {about['seconds']} s a trial"
        yield f"- Versions: {', '.join(f'{name} {version}' for name, version in about['versions'].items())}"
        yield ""
        yield "| part | work | contestant | figure | unit | trials | ratio | note |"
        yield "| --- | --- | --- | ---: | --- | ---: | ---: | --- |"
        for row in self.rows:
            ratio = "" if row.ratio is None else f"{row.ratio:.2f} of {row.compared}"
            cells = row.part, row.work, row.contestant, f"{row.value:,.4g}", row.unit, row.trials, ratio, row.note
            yield f"| {' | '.join(map(str, cells))} |"


def begin(folder: Path, gpu: str, seconds: float) -> Rows:
    """Rows of a run that begins now."""
    about = {
        "date": now(),
        "commit": commit(),
        "gpu": gpu,
        "machine": asdict(machine(range(cores()), gpu)),
        "versions": versions(),
        "seconds": seconds,
    }
    return Rows(folder=folder, about=about)
