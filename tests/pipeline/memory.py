"""How much memory a piece of work takes at its peak."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import needs_linux


@contextmanager
def peak_bytes() -> Iterator[dict[str, int]]:
    """Fills in `python`, what Python and numpy held at most beyond what they held before, and `process`, by how much
    the process's resident set grew at most, which also counts what compiled code allocates."""
    needs_linux("/proc/self/clear_refs")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak begins anew
    before = _resident("VmRSS")
    found: dict[str, int] = {}
    tracemalloc.start()
    try:
        yield found
        found["python"] = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    found["process"] = max(0, _resident("VmHWM") - before)


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name + ":"))
