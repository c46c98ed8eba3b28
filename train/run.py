"""A run from its config to its result: what is checked, built and resumed before the first step."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from headrace.models import Method, build_method
from headrace.models.layout import channels_last
from headrace.models.seeding import seeded
from headrace.pipeline import Batch, Loader, ViewSpec
from headrace.pipeline.engines import DEVICE_ENGINES
from headrace.pipeline.streams import is_packed
from headrace.shards import ShardError, ShardSet, open_shards
from headrace.shards.printing import printable
from headrace.shards.remote.remote import from_anywhere, has_secrets
from headrace.train.checkpoint import (
    checkpoint_name,
    checkpoint_paths,
    common_checkpoint,
    keep_best,
    newest_checkpoint,
    read_checkpoint,
)
from headrace.train.config import OWN, RunConfig, recorded
from headrace.train.distributed import World, distribute, join
from headrace.train.errors import ConfigError, RunError
from headrace.train.evaluator import Evaluator, require_measurable
from headrace.train.finite import FiniteState
from headrace.train.guard.guard import Guard
from headrace.train.layers import layered
from headrace.train.lock import one_writer
from headrace.train.loop import take_steps
from headrace.train.metrics import Ending, Record, RunLog
from headrace.train.optim import build_optimizer, embedding_tables
from headrace.train.precision import SAMPLES, Precision, choose_precision
from headrace.train.state import Run
from headrace.train.stopping import stop_signals
from headrace.train.trackers import open_trackers
from headrace.train.weights.initialize import initialize


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
    ending: Ending
    """Why it ended, which ended.json in the run's folder says as well."""
    record: Record | None
    """The last line of metrics that this call logged on rank 0."""
    config: RunConfig
    """As resolved, with the precision that was chosen."""


def train(
    config: RunConfig,
    *,
    method: Callable[[], Method] | None = None,
    progress: bool = True,
    on_step: Callable[[Record], None] | None = None,
) -> RunResult:
    """Train a method on a shard set, or go on with the run that `config.out` already holds.

    A run that was killed at any moment and started again takes the same steps on the same views as one that was
    not. On a CPU, with the same number of threads, it ends with the same bits. On CUDA some kernels add in an
    order that changes from run to run, unless the caller asks torch for deterministic ones
    (`torch.use_deterministic_algorithms`).

    SIGINT and SIGTERM end the run after the step under way (with several ranks, after the next), with a checkpoint;
    a second SIGINT interrupts at once.

    A bad step, whose loss or gradient is not finite, is held back whole. At the next line of metrics or checkpoint,
    whichever comes first, it is kept as a capsule, and the run ends, leaves it out or rolls back, as `config.guard`
    says (docs/collapse.md). A run whose weights are not finite ends without writing that checkpoint.

    `config.probe`, `config.stop` and `config.validation` say how the run is judged while it goes on, and when it ends
    before its last epoch. Started again, a run that stopped early stays as it is.

    Args:
        config: the run; `config.data` and `config.out` must be given.
        method: makes a method of yours, where `config.method` is "own", such as `lambda: MyMethod(MyConfig())`. It is
            called once a call, with torch's default generator seeded from `config.seed`, so that weights are a function
            of that. The run goes on by the same call; with another class, or other fields of its `config`, it is
            refused.
        progress: show a bar (on a terminal) or a line a record (elsewhere), on standard error.
        on_step: called on rank 0 with each record that is logged; see `headrace.train.metrics.Record`.

    Raises:
        ConfigError: for settings that do not fit each other, the data, or the run that is already in `out`.
        RunError: if another process writes to `out`, at a bad step, if weights are not finite any more, or if no
            checkpoint of the run is whole, or one cannot be written.
        ShardError: for data that cannot be read.
        OSError: if the disk cannot read a checkpoint.
    """
    config = RunConfig.from_dict(config.to_dict())  # fields may have been assigned since it was checked
    for name in ("data", "out"):
        if not getattr(config, name):
            raise ConfigError(f"{name}: must be given")
    for name in ("data", "validation"):
        if has_secrets(getattr(config, name)):
            raise ConfigError(
                f"{name}: a user, password or query in the URL would be kept in config.yaml and in every checkpoint; "
                "give them to the store's own tools instead, by variables of the environment or .netrc (docs/remote.md)"
            )
    # A run may be looked at from another folder.
    config = replace(config, data=from_anywhere(config.data))
    if config.validation:
        config = replace(config, validation=from_anywhere(config.validation))
    if config.init:
        config = replace(config, init=os.path.abspath(config.init))
    with (
        join(config.device, config.distributed.timeout_s) as world,
        open_shards(config.data) as shards,
        _opened(config.validation) as validation,
        stop_signals(config.stop.hours) as stop,
    ):
        if config.batch_size % world.size:
            raise ConfigError(f"batch_size: must be a multiple of the {world.size} ranks, got {config.batch_size}")
        with one_writer(Path(config.out), world, _say):
            run = _start(config, method, world, shards, validation, progress, on_step)
            try:
                ending, record = take_steps(run, stop)
                if run.log:
                    run.log.end(ending)
            except (RunError, ShardError) as error:
                if run.log:
                    with suppress(RunError):  # a full disk may be what it is about
                        run.log.end(Ending(why="error", line=str(error), step=run.log.step))
                raise
            finally:
                run.loader.close()
                if run.log:
                    run.log.close()
    out = Path(config.out)
    return RunResult(
        out=out,
        checkpoint=checkpoint_paths(out / "checkpoints")[0],
        step=ending.step,
        total_steps=run.total_steps,
        ending=ending,
        record=record,
        config=run.config,
    )


