"""Views in the words of the authors' code, to be compared with what it says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headrace.pipeline import View

IMAGENET = (0.229, 0.224, 0.225)
NO_JITTER = (0.0, 0.0, 0.0, 0.0, 0.0)
STRONG, BYOL = (0.8, 0.8, 0.8, 0.8, 0.2), (0.8, 0.4, 0.4, 0.2, 0.1)
PIL = 13
"""Taps for a blur without an end, on small views."""


def in_torchvisions_words(views: Sequence[View]) -> list[tuple[Any, ...]]:
    """RandomResizedCrop, flip, ColorJitter, grayscale, blur, solarisation, Normalize; the rest is torchvision's."""
    assert all(view.ratio == (3 / 4, 4 / 3) and view.solarize_threshold == 128 for view in views)
    return [
        (
            (view.size, *view.scale),
            view.flip,
            (view.jitter, view.brightness, view.contrast, view.saturation, view.hue),
            view.grayscale,
            (view.blur, *view.blur_sigma, view.blur_taps) if view.blur else (),
            view.solarize,
            view.normalize.std,
        )
        for view in views
    ]


def plain(size: int, smallest: float) -> tuple[Any, ...]:
    """A crop and a flip."""
    return (size, smallest, 1.0), 0.5, NO_JITTER, 0.0, (), 0.0, IMAGENET


def byol_pair(smallest: float) -> list[tuple[Any, ...]]:
    """BYOL's views, which others take with crops of their own: always blurred, and seldom, but solarised."""
    crop = (224, smallest, 1.0)
    return [
        (crop, 0.5, BYOL, 0.2, (1.0, 0.1, 2.0, 23), 0.0, IMAGENET),
        (crop, 0.5, BYOL, 0.2, (0.1, 0.1, 2.0, 23), 0.2, IMAGENET),
    ]
