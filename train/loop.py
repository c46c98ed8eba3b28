"""Training, top to bottom: build, resume, step, log, checkpoint, close. It knows no method by name."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from headrace.models import Method, build_method
from headrace.models.seeding import seeded
from headrace.pipeline import Loader
from headrace.pipeline.engines import DEVICE_ENGINES
from headrace.pipeline.transfer import DeviceBatches
from headrace.shards import open_shards
from headrace.shards.remote import has_secrets
from headrace.train.checkpoint import checkpoint_paths, newest_checkpoint, read_checkpoint, save_checkpoint
from headrace.train.config import RunConfig
from headrace.train.distributed import World, distribute, join
from headrace.train.errors import ConfigError, RunError
from headrace.train.metrics import Meter, Record, RunLog, cache_warning, clumping_warning, stage_times
from headrace.train.optim import build_optimizer, peak_lr
from headrace.train.precision import choose_precision
from headrace.train.schedule import warmup_cosine


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a call of `train` did."""

    out: Path
    """The run's folder."""
    checkpoint: Path
    """The newest checkpoint."""
    step: int
    """Optimiser steps taken, counting those before a resume."""
    total_steps: int
    """Steps of the whole run."""
    stopped_by: str | None
    """Name of the signal that ended the run early, such as "SIGTERM"; None if it ran to its end."""
    record: Record | None
    """The last line of metrics that this call logged on rank 0."""
    config: RunConfig
    """As resolved, with the precision that was chosen."""


