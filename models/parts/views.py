"""Views that several methods share, as fields of their configs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from headrace.models.checks import require
from headrace.pipeline import Normalize, View, ViewSpec


@dataclass(frozen=True, kw_only=True)
class BYOLViews:
    """BYOL's two augmentations, which differ in blur and solarisation; Barlow Twins, VICReg and MoCo v3 take them, too.

    google-deepmind/deepmind-research at f5de0ed, byol/utils/augmentations.py and dataset.py. There crops are resized
    without antialiasing, brightness is added, and blur and solarisation are as here.
    """

    size: int = 224
    """Side of the square views, in pixels."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Area of the random crop as a share of the image."""
    flip: float = 0.5
    """Probability of a horizontal flip; 0 turns it off."""
    strength: float = 1.0
    """Factor of the colour jitter's strengths (brightness and contrast 0.4, saturation 0.2, hue 0.1); 0 turns it
    off."""
    grayscale: float = 0.2
    """Probability of dropping the colour; 0 turns it off."""
    blur: tuple[float, float] = (1.0, 0.1)
    """Probability of a Gaussian blur of the first and the second view; 0 turns it off."""
    solarize: tuple[float, float] = (0.0, 0.2)
    """Probability of solarisation, likewise."""
    normalize: Normalize = field(default_factory=Normalize)
    """Mean and deviation that views are normalised with."""

    def __post_init__(self) -> None:
        if self.strength < 0:
            raise ValueError(f"{type(self).__name__}.strength must not be negative, got {self.strength}")
        self.views()  # its fields' limits are View's

    def views(self) -> ViewSpec:
        """The two views."""
        s = self.strength
        view = View(
            size=self.size,
            scale=self.crop_scale,
            interpolation="bicubic",
            flip=self.flip,
            grayscale=self.grayscale,
            normalize=self.normalize,
        )
        if s > 0:
            view = replace(view, jitter=0.8, brightness=0.4 * s, contrast=0.4 * s, saturation=0.2 * s, hue=0.1 * s)
        pairs = zip(self.blur, self.solarize, strict=True)
        return ViewSpec([replace(view, blur=blur, solarize=solarize) for blur, solarize in pairs])


@dataclass(frozen=True, kw_only=True)
class MultiCropViews(BYOLViews):
    """Two large views, which are BYOL's, and some small ones, as DINO and its successors take them.

    facebookresearch/dino at 7c446df, main_dino.py, DataAugmentationDINO.
    """

    crop_scale: tuple[float, float] = (0.4, 1.0)
    """Area of the large crops as a share of the image."""
    local_views: int = 8
    """Small views, which the teacher does not see."""
    local_size: int = 96
    """Their side, in pixels."""
    local_scale: tuple[float, float] = (0.05, 0.4)
    """Area of their crops."""
    local_blur: float = 0.5
    """Probability of their Gaussian blur; 0 turns it off."""

    def views(self) -> ViewSpec:
        """The large views first."""
        large = super().views().views
        # PIL's blur has no limit: thirteen taps hold one of 2 pixels to three deviations.
        taps = min(13, self.local_size - 1 | 1)
        small: View = replace(
            large[0],
            size=self.local_size,
            scale=self.local_scale,
            blur=self.local_blur,
            blur_kernel=taps,
            solarize=0.0,
        )
        return ViewSpec([*large, *[small] * self.local_views])


@dataclass(frozen=True, kw_only=True)
class MoCoViews:
    """MoCo v2's augmentation, drawn twice; SimSiam and ReSSL's student take it, too.

    facebookresearch/moco at 4397a04, main_moco.py with --aug-plus.
    """

    size: int = 224
    """Side of the square views, in pixels."""
    crop_scale: tuple[float, float] = (0.2, 1.0)
    """Area of the random crop as a share of the image."""
    flip: float = 0.5
    """Probability of a horizontal flip; 0 turns it off."""
    strength: float = 1.0
    """Factor of the colour jitter's strengths (brightness, contrast and saturation 0.4, hue 0.1); 0 turns it off."""
    grayscale: float = 0.2
    """Probability of dropping the colour; 0 turns it off."""
    blur: float = 0.5
    """Probability of a Gaussian blur; 0 turns it off."""
    normalize: Normalize = field(default_factory=Normalize)
    """Mean and deviation that views are normalised with."""

    def __post_init__(self) -> None:
        if self.strength < 0:
            raise ValueError(f"{type(self).__name__}.strength must not be negative, got {self.strength}")
        self.views()  # its fields' limits are View's

    def views(self) -> ViewSpec:
        """Two draws."""
        return ViewSpec.repeat(self.view(), 2)

    def view(self) -> View:
        """What is drawn."""
        s = self.strength
        view = View(
            size=self.size,
            scale=self.crop_scale,
            flip=self.flip,
            grayscale=self.grayscale,
            blur=self.blur,
            normalize=self.normalize,
        )
        if s > 0:
            view = replace(view, jitter=0.8, brightness=0.4 * s, contrast=0.4 * s, saturation=0.4 * s, hue=0.1 * s)
        return view


RED_DEVIATION = 0.228
"""What the file of SwAV's authors has for 0.229."""


@dataclass(frozen=True, kw_only=True)
class SwAVViews:
    """SwAV's two large views and some small ones, all with SimCLR's colours; DeepCluster-v2 takes them, too.

    facebookresearch/swav at 06b1b7c, src/multicropdataset.py, scripts/swav_800ep_pretrain.sh and
    deepclusterv2_800ep_pretrain.sh.
    """

    size: int = 224
    """Side of the two large views, in pixels."""
    crop_scale: tuple[float, float] = (0.14, 1.0)
    """Area of their crops as a share of the image."""
    local_views: int = 6
    """Small views."""
    local_size: int = 96
    """Their side, in pixels."""
    local_scale: tuple[float, float] = (0.05, 0.14)
    """Area of their crops."""
    flip: float = 0.5
    """Probability of a horizontal flip; 0 turns it off."""
    strength: float = 1.0
    """Factor of the colour jitter's strengths (brightness, contrast and saturation 0.8, hue 0.2); 0 turns it off."""
    grayscale: float = 0.2
    """Probability of dropping the colour; 0 turns it off."""
    blur: float = 0.5
    """Probability of a Gaussian blur; 0 turns it off."""
    normalize: Normalize = field(default_factory=lambda: Normalize(std=(RED_DEVIATION, 0.224, 0.225)))
    """Mean and deviation that views are normalised with."""

    def __post_init__(self) -> None:
        for name in ("local_views", "strength"):
            require(getattr(self, name) >= 0, self, name, "not be negative")
        self.views()  # its fields' limits are View's

    def views(self) -> ViewSpec:
        """The large views, and then the small ones."""
        s = self.strength
        view = View(
            size=self.size,
            scale=self.crop_scale,
            flip=self.flip,
            grayscale=self.grayscale,
            blur=self.blur,
            normalize=self.normalize,
        )
        if s > 0:
            view = replace(view, jitter=0.8, brightness=0.8 * s, contrast=0.8 * s, saturation=0.8 * s, hue=0.2 * s)
        # PIL's blur has no limit: thirteen taps hold one of 2 pixels to three deviations.
        taps = min(13, self.local_size - 1 | 1)
        local = replace(view, size=self.local_size, scale=self.local_scale, blur_kernel=taps)
        return ViewSpec([view, view, *[local] * self.local_views])
