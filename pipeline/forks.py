"""What is done around a fork so that torch computes in the child.

GNU's OpenMP, which torch computes with on Linux, keeps threads for each thread that has computed in parallel. A forked
child has none of them and, if it is not told, waits for them for ever: `os.fork`, `multiprocessing` with fork, the
workers of a `torch.utils.data.DataLoader`. So the thread that forks lets them go before, which takes some microseconds;
the next parallel work starts others, in the parent as in the child. Other OpenMP libraries (LLVM's, Intel's) look after
forks themselves.
"""

from __future__ import annotations

import ctypes
import os

import torch

_HARD = 2  # omp_pause_hard, OpenMP 5.0, section 3.2.44


def _guard() -> None:
    loaded = ctypes.CDLL(torch._C.__file__)  # a name is looked for in what it is linked with, too
    if not hasattr(loaded, "GOMP_parallel") or hasattr(loaded, "kmp_set_blocktime"):
        return
    if hasattr(loaded, "omp_pause_resource_all"):
        os.register_at_fork(before=lambda: loaded.omp_pause_resource_all(_HARD))
    else:  # before GCC 9: better slow than never
        os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


_guard()


def settle_threads() -> None:
    """Before a forked process starts threads that compute with torch: torch makes its other pool (QNNPACK's) anew on
    the first use in a child, and a second thread that comes meanwhile finds none ("Invalid thread pool!")."""
    global _inherits
    if _inherits:
        _inherits = False
        torch.set_num_threads(torch.get_num_threads())


_inherits = False


def _forked() -> None:
    global _inherits
    _inherits = True


os.register_at_fork(after_in_child=_forked)
