"""lightly's own transforms on Pillow images, in a DataLoader over torchvision's ImageFolder or CIFAR10.

https://github.com/lightly-ai/lightly, `lightly.transforms`; transforms with their defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torchvision.datasets import CIFAR10, ImageFolder

from headrace.benchmarks.peers import Views

FOREVER = 1 << 40  # samples: an epoch that does not end, so that no contestant pays for epoch borders


class InMemory(CIFAR10):
    """torchvision's CIFAR10 with other pictures of the same size: uint8 (N, 32, 32, 3) in a .npy file."""

    def __init__(self, file: Path, transform: Callable[..., Any]) -> None:
        self.data = np.load(file)
        self.targets = [0] * len(self.data)
        self.transform = transform
        self.target_transform = None


def lightly(
    pictures: Path, transform: str, settings: Mapping[str, Any], batch_size: int, workers: int
) -> Iterator[Views]:
    """Batches from `pictures`, a folder (one subfolder a class) or the file of an `InMemory`, under lightly's transform
    of that name with `settings`."""
    import lightly.transforms
    from torch.utils.data import DataLoader, RandomSampler

    change = getattr(lightly.transforms, transform)(**settings)
    dataset = ImageFolder(str(pictures), change) if pictures.is_dir() else InMemory(pictures, change)
    loader: DataLoader = DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=RandomSampler(dataset, replacement=True, num_samples=FOREVER),
        num_workers=workers,
    )
    for views, _labels in loader:
        yield Views(list(views))
