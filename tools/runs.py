"""What runs there are in a folder, how far each is, and what its encoder is worth: read from their files alone."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from headrace.shards.printing import printable
from headrace.tools.errors import UserError
from headrace.tools.evaluation.results import read_results
from headrace.tools.evaluation.table import PROTOCOLS
from headrace.train import RunConfig, read_ending
from headrace.train.errors import ConfigError
from headrace.train.lock import writer_of
from headrace.train.metrics import Record

TAIL = 1 << 16
"""Bytes at the end of metrics.jsonl in which the last line lies."""
EVALUATED = ("held_out_loss", "knn", "linear")
"""What an evaluation while a run goes on may find, of which the first falls and the others rise."""


@dataclass(frozen=True, kw_only=True)
class RunState:
    """One run."""

    folder: Path
    state: str
    """"running", "killed", or why it ended: "finished", "early stop", "wall time", "error", the name of a signal."""
    line: str
    """The same for people, with the reason of an error; of a running one, who writes to it."""
    method: str
    data: str
    step: int
    """Steps taken, as far as metrics.jsonl says."""
    total_steps: int | None
    """Of the whole run; None of a run whose lines do not say."""
    last: Record
    """The last line of metrics; empty before the first."""
    idle_s: float | None
    """Seconds since then."""
    scores: dict[str, float]
    """Of the trained encoder: protocol to score, as results.json has them."""
    evaluated: dict[str, float]
    """The best value of each evaluation while it went on."""
    batch_size: int
    """Samples of a step."""

    @property
    def progress(self) -> str:
        """Steps taken, of how many."""
        return f"{self.step:,}" + (f" of {self.total_steps:,}" if self.total_steps else "")

    @property
    def left_s(self) -> float | None:
        """Seconds that the rest takes at the speed of the last line; None where nobody runs it, or nothing says it."""
        rate = self.last.get("samples_per_s")
        if self.state != "running" or not rate or self.total_steps is None:
            return None
        return (self.total_steps - self.step) * self.batch_size / float(rate)

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        names = ("state", "line", "method", "data", "step", "total_steps", "last", "idle_s", "left_s", "scores")
        return {"run": str(self.folder), **{name: getattr(self, name) for name in names}, "best": self.evaluated}


def runs_in(folder: Path) -> Iterator[Path]:
    """Run folders in or below `folder`, in the order of their names; nothing is looked for below a run."""
    if (folder / "config.yaml").is_file():
        yield folder
        return
    try:
        below = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False))
    except PermissionError:
        return
    for name in below:
        yield from runs_in(folder / name)


def state_of(folder: Path, now: float | None = None) -> RunState:
    """One run, from its files; `now` is the time in seconds since 1970.

    Raises:
        UserError: if config.yaml cannot be read, or results.json is damaged.
    """
    try:
        config = RunConfig.load(folder / "config.yaml")
    except ConfigError as error:
        raise UserError(str(error)) from None
    metrics = folder / "metrics.jsonl"
    last = last_record(metrics)
    changed = metrics.stat().st_mtime if last else None
    state, line = _state(folder)
    ending = read_ending(folder)
    step = max(last.get("step", 0), ending.step if ending else 0)
    return RunState(
        folder=folder,
        state=state,
        line=line,
        method=config.method,
        data=config.data,
        step=step,
        total_steps=last.get("total_steps") or (step if state == "finished" else None),
        last=last,
        idle_s=None if changed is None else max(0.0, (time.time() if now is None else now) - changed),
        scores=dict(read_results(folder).get("probes", {}).get("trained", {})),
        evaluated=best_evaluations(metrics) if config.probe.every else {},
        batch_size=config.batch_size,
    )


def _state(folder: Path) -> tuple[str, str]:
    """Whether a run goes on or why it does not, in a word and in a line."""
    writer = writer_of(folder)
    if writer and writer[1]:
        return "running", f"{writer[0]}, since {writer[0].since}"
    if ending := read_ending(folder):
        return ending.why, ending.line
    return "killed", f"{writer[0]} is gone" if writer else "nobody writes to it, and it has not ended"


def last_record(path: Path) -> Record:
    """The last whole line of a metrics.jsonl, of which only the end is read; empty where there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
            lines = file.read().splitlines(keepends=True)
    except FileNotFoundError:
        return {}
    for line in reversed(lines):
        if line.endswith(b"\n"):
            try:
                record = json.loads(line)
            except ValueError:
                continue  # the first of them may have been cut
            return record if isinstance(record, dict) else {}
    return {}


def best_evaluations(path: Path) -> dict[str, float]:
    """The smallest held-out loss and the largest scores of the evaluations in a metrics.jsonl."""
    best: dict[str, float] = {}
    try:
        file = open(path, encoding="utf-8")  # noqa: SIM115
    except FileNotFoundError:
        return best
    with file:
        for line in file:
            if not line.endswith("\n") or not any(f'"{name}"' in line for name in EVALUATED):
                continue
            record = json.loads(line)
            for name in EVALUATED:
                if name in record:
                    take = min if name == "held_out_loss" else max
                    best[name] = take(record[name], best.get(name, record[name]))
    return best


def in_words(seconds: float | None) -> str:
    """A time, roughly: 40 s, 12 min, 3.5 h, 2.1 d."""
    if seconds is None:
        return ""
    for unit, size, until in (("s", 1, 100), ("min", 60, 100 * 60), ("h", 3600, 48 * 3600)):
        if seconds < until:
            return f"{seconds / size:.0f} {unit}" if unit != "h" else f"{seconds / size:.1f} {unit}"
    return f"{seconds / 86400:.1f} d"


def score_texts(run: RunState) -> Mapping[str, str]:
    """What the run's encoder is worth, by the names that tables have: kept scores, or else evaluations."""
    if run.scores:
        known = {name: value for name, value in run.scores.items() if name in PROTOCOLS}
        return {PROTOCOLS[name].title: PROTOCOLS[name].text(value) for name, value in known.items()}
    return {
        "held-out loss" if name == "held_out_loss" else PROTOCOLS[name].title: (
            f"{value:.4g}" if name == "held_out_loss" else PROTOCOLS[name].text(value)
        )
        for name, value in run.evaluated.items()
    }


COLORS = {"running": "green", "finished": "", "early stop": "", "error": "bold red", "killed": "bold red"}


def table(runs: Sequence[RunState], root: Path) -> Table:
    """A line a run, for a terminal."""
    made = Table(box=None, header_style="bold", padding=(0, 2, 0, 0), pad_edge=False)
    for name in ("run", "state", "method", "step", "loss", "samples/s", "when", "scores"):
        figure = name in ("step", "loss", "samples/s")
        made.add_column(
            name, justify="right" if figure else "left", no_wrap=name not in ("run", "scores"), overflow="fold"
        )
    for run in runs:
        inside = run.folder.is_relative_to(root) and run.folder != root
        last = run.last
        style = COLORS.get(run.state, "yellow")
        made.add_row(
            escape(printable(str(run.folder.relative_to(root) if inside else run.folder))),
            f"[{style}]{run.state}[/]" if style else run.state,
            run.method,
            run.progress,
            f"{last['loss']:.4f}" if "loss" in last else "",
            f"{last['samples_per_s']:,.0f}" if "samples_per_s" in last else "",
            f"{left} left" if (left := in_words(run.left_s)) else f"{ago} ago" if (ago := in_words(run.idle_s)) else "",
            ", ".join(f"{name} {text}" for name, text in score_texts(run).items()),
        )
    return made