def train(
    config: RunConfig,
    *,
    progress: bool = True,
    on_step: Callable[[Record], None] | None = None,
) -> RunResult:
    """Train a method on a shard set, or go on with the run that `config.out` already holds.

    A run that was killed at any moment and started again takes the same steps on the same views as one that was
    not. On a CPU, with the same number of threads, it ends with the same bits. On CUDA some kernels add in an
    order that changes from run to run, unless the caller asks torch for deterministic ones
    (`torch.use_deterministic_algorithms`).

    SIGINT and SIGTERM end the run after the step under way (with several ranks, at the next log line), with a
    checkpoint; a second SIGINT interrupts at once.

    Args:
        config: the run; `config.data` and `config.out` must be given.
        progress: show a bar (on a terminal) or a line a record (elsewhere), on standard error.
        on_step: called on rank 0 with each record that is logged; see `headrace.train.metrics.Record`.

    Raises:
        ConfigError: for settings that do not fit each other, the data, or the run that is already in `out`.
        RunError: if the loss is not finite any more, or no checkpoint of the run can be read.
        ShardError: for data that cannot be read.
    """
    config = RunConfig.from_dict(config.to_dict())  # fields may have been assigned since it was checked
    for name in ("data", "out"):
        if not getattr(config, name):
            raise ConfigError(f"{name}: must be given")
    if has_secrets(config.data):
        raise ConfigError(
            "data: a user, password or query in the URL would be kept in config.yaml and in every checkpoint; give "
            "them to the store's own tools instead, by variables of the environment or .netrc (docs/remote.md)"
        )
    out = Path(config.out)
    with join(config.device) as world, open_shards(config.data) as shards, _stop_signals() as stop:
        if config.batch_size % world.size:
            raise ConfigError(f"batch_size: must be a multiple of the {world.size} ranks, got {config.batch_size}")
        if config.batch_size > len(shards):
            raise ConfigError(f"batch_size: must be at most {len(shards)}, the samples of {config.data}")
        state = newest_checkpoint(out / "checkpoints", warn=_say if world.rank == 0 else _silent)
        first_step = state["step"] if state else 0
        if world.max(first_step, -first_step) != [first_step, -first_step]:
            raise RunError(f"{out}: ranks see different checkpoints; the folder must be shared by all of them")
        config = _continued(config, out, has_checkpoint=state is not None)

        method = build_method(config.method, config.model, seed=config.seed)
        method = method.to(world.device).to(memory_format=torch.channels_last).train()
        if config.precision == "auto":
            precision, reason = choose_precision(method, world, config.batch_size // world.size)
            config = replace(config, precision=precision)
            if world.rank == 0 and progress:
                _say(f"precision {precision}: {reason}")
        module = distribute(method, world, config.sync_batch_norm)
        optimizer = build_optimizer(method, config.optim, config.batch_size)
        engine = config.loader.engine
        try:
            loader = Loader(
                shards,
                method.views,
                config.batch_size,
                engine=engine,
                device=str(world.device) if engine in DEVICE_ENGINES else "cpu",
                seed=config.seed,
                rank=world.rank,
                world_size=world.size,
                threads=config.loader.threads,
                prefetch=config.loader.prefetch,
                order=config.loader.order,
                window=config.loader.window,
                lanes=config.loader.lanes,
                on_error=config.loader.on_error,
                max_bad=config.loader.max_bad,
            )
        except ImportError as error:
            raise ConfigError(f"loader.engine: {error}") from None
        if state:
            try:
                loader.load_state_dict(state["loader"])
            except ValueError as error:
                raise ConfigError(f"data or loader: {error}, and {out} was started otherwise") from None
            method.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
        del state

        total_steps = config.epochs * len(loader)
        warmup_steps = round(config.schedule.warmup_epochs * len(loader))
        lr = peak_lr(config.optim, config.batch_size)
        log: RunLog | None = None
        if world.rank == 0:
            out.mkdir(parents=True, exist_ok=True)
            config.save(out / "config.yaml")
            log = RunLog(
                out,
                first_step=first_step,
                total_steps=total_steps,
                progress=progress,
                tensorboard=config.log.tensorboard,
                on_step=on_step,
            )
            if first_step:
                done = "is finished" if first_step == total_steps else "resumes"
                log.say(f"{out} {done}: step {first_step} of {total_steps}")
            if shards.cache_bytes < loader.cache_needed:
                log.say(cache_warning(shards.cache_bytes, loader.cache_needed))

        batches = DeviceBatches(loader, world.device)
        step, record, stopped_by = first_step, None, None
        first_bad = torch.zeros((), dtype=torch.int64, device=world.device)  # step of the first non-finite loss
        meter = Meter()
        counted = replace(loader.stats)
        told = 0  # bad samples that the log knows of
        warned = False  # of classes that clump
        try:
            while step < total_steps and not stopped_by:
                for batch in meter.watch(batches, config.batch_size):
                    for group in optimizer.param_groups:
                        group["lr"] = lr * warmup_cosine(
                            step, total=total_steps, warmup=warmup_steps, final=config.schedule.final
                        )
                    with seeded(config.seed, step, world.rank, device=world.device):
                        with torch.autocast(world.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
                            terms = module(batch)
                        optimizer.zero_grad(set_to_none=True)
                        terms["loss"].backward()
                    optimizer.step()
                    method.after_step(step, total_steps)
                    step += 1
                    bad_now = (first_bad == 0) & ~terms["loss"].detach().isfinite()
                    first_bad = torch.where(bad_now, step, first_bad)
                    if log:
                        log.advance(step)

                    last = step == total_steps
                    log_now = last or step % config.log.every_steps == 0
                    save_now = last or (config.checkpoint.every_steps > 0 and step % config.checkpoint.every_steps == 0)
                    if not (log_now or save_now or (stop.signal and world.size == 1)):
                        continue
                    # From here on the device is waited for.
                    scalars, bad_step, signal_number = _read(terms, first_bad, stop.signal, world)
                    if bad_step:
                        raise RunError(_not_finite(bad_step, out))
                    stopped_by = signal.Signals(signal_number).name if signal_number else None
                    if log_now:
                        record = {"step": step, "epoch": batch.epoch, **scalars, "lr": optimizer.param_groups[0]["lr"]}
                        record |= meter.read() | stage_times(counted, loader.stats)
                        pairs = loader.stats.mixing(counted)
                        if pairs.expected > 0:  # shares of a single sample have none
                            record[f"{loader.mixed_by}_clumping"] = round(pairs.clumping, 4)
                        meter.restart()
                        counted = replace(loader.stats)
                        if loader.cache_needed:
                            record["cache_room"] = round(shards.cache_bytes / loader.cache_needed, 4)
                        if loader.bad:
                            record["bad_samples"] = len(loader.bad)
                        if log:
                            log.write(record)
                            for reason in list(loader.bad.values())[told:]:
                                log.say(f"another sample takes the place of a bad one: {reason}")
                            told = len(loader.bad)
                            if not warned and loader.mixed_by == "label" and loader.stats.mixing().clumped:
                                log.say(clumping_warning(loader.stats.mixing().clumping))
                                warned = True
                    if save_now or stopped_by:
                        if world.rank == 0:
                            checkpoint = {
                                "step": step,
                                "config": config.to_dict(),
                                "model": method.state_dict(),
                                "optimizer": optimizer.state_dict(),
                                "loader": batches.state_dict(),
                            }
                            save_checkpoint(out / "checkpoints", checkpoint, config.checkpoint.keep)
                        world.max(0)  # nobody runs ahead, or leaves, before the file is there
                    if stopped_by or last:
                        break
            if log and stopped_by:
                log.say(f"{stopped_by}: stopped at step {step} of {total_steps} with a checkpoint; run again to resume")
        finally:
            loader.close()
            if log:
                log.close()
        return RunResult(
            out=out,
            checkpoint=checkpoint_paths(out / "checkpoints")[0],
            step=step,
            total_steps=total_steps,
            stopped_by=stopped_by,
            record=record,
            config=config,
        )


def load_run(path: str | Path) -> tuple[RunConfig, Method]:
    """A run's config and its trained method, on the CPU and in evaluation mode.

    Args:
        path: a run's folder, for its newest readable checkpoint, or one checkpoint file.

    Raises:
        RunError: if there is no checkpoint, or none that can be read.
    """
    path = Path(path)
    state = read_checkpoint(path) if path.is_file() else newest_checkpoint(path / "checkpoints", warn=_say)
    if state is None:
        raise RunError(f"{path}: no checkpoint in it; train first")
    try:
        config = RunConfig.from_dict(state["config"])
    except ConfigError as error:
        raise RunError(f"{path}: its config does not fit this version of headrace ({error})") from None
    method = build_method(config.method, config.model, seed=config.seed)
    method.load_state_dict(state["model"])
    return config, method.eval()


def _continued(config: RunConfig, out: Path, *, has_checkpoint: bool) -> RunConfig:
    """`config` with the precision that the run in `out` has already chosen.

    Raises:
        ConfigError: if there are checkpoints, and the run was started with other settings that shape its weights.
    """
    if not (out / "config.yaml").exists():
        return config
    started = RunConfig.load(out / "config.yaml")
    same = replace(config, precision=started.precision) if config.precision == "auto" else config
    before, now = dict(_shaping(started.to_dict())), dict(_shaping(same.to_dict()))
    changed = [key for key in before | now if before.get(key) != now.get(key)]
    if not changed:
        return same
    if has_checkpoint:
        key = changed[0]
        raise ConfigError(
            f"{key}: {out} was started with {before.get(key)!r}, not {now.get(key)!r}; "
            "use the same value, or another out"
        )
    return config


def _shaping(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of the settings that must not change in mid-run."""
    for key, value in values.items():
        if prefix == "" and key in ("data", "out", "device", "loader", "checkpoint", "log"):
            continue
        if isinstance(value, dict):
            yield from _shaping(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _read(terms: dict[str, Tensor], first_bad: Tensor, signal_number: int, world: World) -> tuple[Record, int, int]:
    """Scalars as numbers, the step of the first non-finite loss, the signal to obey; the same on all ranks."""
    values = world.mean(torch.stack([term.detach().float() for term in terms.values()])).tolist()
    bad_step, signal_number = world.max(int(first_bad), signal_number)
    return dict(zip(terms, values, strict=True)), bad_step, signal_number


def _not_finite(step: int, out: Path) -> str:
    kept = checkpoint_paths(out / "checkpoints")
    last = f"the newest checkpoint, {kept[0].name}, is from before" if kept else "there is no checkpoint yet"
    return f"{out}: the loss is not finite at step {step}; {last}. A lower optim.lr or precision=float32 may help"


class _Stop:
    signal: int = 0
    """The signal that asked to stop, 0 for none."""


@contextmanager
def _stop_signals() -> Iterator[_Stop]:
    """Note SIGINT and SIGTERM instead of dying of them; a second one acts as usual. Only in the main thread."""
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        stop.signal = number
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _silent(line: str) -> None:
    pass
