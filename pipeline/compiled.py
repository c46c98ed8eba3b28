"""How this package compiles: one decorator, so that every kernel has the same promises.

Kernels are compiled on first use, cached on disk, run without the GIL and divide as IEEE 754 says. Their arguments
are arrays and numbers of any type that numba infers, hence no annotations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numba.extending

carray: Any = getattr(numba, "carray")  # noqa: B009 - not declared in numba's type information
intrinsic: Any = numba.extending.intrinsic


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a function of arrays and numbers."""
    return numba.njit(cache=True, nogil=True, error_model="numpy")(function)


def inlined(function: Callable[..., Any]) -> Any:
    """A function that only kernels call, pasted into them so that their loops vectorise."""
    return numba.njit(inline="always", error_model="numpy")(function)


def kernel_part(function: Callable[..., Any]) -> Any:
    """A kernel that LLVM pastes into its callers, loops and all."""
    return numba.njit(cache=True, nogil=True, error_model="numpy", forceinline=True)(function)
