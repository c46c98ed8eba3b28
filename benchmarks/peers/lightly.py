"""lightly's own transforms on Pillow images, in a DataLoader over torchvision's ImageFolder.

https://github.com/lightly-ai/lightly, `lightly.transforms`; both transforms with their defaults.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from headrace.benchmarks.peers import Views

FOREVER = 1 << 40  # samples: an epoch that does not end, so that no contestant pays for epoch borders


def lightly(folder: Path, transform: str, batch_size: int, workers: int) -> Iterator[Views]:
    """Batches from `folder` (one subfolder a class) under lightly's transform of that name."""
    import lightly.transforms
    from torch.utils.data import DataLoader, RandomSampler
    from torchvision.datasets import ImageFolder

    dataset = ImageFolder(str(folder), getattr(lightly.transforms, transform)())
    loader: DataLoader = DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=RandomSampler(dataset, replacement=True, num_samples=FOREVER),
        num_workers=workers,
    )
    for views, _labels in loader:
        yield Views(list(views))
