"""Runs that nobody trained: a method's weights, moved away from its first ones, kept as a run keeps them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from headrace.models import METHODS, Method, build_method
from headrace.models.seeding import seeded
from headrace.train import RunConfig
from headrace.train.checkpoint import save_checkpoint
from tests.models.tiny_methods import TINY, require_libraries


def kept_run(out: Path, name: str, *overrides: str, **fields: Any) -> Method:
    """Write a run of the method with the fields of its config, by default those of `TINY`, into `out`; the method, in
    evaluation mode. Its statistics of batches and positions of tokens are moved, too."""
    require_libraries(name)
    config = RunConfig(method=name, model=METHODS[name].config(**(fields or TINY[name])), device="cpu")
    config = config.with_overrides(overrides)
    method = build_method(name, config.model, seed=config.seed).eval()
    with seeded(7), torch.no_grad():
        for x in [*method.parameters(), *method.buffers()]:
            if x.is_floating_point():
                x *= 1 + 0.3 * torch.rand_like(x)
        for module in method.modules():
            if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
                module.running_mean += 0.1 * torch.randn_like(module.running_mean)
    state = {"step": 1, "config": config.to_dict(), "model": method.state_dict()}
    save_checkpoint(out / "checkpoints", state, keep=1)
    config.save(out / "config.yaml")
    return method
