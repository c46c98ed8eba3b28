"""webdataset feeding torchvision's v2 transforms, each photograph decoded once for all its views.

https://github.com/webdataset/webdataset; tuned as far as its own parts allow: `torchvision.io.decode_jpeg`, crops cut
from uint8, colour and blur on float32 (one eighth faster than on uint8), and the Gaussian blur as two one-dimensional
passes of torchvision's own operator (five times as fast as its class, and the same numbers up to rounding).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2

from headrace.benchmarks.peers import Views
from headrace.pipeline import View, ViewSpec
from headrace.pipeline.masks import PatchMasks, RandomMask

SHUFFLE = 256  # samples held back by each worker to mix neighbours


class SeparableGaussianBlur(v2.Transform):
    """`v2.GaussianBlur` as a row pass and a column pass."""

    def __init__(self, taps: int, sigma: tuple[float, float]) -> None:
        super().__init__()
        self.taps = taps
        self.sigma = sigma

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        return {"sigma": float(torch.empty(1).uniform_(*self.sigma))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        sigma = [params["sigma"]] * 2
        return v2.functional.gaussian_blur(
            v2.functional.gaussian_blur(inpt, [self.taps, 1], sigma), [1, self.taps], sigma
        )


def transform(view: View) -> v2.Compose:
    """uint8 (3, H, W) to a normalised float32 (3, size, size)."""
    steps: list[Any] = [v2.RandomResizedCrop(view.size, scale=view.scale, ratio=view.ratio, antialias=True)]
    if view.flip:
        steps.append(v2.RandomHorizontalFlip(view.flip))
    steps.append(v2.ToDtype(torch.float32, scale=True))
    if view.jitter:
        change = v2.ColorJitter(view.brightness, view.contrast, view.saturation, view.hue)
        steps.append(v2.RandomApply([change], view.jitter))
    if view.grayscale:
        steps.append(v2.RandomGrayscale(view.grayscale))
    if view.blur:
        steps.append(v2.RandomApply([SeparableGaussianBlur(view.blur_taps, view.blur_sigma)], view.blur))
    if view.solarize:
        steps.append(v2.RandomSolarize(view.solarize_threshold / 255, view.solarize))
    steps.append(v2.Normalize(list(view.normalize.mean), list(view.normalize.std)))
    return v2.Compose(steps)


def random_mask(mask: RandomMask) -> tuple[Tensor, Tensor]:
    """Visible and masked patches, drawn as in MAE's code: the order of uniform noise."""
    shuffled = torch.rand(mask.grid[0] * mask.grid[1]).argsort()
    return shuffled[: mask.visible], shuffled[mask.visible :]


class DecodeAndCut:
    """JPEG bytes to one tensor a view, and two a mask."""

    def __init__(self, spec: ViewSpec) -> None:
        self.transforms = [transform(view) for view in spec.views]
        self.masks = [mask for mask in spec.masks if isinstance(mask, RandomMask)]
        assert len(self.masks) == len(spec.masks)

    def __call__(self, jpeg: bytes) -> list[Tensor]:
        image = decode_jpeg(torch.frombuffer(bytearray(jpeg), dtype=torch.uint8), mode=ImageReadMode.RGB)
        return [cut(image) for cut in self.transforms] + [part for mask in self.masks for part in random_mask(mask)]


def collate(samples: Sequence[tuple[list[Tensor]]]) -> list[Tensor]:
    return [torch.stack(tensors) for tensors in zip(*(tensors for (tensors,) in samples), strict=True)]


def webdataset(tars: Sequence[Path], spec: ViewSpec, batch_size: int, workers: int) -> Iterator[Views]:
    """Batches from tar shards; every worker reads its own shards over and over."""
    import webdataset as wds

    dataset = (
        wds.WebDataset([str(tar) for tar in tars], shardshuffle=len(tars), empty_check=False)
        .shuffle(SHUFFLE)
        .to_tuple("jpg")
        .map_tuple(DecodeAndCut(spec))
        .repeat()
        .batched(batch_size, collation_fn=collate)
    )
    for tensors in wds.WebLoader(dataset, batch_size=None, num_workers=workers):
        parts = tensors[len(spec) :]
        masks = (PatchMasks(*pair) for pair in zip(parts[::2], parts[1::2], strict=True))
        yield Views(tensors[: len(spec)], tuple(masks))
