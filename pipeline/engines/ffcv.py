"""The real ffcv package over .beton shard sets: its decoder and its resize, with the plan's crops.

ffcv lives in a process of its own (`headrace.pipeline.engines.ffcv_process`), because torch's backward pass may crash
in a process that has loaded it after torch (ffcv 1.0.2). Plans go there through a socket, and views come back through
memory that both share and that has no name, so that nothing is left of it whoever is killed.
https://github.com/libffcv/ffcv
"""

from __future__ import annotations

import importlib.util
import mmap
import os
import subprocess
import sys
import tempfile
import threading
import weakref
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from headrace.pipeline.engines.base import StageTimes, WholeBatchEngine
from headrace.pipeline.engines.kernels import CODES
from headrace.pipeline.images.plan import Plan
from headrace.pipeline.images.views import ViewSpec
from headrace.shards import ShardError, ShardSet, Spans
from headrace.shards.machine import cores

_PATIENCE_S = 10.0  # for a process that has been told to end
_GLANCE_S = 1.0  # between two looks at whether the process lives


class Order(NamedTuple):
    """What is sent for one batch of n samples."""

    ids: np.ndarray
    """int64 (n,)."""
    plan: Plan
    as_float: bool
    """Normalised float32, or uint8 levels."""
    memory: int
    """Bytes of the shared memory, which hold the V views one after the other."""


class Done(NamedTuple):
    """The answer to an order whose views lie in the shared memory."""

    times: StageTimes


class Bad(NamedTuple):
    """The answer to an order with a sample that does not decode."""

    sample: int
    reason: str


class Failed(NamedTuple):
    """The answer of a process that cannot work."""

    reason: str


class FfcvEngine(WholeBatchEngine):
    """See `headrace.pipeline.engines.base.Engine`.

    Calls from several threads run one after the other: the process uses its own threads within a batch. It starts with
    the first call.

    Args:
        shards, field, spec: what to read and what to make of it; a set of .beton files on this machine.
        threads: of the process; None takes all cores this process may use.

    Raises:
        ImportError: if ffcv is not installed.
        ValueError: if the set is of another format or lies on a store.
    """

    operations = frozenset(CODES)  # the native engine does what comes behind the crop

    def __init__(self, shards: ShardSet, field: str, spec: ViewSpec, threads: int | None = None) -> None:
        if importlib.util.find_spec("ffcv") is None:  # importing it here is what must not happen
            raise ImportError("there is no module ffcv")
        if shards.manifest.format != "ffcv" or shards.remote:
            kind = "a store" if shards.remote else f"format {shards.manifest.format!r}"
            raise ValueError(
                f"engine 'ffcv' reads sets of format 'ffcv' (.beton) on this machine, {shards.path} is of {kind}; "
                "convert with --format ffcv or use another engine"
            )
        super().__init__()
        self._shards = shards
        self._field = field
        self._spec = spec
        self._threads = threads or cores()
        self._lock = threading.Lock()
        self._process: _Process | None = None

    def render(self, ids: np.ndarray, spans: Spans, plan: Plan, views: list[np.ndarray]) -> StageTimes:
        """As the protocol says.

        Raises:
            ShardError: naming the sample whose bytes cannot be decoded.
            RuntimeError: if the process died or cannot work; the next call starts another one.
        """
        with self._lock:
            answer = self._ask(ids, plan, views)
            if isinstance(answer, Failed):
                answer = self._explained(answer, ids, plan, views)
                if isinstance(answer, Failed):
                    self._end()
        if isinstance(answer, Bad):
            where = self._shards.where(answer.sample, self._field)
            raise ShardError(f"{where}: cannot decode the image: {answer.reason}")
        if isinstance(answer, Failed):
            raise RuntimeError(f"engine 'ffcv': {answer.reason}")
        return answer.times

    def _ask(self, ids: np.ndarray, plan: Plan, views: list[np.ndarray]) -> Done | Bad | Failed:
        """One batch of the process, started if need be; RuntimeError where it dies."""
        if self._process is None:
            self._process = _Process(Path(str(self._shards.path)), self._field, self._spec, self._threads)
        try:
            return self._process.render(ids, plan, views)
        except BaseException:
            self._end()
            raise

    def _explained(self, failed: Failed, ids: np.ndarray, plan: Plan, views: list[np.ndarray]) -> Bad | Failed:
        """After a failure of a batch: the sample that fails by itself while another one works, or the failure."""
        bad: Bad | None = None
        works = False
        for i in range(len(ids)):
            one = slice(i, i + 1)
            try:
                answer = self._ask(ids[one], plan[one], [np.empty_like(view[one]) for view in views])
            except RuntimeError:  # it could not even start
                return failed
            works |= isinstance(answer, Done)
            if not isinstance(answer, Done) and bad is None:
                bad = answer if isinstance(answer, Bad) else Bad(int(ids[i]), answer.reason)
            if works and bad is not None:
                return bad
        return failed

    def close(self) -> None:
        """End the process; the next `render` starts another one."""
        with self._lock:
            self._end()

    def forked(self) -> None:
        """See `WholeBatchEngine`."""
        self._lock = threading.Lock()
        if self._process is not None:
            self._process.leave()
            self._process = None

    def _end(self) -> None:
        if self._process is not None:
            self._process.end()
            self._process = None


