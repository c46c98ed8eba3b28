"""Streams that show other samples: in the place of each sample, or mixed with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from headrace.pipeline.batch import Others, Views
from headrace.pipeline.engines.base import StageTimes
from headrace.pipeline.feeds.base import BufferSpec, Feed, Labels, stream_seed
from headrace.pipeline.order.mixing import NO_LABEL
from headrace.pipeline.part import Part
from headrace.pipeline.random import draw_units, key_word
from headrace.pipeline.rows import Rows
from headrace.pipeline.streams import Mixed

_STREAM = key_word(0x6F746872)  # the word "othr"
# Counter blocks of four random words; a new draw takes a new block, so that old draws never move.
_BLOCK_WHO = np.uint64(0)
_BLOCK_WEIGHT = np.uint64(1)


class Partners:
    """Who stands beside each sample.

    Args:
        among: see `Other`.
        samples: n, of the set.
        labels: of the set, or None where it has none.

    Raises:
        ValueError: if there is no other sample, or no labels where they are asked for.
    """

    def __init__(self, among: str, samples: int, labels: Labels | None) -> None:
        if samples < 2:
            raise ValueError("another sample is asked for, and the set has one")
        self._samples = samples
        self.labels = labels
        self._labels = None if labels is None else labels.values
        self._by_label = among == "label"
        if self._by_label:
            if self._labels is None:
                raise ValueError("another sample of the same label is asked for, and the set has no labels")
            self._sorted = np.argsort(self._labels, kind="stable")
            self._place = np.empty(samples, np.int64)
            self._place[self._sorted] = np.arange(samples)
            ordered = self._labels[self._sorted]
            self._first = np.searchsorted(ordered, self._labels, "left")
            self._count = np.searchsorted(ordered, self._labels, "right") - self._first

    def draw(self, seed: int, epoch: int, ids: np.ndarray) -> np.ndarray:
        """int64 (B,): the other sample of each."""
        ids = np.ascontiguousarray(ids, np.int64)
        unit = draw_units(key_word(seed), _STREAM, _BLOCK_WHO, key_word(epoch), ids)[:, 0]
        if not self._by_label:
            other = (unit * (self._samples - 1)).astype(np.int64)
            return other + (other >= ids)
        assert self._labels is not None
        first, count = self._first[ids], self._count[ids]
        place = first + (unit * (count - 1)).astype(np.int64)
        place += (count > 1) & (place >= self._place[ids])
        return np.where(self._labels[ids] == NO_LABEL, ids, self._sorted[place])

    def refuse(self, ids: np.ndarray) -> None:
        """ShardError for the first of other samples `ids` whose label cannot be read."""
        if self.labels is not None:
            self.labels.refuse(ids)

    def told(self, ids: np.ndarray, weight: np.ndarray) -> Others:
        """What a batch says of other samples `ids`."""
        labels = None if self._labels is None else torch.from_numpy(self._labels[ids])
        return Others(index=torch.from_numpy(ids), labels=labels, weight=torch.from_numpy(weight))


def beta_weights(alpha: float, seed: int, epoch: int, ids: np.ndarray) -> np.ndarray:
    """float32 (B,): a draw of Beta(alpha, alpha) for each sample, the inverse of its distribution at a uniform one."""
    from scipy.special import betaincinv  # slow to import

    ids = np.ascontiguousarray(ids, np.int64)
    unit = draw_units(key_word(seed), _STREAM, _BLOCK_WEIGHT, key_word(epoch), ids)[:, 0]
    weights: np.ndarray = betaincinv(alpha, alpha, unit).astype(np.float32)
    return weights


@dataclass(frozen=True, kw_only=True)
class OtherPlan(Rows):
    """Draws of B samples whose part is another's."""

    others: np.ndarray
    """int64 (B,): whose."""
    plan: Any
    """Of the others."""


