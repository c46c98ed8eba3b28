"""What a specification makes of samples: everything in which a loader of images and one of clips differ.

One table from the type of a specification to its feed; the loader knows neither.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from headrace.pipeline.addresses import memory_at
from headrace.pipeline.batch import Drawn, drawn_views
from headrace.pipeline.clips.clips import ClipPlan, ClipSpec
from headrace.pipeline.engines import CLIP_ENGINES, DEVICE_ENGINES, ENGINES, THREADED_ENGINES
from headrace.pipeline.engines.base import StageTimes, TwoStageEngine, whole_batch_part
from headrace.pipeline.engines.clips import ClipEngine, Cut, StoredVideo, Video
from headrace.pipeline.images.masks import MaskSpec
from headrace.pipeline.images.plan import Plan, plan
from headrace.pipeline.images.view import Normalize
from headrace.pipeline.images.views import ViewSpec
from headrace.pipeline.rows import Rows
from headrace.pipeline.texts.texts import TextPlan, TextReader, Texts, TextSpec
from headrace.pipeline.texts.tokens import TokenMasks
from headrace.shards import ShardError, ShardSet, Spans
from headrace.shards.formats.npy import parse_npy_header

AnyPlan = TypeVar("AnyPlan", bound=Rows)

DTYPES = {"uint8": torch.uint8, "float32": torch.float32}


class Source(NamedTuple):
    """Where a feed takes its samples from, and what makes pixels of them; see `Loader`."""

    shards: ShardSet
    image_field: str | None
    video_field: str | None
    engine: str
    device: str
    threads: int
    dtype: str


class Feed(ABC, Generic[AnyPlan]):
    """How batches of one kind of specification are planned, drawn and labelled. V is the number of its views."""

    engine: Any
    """What makes pixels; None where there are none."""
    shards: ShardSet
    field: str
    """Field of the shard set that the bytes come from."""
    masks: tuple[MaskSpec, ...] = ()
    """Masks over the views."""
    normalize: tuple[Normalize, ...]
    """V of them."""
    splits: bool = True
    """Whether a batch may be drawn in parts, by several threads."""
    buffer_dtype: torch.dtype
    """Type of the buffers."""

    @abstractmethod
    def shapes(self, samples: int) -> list[tuple[int, ...]]:
        """V shapes of buffers, channels last."""

    def request(self, seed: int, epoch: int, ids: np.ndarray) -> tuple[Any, Callable[[], None]]:
        """Where the bytes of some samples lie, and what to wait for before they are read: `ShardSet.request`."""
        return self.shards.request(self.field, ids)

    @abstractmethod
    def plan(self, seed: int, epoch: int, ids: np.ndarray, spans: Spans) -> AnyPlan:
        """The draws of some samples, or room for them where they depend on what only `render` finds out."""

    @abstractmethod
    def render(self, ids: np.ndarray, spans: Spans, plan: AnyPlan, buffers: list[np.ndarray]) -> StageTimes:
        """Write n samples into V buffers. Thread-safe.

        Raises:
            ShardError: naming the sample whose bytes cannot be decoded.
        """

    @abstractmethod
    def finish(self, plan: AnyPlan, buffers: list[Tensor]) -> list[Tensor]:
        """V views as they are delivered, from tensors over whole buffers."""

    @abstractmethod
    def drawn(self, plan: AnyPlan) -> Drawn | None:
        """The labels that come with the views."""

    def texts(self, seed: int, epoch: int, ids: np.ndarray, plan: AnyPlan) -> tuple[Texts | None, list[TokenMasks]]:
        """The texts of a batch and the masks over them."""
        return None, []

    def close(self) -> None:
        """End what runs beside the loader's threads; the next `render` starts it again."""

    def forked(self) -> None:
        """In a forked process: let go of threads that only the parent has."""


class ImageFeed(Feed[Plan]):
    """Views of images; see `ViewSpec`."""

    def __init__(self, spec: ViewSpec, source: Source) -> None:
        self.shards = source.shards
        self.field = image_field(source.shards, source.image_field)
        self.masks = spec.masks
        self.engine = _engine(source, self.field, spec)
        self.normalize = tuple(view.normalize for view in spec.views)
        self.splits = whole_batch_part(self.engine) is None
        self._dtype = DTYPES[source.dtype]
        self.buffer_dtype = torch.uint8 if isinstance(self.engine, TwoStageEngine) else self._dtype
        self._spec = spec

    def shapes(self, samples: int) -> list[tuple[int, ...]]:
        return [(samples, view.size, view.size, 3) for view in self._spec.views]

    def plan(self, seed: int, epoch: int, ids: np.ndarray, spans: Spans) -> Plan:
        return plan(self._spec, seed, epoch, ids, np.stack([spans.height, spans.width], axis=1))

    def render(self, ids: np.ndarray, spans: Spans, plan: Plan, buffers: list[np.ndarray]) -> StageTimes:
        if isinstance(self.engine, TwoStageEngine):
            return self.engine.crop(ids, spans, plan, buffers)
        return self.engine.render(ids, spans, plan, buffers)

    def finish(self, plan: Plan, buffers: list[Tensor]) -> list[Tensor]:
        views = [buffer.permute(0, 3, 1, 2) for buffer in buffers]
        return self.engine.finish(plan, views, self._dtype) if isinstance(self.engine, TwoStageEngine) else views

    def drawn(self, plan: Plan) -> Drawn:
        return drawn_views(plan)

    def close(self) -> None:
        whole = whole_batch_part(self.engine)
        if whole is not None:
            whole.close()


