"""BEiT: name the visual words of hidden patches; words are clusters of oriented gradients here (arXiv 2106.08254)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.models.beit import Beit
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.losses import cells_of_patches, oriented_gradients
from headrace.models.losses.gradients import BINS
from headrace.models.method import Context, Method, ParameterGroup
from headrace.models.parts.backbones import BackboneConfig
from headrace.models.parts.beit import (
    BEiTViews,
    beit_initialization,
    beit_layers,
    beit_vit,
    build_beit,
    cut_normal,
    groups_without_decay,
    hidden_pictures,
    hidden_places,
)
from headrace.models.parts.clusters import kmeans
from headrace.models.parts.collectives import from_first, rank
from headrace.models.parts.masked_vit import take
from headrace.models.parts.precision import widened
from headrace.pipeline import Batch, ViewSpec
from headrace.pipeline.masks import BlockMasks


@dataclass(frozen=True, kw_only=True)
class BEiTConfig(BEiTViews):
    """BEiT with the authors' values for ViT-B on ImageNet-1k (microsoft/unilm at 768a3c8, beit/README.md), but for its
    words, which are not DALL-E's."""

    words: int = 8192
    """K, as many as DALL-E's tokenizer has."""
    word_patches: int = 262144
    """Patches that the words are found in, drawn from the whole set; all where there are fewer."""
    iterations: int = 20
    """Of k-means, at most."""
    cell: int = 8
    """Side of the cells that gradients are counted in, in pixels; a divisor of the patches'."""
    backbone: BackboneConfig = field(default_factory=lambda: beit_vit(layer_scale=0.1, drop_path=0.1))
    """The network that is kept, a Beit of timm's with its norm before the mean of the patches."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.words >= 2, self, "words", "be at least 2")
        require(self.word_patches >= self.words, self, "word_patches", f"be at least words, {self.words}")
        for name in ("iterations", "cell"):
            require(getattr(self, name) >= 1, self, name, "be at least 1")


class BEiT(Method):
    """Probes see the mean of the patches of a whole view behind the last norm.

    Followed: microsoft/unilm at 768a3c8, beit/modeling_pretrain.py, engine_for_pretraining.py, datasets.py,
    masking_generator.py and run_beit_pretraining.py. Which patches are hidden comes with the batch.

    The tokenizer is not BEiT's. DALL-E's was trained on pictures that are not public; here nothing comes from outside
    the training set. A patch is described by MaskFeat's oriented gradients, and its word is the nearest of K means,
    which k-means finds at the beginning of the first epoch in patches of the training set's plain views. Words stay as
    they are then. BEiT's numbers are not this method's.

    Rank 0 clusters, and the others wait for it. Before the first epoch words are random points, so that a step can be
    measured.
    """

    config: BEiTConfig
    inputs: ViewSpec
    means: Tensor
    """float32 (K, P): the words."""
    offsets: Tensor
    """float32 (K,): half of their squared lengths, infinite for words that no patch has."""

    def __init__(self, config: BEiTConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone, self.feature_dim = build_beit(config.backbone, config.size, config)
        vit: Any = self.backbone
        self.patch = int(vit.patch_embed.patch_size[0])
        require(self.patch % config.cell == 0, config, "cell", f"divide the patches, which have {self.patch} pixels")
        self.mask_token = nn.Parameter(torch.zeros(1, 1, self.feature_dim))
        cut_normal(self.mask_token)
        self.predict = nn.Linear(self.feature_dim, config.words)
        beit_initialization(self.predict)
        means = torch.randn(config.words, 3 * BINS * (self.patch // config.cell) ** 2)
        self.register_buffer("means", means)
        self.register_buffer("offsets", means.square().sum(dim=1) / 2)
        self.inputs = config.views(vit.patch_embed.grid_size)

    def described(self, images: Tensor) -> Tensor:
        """float32 (B, L, P): the gradients of each patch of views (B, 3, H, W)."""
        return cells_of_patches(oriented_gradients(images, self.config.cell), self.patch // self.config.cell)

    def words_of(self, described: Tensor) -> Tensor:
        """int64 (...): the number of the mean that is nearest to each of `described` (..., P)."""
        with torch.autocast(described.device.type, enabled=False):
            return (described @ self.means.T - self.offsets).argmax(dim=-1)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"`: the cross entropy of the words of hidden patches; `"accuracy"`: the share that is right;
        `"perplexity"`: of the words in this batch, as if so many were used evenly."""
        (images,), (masks,) = batch.normalized(), batch.masks
        assert isinstance(masks, BlockMasks)
        places = hidden_places(masks.masked, self.config.masked_patches)
        with torch.no_grad():
            words = self.words_of(take(self.described(images), places)).flatten()
            share = self.offsets.new_full(words.shape, 1 / len(words))
            shares = torch.zeros_like(self.offsets).scatter_add_(0, words, share)
        vit: Any = self.backbone
        tokens = beit_layers(vit, images, masks.masked, self.mask_token)[-1][:, 1:]
        logits = widened(self.predict(vit.norm(take(tokens, places)))).flatten(0, 1)
        return {
            "loss": F.cross_entropy(logits, words),
            "accuracy": (logits.detach().argmax(dim=1) == words).float().mean(),
            "perplexity": torch.special.entr(shares).sum().exp(),
        }

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """A view as it is ("input"), and what the network sees of it ("masked")."""
        (images,), (masks,) = batch.normalized(), batch.masks
        assert isinstance(masks, BlockMasks)
        return hidden_pictures(images, masks.masked, self.patch, self.config.normalize)

    def parameter_groups(self) -> list[ParameterGroup]:
        """The class token, absolute positions, biases and norms do not decay; the mask token and the table of relative
        positions do."""
        return groups_without_decay(self, "cls_token", "pos_embed")

    def on_epoch(self, context: Context) -> None:
        """In the first epoch the words are found.

        Raises:
            ValueError: if the set has fewer patches than words.
        """
        if context.epoch > 0:
            return
        means, offsets = torch.zeros_like(self.means, device="cpu"), torch.zeros_like(self.offsets, device="cpu")
        vit = self.backbone
        assert isinstance(vit, Beit)
        patches = context.samples * vit.patch_embed.num_patches
        require(self.config.words <= patches, self.config, "words", f"be at most {patches}, the patches of the set")
        if rank() == 0:
            seeds = np.random.SeedSequence((context.seed, 0)).generate_state(2)
            points = self._patches(context, int(seeds[0]))
            found = kmeans(points, self.config.words, iterations=self.config.iterations, seed=int(seeds[1]))
            means, offsets = centres(points, found, self.config.words)
        self.means.copy_(from_first(means.to(self.means.device)))
        self.offsets.copy_(from_first(offsets.to(self.offsets.device)))

    def _patches(self, context: Context, seed: int) -> Tensor:
        """float32 (word_patches, P) on the CPU: drawn from the patches of the whole set."""
        assert context.batches is not None
        assert isinstance(self.probe_inputs, ViewSpec)
        vit = self.backbone
        assert isinstance(vit, Beit)
        each = vit.patch_embed.num_patches
        total = context.samples * each
        drawn = np.random.default_rng(seed).choice(total, min(self.config.word_patches, total), False, shuffle=False)
        chosen = torch.zeros(total, dtype=torch.bool)
        chosen[torch.from_numpy(drawn)] = True
        chosen = chosen.unflatten(0, (context.samples, each))
        parts = []
        for batch in context.batches(self.probe_inputs):
            (images,), wanted = batch.normalized(), chosen[batch.index.cpu()]
            rows = wanted.any(dim=1)
            parts.append(self.described(images[rows.to(images.device)]).cpu()[wanted[rows]])
        return torch.cat(parts)


def centres(points: Tensor, clusters: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """float32 (K, P): the mean of the points (N, P) of each of K clusters, and (K,): half of its squared length, or
    infinity where it has no point.

    Args:
        clusters: int64 (N,), the cluster of each point, below `number`, K.
    """
    sums = points.new_zeros(number, points.shape[1], dtype=torch.float64).index_add_(0, clusters, points.double())
    sizes = clusters.bincount(minlength=number)
    means = sums / sizes.clamp(min=1)[:, None]
    offsets = torch.where(sizes > 0, means.square().sum(dim=1) / 2, torch.inf)
    return means.float(), offsets.float()
