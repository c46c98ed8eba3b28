"""The papers' linear probes: heads trained by SGD on crops, all candidates in one pass, behind a frozen encoder.

Letters in shapes: B samples, D features, K classes, H heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.models import Method
from headrace.models.parts.pixels import middle
from headrace.models.seeding import seeded
from headrace.pipeline import Batch, Loader, ViewSpec
from headrace.pipeline.order.mixing import NO_LABEL
from headrace.shards import ShardSet
from headrace.train.errors import NotFiniteError, RunError
from headrace.train.optimizers.lars import LARS
from headrace.train.probes.classes import matched_labels
from headrace.train.probes.features import image_views, labelled_batches
from headrace.train.probes.finetune import cropped
from headrace.train.schedule import warmup_cosine

Kind = Literal["output", "cls1", "cls4", "cls1+mean", "cls4+mean"]
"""Which features: the encoder's output, as the other probes have it; or of a ViT the class tokens of its last blocks
behind the last norm, concatenated, with the mean of the last block's patch tokens beside them or not."""
_LAST = {"cls1": 1, "cls4": 4, "cls1+mean": 1, "cls4+mean": 4}


@dataclass(frozen=True, kw_only=True)
class SgdLinearConfig:
    """How heads are trained. A head is a pair of features and a learning rate."""

    epochs: int
    """Passes over the training set; the heads of the last one count."""
    batch_size: int
    """Samples a step; of a smaller set all."""
    rates: tuple[float, ...]
    """Peak learning rates for 256 samples a step, of which a batch takes its share."""
    features: tuple[Kind, ...] = ("output",)
    """Each is tried with each rate."""
    lars: bool = False
    """Steps scaled to the size of the weights, in the place of plain SGD."""
    momentum: float = 0.9
    """Of SGD or LARS."""
    weight_decay: float = 0.0
    """Coupled; 0 turns it off."""
    warmup_epochs: float = 0.0
    """Linear warm-up, in epochs, before half a cosine to 0."""
    batch_norm: bool = False
    """Batch norm without affine in front of a head."""
    deviation: float = 0.01
    """Of a head's first weights; 0 begins with zeros."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Shares of a picture's area that crops take."""
    held_out: float = 0.1
    """Share of the training set that chooses among several heads, and on which none is trained."""
    seed: int = 0
    """Of the heads' weights, the order, the crops and what is held out."""

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 2:
            raise ValueError("epochs must be at least 1 and batch_size at least 2")
        if not self.rates or not self.features or not 0 < self.held_out < 1:
            raise ValueError("rates and features must not be empty, and held_out between 0 and 1")


SIMCLR = SgdLinearConfig(epochs=90, batch_size=4096, rates=(0.1,), weight_decay=1e-6, deviation=0.0)
"""google-research/simclr at 383d414, README: ImageNet, ResNet-50, about 64.5 % after 100 epochs of pre-training."""
MAE = SgdLinearConfig(epochs=90, batch_size=16384, rates=(0.1,), lars=True, warmup_epochs=10, batch_norm=True)
"""facebookresearch/mae at efb2a80, main_linprobe.py: ViT-B 67.8 %."""
DINO = SgdLinearConfig(epochs=100, batch_size=1024, rates=(0.001,), features=("cls4",))
"""facebookresearch/dino at 7c446df, eval_linear.py: ViT-S, class tokens of the last four blocks."""
DINOV2 = SgdLinearConfig(
    epochs=10,
    batch_size=1024,
    rates=(1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1),
    features=("cls1", "cls4", "cls1+mean", "cls4+mean"),
)
"""facebookresearch/dinov2 at b8931f7, eval/linear.py: 52 heads in one pass, but chosen on training data."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What `sgd_linear` found."""

    truth: np.ndarray
    """Labels of the test set as the training set counts them, int64 (m,)."""
    predicted: np.ndarray
    """int64 (m,)."""
    features: Kind
    rate: float
    heads: int
    """Tried."""


