"""What becomes of a run at a bad step."""

from __future__ import annotations

from pathlib import Path

from headrace.pipeline.transfer import DeviceBatches
from headrace.train.checkpoint import checkpoint_name, checkpoint_paths, common_checkpoint
from headrace.train.errors import RunError
from headrace.train.guard.capsule import Attempt, keep_capsule
from headrace.train.guard.watch import Found
from headrace.train.state import Run


def answer(run: Run, found: Found, batches: DeviceBatches, attempt: Attempt) -> None:
    """Keep a bad step as a capsule, and end, leave it out or roll back, as `RunConfig.guard` says.

    Every step behind it was held back. When this returns the run stands behind it: `batches` give the next one's, and
    steps are numbered as if it had been taken, so that schedules and the order of samples are as they would be.

    Raises:
        RunError: if the run is to end.
    """
    out, settings, guard = Path(run.config.out), run.config.guard, run.guard
    capsule = keep_capsule(run, found, batches, attempt)
    guard.count(found)
    if settings.on_bad_step == "stop":
        raise RunError(not_finite(str(found), out, capsule))
    if guard.in_a_row > settings.most_in_a_row:
        raise RunError(not_finite(f"{found}, which makes {guard.in_a_row} bad ones in a row", out, capsule))
    if settings.on_bad_step == "skip":
        guard.left_out += 1
        line = f"{found}: left out"
    else:
        state = common_checkpoint(out, run.world, run.say)
        if state is None:
            raise RunError(not_finite(f"{found}, and there is nothing to roll back to", out, capsule))
        run.restore(state)
        guard.left_out += found.step - state["step"]
        line = f"{found}: rolled back to {checkpoint_name(state['step'])}, left out is all up to step {found.step}"
    batches.load_state_dict(run.loader_state(found.step, batches.state_dict()))
    run.say(f"{line}; {capsule}" if capsule else line)


def not_finite(what: str, out: Path, capsule: str = "") -> str:
    """Why a run ends, with what is left to go on from, in one line."""
    kept = checkpoint_paths(out / "checkpoints")
    last = f"the newest checkpoint, {kept[0].name}, is from before" if kept else "there is no checkpoint yet"
    shown = f"; {capsule}" if capsule else ""
    return f"{out}: {what}; {last}{shown}. A lower optim.lr or precision=float32 may help"
