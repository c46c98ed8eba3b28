"""The steps of a run, top to bottom. Nothing here knows a method or a modality by name."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from headrace.models import Method
from headrace.models.method import Context
from headrace.models.parts.schedules import cosine
from headrace.models.seeding import seeded
from headrace.pipeline import Batch, Loader, ViewSpec
from headrace.pipeline.transfer import DeviceBatches
from headrace.train.checkpoint import save_checkpoint
from headrace.train.config import RunConfig
from headrace.train.distributed import World, last_part
from headrace.train.finite import FiniteState, gradient_norm
from headrace.train.metrics import Meter, Record, RunLog, loader_figures
from headrace.train.optim import clip_gradients, drop_frozen, peak_lr, set_schedule, step_unless
from headrace.train.schedule import SHAPES
from headrace.train.stopping import Stop, Watch


@dataclass(kw_only=True)
class Run:
    """What the steps work with."""

    config: RunConfig
    """As resolved."""
    world: World
    method: Method
    module: nn.Module
    """From a batch to the method's losses, whose gradients are averaged over ranks."""
    optimizer: torch.optim.Optimizer
    loader: Loader
    weights: FiniteState
    first_step: int
    """Steps that were taken before."""
    whole_set: Callable[[ViewSpec], Iterator[Batch]]
    """For `Context.batches`."""
    log: RunLog | None = None
    """On rank 0."""

    @property
    def total_steps(self) -> int:
        """Of the whole run."""
        return self.config.epochs * len(self.loader)

    def context(self, step: int) -> Context:
        """Where the run stands before `step`, from 0."""
        return Context(
            step=step,
            epoch=step // len(self.loader),
            steps_per_epoch=len(self.loader),
            epochs=self.config.epochs,
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            samples=len(self.loader.shards),
            batches=self.whole_set,
            forget=self.forget,
        )

    def forget(self, parameters: Sequence[nn.Parameter]) -> None:
        """For `Context.forget`."""
        for parameter in parameters:
            self.optimizer.state.pop(parameter, None)


def take_steps(run: Run, stop: Stop) -> tuple[int, str | None, Record | None]:
    """Train to the end of the run, or until a signal.

    Returns:
        Steps taken in all, the name of the signal that ended the run early, the last record.

    Raises:
        RunError: If loss, gradient or weights are not finite.
    """
    config, world, method, optimizer, loader, log = (
        run.config, run.world, run.method, run.optimizer, run.loader, run.log
    )  # fmt: skip
    out = Path(config.out)
    batches = DeviceBatches(loader, world.device)
    watch, meter = Watch(world, stop), Meter()
    trained = [p for p in method.parameters() if p.requires_grad]
    step, record, stopped_by = run.first_step, None, None
    counted = replace(loader.stats)
    while step < run.total_steps and not stopped_by:
        for batch in meter.watch(batches, config.batch_size):
            context = run.context(step)
            terms = _forward_backward(run, batch, context)
            with torch.no_grad():
                method.after_backward(context)
            norm = gradient_norm(trained)
            if config.optim.clip:
                clip_gradients(method, config.optim.clip, config.optim.clip_by)
            drop_frozen(optimizer, context.epoch)
            step_unless(optimizer, watch.step(step + 1, terms["loss"], norm))
            with torch.no_grad():
                method.after_step(context)
            step += 1
            if log:
                log.advance(step)

            last = step == run.total_steps
            signalled = watch.signal
            log_now = last or step % config.log.every_steps == 0
            save_now = last or (config.checkpoint.every_steps > 0 and step % config.checkpoint.every_steps == 0)
            if not (log_now or save_now or signalled):
                continue
            # From here on the device is waited for.
            watch.check(out)
            scalars = _read({**terms, "grad_norm": norm}, world)
            stopped_by = signal.Signals(signalled).name if signalled else None
            if log_now:
                record = {"step": step, "epoch": batch.epoch, **scalars, "lr": optimizer.param_groups[0]["lr"]}
                record |= meter.read() | loader_figures(loader, counted)
                meter.restart()
                counted = replace(loader.stats)
                if log:
                    log.write(record)
                    log.warn_of(loader)
            if save_now or stopped_by:
                _save(run, step, batches, watch)
            if stopped_by or last:
                break
    if log and stopped_by:
        log.say(f"{stopped_by}: stopped at step {step} of {run.total_steps} with a checkpoint; run again to resume")
    return step, stopped_by, record


def _forward_backward(run: Run, batch: Batch, context: Context) -> dict[str, Tensor]:
    """Hooks, schedules, and the gradient of one step; the method's scalars, means over the parts of the batch."""
    config, method, world = run.config, run.method, run.world
    step, total = context.step, context.total_steps
    warmup = round(config.schedule.warmup_epochs * context.steps_per_epoch)
    peak = peak_lr(config.optim, config.batch_size)
    share = SHAPES[config.schedule.shape](step, total=total, warmup=warmup, final=config.schedule.final)
    lr = peak * share
    decay, final_decay = config.optim.weight_decay, config.schedule.final_weight_decay
    set_schedule(run.optimizer, lr, peak, decay if final_decay is None else cosine(decay, final_decay, step / total))
    parts = batch.parts(config.optim.accumulate)
    sums: dict[str, Tensor] = {}
    with seeded(config.seed, step, world.rank, device=world.device):
        with torch.no_grad():
            if step % context.steps_per_epoch == 0:
                method.on_epoch(context)
            method.before_step(context)
        run.optimizer.zero_grad(set_to_none=True)
        for number, part in enumerate(parts):
            with last_part(run.module, number == len(parts) - 1):
                with torch.autocast(world.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
                    terms = run.module(part)
                (terms["loss"] / len(parts)).backward()
            for name, term in terms.items():
                sums[name] = term.detach() / len(parts) + sums.get(name, 0)
    return sums


def _save(run: Run, step: int, batches: DeviceBatches, watch: Watch) -> None:
    """A checkpoint after `step` steps; RunError, and none, where a weight is not finite."""
    out = Path(run.config.out)
    broken = run.weights.broken()
    if run.world.max(int(broken is not None)) != [0]:
        watch.refuse(broken or "a weight of another rank", step, out)
    if run.world.rank == 0:
        checkpoint = {
            "step": step,
            "config": run.config.to_dict(),
            "model": run.method.state_dict(),
            "optimizer": run.optimizer.state_dict(),
            "loader": batches.state_dict(),
        }
        save_checkpoint(out / "checkpoints", checkpoint, run.config.checkpoint.keep)
    run.world.max(0)  # nobody runs ahead, or leaves, before the file is there


def _read(terms: dict[str, Tensor], world: World) -> Record:
    """Scalars as numbers, their means over ranks."""
    values = world.mean(torch.stack([term.detach().float() for term in terms.values()])).tolist()
    return dict(zip(terms, values, strict=True))
