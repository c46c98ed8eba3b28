"""Runs contestants against each other: interleaved rounds, ratios inside a round, spread, and what each one used.

A contestant is a generator function that yields batches without end; the length of a batch is its number of samples.
Each one lives in a process of its own, so peers share no thread pool, no allocator and no interpreter lock. Rounds
run A B C A B C, and a ratio is taken between two contestants of the same round only, because the speed of a machine
drifts over minutes by more than the differences of interest.

Idle policy: between its rounds a contestant's whole process group (its DataLoader workers included) is stopped with
SIGSTOP and continued with SIGCONT. So an idle contestant burns no CPU, keeps its warm state, and cannot fill its
prefetch queue while others are measured: it resumes in the middle of its steady state. One group of batches is still
thrown away before the clock starts, to warm the caches again. At the end the process group is killed, whatever it does.

Clock: wall time between two batch arrivals. Workers that run in step deliver batches in bunches, so the clock is read
only after every `group` batches (by default the number of cores), and a round ends at the first such reading past its
time.
"""

from __future__ import annotations

import ctypes
import importlib.util
import math
import multiprocessing
import os
import signal
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from headrace.benchmarks.errors import BenchmarkError
from headrace.benchmarks.machine import Usage, group_usage, machine_cpu_s

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
NOISY_CORES = 0.15  # other processes used more than this: a figure is not to be trusted
PR_SET_PDEATHSIG = 1  # from linux/prctl.h


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """One way to do the work."""

    name: str
    """Unique in a comparison; the row's title."""
    batches: Callable[..., Iterator[Sized]]
    """Module-level generator function: batches without end. It may hold nothing that must outlive or be cleaned up
    after a killed process."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of `batches`; they are pickled."""
    requires: Mapping[str, str] = field(default_factory=dict)
    """Importable module -> what to install for it; a contestant that lacks one is reported and left out."""
    limit: bool = False
    """The row is a bound that no contestant is expected to reach, not a competitor."""
    compute_threads: int = 1
    """Threads that OpenMP and BLAS may use in its main process; 1 where workers or own threads do the work."""
    note: str = ""
    """What a reader must know to judge the row."""

    def lacks(self) -> str:
        """Why it cannot run here; empty where it can."""
        missing = [install for module, install in self.requires.items() if not _importable(module)]
        return f"not installed: {', '.join(missing)}" if missing else ""


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, RuntimeError):  # its parent package is not there, or lacks a library of the system
        return False


@dataclass(frozen=True, kw_only=True)
class Round:
    """What one contestant did in one round."""

    samples: int
    """Samples that arrived while the clock ran."""
    seconds: float
    """Wall time that the clock ran."""
    cores: float
    """CPU seconds a second that its processes used."""
    foreign_cores: float
    """CPU seconds a second that every other process of the machine used meanwhile; near 0 on a quiet machine."""

    @property
    def rate(self) -> float:
        return self.samples / self.seconds


@dataclass(frozen=True, kw_only=True)
class Opened:
    """What a contestant's first batch was."""

    first_batch_s: float
    """Seconds from opening it to its first batch: imports of the peer, compilation, start of workers."""
    batch: str
    """Number, type and shape of the views in a batch, and of its masks; empty where a batch holds no views."""
    mean: float | None
    """Mean of all values in the first batch, to see that contestants do the same to the same pictures."""
    deviation: float | None
    """Standard deviation of all values in the first batch."""
    pictures: int = 0
    """Samples in the first batch."""
    views: int = 0
    """Of them, those that have three channels, all together."""
    grey: int = 0
    """Of these, how many have no colour."""


@dataclass(kw_only=True)
class Result:
    """All rounds of one contestant."""

    name: str
    limit: bool
    note: str
    opened: Opened
    rounds: list[Round] = field(default_factory=list)
    peak_rss_mb: float = 0.0
    """Highest sum over its processes of each one's peak resident set; shared pages count once a process."""
    pss_mb: float = 0.0
    """Highest proportional set size at the end of a round; shared pages count once."""

    @property
    def rates(self) -> list[float]:
        """Samples a second, one a round."""
        return [each.rate for each in self.rounds]


@dataclass(frozen=True)
class Missing:
    """A contestant that could not take part."""

    name: str
    reason: str


