"""Checkpoints that survive a kill at any moment: written aside, synced, renamed; read back without code."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from headrace.train.errors import RunError

FORMAT = 1
"""Version of the dictionary below; raised when an old reader would misread a new one."""

# A checkpoint is a dictionary of plain values and tensors on the CPU:
#   format     FORMAT
#   step       optimiser steps taken
#   config     RunConfig.to_dict(), with the precision that was chosen
#   model      state_dict of the method
#   optimizer  state_dict of the optimiser
#   loader     state_dict of the loader
# No state of a random generator: every draw is a function of the seed and the step.
_NAME = re.compile(r"step-(\d{8,})\.pt")


def checkpoint_name(step: int) -> str:
    """The file of the checkpoint after `step` steps."""
    return f"step-{step:08d}.pt"


def save_checkpoint(folder: Path, state: dict[str, Any], keep: int) -> Path:
    """Write `state` as step-XXXXXXXX.pt and delete all but the `keep` newest.

    The name appears only after the bytes are on the disk, so that a checkpoint that can be seen is whole.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / checkpoint_name(state["step"])
    aside = path.with_suffix(".pt.tmp")
    with open(aside, "wb") as file:
        torch.save({"format": FORMAT, **state}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    for old in [*checkpoint_paths(folder)[keep:], *folder.glob("*.tmp")]:
        old.unlink(missing_ok=True)
    return path


def checkpoint_paths(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, newest first; none where there is no such folder."""
    found = [(int(match[1]), path) for path in folder.glob("step-*.pt") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The dictionary of one checkpoint, tensors on the CPU. Nothing in the file is executed.

    Raises:
        RunError: if it is damaged, or of another format.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(f"{path}: not a readable checkpoint ({reason})") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise RunError(f"{path}: not a checkpoint of format {FORMAT}")
    return state


def newest_checkpoint(folder: Path, warn: Callable[[str], None]) -> dict[str, Any] | None:
    """The newest readable checkpoint in `folder`, None where there are none. `warn` gets a line for each damaged one.

    Raises:
        RunError: if there are checkpoints and none can be read.
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
