"""The process in which ffcv lives: reads orders for batches from a socket until that ends. See `FfcvEngine`.

    python -m headrace.pipeline.engines.ffcv_process SOCKET MEMORY        (both as numbers of open files)

What ffcv does here: its Reader and its OSCacheManager find a sample's bytes in the .beton, its `imdecode`
(libjpeg-turbo) decodes them once, and its `resize_crop` (OpenCV, INTER_AREA) cuts every view, compiled together by its
Compiler as its own decoders are. What its decoder declines is decoded by `decode_image`. The native engine does the
rest.
"""

from __future__ import annotations

import importlib
import mmap
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from headrace.pipeline.addresses import memory_at
from headrace.pipeline.engines.base import StageTimes, one_line, pixel_spans
from headrace.pipeline.engines.ffcv import Bad, Done, Failed, Order, shared_views
from headrace.pipeline.engines.native import NativeEngine
from headrace.pipeline.engines.turning import turn_region
from headrace.pipeline.images.decode import decode_image
from headrace.pipeline.images.limits import check_pixels, pixel_limit
from headrace.pipeline.images.plan import Plan
from headrace.pipeline.images.views import ViewSpec
from headrace.pipeline.images.whole import check_scans
from headrace.shards import ShardSet, open_shards
from headrace.shards.formats.orientation import UPRIGHT

_GLANCE_S = 1.0  # between two looks at whether the parent lives


class _Undecodable(Exception):
    """Its arguments are those of `Bad`."""


class Betons:
    """The .beton files of a set, each with ffcv's tables and map."""

    def __init__(self, shards: ShardSet, field: str) -> None:
        self._shards = shards
        self._field = field
        reader: Any = importlib.import_module("ffcv.reader")
        managers: Any = importlib.import_module("ffcv.memory_managers")
        self._starts = np.concatenate([[0], np.cumsum(shards.shard_samples)])
        self._files = []
        self._largest = 1  # bytes of a decoded image
        for shard in shards.manifest.shards:
            beton = reader.Reader(str(Path(str(shards.path)) / shard.name))
            metadata = beton.metadata[f"f{beton.field_names.index(field)}"]
            manager = managers.OSCacheManager(beton)
            context = manager.schedule_epoch(None)
            context.__enter__()
            self._files.append((metadata, context.state))
            pixels = metadata["height"].astype(np.int64) * metadata["width"]
            self._largest = max(self._largest, 3 * int(pixels.max(initial=0, where=pixels <= pixel_limit())))
        self._jpg = importlib.import_module("ffcv.fields.rgb_image").IMAGE_MODES["jpg"]
        self._cut = _compiled(manager.compile_reader(), self._jpg)
        self._local = threading.local()

    def cut(self, sample: int, orientation: int, crops: np.ndarray, views: list[np.ndarray]) -> None:
        """Decode a sample and cut its views.

        Args:
            orientation: how it is to be shown; see `Spans`.
            crops: int32 (V, 4), see `Plan.crop`.
            views: V arrays (S, S, 3), uint8.
        """
        if not hasattr(self._local, "image"):
            self._local.image, self._local.turned = np.empty((2, self._largest), np.uint8)
        memory = self._local.image, self._local.turned
        number = int(np.searchsorted(self._starts, sample, side="right")) - 1
        metadata, state = self._files[number]
        row = sample - self._starts[number]
        decoded = self._unfit(sample, metadata[row]) and self._decode(sample, metadata[row])
        for v, (crop, view) in enumerate(zip(crops, views, strict=True)):
            cut = partial(self._cut, row, metadata, state, v > 0, *memory, orientation, crop, view)
            if cut(decoded):
                decoded = self._decode(sample, metadata[row])
                cut(decoded)

    def _unfit(self, sample: int, row: np.void) -> bool:
        """Whether it is a JPEG in which ffcv's decoder does not see what is wrong: too many pixels, scans that lack."""
        if row["mode"] != self._jpg:
            return False
        try:
            check_pixels(int(row["width"]), int(row["height"]))
            check_scans(self._bytes(sample))
        except ValueError:
            return True
        return False

    def _bytes(self, sample: int) -> memoryview:
        spans = self._shards.spans(self._field, [sample])
        return memory_at(int(spans.address[0]), int(spans.size[0]))

    def _decode(self, sample: int, row: np.void) -> bool:
        """True when `decode_image` has decoded a sample into this thread's `image`; _Undecodable with its reason."""
        try:
            pixels = decode_image(self._bytes(sample))
            if pixels.shape != (row["height"], row["width"], 3):
                raise ValueError(f"it is {pixels.shape[1]} x {pixels.shape[0]}, the index says otherwise")
        except ValueError as error:
            raise _Undecodable(sample, one_line(error)) from error
        self._local.image[: pixels.size] = pixels.ravel()
        return True


