"""What the steps of a run work with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from headrace.models import Method
from headrace.models.method import Context
from headrace.pipeline import Batch, Loader, ViewSpec
from headrace.train.config import RunConfig
from headrace.train.distributed import World
from headrace.train.evaluator import Evaluator
from headrace.train.finite import FiniteState
from headrace.train.metrics import RunLog
from headrace.train.precision import Precision


@dataclass(kw_only=True)
class Run:
    """Everything between a configuration and its steps."""

    config: RunConfig
    """As resolved."""
    world: World
    method: Method
    module: nn.Module
    """From a batch to the method's losses, whose gradients are averaged over ranks."""
    optimizer: torch.optim.Optimizer
    precision: Precision
    loader: Loader
    evaluator: Evaluator
    weights: FiniteState
    first_step: int
    """Steps that were taken before."""
    whole_set: Callable[[ViewSpec], Iterator[Batch]]
    """For `Context.batches`."""
    log: RunLog | None = None
    """On rank 0."""

    @property
    def total_steps(self) -> int:
        """Of the whole run."""
        return self.config.epochs * len(self.loader)

    def context(self, step: int) -> Context:
        """Where the run stands before `step`, from 0."""
        return Context(
            step=step,
            epoch=step // len(self.loader),
            steps_per_epoch=len(self.loader),
            epochs=self.config.epochs,
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            samples=len(self.loader.shards),
            batches=self.whole_set,
            forget=self.forget,
        )

    def forget(self, parameters: Sequence[nn.Parameter]) -> None:
        """For `Context.forget`."""
        for parameter in parameters:
            self.optimizer.state.pop(parameter, None)
