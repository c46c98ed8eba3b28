"""What a person sees in the terminal: progress on stderr, results on stdout."""

from __future__ import annotations

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

from headrace.shards.remote import redact

progress_console = Console(stderr=True, highlight=False, soft_wrap=True)


def say(line: str) -> None:
    """A line about work under way."""
    progress_console.print(redact(line), markup=False)


def show(result: RenderableType) -> None:
    """A result, such as a table."""
    Console(highlight=False).print(result)


class SampleBar:
    """Call it with the number of samples done so far."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task

    def __call__(self, done: int) -> None:
        self._progress.update(self._task, completed=done)

    def of(self, total: int) -> None:
        """How many there are, once that is known."""
        self._progress.update(self._task, total=total)


@contextmanager
def sample_bar(what: str, total: int | None = None) -> Iterator[SampleBar]:
    """A bar named `what`, on a terminal, with samples done, samples a second and the time left."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        SpeedColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=progress_console, disable=not progress_console.is_terminal) as progress:
        yield SampleBar(progress, progress.add_task(redact(what), total=total))


class SpeedColumn(ProgressColumn):
    """Samples a second, lately."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f}/s" if task.speed else "")
