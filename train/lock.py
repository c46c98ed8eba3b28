"""One writer a run folder: a lock that says who holds it, and that goes with its holder."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from headrace.shards.lock import FileLock
from headrace.train.distributed import World
from headrace.train.errors import RunError

NAME = "run.lock"
"""In the run's folder, for as long as somebody writes to it."""

_PAUSE_S = 0.5  # longer than a record takes to reach another machine's view of the folder


@dataclass(frozen=True)
class Holder:
    """Who writes to a run: one line of JSON in the lock's file."""

    host: str
    pid: int
    since: str
    """Date and time, UTC."""
    began: int | None
    """When the process began, in the kernel's ticks, so that a later process of the same number is not taken for it;
    None where the system does not say."""

    @classmethod
    def this_process(cls) -> Holder:
        pid = os.getpid()
        return cls(socket.gethostname(), pid, datetime.now(UTC).isoformat(timespec="seconds"), _began(pid))

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def writer_of(out: Path) -> tuple[Holder, bool] | None:
    """Who writes to the run folder `out`, or did when it was killed, and whether it is still there; None where the last
    to write has ended. Of another machine's process nobody can tell here: it counts as there."""
    holder = _read(out / NAME)
    if holder is None:
        return None
    return holder, holder.host != socket.gethostname() or _is_alive(holder)


@contextmanager
def one_writer(out: Path, world: World, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the run folder `out`, which is created where it is missing and goes again if nothing was put into it.

    Rank 0 locks, and all ranks learn how that went. The system's own lock (flock) goes with the process, however that
    ends, and works between machines where the file system's does. Where it has none, the file with host and process
    stands alone: a process of this machine is asked for; nobody can ask for one of another machine.

    Args:
        say: gets a line if the folder is taken over from a process that is gone.

    Raises:
        RunError: if another process holds it, with its number and host.
    """
    made = held = None
    refusal: Exception | None = None
    if world.rank == 0:
        try:
            made = None if out.exists() else out
            held, gone = _lock(out / NAME)
            if gone:
                say(f"{out}: taken over from {gone}, which is gone")
        except (RunError, OSError) as error:  # raised when the other ranks know, who would wait for ever
            refusal = error
    [refused] = world.max(int(refusal is not None))
    if refused:
        raise refusal or RunError(f"{out}: rank 0 cannot have it; its message says why")
    try:
        yield
    finally:
        if held:
            held.release()
        if made:
            with contextlib.suppress(OSError):
                made.rmdir()


def _lock(path: Path) -> tuple[FileLock, Holder | None]:
    """The lock, and the process that it was taken over from, if there was one."""
    lock = FileLock(path)
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            taken = lock.take()
        except FileNotFoundError:  # the folder has just gone with another holder, who had made it
            continue
        break
    holder = _read(path)
    if not taken:
        raise RunError(_refusal(path, holder))
    try:
        if lock.enforced:
            path.write_bytes(_record(Holder.this_process()))
        else:
            _lock_by_record(path, holder)
    except BaseException:
        lock.forget()
        raise
    return lock, holder


def _lock_by_record(path: Path, holder: Holder | None) -> None:
    """Say in the file that it is ours, where nothing else does. Of several that try at once, the last to write has
    it."""
    ours = Holder.this_process()
    if holder and holder.host != ours.host:
        raise RunError(f"{_refusal(path, holder)}; if that process is gone, delete {path}: nobody can tell from here")
    if holder and _is_alive(holder):
        raise RunError(_refusal(path, holder))
    path.write_bytes(_record(ours))
    time.sleep(_PAUSE_S)
    now = _read(path)
    if now != ours:
        raise RunError(_refusal(path, now))


def _refusal(path: Path, holder: Holder | None) -> str:
    who = f"{holder} has been writing to it since {holder.since}" if holder else "another process is writing to it"
    return f"{path.parent}: {who}; let it end, stop it, or use another out"


def _record(holder: Holder) -> bytes:
    return (json.dumps(asdict(holder)) + "\n").encode()


def _read(path: Path) -> Holder | None:
    """Who is said to hold the lock; None for a file that says nothing, or nothing yet."""
    try:
        return Holder(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _is_alive(holder: Holder) -> bool:
    """Whether a process of this machine is still there."""
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return holder.began is None or _began(holder.pid) in (holder.began, None)


def _began(pid: int) -> int | None:
    """Start of a process in the kernel's ticks since the machine's."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[19])  # field 22; the name before it may hold anything