class ClipFeed(Feed[ClipPlan]):
    """Clips of videos; see `ClipSpec`. How long and how large a video is only its file says, so that the thread that
    opens it draws its row of the plan."""

    def __init__(self, spec: ClipSpec, source: Source) -> None:
        if source.engine not in CLIP_ENGINES:
            raise ValueError(
                f"engine {source.engine!r} has no clips: its package has no video; use {' or '.join(CLIP_ENGINES)}"
            )
        shards, name = source.shards, source.video_field
        if name is None:
            name = next((name for name in ("video", "frames") if name in shards.fields), "video")
        self.shards = shards
        self.field = _field(shards, name, "video", "array")
        self.masks = spec.masks
        engines = {clip.view: _engine(source, self.field, ViewSpec([clip.view])) for clip in spec.clips}
        self.engine = ClipEngine([engines[clip.view] for clip in spec.clips], spec)
        self.normalize = tuple(clip.view.normalize for clip in spec.clips)
        self.splits = not self.engine.takes_whole_batches
        self._dtype = DTYPES[source.dtype]
        self.buffer_dtype = torch.uint8 if self.engine.finishes else self._dtype
        self._threads = source.threads
        self._readers = self._make_readers()
        self._spec = spec
        self._encoded = shards.fields[name].kind == "video"
        if self._encoded:
            try:
                import headrace.shards.formats.video  # noqa: F401
            except ImportError as error:
                raise ImportError(f"encoded videos need PyAV: pip install headrace[video] ({error})") from error

    def shapes(self, samples: int) -> list[tuple[int, ...]]:
        return [(samples, clip.frames, clip.view.size, clip.view.size, 3) for clip in self._spec.clips]

    def plan(self, seed: int, epoch: int, ids: np.ndarray, spans: Spans) -> ClipPlan:
        return ClipPlan.blank(self._spec, seed, epoch, len(ids))

    def render(self, ids: np.ndarray, spans: Spans, plan: ClipPlan, buffers: list[np.ndarray]) -> StageTimes:
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

    def finish(self, plan: ClipPlan, buffers: list[Tensor]) -> list[Tensor]:
        return self.engine.finish(plan, buffers, self._dtype)

    def drawn(self, plan: ClipPlan) -> Drawn:
        return plan.drawn()

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

            return open_video(bytes(data))
        if self.shards.manifest.format == "webdataset":
            dtype, shape, start = parse_npy_header(data)
        else:
            field = self.shards.fields[self.field]
            dtype, shape, start = np.dtype(field.dtype), field.shape, 0
        count = math.prod(shape)
        if dtype.itemsize * count != len(data) - start:
            raise ValueError(f"{len(data) - start} bytes for an array of {dtype} with shape {shape}")
        return nullcontext(StoredVideo(np.frombuffer(data, dtype, count, start).reshape(shape)))


class TextFeed(Feed[TextPlan]):
    """Texts in tokens; see `TextSpec`. The library tokenises with threads of its own beside the loader's."""

    engine = None
    normalize = ()
    buffer_dtype = torch.uint8

    def __init__(self, spec: TextSpec, source: Source) -> None:
        self.shards = source.shards
        self._reader = TextReader(spec, source.shards)
        self.field = self._reader.field

    def shapes(self, samples: int) -> list[tuple[int, ...]]:
        return []

    def request(self, seed: int, epoch: int, ids: np.ndarray) -> tuple[Any, Callable[[], None]]:
        return self._reader.request(seed, epoch, ids)

    def plan(self, seed: int, epoch: int, ids: np.ndarray, spans: Any) -> TextPlan:
        return self._reader.blank(seed, epoch, len(ids))

    def render(self, ids: np.ndarray, spans: Any, plan: TextPlan, buffers: list[np.ndarray]) -> StageTimes:
        started = perf_counter()
        self._reader.fill(ids, spans, plan)
        return StageTimes(decode_s=perf_counter() - started, augment_s=0.0)

    def finish(self, plan: TextPlan, buffers: list[Tensor]) -> list[Tensor]:
        return []

    def drawn(self, plan: TextPlan) -> None:
        return None

    def texts(self, seed: int, epoch: int, ids: np.ndarray, plan: TextPlan) -> tuple[Texts, list[TokenMasks]]:
        return self._reader.deliver(seed, epoch, ids, plan)


