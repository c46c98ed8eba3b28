"""What a method wants to see: views of a sample, described as frozen data before any pixel moves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from headrace.pipeline.images.masks import MaskSpec
from headrace.pipeline.order.permutations import MOST_TILES

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
PHOTOMETRIC = ("jitter", "project", "drop_channels", "grayscale", "blur", "solarize", "erase")
"""Probabilities of a view's operations behind crop, flip and turn."""


@dataclass(frozen=True, kw_only=True)
class Normalize:
    """Per-channel `(x - mean) / std`, where x is an RGB image in [0, 1] or the same image in CIE Lab."""

    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    space: Literal["rgb", "lab"] = "rgb"
    """"lab" turns sRGB into CIE Lab with white point D65 first: L from 0 to 100, a and b from about -110 to 110, as
    `skimage.color.rgb2lab` has it. Mean and deviation are in these units then; see `lab`."""
    per_view: bool = False
    """Take the mean and deviation of each channel over the pixels of each view instead, as jigsaw (1603.09246) does so
    that the brightness of tiles does not give their places away. A deviation below one level counts as one."""

    def __post_init__(self) -> None:
        if len(self.mean) != 3 or len(self.std) != 3:
            raise ValueError(f"Normalize wants three means and three deviations, got {self.mean} and {self.std}")
        if min(self.std) <= 0:
            raise ValueError(f"Normalize.std must be positive, got {self.std}")
        if self.space not in ("rgb", "lab"):
            raise ValueError(f"Normalize.space must be 'rgb' or 'lab', got {self.space!r}")
        if self.space == "lab" and (self.mean == IMAGENET_MEAN or self.std == IMAGENET_STD):
            raise ValueError("Normalize.mean and std of space 'lab' are in units of Lab; Normalize.lab() has 0 and 1")
        if self.per_view and self.space != "rgb":
            raise ValueError(f"Normalize.per_view is for space 'rgb', got {self.space!r}")

    @staticmethod
    def lab(
        mean: tuple[float, float, float] = (0.0, 0.0, 0.0), std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    ) -> Normalize:
        """CIE Lab in its own units, or moved and scaled."""
        return Normalize(mean=mean, std=std, space="lab")


