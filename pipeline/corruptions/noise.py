"""Noise on levels from 0 to 1, each channel by itself. All take (x (S, S, 3), parameters, random)."""

from __future__ import annotations

import numpy as np

from headrace.pipeline.corruptions.filters import Floats


def gaussian_noise(x: Floats, deviation: float, random: np.random.Generator) -> Floats:
    return x + random.normal(0.0, deviation, x.shape)


def shot_noise(x: Floats, photons: float, random: np.random.Generator) -> Floats:
    """Poisson counts of so many photons at level 1."""
    return np.asarray(random.poisson(x * photons) / photons)


def impulse_noise(x: Floats, share: float, random: np.random.Generator) -> Floats:
    """Salt and pepper, as likely as each other."""
    struck = random.random(x.shape) <= share
    salt = random.random(x.shape) <= 0.5
    return np.where(struck, salt, x)


def speckle_noise(x: Floats, deviation: float, random: np.random.Generator) -> Floats:
    return x + x * random.normal(0.0, deviation, x.shape)
