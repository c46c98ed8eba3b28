"""What goes wrong in a run and is the user's to put right: one line each, without a traceback's help."""

from __future__ import annotations


class ConfigError(ValueError):
    """A setting that cannot be used; `str(error)` is one line that names the field and the value."""


class RunError(RuntimeError):
    """A run that cannot go on or cannot be read; `str(error)` is one line that says why and what to do."""


class NotFiniteError(RunError):
    """Figures that say nothing, because some of what they are made of is not finite."""
