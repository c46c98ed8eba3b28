"""How this package compiles: one decorator, so that every kernel has the same promises.

Kernels are compiled on first use, kept on disk, run without the GIL and divide as IEEE 754 says. Their arguments are
arrays and numbers of any type that numba infers, hence no annotations.

They are kept where numba keeps its own: in the folder that NUMBA_CACHE_DIR names, beside the sources, or in the user's
cache folder, the first that can be written. Where none can (installed by root, run by another user without a home), a
folder of this user's alone in the temporary one takes them; where that is not to be had either, each process compiles
them anew. Both are said once. No folder is looked for before the first kernel is called.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import re
import stat
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numba
import numba.extending
from numba.core.caching import NullCache
from numba.core.compiler_lock import global_compiler_lock

carray: Any = getattr(numba, "carray")  # noqa: B009 - not declared in numba's type information
_config: Any = numba.config

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
    compiled: Any = make()(function)
    if _NOT_COMPILED:
        return compiled
    if not all(hasattr(compiled, name) for name in ("_cache", "enable_caching")):
        _say_unknown()
        return make(cache=True)(function)
    compiled._cache = _OnFirstUse(compiled)
    return compiled


class _OnFirstUse:
    """Stands for numba's store of a kernel until it is asked for anything: who only imports kernels needs no folder."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled

    def __getattr__(self, name: str) -> Any:
        _open_store(self._compiled)
        return getattr(self._compiled._cache, name)


def _open_store(compiled: Any) -> None:
    """Give a kernel its place on disk, or none where there is none."""
    module = compiled.py_func.__module__
    try:
        try:
            if not _config.CACHE_DIR and not _has_home() and not _can_write(_beside(compiled)):
                raise OSError("numba would take a folder named ~ for the home")
            compiled.enable_caching()
        except (RuntimeError, OSError):  # numba finds no folder that it may write to
            with _kept_in(private_folder()):
                compiled.enable_caching()
    except (RuntimeError, OSError) as error:
        compiled._cache = NullCache()
        _say(
            f"compiled kernels cannot be kept, since no folder for them can be written ({error}), so each start "
            "compiles them anew, which takes a minute or so: set NUMBA_CACHE_DIR to a folder that can be written"
        )
        return
    _keep(compiled, stamp(module.removeprefix(f"{PACKAGE}.")))


def _has_home() -> bool:
    return os.path.isabs(os.path.expanduser("~"))


def _beside(compiled: Any) -> str:
    """Where numba keeps kernels beside their sources."""
    return os.path.join(os.path.dirname(compiled.py_func.__code__.co_filename), "__pycache__")


def _can_write(folder: str) -> bool:
    try:
        os.makedirs(folder, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _kept_in(folder: str) -> Iterator[None]:
    """What is given a place meanwhile has it there. Only under numba's lock for compilation."""
    named = _config.CACHE_DIR
    _config.CACHE_DIR = folder
    try:
        yield
    finally:
        _config.CACHE_DIR = named


@cache
def private_folder() -> str:
    """A folder in the temporary one that nobody but this user may write to, made where it is not there.

    What lies in it is run, so nothing that another user may have put there is taken: neither a folder that is not this
    user's or that others may write to, nor one in a folder where others may exchange it.

    Raises:
        OSError: where there is no such folder and none can be made; the text says why.
    """
    user = os.geteuid()
    above = tempfile.gettempdir()
    folder = os.path.join(above, f"headrace-kernels-{user}")
    status = os.stat(above)
    if status.st_uid not in (0, user) or (status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX):
        raise OSError(f"in {above} other users may exchange folders")
    made = True
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        made = False
    status = os.lstat(folder)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != user or status.st_mode & 0o077:
        raise OSError(f"{folder} is not a folder of this user's alone")
    if made:
        _say(
            f"compiled kernels are kept in {folder}, since they can be neither beside the sources nor in a home: set "
            "NUMBA_CACHE_DIR to keep them in another folder"
        )
    return folder


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
        _say_unknown()
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


def _say_unknown() -> None:
    _say(
        f"Headrace does not know how numba {numba.__version__} keeps compiled kernels, and leaves it to numba: "
        "after a change of Headrace's version or sources empty the folder that NUMBA_CACHE_DIR names, or remove "
        "*.nbi and *.nbc beside the sources"
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


def _lock_at_forks() -> None:
    """A child that is forked while a thread compiles would wait for that thread, which only its parent has, with its
    own first kernel. So a fork waits instead, until it has compiled."""
    lock: Any = global_compiler_lock
    os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)


_lock_at_forks()
