"""Clips of videos."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from headrace.pipeline.addresses import memory_at
from headrace.pipeline.batch import Views
from headrace.pipeline.clips.clips import ClipPlan, ClipSpec
from headrace.pipeline.engines import CLIP_ENGINES
from headrace.pipeline.engines.base import StageTimes
from headrace.pipeline.engines.clips import ClipEngine, Cut, StoredVideo, Video
from headrace.pipeline.feeds.base import DTYPES, BufferSpec, Feed, Source, checked_field, engine_of
from headrace.pipeline.images.views import ViewSpec
from headrace.pipeline.masks import draw_masks
from headrace.shards import ShardError, Spans
from headrace.shards.formats.npy import parse_npy_header


class ClipFeed(Feed[ClipPlan]):
    """See `ClipSpec`. How long and how large a video is only its file says, so that the thread that
    opens it draws its row of the plan."""

    def __init__(self, spec: ClipSpec, source: Source) -> None:
        if source.engine not in CLIP_ENGINES:
            raise ValueError(
                f"engine {source.engine!r} has no clips: its package has no video; use {' or '.join(CLIP_ENGINES)}"
            )
        shards, name = source.shards, spec.field
        if name is None:
            name = next((name for name in ("video", "frames") if name in shards.fields), "video")
        self.shards = shards
        self.field = checked_field(shards, name, "video", "array")
        engines = {clip.view: engine_of(source, self.field, ViewSpec([clip.view])) for clip in spec.clips}
        self.engine = ClipEngine([engines[clip.view] for clip in spec.clips], spec)
        self.splits = not self.engine.takes_whole_batches
        self._dtype = DTYPES[source.dtype]
        self._threads = source.threads
        self._readers = self._make_readers()
        self._spec = spec
        self._normalize = tuple(clip.view.normalize for clip in spec.clips)
        self._encoded = shards.fields[name].kind == "video"
        if self._encoded:
            try:
                import headrace.shards.formats.video  # noqa: F401
            except ImportError as error:
                raise ImportError(f"encoded videos need PyAV: pip install headrace[video] ({error})") from error

    def buffers(self, samples: int) -> list[BufferSpec]:
        dtype = torch.uint8 if self.engine.finishes else self._dtype
        return [((samples, clip.frames, clip.view.size, clip.view.size, 3), dtype) for clip in self._spec.clips]

    def plan(self, seed: int, epoch: int, ids: np.ndarray, spans: Spans) -> ClipPlan:
        return ClipPlan.blank(self._spec, seed, epoch, len(ids))

    def render(self, ids: np.ndarray, spans: Spans, plan: ClipPlan, buffers: list[np.ndarray]) -> StageTimes:
        self.refuse_unreadable(ids, spans)
        decode_s = augment_s = 0.0
        step = 1 if self.splits else max(1, len(ids))
        for first in range(0, len(ids), step):
            some = slice(first, first + step)
            if self.splits:
                found = [self._cut(first, ids, spans, plan)]
            else:
                pending = [self._readers.submit(self._cut, i, ids, spans, plan) for i in range(len(ids))]
                wait(pending)  # so that after an error nobody writes into this plan any more
                found = [each.result() for each in pending]
            decode_s += sum(seconds for _, seconds in found)
            started = perf_counter()
            self.engine.draw(ids[some], [cuts for cuts, _ in found], plan[some], [buffer[some] for buffer in buffers])
            augment_s += perf_counter() - started
        return StageTimes(decode_s=decode_s, augment_s=augment_s)

    def deliver(self, seed: int, epoch: int, ids: np.ndarray, plan: ClipPlan, buffers: list[Tensor]) -> Views:
        views = self.engine.finish(plan, buffers, self._dtype)
        masks = draw_masks(self._spec.masks, seed, epoch, ids)
        return Views(views=views, normalize=self._normalize, masks=masks, drawn=plan.drawn())

    def close(self) -> None:
        self._readers.shutdown()
        self._readers = self._make_readers()
        self.engine.close()

    def forked(self) -> None:
        self._readers = self._make_readers()

    def _make_readers(self) -> ThreadPoolExecutor:
        """Threads that decode where the engine takes whole batches; they start when they have something to do."""
        return ThreadPoolExecutor(self._threads, thread_name_prefix="headrace-video")

    def _cut(self, i: int, ids: np.ndarray, spans: Spans, plan: ClipPlan) -> tuple[list[Cut], float]:
        """Fill row i of the plan and decode what it asks for, in so many seconds."""
        started = perf_counter()
        row = plan[i : i + 1]
        try:
            with self._open(spans, i) as video:
                size = np.array([[video.height, video.width]])
                row.fill(self._spec, ids[i : i + 1], np.array([video.length]), size)
                return self.engine.cut(video, row), perf_counter() - started
        except ValueError as error:
            where = self.shards.where(int(ids[i]), self.field)
            raise ShardError(f"{where}: cannot decode the video: {error}") from error

    def _open(self, spans: Spans, i: int) -> AbstractContextManager[Video]:
        data = memory_at(int(spans.address[i]), int(spans.size[i]))
        if self._encoded:
            from headrace.shards.formats.video import open_video  # needs an extra

            return open_video(bytes(data), "ignore" if self.shards.fields[self.field].as_stored else "apply")
        if self.shards.manifest.format == "webdataset":
            dtype, shape, start = parse_npy_header(data)
        else:
            field = self.shards.fields[self.field]
            dtype, shape, start = np.dtype(field.dtype), field.shape, 0
        count = math.prod(shape)
        if dtype.itemsize * count != len(data) - start:
            raise ValueError(f"{len(data) - start} bytes for an array of {dtype} with shape {shape}")
        return nullcontext(StoredVideo(np.frombuffer(data, dtype, count, start).reshape(shape)))
