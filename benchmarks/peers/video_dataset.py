"""What the video peers share: torch's DataLoader around a decoder, and torchvision's v2 transforms behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision.transforms import v2

from headrace.benchmarks.peers import Views
from headrace.pipeline import Clip, ClipSpec, TubeMask
from headrace.pipeline.masks import PatchMasks

FOREVER = 1 << 30  # samples of an epoch, so that no worker ever runs dry

Decode = Callable[[Path, Callable[[int], list[int]]], Tensor]
"""Of a file, and what chooses the frames when their number is known: uint8 (T, 3, H, W)."""


class Clips(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """A random clip of each video, cropped, flipped and normalised, and its tube mask: visible and masked patches."""

    def __init__(self, videos: Sequence[Path], spec: ClipSpec, decode: Decode) -> None:
        (self.clip,), (mask,) = spec.clips, spec.masks
        assert isinstance(mask, TubeMask)
        self.videos, self.mask, self.decode = list(videos), mask, decode
        view = self.clip.view
        self.transform = v2.Compose(
            [
                v2.RandomResizedCrop(view.size, scale=view.scale, ratio=view.ratio, antialias=True),
                v2.RandomHorizontalFlip(view.flip),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(list(view.normalize.mean), list(view.normalize.std)),
            ]
        )

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        clip = self.transform(self.decode(self.videos[number], lambda length: chosen(self.clip, length)))
        return clip.transpose(0, 1), *self.tubes()

    def tubes(self) -> tuple[Tensor, Tensor]:
        """int64 (visible,) and (masked,), as VideoMAE's code draws a frame's patches, through all frames."""
        patches = self.mask.grid[0] * self.mask.grid[1]
        masked = int(patches * self.mask.ratio)
        shuffled = torch.randperm(patches)
        offsets = torch.arange(self.mask.frames)[:, None] * patches
        hidden, seen = (part.sort().values + offsets for part in (shuffled[:masked], shuffled[masked:]))
        return seen.flatten(), hidden.flatten()


def chosen(clip: Clip, length: int) -> list[int]:
    """Numbers of a random clip's frames; a short video shows its last frame on."""
    (stride,) = clip.strides
    start = int(torch.randint(max(1, length - clip.span(stride) + 1), ()))
    return np.minimum(start + stride * np.arange(clip.frames), length - 1).tolist()


def batches(videos: Sequence[Path], spec: ClipSpec, decode: Decode, batch_size: int, workers: int) -> Iterator[Views]:
    """Batches of one clip a video, in random order, without end."""
    dataset = Clips(videos, spec, decode)
    sampler = RandomSampler(dataset, replacement=True, num_samples=FOREVER)
    for clips, visible, masked in DataLoader(dataset, batch_size, sampler=sampler, num_workers=workers):
        yield Views([clips], (PatchMasks(visible, masked),))
