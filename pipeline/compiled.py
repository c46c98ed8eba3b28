"""How this package compiles: one decorator, so that every kernel has the same promises.

Kernels are compiled on first use, cached on disk, run without the GIL and divide as IEEE 754 says. Their arguments
are arrays and numbers of any type that numba infers, hence no annotations.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numba
import numba.extending

carray: Any = getattr(numba, "carray")  # noqa: B009 - not declared in numba's type information
intrinsic: Any = numba.extending.intrinsic


def _package_digest() -> str:
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()


_STAMP = _package_digest()


def kernel(function: Callable[..., Any], **options: Any) -> Any:
    """Compile a function of arrays and numbers."""
    compiled = numba.njit(cache=True, nogil=True, error_model="numpy", **options)(function)
    # numba takes a cached kernel for current while the file that defines it is unchanged. Kernels contain what they
    # call, so a change anywhere in the package must make them anew.
    files = compiled._cache._cache_file
    files._source_stamp = _STAMP
    files._data_name = partial(_machine_code_name, files)
    return compiled


def _machine_code_name(files: Any, number: int) -> str:
    """File name for machine code that is about to be kept, as the `number`-th of a function.

    numba counts the files of a function without a lock: two processes that compile it for different types at once may
    take the same name, and one would later run the other's code. So no name is ever given twice.
    """
    base = files._index_name.removesuffix(".nbi")
    if number == 1:  # of this source
        for other in Path(files._cache_path).glob(f"{glob.escape(base)}.*.nbc"):
            if f".{_STAMP[:16]}-" not in other.name:
                with contextlib.suppress(OSError):
                    other.unlink()
    return f"{base}.{_STAMP[:16]}-{uuid.uuid4().hex}.nbc"


def kernel_part(function: Callable[..., Any]) -> Any:
    """A kernel that LLVM pastes into its callers, loops and all."""
    return kernel(function, forceinline=True)


def inlined(function: Callable[..., Any]) -> Any:
    """A function that only kernels call, pasted into them before types are inferred."""
    return numba.njit(inline="always", error_model="numpy")(function)
