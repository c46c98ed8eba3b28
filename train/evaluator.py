"""A run judged while it goes on: held-out loss, probes and pictures at the end of epochs; whether it stops early."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from headrace.models import Method
from headrace.models.parts.collectives import from_first
from headrace.models.seeding import seeded
from headrace.pipeline import Loader
from headrace.pipeline.transfer import DeviceBatches
from headrace.shards import ShardSet
from headrace.train.config import RunConfig, Score
from headrace.train.distributed import World
from headrace.train.early_stop import NAMES, Best, EarlyStop, shown
from headrace.train.errors import ConfigError, NotFiniteError, RunError
from headrace.train.metrics import Record
from headrace.train.pictures import SAMPLES, draws, save_pictures, save_readings
from headrace.train.precision import Precision
from headrace.train.probes import extract_features, frozen_scores, matched_labels

COLUMNS: Mapping[Score, str] = {"loss": "held_out_loss", "knn": "knn", "linear": "linear"}
"""What a record calls each score."""


def require_measurable(
    config: RunConfig, world: World, method: Method, training: ShardSet, validation: ShardSet | None
) -> None:
    """See that method and sets have what `config` asks to be measured.

    Raises:
        ConfigError: if they have not.
    """
    if config.probe.every and config.probe.protocols:
        for shards in (training, validation):
            if shards is not None and "label" not in shards.fields:
                raise ConfigError(f"probe.protocols: must be [] where {shards.path} has no labels{shards.omitted.hint}")
        if validation is not None:
            try:
                matched_labels(training, validation)
            except RunError as error:
                raise ConfigError(f"validation: {error}") from None
    if validation is None:
        return
    if method.keeps_samples:
        raise ConfigError(f"validation: {type(method).__name__} has a loss of the samples that it is trained on only")
    if len(validation) < world.size:
        raise ConfigError(f"validation: must have a sample for each of {world.size} ranks, has {len(validation)}")


class Evaluator:
    """Evaluates at the end of every n-th epoch and of the run.

    What is judged is a copy of the method, in evaluation mode and without gradients, with the generators set aside, so
    that the run takes the same steps, bit for bit, as one that nobody looks at. The views of the validation set and the
    numbers that a loss draws are the same each time.

    All ranks share the work of the held-out loss, which may be one over ranks; rank 0 alone probes and draws, while the
    others wait.

    Args:
        config: as resolved.
        method: that is trained.
        training: the set that it is trained on.
        validation: another one, for the held-out loss and to score probes.
        loader: makes a loader of a set, for a world, of what the method asks for. Its last arguments are the size of
            the global batch and whether to drop the last, smaller one.
        steps_per_epoch: of the run.
        tell: gets a line for people about each evaluation.
    """

    def __init__(
        self,
        config: RunConfig,
        world: World,
        method: Method,
        training: ShardSet,
        validation: ShardSet | None,
        loader: Callable[[ShardSet, World, int, bool], Loader],
        steps_per_epoch: int,
        tell: Callable[[str], None],
    ) -> None:
        self._config, self._world, self._method = config, world, method
        self._training, self._validation = training, validation
        self._loader = loader
        self._precision = Precision(config.precision, world.device)
        self._steps_per_epoch = steps_per_epoch
        self._tell = tell
        self._stop = EarlyStop(config.stop) if config.stop.on else None
        self._best = Best(config.checkpoint.best) if config.checkpoint.best else None
        self._began = perf_counter()
        self._spent = 0.0

    def due(self, step: int) -> bool:
        """Whether there is anything to do after `step` steps."""
        epoch, rest = divmod(step, self._steps_per_epoch)
        if rest:
            return False
        every, last = self._config.probe.every, epoch == self._config.epochs
        return (every > 0 and (last or epoch % every == 0)) or (last and draws(self._method))

    def evaluate(self, step: int) -> Record:
        """Scores after `step` steps, as `headrace.train.metrics.Record` names them, the same on all ranks; pictures are
        saved beside. Waits for the device."""
        began = perf_counter()
        method = self._copy()
        scores: dict[Score, float] = {}
        if self._config.probe.every:
            with self._set_aside():
                if self._validation is not None:
                    scores["loss"] = self._held_out_loss(method, self._validation)
                scores |= self._probe_scores(method)
            epoch = step // self._steps_per_epoch
            if self._stop:
                self._stop.best.note(scores[self._stop.best.score], epoch=epoch, step=step)
            if self._best:
                self._best.note(scores[self._best.score], epoch=epoch, step=step)
        self._draw(method, step)
        seconds = perf_counter() - began
        self._spent += seconds
        if not scores:
            return {}
        self._tell(self._line(step, scores, seconds))
        finite = {COLUMNS[score]: value for score, value in scores.items() if math.isfinite(value)}
        return {**finite, "evaluate_s": seconds}

    def _line(self, step: int, scores: Mapping[Score, float], seconds: float) -> str:
        """What was found after `step` steps and what it cost, for people."""
        found = "".join(f"{NAMES[score]} {shown(score, value)}, " for score, value in scores.items())
        share = self._spent / (perf_counter() - self._began)
        return (
            f"epoch {step // self._steps_per_epoch} of {self._config.epochs}: {found}evaluated in {seconds:.1f} s, "
            f"{100 * share:.0f} % of the time so far"
        )

    def stopped(self, step: int) -> str | None:
        """Why the run is to end after `step` steps, None if it goes on."""
        epoch = step // self._steps_per_epoch
        return self._stop.line(epoch, self._config.epochs) if self._stop and self._stop.due(epoch) else None

    @property
    def best_step(self) -> int:
        """Steps after which `CheckpointConfig.best` was best so far; 0 where it is not asked for, or not known yet."""
        return self._best.step if self._best else 0

    def draw_first(self) -> None:
        """The pictures before the first step, so that a method whose pictures fail does so at once."""
        if draws(self._method):
            self._draw(self._copy(), 0)

    def state_dict(self) -> dict[str, Any]:
        """The best scores so far, in plain values."""
        return {name: best.state_dict() for name, best in self._remembered()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken; what it does not hold begins anew."""
        for name, best in self._remembered():
            best.load_state_dict(state.get(name, {}))

    def _remembered(self) -> Iterator[tuple[str, Best]]:
        if self._stop:
            yield "stop", self._stop.best
        if self._best:
            yield "best", self._best

    @contextmanager
    def _set_aside(self) -> Iterator[None]:
        """No gradients, and draws that are the same each time, after which the generators are as they were."""
        with torch.no_grad(), seeded(self._config.seed, self._world.rank, device=self._world.device):
            yield

    @torch.no_grad()
    def _copy(self) -> Method:
        """The method in evaluation mode, on every rank with rank 0's buffers, which are those of a checkpoint."""
        method = copy.deepcopy(self._method).eval()
        if self._world.size > 1:
            for buffer in method.buffers():
                buffer.copy_(from_first(buffer))
        return method

    def _held_out_loss(self, method: Method, validation: ShardSet) -> float:
        """Mean over the samples of `validation`, in batches of as many samples as a loss sees in training.

        One process takes all samples. Ranks take whole batches only: a loss over ranks needs equal shares.
        """
        world, device = self._world, self._world.device
        size = min(self._config.batch_size // self._config.optim.accumulate, len(validation))
        size -= size % world.size
        sums = torch.zeros(2, dtype=torch.float64, device=device)  # loss times samples, and samples
        with self._loader(validation, world, size, world.size > 1) as loader:
            for batch in DeviceBatches(loader, device):
                with self._precision.autocast():
                    loss = method.loss(batch)["loss"]
                sums += torch.stack([loss.double() * len(batch), sums.new_full((), len(batch))])
        weighted, samples = world.mean(sums).tolist()
        return float(weighted / samples)

    def _probe_scores(self, method: Method) -> dict[Score, float]:
        """Accuracy of each protocol; nan for features that are not finite."""
        probe, device = self._config.probe, self._world.device
        # What no rank but the first knows is below all that it may find.
        values = [-math.inf] * len(probe.protocols)
        if probe.protocols and self._world.rank == 0:
            features = partial(
                extract_features,
                method.encode,
                inputs=method.probe_inputs,
                batch_size=self._config.batch_size // (self._world.size * self._config.optim.accumulate),
                device=device,
                threads=self._config.loader.threads,
                max_bad=self._config.loader.probes_max_bad,
            )
            with suppress(NotFiniteError):
                learn = features(self._training, samples=probe.samples)
                test = None
                if self._validation is not None:
                    pictured, labels = features(self._validation)
                    test = pictured, matched_labels(self._training, self._validation)(labels)
                values = list(frozen_scores(probe.protocols, learn, test, device=device).values())
        found = self._world.greatest(torch.tensor(values, dtype=torch.float64, device=device)).tolist()
        return {
            name: math.nan if value == -math.inf else value for name, value in zip(probe.protocols, found, strict=True)
        }

    def _draw(self, method: Method, step: int) -> None:
        """Save the method's pictures of the first samples, and its readings of texts, on rank 0."""
        if self._world.rank or not draws(method):
            return
        shards = self._training if self._validation is None else self._validation
        alone = World(0, 1, self._world.device)
        with self._set_aside(), self._loader(shards, alone, min(SAMPLES, len(shards)), True) as loader:
            batch = next(iter(loader)).to(self._world.device)
            save_pictures(Path(self._config.out), step, method.pictures(batch))
            save_readings(Path(self._config.out), step, method.readings(batch))
