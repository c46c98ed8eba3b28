"""The loader: shards and streams of views, clips or texts in, batches out, resumable at every step."""

from __future__ import annotations

import math
import os
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, Literal, NoReturn

import numpy as np
import torch

from headrace.pipeline.batch import Batch
from headrace.pipeline.engines import DEVICE_ENGINES, ENGINES, HALF_ENGINES, StageTimes
from headrace.pipeline.faults import POLICIES, FaultLog, OnError, substitutes
from headrace.pipeline.feeds import DTYPES, AnyOrder, Labels, Source, StreamPlans, StreamsFeed, part_of
from headrace.pipeline.forks import settle_threads
from headrace.pipeline.memory import BufferPool
from headrace.pipeline.order.mixing import Pairs, watch_mixing
from headrace.pipeline.order.order import epoch_batches, order
from headrace.pipeline.order.window import LANES, WINDOW, WindowOrder, cache_needed
from headrace.pipeline.streams import Inputs, is_packed
from headrace.shards import ShardError, ShardSet
from headrace.shards.errors import is_machine_fault
from headrace.shards.machine import cores

OrderName = Literal["global", "window"]

PART_S = 1e-3
"""Seconds of work, at least, for which a batch is divided further: to hand a part to a thread takes a tenth of that."""


@dataclass
class LoaderStats:
    """Running totals since the loader was made. Read them whenever; subtract to get an interval."""

    samples: int = 0
    """Delivered by this rank."""
    waited_s: float = 0.0
    """Seconds that the consumer spent in the loader: it plans later batches (`plan_s`), waits for this one, and draws
    its masks. Hardly more than `plan_s` when loading keeps up with training."""
    plan_s: float = 0.0
    """Seconds spent on order, spans and plans, in the consumer's thread; clips are planned while they are decoded."""
    decode_s: float = 0.0
    """Thread seconds spent on decoding (and on page faults of the mapped shards)."""
    augment_s: float = 0.0
    """Thread seconds spent on crops, colour, blur and the write into the batch."""
    pairs: float = 0.0
    """Pairs of samples of one class in a batch of this rank; of `Loader.mixed_by`, as the next two."""
    pairs_expected: float = 0.0
    """As many as a uniform shuffle has in the mean."""
    pairs_variance: float = 0.0
    """Their variance under a uniform shuffle."""

    def mixing(self, since: LoaderStats | None = None) -> Pairs:
        """How well the batches are mixed, from the beginning or since an earlier copy of these figures."""
        since = since or LoaderStats()
        names = ("pairs", "pairs_expected", "pairs_variance")
        return Pairs(*(getattr(self, name) - getattr(since, name) for name in names))


@dataclass
class _Pending:
    """A batch under way."""

    ids: np.ndarray
    plan: StreamPlans
    buffers: list[torch.Tensor]
    parts: list[tuple[slice, Future[StageTimes]]]
    """Rows, and who renders them."""
    seed: int
    epoch: int
    begin: int
    """Position in the epoch of the first sample."""
    end: int
    """Position after the last."""
    is_last: bool
    """Of its epoch."""


class _Iteration:
    """One walk through an epoch: the batches under way, and whether it is over.

    Args:
        under_way: that an earlier walk began for this one.
        patient: whether to wait, at its end, for what runs. Nothing that threads read or write goes while they do, so
            that it is no need, and one that waits for a store may take long.
    """

    def __init__(self, patient: bool, under_way: Iterable[_Pending] = ()) -> None:
        self._patient = patient
        self.under_way: deque[_Pending] = deque(under_way)
        self.over = False
        """The epoch came to its end; what is under way is of the next."""
        self._ended = ""
        self._process = os.getpid()

    def end(self, why: str) -> None:
        """No more batches come. Cancels what has not begun."""
        self._ended = self._ended or why
        parts = [part for pending in self.under_way for _, part in pending.parts]
        self.under_way.clear()
        if self._process != os.getpid():  # a forked process has none of the threads
            return
        running = [part for part in parts if not part.cancel()]
        if self._patient:
            wait(running)

    def hand_over(self, seed: int, epoch: int, position: int) -> list[_Pending]:
        """What is under way, if that is what comes at this place."""
        if not self.over or not self.under_way or self._process != os.getpid():
            return []
        first = self.under_way[0]
        if (first.seed, first.epoch, first.begin) != (seed, epoch, position):
            return []
        begun = list(self.under_way)
        self.under_way.clear()
        return begun

    def check(self) -> None:
        """RuntimeError where it is over."""
        if self._process != os.getpid():
            raise RuntimeError("this iterator is of the process that was forked; iterate the loader itself again")
        if self._ended:
            raise RuntimeError(f"this iterator is over, because {self._ended}; iterate the loader again")


