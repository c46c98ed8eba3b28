"""What a benchmark raises: `str(error)` is one line that says what failed and what to do."""

from __future__ import annotations


class BenchmarkError(Exception):
    """A benchmark cannot run or cannot be trusted."""


class SourceMissing(BenchmarkError):
    """The real data of a benchmark or test cannot be had on this machine."""
