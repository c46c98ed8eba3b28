"""Semantic segmentation by a linear layer on frozen feature maps.

Letters: B pictures, C classes, D features, h and w sides of a map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.pipeline.batch import normalize_images
from headrace.pipeline.images.view import Normalize
from headrace.shards import ShardSet
from headrace.shards.machine import cores
from headrace.train.dense.scenes import DRAWN, IGNORED, SemanticLabels, picture_size, read_picture, squashed
from headrace.train.errors import NotFiniteError, RunError
from headrace.train.probes.intervals import Statistic
from headrace.train.schedule import warmup_cosine

Maps = Callable[[Tensor], Tensor]
"""Normalised pictures (B, 3, S, S) to feature maps (B, D, h, w)."""


@dataclass(frozen=True, kw_only=True)
class SegmentationConfig:
    """A 1 x 1 convolution on standardised maps of whole pictures that are squashed to a square."""

    steps: int = 1000
    """Of AdamW."""
    batch_size: int = 16
    """Pictures a step."""
    lr: float = 1e-3
    """Peak, behind which it falls along a cosine."""
    weight_decay: float = 1e-4
    """Decoupled; 0 turns it off."""
    seed: int = 0
    """Of the order; the layer begins at zero."""


@dataclass(frozen=True, kw_only=True)
class SegmentationOutcomes:
    """What became of each of n test pictures, in stored order, at their own sizes."""

    pixels: np.ndarray
    """int64 (n, 3, C): pixels of a class that are found, that are said to be of it, and that are of it. Ignored pixels
    are in none."""
    names: tuple[str, ...]
    """Of the classes, "" where they have none."""
    drawn: Sequence[tuple[np.ndarray, np.ndarray]] = ()
    """Of the first pictures, what was wanted and what was said, numbers of classes (H, W) each."""

    def class_ious(self) -> dict[str, float]:
        """Intersection over union of each class that some pixel is of or is said to be of, by its name or number."""
        ious = ious_of(self.pixels.sum(0))
        return {self.names[c] or str(c): float(iou) for c, iou in enumerate(ious) if not np.isnan(iou)}

    def statistics(self) -> dict[str, Statistic]:
        """ "mIoU", the mean over classes of one confusion of all pixels, and "pixel accuracy"; each picture counts
        as often as it is told to."""
        pixels = self.pixels.astype(np.float64)

        def accuracy(sums: np.ndarray) -> float:
            return float(sums[0].sum() / sums[2].sum()) if sums[2].sum() else float("nan")

        return {
            "mIoU": lambda counts: mean_iou(np.tensordot(counts, pixels, 1)),
            "pixel accuracy": lambda counts: accuracy(np.tensordot(counts, pixels, 1)),
        }


def ious_of(sums: np.ndarray) -> np.ndarray:
    """float64 (C,) of pixels (3, C) that are found, said to be of a class, and of it; nan where a class is in none."""
    found, said, wanted = np.asarray(sums, np.float64)
    union = said + wanted - found
    return np.where(union > 0, found / np.where(union > 0, union, 1.0), np.nan)


def mean_iou(sums: np.ndarray) -> float:
    """The mean over the classes that are there or are said to be; nan where there are none."""
    ious = ious_of(sums)
    return float(np.nanmean(ious)) if not np.isnan(ious).all() else float("nan")


def pixel_sums(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """int64 (3, C) of two maps of class numbers of one shape, as in `SegmentationOutcomes.pixels`."""
    known = labels != IGNORED
    predicted, labels = predicted[known], labels[known]
    each = (labels[predicted == labels], predicted, labels)
    return np.stack([np.bincount(which, minlength=classes)[:classes] for which in each])


def raw_patches(images: Tensor) -> Tensor:
    """The pixels of square patches of at most 16 a side, as maps: what any encoder has to beat."""
    side = next(side for side in range(16, 0, -1) if images.shape[2] % side == 0)
    return F.pixel_unshuffle(images, side)


@torch.no_grad()
def extract_maps(
    maps: Maps, shards: ShardSet, size: int, normalize: Normalize, *, batch_size: int = 16, device: str = "cpu"
) -> Tensor:
    """float16 (n, D, h, w) on the CPU: maps of all pictures, squashed to `size`; they are held in memory.

    Raises:
        NotFiniteError: if some are not finite, or too large for float16.
        RunError: if a picture does not decode.
    """
    found = []
    with ThreadPoolExecutor(cores()) as pool:
        for begin in range(0, len(shards), batch_size):
            places = range(begin, min(begin + batch_size, len(shards)))
            pixels = np.stack(list(pool.map(lambda i: squashed(read_picture(shards, i), size), places)))
            views = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(device)
            found.append(maps(normalize_images(views, normalize)).half().cpu())
            if not found[-1].isfinite().all():
                raise NotFiniteError(f"{shards.path}: feature maps of it are not finite, so no probe means anything")
    return torch.cat(found)


def segmentation_probe(
    maps: Maps,
    train: ShardSet,
    test: ShardSet,
    *,
    size: int,
    normalize: Normalize,
    field: str | None = None,
    config: SegmentationConfig | None = None,
    device: str = "cpu",
) -> SegmentationOutcomes:
    """Fit a linear layer on the maps of `train` and score it on `test`, at the size of each picture.

    Logits are enlarged bilinearly to the size of the labels, where they are compared: `size` in training, the picture's
    own in the test. Labels are never blended.

    Args:
        maps: of an encoder in evaluation mode, on `device`.
        train, test: see `headrace.train.dense.scenes` for what they hold. Classes of COCO's layout are told by names.
        size: side of the square to which pictures are squashed, in pixels.
        normalize: what `maps` expects of them.
        field: of maps of labels; None takes COCO's instances.
        config: of the fit.
        device: where to compute.

    Raises:
        RunError: for sets that hold no labels, or a test set with classes that `train` has not.
        NotFiniteError: if maps or the fit are not finite.
        ImportError: where COCO's segmentations want a package that is not installed.

    Source: arXiv 2304.07193, section 7.4, whose pictures are cut into overlapping windows and augmented, and whose
    layer stands behind batch normalisation; here maps are standardised with the training set's mean and deviation.
    """
    config = config or SegmentationConfig()
    learnt = SemanticLabels(train, field)
    asked = SemanticLabels(test, field, learnt.names or None)
    x = extract_maps(maps, train, size, normalize, device=device)
    y = torch.stack([torch.from_numpy(_squashed_labels(learnt, i, size)) for i in range(len(train))])
    known = y[y != IGNORED]
    if not len(known):
        raise RunError(f"{train.path}: every pixel is ignored, and there is nothing to learn")
    classes = len(learnt.names) or int(known.max()) + 1
    layer = _fit(x, y, classes, config, device)
    found = extract_maps(maps, test, size, normalize, device=device)
    sums, drawn = [], []
    with torch.no_grad():
        for i in range(len(test)):
            shape = picture_size(test, i)
            labels = asked.read(i, shape)
            unknown = labels[(labels != IGNORED) & (labels >= classes)]
            if len(unknown):
                raise RunError(f"{test.path}: has pixels of class {unknown[0]}, which there are none of to learn from")
            logits = F.interpolate(layer(found[i : i + 1].float().to(device)), size=shape, mode="bilinear")
            said = logits[0].argmax(0).cpu().numpy()
            sums.append(pixel_sums(said, labels, classes))
            if i < DRAWN:
                drawn.append((labels, said))
    return SegmentationOutcomes(pixels=np.stack(sums), names=learnt.names or ("",) * classes, drawn=drawn)


def _squashed_labels(labels: SemanticLabels, i: int, size: int) -> np.ndarray:
    """uint8 (size, size): of each pixel the nearest one's label."""
    height, width = picture_size(labels.shards, i)
    whole = labels.read(i, (height, width))
    rows, columns = (((np.arange(size) + 0.5) * side / size).astype(int) for side in (height, width))
    return whole[np.ix_(rows, columns)]


