"""data2vec 2.0: from a fifth of the patches, predict a slow copy's deeper layers at the others (arXiv 2212.07525)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.losses import contextual_targets, scaled_regression
from headrace.models.method import Context, Method, ParameterGroup, kernels_and_vectors
from headrace.models.parts.backbones import BackboneConfig
from headrace.models.parts.masked_vit import shown_masked, take
from headrace.models.parts.momentum import follow, slow_copy
from headrace.models.parts.pixels import can_undo, unit_pixels
from headrace.models.parts.post_norm_vit import build_post_norm_vit
from headrace.models.parts.schedules import linear
from headrace.pipeline import Batch, InverseBlockMask, Normalize, View, ViewSpec


@dataclass(frozen=True, kw_only=True)
class Data2Vec2Config:
    """data2vec 2.0 with the authors' values for ImageNet and ViT-B (facebookresearch/fairseq at 3d262bb2,
    examples/data2vec/config/v2/base_images_only_task.yaml).

    ViT-L takes `mask_ratio` 0.75, `mask_adjust` 0.1, `top_layers` 18, and 3 layers of 1024 channels and kernels of 5.
    """

    size: int = 224
    """Side of the square view, in pixels; a multiple of the backbone's patches."""
    crop_scale: tuple[float, float] = (0.2, 1.0)
    """Area of the random crop as a share of the image."""
    flip: float = 0.5
    """Probability of a horizontal flip; 0 turns it off."""
    normalize: Normalize = field(default_factory=Normalize)
    """Mean and deviation that views are normalised with."""
    masks: int = 16
    """Masked versions of each view, which share the slow copy's one pass."""
    mask_ratio: float = 0.8
    """Share of the patches that is hidden."""
    mask_adjust: float = 0.07
    """Added to the visible share before it is divided among squares, see `InverseBlockMask`."""
    mask_side: int = 3
    """Patches along the side of a visible square."""
    mask_noise: float = 0.01
    """Deviation of what stands for hidden patches in front of the decoder; in evaluation mode it is zero."""
    top_layers: int = 10
    """Last blocks of the slow copy whose MLPs' outputs are averaged to targets. The authors have two more before."""
    class_weight: float = 2.56
    """Of the class token's loss, a mean over all masked versions; 0 turns it off. The authors' 0.01 is of its sum over
    the 16 versions of 16 views that a GPU holds."""
    decoder_dim: int = 768
    """Channels of the decoder."""
    decoder_depth: int = 6
    """Its convolutions."""
    decoder_kernel: int = 3
    """Side of their kernels, odd."""
    decoder_groups: int = 16
    """Groups of their channels."""
    momentum: float = 0.9998
    """Of the slow copy at the beginning."""
    final_momentum: float = 0.99999
    """Of the slow copy at the end of the annealing, which is linear."""
    annealed: float = 100_000 / 375_300
    """Share of the run after which the momentum is the final one; above 0."""
    backbone: BackboneConfig = field(default_factory=lambda: BackboneConfig(name="vit_base_patch16_224"))
    """The encoder, a timm ViT, which is given fixed positions, a class token and norms behind its sums."""

    def __post_init__(self) -> None:
        for name in ("masks", "top_layers", "decoder_dim", "decoder_depth", "decoder_groups"):
            require(getattr(self, name) >= 1, self, name, "be at least 1")
        require(self.decoder_dim % self.decoder_groups == 0, self, "decoder_dim", "be a multiple of its groups")
        require(self.decoder_kernel % 2 == 1, self, "decoder_kernel", "be odd")
        require(0 < self.annealed <= 1, self, "annealed", "lie in (0, 1]")
        for name in ("momentum", "final_momentum"):
            require(0 <= getattr(self, name) <= 1, self, name, "lie in [0, 1]")
        for name in ("mask_noise", "class_weight"):
            require(getattr(self, name) >= 0, self, name, "not be negative")


