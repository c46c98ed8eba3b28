"""Detection and instance segmentation by torchvision's detectors on a method's backbone: the "torchvision FPN
protocol", which is not MoCo's (arXiv 1911.05722), of Detectron2."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator

from headrace.models.seeding import seeded
from headrace.pipeline import order
from headrace.pipeline.images.view import Normalize
from headrace.shards import ShardSet
from headrace.train.dense.average_precision import Kind, Matches, coco_scores
from headrace.train.dense.pyramids import build_pyramid, patch_side
from headrace.train.dense.scenes import INSTANCES, category_names, coco_masks, picture_size, read_picture
from headrace.train.dense.targets import as_levels, run_lengths, taught_instances, training_example, truths
from headrace.train.errors import ConfigError, NotFiniteError, RunError


@dataclass(frozen=True, kw_only=True)
class DetectionConfig:
    """Mask R-CNN (arXiv 1703.06870) or Faster R-CNN (arXiv 1506.01497) with a feature pyramid, all layers trained.

    The schedule is that of torchvision's references/detection.
    """

    masks: bool = True
    """Segment instances, too; False leaves Faster R-CNN."""
    epochs: int = 26
    """Passes over the pictures that have instances."""
    batch_size: int = 2
    """Pictures a step."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """"sgd" has momentum 0.9; "adamw" is what ViTs want."""
    lr: float = 0.02
    """Peak for 16 pictures a step; it is scaled to `batch_size`."""
    weight_decay: float = 1e-4
    """Of all parameters."""
    drops: tuple[float, ...] = (16 / 26, 22 / 26)
    """Shares of the steps behind which the learning rate falls to a tenth."""
    warmup_steps: int = 1000
    """Linear, from a thousandth."""
    size: int = 800
    """Shorter side to which pictures are scaled, in pixels. A ViT sees squares of it, rounded up to two patches, with
    the picture in one corner. Anchors of 32 to 512 pixels at 800 are scaled with it."""
    max_size: int = 1333
    """Longer side at most; not used by ViTs."""
    rois: int = 512
    """Proposals of a picture that the heads learn from, a quarter of them positive at most."""
    flip: float = 0.5
    """Probability of a horizontal flip in training."""
    seed: int = 0
    """Of the heads' weights, the order, the flips and the detectors' own samples."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "size", "max_size", "rois"):
            if getattr(self, name) < 1:
                raise ConfigError(f"DetectionConfig.{name} must be at least 1, got {getattr(self, name)}")
        if self.optimizer not in ("sgd", "adamw"):
            raise ConfigError(f"DetectionConfig.optimizer must be 'sgd' or 'adamw', got {self.optimizer!r}")


@dataclass(frozen=True, kw_only=True)
class DetectionScores:
    """By `headrace.train.dense.average_precision`, 0 to 1."""

    scores: Mapping[str, float]
    """"box AP", "box AP50", ... and, with masks, "mask AP", ..., by COCO's meter."""
    matches: Mapping[str, Matches]
    """Of "box AP" and "mask AP": what of the detections is right."""
    classes: tuple[str, ...]
    found: Sequence[Sequence[Mapping[str, Any]]] = ()
    """What `detect` gave of each picture."""
    true: Sequence[Sequence[Mapping[str, Any]]] = ()
    """And what is there."""