def _compiled(read: Callable[..., Any], jpg: int) -> Callable[..., int]:
    """ffcv's decoding and cropping of one view, without the GIL; a later view of a sample is not decoded again."""
    libffcv: Any = importlib.import_module("ffcv.libffcv")
    compiler: Any = importlib.import_module("ffcv.pipeline.compiler").Compiler
    imdecode, resize_crop = compiler.compile(libffcv.imdecode), compiler.compile(libffcv.resize_crop)

    def cut(row, metadata, state, later, buffer, turned, orientation, crop, out, decoded):  # type: ignore[no-untyped-def]
        sample = metadata[row]
        data = read(sample["data_ptr"], state)
        height, width = np.uint32(sample["height"]), np.uint32(sample["width"])
        if sample["mode"] == jpg:
            if not (later or decoded):
                status = imdecode(data, buffer, height, width, height, width, 0, 0, 1, 1, False, False)
                if status != 0:
                    return 1
            image = buffer[: 3 * height * width].reshape(height, width, 3)
        else:
            image = data[: 3 * height * width].reshape(height, width, 3)
        if orientation != UPRIGHT:
            stored = (0, 0, np.int64(height), np.int64(width))
            image = turn_region(image, stored, orientation, turned, later)
        resize_crop(image, crop[0], crop[0] + crop[2], crop[1], crop[1] + crop[3], out)
        return 0

    function: Callable[..., int] = compiler.compile(cut)
    return function


class Worker:
    """Makes batches."""

    def __init__(self, path: Path, field: str, spec: ViewSpec, threads: int) -> None:
        importlib.import_module("ffcv.pipeline.compiler").Compiler.set_num_threads(1)  # the threads are ours
        self._shards = open_shards(path)
        self._betons = Betons(self._shards, field)
        self.spec = spec
        self._finish = [NativeEngine(self._shards, field, ViewSpec([view])) for view in spec.views]
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads)

    def render(self, order: Order, views: list[np.ndarray]) -> StageTimes:
        """The views of a batch, into V arrays (n, S, S, 3). Raises _Undecodable."""
        step = max(1, -(-len(order.ids) // (4 * self._threads)))  # four parts a thread even out slow samples
        parts = [slice(begin, begin + step) for begin in range(0, len(order.ids), step)]
        jobs = [
            self._pool.submit(
                self._part, order.ids[part], order.orientations[part], order.plan[part], [view[part] for view in views]
            )
            for part in parts
        ]
        times = [job.result() for job in jobs]
        return StageTimes(sum(each.decode_s for each in times), sum(each.augment_s for each in times))

    def _part(self, ids: np.ndarray, orientations: np.ndarray, plan: Plan, views: list[np.ndarray]) -> StageTimes:
        started = perf_counter()
        crops = [np.empty(view.shape, np.uint8) for view in views]
        for i, sample in enumerate(ids):
            self._betons.cut(int(sample), int(orientations[i]), plan.crop[i], [crop[i] for crop in crops])
        cut = perf_counter()
        for v, (engine, crop) in enumerate(zip(self._finish, crops, strict=True)):
            size = self.spec.views[v].size
            whole = np.tile(np.array([0, 0, size, size], np.int32), (len(ids), 1, 1))
            engine.render(ids, pixel_spans(crop, np.arange(len(ids))), plan.view(v).with_crops(whole), [views[v]])
        return StageTimes(cut - started, perf_counter() - cut)


def serve(pipe: Connection, memory: int) -> None:
    """Answer orders until the socket ends or the parent does."""
    parent = os.getppid()
    worker: Worker | None = None
    shared = mmap.mmap(-1, 1)
    while True:
        try:
            while not pipe.poll(_GLANCE_S):  # the socket's other end may live on in a process that the parent forked
                if os.getppid() != parent:
                    return
            message = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            if worker is None:
                worker = Worker(*message)  # answers nothing: the first order does
                continue
            if message.memory > len(shared):
                shared = mmap.mmap(memory, message.memory)
            dtype = np.dtype(np.float32 if message.as_float else np.uint8)
            like = [np.empty((len(message.ids), view.size, view.size, 3), dtype) for view in worker.spec.views]
            answer: Any = Done(worker.render(message, shared_views(shared, like)))
        except _Undecodable as error:
            answer = Bad(*error.args)
        except Exception as error:
            answer = Failed(f"{type(error).__name__}: {' '.join(str(error).split())}")
        try:
            pipe.send(answer)
        except OSError:
            return
        if worker is None:
            return


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, who then closes the socket
    socket, memory = map(int, sys.argv[1:])
    serve(Connection(socket), memory)
    os._exit(0)  # threads of a batch that nobody waits for do not hold it up


if __name__ == "__main__":
    main()
