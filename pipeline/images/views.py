"""What a method wants to see: views of a sample, described as frozen data before any pixel moves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from headrace.pipeline.images.view import Normalize, View
from headrace.pipeline.masks import MaskSpec
from headrace.pipeline.order.permutations import MOST_TILES, every_permutation, permutation_set


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """The tiles of a square grid in a shuffled order, one view each: jigsaw puzzles (1603.09246).

    View i shows the tile at place `order[i]`, places counted row by row, where `order` is a row of `orders`; its number
    is the label in `DrawnViews.arrangement`. The grid's cells are squares of whole pixels of the stored image, at least
    one; an image with fewer pixels than the grid has cells gives tiles that coincide.
    """

    view: View
    """What becomes of each tile: its size and its colours. Its `scale` and `ratio` are not used."""
    grid: tuple[int, int] = (3, 3)
    """Rows and columns of cells, nine at most."""
    extent: tuple[float, float] = (225 / 256, 225 / 256)
    """Side of the grid as a share of the largest that fits the image, drawn uniformly; it lies anywhere."""
    tile: float = 64 / 75
    """Side of a tile as a share of its cell. The rest is the gap between tiles, 11 of 75 pixels on average."""
    jitter: float = 1.0
    """How far a tile strays from its cell's centre, as a share of the way to the cell's border; 0 for not at all."""
    permutations: int | None = 1000
    """Size of the set from which an order is drawn, all equally likely; None for any order of the tiles."""
    alike: bool = True
    """Whether all tiles share the draws of their colours, so that an image is grey as a whole."""

    def __post_init__(self) -> None:
        _check_patch("Tiles", self.view)
        if min(self.grid) < 1 or not 2 <= math.prod(self.grid) <= MOST_TILES:
            raise ValueError(f"Tiles.grid must have 2 to {MOST_TILES} cells, got {self.grid}")
        low, high = self.extent
        if not 0.0 < low <= high <= 1.0:
            raise ValueError(f"Tiles.extent must satisfy 0 < low <= high <= 1, got {self.extent}")
        if not 0.0 < self.tile <= 1.0:
            raise ValueError(f"Tiles.tile must lie in (0, 1], got {self.tile}")
        if not 0.0 <= self.jitter <= 1.0:
            raise ValueError(f"Tiles.jitter must lie in [0, 1], got {self.jitter}")
        if self.permutations is not None and not 1 <= self.permutations <= math.factorial(len(self)):
            most = math.factorial(len(self))
            raise ValueError(f"Tiles.permutations must lie in [1, {most}], got {self.permutations}")

    def __len__(self) -> int:
        """Views that these are."""
        return math.prod(self.grid)

    @property
    def orders(self) -> NDArray[np.uint8]:
        """uint8 (P, tiles): the orders of which one is drawn, `permutation_set` or `every_permutation`."""
        if self.permutations is None:
            return every_permutation(len(self))
        return permutation_set(len(self), self.permutations)


@dataclass(frozen=True, kw_only=True)
class PatchPair:
    """A patch and one of its eight neighbours, a view each: context prediction (1505.05192).

    The label in `DrawnViews.arrangement` is the neighbour's place, 0 to 7, counted row by row around the first patch:
    0 above left, 1 above, 2 above right, 3 left, 4 right, 5 below left, 6 below, 7 below right. Patches are squares
    of whole pixels of the stored image, at least one, and as large as fits in any direction at most.
    """

    view: View
    """What becomes of each patch: its size and its colours. Its `scale` and `ratio` are not used."""
    scale: tuple[float, float] = (0.17, 0.29)
    """Side of a patch as a share of the image's shorter side, drawn uniformly. The paper: 96 pixels in images of 150 to
    450 thousand."""
    gap: float = 0.5
    """Pixels between the patches as a share of a patch's side. The paper: about half a patch."""
    jitter: float = 7 / 96
    """How far each patch strays up, down, left and right as a share of its side, drawn uniformly; 0 for not at all."""
    alike: bool = False
    """Whether both patches share the draws of their colours."""

    def __post_init__(self) -> None:
        _check_patch("PatchPair", self.view)
        low, high = self.scale
        if not 0.0 < low <= high <= 1.0:
            raise ValueError(f"PatchPair.scale must satisfy 0 < low <= high <= 1, got {self.scale}")
        for name in ("gap", "jitter"):
            if getattr(self, name) < 0.0:
                raise ValueError(f"PatchPair.{name} must not be negative, got {getattr(self, name)}")

    def __len__(self) -> int:
        """Views that these are."""
        return 2


