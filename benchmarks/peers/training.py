"""A training step behind any loader, so that the same step runs on real and on synthetic data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import torch

from headrace.benchmarks.peers import Views
from headrace.models import build_method
from headrace.pipeline import Batch, Normalize, ViewSpec


def training(
    config: Any,
    source: Callable[..., Iterator[Views | Batch]],
    arguments: Mapping[str, Any],
    device: str,
    precision: Literal["float32", "bfloat16"],
) -> Iterator[range]:
    """SimCLR steps (forward, backward, SGD) on the batches of `source`; a batch counts when its step is done.

    `config` is a SimCLRConfig. On a GPU every step ends with a synchronise, so the clock sees finished work only.
    """
    method = build_method("simclr", config).to(device=device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(method.parameters(), lr=1e-3, momentum=0.9)
    for delivered in source(**arguments):
        batch = as_batch(delivered).to(device)
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bfloat16"):
            loss = method.loss(batch)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device == "cuda":
            torch.cuda.synchronize()
        yield range(len(batch))


def as_batch(delivered: Views | Batch) -> Batch:
    """What a peer delivered as the batch that methods take."""
    if isinstance(delivered, Batch):
        return delivered
    views = [view.contiguous(memory_format=torch.channels_last) for view in delivered.views]
    return Batch.of_views(views, [Normalize()] * len(views))


def synthetic(spec: ViewSpec, batch_size: int) -> Iterator[Views]:
    """The same noise again and again: a loader that costs nothing."""
    noise = torch.Generator().manual_seed(0)
    views = [torch.randn(batch_size, 3, view.size, view.size, generator=noise) for view in spec.views]
    ready = Views([view.contiguous(memory_format=torch.channels_last) for view in views])
    while True:
        yield ready
