"""Fine-tuning: the whole backbone is trained on labels, early layers less than late ones."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.layers.drop import DropPath
from timm.optim import param_groups_layer_decay  # type: ignore[attr-defined]
from torch import Tensor, nn

from headrace.models import Method
from headrace.models.layout import channels_last
from headrace.models.parts.pixels import middle
from headrace.models.seeding import seeded
from headrace.pipeline import Loader, View, ViewSpec
from headrace.pipeline.order.mixing import NO_LABEL
from headrace.shards import ShardSet
from headrace.train.errors import RunError
from headrace.train.probes.augment import Erasing, RandAugment
from headrace.train.probes.classes import matched_labels
from headrace.train.probes.features import extract_features, image_views
from headrace.train.probes.mixing import Mixing
from headrace.train.schedule import warmup_cosine


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """AdamW with layer decay, as MAE fine-tunes (arXiv 2111.06377, table 9); what regularises is off by default."""

    epochs: int = 30
    """Passes over the training set."""
    batch_size: int = 128
    """Samples a step."""
    lr: float = 1e-3
    """Peak learning rate of the classifier."""
    layer_decay: float = 0.75
    """Each layer's learning rate is this share of the next one's; 1 turns it off."""
    weight_decay: float = 0.05
    """Decoupled; 0 turns it off."""
    warmup_epochs: float = 3.0
    """Linear warm-up, in epochs; 0 turns it off."""
    final_lr: float = 0.0
    """The learning rate at the end, as a share of the peak."""
    mixup: float = 0.0
    """See `Mixing.mixup`; 0 turns it off."""
    cutmix: float = 0.0
    """See `Mixing.cutmix`; 0 turns it off."""
    label_smoothing: float = 0.0
    """Share of a target that all classes have alike; 0 turns it off."""
    drop_path: float = 0.0
    """Share of samples that pass by the last block's branches, less in the blocks before it, in a straight line from 0;
    0 leaves the network as it is."""
    rand_augment: float = 0.0
    """See `RandAugment.magnitude`; 0 turns it off."""
    rand_augment_deviation: float = 0.5
    """See `RandAugment.deviation`."""
    random_erasing: float = 0.0
    """See `Erasing.probability`; 0 turns it off."""
    crop_scale: tuple[float, float] | None = None
    """Shares of a picture's area that crops take; None takes those of the method's first view."""
    seed: int = 0
    """Of the classifier's weights, the order, the crops, what becomes of images, and the dropout."""

    @property
    def mixing(self) -> Mixing:
        return Mixing(mixup=self.mixup, cutmix=self.cutmix)

    @property
    def changes(self) -> RandAugment:
        return RandAugment(magnitude=self.rand_augment, deviation=self.rand_augment_deviation)

    @property
    def erasing(self) -> Erasing:
        return Erasing(probability=self.random_erasing)

    def __post_init__(self) -> None:
        self.mixing, self.changes, self.erasing  # noqa: B018  they refuse what they cannot be
        if not 0 <= self.label_smoothing < 1 or not 0 <= self.drop_path < 1:
            raise ValueError("label_smoothing and drop_path must be at least 0 and below 1")
        if self.epochs < 1 or self.batch_size < 1:
            raise ValueError("epochs and batch_size must be at least 1")


GREY = (128, 128, 128)

MAE_BASE = FinetuneConfig(
    epochs=100, batch_size=1024, lr=2e-3, layer_decay=0.65, warmup_epochs=5, final_lr=5e-4,
    mixup=0.8, cutmix=1.0, label_smoothing=0.1, drop_path=0.1, crop_scale=(0.08, 1.0),
    rand_augment=9.0, random_erasing=0.25,
)  # fmt: skip
"""ViT-B of facebookresearch/mae at efb2a80, FINETUNE.md and main_finetune.py."""
BEIT_BASE = FinetuneConfig(
    epochs=100, batch_size=1024, lr=4e-3, layer_decay=0.65, warmup_epochs=20, final_lr=2.5e-4,
    mixup=0.8, cutmix=1.0, label_smoothing=0.1, drop_path=0.1, crop_scale=(0.08, 1.0),
    rand_augment=9.0, random_erasing=0.25,
)  # fmt: skip
"""ViT-B of microsoft/unilm's beit (arXiv 2106.08254, table 10). Its jitter of 0.4 is not here: timm's transform, which
the code calls, leaves jitter out where there is RandAugment."""


def cropped(view: View) -> View:
    """The crop, resize and flip of a view, and nothing else that it does."""
    kept = ("size", "scale", "ratio", "interpolation", "flip", "normalize")
    return View(**{name: getattr(view, name) for name in kept})


def finetune_probe(
    method: Method,
    train: ShardSet,
    test: ShardSet,
    config: FinetuneConfig | None = None,
    *,
    device: torch.device | str = "cpu",
    threads: int | None = None,
    max_bad: int | None = None,
) -> float:
    """Share of the samples of `test`, 0 to 1, that `finetune_predictions` classifies rightly."""
    truth, predicted = finetune_predictions(
        method, train, test, config, device=device, threads=threads, max_bad=max_bad
    )
    return float((truth == predicted).mean())