class ConvolutionalDecoder(nn.Module):
    """Convolutions over the grid of patches, each with a norm over channels and GELU and, where widths agree, the sum
    with what it was given; then a linear layer: (B, L, in_dim) to the same.

    Source: facebookresearch/fairseq at 3d262bb2, examples/data2vec/models/modalities/modules.py, Decoder2d.
    """

    def __init__(self, in_dim: int, grid: tuple[int, int], *, dim: int, depth: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.grid = grid
        widths = [in_dim, *[dim] * depth]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(width, dim, kernel, padding=kernel // 2, groups=groups) for width in widths[:-1]
        )
        self.predict = nn.Linear(dim, in_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        x = tokens.transpose(1, 2).unflatten(2, self.grid)  # (B, D, rows, columns)
        for convolution in self.convolutions:
            y = convolution(x).permute(0, 2, 3, 1)
            y = F.gelu(F.layer_norm(y, y.shape[-1:])).permute(0, 3, 1, 2)
            x = x + y if x.shape == y.shape else y
        return self.predict(x.flatten(2).transpose(1, 2))


class Data2Vec2(Method):
    """Probes see the mean of the patches' tokens of a whole view, as the authors' fine-tuning does.

    Followed: facebookresearch/fairseq at 3d262bb2, examples/data2vec/models/data2vec2.py, modalities/base.py, images.py
    and modules.py, config/v2/base_images_only_task.yaml. Which patches are hidden comes with the batch. Letters: B
    samples, V masked versions of each, L patches, D features.
    """

    config: Data2Vec2Config
    inputs: ViewSpec

    def __init__(self, config: Data2Vec2Config) -> None:
        super().__init__()
        self.config = config
        vit: Any
        vit, self.feature_dim = build_post_norm_vit(config.backbone, config.size)
        self.backbone = vit
        if config.top_layers > len(vit.blocks):
            most = len(vit.blocks)
            raise ValueError(f"Data2Vec2Config.top_layers must be at most the backbone's {most} blocks")
        self.patch = int(vit.patch_embed.patch_size[0])
        grid = vit.patch_embed.grid_size
        for layer in vit.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)
        nn.init.xavier_uniform_(vit.patch_embed.proj.weight.data.flatten(1))
        nn.init.normal_(vit.cls_token)
        self.decoder = ConvolutionalDecoder(
            self.feature_dim,
            grid,
            dim=config.decoder_dim,
            depth=config.decoder_depth,
            kernel=config.decoder_kernel,
            groups=config.decoder_groups,
        )
        self.slow = slow_copy(vit)
        view = View(
            size=config.size,
            scale=config.crop_scale,
            interpolation="bicubic",
            flip=config.flip,
            normalize=config.normalize,
        )
        mask = InverseBlockMask(grid=grid, ratio=config.mask_ratio, adjust=config.mask_adjust, side=config.mask_side)
        self.inputs = ViewSpec([view], [mask] * config.masks)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"`, and its parts: of hidden patches ("patches") and of the class token ("class"). See
        `headrace.models.losses.scaled_regression`."""
        (images,) = batch.normalized()
        visible = torch.stack([mask.visible for mask in batch.masks], dim=1)  # (B, V, M)
        hidden = torch.stack([mask.masked for mask in batch.masks], dim=1).flatten(0, 1)
        targets = self.targets(images)
        tokens = self.see(images, visible)
        predictions = take(self.decoder(self.with_noise(tokens[:, 1:], visible.flatten(0, 1))), hidden)
        versions = visible.shape[1]
        patches = scaled_regression(predictions, take(targets.repeat_interleave(versions, 0), hidden))
        token = scaled_regression(tokens[:, 0], targets.mean(dim=1).repeat_interleave(versions, 0))
        loss = patches + self.config.class_weight * token
        return {"loss": loss, "patches": patches.detach(), "class": token.detach()}

    def see(self, images: Tensor, visible: Tensor) -> Tensor:
        """(B * V, 1 + M, D): class token and visible patches, whose numbers are int64 (B, V, M), behind all blocks."""
        vit: Any = self.backbone
        tokens = _embedded(vit, images)
        tokens = take(tokens, visible.flatten(1)).unflatten(1, visible.shape[1:]).flatten(0, 1)
        tokens = torch.cat([vit.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        encoded: Tensor = vit.blocks(vit.norm_pre(tokens))
        return encoded

    def with_noise(self, tokens: Tensor, visible: Tensor) -> Tensor:
        """(N, L, D): tokens (N, M, D) at their places, which are int64 (N, M), and noise at all others."""
        length = self.decoder.grid[0] * self.decoder.grid[1]
        shape = (len(tokens), length, tokens.shape[2])
        like: Any = {"dtype": tokens.dtype, "device": tokens.device}
        whole = torch.randn(shape, **like) * self.config.mask_noise if self.training else torch.zeros(shape, **like)
        return whole.scatter(1, visible[:, :, None].expand(-1, -1, tokens.shape[2]), tokens)

    @torch.no_grad()
    def targets(self, images: Tensor) -> Tensor:
        """(B, L, D): see `headrace.models.losses.contextual_targets`."""
        vit: Any = self.slow
        tokens = _embedded(vit, images)
        tokens = vit.norm_pre(torch.cat([vit.cls_token.expand(len(tokens), -1, -1), tokens], dim=1))
        layers = []
        for block in vit.blocks:
            tokens, added = block.parts(tokens)
            layers.append(added[:, 1:])
        return contextual_targets(layers[-self.config.top_layers :])

    def parameter_groups(self) -> list[ParameterGroup]:
        """Biases and norms do not decay; the class token does."""
        return kernels_and_vectors(self.backbone, self.decoder)

    def after_step(self, context: Context) -> None:
        """The slow copy follows."""
        progress = (context.step + 1) / (self.config.annealed * context.total_steps)
        follow(self.slow, self.backbone, linear(self.config.momentum, self.config.final_momentum, progress))

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """A view as it is ("input"), and what is seen of it in its first masked version ("masked"). None of views that
        are not RGB, or normalised by themselves."""
        if not can_undo(self.config.normalize):
            return {}
        (images,) = batch.normalized()
        return shown_masked(unit_pixels(images, self.config.normalize), batch.masks[0].visible, self.patch)


def _embedded(vit: Any, images: Tensor) -> Tensor:
    """(B, L, D): patches with their positions."""
    tokens: Tensor = vit.patch_embed(images) + vit.pos_embed[:, 1:]
    return tokens
