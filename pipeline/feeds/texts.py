"""Texts in tokens."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
from torch import Tensor

from headrace.pipeline.engines.base import StageTimes
from headrace.pipeline.feeds.base import BufferSpec, Feed, Source
from headrace.pipeline.texts.texts import TextPlan, TextReader, Texts, TextSpec


class TextFeed(Feed[TextPlan]):
    """See `TextSpec`. The library tokenises with threads of its own beside the loader's."""

    def __init__(self, spec: TextSpec, source: Source) -> None:
        self.shards = source.shards
        self._reader = TextReader(spec, source.shards)
        self.field = self._reader.field

    def buffers(self, samples: int) -> list[BufferSpec]:
        return []

    def request(self, seed: int, epoch: int, ids: np.ndarray) -> tuple[Any, Callable[[], None]]:
        return self._reader.request(seed, epoch, ids)

    def plan(self, seed: int, epoch: int, ids: np.ndarray, spans: Any) -> TextPlan:
        return self._reader.blank(seed, epoch, len(ids))

    def render(self, ids: np.ndarray, spans: Any, plan: TextPlan, buffers: list[np.ndarray]) -> StageTimes:
        started = perf_counter()
        self._reader.fill(ids, spans, plan)
        return StageTimes(decode_s=perf_counter() - started, augment_s=0.0)

    def deliver(self, seed: int, epoch: int, ids: np.ndarray, plan: TextPlan, buffers: list[Tensor]) -> Texts:
        return self._reader.deliver(seed, epoch, ids, plan)
