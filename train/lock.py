"""One writer a run folder: a lock that says who holds it, and that goes with its holder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from headrace.train.distributed import World
from headrace.train.errors import RunError

NAME = "run.lock"
"""In the run's folder, for as long as somebody writes to it."""

_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}
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


@dataclass
class _Held:
    path: Path
    descriptor: int | None
    """Open and locked; None where the file system has no locks."""
    owner: int

    def release(self) -> None:
        if os.getpid() != self.owner:  # a forked child has none of it
            return
        if self.descriptor is None or _is_at(self.descriptor, self.path):
            self.path.unlink(missing_ok=True)
        if self.descriptor is not None:
            _HELD.discard(self.descriptor)
            os.close(self.descriptor)


_HELD: set[int] = set()


def _let_go_in_child() -> None:
    """A forked child that outlives its parent would keep the lock."""
    while _HELD:
        os.close(_HELD.pop())


os.register_at_fork(after_in_child=_let_go_in_child)


def _lock(path: Path) -> tuple[_Held, Holder | None]:
    """The lock, and the process that it was taken over from, if there was one."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # the folder has just gone with another holder, who had made it
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = _read(path)
            os.close(descriptor)
            if error.errno in _UNSUPPORTED:
                return _lock_by_record(path, holder)
            if isinstance(error, BlockingIOError):
                raise RunError(_refusal(path, holder)) from None
            raise
        if _is_at(descriptor, path):  # else its holder has just taken it away
            break
        os.close(descriptor)
    gone = _read(path)
    record = _record(Holder.this_process())
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, record, 0)
    _HELD.add(descriptor)
    return _Held(path, descriptor, os.getpid()), gone


def _lock_by_record(path: Path, holder: Holder | None) -> tuple[_Held, Holder | None]:
    """The lock where the file system has none. Of several that try at once, the last to write has it."""
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
    return _Held(path, None, ours.pid), holder


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


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is the one at `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


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