class _Process:
    """The process, its socket and the memory shared with it."""

    def __init__(self, path: Path, field: str, spec: ViewSpec, threads: int) -> None:
        self._pipe, theirs = Pipe()
        self._memory = nameless_file()
        self._map = mmap.mmap(-1, 1)
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                "headrace.pipeline.engines.ffcv_process",
                str(theirs.fileno()),
                str(self._memory),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(), self._memory),
            env={**os.environ, "PYTHONPATH": os.pathsep.join(place or os.getcwd() for place in sys.path)},
        )
        theirs.close()
        self.end = weakref.finalize(self, _end, self._pipe, self._memory, self._process)
        self._send((path, field, spec, threads))

    def leave(self) -> None:
        """Leave the process to the one that this one was forked from."""
        self.end.detach()
        self._pipe.close()
        os.close(self._memory)

    def render(self, ids: np.ndarray, plan: Plan, views: list[np.ndarray]) -> Done | Bad | Failed:
        """One batch. RuntimeError if the process dies."""
        need = sum(view.nbytes for view in views)
        if need > len(self._map):
            os.ftruncate(self._memory, need)
            self._map = mmap.mmap(self._memory, need)
        self._send(Order(ids, plan, views[0].dtype == np.float32, len(self._map)))
        answer: Done | Bad | Failed = self._receive()
        if isinstance(answer, Done):
            for view, shared in zip(views, shared_views(self._map, views), strict=True):
                view[:] = shared
        return answer

    def _send(self, message: Any) -> None:
        try:
            self._pipe.send(message)
        except OSError:
            raise self._death() from None

    def _receive(self) -> Any:
        try:
            while not self._pipe.poll(_GLANCE_S):
                if self._process.poll() is not None and not self._pipe.poll():
                    raise self._death()
            return self._pipe.recv()
        except (EOFError, OSError):
            raise self._death() from None

    def _death(self) -> RuntimeError:
        try:
            code = self._process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            return RuntimeError("engine 'ffcv': its process does not answer")
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit status {code}"
        return RuntimeError(f"engine 'ffcv': its process {how}")


def nameless_file() -> int:
    """A descriptor of memory without a name; where a system has no such thing, of a file that has lost its own."""
    if sys.platform == "linux":
        return os.memfd_create("headrace-ffcv")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _end(pipe: Connection, memory: int, process: subprocess.Popen) -> None:
    pipe.close()  # which the process takes as the order to end
    try:
        process.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    os.close(memory)


def shared_views(memory: mmap.mmap, like: list[np.ndarray]) -> list[np.ndarray]:
    """Arrays of the shapes and types of `like`, one after the other in `memory`."""
    found, offset = [], 0
    for view in like:
        found.append(np.frombuffer(memory, view.dtype, view.size, offset).reshape(view.shape))
        offset += view.nbytes
    return found
