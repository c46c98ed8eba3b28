"""How this package compiles: one decorator, so that every kernel has the same promises.

Kernels are compiled on first use, kept on disk, run without the GIL and divide as IEEE 754 says. Their arguments are
arrays and numbers of any type that numba infers, hence no annotations.

They are kept where numba keeps its own: in the folder that NUMBA_CACHE_DIR names, beside the sources, or in the user's
cache folder, the first that can be written. Where none can, each process compiles them anew and says so once.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import re
import uuid
import warnings
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numba
import numba.extending

carray: Any = getattr(numba, "carray")  # noqa: B009 - not declared in numba's type information

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
    make = partial(numba.njit, nogil=True, error_model="numpy", **options)
    try:
        compiled = make(cache=True)(function)
    except (RuntimeError, OSError):  # numba finds no folder that it may write to
        _say(
            "compiled kernels cannot be kept, since no folder for them can be written, so each start compiles them "
            "anew, which takes a minute or so: set NUMBA_CACHE_DIR to a folder that can be written"
        )
        return make()(function)
    if not _NOT_COMPILED:
        _keep(compiled, stamp(function.__module__.removeprefix(f"{PACKAGE}.")))
    return compiled


_NOT_COMPILED = bool(getattr(numba.config, "DISABLE_JIT", False))
_OF_NUMBA = ("_index_name", "_cache_path", "_source_stamp", "_data_name", "_load_index")


def _keep(compiled: Any, sources: str) -> None:
    """Have a kernel's files on disk follow its `sources`, a digest, and stand what happens to files.

    numba takes a kept kernel for current while the file that defines it is unchanged. Kernels contain what they call,
    so a change in what their module imports must make them anew; and what cannot be read or written must not end a run.
    numba has no public way to say so. What is private in it is touched here alone, and left as it is where it is not
    what it was.
    """
    store: Any = getattr(compiled, "_cache", None)
    files: Any = getattr(store, "_cache_file", None)
    if not all(hasattr(files, name) for name in _OF_NUMBA):
        _say(
            f"Headrace does not know how numba {numba.__version__} keeps compiled kernels, and leaves it to numba: "
            "after a change of Headrace's version or sources empty the folder that NUMBA_CACHE_DIR names, or remove "
            "*.nbi and *.nbc beside the sources"
        )
        return
    files._source_stamp = sources
    files._data_name = partial(_machine_code_name, files)
    files._load_index = partial(_read, files._load_index, dict)
    store.load_overload = partial(_read, store.load_overload, lambda: None)
    store.save_overload = partial(_write, store.save_overload)


def _read(read: Callable[..., Any], otherwise: Callable[[], Any], *arguments: Any) -> Any:
    """What a file of kept kernels holds; `otherwise`, so that it is compiled and written anew, where the file is cut
    off, damaged or another user's."""
    with contextlib.suppress(Exception):  # of bytes that it did not write, pickle raises nearly anything
        return read(*arguments)
    return otherwise()


def _write(write: Callable[..., None], *arguments: Any) -> None:
    """Keep a kernel; go on without where the disk is full, or the folder is not to be written any more."""
    try:
        write(*arguments)
    except OSError as error:
        _say(
            f"compiled kernels cannot be kept ({error.strerror}), so the next start compiles them anew: set "
            "NUMBA_CACHE_DIR to a folder that can be written"
        )


@cache
def _say(sentence: str) -> None:
    """Warn, once a process."""
    warnings.warn(sentence, RuntimeWarning, stacklevel=2)


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


def intrinsic(function: Callable[..., Any]) -> Any:
    """A function that only kernels call, of instructions that it writes itself: numba's, with a sentence of its own
    where NUMBA_DISABLE_JIT has Python run the kernels."""
    return _impossible if _NOT_COMPILED else numba.extending.intrinsic(function)


def _impossible(*_: Any) -> Any:
    raise RuntimeError(
        "Headrace's random draws and pixels are made by compiled kernels, which NUMBA_DISABLE_JIT turns off: unset it"
    )
