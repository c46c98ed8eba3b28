"""What the steps of a run work with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from headrace.models import Method
from headrace.models.method import Context
from headrace.pipeline import Batch, Loader, ViewSpec
from headrace.train.config import RunConfig
from headrace.train.distributed import World
from headrace.train.evaluator import Evaluator
from headrace.train.finite import FiniteState
from headrace.train.guard.guard import Guard
from headrace.train.metrics import RunLog
from headrace.train.optim import resume_optimizer
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
    guard: Guard
    whole_set: Callable[[ViewSpec], Iterator[Batch]]
    """For `Context.batches`."""
    first_step: int = 0
    """Steps that were taken before."""
    log: RunLog | None = None
    """On rank 0."""

    @cached_property
    def trained(self) -> list[nn.Parameter]:
        """The weights that the optimiser moves."""
        return [p for p in self.method.parameters() if p.requires_grad]

    @property
    def total_steps(self) -> int:
        """Of the whole run."""
        return self.config.epochs * len(self.loader)

    def looks_before(self, step: int) -> bool:
        """Whether the device is waited for in front of the step behind `step` steps in any case: where an epoch begins
        whose hook may move anything, the whole state is to be good."""
        return step % len(self.loader) == 0 and type(self.method).on_epoch is not Method.on_epoch

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

    def loader_state(self, step: int, state: dict[str, Any]) -> dict[str, Any]:
        """`state`, one of the loader's, behind `step` steps of the run."""
        epoch, batch = divmod(step, len(self.loader))
        return {**state, "epoch": epoch, "position": batch * self.config.batch_size}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over weights, optimiser and loss scale from a checkpoint.

        Raises:
            RuntimeError: if the weights are those of another network.
        """
        self.method.load_state_dict(state["model"])
        resume_optimizer(self.optimizer, state["optimizer"])
        self.precision.load_state_dict(state.get("precision", {}))

    def say(self, line: str) -> None:
        """A line for people, on rank 0."""
        if self.log:
            self.log.say(line)

    def tell(self, line: str) -> None:
        """A line for people who asked for the progress, on rank 0."""
        if self.log:
            self.log.tell(line)