def build_detector(
    backbone: nn.Module, classes: int, normalize: Normalize, config: DetectionConfig | None = None
) -> nn.Module:
    """A detector on a copy of `backbone`, of which every parameter is trained and every norm keeps learning.

    It takes lists of pictures, float32 (3, H, W) from 0 to 1, and normalises them itself.

    Args:
        backbone: of a method; a ViT of timm's, or a network with four stages.
        classes: without the background, which becomes class 0.
        normalize: what the backbone expects.

    Raises:
        RunError: for another backbone, or one whose pictures are not normalised by channel in RGB.
    """
    config = config or DetectionConfig()
    if normalize.space != "rgb" or normalize.per_view:
        raise RunError("detection wants an encoder that sees RGB pictures, normalised by channel")
    patch = patch_side(backbone)
    least, most, whole = config.size, config.max_size, 32
    if patch is not None:  # one size for all: the longer side fills it, and the rest of the square is padded
        least = most = whole = -(-config.size // (2 * patch)) * 2 * patch
    anchors = tuple((side * config.size / 800,) for side in (32, 64, 128, 256, 512))
    kind = MaskRCNN if config.masks else FasterRCNN
    with seeded(config.seed):
        detector: nn.Module = kind(
            build_pyramid(copy.deepcopy(backbone), least),
            num_classes=classes + 1,
            min_size=least,
            max_size=most,
            size_divisible=whole,
            box_batch_size_per_image=config.rois,
            image_mean=list(normalize.mean),
            image_std=list(normalize.std),
            rpn_anchor_generator=AnchorGenerator(anchors, ((0.5, 1.0, 2.0),) * len(anchors)),
        )
    return detector


def fit_detector(
    detector: nn.Module, train: ShardSet, config: DetectionConfig, device: str = "cpu"
) -> dict[str, float]:
    """Train `detector` on the instances of `train`; the last step's losses by their names, and their "sum".

    Raises:
        RunError: if no picture has an instance.
        NotFiniteError: if a loss is not finite.
    """
    names = category_names(train)
    numbers = {number: number for number in range(len(names))}
    taught = [i for i in range(len(train)) if taught_instances(train, i)]
    if not taught:
        raise RunError(f"{train.path}: no picture has an instance to learn from")
    detector.to(device).train()
    peak = config.lr * config.batch_size / 16
    optimizer = _optimizer(detector, config, peak)
    steps_per_epoch = -(-len(taught) // config.batch_size)
    total = config.epochs * steps_per_epoch
    losses: dict[str, Tensor] = {}
    for step, (epoch, places) in enumerate(_batches(len(taught), config)):
        for group in optimizer.param_groups:
            group["lr"] = peak * _share(step, total, config)
        pictures, targets = [], []
        for place in places:
            i = taught[place]
            draw = np.random.default_rng((config.seed, epoch, i)).random()
            picture, target = training_example(train, i, numbers, config.masks, mirrored=draw < config.flip)
            pictures.append(picture.to(device))
            targets.append({name: value.to(device) for name, value in target.items()})
        with seeded(config.seed, step, device=device):
            losses = detector(pictures, targets)
            loss = torch.stack(list(losses.values())).sum()
            optimizer.zero_grad()
            loss.backward()
        if not loss.isfinite():
            raise NotFiniteError(f"detection: the loss is not finite at step {step}; take a smaller learning rate")
        optimizer.step()
    found = {name: float(value.detach()) for name, value in losses.items()}
    return {**found, "sum": sum(found.values())}


@torch.no_grad()
def detect(detector: nn.Module, shards: ShardSet, *, masks: bool, device: str = "cpu") -> list[list[dict[str, Any]]]:
    """What `detector` finds in each picture: `category`, from 0, `score`, `bbox` [x, y, width, height] in pixels of the
    picture as it is shown and, with `masks`, `segmentation` in run lengths."""
    detector.to(device).eval()
    found = []
    for i in range(len(shards)):
        (result,) = detector([as_levels(read_picture(shards, i)).to(device)])
        boxes = result["boxes"].cpu().numpy().astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        here = [
            {"category": int(label) - 1, "score": float(score), "bbox": box.tolist()}
            for label, score, box in zip(result["labels"], result["scores"], boxes, strict=True)
        ]
        if masks:
            for each, mask in zip(here, result["masks"], strict=True):
                each["segmentation"] = run_lengths((mask[0] > 0.5).cpu().numpy())
        found.append(here)
    return found


def detection_probe(
    backbone: nn.Module,
    train: ShardSet,
    test: ShardSet,
    normalize: Normalize,
    config: DetectionConfig | None = None,
    *,
    device: str = "cpu",
) -> DetectionScores:
    """Train a detector on a copy of `backbone` with the instances of `train`, and score it on those of `test`.

    Args:
        backbone, normalize: see `build_detector`.
        train, test: of COCO's layout, see `headrace.train.dense.scenes`; categories are told by names.
        config: of detector and training.
        device: where to compute.

    Raises:
        RunError: as `build_detector`, `fit_detector`, and for a test set with categories that `train` has not.
        ImportError: where `faster_coco_eval` is not installed.
    """
    config = config or DetectionConfig()
    coco_masks()
    for shards in (train, test):
        if INSTANCES not in shards.fields:
            raise RunError(f"{shards.path}: has no field {INSTANCES}; it has {', '.join(shards.fields)}")
    names = category_names(train)
    true = truths(test, names, masks=config.masks)
    detector = build_detector(backbone, len(names), normalize, config)
    fit_detector(detector, train, config, device)
    return score_detections(detect(detector, test, masks=config.masks, device=device), true, test, names, config.masks)


def score_detections(
    found: Sequence[Sequence[Mapping[str, Any]]],
    true: Sequence[Sequence[Mapping[str, Any]]],
    test: ShardSet,
    names: tuple[str, ...],
    masks: bool,
) -> DetectionScores:
    """Scores of what `detect` found beside `truths`."""
    sizes = [picture_size(test, i) for i in range(len(test))]
    scores: dict[str, float] = {}
    matches = {}
    kinds: list[tuple[str, Kind]] = [("box", "bbox"), ("mask", "segm")]
    for word, kind in kinds[: 1 + masks]:
        scores |= {f"{word} {name}": score for name, score in coco_scores(found, true, sizes, kind).items()}
        matches[f"{word} AP"] = Matches(found, true, kind)
    return DetectionScores(scores=scores, matches=matches, classes=names, found=found, true=true)


def _batches(samples: int, config: DetectionConfig) -> Iterator[tuple[int, list[int]]]:
    """Epoch and numbers of samples of each step; an epoch's last batch may be smaller."""
    for epoch in range(config.epochs):
        mixed = order(config.seed, epoch, samples)[:].tolist()
        for begin in range(0, samples, config.batch_size):
            yield epoch, mixed[begin : begin + config.batch_size]


def _optimizer(detector: nn.Module, config: DetectionConfig, lr: float) -> torch.optim.Optimizer:
    if config.optimizer == "sgd":
        return torch.optim.SGD(detector.parameters(), lr=lr, momentum=0.9, weight_decay=config.weight_decay)
    return torch.optim.AdamW(detector.parameters(), lr=lr, weight_decay=config.weight_decay)


def _share(step: int, total: int, config: DetectionConfig) -> float:
    """Of the peak learning rate."""
    rise = 1.0
    if step < config.warmup_steps:
        rise = 1e-3 + (1 - 1e-3) * step / config.warmup_steps
    return rise * 0.1 ** sum(step >= drop * total for drop in config.drops)
