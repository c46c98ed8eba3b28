"""Where the time of a training run goes, on the user's own shards and method, and what would make it shorter."""

from __future__ import annotations

import ctypes
import importlib.util
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table

from headrace.models import Method, build_method
from headrace.pipeline import Batch, Loader, ViewSpec
from headrace.pipeline.engines import DEVICE_ENGINES, StageTimes
from headrace.shards import OTHER, UNREADABLE, ShardError, ShardSet, open_shards, write_shards
from headrace.shards.errors import MachineError
from headrace.shards.remote.remote import redact
from headrace.tools.conversion.convert import convert
from headrace.tools.errors import UserError
from headrace.tools.fields import image_field
from headrace.tools.hardware import cores
from headrace.train import RunConfig
from headrace.train.config import LoaderConfig
from headrace.train.optim import build_optimizer
from headrace.train.probes import image_views

SUBSET = 512
"""Samples that are encoded otherwise, to measure what that would gain."""
ENOUGH = 1.05
"""A setting is proposed if it makes loading, or training, at least this much faster."""
ROUNDS = 3
"""Of usual and other setting in turn."""
NOTHING_TO_DO = 1e7
"""Samples a second above which a stage does nothing, as decoding does for stored pixels."""
ENGINE_MODULES = {
    "native": ("numba",),
    "dali": ("nvidia.dali",),
    "kornia": ("kornia",),
    "dali+kornia": ("nvidia.dali", "kornia"),
    "torchvision": ("torchvision",),
    "ffcv": ("ffcv",),
}
"""Engine to what it needs."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One part of the way from bytes to a step, measured alone."""

    name: str
    rate: float
    """Samples a second if there were nothing but this stage."""
    what: str
    """How it was measured, for a person."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A setting that was tried and found faster."""

    setting: str
    """What to change, in words or as an option."""
    gain: float
    """Rate with it over the rate without."""
    of: str
    """What the gain is of: loading, or training."""
    config: Mapping[str, Any]
    """Configuration keys that make the change; empty where the shards have to change."""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What was measured."""

    stages: list[Stage]
    """In the order in which a sample passes them."""
    loading: float
    """Samples a second of the loader alone, all its stages together."""
    training: float
    """Samples a second of whole training steps fed by the loader."""
    data_wait: float
    """Share of the training time in which the step waited for the loader."""
    limit: str
    """Name of the stage that limits."""
    advice: str
    """The limit in words."""
    proposals: list[Proposal]
    """Best first."""
    settings: dict[str, Any]
    """What was measured with: batch size, engine, threads, prefetch, device."""


def diagnose(
    data: str | os.PathLike[str],
    config: RunConfig,
    *,
    seconds: float = 3.0,
    say: Callable[[str], None] = lambda line: None,
) -> Diagnosis:
    """Measure every stage alone and all together, and try other settings.

    Args:
        data: Shard set with images.
        config: Method, batch size and loader settings, as for training.
        seconds: Time of each measurement; there are about thirty.
        say: Told what is measured next.

    Raises:
        ShardError: The shards cannot be read.
        UserError: They have no images, or too few samples for a batch.
        RunError: The method is one of clips or texts.
    """
    device = torch.device("cuda" if torch.cuda.is_available() and config.device != "cpu" else "cpu")
    method = build_method(config.method, config.model, seed=config.seed).to(device).train()
    views = image_views(method)
    with open_shards(data) as shards:
        image_field(shards)
        if len(shards) < config.batch_size:
            raise UserError(
                f"{redact(os.fspath(data))}: {len(shards)} samples do not fill one batch of {config.batch_size}"
            )
        threads = config.loader.threads or cores()
        say("reading")
        read = reading(shards, threads, seconds)
        say("loading: decode, augment, collate")
        loaded = loading(shards, views, config, config.loader, device, seconds)
        say("collating alone")
        collated = collating(shards, views, config, device, seconds)
        say("transfer and the model's step alone")
        batch = loaded.batch
        moved = timed(lambda: batch.to(device).normalized(), len(batch), device, seconds)
        step = training_step(method, config, device)
        stepping = timed(lambda: step(batch), len(batch), device, seconds)
        say("training, all together")
        training, data_wait = together(shards, views, config, device, step, seconds)
        stages = [
            Stage(name="read", rate=read, what=f"bytes of random samples, copied by {threads} threads"),
            Stage(name="decode", rate=loaded.decode, what=f"{config.loader.engine}'s threads, from a whole loader"),
            Stage(name="augment", rate=loaded.augment, what="likewise: crop, resize, colour, blur"),
            Stage(name="collate", rate=collated, what="order, plan, batch memory; the engine draws nothing"),
            Stage(name="transfer", rate=moved, what=f"one batch to {device} and normalised, again and again"),
            Stage(name="step", rate=stepping, what="forward, backward, optimiser, on one batch again and again"),
        ]
        say("other settings")
        proposals = [
            *loader_proposals(shards, views, config, device, seconds),
            *encoding_proposals(shards, views, config, device, seconds),
        ]
    limit, advice = judge(stages, loaded.rate, stepping, device)
    return Diagnosis(
        stages=stages,
        loading=loaded.rate,
        training=training,
        data_wait=data_wait,
        limit=limit,
        advice=advice,
        proposals=sorted(proposals, key=lambda proposal: -proposal.gain),
        settings={
            "batch_size": config.batch_size,
            "engine": config.loader.engine,
            "threads": threads,
            "prefetch": config.loader.prefetch,
            "device": str(device),
        },
    )


def reading(shards: ShardSet, threads: int, seconds: float) -> float:
    """Samples a second whose image bytes `threads` threads copy, at random."""

    def work(number: int) -> int:
        random = np.random.Generator(np.random.Philox(number))
        field = image_field(shards)
        done, end = 0, perf_counter() + seconds
        while perf_counter() < end:
            spans, wait = shards.request(field, random.integers(0, len(shards), 64))
            wait()
            buffer = ctypes.create_string_buffer(int(spans.size.max()))
            for address, size in zip(spans.address.tolist(), spans.size.tolist(), strict=True):
                ctypes.memmove(buffer, address, size)
            done += 64
        return done

    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(work, range(threads))) / seconds


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What a loader did."""

    rate: float
    decode: float
    augment: float
    batch: Batch


