"""What a person sees in the terminal: progress on stderr, results on stdout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

progress_console = Console(stderr=True, highlight=False, soft_wrap=True)


def say(line: str) -> None:
    """A line about work under way."""
    progress_console.print(line, markup=False)


def show(result: RenderableType) -> None:
    """A result, such as a table."""
    Console(highlight=False).print(result)


@contextmanager
def sample_bar(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A bar named `what`, on a terminal; call what it gives with the number of samples done so far."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=progress_console, disable=not progress_console.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)
