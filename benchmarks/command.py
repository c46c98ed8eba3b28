"""What the benchmarks' command lines share: arguments, photographs, progress, and writing the report."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from headrace.benchmarks.errors import BenchmarkError
from headrace.benchmarks.forms import Forms
from headrace.benchmarks.machine import CHANGED, commit, machine, versions
from headrace.benchmarks.photographs import cache_folder, with_bar
from headrace.benchmarks.report import ABOUT, EQUAL, Report, as_markdown, now, save
from headrace.benchmarks.runner import Comparison
from headrace.shards.machine import core_numbers

PUBLISHED = Path(__file__).resolve().parent / "results"
SMOKE_PHOTOGRAPHS = 96
SMOKE_BATCH = 16
SMOKE_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a benchmark is asked to do."""

    forms: Forms
    """The photographs, in every form."""
    works: tuple[str, ...]
    """Names of the comparisons to run."""
    rounds: int
    seconds: float
    """Time a contestant is measured in each round."""
    batch_size: int
    cores: tuple[int, ...]
    """The cores that every contestant may use."""
    smoke: bool
    progress: Callable[[str, int, int], None]
    """Shows what comes next, how many steps of a comparison are done, and how many there are."""

    @property
    def threads(self) -> int:
        """Worker threads or processes of a contestant: one a core."""
        return len(self.cores)


def run(
    name: str,
    description: str,
    works: Sequence[str],
    measure: Callable[[Options], list[Comparison]],
    *,
    arguments: Sequence[str] | None,
    default_works: Sequence[str],
    photographs: int,
    batch_size: int,
    rounds: int = 7,
    seconds: float = 8.0,
    gpu: Callable[[], str] = lambda: "",
    about: str = ABOUT,
    equal: str = EQUAL,
) -> int:
    """A whole benchmark command: parses, measures, prints the tables, writes the files. Returns the exit status."""
    parser = argparse.ArgumentParser(prog=f"headrace.benchmarks.{name}", description=description)
    parser.add_argument(
        "--works",
        nargs="+",
        choices=(*works, "all"),
        default=list(default_works),
        metavar="WORK",
        help=f"which comparisons to run: {', '.join(works)} or all (default: {' '.join(default_works)})",
    )
    parser.add_argument("--photos", type=int, help=f"photographs (default {photographs})")
    parser.add_argument("--images", type=Path, help="folder of JPEG files to use instead of the photographs")
    parser.add_argument("--rounds", type=int, help=f"interleaved rounds (default {rounds})")
    parser.add_argument("--seconds", type=float, help=f"measured time of a contestant's round (default {seconds:g})")
    parser.add_argument("--batch", type=int, help=f"samples a batch (default {batch_size})")
    parser.add_argument("--cores", type=int, help="cores that every contestant may use (default: all allowed)")
    parser.add_argument("--smoke", action="store_true", help="few photographs, one short round: sees that it runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the results (default benchmarks/results)")
    options = parser.parse_args(arguments)
    for flag in ("photos", "rounds", "seconds", "batch", "cores"):
        value = getattr(options, flag)
        if value is not None and value <= 0:
            parser.error(f"--{flag} must be positive, got {value}")

    def chosen(flag: str, normal: Any, smoke: Any) -> Any:
        given = getattr(options, flag)
        return given if given is not None else smoke if options.smoke else normal

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # contestants and temporary files go too
    console = Console(stderr=True)
    source = commit()  # now: what is edited meanwhile is not what is measured
    try:
        check_publishable(source, options.smoke, options.out)
        allowed = core_numbers()
        if options.cores and options.cores > len(allowed):
            raise BenchmarkError(f"--cores {options.cores}: this process may use {len(allowed)} cores only")
        count = chosen("photos", photographs, SMOKE_PHOTOGRAPHS)
        files = jpegs(options.images, count) if options.images else with_bar(count)
        forms = Forms.of(files)
        cores = allowed[: options.cores or len(allowed)]
        asked = options.works if "all" not in options.works else works
        began = now()
        with Progress(
            console=console,
            transient=True,
            disable=not console.is_terminal,
            auto_refresh=False,  # nothing may run beside a contestant
        ) as bar:
            line = bar.add_task("preparing")
            task = Options(
                forms=forms,
                works=tuple(work for work in works if work in asked),
                rounds=chosen("rounds", rounds, 1),
                seconds=chosen("seconds", seconds, SMOKE_SECONDS),
                batch_size=chosen("batch", batch_size, SMOKE_BATCH),
                cores=cores,
                smoke=options.smoke,
                progress=lambda what, done, total: bar.update(
                    line, description=what, completed=done, total=total, refresh=True
                ),
            )
            comparisons = measure(task)
        report = Report(
            benchmark=name,
            date=began,
            commit=source,
            machine=machine(cores, gpu()),
            versions=versions(),
            settings={
                "rounds": task.rounds,
                "seconds a round": task.seconds,
                "batch": task.batch_size,
                "photographs": len(files),
                "kB each": round(1e3 * forms.megabytes / len(files), 1),
                "page cache": "warm",
                "smoke": task.smoke,
            },
            comparisons=comparisons,
            about=about,
            equal=equal,
        )
        print(as_markdown(report))
        for path in save(report, options.out or default_results(options.smoke), options.json):
            print(path, file=sys.stderr)
    except BenchmarkError as error:
        if error.__cause__ is not None:
            print(error.__cause__, file=sys.stderr)
        print(f"headrace.benchmarks.{name}: {error}", file=sys.stderr)
        return 1
    return 0


def jpegs(folder: Path, count: int) -> list[Path]:
    """The first `count` JPEG files below `folder`, by name."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))[:count]
    if not found:
        raise BenchmarkError(f"--images {folder}: there is no .jpg or .jpeg file below it")
    return found


def check_publishable(source: str, smoke: bool, out: Path | None) -> None:
    """BenchmarkError where figures of sources that no commit holds would go beside the published ones."""
    if source.endswith(CHANGED) and (out or default_results(smoke)).resolve() == PUBLISHED:
        raise BenchmarkError(
            f"the sources differ from commit {source.removesuffix(CHANGED)}, so nobody could measure the same again: "
            "commit them, or name another folder than benchmarks/results with --out"
        )


def default_results(smoke: bool) -> Path:
    """`benchmarks/results` of the current folder; smoke figures mean nothing and go to the cache."""
    return cache_folder() / "results" if smoke else Path("benchmarks") / "results"
