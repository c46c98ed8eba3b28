"""Order of blocks: where in the image does each of the shuffled tiles belong, DeepPermNet (arXiv 1704.02729)?"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from headrace.models.checks import require
from headrace.models.losses import placement_loss, placements
from headrace.models.method import Method, ParameterGroup
from headrace.models.parts.backbones import BackboneConfig, build_backbone
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
class BlockOrderConfig(PuzzleConfig):
    """DeepPermNet with the authors' values for ImageNet and a grid of 3 x 3 (rfsantacruz/deep-perm-net at d3dccc3,
    models/train_val_grid3.prototxt)."""

    extent: tuple[float, float] = (225 / 256, 225 / 256)
    """Side of the puzzle as a share of the image's shorter side, drawn uniformly; it lies anywhere."""
    tile: float = 64 / 75
    """Side of a tile as a share of its cell, in which it lies anywhere."""
    tile_dim: int = 512
    """Width of the layer that each tile has to itself, behind the backbone."""
    iterations: int = 1
    """How often rows and columns are normalised."""
    regularizer: float = 0.001
    """What is added to each probability before a row or column is normalised."""
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    """The network that is kept."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.iterations >= 1, self, "iterations", "be at least 1")
        require(self.regularizer > 0, self, "regularizer", "be above 0")
        block_tiles(self)  # its fields' limits are Tiles'


def block_tiles(config: BlockOrderConfig) -> Tiles:
    """Tiles in any order, in their colours. rfsantacruz/deep-perm-net at d3dccc3,
    caffe-perm/src/caffe/layers/perm_matrix_layer.cu."""
    return Tiles(
        view=View(size=config.size, flip=0.0, normalize=config.normalize),
        grid=(config.grid, config.grid),
        extent=config.extent,
        tile=config.tile,
        permutations=None,
    )


class BlockOrder(Method):
    """Tiles pass the backbone one by one, and a head gives each slot's tile a probability for each place of the image:
    jigsaw's task with any of all orders instead of a chosen set. Probes see the backbone's output for the whole
    picture.

    Followed: rfsantacruz/deep-perm-net at d3dccc3, models/train_val_grid3.prototxt, solver_trainval_grid3.prototxt, and
    the layers PermMatrix, SinkhornNorm and MultilabelMultinomialLogisticLoss of caffe-perm/src/caffe/layers. Which tile
    lies where comes with the batch.
    """

    config: BlockOrderConfig
    inputs: ViewSpec
    orders: Tensor
    """uint8 (V!, V): which place of the image the tile in each slot is from, for each label."""

    def __init__(self, config: BlockOrderConfig) -> None:
        super().__init__()
        self.config = config
        tiles = block_tiles(config)
        self.inputs = ViewSpec([tiles])
        self.backbone, self.feature_dim = build_backbone(config.backbone)
        require_any_size(self.backbone, config)
        self.head = PuzzleHead(self.feature_dim, len(tiles) ** 2, config)
        self.register_buffer("orders", torch.from_numpy(tiles.orders.copy()), persistent=False)

    @property
    def probe_inputs(self) -> ViewSpec:
        """The whole picture."""
        return center_view(self.config.probe_size, self.config.normalize)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """`"loss"`: see `headrace.models.losses.placement_loss`; `"accuracy"`: the share of tiles whose likeliest place
        is right."""
        probabilities, places = self._probabilities(batch), self._places(batch)
        return {
            "loss": placement_loss(probabilities, places),
            "accuracy": (probabilities.detach().argmax(dim=2) == places).float().mean(),
        }

    def parameter_groups(self) -> list[ParameterGroup]:
        """Biases twice as fast and without decay, as the authors have them."""
        return double_biases(self)

    @torch.no_grad()
    def pictures(self, batch: Batch) -> dict[str, Tensor]:
        """The tiles as they lie there ("shuffled"), as the network would put them back ("solved"), each at another
        place, and in their places ("true"). None where there is no way back to levels."""
        levels = levels_of(batch)
        if levels is None:
            return {}
        rows = self.config.grid
        true, p = self._places(batch), self._probabilities(batch).cpu().numpy()
        likeliest = [linear_sum_assignment(each, maximize=True)[1].tolist() for each in p]
        slots = torch.arange(rows * rows, device=true.device).expand_as(true)
        places = {"shuffled": slots, "solved": torch.tensor(likeliest, device=true.device), "true": true}
        return {name: laid_out(levels, place, rows, rows) for name, place in places.items()}

    def _places(self, batch: Batch) -> Tensor:
        """int64 (B, V): where the tile in each slot belongs."""
        return self.orders[batch.drawn.arrangement[:, 0]].long()

    def _probabilities(self, batch: Batch) -> Tensor:
        """(B, V, V) of slots and places."""
        scores = self.head(each_alone(self.backbone, batch.normalized()))
        square = scores.unflatten(1, (self.config.grid**2, self.config.grid**2))
        probabilities: Tensor = placements(square, self.config.iterations, self.config.regularizer)
        return probabilities