def loading(
    shards: ShardSet, views: ViewSpec, config: RunConfig, settings: LoaderConfig, device: torch.device, seconds: float
) -> Loaded:
    """Run a loader alone. Rates of stages are those of all its threads doing nothing else."""
    with loader_of(shards, views, config, settings, device) as loader:
        batches = endless(loader)
        for _ in range(settings.prefetch + 2):  # compiles, starts threads, fills the queue
            batch = next(batches)
        stats, began = replace(loader.stats), perf_counter()
        while perf_counter() < began + seconds:
            batch = next(batches)
        elapsed = perf_counter() - began
        samples = loader.stats.samples - stats.samples
        threads = settings.threads or cores()

        def alone(seconds_of_threads: float) -> float:
            return threads * samples / max(seconds_of_threads, samples / NOTHING_TO_DO)

        return Loaded(
            rate=samples / elapsed,
            decode=alone(loader.stats.decode_s - stats.decode_s),
            augment=alone(loader.stats.augment_s - stats.augment_s),
            batch=batch,
        )


def collating(shards: ShardSet, views: ViewSpec, config: RunConfig, device: torch.device, seconds: float) -> float:
    """Samples a second of a loader whose engine does nothing."""
    settings = replace(config.loader, engine="native")
    with loader_of(shards, views, config, settings, device) as loader:
        loader._feed.engines[0].render = lambda *_: StageTimes(0.0, 0.0)
        batches = endless(loader)
        next(batches)
        samples, began = 0, perf_counter()
        while perf_counter() < began + seconds:
            samples += len(next(batches))
        return samples / (perf_counter() - began)


def loader_of(
    shards: ShardSet, views: ViewSpec, config: RunConfig, settings: LoaderConfig, device: torch.device
) -> Loader:
    """The loader that training would use."""
    where = str(device) if settings.engine in DEVICE_ENGINES else "cpu"
    batch_size = min(config.batch_size, len(shards))
    names = ("threads", "prefetch", "order", "window", "lanes")
    options: dict[str, Any] = {name: getattr(settings, name) for name in names}
    return Loader(shards, views, batch_size, engine=settings.engine, device=where, seed=config.seed, **options)


def endless(loader: Loader) -> Iterator[Batch]:
    """Epoch after epoch."""
    while True:
        yield from loader


def timed(work: Callable[[], object], samples: int, device: torch.device, seconds: float) -> float:
    """Samples a second of a piece of work on `samples` samples, after one run to warm up."""

    def finished() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    work()
    finished()
    done, began = 0, perf_counter()
    while not done or perf_counter() < began + seconds:
        work()
        finished()
        done += samples
    return done / (perf_counter() - began)