def sgd_linear(
    method: Method,
    train: ShardSet,
    test: ShardSet,
    config: SgdLinearConfig,
    *,
    device: torch.device | str = "cpu",
    threads: int | None = None,
    max_bad: int | None = None,
) -> Chosen:
    """Train heads on crops and flips of `train`, choose one on a part of it, and look at `test` once.

    The encoder is frozen and in evaluation mode. Classes are those of `train`; a sample without a label teaches
    nothing.

    Raises:
        RunError: for a method that is not probed on single images, features that the encoder does not have, a set
            without labels, or scores that are not finite.
        ShardError: for a sample that cannot be decoded.
    """
    shown = method.probe_inputs
    if not isinstance(shown, ViewSpec):
        raise RunError(f"{type(method).__name__} is not probed on single images, which heads trained on crops need")
    for shards in (train, test):
        if "label" not in shards.fields:
            raise RunError(f"{shards.path}: has no label field, which probes need{shards.omitted.hint}")
    relabel = matched_labels(train, test)
    labels = train.ints("label")
    classes = int(labels.max()) + 1
    held = _held_out(labels, config)
    if not (~held & (labels != NO_LABEL)).any():
        raise RunError(f"{train.path}: too few samples have a label to hold some of them out")
    heads = _trained(method, train, held, classes, shown, config, device, threads, max_bad)
    best, tried = 0, len(config.rates) * len(config.features)

    def judged(shards: ShardSet) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Predictions (H, n), labels (n,) and samples' numbers (n,), of centred squares."""
        batches = labelled_batches(
            lambda batch: heads.predictions(_features(method, batch, config.features)),
            shards, shown, device=device, threads=threads, max_bad=max_bad,
        )  # fmt: skip
        predicted, of_set, index = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        return predicted.T.astype(np.int64), of_set, index

    if tried > 1:
        predicted, of_set, index = judged(train)
        right = (predicted == of_set)[:, held[index]]
        best = int(right.sum(1).argmax())  # the first of equals
    predicted, truth, _ = judged(test)
    kind, rate = heads.settings[best]
    return Chosen(truth=relabel(truth), predicted=predicted[best], features=kind, rate=rate, heads=tried)


def _held_out(labels: np.ndarray, config: SgdLinearConfig) -> np.ndarray:
    """Whether each sample of the training set chooses, bool (n,); none where there is no choice."""
    held = np.zeros(len(labels), bool)
    if len(config.rates) * len(config.features) > 1:
        mixed = np.random.default_rng((config.seed, 1)).permutation(np.flatnonzero(labels != NO_LABEL))
        held[mixed[: max(1, round(len(mixed) * config.held_out))]] = True
    return held


def _trained(
    method: Method,
    train: ShardSet,
    held: np.ndarray,
    classes: int,
    shown: ViewSpec,
    config: SgdLinearConfig,
    device: torch.device | str,
    threads: int | None,
    max_bad: int | None,
) -> _Heads:
    crops = ViewSpec(
        [replace(cropped(image_views(method).views[0]), scale=config.crop_scale, flip=0.5)], field=shown.field
    )
    batch_size = min(config.batch_size, len(train))
    policy: dict[str, Any] = {} if max_bad is None else {"on_error": "substitute", "max_bad": max_bad}
    heads: _Heads | None = None
    step = 0
    with Loader(train, crops, batch_size, seed=config.seed, threads=threads, **policy) as loader:
        total, warmup = config.epochs * len(loader), round(config.warmup_epochs * len(loader))
        while step < total:
            for batch in loader:
                batch = batch.to(device)
                assert batch.labels is not None
                features = _features(method, batch, config.features)
                if heads is None:
                    heads = _Heads(features, classes, batch_size, config).to(device).train()
                taught = (batch.labels != NO_LABEL) & ~torch.as_tensor(held[batch.index.cpu().numpy()], device=device)
                heads.learn(features, batch.labels, taught, warmup_cosine(step, total=total, warmup=warmup))
                step += 1
    assert heads is not None
    if not heads.finite():
        raise NotFiniteError(f"{train.path}: a head's weights are not finite, so that its score means nothing")
    return heads.eval()