class Loader:
    """Iterates the rest of the current epoch, then moves on to the next epoch.

    The batches depend on (seed, epoch, position) only: not on threads, ranks, engine speed or prefetching. Each
    delivered batch owns its memory until the last tensor of it is gone and copies from it to a GPU are complete; then
    the memory is used again.

    One iterator lives at a time: a new one, `load_state_dict` and `close` end the one before, which then raises
    RuntimeError. A forked process may iterate a loader that its parent has iterated; a worker of
    `torch.utils.data.DataLoader` may not, since every worker would deliver every batch.

    Args:
        shards: an open shard set.
        inputs: what each sample becomes: views of an image, clips of a video, tokens of a text, or several of these by
            name.
        batch_size: of the global batch; this rank loads its contiguous share. Shares are equal where the number of
            ranks divides the batch, else they differ by a sample; without `drop_last` those of the last batch may, and
            some of them be empty. Code that gathers over ranks must put up with that, or choose a batch size and
            `drop_last` so that it does not happen.
        engine: a key of `headrace.pipeline.engines.ENGINES`.
        device: where the engines "dali", "kornia", "dali+kornia" and "cuda" work, such as "cuda"; the others work on
            the CPU. Kornia and "cuda" leave the views there.
        seed: of order and augmentation.
        rank, world_size: this process among those that share the global batch.
        shuffle: False keeps the stored order.
        order: "global" permutes the whole set; "window" reads shards in a random order and permutes within a window,
            for sets that are slow to read at random (`headrace.pipeline.order.window`). None takes "window" for a
            remote set, else "global"; a loader made with None takes over the order of the state that it loads.
        window, lanes: of the order "window": samples over which it is random, and places of the set that are read
            at the same time.
        drop_last: leave out the last, smaller batch of an epoch.
        threads: that decode and augment; None takes all cores this process may use.
        prefetch: batches under way ahead of the consumer, at least 1.
        epochs: of the run. Before the last of them the loader begins the next epoch's first batches while it delivers
            the last ones, so that the consumer does not wait where an epoch begins.
        dtype: "uint8" levels (a quarter of the bytes; `Batch.normalized` does the rest on the device) or
            "float32", normalised by the engine; engine "cuda" also has "bfloat16" and "float16".
        label_field: name in the shard set. Labels are left out where it has none, and for packed texts.
        on_error: what happens to a sample that cannot be decoded. "error" ends the iteration with its name;
            "substitute" puts another sample in its place, drawn from (seed, epoch, sample), so that the same batches
            come again; "skip" makes the batch smaller, which several ranks could not do alike.
        max_bad: different bad samples of this rank to put up with, those before a resume included; one more ends the
            iteration. They are in `bad`.

    Raises:
        ValueError: for contradictory arguments.
        ImportError: if the engine's package is missing, or the one that decodes videos.
        ShardError: while iterating, as `on_error` says, for a sample that cannot be decoded; in any case, as a
            MachineError, where a disk or a store fails or the set was closed.
        RuntimeError: while iterating, for an iterator that is over.
    """

    def __init__(
        self,
        shards: ShardSet,
        inputs: Inputs,
        batch_size: int,
        *,
        engine: str = "native",
        device: str = "cpu",
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
        order: OrderName | None = None,
        window: int = WINDOW,
        lanes: int = LANES,
        drop_last: bool = True,
        threads: int | None = None,
        prefetch: int = 2,
        epochs: int = 1,
        dtype: Literal["uint8", "float32", "bfloat16", "float16"] = "uint8",
        label_field: str = "label",
        on_error: OnError = "error",
        max_bad: int = 100,
    ) -> None:
        if engine not in ENGINES:
            raise ValueError(f"engine {engine!r} is not one of {', '.join(ENGINES)}")
        if device != "cpu" and engine not in DEVICE_ENGINES:
            others = " or ".join(DEVICE_ENGINES)
            raise ValueError(f"engine {engine!r} works on the CPU, not on {device!r}; use {others}")
        if batch_size < world_size:
            raise ValueError(f"a global batch of {batch_size} cannot be shared by {world_size} ranks")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must lie in [0, {world_size}), got {rank}")
        if epochs < 1:
            raise ValueError(f"epochs must be at least 1, got {epochs}")
        if prefetch < 1:
            raise ValueError(f"prefetch must be at least 1, got {prefetch}")
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads}")
        if dtype not in DTYPES:
            raise ValueError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
        if dtype not in ("uint8", "float32") and engine not in HALF_ENGINES:
            having = " or ".join(HALF_ENGINES)
            raise ValueError(f"engine {engine!r} delivers uint8 or float32, not {dtype}; engine {having!r} does")
        if on_error not in POLICIES:
            raise ValueError(f"on_error {on_error!r} is not one of {', '.join(POLICIES)}")
        if on_error == "skip" and world_size > 1:
            raise ValueError("on_error 'skip' makes batches of several ranks unequal; use 'substitute'")
        if order not in ("global", "window", None):
            raise ValueError(f"order {order!r} is not one of global, window")
        self.shards = shards
        self.inputs = inputs
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0
        self.stats = LoaderStats()
        self._rank = rank
        self._world_size = world_size
        self._shuffle = shuffle
        self._order_given = order is not None
        self._order_name: OrderName = order or ("window" if shards.remote else "global")
        self._window, self._lanes = window, lanes
        # What the order "window" depends on beside numbers: how many samples each shard has.
        self._shards_digest = zlib.crc32(shards.shard_samples.astype("<i8").tobytes())
        self._drop_last = drop_last
        self._threads = threads or cores()
        self._prefetch = prefetch
        self._epochs = epochs
        self._packed = is_packed(inputs)
        labels = Labels(shards, label_field) if label_field in shards.fields and not self._packed else None
        self._labels = None if labels is None else labels.values
        self._mixing = None if self._packed else watch_mixing(shards.shard_samples, self._labels)
        source = Source(shards, engine, device, self._threads, dtype)
        self._feed = StreamsFeed(inputs, source, labels)
        self._samples = self._feed.samples
        if drop_last and self._samples < batch_size:
            raise ValueError(f"{self._samples} samples do not fill one batch of {batch_size}; use a smaller one")
        self._order = self._order_of(0)
        self._pool = BufferPool(prefetch + 3)
        self._on_error = on_error
        self._faults = FaultLog(max_bad)
        for number, reason in self._feed.bad.items():
            if on_error == "error":
                raise ShardError(reason)
            self._faults.note(number, ShardError(reason))
        self._position = 0
        self._executor: ThreadPoolExecutor | None = None
        self._iteration = _Iteration(not self.shards.remote)
        self._process = os.getpid()

    @property
    def bad(self) -> Mapping[int, str]:
        """The samples that could not be decoded so far, and why."""
        return self._faults.reasons

    @property
    def mixed_by(self) -> Literal["label", "shard", ""]:
        """What `LoaderStats.pairs` counts: pairs of a label or, without labels, of a shard; "" where all are alike."""
        return self._mixing.by if self._mixing else ""

    @property
    def cache_needed(self) -> int:
        """Bytes of `ShardSet.cache_bytes` with which a remote set's shards are fetched about once an epoch; with less,
        several times. 0 for a local set, and for one that is read as it is stored."""
        if not self.shards.remote or not self._shuffle:
            return 0
        whole = self.shards.manifest.bytes
        if self._order_name == "global":
            return whole
        share = cache_needed(whole / len(self.shards), self._window, self._lanes, self.shards.block_bytes)
        return min(whole, -(-share // self._world_size))

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Loader does not pickle, since its threads are of one process. Another process takes the shard set, "
            "which pickles as its path, and makes a Loader of it. torch.utils.data.DataLoader's workers need neither, "
            "since a Loader has threads of its own: iterate the Loader itself"
        )

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return epoch_batches(self._samples, self.batch_size, self._drop_last)

    def __iter__(self) -> Iterator[Batch]:
        if torch.utils.data.get_worker_info() is not None:
            raise RuntimeError(
                "a Loader has threads of its own, and each worker of a torch.utils.data.DataLoader would deliver all "
                "its batches: iterate the Loader itself"
            )
        self._settle()
        begun = self._iteration.hand_over(self.seed, self.epoch, self._position)
        self._iteration.end("another one was made")
        if self._executor is None:
            settle_threads()
            self._executor = ThreadPoolExecutor(self._threads, thread_name_prefix="headrace-loader")
        self._iteration = _Iteration(not self.shards.remote, begun)
        return self._batches(self._iteration)

    def _settle(self) -> None:
        """In a forked process: let go of threads and processes that only the parent has."""
        if self._process != os.getpid():
            self._process = os.getpid()
            self._executor = None
            self._feed.forked()

    def _batches(self, iteration: _Iteration) -> Iterator[Batch]:
        iteration.check()
        epoch, under_way = self.epoch, iteration.under_way
        coming = self._coming(*((under_way[-1].epoch, under_way[-1].end) if under_way else (epoch, self._position)))
        try:
            while True:
                started = perf_counter()
                while len(under_way) <= self._prefetch and (place := next(coming, None)):
                    under_way.append(self._start(*place))
                if not under_way or under_way[0].epoch != epoch:
                    break
                yield self._next(iteration, started)
                iteration.check()
            iteration.over = True
            if self.epoch == epoch:  # nothing was left, as after a resume with a larger batch
                self.epoch, self._position = epoch + 1, 0
        finally:
            if not iteration.over:
                iteration.end("it was left")

    def _coming(self, epoch: int, position: int) -> Iterator[tuple[int, int, int, bool]]:
        """Epoch, begin and end of each batch from a place on, and whether it is its epoch's last: of this epoch, and of
        those that come after it in the run."""
        while True:
            end = self._samples
            if self._drop_last:
                end -= (end - position) % self.batch_size
            for begin in range(position, end, self.batch_size):
                stop = min(begin + self.batch_size, end)
                yield epoch, begin, stop, stop == end
            epoch, position = epoch + 1, 0
            if epoch >= self._epochs:
                return

    def _next(self, iteration: _Iteration, started: float) -> Batch:
        """The batch that was begun first. It is under way until it is finished: where a part of it fails, the others
        are still at work."""
        pending = iteration.under_way[0]
        try:
            batch = self._finish(pending)
        except CancelledError:  # by another thread
            iteration.check()
            raise
        iteration.check()
        iteration.under_way.popleft()
        # The state already points behind this batch: whoever holds it has consumed it.
        self.epoch, self._position = (pending.epoch + 1, 0) if pending.is_last else (pending.epoch, pending.end)
        self.stats.waited_s += perf_counter() - started
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands, as plain numbers, and the bad samples so far; valid for any world size, thread count
        and engine."""
        return {
            "seed": self.seed,
            "epoch": self.epoch,
            "position": self._position,
            "samples": self._samples,
            "shuffle": self._shuffle,
            "order": self._order_name,
            "window": self._window,
            "lanes": self._lanes,
            "shards": self._shards_digest,
            "bad": dict(self._faults.reasons),
            **({"documents": len(self.shards)} if self._packed else {}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken. An iterator of this loader is over then.

        Raises:
            ValueError: if the state is of another shard set or another kind of order, which this loader was told.
        """
        if state["samples"] != self._samples:
            raise ValueError(f"the state is of {state['samples']} samples, {self.shards.path} has {self._samples}")
        if state.get("documents", len(self.shards)) != len(self.shards):
            raise ValueError(
                f"the state is of {state['documents']} documents, {self.shards.path} has {len(self.shards)}"
            )
        if state["shuffle"] != self._shuffle:
            raise ValueError(f"the state is of a loader with shuffle={state['shuffle']}")
        if "order" in state:  # states were without while there was one order
            name, window, lanes = state["order"], state["window"], state["lanes"]
        else:
            name, window, lanes = "global", self._window, self._lanes
        settings = f"order={name!r}" + (f", window={window}, lanes={lanes}" if name == "window" else "")
        if self._order_given and name != self._order_name:
            raise ValueError(f"the state is of a loader with {settings}, not order={self._order_name!r}")
        if name == "window":
            if self._order_given and (window, lanes) != (self._window, self._lanes):
                raise ValueError(
                    f"the state is of a loader with {settings}, not window={self._window}, lanes={self._lanes}"
                )
            if state["shards"] != self._shards_digest:
                raise ValueError(f"the state is of shards of other sizes than those of {self.shards.path}")
        self._iteration.end("a state was loaded")
        self._faults.reasons = dict(state.get("bad", {}))  # states were without
        self._order_name, self._window, self._lanes = name, window, lanes
        self.seed, self.epoch, self._position = state["seed"], state["epoch"], state["position"]
        self._order = self._order_of(self.epoch)

    def close(self) -> None:
        """End the threads. The loader may be iterated again; the shard set stays open."""
        self._settle()
        self._iteration.end("the loader was closed")
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None
        self._feed.close()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _order_of(self, epoch: int) -> AnyOrder:
        if self._shuffle and self._order_name == "window":
            window = WindowOrder(self.seed, epoch, self.shards.shard_samples, self._window, self._lanes)
            return self._feed.ordered(window)
        return self._feed.ordered(order(self.seed, epoch, len(self.shards), self._shuffle))

    def _start(self, epoch: int, begin: int, end: int, is_last: bool) -> _Pending:
        """Plan a batch and hand it to the threads."""
        assert self._executor is not None
        started = perf_counter()
        if (self._order.seed, self._order.epoch) != (self.seed, epoch):
            self._order = self._order_of(epoch)
        ids = self._order.share(begin, end, self._rank, self._world_size)
        spans, arrived = self._feed.request(self.seed, epoch, ids)
        drawn = self._feed.plan(self.seed, epoch, ids, spans)
        buffers = [self._pool.take(*buffer) for buffer in self._feed.buffers(len(ids))]
        arrays = [buffer.numpy() for buffer in buffers]
        render = self._feed.render
        step = max(1, -(-len(ids) // self._parts(len(ids))))
        parts = []
        for i in range(0, len(ids), step):
            part = slice(i, i + step)
            some = part_of(spans, part)
            cut = [array[part] for array in arrays]
            parts.append((part, self._executor.submit(_when_here, arrived, render, ids[part], some, drawn[part], cut)))
        self.stats.plan_s += perf_counter() - started
        return _Pending(ids, drawn, buffers, parts, self.seed, epoch, begin, end, is_last)

    def _parts(self, samples: int) -> int:
        """In how many parts the threads take a batch: four a thread even out slow samples, and fewer, one a thread at
        least, cost less where the work is small."""
        if not samples or not self._feed.splits:
            return 1
        worked_s = self.stats.decode_s + self.stats.augment_s
        expected_s = worked_s / self.stats.samples * samples if self.stats.samples else math.inf
        parts = max(self._threads, min(4 * self._threads, math.ceil(min(expected_s, 1.0) / PART_S)))
        return min(samples, parts)

    def _finish(self, pending: _Pending) -> Batch:
        """Wait for a batch and wrap its memory."""
        epoch = pending.epoch
        skipped: list[int] = []
        for rows, part in pending.parts:
            try:
                times = part.result()
            except ShardError as error:
                if self._on_error == "error" or is_machine_fault(error):
                    raise
                # The part keeps its exception, and that this frame: the batch would stay until garbage is collected.
                error.__traceback__ = None
                skipped += self._mend(epoch, pending, rows)
                continue
            self.stats.decode_s += times.decode_s
            self.stats.augment_s += times.augment_s
        if skipped:
            pending = self._without(pending, skipped)
        finishing = perf_counter()
        # Whole buffers are lent, so that they are of use for the next batches; skipped samples leave room at the end.
        lent = [self._pool.lend(buffer)[: len(pending.ids)] for buffer in pending.buffers]
        labels = None if self._labels is None else torch.from_numpy(self._labels[pending.ids])
        batch = self._feed.deliver(self.seed, epoch, pending.ids, pending.plan, lent, labels)
        self.stats.augment_s += perf_counter() - finishing
        self.stats.samples += len(pending.ids)
        if self._mixing is not None:
            pairs = self._mixing.pairs(pending.ids)
            self.stats.pairs += pairs.found
            self.stats.pairs_expected += pairs.expected
            self.stats.pairs_variance += pairs.variance
        return batch

    def _mend(self, epoch: int, pending: _Pending, rows: slice) -> list[int]:
        """Render rows one by one, with substitutes for the bad ones, or give the rows to leave out."""
        skipped = []
        for row in range(*rows.indices(len(pending.ids))):
            sample = int(pending.ids[row])
            others = substitutes(self.seed, epoch, sample, len(self.shards)) if self._on_error == "substitute" else ()
            for candidate in (sample, *others):
                try:
                    self._render_row(epoch, pending, row, int(candidate))
                    break
                except ShardError as error:
                    if is_machine_fault(error):
                        raise
                    self._faults.note(int(candidate), error)
                    last = str(error)  # the exception itself would keep the batch until garbage is collected
            else:
                if self._on_error == "substitute":
                    raise ShardError(f"none of {len(others)} samples can stand in for a bad one; {last}")
                skipped.append(row)
        return skipped

    def _render_row(self, epoch: int, pending: _Pending, row: int, sample: int) -> None:
        """Put one sample's views into a batch; ShardError where it cannot be decoded."""
        ids = np.array([sample])
        spans, arrived = self._feed.request(self.seed, epoch, ids)
        drawn = self._feed.plan(self.seed, epoch, ids, spans)
        cut = [buffer.numpy()[row : row + 1] for buffer in pending.buffers]
        _when_here(arrived, self._feed.render, ids, spans, drawn, cut)
        pending.ids[row] = sample
        pending.plan[row : row + 1] = drawn

    def _without(self, pending: _Pending, rows: list[int]) -> _Pending:
        """A batch without some of its rows."""
        kept = np.setdiff1d(np.arange(len(pending.ids)), rows)
        if not len(kept):
            raise ShardError(f"a whole batch of {len(rows)} samples is bad; the last: {self.bad[int(pending.ids[-1])]}")
        for buffer in pending.buffers:
            buffer[: len(kept)] = buffer[torch.from_numpy(kept)]
        return replace(pending, ids=pending.ids[kept], plan=pending.plan[kept], parts=[])


def _when_here(
    arrived: Callable[[], None], render: Callable[..., StageTimes], ids: np.ndarray, spans: Any, *rest: Any
) -> StageTimes:
    """Render samples whose bytes may be on the way. They stay where they are as long as `spans` lives."""
    arrived()
    return render(ids, spans, *rest)
