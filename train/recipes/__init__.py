"""Whole configs by name: the settings of a published run, or of one that was tried here."""

from __future__ import annotations

from collections.abc import Callable

from headrace.train.config import RunConfig
from headrace.train.recipes.simclr import simclr_cifar10, simclr_digits, simclr_imagenet

__all__ = ["RECIPES", "simclr_cifar10", "simclr_digits", "simclr_imagenet"]

RECIPES: dict[str, Callable[..., RunConfig]] = {
    "simclr_digits": simclr_digits,
    "simclr_cifar10": simclr_cifar10,
    "simclr_imagenet": simclr_imagenet,
}
"""Every recipe by the name that the command line uses; each takes `data` and `out`."""