@dataclass(frozen=True, kw_only=True)
class View:
    """One augmented crop. Operations apply in the order of the fields: crop and resize, flip, turn, jitter, projection,
    dropping of channels, grayscale, blur, solarise, erase.

    The operators are torchvision's (`torchvision.transforms.v2.functional` on uint8 images), so that numbers
    of published recipes carry over.
    """

    size: int
    """Side of the square output, in pixels."""
    scale: tuple[float, float] = (0.08, 1.0)
    """Area of the random crop as a share of the image; (1, 1) with ratio (1, 1) takes the largest centred square."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Aspect (width / height) of the random crop, drawn log-uniformly."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """How crops are resized, antialiased in either way."""
    flip: float = 0.5
    """Probability of a horizontal flip; 0 turns it off."""
    turns: tuple[int, ...] = (0,)
    """Quarter turns counter-clockwise, 0 to 3; one of these is drawn, all equally likely. RotNet (1803.07728)."""
    jitter: float = 0.0
    """Probability that the four colour changes below apply, in random order; 0 turns them off."""
    brightness: float = 0.0
    """Brightness factor is drawn from [max(0, 1 - b), 1 + b]; 0 turns it off."""
    contrast: float = 0.0
    """Contrast factor, likewise."""
    saturation: float = 0.0
    """Saturation factor, likewise."""
    hue: float = 0.0
    """Hue shift is drawn from [-h, h] turns of the colour circle, h at most 0.5; 0 turns it off."""
    project: float = 0.0
    """Probability that green against magenta is taken out, so that chromatic aberration gives no place away
    ("projection" of context prediction, 1505.05192): each pixel (R, G, B) loses its part along (-1, 2, -1); 0 turns
    it off."""
    drop_channels: float = 0.0
    """Probability that two of the three channels, all equally likely, become noise ("colour dropping" of context
    prediction, 1505.05192, against chromatic aberration as `project`): Gaussian around the remaining channel's mean,
    with a hundredth of its deviation; 0 turns it off."""
    grayscale: float = 0.0
    """Probability of dropping the colour; 0 turns it off."""
    blur: float = 0.0
    """Probability of a Gaussian blur; 0 turns it off."""
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Range of the blur's standard deviation, in output pixels."""
    blur_kernel: int | None = None
    """Taps of the blur's kernel (odd); None takes a tenth of `size` as SimCLR does, at least 3."""
    solarize: float = 0.0
    """Probability of inverting the pixels at or above `solarize_threshold`; 0 turns it off."""
    solarize_threshold: int = 128
    """Grey level, 0 to 255."""
    erase: float = 0.0
    """Probability of erasing a random rectangle (1708.04896); 0 turns it off. Where ten tries find none that is smaller
    than the view, nothing is erased."""
    erase_scale: tuple[float, float] = (0.02, 0.33)
    """Area of the rectangle as a share of the view."""
    erase_ratio: tuple[float, float] = (0.3, 3.3)
    """Aspect of the rectangle (height / width, as torchvision has it), drawn log-uniformly."""
    erase_value: tuple[int, int, int] = (0, 0, 0)
    """Level that fills it, 0 to 255, for red, green and blue."""
    normalize: Normalize = field(default_factory=Normalize)
    """Applied when a batch is asked for floats."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"View.size must be at least 1, got {self.size}")
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ValueError(f"View.interpolation must be 'bilinear' or 'bicubic', got {self.interpolation!r}")
        for name in ("flip", *PHOTOMETRIC):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"View.{name} is a probability, got {getattr(self, name)}")
        for name in ("brightness", "contrast", "saturation"):
            if getattr(self, name) < 0.0:
                raise ValueError(f"View.{name} must not be negative, got {getattr(self, name)}")
        if not 0.0 <= self.hue <= 0.5:
            raise ValueError(f"View.hue must lie in [0, 0.5], got {self.hue}")
        low, high = self.scale
        if not 0.0 < low <= high <= 1.0:
            raise ValueError(f"View.scale must satisfy 0 < low <= high <= 1, got {self.scale}")
        low, high = self.ratio
        if not 0.0 < low <= high:
            raise ValueError(f"View.ratio must satisfy 0 < low <= high, got {self.ratio}")
        if not self.turns or len(set(self.turns)) < len(self.turns) or not set(self.turns) <= {0, 1, 2, 3}:
            raise ValueError(f"View.turns must be different numbers out of 0, 1, 2 and 3, got {self.turns}")
        low, high = self.blur_sigma
        if not 0.0 < low <= high:
            raise ValueError(f"View.blur_sigma must satisfy 0 < low <= high, got {self.blur_sigma}")
        if self.blur_kernel is not None and (self.blur_kernel < 1 or self.blur_kernel % 2 == 0):
            raise ValueError(f"View.blur_kernel must be odd and positive, got {self.blur_kernel}")
        if self.blur > 0.0 and self.blur_taps // 2 >= self.size:
            raise ValueError(f"View.blur_kernel {self.blur_taps} needs views larger than {self.size} pixels")
        if not 0 <= self.solarize_threshold <= 255:
            raise ValueError(f"View.solarize_threshold must lie in [0, 255], got {self.solarize_threshold}")
        low, high = self.erase_scale
        if not 0.0 < low <= high <= 1.0:
            raise ValueError(f"View.erase_scale must satisfy 0 < low <= high <= 1, got {self.erase_scale}")
        low, high = self.erase_ratio
        if not 0.0 < low <= high:
            raise ValueError(f"View.erase_ratio must satisfy 0 < low <= high, got {self.erase_ratio}")
        if len(self.erase_value) != 3 or not all(0 <= value <= 255 for value in self.erase_value):
            raise ValueError(f"View.erase_value must be three levels in [0, 255], got {self.erase_value}")
        if self.jitter > 0.0 and not (self.brightness or self.contrast or self.saturation or self.hue):
            raise ValueError("View.jitter is on but brightness, contrast, saturation and hue are all 0")

    @property
    def blur_taps(self) -> int:
        """Taps of the blur's kernel, odd."""
        if self.blur_kernel is not None:
            return self.blur_kernel
        return max(3, self.size // 10 | 1)


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """The tiles of a square grid in a shuffled order, one view each: jigsaw puzzles (1603.09246).

    View i shows the tile at place `order[i]`, places counted row by row, where `order` is a row of
    `permutation_set(rows * columns, permutations)`; its number is the label in `DrawnViews.arrangement`. The grid's
    cells are squares of whole pixels of the stored image, at least one; an image with fewer pixels than the grid has
    cells gives tiles that coincide.
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
    permutations: int = 1000
    """Size of the set from which an order is drawn, all equally likely."""
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
        if not 1 <= self.permutations <= math.factorial(len(self)):
            most = math.factorial(len(self))
            raise ValueError(f"Tiles.permutations must lie in [1, {most}], got {self.permutations}")

    def __len__(self) -> int:
        """Views that these are."""
        return math.prod(self.grid)


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


def center_view(
    size: int,
    normalize: Normalize | None = None,
    interpolation: Literal["bilinear", "bicubic"] = "bilinear",
) -> ViewSpec:
    """The one deterministic view that probes use: the largest centred square, resized, no augmentation."""
    view = View(size=size, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, interpolation=interpolation)
    return ViewSpec([replace(view, normalize=normalize) if normalize is not None else view])
