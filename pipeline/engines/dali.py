"""NVIDIA DALI: one graph that decodes each image once and cuts every view from it, on the CPU or on a GPU.

The graph is `headrace.pipeline.engines.dali_graph`; here it is built, fed from the mapped shards and run.
https://docs.nvidia.com/deeplearning/dali
"""

from __future__ import annotations

import ctypes
import threading
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any

import numpy as np
import simplejpeg
import torch

from headrace.pipeline.addresses import memory_at
from headrace.pipeline.batch import normalize_images
from headrace.pipeline.engines.base import StageTimes, WholeBatchEngine, of_sample, one_line
from headrace.pipeline.engines.dali_graph import OPERATORS, arguments, graph
from headrace.pipeline.images.decode import decode_image, for_any_decoder
from headrace.pipeline.images.plan import Plan
from headrace.pipeline.images.views import ViewSpec
from headrace.shards import JPG, RAW, ShardSet, Spans
from headrace.shards.formats.orientation import UPRIGHT, turned
from headrace.shards.machine import cores

_SIDE = 32
"""Pixels of a picture that is known to be good."""


class DaliEngine(WholeBatchEngine):
    """See `headrace.pipeline.engines.base.Engine`.

    Calls from several threads run one after the other: DALI uses its own threads within a batch.

    Args:
        shards, field, spec: what to read and what to make of it.
        device: "cpu", or a CUDA device such as "cuda" or "cuda:1" that decodes and augments. The views come back to
            the CPU either way.
        threads: of DALI; None takes all cores this process may use.
    """

    operations = frozenset(OPERATORS)

    def __init__(
        self, shards: ShardSet, field: str, spec: ViewSpec, device: str = "cpu", threads: int | None = None
    ) -> None:
        super().__init__()
        self._shards = shards
        self._field = field
        self._spec = spec
        self._device = torch.device(device)
        self._threads = threads or cores()
        self._lock = threading.Lock()
        self._pipeline: Any = None
        self._readers: ThreadPoolExecutor | None = None  # see whether files are whole, before DALI gets them
        self._built_for = (0, np.dtype(np.uint8), False)  # largest batch, type of the views, whether pixels come in

    def render(self, ids: np.ndarray, spans: Spans, plan: Plan, views: list[np.ndarray]) -> StageTimes:
        """As the protocol says; the graph's whole time counts as augmentation.

        Raises:
            ShardError: naming the sample whose bytes cannot be decoded.
            RuntimeError: where DALI fails with a picture that is known to be good as well.
        """
        started = perf_counter()
        with self._lock:
            try:
                self._run(ids, spans, plan, views)
            except RuntimeError as error:
                self._run(ids, spans, plan, views, self._declined(error, ids, spans, plan, views))
        return StageTimes(decode_s=0.0, augment_s=perf_counter() - started)

    def close(self) -> None:
        """End DALI's threads; the next `render` starts them again."""
        with self._lock:
            self._end()
            if self._readers is not None:
                self._readers.shutdown()
                self._readers = None

    def _end(self) -> None:
        if self._pipeline is not None:
            # Waits for its threads. To let go of it is not enough: an error's traceback may hold it.
            self._pipeline._shutdown()
            self._pipeline = None

    def forked(self) -> None:
        """See `WholeBatchEngine`. The parent's pipeline is never let go: it would wait for its threads."""
        self._lock = threading.Lock()
        self._readers = None
        if self._pipeline is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._pipeline._pipe))
            self._pipeline._pipe = None
            self._pipeline = None

    def _run(
        self,
        ids: np.ndarray,
        spans: Spans,
        plan: Plan,
        views: list[np.ndarray],
        declined: frozenset[int] = frozenset(),
    ) -> None:
        """Render, under the lock. Nothing of DALI's reads the samples' bytes any more when it is left. `declined` are
        positions of files that its decoder does not get."""
        raw = bool((spans.encoding == RAW).any())
        of = self._pixels if raw else self._file
        if self._readers is None:
            self._readers = ThreadPoolExecutor(self._threads, thread_name_prefix="headrace-dali")
        images = list(self._readers.map(lambda i: of(ids, spans, i, i in declined), range(len(ids))))
        inputs: dict[str, Any] = {"image": images}
        for v, view in enumerate(self._spec.views):
            inputs |= {f"{name}_{v}": values for name, values in arguments(plan, v, view).items()}
        pipeline = self._built(len(ids), views[0].dtype, raw)
        try:
            outputs = pipeline.run(**inputs)
            for view, view_array, output in zip(self._spec.views, views, outputs, strict=True):
                result = np.asarray(output.as_cpu().as_tensor())
                if view_array.dtype == np.float32 and result.dtype == np.uint8:
                    levels = torch.from_numpy(result).permute(0, 3, 1, 2)
                    result = normalize_images(levels, view.normalize).permute(0, 2, 3, 1).numpy()
                view_array[:] = result
        except BaseException:
            self._end()  # DALI's pipelines do not survive an error, and may still read what others of the batch are of
            raise

    def _declined(
        self, error: RuntimeError, ids: np.ndarray, spans: Spans, plan: Plan, views: list[np.ndarray]
    ) -> frozenset[int]:
        """Positions of the samples that DALI's decoder declines, after an error of a batch: it is asked for each by
        itself. RuntimeError where there is none, or where it does not make one that is known to be good either."""
        declined: list[int] = []
        for i in range(len(ids)):
            one = slice(i, i + 1)
            try:
                some = Spans._make(column[one] for column in spans)
                self._run(ids[one], some, plan[one], [np.empty_like(view[one]) for view in views])
            except RuntimeError:
                if not self._works(plan[one], views):
                    declined.clear()
                    break
                declined.append(i)
        if not declined:
            raise RuntimeError(f"engine 'dali' fails, and not because of a sample: {one_line(error)}") from error
        return frozenset(declined)

    def _works(self, plan: Plan, views: list[np.ndarray]) -> bool:
        """Whether DALI makes views of a picture without fault. `plan` is of one sample."""
        pixels = np.full((_SIDE, _SIDE, 3), 128, np.uint8)
        file = np.frombuffer(simplejpeg.encode_jpeg(pixels), np.uint8)
        shape = np.full(1, _SIDE, np.int32)
        spans = Spans(
            address=np.array([file.ctypes.data]),
            size=np.array([file.size]),
            height=shape,
            width=shape,
            encoding=np.full(1, JPG, np.uint8),
            orientation=np.full(1, UPRIGHT, np.uint8),
        )
        crop = np.tile(np.array([0, 0, _SIDE, _SIDE], np.int32), (1, len(views), 1))
        try:
            self._run(np.zeros(1, np.int64), spans, plan.with_crops(crop), [np.empty_like(view[:1]) for view in views])
        except RuntimeError:
            return False
        return True

    def _pixels(self, ids: np.ndarray, spans: Spans, i: int, declined: bool) -> np.ndarray:
        """uint8 (H, W, 3) as shown, stored pixels without a copy. The graph takes either pixels or files, so that files
        are decoded here where a batch has both."""
        if spans.encoding[i] == RAW:
            height, width = int(spans.height[i]), int(spans.width[i])
            pixels = np.frombuffer(memory_at(int(spans.address[i]), 3 * height * width), np.uint8)
            pixels = pixels.reshape(height, width, 3)
        else:
            with of_sample(self._shards, int(ids[i]), self._field, "image"):
                pixels = decode_image(memory_at(int(spans.address[i]), int(spans.size[i])))
        return np.ascontiguousarray(turned(pixels, int(spans.orientation[i])))

    def _file(self, ids: np.ndarray, spans: Spans, i: int, declined: bool) -> np.ndarray:
        """uint8 (bytes,) of a file for DALI's decoder: the sample's own, without a copy, where it is plain and whole
        beyond doubt and is shown as it is stored, else its pixels as `decode_image` has them, in a file without
        compression."""
        data = memory_at(int(spans.address[i]), int(spans.size[i]))
        with of_sample(self._shards, int(ids[i]), self._field, "image"):
            orientation = int(spans.orientation[i])
            if not declined and orientation == UPRIGHT and for_any_decoder(data):
                return np.frombuffer(data, np.uint8)
            return _as_file(decode_image(data, orientation))

    def _built(self, samples: int, dtype: np.dtype, raw: bool) -> Any:
        """The pipeline, built anew for a larger batch or another input or output than before."""
        largest, *others = self._built_for
        if self._pipeline is None or samples > largest or [dtype, raw] != others:
            self._built_for = (max(samples, largest), dtype, raw)
            on_gpu = self._device.type == "cuda"
            self._pipeline = graph(
                self._spec,
                "gpu" if on_gpu else "cpu",
                raw,
                dtype == np.float32,
                batch_size=self._built_for[0],
                num_threads=self._threads,
                device_id=(self._device.index or 0) if on_gpu else None,
                prefetch_queue_depth=1,
                exec_dynamic=True,
            )
            self._pipeline.build()
        return self._pipeline


def _as_file(pixels: np.ndarray) -> np.ndarray:
    """uint8 (bytes,): a PPM of pixels (H, W, 3), https://netpbm.sourceforge.net/doc/ppm.html."""
    height, width = pixels.shape[:2]
    return np.concatenate([np.frombuffer(b"P6\n%d %d\n255\n" % (width, height), np.uint8), pixels.ravel()])