class Standardized(nn.Module):
    """Channels of maps (B, D, h, w) with mean 0 and deviation 1 over the pictures that it is made of."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, maps: Tensor) -> None:
        super().__init__()
        count = maps.shape[0] * maps.shape[2] * maps.shape[3]
        total = sum(each.double().sum((1, 2)) for each in maps)
        assert isinstance(total, Tensor)
        mean = (total / count)[:, None, None]
        square = sum((each.double() - mean).square().sum((1, 2)) for each in maps)
        assert isinstance(square, Tensor)
        deviation = (square / count).sqrt()[:, None, None]
        self.register_buffer("mean", mean.float())
        self.register_buffer("deviation", torch.where(deviation > 0, deviation, 1.0).float())

    def forward(self, maps: Tensor) -> Tensor:
        return (maps - self.mean) / self.deviation


def _fit(x: Tensor, y: Tensor, classes: int, config: SegmentationConfig, device: str) -> nn.Module:
    """From maps (n, D, h, w) and labels (n, S, S) to logits (B, C, h, w)."""
    linear = nn.Conv2d(x.shape[1], classes, 1)
    assert linear.bias is not None
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    layer = nn.Sequential(Standardized(x), linear).to(device)
    optimizer = torch.optim.AdamW(linear.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    random = np.random.default_rng(config.seed)
    size = min(config.batch_size, len(x))
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * warmup_cosine(step, total=config.steps, warmup=0)
        chosen = torch.from_numpy(random.choice(len(x), size, replace=False))
        wanted = y[chosen].long().to(device)
        logits = F.interpolate(layer(x[chosen].float().to(device)), size=wanted.shape[1:], mode="bilinear")
        # Of a batch without a single known pixel the loss is 0 / 0; a sum over no pixel is 0.
        loss = F.cross_entropy(logits, wanted, ignore_index=IGNORED, reduction="sum")
        loss = loss / (wanted != IGNORED).sum().clamp(min=1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    if not all(parameter.isfinite().all() for parameter in linear.parameters()):
        raise NotFiniteError("the linear layer's weights are not finite, so that no score means anything")
    return layer