class OtherFeed(Feed[OtherPlan]):
    """See `headrace.pipeline.streams.Other`: another feed, asked for other samples.

    Args:
        inner: of the specification.
        number: of the stream among its kind; see `stream_seed`. Who the others are does not depend on it, so that two
            streams of one sample show the same one.
    """

    def __init__(self, inner: Feed[Any], number: int, partners: Partners) -> None:
        self._inner = inner
        self._number = number
        self._partners = partners
        self.engine, self.splits, self.shards, self.field = inner.engine, inner.splits, inner.shards, inner.field

    def buffers(self, samples: int) -> list[BufferSpec]:
        return self._inner.buffers(samples)

    def request(self, seed: int, epoch: int, ids: np.ndarray) -> tuple[Any, Callable[[], None]]:
        others = self._partners.draw(seed, epoch, ids)
        return self._inner.request(stream_seed(seed, self._number), epoch, others)

    def plan(self, seed: int, epoch: int, ids: np.ndarray, spans: Any) -> OtherPlan:
        others = self._partners.draw(seed, epoch, ids)
        plan = self._inner.plan(stream_seed(seed, self._number), epoch, others, spans)
        return OtherPlan(others=others, plan=plan)

    def render(self, ids: np.ndarray, spans: Any, plan: OtherPlan, buffers: list[np.ndarray]) -> StageTimes:
        self._partners.refuse(plan.others)
        return self._inner.render(plan.others, spans, plan.plan, buffers)

    def deliver(self, seed: int, epoch: int, ids: np.ndarray, plan: OtherPlan, buffers: list[Tensor]) -> Part:
        return self._inner.deliver(stream_seed(seed, self._number), epoch, plan.others, plan.plan, buffers)

    def others(self, plan: OtherPlan) -> Others:
        return self._partners.told(plan.others, np.zeros(len(plan), np.float32))

    def close(self) -> None:
        self._inner.close()

    def forked(self) -> None:
        self._inner.forked()


class MixedSpans(NamedTuple):
    """Where the bytes of samples lie, and of the others."""

    own: Any
    other: Any


@dataclass(frozen=True, kw_only=True)
class MixedPlan(Rows):
    """Draws of B samples with which others are mixed."""

    others: np.ndarray
    """int64 (B,): who they are."""
    weight: np.ndarray
    """float32 (B,): the sample's own share."""
    own: Any
    other: Any


class MixedFeed(Feed[MixedPlan]):
    """See `headrace.pipeline.streams.Mixed`: both samples side by side in the buffers, one of both where they are
    delivered. `number` as in `OtherFeed`."""

    def __init__(self, stream: Mixed, inner: Feed[Any], number: int, partners: Partners) -> None:
        self._inner = inner
        self._number = number
        self._partners = partners
        self._alpha = stream.alpha
        self.engine, self.splits, self.shards, self.field = inner.engine, inner.splits, inner.shards, inner.field

    def buffers(self, samples: int) -> list[BufferSpec]:
        return self._inner.buffers(samples) * 2

    def request(self, seed: int, epoch: int, ids: np.ndarray) -> tuple[MixedSpans, Callable[[], None]]:
        others = self._partners.draw(seed, epoch, ids)
        seed = stream_seed(seed, self._number)
        own, wait_own = self._inner.request(seed, epoch, ids)
        other, wait_other = self._inner.request(seed, epoch, others)

        def wait() -> None:
            wait_own()
            wait_other()

        return MixedSpans(own, other), wait

    def plan(self, seed: int, epoch: int, ids: np.ndarray, spans: Any) -> MixedPlan:
        others = self._partners.draw(seed, epoch, ids)
        weight = beta_weights(self._alpha, seed, epoch, ids)
        seed = stream_seed(seed, self._number)
        return MixedPlan(
            others=others,
            weight=weight,
            own=self._inner.plan(seed, epoch, ids, spans.own),
            other=self._inner.plan(seed, epoch, others, spans.other),
        )

    def render(self, ids: np.ndarray, spans: Any, plan: MixedPlan, buffers: list[np.ndarray]) -> StageTimes:
        self._partners.refuse(plan.others)
        half = len(buffers) // 2
        own = self._inner.render(ids, spans.own, plan.own, buffers[:half])
        other = self._inner.render(plan.others, spans.other, plan.other, buffers[half:])
        return StageTimes(own.decode_s + other.decode_s, own.augment_s + other.augment_s)

    def deliver(self, seed: int, epoch: int, ids: np.ndarray, plan: MixedPlan, buffers: list[Tensor]) -> Part:
        half = len(buffers) // 2
        seed = stream_seed(seed, self._number)
        own = self._inner.deliver(seed, epoch, ids, plan.own, buffers[:half])
        other = self._inner.deliver(seed, epoch, plan.others, plan.other, buffers[half:])
        assert isinstance(own, Views)
        assert isinstance(other, Views)
        weight = torch.from_numpy(plan.weight)
        return replace(own, views=[mix(a, b, weight) for a, b in zip(own.views, other.views, strict=True)])

    def others(self, plan: MixedPlan) -> Others:
        return self._partners.told(plan.others, plan.weight)

    def close(self) -> None:
        self._inner.close()

    def forked(self) -> None:
        self._inner.forked()


def mix(own: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    """`weight * own + (1 - weight) * other`, of levels the nearest. Two tensors (B, ...) and float32 (B,)."""
    share = weight.to(own.device).view(-1, *[1] * (own.ndim - 1))
    if own.dtype == torch.uint8:
        return torch.lerp(other.float(), own.float(), share).round_().to(torch.uint8)
    return torch.lerp(other, own, share)
