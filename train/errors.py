"""What goes wrong in a run and is the user's to put right: one line each, without a traceback's help."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


class ConfigError(ValueError):
    """A setting that cannot be used; `str(error)` is one line that names the field and the value."""


class RunError(RuntimeError):
    """A run that cannot go on or cannot be read; `str(error)` is one line that says why and what to do."""


class NotFiniteError(RunError):
    """Figures that say nothing, because some of what they are made of is not finite."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to be written, which takes its name at the end.

    Raises:
        RunError: if the disk does not take it. What was at `path` stays, and nothing beside it.
    """
    aside = path.with_name(f"{path.name}.tmp")
    try:
        yield aside
        os.replace(aside, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)  # it would fill the disk
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> RunError:
    """What to raise where the disk does not take a file."""
    return RunError(f"{path}: cannot be written ({error.strerror or error})")
