"""W-MSE: views agree behind a whitening of their projections, which keeps samples apart (arXiv 2007.06346)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from headrace.models.checks import require
from headrace.models.losses import w_mse_loss
from headrace.models.method import Method, ParameterGroup
from headrace.models.parts.backbones import BackboneConfig, build_backbone
from headrace.models.parts.collectives import from_first, world_size
from headrace.models.parts.heads import mlp
from headrace.pipeline import Batch, Normalize, View, ViewSpec


@dataclass(frozen=True, kw_only=True)
class WMSEConfig:
    """W-MSE with the authors' values for ImageNet-100 (htdt/self-supervised at d9662c8, README and cfg.py)."""

    size: int = 224
    """Side of the square views, in pixels."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Area of the random crop as a share of the image; from 0.2 on for CIFAR-10."""
    flip: float = 0.5
    """Probability of a horizontal flip; 0 turns it off."""
    strength: float = 1.0
    """Factor of the colour jitter's strengths (brightness, contrast and saturation 0.8, hue 0.2); 0.5 for CIFAR-10, 0
    turns it off."""
    grayscale: float = 0.2
    """Probability of dropping the colour; 0.1 for CIFAR-10, 0 turns it off."""
    blur: float = 0.5
    """Probability of a Gaussian blur; 0, for CIFAR-10, turns it off."""
    normalize: Normalize = field(default_factory=Normalize)
    """Mean and deviation that views are normalised with."""
    draws: int = 2
    """Views of each sample, of which all pairs are to agree. The authors take 2 or 4."""
    group: int = 256
    """Samples that are whitened together, more than `projection_dim`; the authors take twice as many. It divides the
    global batch."""
    partitions: int = 1
    """Random divisions of a batch into such groups that a step takes the mean of; the authors take 4 for STL-10."""
    eps: float = 0.0
    """Share of the identity in a group's covariance, against singular ones; 0 for none."""
    hidden_dim: int = 1024
    """Width of the projector's hidden layer."""
    projection_dim: int = 128
    """Its output dimension; 64 for CIFAR-10."""
    backbone: BackboneConfig = field(default_factory=lambda: BackboneConfig(name="resnet18"))
    """The network that is kept."""

    def __post_init__(self) -> None:
        require(self.strength >= 0, self, "strength", "not be negative")
        require(self.draws >= 2, self, "draws", "be at least 2")
        for name in ("partitions", "hidden_dim", "projection_dim"):
            require(getattr(self, name) >= 1, self, name, "be at least 1")
        require(self.group > self.projection_dim, self, "group", f"be above projection_dim, {self.projection_dim}")
        require(0 <= self.eps < 1, self, "eps", "lie in [0, 1)")
        self.views()  # its fields' limits are View's

    def views(self) -> ViewSpec:
        """Equal draws."""
        s = self.strength
        view = View(
            size=self.size,
            scale=self.crop_scale,
            interpolation="bicubic",
            flip=self.flip,
            grayscale=self.grayscale,
            blur=self.blur,
            normalize=self.normalize,
        )
        if s > 0:
            view = replace(view, jitter=0.8, brightness=0.8 * s, contrast=0.8 * s, saturation=0.8 * s, hue=0.2 * s)
        return ViewSpec.repeat(view, self.draws)


class WMSE(Method):
    """Views pass the backbone one by one and the projector together. Probes see the backbone's output.

    Followed: htdt/self-supervised at d9662c8, methods/w_mse.py, methods/whitening.py, methods/norm_mse.py, model.py,
    cfg.py and train.py. Theirs is one process, so that groups are of the samples of all ranks, drawn on the first.
    """

    config: WMSEConfig
    inputs: ViewSpec

    def __init__(self, config: WMSEConfig) -> None:
        super().__init__()
        self.config = config
        self.inputs = config.views()
        self.backbone, self.feature_dim = build_backbone(config.backbone)
        dims = (self.feature_dim, config.hidden_dim, config.projection_dim)
        self.projector = mlp(dims, bias=True, last_bias=True, last_norm="none")

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"` alone; see `headrace.models.losses.w_mse_loss`. In evaluation mode it leaves out what fills no
        group, as in the last batch of a held-out set."""
        c = self.config
        views = batch.normalized()
        z = self.projector(torch.cat([self.backbone(view) for view in views]))  # (VB, projection_dim)
        z = z.unflatten(0, (len(views), -1)).transpose(0, 1)
        samples = len(z) * world_size()
        orders = from_first(torch.stack([torch.randperm(samples, device=z.device) for _ in range(c.partitions)]))
        if not self.training:
            orders = orders[:, : samples - samples % c.group]
        return {"loss": w_mse_loss(z, orders, c.group, eps=c.eps)}

    def parameter_groups(self) -> list[ParameterGroup]:
        """All in one: the authors decay biases and norms as well."""
        return [ParameterGroup(params=[p for p in self.parameters() if p.requires_grad])]
