"""The steps of a run, top to bottom. Nothing here knows a method or a modality by name."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from headrace.models.method import Context
from headrace.models.seeding import seeded
from headrace.pipeline import Batch
from headrace.pipeline.transfer import DeviceBatches
from headrace.train.checkpoint import keep_best, save_checkpoint
from headrace.train.distributed import World, last_part
from headrace.train.errors import RunError
from headrace.train.finite import gradient_norm
from headrace.train.guard.answer import answer, not_finite
from headrace.train.guard.watch import Watch
from headrace.train.metrics import Ending, Meter, Record, loader_figures, memory_figures
from headrace.train.optim import clip_players, drop_frozen, follow_schedule, step_unless
from headrace.train.state import Run
from headrace.train.stopping import Stop, interrupted


def take_steps(run: Run, stop: Stop) -> tuple[Ending, Record | None]:
    """Train to the end of the run, or until an evaluation, a signal or the clock ends it.

    Returns:
        How it ended, and the last record.

    Raises:
        RunError: At a bad step, where the configuration does not say how to go on, or if weights are not finite.
    """
    config, world, method, optimizer, loader, evaluator, guard, log = (
        run.config, run.world, run.method, run.optimizer, run.loader, run.evaluator, run.guard, run.log
    )  # fmt: skip
    batches = DeviceBatches(loader, world.device)
    precision, meter = run.precision, Meter()
    watch = Watch(world, stop, gradient_counts=not precision.scaled)
    step: int = run.first_step
    record: Record | None = None
    if not step:
        evaluator.draw_first()
        if log:
            log.draw(0)
    ending = _ending(run, step)
    counted = replace(loader.stats)
    while not ending:
        for batch in meter.watch(batches, config.batch_size):
            context = run.context(step)
            if step % context.steps_per_epoch == 0:
                _begin_epoch(run, context)
            guard.keep()
            with guard.metering(step + 1) as meters:
                terms, norm = attempt(run, batch, context)
            clip_players(method, optimizer, config.optim)
            drop_frozen(optimizer, context.epoch)
            # A bad step, and all behind it, are undone on the device until the host looks.
            held_back, undone = watch.step(step + 1, terms["loss"], norm, guard.collapsed(meters))
            step_unless(optimizer, held_back)
            precision.after_step(held_back)
            with torch.no_grad():
                method.after_step(context)
            guard.put_back(undone)
            step += 1
            if log:
                log.advance(step)

            asked, (log_now, save_now) = watch.asked, _due(run, step)
            if not (log_now or save_now or asked or run.looks_before(step)):
                continue
            # From here on the device is waited for.
            figures = {**terms, "grad_norm": norm, **meters}
            if found := watch.look():
                answer(run, found, batches, attempt)
                watch.clear()
                step, figures = found.step, {}
                log_now, save_now = True, _due(run, step)[1] or config.guard.on_bad_step == "roll_back"
            precision.check(Path(config.out))
            if log_now:
                record = {"step": step, "total_steps": run.total_steps, "epoch": (step - 1) // len(loader)}
                record |= _read(figures, world) | {"lr": optimizer.param_groups[0]["lr"]} | meter.read()
                record |= loader_figures(loader, counted) | memory_figures(world.device)
                record |= precision.figures() | guard.figures()
                if evaluator.due(step):
                    record |= evaluator.evaluate(step)
                meter.restart()
                counted = replace(loader.stats)
                if log:
                    log.write(record)
                    log.draw(step)
                    log.warn_of(loader)
                    log.warn_of_waiting(record, config.loader.threads)
            ending = _ending(run, step, asked)
            if save_now or ending or step == evaluator.best_step:
                _save(run, step, batches)
            if ending or found:  # a bad step has set the loader back to the one behind it
                break
    return ending, record


def attempt(run: Run, batch: Batch, context: Context) -> tuple[dict[str, Tensor], Tensor]:
    """A step up to its gradient, before it is clipped: the method's scalars, and the gradient's norm."""
    terms = _forward_backward(run, batch, context)
    run.precision.unscale(run.optimizer)
    with torch.no_grad():
        run.method.after_backward(context)
    return terms, gradient_norm(run.trained)


def _due(run: Run, step: int) -> tuple[bool, bool]:
    """Whether `step` steps are followed by a line of metrics, and by a checkpoint."""
    every, last = run.config.checkpoint.every_steps, step == run.total_steps
    log_now = last or run.evaluator.due(step) or step % run.config.log.every_steps == 0
    return log_now, last or (every > 0 and step % every == 0)


def _ending(run: Run, step: int, asked: int = 0) -> Ending | None:
    """Why the run is to end after `step` steps, None if it goes on."""
    if step == run.total_steps:
        return Ending(why="finished", line=f"finished: {run.config.epochs} epochs, {step} steps", step=step)
    if line := run.evaluator.stopped(step):
        return Ending(why="early stop", line=line, step=step)
    return interrupted(asked, step, run.total_steps) if asked else None


def _begin_epoch(run: Run, context: Context) -> None:
    """The method's hook before an epoch, with draws of its own."""
    with seeded(run.config.seed, context.step, run.world.rank, 1, device=run.world.device), torch.no_grad():
        run.method.on_epoch(context)


def _forward_backward(run: Run, batch: Batch, context: Context) -> dict[str, Tensor]:
    """Hooks, schedules, and the gradient of one step; the method's scalars, means over the parts of the batch."""
    config, method, world = run.config, run.method, run.world
    follow_schedule(run.optimizer, config, context)
    parts = batch.parts(config.optim.accumulate)
    sums: dict[str, Tensor] = {}
    with seeded(config.seed, context.step, world.rank, device=world.device):
        with torch.no_grad():
            method.before_step(context)
        run.optimizer.zero_grad(set_to_none=True)
        for number, part in enumerate(parts):
            with last_part(run.module, number == len(parts) - 1):
                with run.precision.autocast():
                    terms = run.module(part)
                run.precision.backward(terms["loss"] / len(parts))
            for name, term in terms.items():
                sums[name] = term.detach() / len(parts) + sums.get(name, 0)
    return sums


def _save(run: Run, step: int, batches: DeviceBatches) -> None:
    """A checkpoint after `step` steps; RunError, and none, where a weight is not finite."""
    out = Path(run.config.out)
    broken = run.weights.broken()
    if run.world.max(int(broken is not None)) != [0]:
        raise RunError(not_finite(f"{broken or 'a weight of another rank'} is not finite after step {step}", out))
    if run.world.rank == 0:
        checkpoint = {
            "step": step,
            "config": run.config.to_dict(),
            "model": run.method.state_dict(),
            "optimizer": run.optimizer.state_dict(),
            "loader": batches.state_dict(),
            "precision": run.precision.state_dict(),
            "evaluator": run.evaluator.state_dict(),
            "guard": run.guard.state_dict(),
        }
        path = save_checkpoint(out / "checkpoints", checkpoint, run.config.checkpoint.keep)
        if step == run.evaluator.best_step:
            keep_best(path)
    run.world.max(0)  # nobody runs ahead, or leaves, before the file is there


def _read(terms: dict[str, Tensor], world: World) -> Record:
    """Scalars as numbers, their means over ranks; what is not finite, as the norm of a gradient that float16 could not
    hold, is left out."""
    if not terms:
        return {}
    values = world.mean(torch.stack([term.detach().float() for term in terms.values()])).tolist()
    return {name: value for name, value in zip(terms, values, strict=True) if math.isfinite(value)}
