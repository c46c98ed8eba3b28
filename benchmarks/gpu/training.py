"""Samples a second of whole training steps in bfloat16, from JPEG shards and from synthetic data.

The limit is the step alone, on one batch that lies on the device. What a row lacks of it is what its engine costs: time
that the device waits, or that it draws views instead of training.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image

from headrace.benchmarks.gpu.clock import in_turn, ratio
from headrace.benchmarks.gpu.rows import Row, Rows
from headrace.benchmarks.gpu.views import photographs
from headrace.models import Method, build_method
from headrace.models.layout import channels_last
from headrace.pipeline import Batch, Loader, ViewSpec
from headrace.pipeline.engines.regions import FRAME, RegionEngine
from headrace.pipeline.images.plan import plan
from headrace.pipeline.transfer import DeviceBatches
from headrace.shards import Field, ShardSet, open_shards, write_shards
from headrace.train import RunConfig
from headrace.train.optim import build_optimizer
from headrace.train.recipes import RECIPES


@dataclass(frozen=True, kw_only=True)
class Work:
    """A method with its recipe."""

    title: str
    recipe: str
    batch: int
    changes: tuple[str, ...] = ()
    stored: bool = False
    """From pixels of 32 x 32 instead of photographs."""


WORKS = (
    Work(title="SimCLR, ResNet-50, 224", recipe="simclr_imagenet", batch=256, changes=("sync_batch_norm=false",)),
    Work(title="DINO, ViT-S/16, 2 x 224 + 6 x 96", recipe="dino_imagenet", batch=128),
    Work(title="SimCLR, ResNet-18, 32", recipe="simclr_cifar10", batch=512, stored=True),
)
TINY = ("model.backbone.name=resnet18", "model.backbone.options={layers: [1, 1, 1, 1], channels: [8, 8, 8, 8]}")
SMOKE = (
    Work(
        title="SimCLR, a tiny ResNet, 32",
        recipe="simclr_cifar10",
        batch=4,
        changes=(*TINY, "model.size=16", "model.projection_hidden=16", "model.projection_dim=16"),
        stored=True,
    ),
)


def measure(rows: Rows, device: torch.device, folder: Path, *, smoke: bool, seconds: float, rounds: int) -> None:
    """Rows of every work and engine."""
    for work in SMOKE if smoke else WORKS:
        path = folder / ("stored" if work.stored else "photographs")
        if not path.exists():
            write(path, stored=work.stored, count=64 if smoke else 4096)
        config = RECIPES[work.recipe](data=str(path), out=str(folder / "run"))
        config = config.with_overrides([f"batch_size={work.batch}", *work.changes])
        engines = ["native", "cuda", *(["kornia"] if find_spec("kornia") else [])]
        with open_shards(path) as shards:
            stepped = {"synthetic data": synthetic(config, shards, device)}
            loaders = [loader_of(config, shards, device, engine) for engine in engines]
            for engine, loader in zip(engines, loaders, strict=True):
                stepped[f"engine {engine}"] = fed(config, loader, device)
            try:
                found = in_turn(stepped, device, seconds, rounds)
            finally:
                for loader in loaders:
                    loader.close()
        for name, rates in found.items():
            limit = name == "synthetic data"
            rows.add(
                Row(
                    part="training",
                    work=work.title,
                    contestant=name,
                    value=median(rates),
                    unit="samples/s",
                    trials=rounds,
                    ratio=None if limit else ratio(rates, found["synthetic data"]),
                    compared="" if limit else "synthetic data",
                    note="the step alone" if limit else "",
                )
            )


def loader_of(config: RunConfig, shards: ShardSet, device: torch.device, engine: str) -> Loader:
    """The loader as training makes it."""
    where = str(device) if engine != "native" else "cpu"
    inputs = build_method(config.method, config.model).inputs
    return Loader(shards, inputs, config.batch_size, engine=engine, device=where, epochs=1 << 20)


def step_of(config: RunConfig, device: torch.device) -> tuple[Method, Callable[[Batch], int]]:
    """The method, and its training step."""
    method = channels_last(build_method(config.method, config.model, seed=config.seed).to(device))
    optimizer = build_optimizer(method.parameter_groups(), config.optim, config.batch_size)

    def step(batch: Batch) -> int:
        with torch.autocast(device.type, torch.bfloat16):
            loss = method.loss(batch)["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return len(batch)

    return method, step


def synthetic(config: RunConfig, shards: ShardSet, device: torch.device) -> Callable[[], int]:
    """Steps on one real batch that stays on the device."""
    _, step = step_of(config, device)
    with loader_of(config, shards, device, "native") as loader:
        batch = next(iter(loader)).to(device)
    return lambda: step(batch)


def fed(config: RunConfig, loader: Loader, device: torch.device) -> Callable[[], int]:
    """Steps on a loader's batches, epoch after epoch."""
    _, step = step_of(config, device)

    def endless() -> Iterator[Batch]:
        batches = DeviceBatches(loader, device)
        while True:
            yield from batches

    batches = endless()
    return lambda: step(next(batches))


def warm_up() -> None:
    """Have the loader's kernels compiled and kept, on the CPU alone."""
    with TemporaryDirectory(prefix="headrace-gpu-") as folder:
        write(Path(folder) / "photographs", stored=False, count=32)
        config = RECIPES["simclr_imagenet"](data="", out="").with_overrides(["batch_size=32"])
        with open_shards(Path(folder) / "photographs") as shards:
            with loader_of(config, shards, torch.device("cpu"), "native") as loader:
                next(iter(loader))
            inputs = build_method(config.method, config.model).inputs
            assert isinstance(inputs, ViewSpec)
            ids = np.arange(2)
            spans = shards.spans("image", ids)
            engine = RegionEngine(shards, "image", inputs, 0)
            drawn = plan(inputs, 0, 0, ids, np.stack([spans.height, spans.width], axis=1))
            frames = np.zeros((2, len(inputs.views)), FRAME)
            engine.take(ids, spans, drawn, np.zeros((2, engine.slot), np.uint8), frames)


def write(path: Path, *, stored: bool, count: int) -> None:
    """Photographs of 375 x 500 as JPEGs, or pieces of them as pixels of 32 x 32."""
    pictures = photographs(256)

    def samples() -> Iterator[dict[str, Any]]:
        files = [] if stored else [_jpeg(picture) for picture in pictures]
        random = np.random.default_rng(1)
        for number in range(count):
            if stored:
                top, left = random.integers(0, (375 - 32, 500 - 32))
                image: Any = pictures[number % 256][top : top + 32, left : left + 32]
            else:
                image = files[number % len(files)]
            yield {"__key__": f"{number:06d}", "image": image, "label": number % 2}

    fields = {"image": Field(kind="image", encoding="raw" if stored else "jpg"), "label": Field(kind="int")}
    write_shards(path, samples(), fields)


def _jpeg(photograph: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(photograph).save(stream, "JPEG", quality=90)
    return stream.getvalue()
