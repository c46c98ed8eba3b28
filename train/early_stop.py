"""Early stopping: the best value of a score so far, and when nothing better is to be waited for."""

from __future__ import annotations

import math
from typing import Any

from headrace.train.config import Score, StopConfig

NAMES: dict[Score, str] = {"loss": "held-out loss", "knn": "knn", "linear": "linear"}
"""What the log calls each score."""


class Best:
    """The best value of a score over a run's evaluations.

    A loss is better the smaller it is, the others the larger they are. What is not finite is never better.

    Args:
        score: whose values.
        min_change: by how much, in the score's own unit, a value must be better than the best to take its place; with 0
            by anything.
    """

    def __init__(self, score: Score, min_change: float = 0.0) -> None:
        self.score = score
        self.min_change = min_change
        self.value: float | None = None
        self.epoch = 0
        """Epochs that had passed at the best value."""
        self.step = 0
        """Steps that had been taken then."""
        self.behind = 0
        """Evaluations since the best value, all of them if there is none."""

    def note(self, value: float, *, epoch: int, step: int) -> bool:
        """Take the value of an evaluation after `epoch` epochs and `step` steps; whether it is the best from now on."""
        if not math.isfinite(value) or not self._better(value):
            self.behind += 1
            return False
        self.value, self.epoch, self.step, self.behind = value, epoch, step, 0
        return True

    def _better(self, value: float) -> bool:
        if self.value is None:
            return True
        change = self.value - value if self.score == "loss" else value - self.value
        return change > 0 and change >= self.min_change

    def state_dict(self) -> dict[str, Any]:
        """All of it in plain values, for a checkpoint."""
        return {name: getattr(self, name) for name in ("score", "value", "epoch", "step", "behind")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken, if it is of the same score; else from the beginning."""
        if state.get("score") == self.score:
            self.value, self.epoch, self.step, self.behind = (
                state[name] for name in ("value", "epoch", "step", "behind")
            )


class EarlyStop:
    """Ends a run whose score has not become better in `StopConfig.patience` evaluations.

    Whether it does is a function of the evaluations so far, so that a resumed run, and every rank, decides alike.
    """

    def __init__(self, config: StopConfig) -> None:
        assert config.on is not None
        self._config = config
        self.best = Best(config.on, config.min_change)

    def due(self, epoch: int) -> bool:
        """Whether the run is to end after `epoch` epochs, the last of which has been evaluated."""
        return self.best.behind >= self._config.patience and epoch >= self._config.min_epochs

    def line(self, epoch: int, epochs: int) -> str:
        """Why, such as "stopped after epoch 18 of 50: knn has not risen by 0.1 % in 5 evaluations (best 71.2 % at epoch
        13)"."""
        best, score = self.best, self.best.score
        way = "fallen" if score == "loss" else "risen"
        least = f" by {shown(score, best.min_change)}" if best.min_change else ""
        kept = "no finite value yet" if best.value is None else f"best {shown(score, best.value)} at epoch {best.epoch}"
        evaluations = "1 evaluation" if best.behind == 1 else f"{best.behind} evaluations"
        return f"stopped after epoch {epoch} of {epochs}: {NAMES[score]} has not {way}{least} in {evaluations} ({kept})"


def shown(score: Score, value: float) -> str:
    """A value for people: accuracies in percent."""
    return f"{value:.4g}" if score == "loss" else f"{100 * value:.3g} %"
