"""One view of a sample: what may be asked for, as frozen data, and what is drawn for it before any pixel moves.

Both come to kernels as records, SETTINGS a view and DRAWS a view of a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np

from headrace.pipeline.compiled import kernel
from headrace.pipeline.random import key_word, philox, unit

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

OPERATIONS = ("jitter", "project", "drop_channels", "grayscale", "blur", "solarize", "erase")
"""What may become of a view's pixels behind crop, flip and turn, in the order in which it does unless `View.order` says
otherwise. Each is the name of the field of `View` that holds its probability."""

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
"""Colour changes of the operation "jitter": codes in `jitter_order` and positions in `jitter_factor` of `DRAWS`."""


@dataclass(frozen=True, kw_only=True)
class Normalize:
    """Per-channel `(x - mean) / std`, where x is an RGB image in [0, 1] or the same image in CIE Lab."""

    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Of red, green and blue, or of L, a and b."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Likewise."""
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
    """One augmented crop: crop and resize, flip, turn, then what is on of `OPERATIONS`, in the order of `order`.

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
    order: tuple[str, ...] = OPERATIONS
    """The operations behind crop, flip and turn in the order in which they apply; those that are off may be left out.
    MoCo v1 (1911.05722) drops the colour before it jitters."""
    normalize: Normalize = field(default_factory=Normalize)
    """Applied when a batch is asked for floats."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"View.size must be at least 1, got {self.size}")
        if self.interpolation not in ("bilinear", "bicubic"):
            raise ValueError(f"View.interpolation must be 'bilinear' or 'bicubic', got {self.interpolation!r}")
        for name in ("flip", *OPERATIONS):
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
        if len(set(self.order)) < len(self.order) or not set(self.order) <= set(OPERATIONS):
            raise ValueError(f"View.order must be different names out of {', '.join(OPERATIONS)}, got {self.order}")
        for name in OPERATIONS:
            if getattr(self, name) > 0.0 and name not in self.order:
                raise ValueError(f"View.order must name {name}, which is on, got {self.order}")

    @property
    def blur_taps(self) -> int:
        """Taps of the blur's kernel, odd."""
        if self.blur_kernel is not None:
            return self.blur_kernel
        return max(3, self.size // 10 | 1)

    @property
    def operations(self) -> tuple[str, ...]:
        """Those of `order` that are on."""
        return tuple(name for name in self.order if getattr(self, name) > 0.0)

    def crop_only(self) -> View:
        """The same crop, flip and turn without any operation behind them."""
        off: dict[str, Any] = dict.fromkeys(OPERATIONS, 0.0)
        return replace(self, **off)


# -- What kernels read of it ---------------------------------------------------------------------------------


def _numbers(view: View) -> dict[str, Any]:
    """The fields that are numbers, each by its name, and what follows from the others."""
    numbers = {f.name: getattr(view, f.name) for f in fields(view) if f.name not in _NO_NUMBERS}
    return numbers | {
        "log_ratio": tuple(np.log(view.ratio)),
        "bicubic": view.interpolation == "bicubic",
        "turns": view.turns + (0,) * (4 - len(view.turns)),
        "turn_count": len(view.turns),
        "strength": (view.brightness, view.contrast, view.saturation, view.hue),
        "blur_taps": view.blur_taps,
        "erase_log_ratio": tuple(np.log(view.erase_ratio)),
    }


_NO_NUMBERS = ("interpolation", "turns", "blur_kernel", "order", "normalize")

SETTINGS = np.dtype(
    [(name, np.asarray(value).dtype, np.shape(value)) for name, value in _numbers(View(size=1)).items()], align=True
)
"""A view's settings in a record."""


def settings(views: Sequence[View]) -> np.ndarray:
    """SETTINGS (V,) of V views."""
    return np.array([tuple(_numbers(view).values()) for view in views], SETTINGS)


# -- What is drawn for it ------------------------------------------------------------------------------------

DRAWS = np.dtype(
    [
        ("crop", "i4", 4),  # top, left, height, width, in pixels of the stored image
        ("flip", "?"),  # mirrored left to right
        ("turns", "i1"),  # quarter turns counter-clockwise, 0 to 3
        ("jitter_order", "i1", 4),  # codes of the colour changes in the order in which they apply; -1 for none
        ("jitter_factor", "f4", 4),  # factor of each colour change, at its code's position
        ("project", "?"),  # without green against magenta
        ("kept", "i1"),  # the channel that remains where two are dropped, red 0, green 1, blue 2; -1 where all do
        ("noise", "u8"),  # what `noise_planes` makes the noise of that takes the place of dropped channels
        ("grayscale", "?"),
        ("blur_sigma", "f4"),  # standard deviation, in output pixels; 0 for none
        ("solarize", "?"),
        ("erase", "i4", 4),  # top, left, height, width of the rectangle, in output pixels; height 0 for none
    ],
    align=True,
)
"""One view's draws."""
OPERATION_DRAWS = tuple(name for name in DRAWS.names or () if name not in ("crop", "flip", "turns"))
"""Those that say what is done behind crop, flip and turn."""

STREAM = key_word(0x76696577)  # the word "view"
# Counter blocks of four random words; a new operation takes a new block, so that old draws never move. Those below 10
# and from 32 on are of the boxes, see `headrace.pipeline.images.plan`.
_BLOCK_GATES = np.uint64(10)
_BLOCK_FACTORS = np.uint64(11)
_BLOCK_REST = np.uint64(12)
_BLOCK_MORE = np.uint64(13)
_BLOCK_ERASE = 14
_BLOCK_DROP = np.uint64(24)
_ERASE_ATTEMPTS = 10  # as torchvision's RandomErasing


@kernel
def draw_operations(seed, epoch, sample, number, view, drawn):
    """Everything but the crop of a record of DRAWS that is zeros. `number`: whose draws the view takes, uint64 as all
    before it; `view`: of SETTINGS."""
    gates = philox(seed, STREAM, _BLOCK_GATES, number, sample, epoch)
    drawn.flip = unit(gates[0]) < view.flip
    drawn.grayscale = unit(gates[2]) < view.grayscale
    factors = philox(seed, STREAM, _BLOCK_FACTORS, number, sample, epoch)
    for code in range(3):
        low = max(0.0, 1.0 - view.strength[code])
        drawn.jitter_factor[code] = low + (1.0 + view.strength[code] - low) * unit(factors[code])
    drawn.jitter_factor[HUE] = view.strength[HUE] * (2.0 * unit(factors[3]) - 1.0)
    rest = philox(seed, STREAM, _BLOCK_REST, number, sample, epoch)
    _draw_jitter_order(unit(gates[1]) < view.jitter, unit(rest[0]), view.strength, drawn.jitter_order)
    low, high = view.blur_sigma
    drawn.blur_sigma = low + (high - low) * unit(rest[1]) if unit(gates[3]) < view.blur else 0.0
    drawn.solarize = unit(rest[2]) < view.solarize
    drawn.turns = view.turns[0]
    if view.turn_count > 1 or view.project > 0.0 or view.erase > 0.0:
        more = philox(seed, STREAM, _BLOCK_MORE, number, sample, epoch)
        drawn.turns = view.turns[np.int64(unit(more[0]) * view.turn_count)]
        drawn.project = unit(more[1]) < view.project
        if unit(more[2]) < view.erase:
            _draw_erase(seed, epoch, sample, number, view, drawn.erase)
    drawn.kept = -1
    if view.drop_channels > 0.0:
        words = philox(seed, STREAM, _BLOCK_DROP, number, sample, epoch)
        if unit(words[0]) < view.drop_channels:
            drawn.kept = np.int64(unit(words[1]) * 3.0)
            drawn.noise = words[2]


@kernel
def _draw_jitter_order(applies, u, strength, order):
    """One of the 24 orders of the four colour changes, leaving out those of strength 0."""
    rank = np.int64(u * 24.0)
    codes = [BRIGHTNESS, CONTRAST, SATURATION, HUE]
    order[:] = -1
    if not applies:
        return
    position = 0
    for remaining in range(4, 0, -1):
        code = codes.pop(rank % remaining)
        rank //= remaining
        if strength[code] > 0.0:
            order[position] = code
            position += 1


@kernel
def _draw_erase(seed, epoch, sample, number, view, erase):
    """torchvision's RandomErasing: up to ten tries for a rectangle that is smaller than the view, or none."""
    size = view.size
    for attempt in range(_ERASE_ATTEMPTS):
        words = philox(seed, STREAM, np.uint64(_BLOCK_ERASE + attempt), number, sample, epoch)
        area = size * size * (view.erase_scale[0] + (view.erase_scale[1] - view.erase_scale[0]) * unit(words[0]))
        low, high = view.erase_log_ratio
        ratio = np.exp(low + (high - low) * unit(words[1]))
        height = np.int64(np.rint(np.sqrt(area * ratio)))
        width = np.int64(np.rint(np.sqrt(area / ratio)))
        if height < size and width < size:
            if height > 0 and width > 0:
                erase[0] = np.int64(unit(words[2]) * (size - height + 1))
                erase[1] = np.int64(unit(words[3]) * (size - width + 1))
                erase[2] = height
                erase[3] = width
            return


def in_words(drawn: np.void) -> dict[str, Any]:
    """A record of DRAWS in words and plain numbers, leaving out what does not apply."""
    words: dict[str, Any] = {"crop": tuple(drawn["crop"].tolist())}
    if drawn["flip"]:
        words["flip"] = True
    if drawn["turns"]:
        words["turned"] = f"{90 * int(drawn['turns'])} degrees"
    for code in drawn["jitter_order"]:
        if code >= 0:
            change = ("brightness", "contrast", "saturation", "hue")[code]
            words[change] = round(float(drawn["jitter_factor"][code]), 3)
    if drawn["project"]:
        words["projection"] = True
    if drawn["kept"] >= 0:
        words["only"] = ("red", "green", "blue")[drawn["kept"]]
    if drawn["grayscale"]:
        words["grayscale"] = True
    if drawn["blur_sigma"] > 0:
        words["blur"] = round(float(drawn["blur_sigma"]), 3)
    if drawn["solarize"]:
        words["solarize"] = True
    if drawn["erase"][2]:
        words["erase"] = tuple(drawn["erase"].tolist())
    return words
