"""What a method wants to see: views of a sample, described as frozen data before any pixel moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from headrace.pipeline.masks import MaskSpec

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Normalize:
    """Per-channel `(x / 255 - mean) / std` of an RGB image."""

    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        if len(self.mean) != 3 or len(self.std) != 3:
            raise ValueError(f"Normalize wants three means and three deviations, got {self.mean} and {self.std}")
        if min(self.std) <= 0:
            raise ValueError(f"Normalize.std must be positive, got {self.std}")


@dataclass(frozen=True, kw_only=True)
class View:
    """One augmented crop. Operations apply in the order of the fields: crop and resize, flip, jitter,
    grayscale, blur, solarise.

    The operators are torchvision's (`torchvision.transforms.v2.functional` on uint8 images), so that numbers
    of published recipes carry over.
    """

    size: int
    """Side of the square output, in pixels."""
    scale: tuple[float, float] = (0.08, 1.0)
    """Area of the random crop as a share of the image; (1, 1) with ratio (1, 1) takes the largest centred square."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Aspect (width / height) of the random crop, drawn log-uniformly."""
    flip: float = 0.5
    """Probability of a horizontal flip; 0 turns it off."""
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
    normalize: Normalize = field(default_factory=Normalize)
    """Applied when a batch is asked for floats."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"View.size must be at least 1, got {self.size}")
        for name in ("flip", "jitter", "grayscale", "blur", "solarize"):
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
        low, high = self.blur_sigma
        if not 0.0 < low <= high:
            raise ValueError(f"View.blur_sigma must satisfy 0 < low <= high, got {self.blur_sigma}")
        if self.blur_kernel is not None and (self.blur_kernel < 1 or self.blur_kernel % 2 == 0):
            raise ValueError(f"View.blur_kernel must be odd and positive, got {self.blur_kernel}")
        if self.blur > 0.0 and self.blur_taps // 2 >= self.size:
            raise ValueError(f"View.blur_kernel {self.blur_taps} needs views larger than {self.size} pixels")
        if not 0 <= self.solarize_threshold <= 255:
            raise ValueError(f"View.solarize_threshold must lie in [0, 255], got {self.solarize_threshold}")
        if self.jitter > 0.0 and not (self.brightness or self.contrast or self.saturation or self.hue):
            raise ValueError("View.jitter is on but brightness, contrast, saturation and hue are all 0")

    @property
    def blur_taps(self) -> int:
        """Taps of the blur's kernel, odd."""
        if self.blur_kernel is not None:
            return self.blur_kernel
        return max(3, self.size // 10 | 1)


@dataclass(frozen=True)
class ViewSpec:
    """The views of one sample, in the order in which they leave the loader, and the masks that go with them."""

    views: tuple[View, ...]
    masks: tuple[MaskSpec, ...] = ()
    """What `Batch.masks` holds, one for each."""

    def __init__(self, views: Sequence[View], masks: Sequence[MaskSpec] = ()) -> None:
        if not views:
            raise ValueError("ViewSpec needs at least one view")
        object.__setattr__(self, "views", tuple(views))
        object.__setattr__(self, "masks", tuple(masks))

    def __len__(self) -> int:
        return len(self.views)

    @staticmethod
    def repeat(view: View, times: int) -> ViewSpec:
        """`times` independent draws of one view."""
        return ViewSpec([view] * times)


def center_view(size: int, normalize: Normalize | None = None) -> ViewSpec:
    """The one deterministic view that probes use: the largest centred square, resized, no augmentation."""
    view = View(size=size, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0)
    return ViewSpec([replace(view, normalize=normalize) if normalize is not None else view])