def _opened(place: str) -> AbstractContextManager[ShardSet | None]:
    """The shard set there; None for ""."""
    return open_shards(place) if place else nullcontext()


def _start(
    config: RunConfig,
    make: Callable[[], Method] | None,
    world: World,
    shards: ShardSet,
    validation: ShardSet | None,
    progress: bool,
    on_step: Callable[[Record], None] | None,
) -> Run:
    """Everything that the steps need, as the newest checkpoint left it."""
    out = Path(config.out)
    state = common_checkpoint(out, world, _say)
    first_step = state["step"] if state else 0
    config, method = first_weights(config, make)
    if config.batch_size > len(shards) and not is_packed(method.inputs):  # blocks are counted by who packs them
        raise ConfigError(f"batch_size: must be at most {len(shards)}, the samples of {config.data}")
    config = _continued(config, out, state)
    require_measurable(config, world, method, shards, validation)
    if config.init and not state:
        line = initialize(method, Path(config.init))
        if world.rank == 0:
            _say(line)
    method = _placed(config, method, world)
    if config.precision == "auto":
        precision, reason = choose_precision(method, world, partial(_first_batch, config, method, shards, world))
        config = replace(config, precision=precision)
        if world.rank == 0 and progress:
            _say(f"precision {precision}: {reason}")
    run = _assembled(config, method, world, shards, validation)
    run.first_step = first_step
    if state:
        try:
            run.loader.load_state_dict(state["loader"])
        except ValueError as error:
            raise ConfigError(f"data or loader: {error}, and {out} was started otherwise") from None
        restore(run, state, out)
        run.evaluator.load_state_dict(state.get("evaluator", {}))  # states were without
        run.guard.load_state_dict(state.get("guard", {}))
        if broken := run.weights.broken():
            file = checkpoint_name(first_step)
            raise RunError(f"{out}: {broken} is not finite in {file}; delete that checkpoint to go on from one before")
    if world.rank == 0:
        config.save(out / "config.yaml")
        run.log = log = RunLog(
            out,
            first_step=first_step,
            total_steps=run.total_steps,
            progress=progress,
            trackers=open_trackers(out, config, first_step),
            on_step=on_step,
            bad_told=len(run.loader.bad),
        )
        if first_step:
            over = first_step == run.total_steps or run.evaluator.stopped(first_step)
            log.say(f"{out} {'is finished' if over else 'resumes'}: step {first_step} of {run.total_steps}")
        log.warn_of_cache(run.loader)
        best = out / "checkpoints" / checkpoint_name(run.evaluator.best_step)
        if best.exists():  # the run may have been killed between the two
            keep_best(best)
    return run