@torch.no_grad()
def _features(method: Method, batch: Batch, kinds: Sequence[Kind]) -> dict[Kind, Tensor]:
    """Features (B, D) of each kind.

    Raises:
        RunError: for class tokens of an encoder that has none.
    """
    found: dict[Kind, Tensor] = {}
    if "output" in kinds:
        found["output"] = method.encode(batch).float()
    rest = [kind for kind in kinds if kind != "output"]
    if not rest:
        return found
    backbone: Any = method.backbone
    if not hasattr(backbone, "forward_intermediates") or not getattr(backbone, "num_prefix_tokens", 0):
        raise RunError(f"a {type(backbone).__name__} has no class token; set features to [output]")
    images = middle(batch.normalized()[0], image_views(method).views[0].size)
    blocks = backbone.forward_intermediates(
        images,
        indices=min(4, len(backbone.blocks)),
        return_prefix_tokens=True,
        norm=True,
        output_fmt="NLC",
        intermediates_only=True,
    )
    tokens = [prefix[:, 0].float() for _, prefix in blocks]
    mean = blocks[-1][0].float().mean(1)
    for kind in rest:
        found[kind] = torch.cat([*tokens[-_LAST[kind] :], *([mean] if kind.endswith("+mean") else [])], dim=1)
    return found


class _Heads(nn.Module):
    """A linear layer for each kind of features and rate, and the optimiser that trains each by itself."""

    def __init__(self, features: Mapping[Kind, Tensor], classes: int, batch_size: int, config: SgdLinearConfig) -> None:
        super().__init__()
        self.settings = [(kind, rate) for kind in features for rate in config.rates]
        self.norms = nn.ModuleDict(
            {
                kind: nn.BatchNorm1d(x.shape[1], affine=False, eps=1e-6) if config.batch_norm else nn.Identity()
                for kind, x in features.items()
            }
        )
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        groups: list[dict[str, Any]] = []
        with seeded(config.seed):
            for kind, rate in self.settings:
                weight = nn.Parameter(torch.randn(classes, features[kind].shape[1]) * config.deviation)
                bias = nn.Parameter(torch.zeros(classes))
                self.weights.append(weight)
                self.biases.append(bias)
                peak = rate * batch_size / 256
                groups.append({"params": [weight], "peak": peak})
                groups.append({"params": [bias], "peak": peak, "weight_decay": 0.0, "adapt": False})
        settings: dict[str, Any] = {"lr": 1.0, "momentum": config.momentum, "weight_decay": config.weight_decay}
        # MAE's LARS multiplies the rate into the step and not into the momentum.
        self.optimizer: torch.optim.Optimizer = (
            LARS(groups, lr_in_momentum=False, **settings) if config.lars else torch.optim.SGD(groups, **settings)
        )

    def _stacked(self, kind: Kind, x: Tensor) -> Tensor:
        """Scores (H, B, K) of the heads of one kind of features (B, D)."""
        chosen = [i for i, (of_head, _) in enumerate(self.settings) if of_head == kind]
        x = self.norms[kind](x)
        return torch.stack([F.linear(x, self.weights[i], self.biases[i]) for i in chosen])

    def learn(self, features: Mapping[Kind, Tensor], labels: Tensor, taught: Tensor, share: float) -> Tensor:
        """One step on the samples that `taught`, bool (B,), names, at this share of the peak learning rates; the losses
        (H,), mean cross entropies."""
        targets = torch.where(taught, labels, -100)
        losses = []
        for kind, x in features.items():
            scores = self._stacked(kind, x)
            each = F.cross_entropy(scores.flatten(0, 1), targets.repeat(len(scores)), reduction="none")
            losses.append(each.view(len(scores), -1).sum(1) / taught.sum().clamp(min=1))
        found = torch.cat(losses)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * share
        self.optimizer.zero_grad()
        found.sum().backward()
        self.optimizer.step()
        return found.detach()

    def finite(self) -> bool:
        return all(bool(p.isfinite().all()) for p in self.parameters())

    @torch.no_grad()
    def predictions(self, features: Mapping[Kind, Tensor]) -> Tensor:
        """The class that each head gives each sample, (B, H), as floats."""
        return torch.cat([self._stacked(kind, x).argmax(2) for kind, x in features.items()]).T.float()