@dataclass(frozen=True)
class Spread:
    """Median, lowest and highest of a figure over the rounds."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        return Spread(statistics.median(values), min(values), max(values))


@dataclass(kw_only=True)
class Comparison:
    """Contestants that did the same work in the same rounds."""

    name: str
    """The work, short enough for a file or a flag."""
    title: str
    """The work in words."""
    reference: str
    """Name of the contestant that ratios are taken of."""
    unit: str
    """What a rate counts a second."""
    results: list[Result]
    missing: list[Missing] = field(default_factory=list)
    targets: Mapping[str, float] = field(default_factory=dict)
    """Contestant to the ratio that the reference is to reach; for readers, nothing is asserted."""
    ratio: str = "Headrace is"
    """Head of the column of the reference's rate over the row's."""
    curve: bool = False
    """The contestants are one thing at growing sizes: they are shown in their order, not the fastest first."""
    findings: list[str] = field(default_factory=list)
    """What follows from the rounds, in sentences."""

    def result(self, name: str) -> Result:
        return next(result for result in self.results if result.name == name)

    def ratios(self, name: str) -> list[float]:
        """The reference's rate over the rate of contestant `name`, one a round."""
        return self._over(self.reference, name)

    def shares(self, name: str) -> list[float]:
        """The rate of contestant `name` over the limit's, one a round; empty where nothing bounds the work."""
        limits = [result.name for result in self.results if result.limit]
        return self._over(name, limits[0]) if limits else []

    def _over(self, above: str, below: str) -> list[float]:
        pairs = zip(self.result(above).rates, self.result(below).rates, strict=True)
        return [rate / other for rate, other in pairs]

    @property
    def foreign_cores(self) -> float:
        """What other processes used meanwhile: of the contestant that they disturbed most, the median over rounds."""
        return max(statistics.median(each.foreign_cores for each in result.rounds) for result in self.results)


def peers_required() -> bool:
    """Whether a missing peer is an error, as in continuous integration, and not a remark."""
    return os.environ.get("HEADRACE_REQUIRE_PEERS") == "1"


def compare(
    name: str,
    title: str,
    contestants: Sequence[Contestant],
    *,
    reference: str,
    rounds: int,
    seconds: float,
    cores: Collection[int],
    group: int | None = None,
    warm_up_s: float = 2.0,
    timeout_s: float = 300.0,
    unit: str = "samples/s",
    require_all: bool | None = None,
    targets: Mapping[str, float] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    forked_from: str | None = None,
) -> Comparison:
    """Runs every contestant `rounds` times for `seconds`, interleaved, each on the same `cores`.

    `group` is the number of batches between two readings of the clock (None: the number of cores). `require_all` makes
    a contestant that cannot take part an error (None: as HEADRACE_REQUIRE_PEERS=1 says). `targets` go into the result.
    `progress` hears what comes next, how many steps are done, and how many there are. `forked_from` names a module
    that one process imports for all, from which contestants are forked: they start at once, but with one number of
    threads for all, so that this is for runs whose figures mean nothing (None: each is a fresh interpreter). Raises
    BenchmarkError naming the contestant that failed, gave no batch within `timeout_s`, or delivers other batches than
    its rivals.
    """
    names = [contestant.name for contestant in contestants]
    if len(set(names)) != len(names):
        raise ValueError(f"contestants of {name} need different names, got {names}")
    if reference not in names:
        raise ValueError(f"the reference of {name} is no contestant: {reference!r} is not in {names}")
    if rounds < 1 or seconds <= 0 or not cores:
        raise ValueError(f"rounds, seconds and cores must be positive, got {rounds}, {seconds} and {cores}")
    require_all = peers_required() if require_all is None else require_all
    missing = [Missing(contestant.name, reason) for contestant in contestants if (reason := contestant.lacks())]
    for each in missing:
        if require_all or each.name == reference:
            raise BenchmarkError(f"{name}: {each.name} cannot take part: {each.reason}")
    absent = {each.name for each in missing}
    total = (len(contestants) - len(absent)) * (1 + rounds)
    steps = count()

    def say(what: str) -> None:
        if progress:
            progress(f"{name}: {what}", next(steps), total)

    rivals: list[_Rival] = []
    try:
        for contestant in contestants:
            if contestant.name not in absent:
                rivals.append(_Rival(contestant, cores, group or len(set(cores)), timeout_s, forked_from))
        for rival in rivals:
            rival.wait()
        for rival in rivals:
            say(f"opening {rival.name}")
            rival.open(warm_up_s)
        _check_equal_work(name, {rival.name: rival.result for rival in rivals}, reference)
        for number in range(rounds):
            for rival in rivals:
                say(f"round {number + 1} of {rounds}, {rival.name}")
                rival.run(seconds)
    finally:
        for rival in rivals:
            rival.close()
    results = [rival.result for rival in rivals]
    return Comparison(
        name=name,
        title=title,
        reference=reference,
        unit=unit,
        results=results,
        missing=missing,
        targets=targets or {},
    )


MEANS_APART = 5.0
"""How far the means of two first batches of n pictures may lie apart, in their deviation over the root of n."""
DEVIATIONS_APART = 2.0
"""How far the logarithms of their deviations may, in one over the root of n."""
GREYS_APART = 4.5
"""How far their shares of views without colour may, in standard deviations of the difference of two such draws."""


