"""Who converts the units of a job: this process, processes of this machine, or the workers of a Ray cluster."""

from __future__ import annotations

import logging
import multiprocessing
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from headrace.shards.remote.remote import redact
from headrace.tools.conversion.depot import Depot
from headrace.tools.conversion.encode import EncodeSettings
from headrace.tools.conversion.faults import POLL_S, patiently
from headrace.tools.conversion.pool import FORKS, NONE, Death, Pool, Watch, sendable
from headrace.tools.conversion.units import Estimate, Job, Reject, UnitRecord, convert_unit, estimate, opened, where
from headrace.tools.errors import UserError

MAX_DEATHS = 3
"""Of workers at one unit without a sample that explains them."""
MAX_LOST = 16
"""Samples that may be left out because workers die of them; more is no fault of samples."""

Source = tuple[str, str, str | None, int | None]
"""What `opened` takes."""
Finished = Generator[tuple[int, UnitRecord], None, None]


def work(
    job: Job,
    depot: Depot,
    unit: int,
    threads: int,
    count: Callable[[int], object],
    begin: Callable[[int], object] | None = None,
    skip: Mapping[int, Reject] | None = None,
) -> UnitRecord:
    """Convert a unit and hand it in, after faults of the machine again; the same whoever calls it.

    Args:
        count: Called with the number of samples done since the last call, less than 0 where they are done again.
    """
    done = 0

    def counted(samples: int) -> None:
        nonlocal done
        count(samples)
        done += samples

    def once() -> UnitRecord:
        with depot.adding(unit) as folder:
            record = convert_unit(job, unit, folder, threads, counted, begin, skip)
            depot.add(unit, folder, record)
        return record

    return patiently(once, lambda: counted(-done))  # which also says whether anybody still wants the unit


def in_this_process(
    job: Job, depot: Depot, units: Iterable[int], workers: int, count: Callable[[int], object]
) -> Finished:
    """One unit after the other."""
    for unit in units:
        yield unit, work(job, depot, unit, workers, count)


