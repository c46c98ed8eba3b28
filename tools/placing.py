"""Files and folders that are put in their place when they are whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from headrace.shards.writing.staging import exchange, sync_path
from headrace.tools.errors import UserError

FOLDER_OF_OURS = "preprocessing.json"
"""What a folder holds that may be replaced."""


def check_free(out: Path, overwrite: bool) -> None:
    """UserError unless something new may take this name: nothing is there, or what may be overwritten."""
    if not (out.exists() or out.is_symlink()):
        return
    if not overwrite:
        raise UserError(f"{out}: exists; --overwrite replaces it")
    if out.is_dir() and not (out / FOLDER_OF_OURS).exists():
        raise UserError(f"{out}: a folder that no export wrote, which has {FOLDER_OF_OURS}; it is not replaced")


@contextmanager
def placed(out: Path, overwrite: bool, also: Sequence[Path] = ()) -> Iterator[Path]:
    """A path of the same name in a new folder beside `out`, to be written as a file or a folder.

    At the end all that is in that folder takes its place beside `out`, and `out` the last, so that it is whole and all
    of it is there where it can be seen. After an error nothing is.

    Args:
        also: what else is written beside `out`, and must be free as well.

    Raises:
        UserError: as `check_free`, before and after.
        OSError: if the disk does not take it.
    """
    for path in (out, *also):
        check_free(path, overwrite)
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    aside.mkdir()
    try:
        new = aside / out.name
        yield new
        check_free(out, overwrite)
        for path in sorted(aside.rglob("*")):
            if path.is_file():
                path.chmod(0o666 & ~_umask())  # safetensors keeps files to their owner
                sync_path(path)
        for path in sorted(aside.iterdir()):
            if path != new:
                os.replace(path, out.with_name(path.name))
        _put(new, out)
        sync_path(out.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _put(new: Path, out: Path) -> None:
    """Let `new` take the place of `out`, which is left where `new` was if it was a folder."""
    if new.is_dir() and out.is_dir():
        if exchange(new, out):
            return
        os.rename(out, new.with_name("displaced"))
    elif new.is_dir() and out.exists():
        out.unlink()
    elif out.is_dir():
        os.rename(out, new.with_name("displaced"))
    os.replace(new, out)


def _umask() -> int:
    umask = os.umask(0o077)
    os.umask(umask)
    return umask