def _check_equal_work(name: str, results: Mapping[str, Result], reference: str) -> None:
    """BenchmarkError where contestants deliver other batches than the reference, or other pixels than pictures and
    draws explain: not normalised, black, or without the colour changes that the others have."""
    opened = {contestant: result.opened for contestant, result in results.items() if not result.limit}
    if len({each.batch for each in opened.values()}) > 1:
        listed = "; ".join(f"{contestant}: {each.batch}" for contestant, each in opened.items())
        raise BenchmarkError(f"{name}: contestants deliver different batches, so the work is not equal ({listed})")
    for contestant, each in opened.items():
        if found := _unlike(opened[reference], each) if reference in opened else "":
            raise BenchmarkError(f"{name}: {contestant} delivers other views than {reference}: {found}")


def _unlike(one: Opened, other: Opened) -> str:
    """What the draws do not explain of the difference of two contestants' first batches; empty where they may."""
    if one.mean is None or other.mean is None or one.deviation is None or other.deviation is None:
        return ""
    unit = 1 / math.sqrt(max(1, one.pictures))
    if abs(other.mean - one.mean) > MEANS_APART * unit * max(one.deviation, other.deviation):
        return f"their pixels have a mean of {other.mean:.3g}, not {one.mean:.3g}"
    factor = math.exp(DEVIATIONS_APART * unit)
    if max(one.deviation, other.deviation) > factor * min(one.deviation, other.deviation):
        return f"their pixels have a deviation of {other.deviation:.3g}, not {one.deviation:.3g}"
    if one.views and other.views:
        share = (one.grey + other.grey) / (one.views + other.views)
        apart = abs(one.grey / one.views - other.grey / other.views)
        if apart > GREYS_APART * math.sqrt(share * (1 - share) * (1 / one.views + 1 / other.views)):
            return f"{other.grey} of {other.views} views have no colour, not {one.grey} of {one.views}"
    return ""


class _Rival:
    """A contestant in its own process, stopped except while it runs."""

    result: Result

    def __init__(
        self,
        contestant: Contestant,
        cores: Collection[int],
        group: int,
        timeout_s: float,
        forked_from: str | None = None,
    ) -> None:
        self.name = contestant.name
        self._contestant = contestant
        self._group = group
        self._timeout_s = timeout_s
        with tempfile.NamedTemporaryFile(prefix="headrace-benchmark-", delete=False) as log:
            self._log = Path(log.name)
        context: Any = multiprocessing.get_context("forkserver" if forked_from else "spawn")
        if forked_from:
            context.set_forkserver_preload([forked_from])
        self._pipe, theirs = context.Pipe()
        self._process: BaseProcess = context.Process(
            target=_serve, args=(theirs, contestant, frozenset(cores), self._log), name=contestant.name
        )
        with _environment(dict.fromkeys(THREAD_VARIABLES, str(contestant.compute_threads))):
            self._process.start()
        theirs.close()
        assert self._process.pid is not None
        self._leader = self._process.pid

    def wait(self) -> None:
        """Until its process has imported what all contestants share."""
        self._receive("starting")

    def open(self, warm_up_s: float) -> None:
        """Takes its first batch, warms it up, and stops it."""
        self._send(None)
        opened = self._receive("opening")
        self.result = Result(name=self.name, limit=self._contestant.limit, note=self._contestant.note, opened=opened)
        self._send((warm_up_s, self._group))
        self._receive("warming up")
        self._signal(signal.SIGSTOP)

    def run(self, seconds: float) -> None:
        """One round; adds it to `result`."""
        own, everything, start = self._usage(), machine_cpu_s(), time.perf_counter()
        self._signal(signal.SIGCONT)
        self._send((seconds, self._group))
        samples, wall_s = self._receive(f"round {len(self.result.rounds) + 1}")
        self._signal(signal.SIGSTOP)
        window_s = time.perf_counter() - start
        usage = self._usage()
        cpu_s = usage.cpu_s - own.cpu_s
        foreign_s = max(0.0, machine_cpu_s() - everything - cpu_s)
        self.result.rounds.append(
            Round(samples=samples, seconds=wall_s, cores=cpu_s / window_s, foreign_cores=foreign_s / window_s)
        )
        self.result.peak_rss_mb = max(self.result.peak_rss_mb, usage.peak_rss_mb)
        self.result.pss_mb = max(self.result.pss_mb, usage.pss_mb)

    def close(self) -> None:
        """Ends the contestant and its workers at once, stopped or not."""
        self._signal(signal.SIGKILL)
        self._process.kill()  # it may not have come to lead its own group
        self._process.join()
        self._pipe.close()
        self._log.unlink(missing_ok=True)

    def _usage(self) -> Usage:
        return group_usage(self._leader)

    def _send(self, order: object) -> None:
        with suppress(BrokenPipeError):  # it is dead, which `_receive` will tell
            self._pipe.send(order)

    def _receive(self, doing: str) -> Any:
        try:
            if not self._pipe.poll(self._timeout_s):
                raise BenchmarkError(f"{self.name} gave no answer within {self._timeout_s:g} s while {doing}")
            answer = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            self._process.join(5.0)
            said = self._log.read_text(errors="replace", encoding="utf-8").split("\n")
            last = next((f": {line.strip()}" for line in reversed(said) if line.strip()), "")
            code = self._process.exitcode
            raise BenchmarkError(f"{self.name} died while {doing} (exit code {code}){last}") from None
        if isinstance(answer, _Failure):
            raise BenchmarkError(f"{self.name} failed while {doing}: {answer.line}") from _RemoteError(answer.trace)
        return answer

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._leader, number)


