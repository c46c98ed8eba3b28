"""Views of images."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from headrace.pipeline.batch import Views, drawn_views
from headrace.pipeline.engines.base import DeviceEngine, StageTimes, TwoStageEngine, whole_batch_part
from headrace.pipeline.feeds.base import DTYPES, BufferSpec, Feed, Source, checked_field, described, engine_of
from headrace.pipeline.images.plan import Plan, plan
from headrace.pipeline.images.views import ViewSpec
from headrace.pipeline.masks import draw_masks
from headrace.shards import ShardSet, Spans


class ImageFeed(Feed[Plan]):
    """See `ViewSpec`."""

    def __init__(self, spec: ViewSpec, source: Source) -> None:
        self.shards = source.shards
        self.field = image_field(source.shards, spec.field)
        self.engine = engine_of(source, self.field, spec)
        self.splits = whole_batch_part(self.engine) is None
        self._dtype = DTYPES[source.dtype]
        self._spec = spec
        self._normalize = tuple(view.normalize for view in spec.views)

    def buffers(self, samples: int) -> list[BufferSpec]:
        if isinstance(self.engine, DeviceEngine):
            return self.engine.buffers(samples)
        dtype = torch.uint8 if isinstance(self.engine, TwoStageEngine) else self._dtype
        return [((samples, view.size, view.size, 3), dtype) for view in self._spec.views]

    def plan(self, seed: int, epoch: int, ids: np.ndarray, spans: Spans) -> Plan:
        return plan(self._spec, seed, epoch, ids, spans.shown_sizes())

    def render(self, ids: np.ndarray, spans: Spans, plan: Plan, buffers: list[np.ndarray]) -> StageTimes:
        self.refuse_unreadable(ids, spans)
        if isinstance(self.engine, TwoStageEngine):
            return self.engine.crop(ids, spans, plan, buffers)
        if isinstance(self.engine, DeviceEngine):
            return self.engine.decode(ids, spans, plan, buffers)
        times: StageTimes = self.engine.render(ids, spans, plan, buffers)
        return times

    def deliver(self, seed: int, epoch: int, ids: np.ndarray, plan: Plan, buffers: list[Tensor]) -> Views:
        if isinstance(self.engine, DeviceEngine):
            views = self.engine.draw(plan, buffers, self._dtype)
        else:
            views = [buffer.permute(0, 3, 1, 2) for buffer in buffers]
            if isinstance(self.engine, TwoStageEngine):
                views = self.engine.finish(plan, views, self._dtype)
        masks = draw_masks(self._spec.masks, seed, epoch, ids)
        return Views(views=views, normalize=self._normalize, masks=masks, drawn=drawn_views(plan))

    def close(self) -> None:
        whole = whole_batch_part(self.engine)
        if whole is not None:
            whole.close()


def image_field(shards: ShardSet, name: str | None = None) -> str:
    """The field whose images are shown: the one of this name, or "image", or else the only one.

    Raises:
        ValueError: if there is none, or several and no name says which.
    """
    images = [field for field, declared in shards.fields.items() if declared.kind == "image"]
    if name is not None or "image" in images:
        return checked_field(shards, name or "image", "image")
    if len(images) == 1:
        return images[0]
    if not images:
        raise ValueError(f"{shards.path} has no images; its fields are {described(shards)}")
    raise ValueError(f"{shards.path} has several image fields, {', '.join(images)}, and none of them is called image")