def _placed(config: RunConfig, method: Method, world: World) -> Method:
    """The method on its device, as it is trained."""
    try:
        return channels_last(method.to(world.device)).train()
    except ValueError as error:
        raise ConfigError(f"{config.method}: {error}") from None


def _assembled(config: RunConfig, method: Method, world: World, shards: ShardSet, validation: ShardSet | None) -> Run:
    """What the steps need, in front of the first one, without a log."""
    module = distribute(method, world, config.sync_batch_norm)
    tables = embedding_tables(method)
    groups = layered(method.parameter_groups(), method.layered, config.optim.layer_decay)
    precision = Precision(config.precision, world.device)
    loader = _loader(config, method, shards, world, config.batch_size, epochs=config.epochs)

    def tell(line: str) -> None:
        run.tell(line)

    evaluator = Evaluator(
        config,
        world,
        method,
        shards,
        validation,
        partial(_loader, config, method),
        steps_per_epoch=len(loader),
        tell=tell,
    )
    run = Run(
        config=config,
        world=world,
        method=method,
        module=module,
        optimizer=build_optimizer(groups, config.optim, config.batch_size, tables=tables),
        precision=precision,
        loader=loader,
        evaluator=evaluator,
        weights=FiniteState(method),
        guard=Guard(config, world, method, precision),
        whole_set=partial(_whole_set, config, shards, world),
    )
    return run


def assembled_as_kept(
    config: RunConfig,
    make: Callable[[], Method] | None,
    world: World,
    shards: ShardSet,
    state: dict[str, Any],
    path: Path,
) -> Run:
    """The run of a capsule, in front of its step; nothing of it is written.

    Args:
        state: what `path` holds.

    Raises:
        ConfigError, RunError: where set or network are not those that it was kept with.
    """
    config, method = first_weights(config, make, path)
    run = _assembled(config, _placed(config, method, world), world, shards, None)
    try:
        run.loader.load_state_dict(state["loader"])
    except ValueError as error:
        raise RunError(f"{path}: {error}; these are not the data of that step") from None
    restore(run, state, path)
    return run


def restore(run: Run, state: dict[str, Any], path: Path) -> None:
    """`Run.restore` from what `path` holds.

    Raises:
        ConfigError: if its weights are of another network.
    """
    try:
        run.restore(state)
    except RuntimeError as error:
        raise ConfigError(_other_network(path, error)) from None


def _other_network(path: Path, error: RuntimeError) -> str:
    return f"{path}: its weights are of another network: {' '.join(str(error).split())}"


