"""What a run tells: metrics.jsonl, TensorBoard events, a progress bar, a callback."""

from __future__ import annotations

import contextlib
import json
import resource
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from headrace.pipeline import Loader, LoaderStats
from headrace.shards.machine import cores
from headrace.shards.printing import printable
from headrace.train.errors import cannot_write, replacing
from headrace.train.pictures import drawn_pictures
from headrace.train.trackers import Tracker, read_pixels

T = TypeVar("T")
ENDED = "ended.json"
"""In a run's folder, while nobody trains there: an `Ending`. A run that was killed has none."""
NO_FIGURES = {"step", "total_steps"}
"""Of a record."""
Record = dict[str, Any]
"""One line of metrics.jsonl: `step` (steps taken, from 1), `total_steps` (of the whole run), `epoch` (of the step's
batch, from 0), `loss` and the method's other scalars (mean over ranks), `grad_norm` (Euclidean norm of the step's
whole gradient), `lr`, `samples_per_s` (of all ranks, over the steps since the last line), `data_wait` (share of that
time, 0 to 1, in which this rank's loop stood waiting for the loader: 0 when loading keeps up, towards 1 when it is all
that counts), `memory_mb` (most that this rank's process has held in memory so far, in 2**20 bytes) and on CUDA
`device_memory_mb` (most that its tensors have taken there), `decode_ms`, `augment_ms` and `plan_ms`: milliseconds of
this rank's threads that a sample took in these stages of its loader, and `label_clumping` or, without labels,
`shard_clumping`: pairs of samples of one label (of one shard) in this rank's batches, over as many as a uniform
shuffle has in the mean (`headrace.pipeline.order.mixing`): 1.0 for a perfect shuffle, more where samples of a kind
come together. By shards, that is how the order "window" works and nothing to worry about, if the set was shuffled when
it was written. Of a remote set also `cache_room`: bytes of its cache, over those with which shards are fetched about
once an epoch; below 1.0 they are fetched several times. In float16 also `loss_scale` and `skipped_steps`, those that
were left out since the run began; of such a step itself `grad_norm` is missing, as anything that is not finite is.
Every `LogConfig.meters_every`-th line has meters of collapse: `feature_rank` and `feature_std`
(`headrace.train.guard.meters`) and those of the method. After bad steps also `left_out`: the steps so far that were
not taken, or taken back; the line of a bad step itself has no loss.

After an epoch that was evaluated also `held_out_loss` (mean over the validation set), `knn` and `linear` (accuracies of
probes, 0 to 1), those of them that are measured and finite, and `evaluate_s`: seconds that this took, which
`samples_per_s` and `data_wait` leave out."""


class Meter:
    """Times the loop between two log lines: how long in all, and how long waiting for data."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin the next interval."""
        self._began = perf_counter()
        self._waited = 0.0
        self._samples = 0

    def watch(self, batches: Iterable[T], samples: int) -> Iterator[T]:
        """The same items; the time until each arrives counts as waiting, and each counts as `samples`."""
        source = iter(batches)
        while True:
            began = perf_counter()
            try:
                item = next(source)
            except StopIteration:
                return
            self._waited += perf_counter() - began
            self._samples += samples
            yield item

    def read(self) -> dict[str, float]:
        """`samples_per_s` and `data_wait` of the interval so far."""
        elapsed = max(perf_counter() - self._began, 1e-9)
        return {"samples_per_s": self._samples / elapsed, "data_wait": min(1.0, self._waited / elapsed)}


def stage_times(before: LoaderStats, now: LoaderStats) -> dict[str, float]:
    """`decode_ms`, `augment_ms` and `plan_ms` of the samples delivered between two readings."""
    samples = max(1, now.samples - before.samples)
    return {
        f"{stage}_ms": round(1e3 * (getattr(now, f"{stage}_s") - getattr(before, f"{stage}_s")) / samples, 4)
        for stage in ("decode", "augment", "plan")
    }


def loader_figures(loader: Loader, before: LoaderStats) -> Record:
    """What a record says of the loader: its stages and mixing since `before`, its cache and bad samples."""
    figures: Record = dict(stage_times(before, loader.stats))
    pairs = loader.stats.mixing(before)
    if pairs.expected > 0:  # shares of a single sample have none
        figures[f"{loader.mixed_by}_clumping"] = round(pairs.clumping, 4)
    if loader.cache_needed:
        figures["cache_room"] = round(loader.shards.cache_bytes / loader.cache_needed, 4)
    if loader.bad:
        figures["bad_samples"] = len(loader.bad)
    return figures


