"""What a contestant's views look like, measured in a process of its own."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Look:
    """Means over the views of many samples, in grey levels from 0 to 1."""

    grey: float
    """Share of views without colour."""
    level: float
    """Mean of all pixels."""
    contrast: float
    """Standard deviation of the pixels of a view."""
    colour: float
    """Mean distance between a pixel's highest and lowest channel."""
    sharpness: float
    """Mean difference between horizontal neighbours."""
    blurred: float
    """Share of views whose neighbours differ by less than a tenth of their contrast's scale."""
    varied: float
    """Standard deviation of the views' mean levels, which brightness jitter widens."""


def look(batches: Callable[..., Iterator[Any]], arguments: Mapping[str, Any], samples: int, normalize: Any) -> Look:
    """The look of all views of `samples` samples."""
    multiprocessing.set_start_method(None, force=True)  # else DataLoader workers would be spawned
    torch.set_num_threads(1)
    torch.manual_seed(0)
    mean = torch.tensor(normalize.mean).view(3, 1, 1)
    deviation = torch.tensor(normalize.std).view(3, 1, 1)
    seen: list[torch.Tensor] = []
    count = 0
    for batch in batches(**arguments):
        assert all(each.dtype == torch.float32 for each in batch.views)
        count += len(batch)
        image = torch.cat(batch.views) * deviation + mean
        assert -0.01 < float(image.min()) < float(image.max()) < 1.01
        spread = image.amax(1) - image.amin(1)
        steps = (image[..., 1:] - image[..., :-1]).abs().mean((1, 2, 3))
        contrast = image.flatten(1).std(1)
        seen.append(
            torch.stack(
                [
                    (spread.amax((1, 2)) < 1.6 / 255).float(),
                    image.mean((1, 2, 3)),
                    contrast,
                    spread.mean((1, 2)),
                    steps,
                    (steps < 0.1 * contrast).float(),
                ],
                dim=1,
            )
        )
        if count >= samples:
            break
    table = torch.cat(seen)
    return Look(*table.mean(0).tolist(), varied=float(table[:, 1].std()))
