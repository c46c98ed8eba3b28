"""What a person sees in the terminal: progress on stderr, results on stdout."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from headrace.shards.printing import printable
from headrace.shards.remote.remote import redact

progress_console = Console(stderr=True, highlight=False, soft_wrap=True)

PERIOD_S = 60.0
"""Between the lines that stand for a bar where there is no terminal."""


def say(line: str) -> None:
    """A line about work under way."""
    progress_console.print(printable(redact(line), "\n"), markup=False)


def tell(result: object) -> None:
    """A result in lines of text."""
    print(printable(str(result), "\n"))


def show(result: RenderableType) -> None:
    """A result, such as a table."""
    Console(highlight=False).print(result)


class SampleBar:
    """Call it with the number of samples done so far.

    This one prints a line every `PERIOD_S`, for logs: samples, share, rate, what else is said, and the time left.
    """

    def __init__(self, what: str, total: int | None = None) -> None:
        self.what = what
        self.total = total
        self.done = 0
        self.said = ""
        self._printed = self._began = time.monotonic()
        self._done_before: int | None = None
        self._done_at_line = 0

    def __call__(self, done: int) -> None:
        if self._done_before is None:  # perhaps by an earlier run
            self._done_before = self._done_at_line = done
            self._began = time.monotonic()
        self.done = done
        self._tick()

    def of(self, total: int) -> None:
        """How many there are, once that is known."""
        self.total = total

    def note(self, text: str) -> None:
        """What else there is to say; may be called often, also while nothing is done."""
        self.said = text
        self._tick()

    def _tick(self) -> None:
        now = time.monotonic()
        if now - self._printed >= PERIOD_S:
            say(self.line(now))
            self._printed, self._done_at_line = now, self.done

    def line(self, now: float) -> str:
        """How far it is."""
        done = f"{self.done:,}"
        if self.total:
            done += f" of {self.total:,}"
        parts = [f"{done} samples"]
        if self.total:
            parts[0] += f" ({self.done / self.total:.1%})"
        if now > self._printed:
            parts.append(f"{(self.done - self._done_at_line) / (now - self._printed):,.0f}/s")
        if self.said:
            parts.append(self.said)
        since = self.done - (self._done_before or 0)
        if self.total and since > 0:
            parts.append(f"{duration((self.total - self.done) * (now - self._began) / since)} left")
        return f"{self.what}: {', '.join(parts)}"


def duration(seconds: float) -> str:
    """3 s, 4 min, 5 h 06 min, 7 d 08 h."""
    minutes, hours = round(seconds / 60), round(seconds / 3600)
    if seconds < 60:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24:02d} h"


class TerminalBar(SampleBar):
    """Draws a bar."""

    def __init__(self, what: str, total: int | None, progress: Progress, task: TaskID) -> None:
        super().__init__(what, total)
        self._progress = progress
        self._task = task

    def __call__(self, done: int) -> None:
        self._progress.update(self._task, completed=done)

    def of(self, total: int) -> None:
        self._progress.update(self._task, total=total)

    def note(self, text: str) -> None:
        self._progress.update(self._task, note=text)


@contextmanager
def sample_bar(what: str, total: int | None = None) -> Iterator[SampleBar]:
    """A bar named `what`, with samples done, samples a second and the time left; without a terminal a line a minute."""
    if not progress_console.is_terminal:
        yield SampleBar(what, total)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        SpeedColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=progress_console) as progress:
        what = printable(redact(what))
        yield TerminalBar(what, total, progress, progress.add_task(what, total=total, note=""))


class SpeedColumn(ProgressColumn):
    """Samples a second, lately."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f}/s" if task.speed else "")
