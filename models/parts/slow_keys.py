"""Keys of a slow network for samples that changed places, and queues of them: MoCo, ReSSL, DenseCL."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.method import Context, Method
from headrace.models.parts.backbones import BackboneConfig, build_backbone
from headrace.models.parts.momentum import follow, slow_copy
from headrace.models.parts.norms import split_batch_norms
from headrace.models.parts.queue import Queue
from headrace.models.parts.shuffling import shuffled, unshuffled
from headrace.models.parts.views import MoCoViews
from headrace.pipeline import ViewSpec


@dataclass(frozen=True, kw_only=True)
class SlowKeysConfig(MoCoViews):
    """What the configs of these methods have in common, with MoCo's values for ImageNet."""

    momentum: float = 0.999
    """Of the slow network, constant."""
    queue: int = 65536
    """Keys of earlier batches, a multiple of the global batch. Much smaller than the data set: on a set of 50,000,
    65,536 keys hold a sample's own."""
    projection_dim: int = 128
    """Output dimension of the projector."""
    batch_norm_splits: int = 1
    """Parts of a rank's batch that batch norms take statistics of, each by itself. Keys are shuffled over ranks and
    splits, so that a query shares no statistics with its key; with one rank and one split it would. MoCo's
    demonstration on CIFAR-10, on one GPU, takes 8."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The network that is kept."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.momentum <= 1, self, "momentum", "lie in [0, 1]")
        for name in ("queue", "projection_dim", "batch_norm_splits"):
            require(getattr(self, name) >= 1, self, name, "be at least 1")


class KeyQueue(Queue):
    """A queue that begins with noise, and which the keys of a step enter behind it: its loss does not see them."""

    def __init__(self, rows: int, dim: int) -> None:
        super().__init__(rows, dim, noise=True)
        self.new: list[Tensor] = []  # of the step under way

    def put_later(self, keys: Tensor) -> None:
        """Keep (N, D) of this rank until `advance`."""
        self.new.append(keys)

    def advance(self) -> None:
        """Put in what waits."""
        for keys in self.new:
            self.put(keys)
        self.new = []


class SlowKeys(Method):
    """Base of methods with a slow copy of backbone and projector, which makes the keys of one view.

    Queues are the same on all ranks; running statistics of the slow network are its own. A step of the authors moves
    the slow network before it makes keys, here the step before does after the optimiser: the same weights.
    """

    config: SlowKeysConfig
    inputs: ViewSpec

    def __init__(self, config: SlowKeysConfig) -> None:
        super().__init__()
        self.config = config
        self.inputs = config.views()
        backbone, self.feature_dim = build_backbone(config.backbone)
        self.backbone = split_batch_norms(backbone, config.batch_norm_splits)
        self.projector = self.make_projector()
        self.slow_backbone, self.slow_projector = slow_copy(self.backbone), slow_copy(self.projector)
        self.queue = KeyQueue(config.queue, config.projection_dim)

    def make_projector(self) -> nn.Module:
        """For features of `feature_dim`; called once."""
        raise NotImplementedError(f"{type(self).__name__} must write make_projector()")

    def slow_outputs(self, images: Tensor) -> tuple[Tensor, ...]:
        """Of (N, 3, H, W), each (N, ...): by default what the slow projector makes of the slow backbone's features."""
        return (self.slow_projector(self.slow_backbone(images)),)

    @torch.no_grad()
    def slow_keys(self, images: Tensor) -> tuple[Tensor, ...]:
        """`slow_outputs` where batch norms see the samples of all ranks in another order."""
        images, order = shuffled(images)
        return tuple(unshuffled(x, order) for x in self.slow_outputs(images))

    def after_step(self, context: Context) -> None:
        """The keys of this step enter their queues, and the slow network moves."""
        for module in self.children():
            if isinstance(module, KeyQueue):
                module.advance()
        follow(self.slow_backbone, self.backbone, self.config.momentum)
        follow(self.slow_projector, self.projector, self.config.momentum)
