"""What a benchmark raises: `str(error)` is one line that says what failed and what to do."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class BenchmarkError(Exception):
    """A benchmark cannot run or cannot be trusted."""


class SourceMissing(BenchmarkError):
    """The real data of a benchmark or test cannot be had on this machine."""


def fetched(fetch: Callable[[], T]) -> T:
    """For tests: what `fetch` returns; where it cannot be had the running test is skipped with the reason, or fails if
    HEADRACE_REQUIRE_PEERS=1."""
    import pytest

    try:
        return fetch()
    except SourceMissing as error:
        if os.environ.get("HEADRACE_REQUIRE_PEERS") == "1":
            pytest.fail(f"HEADRACE_REQUIRE_PEERS=1, but {error}", pytrace=False)
        pytest.skip(str(error))