class Deaths:
    """Of workers, and what follows: a unit is done again, without a sample of which a second worker died."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.skip: dict[int, dict[int, Reject]] = {}
        """By unit, the samples that are not to be read."""
        self._unexplained: Counter[int] = Counter()
        self._last: dict[int, int] = {}

    def __contains__(self, unit: int) -> bool:
        """Whether a worker died at it."""
        return unit in self._last

    def add(self, unit: int, death: Death) -> None:
        """The unit is to be done again. UserError where that has no prospects."""
        self._unexplained[unit] += 1
        same = death.sample != NONE and self._last.get(unit) == death.sample
        self._last[unit] = death.sample
        if same and death.how not in NO_SAMPLE:
            self._leave_out(unit, death)
        elif self._unexplained[unit] >= MAX_DEATHS:
            raise self._hopeless(unit, death)

    def _leave_out(self, unit: int, death: Death) -> None:
        data, _ = opened(self.job.source, self.job.src, self.job.split, self.job.seed)
        sample = death.sample
        why = f"the process that read it died ({meaning(death.how)}), twice"
        lost = Reject(data.key(sample), where(data, sample), why, passing=death.how in FOR_MEMORY)
        self.skip.setdefault(unit, {})[sample] = lost
        del self._unexplained[unit]
        if sum(map(len, self.skip.values())) > MAX_LOST:
            raise UserError(f"{lost.source}: {why}, as at {MAX_LOST} others before: this machine cannot convert them")

    def _hopeless(self, unit: int, death: Death) -> UserError:
        data, order = opened(self.job.source, self.job.src, self.job.split, self.job.seed)
        numbers = order[self.job.numbers(unit)]
        if death.sample == NONE:
            at = f"samples {where(data, int(numbers[0]))} to {where(data, int(numbers[-1]))}"
        else:
            at = f"at last at {where(data, death.sample)}"
        return UserError(
            f"{self._unexplained[unit]} worker processes died, one after the other, at unit {unit} of {self.job.units} "
            f"({at}; {meaning(death.how)})"
        )


NO_SAMPLE = {"SIGBUS", "SIGTERM", "SIGINT", "SIGHUP"}
"""Ends of a process that no sample brings about."""
OUT_OF_MEMORY = "out of memory"
FOR_MEMORY = {"SIGKILL", OUT_OF_MEMORY}


def meaning(how: str) -> str:
    """What the end of a worker says, for a person."""
    if how == "SIGBUS":
        return "SIGBUS: a mapped file could not be read, so look at the disk"
    return f"{how}, perhaps for want of memory: try fewer --workers" if how in FOR_MEMORY else how


class _Task(NamedTuple):
    """What a worker process is given."""

    unit: int
    threads: int
    skip: Mapping[int, Reject]


def in_processes(
    job: Job, depot: Depot, units: Iterable[int], workers: int, count: Callable[[int], object]
) -> Finished:
    """Units side by side in `workers` processes; a single one in a process with as many threads.

    A unit whose process dies is done again, by one thread; the second time at the same sample, without that sample.

    Raises:
        UserError: Processes die, and no sample explains it.
    """
    if multiprocessing.current_process().daemon:  # it may have no children
        yield from in_this_process(job, depot, units, workers, count)
        return
    pending = deque(units)
    threads = workers if len(pending) == 1 else 1
    deaths = Deaths(job)
    finished = seen = 0
    size = min(workers, max(1, len(pending)))
    source = (job.source, job.src, job.split, job.seed)
    with Pool[UnitRecord](size, partial(_work, job, depot), partial(_prepare, source)) as pool:
        while pending or pool.busy:
            while pending and pool.idle:
                unit = pending.popleft()
                pool.give(unit, _Task(unit, 1 if unit in deaths else threads, deaths.skip.get(unit, {})))
            results = pool.results(POLL_S)
            for unit, result in results:
                if isinstance(result, Death):
                    deaths.add(unit, result)
                    pending.appendleft(unit)
                elif isinstance(result, Exception):
                    raise result
                else:
                    numbers = job.numbers(unit)
                    finished += numbers.stop - numbers.start
            total = finished + pool.counted
            count(total - seen)
            seen = total
            yield from ((unit, result) for unit, result in results if isinstance(result, UnitRecord))


def _prepare(source: Source) -> None:
    global _inherited
    if FORKS:
        inherited = opened(*source)
        if not inherited[0].fork_safe:
            _inherited = inherited  # whose threads are not here, so that letting go of it might wait for them
            opened.cache_clear()


_inherited: object = None


def estimate_in_process(
    source: str,
    src: str,
    split: str | None,
    settings: EncodeSettings,
    seed: int | None,
    numbers: Sequence[int],
    threads: int,
) -> Estimate:
    """`estimate` in a process of its own; what it dies of twice is not looked at."""
    if not FORKS or multiprocessing.current_process().daemon:
        return estimate(source, src, split, settings, seed, numbers, threads)
    at: Source = (source, src, split, seed)
    last = Death(NONE, "")
    with Pool[Estimate](1, partial(_estimate, at, settings), partial(_prepare, at)) as pool:
        for _ in range(2 * MAX_LOST + 1):
            pool.give(0, (numbers, threads))
            while not (results := pool.results(POLL_S)):
                pass
            ((_, result),) = results
            if isinstance(result, Estimate):
                return result
            if isinstance(result, Exception):
                raise result
            if result.sample == last.sample != NONE:
                numbers = [number for number in numbers if number != last.sample]
            last, threads = result, 1
    place = src if last.sample == NONE else where(opened(*at)[0], last.sample)
    raise UserError(f"{redact(place)}: processes that read samples die, the last of {meaning(last.how)}")


def _estimate(at: Source, settings: EncodeSettings, task: tuple[Sequence[int], int], watch: Watch) -> Estimate:
    (source, src, split, seed), (numbers, threads) = at, task
    return estimate(source, src, split, settings, seed, numbers, threads, watch.begin if threads == 1 else None)


def _work(job: Job, depot: Depot, task: _Task, watch: Watch) -> UnitRecord:
    begin = watch.begin if task.threads == 1 else None
    return work(job, depot, task.unit, task.threads, watch.count, begin, task.skip)


def on_ray(job: Job, depot: Depot, units: Iterable[int], workers: int, count: Callable[[int], object]) -> Finished:
    """Units on the workers of a Ray cluster, one core each: the one that RAY_ADDRESS names, or one of this machine.

    The source lies on a file system that all nodes share, and so does the destination unless it is in an object store.
    A unit whose worker died is given to another one, which tells before each sample that it begins with it, so that
    what is said of `in_processes` holds here, too.

    Args:
        workers: Units at a time; the cluster's cores are another limit.
    """
    try:
        import ray
        from ray.exceptions import OutOfMemoryError, RayError, RayTaskError
    except ImportError as error:
        raise UserError("--engine ray needs Ray: pip install headrace[ray]") from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
    task = ray.remote(num_cpus=1, max_retries=0)(_work_on_ray)
    pending = deque(units)
    running: dict[Any, int] = {}
    deaths = Deaths(job)
    notes: Any = None
    try:
        while pending or running:
            while len(running) < workers and pending:
                unit = pending.popleft()
                teller = notes if unit in deaths else None
                running[task.remote(job, depot, unit, deaths.skip.get(unit, {}), teller)] = unit
            done, _ = ray.wait(list(running), num_returns=1, timeout=POLL_S)
            count(0)
            for reference in done:
                unit = running.pop(reference)
                try:
                    result = ray.get(reference)
                except RayTaskError:
                    raise
                except RayError as error:
                    how = OUT_OF_MEMORY if isinstance(error, OutOfMemoryError) else type(error).__name__
                    if notes is None:
                        notes = ray.remote(num_cpus=0, max_restarts=-1)(Notes).remote()
                    deaths.add(unit, Death(_noted(notes, unit), how))
                    pending.appendleft(unit)
                    continue
                if isinstance(result, Exception):
                    raise result
                numbers = job.numbers(unit)
                count(numbers.stop - numbers.start)
                yield unit, result
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


class Notes:
    """At which samples units are: an actor of Ray."""

    def __init__(self) -> None:
        self.samples: dict[int, int] = {}

    def set(self, unit: int, sample: int) -> None:
        """A sample of a unit is under way, or NONE."""
        self.samples[unit] = sample

    def under_way(self, unit: int) -> int:
        """The sample of a unit that is under way; NONE where nobody said so."""
        return self.samples.pop(unit, NONE)


def _noted(notes: Any, unit: int) -> int:
    import ray
    from ray.exceptions import RayError

    try:
        return int(ray.get(notes.under_way.remote(unit)))
    except RayError:  # the node that it was on went away
        return NONE


def _work_on_ray(job: Job, depot: Depot, unit: int, skip: Mapping[int, Reject], notes: Any) -> UnitRecord | Exception:
    def begin(sample: int) -> None:
        if notes is not None:
            import ray

            ray.get(notes.set.remote(unit, sample))

    try:
        return work(job, depot, unit, 1, lambda samples: begin(NONE), begin, skip)
    except Exception as error:
        return sendable(error)
