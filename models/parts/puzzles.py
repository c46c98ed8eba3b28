"""What methods that put the parts of an image in their places share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.models.checks import require
from headrace.models.method import ParameterGroup, kernels_and_vectors
from headrace.models.parts.pixels import can_undo, unit_pixels
from headrace.pipeline import Batch, Normalize

_GAP = 2  # pixels between tiles in a picture
_GREY = 0.5


@dataclass(frozen=True, kw_only=True)
class PuzzleConfig:
    """The tiles of a puzzle, and the head that sees them together."""

    size: int = 64
    """Side of a tile, in pixels."""
    grid: int = 3
    """Rows and columns of the puzzle, 2 or 3."""
    extent: tuple[float, float] = (255 / 256, 255 / 256)
    """Side of the puzzle as a share of the image's shorter side, drawn uniformly; it lies anywhere."""
    tile: float = 64 / 85
    """Side of a tile as a share of its cell, in which it lies anywhere."""
    normalize: Normalize = field(default_factory=Normalize)
    """Mean and deviation that tiles are normalised with."""
    tile_dim: int = 1024
    """Width of the layer that each tile has to itself, behind the backbone."""
    hidden_dim: int = 4096
    """Width of the layer that sees all tiles."""
    dropout: float = 0.5
    """Share of both layers' outputs that is dropped; 0 turns it off."""
    probe_size: int = 224
    """Side of the whole picture that probes see, in pixels."""

    def __post_init__(self) -> None:
        require(self.grid in (2, 3), self, "grid", "be 2 or 3")
        require(0 <= self.dropout < 1, self, "dropout", "lie in [0, 1)")
        for name in ("tile_dim", "hidden_dim", "probe_size"):
            require(getattr(self, name) >= 1, self, name, "be at least 1")


class PuzzleHead(nn.Module):
    """Late fusion: a layer for each tile by itself, the same for all, and two for all together. (B, V, in_dim) of V
    tiles, in the order in which they lie there, to (B, outputs).

    Weights begin as the authors' do.

    Source: arXiv 1603.09246, MehdiNoroozi/JigsawPuzzleSolver at 8c7ec09, train_val_cfn_jps.prototxt, fc6 to fc8;
    with a narrower fc6 also arXiv 1704.02729, rfsantacruz/deep-perm-net at d3dccc3, models/train_val_grid3.prototxt.
    """

    def __init__(self, in_dim: int, outputs: int, config: PuzzleConfig) -> None:
        super().__init__()
        self.each = nn.Linear(in_dim, config.tile_dim)
        self.all = nn.Linear(config.grid**2 * config.tile_dim, config.hidden_dim)
        self.last = nn.Linear(config.hidden_dim, outputs)
        self.dropout = config.dropout
        for layer, deviation, bias in ((self.each, 0.005, 1.0), (self.all, 0.005, 1.0), (self.last, 0.01, 0.0)):
            nn.init.normal_(layer.weight, std=deviation)
            nn.init.constant_(layer.bias, bias)

    def forward(self, features: Tensor) -> Tensor:
        x = self._drop(F.relu(self.each(features)))
        x = self._drop(F.relu(self.all(x.flatten(1))))
        return self.last(x)

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


def each_alone(backbone: nn.Module, tiles: Sequence[Tensor]) -> Tensor:
    """Features (B, V, D) of V tiles (B, 3, S, S), which pass the backbone in one batch: no tile sees another but
    through a batch norm, whose statistics are of all tiles of all samples and do not know the order."""
    features: Tensor = backbone(torch.cat(list(tiles)))
    return features.unflatten(0, (len(tiles), -1)).transpose(0, 1)


def double_biases(method: nn.Module) -> list[ParameterGroup]:
    """Biases of layers learn twice as fast as kernels and are not decayed, as is usual in Caffe's networks; those of
    norms are as usual here."""
    layers = [m for m in method.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    biases = [p for m in layers if isinstance(p := m.bias, nn.Parameter) and p.requires_grad]
    others = kernels_and_vectors(method)
    mine = {id(bias) for bias in biases}
    for group in others:
        group.params = [p for p in group.params if id(p) not in mine]
    fast = ParameterGroup(params=biases, lr_scale=2.0, decay_scale=0.0, adapt=False)
    return [group for group in (*others, fast) if group.params]


def require_any_size(backbone: nn.Module, config: Any) -> None:
    """ValueError for a network of one size of picture: probes see larger ones than the tiles."""
    if any(getattr(module, "strict_img_size", False) for module in backbone.modules()):
        raise ValueError(
            f"{type(config).__name__}.backbone must take pictures of any size, for probes see larger ones than tiles, "
            f"and {config.backbone.name} takes one size only; a ViT does with the option dynamic_img_size"
        )


def levels_of(batch: Batch) -> Tensor | None:
    """The views of a batch as levels from 0 to 1, (B, V, 3, S, S); None where there is no way back to them."""
    views = [
        view / 255 if view.dtype == torch.uint8 else unit_pixels(view, normalize) if can_undo(normalize) else None
        for view, normalize in zip(batch.views, batch.normalize, strict=True)
    ]
    known = [view for view in views if view is not None]
    return torch.stack(known, dim=1).float() if len(known) == len(views) else None


def laid_out(tiles: Tensor, places: Tensor, rows: int, columns: int) -> Tensor:
    """A picture (B, 3, H, W) of tiles (B, V, 3, S, S) at their places (B, V), each another, on a grey ground."""
    ground = tiles.new_full((len(tiles), rows * columns, *tiles.shape[2:]), _GREY)
    index = places[:, :, None, None, None].expand_as(tiles)
    cells = F.pad(ground.scatter(1, index, tiles), (0, _GAP, 0, _GAP), value=_GREY).unflatten(1, (rows, columns))
    return cells.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)[:, :, :-_GAP, :-_GAP]