def training_step(method: Method, config: RunConfig, device: torch.device) -> Callable[[Batch], None]:
    """One step of training as the loop takes it."""
    optimizer = build_optimizer(method.parameter_groups(), config.optim, config.batch_size)
    half = config.precision in ("bfloat16", "float16") or (config.precision == "auto" and device.type == "cuda")
    dtype = torch.float16 if config.precision == "float16" else torch.bfloat16

    def step(batch: Batch) -> None:
        with torch.autocast(device.type, dtype, enabled=half):
            loss = method.loss(batch.to(device))["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def together(
    shards: ShardSet,
    views: ViewSpec,
    config: RunConfig,
    device: torch.device,
    step: Callable[[Batch], None],
    seconds: float,
) -> tuple[float, float]:
    """(samples a second, share of the time spent waiting for data) of training."""
    with loader_of(shards, views, config, config.loader, device) as loader:
        batches = endless(loader)
        step(next(batches))
        samples, waited, began = 0, 0.0, perf_counter()
        while not samples or perf_counter() < began + 2 * seconds:
            asked = perf_counter()
            batch = next(batches)
            waited += perf_counter() - asked
            step(batch)
            samples += len(batch)
        elapsed = perf_counter() - began
        return samples / elapsed, waited / elapsed


def judge(stages: list[Stage], loading: float, stepping: float, device: torch.device) -> tuple[str, str]:
    """The stage that limits training, and why."""
    rates = {stage.name: stage.rate for stage in stages}
    if stepping < loading:
        spare = f"the loader alone gives {loading:,.0f} samples a second, the step takes {stepping:,.0f}"
        if device.type == "cpu":
            return "step", f"{spare}; both share the processor's cores, so that a cheaper loader helps as well"
        return "step", f"{spare}: data keeps up"
    slowest = min(("read", "decode", "augment", "collate"), key=rates.__getitem__)
    return slowest, (
        f"the step could take {stepping:,.0f} samples a second, the loader gives {loading:,.0f}, and most of its time "
        f"goes into this stage"
    )


def loader_proposals(
    shards: ShardSet, views: ViewSpec, config: RunConfig, device: torch.device, seconds: float
) -> Iterator[Proposal]:
    """Engines, threads and prefetching that load faster."""

    def rate(settings: LoaderConfig) -> Callable[[float], float]:
        return lambda seconds: loading(shards, views, config, settings, device, seconds).rate

    usual_threads = config.loader.threads or cores()
    tried = [replace(config.loader, threads=n) for n in sorted({cores(), cores() + 1, 2 * cores()} - {usual_threads})]
    tried += [replace(config.loader, prefetch=n) for n in (1, 4) if n != config.loader.prefetch]
    tried += [
        replace(config.loader, engine=engine)  # type: ignore[arg-type]
        for engine, modules in ENGINE_MODULES.items()
        if engine != config.loader.engine and all(map(installed, modules))
        if engine != "ffcv" or (shards.manifest.format == "ffcv" and not shards.remote)
    ]
    for settings in tried:
        gain = gain_of(rate(config.loader), rate(settings), seconds)
        if gain >= ENOUGH:
            changed = {key: value for key, value in asdict(settings).items() if value != getattr(config.loader, key)}
            options = {f"loader.{key}": value for key, value in changed.items()}
            words = " ".join(f"--{key} {value}" for key, value in options.items())
            yield Proposal(setting=words, gain=gain, of="loading", config=options)