@dataclass(frozen=True, kw_only=True)
class BesidePlan(Rows):
    """Of views, and of the texts beside them."""

    views: Any
    texts: TextPlan


class BesideSpans(NamedTuple):
    """Likewise."""

    views: Spans
    texts: Any


class BesideFeed(Feed[BesidePlan]):
    """Views and the texts beside them, of two fields of the same samples. A sample is bad if either of them is."""

    def __init__(self, views: ImageFeed | ClipFeed, texts: TextFeed) -> None:
        self._views: Any = views
        self._texts = texts
        self.engine = views.engine
        self.shards = views.shards
        self.field = views.field
        self.masks = views.masks
        self.normalize = views.normalize
        self.splits = views.splits
        self.buffer_dtype = views.buffer_dtype

    def shapes(self, samples: int) -> list[tuple[int, ...]]:
        return self._views.shapes(samples)

    def request(self, seed: int, epoch: int, ids: np.ndarray) -> tuple[BesideSpans, Callable[[], None]]:
        views, wait_views = self._views.request(seed, epoch, ids)
        texts, wait_texts = self._texts.request(seed, epoch, ids)

        def wait() -> None:
            wait_views()
            wait_texts()

        return BesideSpans(views, texts), wait

    def plan(self, seed: int, epoch: int, ids: np.ndarray, spans: Any) -> BesidePlan:
        views = self._views.plan(seed, epoch, ids, spans.views)
        return BesidePlan(views=views, texts=self._texts.plan(seed, epoch, ids, spans.texts))

    def render(self, ids: np.ndarray, spans: Any, plan: BesidePlan, buffers: list[np.ndarray]) -> StageTimes:
        texts = self._texts.render(ids, spans.texts, plan.texts, [])
        views = self._views.render(ids, spans.views, plan.views, buffers)
        return StageTimes(views.decode_s + texts.decode_s, views.augment_s)

    def finish(self, plan: BesidePlan, buffers: list[Tensor]) -> list[Tensor]:
        return self._views.finish(plan.views, buffers)

    def drawn(self, plan: BesidePlan) -> Drawn:
        return self._views.drawn(plan.views)

    def texts(self, seed: int, epoch: int, ids: np.ndarray, plan: BesidePlan) -> tuple[Texts, list[TokenMasks]]:
        return self._texts.texts(seed, epoch, ids, plan.texts)

    def close(self) -> None:
        self._views.close()

    def forked(self) -> None:
        self._views.forked()


FEEDS: dict[type[Any], type[ImageFeed] | type[ClipFeed] | type[TextFeed]] = {
    ViewSpec: ImageFeed,
    ClipSpec: ClipFeed,
    TextSpec: TextFeed,
}
"""Type of specification to what feeds it."""


def feed(spec: ViewSpec | ClipSpec | TextSpec, source: Source) -> ImageFeed | ClipFeed | TextFeed | BesideFeed:
    """The feed of a specification.

    Raises:
        ValueError: if the set lacks the field that it needs, or the engine cannot draw it.
        ImportError: if a package that it needs is missing.
    """
    make: Any = FEEDS[type(spec)]
    made = make(spec, source)
    if isinstance(spec, TextSpec) or spec.text is None:
        return made
    return BesideFeed(made, TextFeed(spec.text, source))


def part_of(spans: Any, part: slice) -> Any:
    """Some of the samples of what `Feed.request` gives."""
    return type(spans)(*(part_of(each, part) if isinstance(each, tuple) else each[part] for each in spans))


def _engine(source: Source, field: str, spec: ViewSpec) -> Any:
    """What makes pixels of images."""
    options: dict[str, Any] = {"device": source.device} if source.engine in DEVICE_ENGINES else {}
    if source.engine in THREADED_ENGINES:
        options["threads"] = source.threads
    return ENGINES[source.engine](source.shards, field, spec, **options)


def image_field(shards: ShardSet, name: str | None = None) -> str:
    """The field whose images are shown: the one of this name, or "image", or else the only one.

    Raises:
        ValueError: if there is none, or several and no name says which.
    """
    images = [field for field, declared in shards.fields.items() if declared.kind == "image"]
    if name is not None or "image" in images:
        return _field(shards, name or "image", "image")
    if len(images) == 1:
        return images[0]
    if not images:
        raise ValueError(f"{shards.path} has no images; its fields are {', '.join(shards.fields)}")
    raise ValueError(f"{shards.path} has several image fields, {', '.join(images)}, and none of them is called image")


def _field(shards: ShardSet, name: str, *kinds: str) -> str:
    if name not in shards.fields or shards.fields[name].kind not in kinds:
        raise ValueError(f"{shards.path} has no {kinds[0]} field {name!r}; it has {', '.join(shards.fields)}")
    return name
