"""What streams make of samples: one table from the kind of a specification to its feed; the loader knows none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headrace.pipeline.batch import Batch
from headrace.pipeline.clips.clips import ClipSpec
from headrace.pipeline.engines.base import StageTimes
from headrace.pipeline.feeds.base import DTYPES, AnyOrder, BufferSpec, Feed, Labels, Source, stream_seed
from headrace.pipeline.feeds.clips import ClipFeed
from headrace.pipeline.feeds.images import ImageFeed
from headrace.pipeline.feeds.others import MixedFeed, OtherFeed, Partners
from headrace.pipeline.feeds.packed import PackedTextFeed
from headrace.pipeline.feeds.sounds import SoundFeed
from headrace.pipeline.feeds.texts import TextFeed
from headrace.pipeline.images.views import ViewSpec
from headrace.pipeline.sounds.sounds import SoundSpec
from headrace.pipeline.streams import Inputs, Mixed, Other, spec_of, streams_of
from headrace.pipeline.texts.packed import PackedTextSpec
from headrace.pipeline.texts.texts import TextSpec

__all__ = ["DTYPES", "FEEDS", "AnyOrder", "Labels", "Source", "StreamPlans", "StreamsFeed", "part_of"]

FEEDS: dict[type[Any], Callable[[Any, Source], Feed[Any]]] = {
    ViewSpec: ImageFeed,
    ClipSpec: ClipFeed,
    TextSpec: TextFeed,
    PackedTextSpec: PackedTextFeed,
    SoundSpec: SoundFeed,
}
"""Type of specification to what feeds it."""


class StreamPlans:
    """The plans of a batch's streams, side by side; indexed by samples as each of them."""

    def __init__(self, each: Sequence[Any]) -> None:
        self.each = tuple(each)

    def __len__(self) -> int:
        return len(self.each[0])

    def __getitem__(self, rows: slice | np.ndarray) -> StreamPlans:
        return StreamPlans([plan[rows] for plan in self.each])

    def __setitem__(self, rows: slice, others: StreamPlans) -> None:
        for plan, other in zip(self.each, others.each, strict=True):
            plan[rows] = other


class StreamsFeed:
    """All streams of a sample. A sample is bad if any of them is.

    Args:
        labels: of the set, or None; for streams that take other samples by label, and since a sample whose label
            cannot be read is bad.

    Raises:
        ValueError: if the set lacks a field that a stream needs, or the engine cannot draw it.
        ImportError: if a package that one needs is missing.
    """

    def __init__(self, inputs: Inputs, source: Source, labels: Labels | None = None) -> None:
        self.feeds: dict[str, Feed[Any]] = {}
        self._labels = labels
        self._numbers: list[int] = []
        self._buffers: list[slice] = []
        seen: list[type[Any]] = []
        for name, stream in streams_of(inputs).items():
            spec = spec_of(stream)
            number = seen.count(type(spec))
            seen.append(type(spec))
            made = FEEDS[type(spec)](spec, source)
            if isinstance(stream, Other | Mixed):
                partners = Partners(stream.among, len(source.shards), labels)
                if isinstance(stream, Mixed):
                    made = MixedFeed(stream, made, number, partners)
                else:
                    made = OtherFeed(made, number, partners)
                number = 0
            self.feeds[name] = made
            self._numbers.append(number)
            first = self._buffers[-1].stop if self._buffers else 0
            self._buffers.append(slice(first, first + len(made.buffers(1))))
        self._each = tuple(self.feeds.values())
        self.splits = all(feed.splits for feed in self._each)
        first = self._each[0]
        self.samples, self.bad, self.ordered = first.samples, first.bad, first.ordered
        """Of packed texts, which are alone; else those of the set. See `Feed`."""

    @property
    def engines(self) -> list[Any]:
        """What makes pixels."""
        return [feed.engine for feed in self._each if feed.engine is not None]

    def buffers(self, samples: int) -> list[BufferSpec]:
        """The memory of all streams; see `Feed`."""
        return [buffer for feed in self._each for buffer in feed.buffers(samples)]

    def request(self, seed: int, epoch: int, ids: np.ndarray) -> tuple[tuple[Any, ...], Callable[[], None]]:
        """Likewise."""
        asked = [
            feed.request(stream_seed(seed, number), epoch, ids)
            for feed, number in zip(self._each, self._numbers, strict=True)
        ]
        spans, arrived = zip(*asked, strict=True)

        def wait() -> None:
            for each in arrived:
                each()

        return spans, arrived[0] if len(arrived) == 1 else wait

    def plan(self, seed: int, epoch: int, ids: np.ndarray, spans: tuple[Any, ...]) -> StreamPlans:
        """Likewise."""
        return StreamPlans(
            [
                feed.plan(stream_seed(seed, number), epoch, ids, own)
                for feed, number, own in zip(self._each, self._numbers, spans, strict=True)
            ]
        )

    def render(
        self, ids: np.ndarray, spans: tuple[Any, ...], plan: StreamPlans, buffers: list[np.ndarray]
    ) -> StageTimes:
        """Likewise."""
        if self._labels is not None:
            self._labels.refuse(ids)
        decode_s = augment_s = 0.0
        for feed, own, drawn, at in zip(self._each, spans, plan.each, self._buffers, strict=True):
            times = feed.render(ids, own, drawn, buffers[at])
            decode_s += times.decode_s
            augment_s += times.augment_s
        return StageTimes(decode_s, augment_s)

    def deliver(
        self,
        seed: int,
        epoch: int,
        ids: np.ndarray,
        plan: StreamPlans,
        buffers: list[Tensor],
        labels: Tensor | None,
    ) -> Batch:
        """The batch, from tensors over whole buffers."""
        parts, others = {}, {}
        for (name, feed), number, drawn, at in zip(
            self.feeds.items(), self._numbers, plan.each, self._buffers, strict=True
        ):
            parts[name] = feed.deliver(stream_seed(seed, number), epoch, ids, drawn, buffers[at])
            if (whose := feed.others(drawn)) is not None:
                others[name] = whose
        index = torch.from_numpy(self._each[0].index(ids, plan.each[0]))
        return Batch(streams=parts, index=index, labels=labels, epoch=epoch, others=others)

    def close(self) -> None:
        """See `Feed`."""
        for feed in self._each:
            feed.close()

    def forked(self) -> None:
        """Likewise."""
        for feed in self._each:
            feed.forked()


def part_of(spans: Any, part: slice) -> Any:
    """Some of the samples of what `request` gives: arrays, in named or plain tuples."""
    if not isinstance(spans, tuple):
        return spans[part]
    some = [part_of(each, part) for each in spans]
    return type(spans)(*some) if hasattr(spans, "_fields") else tuple(some)
