"""Who converts the units of a job: this process, processes of this machine, or the workers of a Ray cluster."""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple

from headrace.tools.depot import Depot
from headrace.tools.errors import UserError
from headrace.tools.units import Job, UnitRecord, convert_unit

PR_SET_PDEATHSIG = 1  # from linux/prctl.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from malloc.h
KEPT_BYTES = 64 << 20
"""Freed memory that a worker process keeps."""
POLL_S = 0.1
"""How often progress is shown."""

Finished = Iterator[tuple[int, UnitRecord]]


def work(job: Job, depot: Depot, unit: int, threads: int, count: Callable[[int], object]) -> UnitRecord:
    """Convert a unit and hand it in; the same whoever calls it."""
    with depot.adding(unit) as folder:
        record = convert_unit(job, unit, folder, threads, count)
        depot.add(unit, folder, record)
    return record


def in_this_process(
    job: Job, depot: Depot, units: Iterable[int], workers: int, count: Callable[[int], object]
) -> Finished:
    """One unit after the other."""
    for unit in units:
        yield unit, work(job, depot, unit, workers, count)


class _Shared(NamedTuple):
    """What worker processes and the one that started them have in common."""

    counted: Any
    """Samples done in all of them."""
    stopped: Any
    """Not 0 where nobody wants the units under way any more."""
    parent: int


class _Stopped(Exception):
    pass


_shared: _Shared


def _start(shared: _Shared, depot: Depot) -> None:
    global _shared
    _shared = shared
    depot.forked()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # nor outlive it
        keep_freed_memory()


def keep_freed_memory() -> None:
    """For a process in which pictures come and go (Linux only): memory that is handed back and asked for again costs a
    page fault every 4 kB."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, KEPT_BYTES // 2)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def _count(samples: int) -> None:
    if _shared.stopped.value or os.getppid() != _shared.parent:
        raise _Stopped
    with _shared.counted.get_lock():
        _shared.counted.value += samples


def _work(job: Job, depot: Depot, unit: int, threads: int) -> UnitRecord:
    return work(job, depot, unit, threads, _count)


def in_processes(
    job: Job, depot: Depot, units: Iterable[int], workers: int, count: Callable[[int], object]
) -> Finished:
    """Units side by side in `workers` processes.

    Raises:
        UserError: A process died, as when the machine runs out of memory.
    """
    # A forked process inherits the opened source; elsewhere each process opens it again.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    shared = _Shared(context.Value("q", 0), context.RawValue("b", 0), os.getpid())
    seen = 0
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(shared, depot)) as pool:
        waiting = {pool.submit(_work, job, depot, unit, 1): unit for unit in units}
        try:
            while waiting:
                done, _ = wait(waiting, timeout=POLL_S, return_when=FIRST_COMPLETED)
                total = shared.counted.value
                count(total - seen)
                seen = total
                for future in done:
                    yield waiting.pop(future), future.result()
        except BrokenProcessPool as error:
            raise UserError("a worker process was killed, perhaps for want of memory; try fewer --workers") from error
        finally:
            shared.stopped.value = 1
            for future in waiting:
                future.cancel()


def on_ray(job: Job, depot: Depot, units: Iterable[int], workers: int, count: Callable[[int], object]) -> Finished:
    """Units on the workers of a Ray cluster, one core each: the one that RAY_ADDRESS names, or one of this machine.

    The source lies on a file system that all nodes share, and so does the destination unless it is in an object store.
    A unit whose worker died is given to another one.

    Args:
        workers: Units at a time; the cluster's cores are another limit.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError("--engine ray needs Ray: pip install headrace[ray]") from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
    task = ray.remote(num_cpus=1, max_retries=-1)(_work_on_ray)
    pending = iter(units)
    running: dict[Any, int] = {}
    try:
        while True:
            while len(running) < workers and (unit := next(pending, None)) is not None:
                running[task.remote(job, depot, unit)] = unit
            if not running:
                return
            done, _ = ray.wait(list(running), num_returns=1, timeout=POLL_S)
            for reference in done:
                unit, record = running.pop(reference), ray.get(reference)
                numbers = job.numbers(unit)
                count(numbers.stop - numbers.start)
                yield unit, record
    finally:
        for reference in running:
            ray.cancel(reference, force=True)


def _work_on_ray(job: Job, depot: Depot, unit: int) -> UnitRecord:
    return work(job, depot, unit, 1, lambda samples: None)


class ProgressCounter:
    """Adds up samples and tells a progress callback the sum."""

    def __init__(self, progress: Callable[[int], None] | None, done: int) -> None:
        self.progress = progress
        self.done = done
        self.lock = threading.Lock()

    def __call__(self, samples: int) -> None:
        with self.lock:
            self.done += samples
            if self.progress is not None and samples:
                self.progress(self.done)