@dataclass(frozen=True)
class _Failure:
    line: str
    trace: str


class _RemoteError(Exception):
    """Carries the traceback of a contestant's process, as text."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def _serve(pipe: Connection, contestant: Contestant, cores: frozenset[int], log: Path) -> None:
    """The contestant's process: opens it, then measures on demand until it is killed. What it prints goes to `log`."""
    os.setpgid(0, 0)
    _die_with_parent()
    multiprocessing.set_start_method(None, force=True)  # else its workers would be spawned, not forked
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    try:
        pipe.send(None)
        pipe.recv()
        start = time.perf_counter()
        batches = contestant.batches(**contestant.arguments)
        first = _next(batches)
        pipe.send(_describe(first, time.perf_counter() - start))
        del first
        while True:
            seconds, group = pipe.recv()
            pipe.send(measure(batches, seconds, group))
    except BaseException as error:
        text = " ".join(str(error).split())
        pipe.send(_Failure(f"{type(error).__name__}: {text}", traceback.format_exc()))


def measure(batches: Iterator[Sized], seconds: float, group: int) -> tuple[int, float]:
    """Takes batches for at least `seconds`; returns how many samples arrived and the wall time that took.

    The first `group` batches are thrown away, and the clock is read after every `group` batches.
    """
    for _ in range(group):
        _next(batches)
    samples = 0
    start = time.perf_counter()
    while True:
        for _ in range(group):
            samples += len(_next(batches))
        elapsed = time.perf_counter() - start
        if elapsed >= seconds:
            return samples, elapsed


def _next(batches: Iterator[Sized]) -> Sized:
    try:
        return next(batches)
    except StopIteration:
        raise BenchmarkError("it ran out of batches; a contestant must never end") from None


def _describe(batch: Sized, first_batch_s: float) -> Opened:
    views = getattr(batch, "views", None)
    if not views:
        return Opened(first_batch_s=first_batch_s, batch="", mean=None, deviation=None)
    shapes: dict[str, int] = {}
    for view in views:
        shape = f"{str(view.dtype).removeprefix('torch.')} {tuple(view.shape)}"
        shapes[shape] = shapes.get(shape, 0) + 1
    parts = [f"{times} x {shape}" for shape, times in shapes.items()]
    for mask in getattr(batch, "masks", ()):
        parts.append("mask of " + " and ".join(f"{name} {tuple(getattr(mask, name).shape)}" for name in mask._fields))
    coloured = [view for view in views if view.ndim >= 4 and view.shape[1] == 3]
    flat = [view.double() for view in views]
    values = sum(view.numel() for view in flat)
    mean = sum(float(view.sum()) for view in flat) / values
    square = sum(float((view * view).sum()) for view in flat) / values
    return Opened(
        first_batch_s=first_batch_s,
        batch=" + ".join(parts),
        mean=mean,
        deviation=max(0.0, square - mean * mean) ** 0.5,
        pictures=len(views[0]),
        views=sum(map(len, coloured)),
        grey=sum(map(_grey, coloured)),
    )


def _grey(view: Any) -> int:
    """How many of (N, 3, ...) pictures have no colour, whatever each channel was normalised with: their channels rise
    and fall together, but for rounding."""
    values = view.flatten(2)[..., ::7].double()
    values = values - values.mean(2, keepdim=True)
    squares = (values * values).sum(2)
    together = (values[:, :1] * values[:, 1:]).sum(2)
    return int((together >= 0.999 * (squares[:, :1] * squares[:, 1:]).sqrt()).all(1).sum())


def _die_with_parent() -> None:
    """On Linux, asks the kernel to kill this process when the benchmark dies, even if it is stopped at that time."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for processes started inside."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
