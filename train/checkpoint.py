"""Checkpoints that survive a kill at any moment: written aside, synced, renamed; read back without code."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from headrace.shards.writing.staging import sync_path
from headrace.train.distributed import World
from headrace.train.errors import RunError, replacing

FORMAT = 1
"""Version of the dictionary below; raised when an old reader would misread a new one."""

# A checkpoint is a dictionary of plain values and tensors on the CPU:
#   format     FORMAT
#   step       optimiser steps taken
#   config     RunConfig.to_dict(), with the precision that was chosen
#   model      state_dict of the method
#   optimizer  state_dict of the optimiser
#   loader     state_dict of the loader
#   precision  state of float16's loss scale; empty otherwise, and missing in older ones
#   evaluator  state_dict of the evaluator: the best scores so far
#   guard      state_dict of the guard: the bad steps so far; missing in older ones
# No state of a random generator: every draw is a function of the seed and the step.
_NAME = re.compile(r"step-(\d{8,})\.pt")


def checkpoint_name(step: int) -> str:
    """The file of the checkpoint after `step` steps."""
    return f"step-{step:08d}.pt"


def save_checkpoint(folder: Path, state: dict[str, Any], keep: int) -> Path:
    """Write `state` as step-XXXXXXXX.pt and delete all but the `keep` newest.

    The name appears only after the bytes are on the disk, so that a checkpoint that can be seen is whole.

    Raises:
        RunError: if it cannot be written, as on a full disk; those before it stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / checkpoint_name(state["step"])
    aside = path.with_suffix(".pt.tmp")
    try:
        write_synced(aside, {"format": FORMAT, **state})
        os.replace(aside, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)  # it would fill the disk
        reason = error.strerror or str(error)
        raise RunError(f"{path}: cannot be written ({reason}); the checkpoints before it are whole") from error
    sync_path(folder)
    for old in [*checkpoint_paths(folder)[keep:], *folder.glob("*.tmp")]:
        old.unlink(missing_ok=True)
    return path


def write_synced(path: Path, state: dict[str, Any]) -> None:
    """Write `state`, as `torch.load` reads it without executing anything, and wait until it is on the disk.

    Raises:
        OSError: if the disk does not take it.
    """
    try:
        with open(path, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
    except RuntimeError as error:  # torch's for a file that does not take its bytes, such as "unexpected pos"
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__ or cause.__context__
        number = cause.errno if isinstance(cause, OSError) else None
        raise OSError(number or 0, os.strerror(number) if number else _first_line(error)) from error


def keep_best(path: Path) -> None:
    """Let best.pt, beside the checkpoint `path`, be the same file, which stays when `path` goes; a copy of it where the
    file system has no links. RunError where the disk does not take it."""
    best = path.with_name("best.pt")
    if best.exists() and best.samefile(path):
        return
    with replacing(best) as aside:
        aside.unlink(missing_ok=True)
        try:
            os.link(path, aside)
        except OSError:
            shutil.copyfile(path, aside)


def checkpoint_paths(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, newest first; none where there is no such folder."""
    found = [(int(match[1]), path) for path in folder.glob("step-*.pt") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The dictionary of one checkpoint, tensors on the CPU. Nothing in the file is executed.

    Raises:
        RunError: if it is damaged, or of another format.
        OSError: if the disk cannot read it, which says nothing about the file.
        MemoryError: likewise.
    """
    return read_tensors(path, "checkpoint", FORMAT)


def read_tensors(path: Path, what: str, format: int) -> dict[str, Any]:
    """The dictionary that `write_synced` wrote, of which `format` says what is in it; see `read_checkpoint`.

    Args:
        what: names it in messages.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # torch raises a dozen kinds for damaged files, and the same for a disk that fails
        _read_through(path)
        raise RunError(f"{path}: not a readable {what} ({_first_line(error)})") from None
    if not isinstance(state, dict) or state.get("format") != format:
        raise RunError(f"{path}: not a {what} of format {format}")
    return state


def newest_checkpoint(folder: Path, warn: Callable[[str], None]) -> dict[str, Any] | None:
    """The newest readable checkpoint in `folder`, None where there are none. `warn` gets a line for each damaged one.

    Raises:
        RunError: if there are checkpoints and all are damaged.
        OSError: if the disk fails: an older checkpoint would then be no better than a newer one later.
    """
    paths = checkpoint_paths(folder)
    for path in paths:
        try:
            return read_checkpoint(path)
        except RunError as error:
            warn(f"{error}; taking the one before it")
    if paths:
        raise RunError(f"{folder}: none of {len(paths)} checkpoints can be read; move the run away to start anew")
    return None


def common_checkpoint(out: Path, world: World, warn: Callable[[str], None]) -> dict[str, Any] | None:
    """`newest_checkpoint` of the run in `out`, which all ranks must find alike.

    Raises:
        RunError: if they do not; and as `newest_checkpoint`.
    """
    state = newest_checkpoint(out / "checkpoints", warn=warn if world.rank == 0 else lambda line: None)
    step = state["step"] if state else 0
    if world.max(step, -step) != [step, -step]:
        raise RunError(f"{out}: ranks see different checkpoints; the folder must be shared by all of them")
    return state


def _read_through(path: Path) -> None:
    """Read a file to its end. Raises OSError where the disk cannot."""
    with open(path, "rb") as file:
        while file.read(1 << 20):
            pass


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
