"""What the loader asks of an engine."""

from __future__ import annotations

import os
import re
import weakref
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from headrace.pipeline.images.plan import Plan
from headrace.shards import RAW, ShardError, ShardSet, Spans
from headrace.shards.errors import is_machine_fault
from headrace.shards.formats.orientation import UPRIGHT


class StageTimes(NamedTuple):
    """Thread seconds that one `render` call spent in each stage."""

    decode_s: float
    augment_s: float


@contextmanager
def of_sample(shards: ShardSet, sample: int, field: str, kind: str) -> Iterator[None]:
    """Whatever a library raises about a sample's bytes becomes a ShardError that names it; a fault of the machine stays
    what it is."""
    try:
        yield
    except Exception as error:
        if is_machine_fault(error):
            raise
        raise ShardError(f"{shards.where(sample, field)}: cannot decode the {kind}: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """What an error says, without what makes it long."""
    said = " ".join(_OBJECT.sub("", str(error)).split()) or type(error).__name__
    return said if len(said) <= LONGEST_LINE else f"{said[:LONGEST_LINE]} ..."


LONGEST_LINE = 300
_OBJECT = re.compile(r" <[\w.]+ object at 0x\w+>")


def pixel_spans(pictures: np.ndarray, numbers: np.ndarray) -> Spans:
    """Where the pixels of some pictures lie, for an engine to take them for samples of raw pixels.

    Args:
        pictures: uint8 (N, H, W, 3), contiguous, kept alive by the caller.
        numbers: int (n,), in [0, N).
    """
    count, (height, width) = len(numbers), pictures.shape[1:3]
    each = 3 * height * width
    return Spans(
        address=pictures.ctypes.data + each * numbers.astype(np.int64),
        size=np.full(count, each, np.int64),
        height=np.full(count, height, np.int32),
        width=np.full(count, width, np.int32),
        encoding=np.full(count, RAW, np.uint8),
        orientation=np.full(count, UPRIGHT, np.uint8),
    )


class Engine(Protocol):
    """Applies plans. Deterministic, and safe to call from several threads at once."""

    operations: frozenset[str]
    """Those of `headrace.pipeline.images.view.OPERATIONS` that it has."""

    def render(self, ids: np.ndarray, spans: Spans, plan: Plan, views: list[np.ndarray]) -> StageTimes:
        """Write the V views of n samples into arrays (n, S, S, 3), uint8 levels or float32 normalised."""


class WholeBatchEngine(ABC):
    """An engine with threads of its own: the loader hands it a batch in one call and closes it."""

    operations: frozenset[str]
    """See `Engine`."""

    def __init__(self) -> None:
        _ENGINES.add(self)

    @abstractmethod
    def render(self, ids: np.ndarray, spans: Spans, plan: Plan, views: list[np.ndarray]) -> StageTimes:
        """See `Engine`."""

    @abstractmethod
    def close(self) -> None:
        """End the threads; the next `render` starts them again."""

    @abstractmethod
    def forked(self) -> None:
        """Called in a forked process: lets go of threads and processes, which are the parent's, without waiting for
        them; the next `render` starts others."""


_ENGINES: weakref.WeakSet[WholeBatchEngine] = weakref.WeakSet()


def _forked() -> None:
    for engine in _ENGINES:
        engine.forked()


os.register_at_fork(after_in_child=_forked)


class TwoStageEngine(ABC):
    """An engine that lets another one crop and does the rest to the whole batch on a device.

    The loader calls `crop` for the batch, or parts of it if its cropper takes parts, then `finish` once.
    """

    operations: frozenset[str]
    """See `Engine`; of the second stage."""
    cropper: Engine
    """What decodes, crops, resizes, flips and turns, and has no operation behind that to do."""

    def crop(self, ids: np.ndarray, spans: Spans, plan: Plan, crops: list[np.ndarray]) -> StageTimes:
        """Write the cropped, resized, flipped and turned views into V arrays (n, S, S, 3), uint8. See `Engine`."""
        return self.cropper.render(ids, spans, plan, crops)

    @abstractmethod
    def finish(self, plan: Plan, crops: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
        """The rest of the operations on whole batches.

        Args:
            plan: B rows.
            crops: V tensors (B, 3, S, S), uint8, channels-last, on the CPU. Not written to.
            dtype: uint8 for levels, float32 for normalised values.

        Returns: V tensors (B, 3, S, S), channels-last, on the engine's device.
        """

    def render(self, ids: np.ndarray, spans: Spans, plan: Plan, views: list[np.ndarray]) -> StageTimes:
        """Both stages at once, back to the CPU. See `Engine`."""
        crops = [np.empty(view.shape, np.uint8) for view in views]
        times = self.crop(ids, spans, plan, crops)
        dtype = torch.from_numpy(views[0]).dtype
        finished = self.finish(plan, [torch.from_numpy(crop).permute(0, 3, 1, 2) for crop in crops], dtype)
        for view, result in zip(views, finished, strict=True):
            view[:] = result.permute(0, 2, 3, 1).cpu().numpy()
        return times


class DeviceEngine(ABC):
    """An engine that decodes on the host and draws views on a device.

    The loader calls `decode` for parts of a batch, from several threads, then `draw` once.
    """

    operations: frozenset[str]
    """See `Engine`."""

    @abstractmethod
    def buffers(self, samples: int) -> list[tuple[tuple[int, ...], torch.dtype]]:
        """Shapes and types of what `decode` writes, the first axis the samples."""

    @abstractmethod
    def decode(self, ids: np.ndarray, spans: Spans, plan: Plan, buffers: list[np.ndarray]) -> StageTimes:
        """Fill the buffers for n samples. Raises ShardError naming the sample whose bytes cannot be decoded."""

    @abstractmethod
    def draw(self, plan: Plan, buffers: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
        """Views of whole batches.

        Args:
            plan: B rows.
            buffers: what `decode` has filled, on the CPU, pinned where there is a GPU. Not written to.
            dtype: uint8 for levels, a floating-point type for normalised values.

        Returns: V tensors (B, 3, S, S), channels-last, on the engine's device.
        """

    def render(self, ids: np.ndarray, spans: Spans, plan: Plan, views: list[np.ndarray]) -> StageTimes:
        """Both at once, back to the CPU. See `Engine`."""
        made = [torch.empty(shape, dtype=dtype) for shape, dtype in self.buffers(len(ids))]
        times = self.decode(ids, spans, plan, [buffer.numpy() for buffer in made])
        drawn = self.draw(plan, made, torch.from_numpy(views[0]).dtype)
        for view, result in zip(views, drawn, strict=True):
            view[:] = result.permute(0, 2, 3, 1).cpu().numpy()
        return times


def whole_batch_part(engine: Engine) -> WholeBatchEngine | None:
    """What takes batches whole and is to be closed: the engine, or what crops for it, if any of them does."""
    first = engine.cropper if isinstance(engine, TwoStageEngine) else engine
    return first if isinstance(first, WholeBatchEngine) else None