def _whole_set(config: RunConfig, shards: ShardSet, world: World, views: ViewSpec) -> Iterator[Batch]:
    """Every sample of the set in stored order, on this rank's device; for `Context.batches`."""
    size = min(len(shards), max(1, config.batch_size // world.size))
    with Loader(
        shards, views, size, shuffle=False, drop_last=False, threads=config.loader.threads, seed=config.seed,
        on_error=config.loader.on_error, max_bad=config.loader.max_bad,
    ) as loader:  # fmt: skip
        for batch in loader:
            yield batch.to(world.device)


def load_run(path: str | Path, *, method: Callable[[], Method] | None = None) -> tuple[RunConfig, Method]:
    """A run's config and its trained method, on the CPU and in evaluation mode.

    Args:
        path: a run's folder, for its newest readable checkpoint, or one checkpoint file.
        method: makes the method of a run that was trained with one of yours; see `train`.

    Raises:
        ConfigError: if the run's method is one of yours and `method` is missing or makes another, or the reverse.
        RunError: if there is no checkpoint, or none that is whole.
        OSError: if the disk cannot read one.
    """
    path = Path(path)
    state = read_checkpoint(path) if path.is_file() else newest_checkpoint(path / "checkpoints", warn=_say)
    if state is None:
        raise RunError(f"{path}: no checkpoint in it; train first")
    config = config_of(state, path)
    config, built = first_weights(config, method, path)
    try:
        built.load_state_dict(state["model"])
    except RuntimeError as error:
        raise ConfigError(_other_network(path, error)) from None
    return config, built.eval()


def first_weights(
    config: RunConfig, make: Callable[[], Method] | None, run: Path | None = None
) -> tuple[RunConfig, Method]:
    """The method of `config` with its first weights, and the config with what `make` made.

    Args:
        config: where `method` is "own" and `run` is given, `model` must be what `make` makes.
        make: for a method that is none of `METHODS`.
        run: where `config` was read from.

    Raises:
        ConfigError: if `make` and `config.method` do not fit each other.
    """
    where = f"{run}: " if run else ""
    if make is None:
        if config.method == OWN:
            raise ConfigError(f"{where}method: this is one of yours; train and load_run must be given what makes it")
        return config, build_method(config.method, config.model, seed=config.seed)
    if config.method != OWN:
        raise ConfigError(f"{where}method: must be 'own' where a method is given, got {config.method!r}")
    with seeded(config.seed):
        method = make()
    if not isinstance(method, Method):
        raise ConfigError(f"{where}method: must make a headrace.models.Method, made {type(method).__name__}")
    made = {"class": type(method).__qualname__, "config": recorded(getattr(method, "config", None))}
    if run and config.model != made:
        raise ConfigError(f"{where}model: was trained with {config.model}, given is {made}")
    return replace(config, model=made), method


def _loader(
    config: RunConfig,
    method: Method,
    shards: ShardSet,
    world: World,
    batch_size: int,
    drop_last: bool = True,
    epochs: int = 1,
) -> Loader:
    """This rank's share of global batches of `batch_size` samples, for so many epochs of a run.

    Raises:
        ConfigError: if settings, set and method's inputs do not go together, or a package is missing.
    """
    engine = config.loader.engine
    try:
        return Loader(
            shards,
            method.inputs,
            batch_size,
            engine=engine,
            device=str(world.device) if engine in DEVICE_ENGINES else "cpu",
            seed=config.seed,
            rank=world.rank,
            world_size=world.size,
            threads=config.loader.threads,
            prefetch=config.loader.prefetch,
            epochs=epochs,
            order=config.loader.order,
            window=config.loader.window,
            lanes=config.loader.lanes,
            drop_last=drop_last,
            on_error=config.loader.on_error,
            max_bad=config.loader.max_bad,
        )
    except ImportError as error:
        raise ConfigError(f"loader.engine: {error}") from None
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _first_batch(config: RunConfig, method: Method, shards: ShardSet, world: World) -> Batch:
    """The first samples of the run, few of them."""
    with _loader(config, method, shards, world, min(config.batch_size, SAMPLES * world.size)) as loader:
        return next(iter(loader))


def _continued(config: RunConfig, out: Path, state: dict[str, Any] | None) -> RunConfig:
    """`config` with the precision that the run in `out` has already chosen.

    A checkpoint holds the settings that it was made with. Where there is none yet, config.yaml does.

    Raises:
        ConfigError: if there is a checkpoint, and it was made with other settings that shape its weights.
        RunError: if its settings are not of this version.
    """
    if state:
        started = config_of(state, out)
    elif (out / "config.yaml").exists():
        started = RunConfig.load(out / "config.yaml")
    else:
        return config
    same = replace(config, precision=started.precision) if config.precision == "auto" else config
    before, now = dict(_shaping(started.to_dict())), dict(_shaping(same.to_dict()))
    changed = [key for key in before | now if before.get(key) != now.get(key)]
    if not changed:
        return same
    if state:
        key = changed[0]
        raise ConfigError(
            f"{key}: {out} was started with {before.get(key)!r}, not {now.get(key)!r}; "
            "use the same value, or another out"
        )
    return config


def config_of(state: dict[str, Any], path: Path) -> RunConfig:
    """The config in the checkpoint `state` that was read from `path`."""
    try:
        return RunConfig.from_dict(state["config"])
    except ConfigError as error:
        raise RunError(f"{path}: its config does not fit this version of headrace ({error})") from None


_NOT_SHAPING = (
    "data", "validation", "out", "device", "loader", "checkpoint", "log", "distributed", "probe", "stop", "guard"
)  # fmt: skip


def _shaping(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of the settings that must not change in mid-run."""
    for key, value in values.items():
        if prefix == "" and key in _NOT_SHAPING:
            continue
        if isinstance(value, dict):
            yield from _shaping(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _say(line: str) -> None:
    print(printable(line, "\n"), file=sys.stderr)
