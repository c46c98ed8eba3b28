"""Processes of this machine that do one unit of work after another, and are replaced where they die."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, NamedTuple, TypeVar

PR_SET_PDEATHSIG = 1  # from linux/prctl.h
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from malloc.h
KEPT_BYTES = 64 << 20
"""Freed memory that a worker process keeps."""
GRACE_S = 10.0
"""Given to workers to end at the next sample when nobody wants their units any more."""
COUNTED, UNDER_WAY = 0, 1
NONE = -1

Result = TypeVar("Result")
FORKS = sys.platform == "linux"
"""Whether workers inherit what is open here; elsewhere each of them opens it again."""


class Stopped(Exception):
    """Nobody wants the unit under way any more."""


class Death(NamedTuple):
    """A worker's."""

    sample: int
    """That it was at; `NONE` where that is not known."""
    how: str
    """Name of the signal, or the exit code."""


class Watch:
    """What a worker tells of its unit while it is at it, in memory that it shares with the process that started it."""

    def __init__(self, memory: Any, stopped: Any) -> None:
        self._memory = memory
        self._stopped = stopped
        self._parent = os.getpid()

    def begin(self, sample: int) -> None:
        """A sample is under way from now on."""
        self._memory[UNDER_WAY] = sample

    def count(self, samples: int) -> None:
        """So many more are done (fewer, where a unit begins again). Raises Stopped."""
        if self._stopped.value or os.getppid() != self._parent:
            raise Stopped
        self._memory[COUNTED] += samples
        self._memory[UNDER_WAY] = NONE


Work = Callable[[Any, Watch], Result]
"""Does one unit; both it and what it takes pickle where processes are not forked."""


class _Worker:
    """One process and the line to it."""

    def __init__(self, context: Any, work: Work[Any], prepare: Callable[[], None], stopped: Any) -> None:
        self.memory = context.RawArray("q", [0, NONE])
        self.line, theirs = context.Pipe()
        watch = Watch(self.memory, stopped)
        self.process = context.Process(target=_serve, args=(work, prepare, theirs, watch), daemon=True)
        self.process.start()
        theirs.close()  # so that the end of the process is the end of the line
        self.unit: int | None = None

    def death(self) -> Death:
        """How it died, once the line has ended."""
        self.process.join(GRACE_S)
        self.process.kill()
        self.process.join()
        return Death(self.memory[UNDER_WAY], how_it_ended(self.process.exitcode))


class Pool(Generic[Result]):
    """Context manager: processes that are started as units are given to them, up to `size`.

    Args:
        size: Processes at a time.
        work: What they do with a unit.
        prepare: Called in each of them before its first unit.
    """

    def __init__(self, size: int, work: Work[Result], prepare: Callable[[], None]) -> None:
        self.size = size
        self._work = work
        self._prepare = prepare
        self._context: Any = multiprocessing.get_context("fork" if FORKS else "spawn")
        self._stopped = self._context.RawValue("b", 0)
        self._workers: list[_Worker] = []

    def __enter__(self) -> Pool[Result]:
        # A collection in a forked process would touch, and so copy, every object that it inherits.
        gc.freeze()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.value = 1
        for worker in self._workers:
            with contextlib.suppress(OSError):
                worker.line.send(None)
            worker.line.close()
        for worker in self._workers:
            worker.process.join(GRACE_S)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        gc.unfreeze()

    @property
    def idle(self) -> int:
        """Units that could be given."""
        return self.size - self.busy

    @property
    def busy(self) -> int:
        """Units that have been given and not come back."""
        return sum(worker.unit is not None for worker in self._workers)

    @property
    def counted(self) -> int:
        """Samples done of the units under way."""
        return sum(worker.memory[COUNTED] for worker in self._workers if worker.unit is not None)

    def give(self, unit: int, task: Any) -> None:
        """Let an idle worker do a unit; `task` is what `work` takes."""
        for worker in [worker for worker in self._workers if worker.unit is None]:
            if self._sent(worker, unit, task):
                return
            self._workers.remove(worker)  # it died while it had nothing to do
        self._workers.append(_Worker(self._context, self._work, self._prepare, self._stopped))
        self._sent(self._workers[-1], unit, task)

    def _sent(self, worker: _Worker, unit: int, task: Any) -> bool:
        worker.memory[COUNTED], worker.memory[UNDER_WAY] = 0, NONE
        worker.unit = unit
        try:
            worker.line.send(task)
        except OSError:
            return False
        return True

    def results(self, timeout_s: float) -> list[tuple[int, Result | Exception | Death]]:
        """(unit, what became of it) of those that came to an end, waiting for the first no longer than `timeout_s`."""
        busy = [worker for worker in self._workers if worker.unit is not None]
        ready = set(wait([end for worker in busy for end in (worker.line, worker.process.sentinel)], timeout_s))
        found: list[tuple[int, Result | Exception | Death]] = []
        for worker in busy:
            if worker.unit is None or ready.isdisjoint((worker.line, worker.process.sentinel)):
                continue
            unit, worker.unit = worker.unit, None
            try:
                found.append((unit, worker.line.recv()))
            except (EOFError, OSError):
                found.append((unit, worker.death()))
                worker.line.close()
                self._workers.remove(worker)
        return found


def _serve(work: Work[Any], prepare: Callable[[], None], line: Connection, watch: Watch) -> None:
    """What a worker process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # nor outlive it
        keep_freed_memory()
    prepare()
    while True:
        try:
            task = line.recv()
        except (EOFError, OSError):
            return
        if task is None:
            return
        try:
            answer: Any = work(task, watch)
        except Stopped:
            return
        except Exception as error:
            answer = sendable(error)
        try:
            line.send(answer)
        except OSError:
            return  # nobody listens any more


def sendable(error: Exception) -> Exception:
    """The error, with its traceback as a note, or what it says where it does not pickle."""
    error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def keep_freed_memory() -> None:
    """For a process in which pictures come and go (Linux only): memory that is handed back and asked for again costs a
    page fault every 4 kB."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, KEPT_BYTES // 2)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def how_it_ended(code: int | None) -> str:
    """The name of the signal that ended a process, or its exit code."""
    if code is not None and code < 0:
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"signal {-code}"
    return f"exit code {code}"