def encoding_proposals(
    shards: ShardSet, views: ViewSpec, config: RunConfig, device: torch.device, seconds: float
) -> Iterator[Proposal]:
    """Ways to store the images that load faster, measured on a part of the set."""

    def rate(part: ShardSet) -> Callable[[float], float]:
        return lambda seconds: loading(part, views, config, config.loader, device, seconds).rate

    if np.isin(shards.places(image_field(shards), np.arange(len(shards))).encoding, (OTHER, UNREADABLE)).all():
        return  # no part of it can be written as it is
    largest = max(view.size for view in views.views)
    short_side = -(-largest * 8 // 7)  # 256 for views of 224, as is usual
    spans = shards.places(image_field(shards), np.arange(min(len(shards), SUBSET)))
    smaller = int(np.minimum(spans.height, spans.width).max()) > short_side
    ways: dict[str, dict[str, Any]] = {"--encode raw": {"encode": "raw"}} if not only_raw(shards) else {}
    if smaller:
        ways[f"--short-side {short_side}"] = {"short_side": short_side}
        ways[f"--encode raw --short-side {short_side}"] = {"encode": "raw", "short_side": short_side}
    if not ways:
        return
    with TemporaryDirectory(prefix="headrace-doctor-") as folder:
        write_subset(shards, Path(folder) / "source")
        for words, options in ways.items():
            convert("shards", Path(folder) / "source", Path(folder) / "other", seed=None, format="ffcv", **options)
            with open_shards(Path(folder) / "source") as usual, open_shards(Path(folder) / "other") as other:
                gain = gain_of(rate(usual), rate(other), seconds)
                size = other.manifest.bytes / usual.manifest.bytes
            if gain >= ENOUGH:
                where = f"headrace shard shards DATA OUT --format ffcv {words} ({size:.1f} times the bytes)"
                yield Proposal(setting=where, gain=gain, of="loading", config={})


def only_raw(shards: ShardSet) -> bool:
    """True where there is nothing to decode."""
    return shards.fields[image_field(shards)].encoding == "raw"


def write_subset(shards: ShardSet, folder: Path) -> None:
    """A set of some samples, spread over the whole one."""
    places = np.linspace(0, len(shards) - 1, min(SUBSET, len(shards))).astype(int).tolist()
    write_shards(folder, readable(shards, places), shards.fields, format=shards.manifest.format)


def readable(shards: ShardSet, numbers: Iterable[int]) -> Iterator[dict[str, Any]]:
    """Those of some samples that can be written as they are."""
    images = [name for name, field in shards.fields.items() if field.kind == "image"]
    for i in numbers:
        if not any(int(shards.places(name, [i]).encoding[0]) in (OTHER, UNREADABLE) for name in images):
            try:
                yield shards.read(i)
            except MachineError:
                raise
            except ShardError:
                continue  # a bad sample is as good as none here


def gain_of(usual: Callable[[float], float], other: Callable[[float], float], seconds: float) -> float:
    """Median ratio of two rates, measured in turn: the speed of a machine drifts by more than what is looked for."""
    ratios = []
    for _ in range(ROUNDS):
        before = usual(seconds / 2)
        ratios.append(other(seconds / 2) / before)
    return median(ratios)


def installed(module: str) -> bool:
    """Whether a module can be imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def waterfall(diagnosis: Diagnosis) -> Table:
    """The stages as bars of time a sample, for a terminal."""
    costs = {stage.name: 1e3 / stage.rate for stage in diagnosis.stages}
    table = Table(title="time a sample, each stage alone with all its threads", box=None, header_style="bold")
    for name, justify in (("stage", "left"), ("ms", "right"), ("samples/s", "right"), ("", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    before = 0.0
    scale = 40 / sum(costs.values())
    for stage in diagnosis.stages:
        bar = " " * round(scale * before) + "█" * max(1, round(scale * costs[stage.name]))
        style = "bold red" if stage.name == diagnosis.limit else ""
        rate = f"{stage.rate:,.0f}" if stage.rate < NOTHING_TO_DO else "-"
        table.add_row(stage.name, f"{costs[stage.name]:.3f}", rate, bar, style=style)
        before += costs[stage.name]
    table.add_row("loader", f"{1e3 / diagnosis.loading:.3f}", f"{diagnosis.loading:,.0f}", "all but the step")
    wait = f"waits for data {100 * diagnosis.data_wait:.0f} % of the time"
    table.add_row("training", f"{1e3 / diagnosis.training:.3f}", f"{diagnosis.training:,.0f}", wait)
    return table


def draw(diagnosis: Diagnosis, title: str) -> Figure:
    """The waterfall as a picture."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    before = 0.0
    for place, stage in enumerate(diagnosis.stages):
        cost = 1e3 / stage.rate
        axis.barh(place, cost, left=before, color="C3" if stage.name == diagnosis.limit else "C0")
        rate = f" {stage.rate:,.0f}/s" if stage.rate < NOTHING_TO_DO else " nothing to do"
        axis.annotate(rate, (before + cost, place), va="center", fontsize=8)
        before += cost
    training = 1e3 / diagnosis.training
    axis.axvline(training, color="0.3", linestyle=":", label=f"training together: {diagnosis.training:,.0f}/s")
    axis.set_yticks(range(len(diagnosis.stages)), [stage.name for stage in diagnosis.stages])
    axis.invert_yaxis()
    axis.set_xlim(0, 1.15 * max(before, training))
    axis.set_xlabel("milliseconds a sample, each stage alone with all its threads")
    axis.set_title(f"{title}: {diagnosis.limit} limits", fontsize=10)
    axis.legend(fontsize=8)
    return figure
