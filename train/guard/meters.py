"""Whether features collapse while a run goes on: the effective rank and the spread of those of a step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from headrace.models import Method
from headrace.models.parts.collectives import gathered
from headrace.models.parts.meters import rank_me, spread
from headrace.train.config import GuardConfig
from headrace.train.distributed import World

ROWS = 512
"""Features that are looked at, of all ranks together."""


class FeatureMeters:
    """Takes the meters of a step from its own forward pass.

    A forward hook of the backbone keeps what `Method.loss` gets from it, so there is no second pass and no method is
    known; of a backbone whose parts a method calls one by one, as MAE does, it is the mean over tokens of its last norm
    (timm's `norm`). A method that calls neither has no feature meters. The first rows count, `ROWS` over all ranks.

    What it costs, on the steps that are metered only: the eigenvalues of a matrix of at most `ROWS` squared, beside
    what a method's own meters take. docs/collapse.md has measured it.
    """

    def __init__(self, config: GuardConfig, method: Method, world: World) -> None:
        self._config, self._method, self._world = config, method, world
        self._dim = method.feature_dim

    @contextmanager
    def taken(self) -> Iterator[dict[str, Tensor]]:
        """Around the loss of a step: `feature_rank` and `feature_std` are in the dict when the block is left, and the
        method is told to return its own meters. Waits for the device at the end."""
        meters: dict[str, Tensor] = {}
        whole: list[Tensor] = []
        tokens: list[Tensor] = []

        def keep(module: Any, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim == 2:
                whole.append(output.detach())

        def keep_mean(module: Any, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim == 3:
                tokens.append(output.detach().mean(dim=1))

        hooks = [self._method.backbone.register_forward_hook(keep)]
        last_norm = getattr(self._method.backbone, "norm", None)
        if isinstance(last_norm, torch.nn.Module):
            hooks.append(last_norm.register_forward_hook(keep_mean))
        self._method.metered = True
        try:
            yield meters
        finally:
            self._method.metered = False
            for hook in hooks:
                hook.remove()
        if parts := whole or tokens:
            rows = torch.cat(parts)[: -(-ROWS // self._world.size)].float()
            features = gathered(rows)
            meters |= {"feature_rank": rank_me(features), "feature_std": spread(features)}
            self._dim = features.shape[1]

    def collapsed(self, meters: dict[str, Tensor]) -> Tensor | None:
        """bool scalar, which is not waited for: whether meters that were taken are below what the configuration asks
        for; None where there is nothing to compare."""
        if not meters or not (self._config.least_rank or self._config.least_std):
            return None
        least_std = self._config.least_std / math.sqrt(self._dim)
        return (meters["feature_rank"] < self._config.least_rank) | (meters["feature_std"] < least_std)
