"""The ffcv package on .beton files that its own writer wrote: one crop of one decoded photograph per sample.

https://github.com/libffcv/ffcv; the pipeline of its ImageNet example, normalised on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from headrace.benchmarks.peers import Views
from headrace.pipeline import View


def ffcv(beton: Path, view: View, batch_size: int, threads: int) -> Iterator[Views]:
    """Batches of one view, cropped and flipped, from a .beton file in the page cache."""
    from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, ToTensor, ToTorchImage

    scale = 255.0
    loader = Loader(
        str(beton),
        batch_size=batch_size,
        num_workers=threads,
        order=OrderOption.RANDOM,
        os_cache=True,
        drop_last=True,
        pipelines={
            "image": [
                RandomResizedCropRGBImageDecoder((view.size, view.size), scale=view.scale, ratio=view.ratio),
                RandomHorizontalFlip(view.flip),
                NormalizeImage(np.array(view.normalize.mean) * scale, np.array(view.normalize.std) * scale, np.float32),
                ToTensor(),
                ToTorchImage(),
            ],
            "label": None,
        },
    )
    while True:  # ffcv knows no endless epoch; its threads start anew at each one
        for (images,) in loader:
            yield Views([images])
