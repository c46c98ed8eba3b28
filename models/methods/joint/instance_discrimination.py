"""Instance discrimination: find what is remembered of oneself among all samples of the set (arXiv 1805.01978)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.losses import instance_softmax, noise_contrastive
from headrace.models.method import Context, Method, ParameterGroup
from headrace.models.parts.backbones import BackboneConfig, build_backbone
from headrace.models.parts.collectives import mean_over_ranks
from headrace.models.parts.memory import MemoryBank
from headrace.models.parts.precision import widened
from headrace.pipeline import Batch, Normalize, View, ViewSpec


@dataclass(frozen=True, kw_only=True)
class InstanceDiscriminationConfig:
    """Instance discrimination with the authors' values for ImageNet (zhirongw/lemniscate.pytorch at f7cfe29,
    main.py)."""

    size: int = 224
    """Side of the square views, in pixels."""
    crop_scale: tuple[float, float] = (0.2, 1.0)
    """Area of the random crop as a share of the image."""
    flip: float = 0.5
    """Probability of a horizontal flip; 0 turns it off, as the authors do for CIFAR-10."""
    strength: float = 1.0
    """Factor of the colour jitter's strengths (brightness, contrast, saturation and hue 0.4); 0 turns it off."""
    grayscale: float = 0.2
    """Probability of dropping the colour, before the jitter; 0 turns it off."""
    normalize: Normalize = field(default_factory=Normalize)
    """Mean and deviation that views are normalised with."""
    temperature: float = 0.07
    """Temperature of the loss; 0.1 for CIFAR-10."""
    momentum: float = 0.5
    """Share of a sample's row that stays when its new feature comes."""
    noise: int = 4096
    """Rows that are drawn for each sample to tell its own from; 0 for the rows of all samples, the exact softmax, as
    the authors have it for CIFAR-10."""
    projection_dim: int = 128
    """Dimension of a row."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The network that is kept."""

    def __post_init__(self) -> None:
        require(self.temperature > 0, self, "temperature", "be above 0")
        require(0 <= self.momentum <= 1, self, "momentum", "lie in [0, 1]")
        require(self.noise >= 0, self, "noise", "not be negative")
        require(self.projection_dim >= 1, self, "projection_dim", "be at least 1")
        require(self.strength >= 0, self, "strength", "not be negative")
        instance_views(self)  # its fields' limits are View's


def instance_views(config: InstanceDiscriminationConfig) -> ViewSpec:
    """One view, which loses its colour before it is jittered. zhirongw/lemniscate.pytorch at f7cfe29, main.py."""
    view = View(
        size=config.size,
        scale=config.crop_scale,
        flip=config.flip,
        grayscale=config.grayscale,
        order=("grayscale", "jitter"),
        normalize=config.normalize,
    )
    if (s := 0.4 * config.strength) > 0:
        view = replace(view, jitter=1.0, brightness=s, contrast=s, saturation=s, hue=s)
    return ViewSpec([view])


class InstanceDiscrimination(Method):
    """Each sample is a class of its own, whose weights are the mean of its features of earlier epochs. Probes see the
    backbone's output; the authors' own k-NN compares the projections.

    Followed: zhirongw/lemniscate.pytorch at f7cfe29, main.py, lib/NCEAverage.py, NCECriterion.py and LinearAverage.py.
    Their backward pass moves the rows of the batch, here that is done after the step, to the same values. The
    softmax's denominator is estimated from the first batch, of all ranks, and kept.
    """

    config: InstanceDiscriminationConfig
    inputs: ViewSpec
    keeps_samples = True
    z: Tensor
    """float32 scalar: the softmax's denominator; 0 before the first step, and without noise."""

    def __init__(self, config: InstanceDiscriminationConfig) -> None:
        super().__init__()
        self.config = config
        self.inputs = instance_views(config)
        self.backbone, self.feature_dim = build_backbone(config.backbone)
        self.projector = nn.Linear(self.feature_dim, config.projection_dim)
        self.bank = MemoryBank(config.projection_dim, momentum=config.momentum)
        self.register_buffer("z", torch.zeros(()))
        self.seen: list[tuple[Tensor, Tensor]] = []  # samples and features of the step under way
        self.estimates: list[Tensor] = []  # of z, likewise

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"` alone; see `headrace.models.losses.noise_contrastive` and `instance_softmax`."""
        (view,) = batch.normalized()
        features = F.normalize(widened(self.projector(self.backbone(view))), dim=1)
        self.seen.append((batch.index, features.detach()))
        own = self.bank.numbers(batch.index)
        if self.config.noise == 0:
            return {"loss": instance_softmax(features, self.bank.rows, own, self.config.temperature)}
        drawn = torch.randint(len(self.bank), (len(own), self.config.noise), device=own.device)
        rows = self.bank.rows[torch.cat([own[:, None], drawn], dim=1)]  # (B, 1 + M, D)
        similarity = _products(rows, features) / self.config.temperature
        z = torch.where(self.z > 0, self.z, mean_over_ranks(similarity.exp().mean()) * len(self.bank))
        self.estimates.append(z)
        return {"loss": noise_contrastive(similarity, z, len(self.bank))}

    def parameter_groups(self) -> list[ParameterGroup]:
        """All in one: the authors decay biases and norms as well."""
        return [ParameterGroup(params=[p for p in self.parameters() if p.requires_grad])]

    def on_epoch(self, context: Context) -> None:
        """Before the first one, a row for each sample."""
        if context.epoch == 0:
            self.bank.begin(context.samples, context.seed)

    def after_step(self, context: Context) -> None:
        """The rows of this step's samples move, and z is kept."""
        for index, features in self.seen:
            self.bank.put(index, features)
        for z in self.estimates[:1]:
            self.z.copy_(z)
        self.seen, self.estimates = [], []


def _products(rows: Tensor, features: Tensor) -> Tensor:
    """Of each feature (B, D) with rows (B, M, D), in full precision: (B, M)."""
    with torch.autocast(features.device.type, enabled=False):
        return torch.bmm(rows.to(features.dtype), features[:, :, None]).squeeze(2)
