"""How this package compiles: one decorator, so that every kernel has the same promises.

Kernels are compiled on first use, cached on disk, run without the GIL and divide as IEEE 754 says. Their arguments
are arrays and numbers of any type that numba infers, hence no annotations.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import re
import uuid
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numba
import numba.extending

carray: Any = getattr(numba, "carray")  # noqa: B009 - not declared in numba's type information
intrinsic: Any = numba.extending.intrinsic


PACKAGE = __name__.rpartition(".")[0]
IMPORT = re.compile(rf"^\s*(?:from|import)\s+{re.escape(PACKAGE)}(?:\.([\w.]+))?(?:\s+import\s+(\w+))?", re.MULTILINE)


@cache
def _source(module: str) -> bytes:
    """The source of a module of this package, by its dotted name in it; empty where there is none."""
    path = Path(__file__).parent.joinpath(*module.split(".")) if module else Path(__file__).parent
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file.read_bytes()
    return b""


@cache
def stamp(module: str) -> str:
    """A digest of the sources that kernels of `module`, its dotted name in this package, may be made of: its own, and
    those of all modules of this package that it imports, directly or not, whose constants are compiled in."""
    digest, seen, waiting = hashlib.sha256(), {module}, [module]
    while waiting:
        source = _source(waiting.pop())
        digest.update(source)
        for inner, name in IMPORT.findall(source.decode()):
            for imported in (inner, f"{inner}.{name}".strip(".")):
                if imported and imported not in seen and _source(imported):
                    seen.add(imported)
                    waiting.append(imported)
    return digest.hexdigest()


def kernel(function: Callable[..., Any], **options: Any) -> Any:
    """Compile a function of arrays and numbers."""
    compiled = numba.njit(cache=True, nogil=True, error_model="numpy", **options)(function)
    # numba takes a cached kernel for current while the file that defines it is unchanged. Kernels contain what they
    # call, so a change in what their module imports must make them anew.
    files = compiled._cache._cache_file
    files._source_stamp = stamp(function.__module__.removeprefix(f"{PACKAGE}."))
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
            if f".{files._source_stamp[:16]}-" not in other.name:
                with contextlib.suppress(OSError):
                    other.unlink()
    return f"{base}.{files._source_stamp[:16]}-{uuid.uuid4().hex}.nbc"


def kernel_part(function: Callable[..., Any]) -> Any:
    """A kernel that LLVM pastes into its callers, loops and all."""
    return kernel(function, forceinline=True)


def inlined(function: Callable[..., Any]) -> Any:
    """A function that only kernels call, pasted into them before types are inferred."""
    return numba.njit(inline="always", error_model="numpy")(function)