def finetune_predictions(
    method: Method,
    train: ShardSet,
    test: ShardSet,
    config: FinetuneConfig | None = None,
    *,
    device: torch.device | str = "cpu",
    threads: int | None = None,
    max_bad: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Labels of `test`, as `train` counts them, and predicted ones, int64 (m,) each, after training a copy of
    `method`'s backbone and a linear classifier on `train`.

    Training sees the method's first view with its crop and flip alone, and what `config` adds; testing sees the
    centred square, each sample once. `max_bad` as in `extract_features`; another sample takes a bad one's place in
    training.

    Raises:
        RunError: for a method of clips or texts, if a shard set has no labels, no sample has one, `test` has classes
            that `train` has not, the network has no branches to drop, or training ends in numbers that are not finite.
        ShardError: for a sample that cannot be decoded.
    """
    config = config or FinetuneConfig()
    first = image_views(method).views[0]
    for shards in (train, test):
        if "label" not in shards.fields:
            raise RunError(f"{shards.path}: has no label field, which fine-tuning needs{shards.omitted.hint}")
    relabel = matched_labels(train, test)
    view = cropped(first)
    if config.crop_scale is not None:
        view = replace(view, scale=config.crop_scale)
    classes = int(train.ints("label").max()) + 1
    if not classes:
        raise RunError(f"{train.path}: every label is {NO_LABEL}, which stands for none, and fine-tuning needs some")
    with seeded(config.seed):
        network = nn.Sequential(copy.deepcopy(method.backbone), nn.Linear(method.feature_dim, classes))
    if config.drop_path:
        drop_paths(network[0], config.drop_path)
    network = channels_last(network.to(device))
    optimizer = torch.optim.AdamW(_groups(network, config), lr=config.lr)
    batch_size = min(config.batch_size, len(train))
    policy: dict[str, Any] = {} if max_bad is None else {"on_error": "substitute", "max_bad": max_bad}
    fill = [min(255, round(255 * mean)) for mean in view.normalize.mean] if view.normalize.space == "rgb" else GREY
    with (
        Loader(train, ViewSpec([view]), batch_size, seed=config.seed, threads=threads, **policy) as loader,
        ThreadPoolExecutor(threads) as executor,
    ):
        total, warmup = config.epochs * len(loader), round(config.warmup_epochs * len(loader))
        step = 0
        network.train()
        while step < total:
            for batch in loader:
                for group in optimizer.param_groups:
                    share = warmup_cosine(step, total=total, warmup=warmup, final=config.final_lr)
                    group["lr"] = config.lr * group["lr_scale"] * share
                drawn: dict[str, Any] = {"indices": batch.index.tolist(), "seed": config.seed, "epoch": batch.epoch}
                levels = config.changes.apply(batch.views[0], fill=fill, executor=executor, **drawn)
                batch = replace(batch, streams={"image": replace(batch.lone, views=[levels])}).to(device)
                [images] = batch.normalized()
                assert batch.labels is not None
                known = batch.labels != NO_LABEL
                targets = F.one_hot(batch.labels.clamp(min=0), classes).float() * known[:, None]
                with seeded(config.seed, step, device=device):
                    images = config.erasing.apply(images, **drawn)
                    images, targets = config.mixing.apply(images, targets, (config.seed, step))
                    loss = _cross_entropy(network(images), targets, config.label_smoothing)
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                optimizer.step()
                step += 1
    network.eval()
    scores, labels = extract_features(
        lambda batch: network(middle(batch.normalized()[0], view.size)),
        test,
        method.probe_inputs,
        device=device,
        threads=threads,
        max_bad=max_bad,
    )
    return relabel(labels), scores.argmax(1)


def _cross_entropy(scores: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Mean over samples with a label, of targets (B, K) whose rows add up to the share of the sample that has one."""
    weights = targets.sum(dim=1, keepdim=True)
    smooth = (1 - smoothing) * targets + smoothing * weights / targets.shape[1]
    return -(smooth * scores.log_softmax(dim=1)).sum() / weights.sum().clamp(min=1e-6)


def drop_paths(network: nn.Module, rate: float) -> None:
    """Stochastic depth (arXiv 1603.09382) for a timm network whose blocks have places for it.

    Raises:
        RunError: if they have none, as those of ResNets.
    """
    places = ("drop_path", "drop_path1", "drop_path2")
    blocks = [
        block
        for block in network.modules()
        if any(isinstance(getattr(block, place, None), nn.Identity | DropPath) for place in places)
    ]
    if not blocks:
        raise RunError(f"drop_path: a {type(network).__name__} has no branches to drop; set it to 0")
    for depth, block in enumerate(blocks):
        for place in places:
            if isinstance(getattr(block, place, None), nn.Identity | DropPath):
                setattr(block, place, DropPath(rate * depth / max(1, len(blocks) - 1)))


def _groups(network: nn.Sequential, config: FinetuneConfig) -> list[dict[str, Any]]:
    """Parameter groups with an `lr_scale` each: timm's layers of the backbone, and the classifier at 1."""
    backbone, classifier = network
    groups = param_groups_layer_decay(backbone, config.weight_decay, layer_decay=config.layer_decay)
    last = config.layer_decay  # timm gives its last layer 1, which is the classifier's here
    for group in groups:
        group["lr_scale"] *= last
    return [*groups, {"params": list(classifier.parameters()), "weight_decay": 0.0, "lr_scale": 1.0}]
