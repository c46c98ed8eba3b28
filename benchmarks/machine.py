"""What a figure was measured on, and what processes use meanwhile (from /proc; zeros where there is none)."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from headrace.tools.hardware import processor

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
VERSIONED = (
    "headrace",
    "torch",
    "torchvision",
    "numpy",
    "numba",
    "simplejpeg",
    "pillow",
    "timm",
    "lightly",
    "webdataset",
    "nvidia-dali-cuda120",
    "ffcv",
    "opencv-python",
    "opencv-python-headless",
)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where a benchmark ran."""

    cpu: str
    """Model of the CPU, as the kernel names it."""
    cores: int
    """Cores that the benchmark was allowed to use."""
    cores_present: int
    """Cores of the machine."""
    memory_gb: float
    """Main memory, in 10^9 bytes."""
    gpu: str
    """Model of the GPU; empty where there is none."""
    system: str
    """Kernel and distribution."""
    python: str
    """Version of the interpreter."""

    def slug(self) -> str:
        """The machine in a file name: letters, digits and dashes."""
        words = f"{self.gpu or self.cpu} {self.cores} cores"
        return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


def machine(cores: Iterable[int], gpu: str = "") -> Machine:
    """This machine, with `cores` as the allowed ones."""
    total = re.search(r"MemTotal:\s*(\d+) kB", _read("/proc/meminfo"))
    release = re.search(r'^PRETTY_NAME="?([^"\n]*)', _read("/etc/os-release"), re.MULTILINE)
    return Machine(
        cpu=processor(),
        cores=len(set(cores)),
        cores_present=os.cpu_count() or 1,
        memory_gb=round(int(total[1]) * 1024 / 1e9, 1) if total else 0.0,
        gpu=gpu,
        system=f"{platform.system()} {platform.release()}" + (f", {release[1]}" if release else ""),
        python=platform.python_version(),
    )


def cpu_flags() -> set[str]:
    """What the CPU can do, in the kernel's words; empty where the kernel does not say."""
    found = re.search(r"^flags\s*:(.*)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return set(found[1].split()) if found else set()


@cache
def versions() -> dict[str, str]:
    """Installed versions of every package that has a share in a figure, as this process found them first."""
    found = {}
    for name in VERSIONED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


ROOT = Path(__file__).resolve().parents[1]
CHANGED = "+changes"
"""What is put behind a commit from which the sources differ."""
SOURCES = ("*.py", "pyproject.toml", ":(exclude)tests")
"""What decides about a figure."""


def commit(folder: Path = ROOT) -> str:
    """The commit of the sources in `folder`, with `+changes` where some differ from it or are not in it; empty where
    they are in no repository, as those that pip installed."""
    name = _git(folder, "rev-parse", "--short=12", "HEAD")
    if not name or not _git(folder, "ls-files", "--", "benchmarks/machine.py"):
        return ""
    return name + CHANGED * bool(_git(folder, "status", "--porcelain", "--untracked-files=all", "--", *SOURCES))


def _git(folder: Path, *arguments: str) -> str:
    """What git says; empty where it fails, or there is none."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, encoding="utf-8", errors="replace", check=False
        )
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


@dataclass(frozen=True)
class Usage:
    """What a group of processes has used since it began."""

    cpu_s: float = 0.0
    """CPU seconds in user and kernel mode, ended children included."""
    peak_rss_mb: float = 0.0
    """Sum over the living processes of each one's peak resident set, in 10^6 bytes; shared pages count in each."""
    pss_mb: float = 0.0
    """Proportional set size now, in 10^6 bytes: shared pages are divided among those that map them."""

    def asdict(self) -> dict[str, float]:
        return {name: round(value, 3) for name, value in asdict(self).items()}


def group_usage(group: int) -> Usage:
    """Usage of all processes in process group `group`."""
    cpu_s, peak, pss = 0.0, 0, 0
    for folder in Path("/proc").glob("[0-9]*"):
        after_name = _read(folder / "stat").rpartition(")")[2].split()  # the name may hold spaces and parentheses
        if len(after_name) < 15 or int(after_name[2]) != group:
            continue
        cpu_s += sum(int(ticks) for ticks in after_name[11:15]) / TICKS_PER_S
        peak += _kilobytes(_read(folder / "status"), "VmHWM")
        pss += _kilobytes(_read(folder / "smaps_rollup"), "Pss")
    return Usage(cpu_s, peak * 1024 / 1e6, pss * 1024 / 1e6)


def machine_cpu_s() -> float:
    """CPU seconds since the machine started that were not idle: those of all its processes, and, in a virtual machine,
    those that its host gave to others while a process here was ready to run."""
    words = _read("/proc/stat").partition("\n")[0].split()
    if len(words) < 9:
        return 0.0
    user, nice, system, _idle, _waiting, interrupts, soft, stolen = (int(word) for word in words[1:9])
    return (user + nice + system + interrupts + soft + stolen) / TICKS_PER_S


def _kilobytes(text: str, name: str) -> int:
    found = re.search(rf"^{name}:\s*(\d+) kB", text, re.MULTILINE)
    return int(found[1]) if found else 0


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:  # the process has ended, or the system has no such file
        return ""