Arranged = Tiles | PatchPair
"""Several views whose boxes are planned together, with a label."""


def _check_patch(kind: str, view: View) -> None:
    if view.flip > 0.0 or view.turns != (0,):
        raise ValueError(f"{kind}.view.flip must be 0 and turns (0,): a patch mirrored in itself fits no neighbour")


@dataclass(frozen=True)
class ViewSpec:
    """The views of one sample, in the order in which they leave the loader, and the masks that go with them.

    Args:
        views: what leaves the loader; `Tiles` and `PatchPair` become several views.
        masks: see below.
        draws: for each of the V views, which view's random numbers it takes: its own number (the default for all), or
            that of an earlier view that takes its own. Views that share draws and settings are the same crop, flip
            and colours, and differ in what their other settings make of it, such as `size` or `turns`. The boxes of
            `Tiles` and `PatchPair` go by the draws of their first view.
        field: see below.
    """

    views: tuple[View, ...]
    """The V views."""
    masks: tuple[MaskSpec, ...]
    """What `Batch.masks` holds, one for each."""
    draws: tuple[int, ...]
    """The number of the view whose draws each view takes."""
    arranged: tuple[tuple[int, Arranged], ...]
    """The number of the first view and the description of each `Tiles` and `PatchPair`."""
    field: str | None
    """Name of the image field in the shard set; None takes "image" or else the only one."""

    def __init__(
        self,
        views: Sequence[View | Arranged],
        masks: Sequence[MaskSpec] = (),
        draws: Sequence[int] | None = None,
        *,
        field: str | None = None,
    ) -> None:
        if not views:
            raise ValueError("ViewSpec needs at least one view")
        each: list[View] = []
        own: list[int] = []
        arranged: list[tuple[int, Arranged]] = []
        for part in views:
            first = len(each)
            if isinstance(part, View):
                each.append(part)
                own.append(first)
            else:
                arranged.append((first, part))
                each += [part.view] * len(part)
                own += [first if part.alike else first + i for i in range(len(part))]
        taken = tuple(own if draws is None else draws)
        if len(taken) != len(each) or any(not 0 <= d <= v or taken[d] != d for v, d in enumerate(taken)):
            raise ValueError(
                f"ViewSpec.draws must name, for each of {len(each)} views, itself or an earlier view that "
                f"draws for itself, got {taken}"
            )
        object.__setattr__(self, "views", tuple(each))
        object.__setattr__(self, "masks", tuple(masks))
        object.__setattr__(self, "draws", taken)
        object.__setattr__(self, "arranged", tuple(arranged))
        object.__setattr__(self, "field", field)

    def __len__(self) -> int:
        return len(self.views)

    @staticmethod
    def repeat(view: View, times: int) -> ViewSpec:
        """`times` independent draws of one view."""
        return ViewSpec([view] * times)

    @staticmethod
    def rotations(view: View) -> ViewSpec:
        """One draw of a view, turned by 0, 1, 2 and 3 quarters: four views. RotNet (1803.07728)."""
        return ViewSpec([replace(view, turns=(turns,)) for turns in range(4)], draws=[0] * 4)

    def plain(self) -> ViewSpec:
        """What probes are shown: the largest centred square, resized and normalised as the first view is. Nothing is
        drawn, nothing is masked."""
        first = self.views[0]
        return ViewSpec(center_view(first.size, first.normalize, first.interpolation).views, field=self.field)


def center_view(
    size: int,
    normalize: Normalize | None = None,
    interpolation: Literal["bilinear", "bicubic"] = "bilinear",
) -> ViewSpec:
    """The one deterministic view that probes use: the largest centred square, resized, no augmentation."""
    view = View(size=size, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, interpolation=interpolation)
    return ViewSpec([replace(view, normalize=normalize) if normalize is not None else view])
