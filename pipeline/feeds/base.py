"""What a loader asks of each kind of specification."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from headrace.pipeline.batch import Others
from headrace.pipeline.engines import DEVICE_ENGINES, ENGINES, THREADED_ENGINES
from headrace.pipeline.engines.base import StageTimes
from headrace.pipeline.images.views import ViewSpec
from headrace.pipeline.order.order import Order
from headrace.pipeline.order.window import WindowOrder
from headrace.pipeline.part import Part
from headrace.pipeline.random import key_word, philox
from headrace.pipeline.rows import Rows
from headrace.pipeline.texts.packing import BlockOrder
from headrace.shards import ShardSet, Spans

AnyPlan = TypeVar("AnyPlan", bound=Rows)
AnyOrder = Order | WindowOrder | BlockOrder

_STREAM = key_word(0x73747265)  # the word "stre"

DTYPES = {
    "uint8": torch.uint8,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
"""What views are delivered as; the last two by `HALF_ENGINES` only."""

BufferSpec = tuple[tuple[int, ...], torch.dtype]
"""Shape and type of a buffer, its first axis the samples."""


class Source(NamedTuple):
    """Where a feed takes its samples from, and what makes pixels of them; see `Loader`."""

    shards: ShardSet
    engine: str
    device: str
    threads: int
    dtype: str


class Labels:
    """The labels of a set.

    Args:
        field: an int field.
    """

    def __init__(self, shards: ShardSet, field: str) -> None:
        self._shards = shards
        self._field = field
        self.values = shards.ints(field)
        """int64 (n,); -1 where one cannot be read."""
        self._unreadable = shards.unreadable(field)

    def refuse(self, ids: np.ndarray) -> None:
        """ShardError for the first of some samples whose label cannot be read."""
        if len(self._unreadable) and len(bad := ids[np.isin(ids, self._unreadable)]):
            self._shards.read(int(bad[0]), [self._field])  # which says what is wrong with it


class Feed(ABC, Generic[AnyPlan]):
    """How a stream of one kind of specification is planned, made and delivered."""

    engine: Any = None
    """What makes pixels; None where there are none."""
    splits: bool = True
    """Whether a batch may be made in parts, by several threads."""
    shards: ShardSet
    field: str
    """Field of the shard set that the bytes come from."""

    @property
    def samples(self) -> int:
        """Samples of an epoch: those of the set, unless the feed makes others of them."""
        return len(self.shards)

    @property
    def bad(self) -> Mapping[int, str]:
        """Samples of the set that are known to be bad before the first batch, and why."""
        return {}

    def ordered(self, order: Order | WindowOrder) -> AnyOrder:
        """When the feed's samples come, by the order of the set's; called before the first `request` of an epoch."""
        return order

    def index(self, ids: np.ndarray, plan: AnyPlan) -> np.ndarray:
        """int64 (B,): `Batch.index` of the samples of a batch."""
        return ids

    @abstractmethod
    def buffers(self, samples: int) -> list[BufferSpec]:
        """The memory that `render` writes into, channels last."""

    def request(self, seed: int, epoch: int, ids: np.ndarray) -> tuple[Any, Callable[[], None]]:
        """Where the bytes of some samples lie, and what to wait for before they are read: `ShardSet.request`."""
        return self.shards.request(self.field, ids)

    def refuse_unreadable(self, ids: np.ndarray, spans: Spans) -> None:
        """What `render` begins with: ShardError for the first sample of which the index tells that it is bad."""
        self.shards.refuse_unreadable(self.field, ids, spans)

    @abstractmethod
    def plan(self, seed: int, epoch: int, ids: np.ndarray, spans: Spans) -> AnyPlan:
        """The draws of some samples, or room for them where they depend on what only `render` finds out."""

    @abstractmethod
    def render(self, ids: np.ndarray, spans: Spans, plan: AnyPlan, buffers: list[np.ndarray]) -> StageTimes:
        """Write n samples into the buffers. Thread-safe.

        Raises:
            ShardError: naming the sample whose bytes cannot be decoded.
        """

    @abstractmethod
    def deliver(self, seed: int, epoch: int, ids: np.ndarray, plan: AnyPlan, buffers: list[Tensor]) -> Part:
        """What the batch has of this stream, from tensors over whole buffers."""

    def others(self, plan: AnyPlan) -> Others | None:
        """Of whom the part is, where not of the samples themselves."""
        return None

    def close(self) -> None:
        """End what runs beside the loader's threads; the next `render` starts it again."""

    def forked(self) -> None:
        """In a forked process: let go of threads that only the parent has."""


def stream_seed(seed: int, number: int) -> int:
    """The seed of stream `number` of those of one kind of specification, so that two of them draw apart. The first
    one's is the run's."""
    return seed if number == 0 else int(philox(key_word(seed), _STREAM, key_word(number), *[key_word(0)] * 3)[0] >> 1)


def engine_of(source: Source, field: str, spec: ViewSpec) -> Any:
    """What makes pixels of images."""
    options: dict[str, Any] = {"device": source.device} if source.engine in DEVICE_ENGINES else {}
    if source.engine in THREADED_ENGINES:
        options["threads"] = source.threads
    return ENGINES[source.engine](source.shards, field, spec, **options)


def described(shards: ShardSet) -> str:
    """The fields of a set that has not the one that is looked for."""
    return f"{', '.join(shards.fields)}{shards.omitted.hint}"


def checked_field(shards: ShardSet, name: str, *kinds: str) -> str:
    """The field of this name, which must be of one of the kinds."""
    if name not in shards.fields or shards.fields[name].kind not in kinds:
        raise ValueError(f"{shards.path} has no {kinds[0]} field {name!r}; it has {described(shards)}")
    return name
