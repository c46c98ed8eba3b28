"""Texts packed into blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from torch import Tensor

from headrace.pipeline.engines.base import StageTimes
from headrace.pipeline.feeds.base import AnyOrder, BufferSpec, Feed, Source
from headrace.pipeline.order.order import Order
from headrace.pipeline.order.window import WindowOrder
from headrace.pipeline.rows import Rows
from headrace.pipeline.texts.packed import PackedReader, PackedTexts, PackedTextSpec
from headrace.pipeline.texts.packing import BlockOrder, PackedEpoch
from headrace.shards.shard_set import here

KEPT = 4
"""Epochs whose streams are kept: a loader begins with the next one before it is done with one."""


@dataclass(frozen=True, kw_only=True)
class PackedPlan(Rows):
    """Of B blocks; filled when they are made."""

    sample: np.ndarray
    """int64 (B,): the document that each begins with, by its place in the set."""


class PackedSpans:
    """Which blocks of an epoch."""

    def __init__(self, epoch: PackedEpoch, blocks: np.ndarray) -> None:
        self.epoch, self.blocks = epoch, blocks

    def __getitem__(self, part: slice) -> PackedSpans:
        return PackedSpans(self.epoch, self.blocks[part])


class PackedTextFeed(Feed[PackedPlan]):
    """See `PackedTextSpec`. Its samples are blocks, which no bad document makes bad: it has no part in them."""

    def __init__(self, spec: PackedTextSpec, source: Source) -> None:
        self.shards = source.shards
        self._reader = PackedReader(spec, source.shards)
        self.field = self._reader.field
        self._epochs: dict[int, PackedEpoch] = {}

    @property
    def samples(self) -> int:
        return self._reader.blocks

    @property
    def bad(self) -> Mapping[int, str]:
        return self._reader.store.bad

    def ordered(self, order: Order | WindowOrder) -> AnyOrder:
        self._epochs.pop(order.epoch, None)  # of another seed
        self._epochs[order.epoch] = self._reader.epoch(order)
        while len(self._epochs) > KEPT:
            del self._epochs[next(iter(self._epochs))]
        return BlockOrder(order, self.samples)

    def index(self, ids: np.ndarray, plan: PackedPlan) -> np.ndarray:
        return plan.sample

    def buffers(self, samples: int) -> list[BufferSpec]:
        return self._reader.shapes(samples)

    def request(self, seed: int, epoch: int, ids: np.ndarray) -> tuple[PackedSpans, Callable[[], None]]:
        return PackedSpans(self._epochs[epoch], ids), here

    def plan(self, seed: int, epoch: int, ids: np.ndarray, spans: Any) -> PackedPlan:
        return PackedPlan(sample=np.zeros(len(ids), np.int64))

    def render(self, ids: np.ndarray, spans: Any, plan: PackedPlan, buffers: list[np.ndarray]) -> StageTimes:
        started = perf_counter()
        self._reader.fill(spans.epoch, spans.epoch.order.seed, ids, buffers)
        plan.sample[:] = buffers[3]
        return StageTimes(decode_s=0.0, augment_s=perf_counter() - started)

    def deliver(self, seed: int, epoch: int, ids: np.ndarray, plan: PackedPlan, buffers: list[Tensor]) -> PackedTexts:
        return self._reader.deliver(buffers)
