"""What this machine is."""

from __future__ import annotations

import platform
from pathlib import Path

from headrace.shards.machine import cores

__all__ = ["cores", "processor"]


def processor() -> str:
    """The processor's name as its maker writes it, where the system tells."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
