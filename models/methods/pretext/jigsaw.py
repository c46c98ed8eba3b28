"""Jigsaw: in which of many orders do the tiles of an image lie (arXiv 1603.09246)?"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.models.checks import require
from headrace.models.method import Method, ParameterGroup
from headrace.models.parts.backbones import BackboneConfig, build_backbone
from headrace.models.parts.precision import widened
from headrace.models.parts.puzzles import (
    PuzzleConfig,
    PuzzleHead,
    double_biases,
    each_alone,
    laid_out,
    levels_of,
    require_any_size,
)
from headrace.pipeline import Batch, Tiles, View, ViewSpec, center_view


@dataclass(frozen=True, kw_only=True)
class JigsawConfig(PuzzleConfig):
    """Jigsaw with the authors' values for ImageNet (MehdiNoroozi/JigsawPuzzleSolver at 8c7ec09, the variant "++").

    Tiles are normalised all alike, as in that variant; `normalize.per_view` gives each its own mean and deviation, as
    in the paper.
    """

    permutations: int = 1000
    """Orders in which tiles may lie, chosen to differ in many places: the outputs of the authors' classifier."""
    shift: int = 2
    """Pixels that each colour of a tile is moved by at most, down and right, so that chromatic aberration gives no
    place away; 0 turns it off."""
    grayscale: float = 0.5
    """Probability that an image loses its colour; 0 turns it off."""
    project: float = 0.5
    """Probability that an image which keeps its colour loses green against magenta; 0 turns it off."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The network that is kept."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.shift >= 0, self, "shift", "not be negative")
        require(self.permutations >= 2, self, "permutations", "be at least 2")
        jigsaw_tiles(self)  # its fields' limits are Tiles'


def jigsaw_tiles(config: JigsawConfig) -> Tiles:
    """Tiles with a margin for the shift of colours, which does not leave the cell. JigsawPuzzleSolver at 8c7ec09,
    caffe-master-jps++/src/caffe/data_transformer.cpp: a grey image has no green against magenta to lose."""
    size = config.size + config.shift
    view = View(
        size=size,
        flip=0.0,
        grayscale=config.grayscale,
        project=config.project,
        order=("grayscale", "project"),
        normalize=config.normalize,
    )
    return Tiles(
        view=view,
        grid=(config.grid, config.grid),
        extent=config.extent,
        tile=config.tile * size / config.size,
        permutations=config.permutations,
    )


class Jigsaw(Method):
    """Tiles pass the backbone one by one, and a head names their order. Probes see the backbone's output for the whole
    picture.

    Followed: MehdiNoroozi/JigsawPuzzleSolver at 8c7ec09, caffe-master-jps++/src/caffe/data_transformer.cpp,
    train_val_cfn_jps.prototxt and solver_cfn_jps.prototxt. Which tile lies where comes with the batch; the shifts of
    colours are drawn in training, and are in the middle of their range else.
    """

    config: JigsawConfig
    inputs: ViewSpec
    orders: Tensor
    """int64 (P, V): which place of the image the tile in each slot is from, for each label."""

    def __init__(self, config: JigsawConfig) -> None:
        super().__init__()
        self.config = config
        tiles = jigsaw_tiles(config)
        self.inputs = ViewSpec([tiles])
        self.backbone, self.feature_dim = build_backbone(config.backbone)
        require_any_size(self.backbone, config)
        self.head = PuzzleHead(self.feature_dim, config.permutations, config)
        self.register_buffer("orders", torch.from_numpy(tiles.orders.astype("int64")), persistent=False)

    @property
    def probe_inputs(self) -> ViewSpec:
        """The whole picture."""
        return center_view(self.config.probe_size, self.config.normalize)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"`: the cross entropy of the order's number; `"accuracy"`: the share that is right."""
        logits, labels = self._logits(batch), batch.drawn.arrangement[:, 0]
        return {
            "loss": F.cross_entropy(logits, labels),
            "accuracy": (logits.detach().argmax(dim=1) == labels).float().mean(),
        }

    def parameter_groups(self) -> list[ParameterGroup]:
        """Biases twice as fast and without decay, as the authors have them."""
        return double_biases(self)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """The tiles as they lie there ("shuffled"), as the network would put them back ("solved"), and in their places
        ("true"). None where there is no way back to levels."""
        levels = levels_of(batch)
        if levels is None:
            return {}
        rows = self.config.grid
        solved, true = self.orders[self._logits(batch).argmax(dim=1)], self.orders[batch.drawn.arrangement[:, 0]]
        slots = torch.arange(rows * rows, device=true.device).expand_as(true)
        places = {"shuffled": slots, "solved": solved, "true": true}
        return {name: laid_out(levels, place, rows, rows) for name, place in places.items()}

    def _logits(self, batch: Batch) -> Tensor:
        """(B, P)."""
        tiles = batch.normalized()
        if self.config.shift > 0:
            tiles = [shifted(tile, self.config.shift, random=self.training) for tile in tiles]
        logits: Tensor = widened(self.head(each_alone(self.backbone, tiles)))
        return logits


def shifted(images: Tensor, shift: int, *, random: bool) -> Tensor:
    """A window (B, 3, S - shift, S - shift) of images (B, 3, S, S), for each channel another one, which lies anywhere
    where it is `random`, from torch's default generator, and in the middle else."""
    b, c, height, width = images.shape
    if not random:
        margin = shift // 2
        return images[:, :, margin : margin + height - shift, margin : margin + width - shift]
    down, right = torch.randint(shift + 1, (2, b, c, 1, 1), device=images.device)
    rows = down + torch.arange(height - shift, device=images.device)[:, None]  # (B, C, S - shift, 1)
    columns = right + torch.arange(width - shift, device=images.device)  # (B, C, 1, S - shift)
    kept = images.gather(2, rows.expand(-1, -1, -1, width))
    return kept.gather(3, columns.expand(-1, -1, height - shift, -1))
