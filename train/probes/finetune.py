"""Fine-tuning: the whole backbone is trained on labels, early layers less than late ones."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.optim import param_groups_layer_decay  # type: ignore[attr-defined]
from torch import nn

from headrace.models import Method
from headrace.models.layout import channels_last
from headrace.models.seeding import seeded
from headrace.pipeline import Loader, View, ViewSpec
from headrace.pipeline.order.mixing import NO_LABEL
from headrace.shards import ShardSet
from headrace.train.errors import RunError
from headrace.train.probes.features import extract_features, image_views
from headrace.train.schedule import warmup_cosine


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """AdamW with layer decay, as MAE fine-tunes (arXiv 2111.06377, table 9), without its mixing of images."""

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
    seed: int = 0
    """Of the classifier's weights, the order, the crops and the dropout."""


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
    """Accuracy on `test`, 0 to 1, after training a copy of `method`'s backbone and a linear classifier on `train`.

    Training sees the method's first view with its crop and flip alone; testing sees the centred square, each
    sample once. `max_bad` as in `extract_features`; another sample takes a bad one's place in training.

    Raises:
        RunError: for a method of clips or texts, if a shard set has no labels, no sample has one, or training ends in
            numbers that are not finite.
        ShardError: for a sample that cannot be decoded.
    """
    config = config or FinetuneConfig()
    first = image_views(method).views[0]
    for shards in (train, test):
        if "label" not in shards.fields:
            raise RunError(f"{shards.path}: has no label field, which fine-tuning needs{shards.omitted.hint}")
    view = cropped(first)
    classes = int(train.ints("label").max()) + 1
    if not classes:
        raise RunError(f"{train.path}: every label is {NO_LABEL}, which stands for none, and fine-tuning needs some")
    with seeded(config.seed):
        network = nn.Sequential(copy.deepcopy(method.backbone), nn.Linear(method.feature_dim, classes))
    network = channels_last(network.to(device))
    optimizer = torch.optim.AdamW(_groups(network, config), lr=config.lr)
    batch_size = min(config.batch_size, len(train))
    policy: dict[str, Any] = {} if max_bad is None else {"on_error": "substitute", "max_bad": max_bad}
    with Loader(train, ViewSpec([view]), batch_size, seed=config.seed, threads=threads, **policy) as loader:
        total, warmup = config.epochs * len(loader), round(config.warmup_epochs * len(loader))
        step = 0
        network.train()
        while step < total:
            for batch in loader:
                for group in optimizer.param_groups:
                    group["lr"] = config.lr * group["lr_scale"] * warmup_cosine(step, total=total, warmup=warmup)
                batch = batch.to(device)
                [images] = batch.normalized()
                assert batch.labels is not None
                with seeded(config.seed, step, device=device):
                    known = (batch.labels != NO_LABEL).sum().clamp(min=1)
                    loss = (
                        F.cross_entropy(network(images), batch.labels, ignore_index=NO_LABEL, reduction="sum") / known
                    )
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                optimizer.step()
                step += 1
    network.eval()
    scores, labels = extract_features(
        lambda batch: network(batch.normalized()[0]),
        test,
        method.probe_inputs,
        device=device,
        threads=threads,
        max_bad=max_bad,
    )
    return float((scores.argmax(1) == labels).mean())


def _groups(network: nn.Sequential, config: FinetuneConfig) -> list[dict[str, Any]]:
    """Parameter groups with an `lr_scale` each: timm's layers of the backbone, and the classifier at 1."""
    backbone, classifier = network
    groups = param_groups_layer_decay(backbone, config.weight_decay, layer_decay=config.layer_decay)
    last = config.layer_decay  # timm gives its last layer 1, which is the classifier's here
    for group in groups:
        group["lr_scale"] *= last
    return [*groups, {"params": list(classifier.parameters()), "weight_decay": 0.0, "lr_scale": 1.0}]