def memory_figures(device: torch.device) -> Record:
    """`memory_mb` of this process, and `device_memory_mb` where it trains on CUDA."""
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    figures = {"memory_mb": largest // (1 << 20 if sys.platform == "darwin" else 1 << 10)}  # bytes there, KiB here
    if device.type == "cuda":
        figures["device_memory_mb"] = torch.cuda.max_memory_allocated(device) >> 20
    return figures


WAITS, IN_A_ROW = 0.1, 3
"""From what share of the time on, in how many lines one after the other, waiting for data is worth a sentence."""


def waiting_advice(record: Record, threads: int, machine_cores: int) -> str:
    """What to say when the loop waits for data: for how much of the time, what takes the loader's, and what helps."""
    stages = {name: record[f"{name}_ms"] for name in ("decode", "augment", "plan")}
    slowest = max(stages, key=stages.__getitem__)
    parts = ", ".join(f"{name} {each:.2f} ms" for name, each in stages.items())
    if threads < machine_cores:
        remedy = f"loader.threads={machine_cores} takes all cores of this machine"
    elif slowest == "decode":
        remedy = "smaller or decoded files help (`headrace shard shards DATA OUT --short-side N` or `--encode raw`)"
    else:
        remedy = "fewer or smaller views, more cores, or an engine on the device (`loader.engine`) help"
    return (
        f"waits for data {100 * record['data_wait']:.0f} % of the time; a sample takes {parts} of {threads} "
        f"thread{'s' if threads > 1 else ''}: {remedy}; `headrace doctor DATA --method METHOD` measures what"
    )


def clumping_warning(clumping: float) -> str:
    """What to say when samples of one label come together."""
    return (
        f"labels clump: batches hold {clumping:.1f} times as many pairs of samples with the same label as a uniform "
        "shuffle would; store the set shuffled (convert it without --no-shuffle), or use a larger loader.window or "
        "loader.order=global"
    )


def cache_warning(room: int, needed: int) -> str:
    """What to say when a remote set's cache is too small for the order, in bytes."""
    return (
        f"the cache holds {room:,} bytes of the set, its order needs {needed:,}: shards are fetched several times an "
        f"epoch; set HEADRACE_CACHE_BYTES={needed}, or a smaller loader.window"
    )


@dataclass(frozen=True, kw_only=True)
class Ending:
    """Why a run ended."""

    why: str
    """"finished", "early stop", "wall time", "error", or the name of a signal, such as "SIGTERM"."""
    line: str
    """For people."""
    step: int
    """Steps taken in all."""


class RunLog:
    """Everything that a run writes while it goes on; opened by rank 0 only.

    Args:
        out: the run's folder.
        first_step: steps already taken; older lines of metrics.jsonl stay, newer ones (of steps that a killed run
            took after its last checkpoint, and that are taken again now) go.
        total_steps: of the whole run.
        progress: show a bar on a terminal, or a line for each record elsewhere, on standard error.
        trackers: get every record and picture, too, and are closed with this.
        on_step: called with each record.
        bad_told: bad samples that an earlier start has told of.
    """

    def __init__(
        self,
        out: Path,
        *,
        first_step: int,
        total_steps: int,
        progress: bool,
        trackers: Sequence[Tracker] = (),
        on_step: Callable[[Record], None] | None,
        bad_told: int = 0,
    ) -> None:
        self._total = total_steps
        self._bad_told = bad_told
        self._clumping_told = False
        self._waited_lines = 0
        self._waiting_told = False
        self._on_step = on_step
        self._progress = progress
        self._out = out
        (out / ENDED).unlink(missing_ok=True)
        self.step = first_step
        """Steps taken in all."""
        self._file = open(_truncated(out / "metrics.jsonl", first_step), "a", encoding="utf-8")  # noqa: SIM115
        self._trackers = list(trackers)
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._lines = progress and not self._console.is_terminal
        self._bar = _bar(self._console)
        self._task = self._bar.add_task(printable(out.name), total=total_steps, completed=first_step, figures="")
        if progress and not self._lines:
            self._bar.start()

    def advance(self, step: int) -> None:
        """Move the bar to `step` steps taken."""
        self.step = step
        self._bar.update(self._task, completed=step)

    def write(self, record: Record) -> None:
        """One record to every place; it is in the file, though perhaps not on the disk, when this returns. RunError
        where the disk does not take it."""
        try:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        except OSError as error:
            raise cannot_write(self._out / "metrics.jsonl", error) from error
        figures_of = {name: value for name, value in record.items() if name not in NO_FIGURES}
        self._track(lambda tracker: tracker.write(figures_of, record["step"]))
        loss = f"loss {record['loss']:.4f}  " if "loss" in record else ""
        figures = f"{loss}{record['samples_per_s']:,.0f} samples/s  data wait {100 * record['data_wait']:.0f} %"
        self._bar.update(self._task, figures=figures)
        if self._lines:
            step, epoch, lr = record["step"], record["epoch"], record["lr"]
            self.say(f"step {step}/{self._total}  epoch {epoch}  lr {lr:.3g}  {figures}")
        if self._on_step is not None:
            self._on_step(record)

    def draw(self, step: int) -> None:
        """What the method has drawn after `step` steps, if anything, to those who take pictures."""
        if not self._trackers:
            return
        pictures = {name: read_pixels(path) for name, path in drawn_pictures(self._out).get(step, {}).items()}

        def draw_all(tracker: Tracker) -> None:
            for name, pixels in pictures.items():
                tracker.draw(name, pixels, step)

        self._track(draw_all)

    def _track(self, call: Callable[[Tracker], None]) -> None:
        """Call each tracker. One that fails is left: it is no reason to end a run."""
        for tracker in list(self._trackers):
            try:
                call(tracker)
            except Exception as error:
                self._trackers.remove(tracker)
                reason = " ".join(str(error).split())[:300] or type(error).__name__
                self.say(f"{tracker.name} failed, and the run goes on without it: {reason}")

    def say(self, line: str) -> None:
        """A line for people, above the bar."""
        self._console.print(printable(line, "\n"), markup=False)

    def tell(self, line: str) -> None:
        """A line for people who asked for the progress."""
        if self._progress:
            self.say(line)

    def end(self, ending: Ending) -> None:
        """Say why the run ended, and keep it as ended.json. An error is said by whoever catches it."""
        with replacing(self._out / ENDED) as aside:
            aside.write_text(json.dumps(asdict(ending), indent=2) + "\n", encoding="utf-8")
        self._track(lambda tracker: tracker.end(ending.why))
        if ending.why == "finished":
            self.tell(ending.line)
        elif ending.why != "error":
            self.say(ending.line)

    def warn_of(self, loader: Loader) -> None:
        """A line for each bad sample since the last time, and once for labels that clump."""
        for reason in list(loader.bad.values())[self._bad_told :]:
            self.say(f"another sample takes the place of a bad one: {reason}")
        self._bad_told = len(loader.bad)
        if not self._clumping_told and loader.mixed_by == "label" and loader.stats.mixing().clumped:
            self.say(clumping_warning(loader.stats.mixing().clumping))
            self._clumping_told = True

    def warn_of_waiting(self, record: Record, threads: int | None) -> None:
        """A line, once, if the last lines of metrics all waited for data; `threads` of the loader, None for all."""
        self._waited_lines = self._waited_lines + 1 if record["data_wait"] > WAITS else 0
        if self._waited_lines >= IN_A_ROW and not self._waiting_told:
            self.say(waiting_advice(record, threads or cores(), cores()))
            self._waiting_told = True

    def warn_of_cache(self, loader: Loader) -> None:
        """A line if the cache of a remote set is too small for the loader's order."""
        if loader.shards.cache_bytes < loader.cache_needed:
            self.say(cache_warning(loader.shards.cache_bytes, loader.cache_needed))

    def close(self) -> None:
        self._bar.stop()
        with contextlib.suppress(OSError):  # of a full disk, which has been said where it mattered
            self._file.close()
        self._track(lambda tracker: tracker.close())


def read_metrics(out: str | Path) -> list[Record]:
    """The records of a run folder's metrics.jsonl in order; a last line that a kill cut short is left out."""
    path = Path(out) / "metrics.jsonl"
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            records.append(json.loads(line))
    return records


def read_ending(out: str | Path) -> Ending | None:
    """Why the run in the folder `out` ended; None while it goes on, and where it was killed."""
    path = Path(out) / ENDED
    return Ending(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def _truncated(path: Path, step: int) -> Path:
    """`path`, with no records of later steps."""
    kept = [record for record in read_metrics(path.parent) if record["step"] <= step]
    with replacing(path) as aside:
        aside.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
    return path


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
        console=console,
    )
