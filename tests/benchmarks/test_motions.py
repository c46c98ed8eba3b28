"""Motions: what a window sees of a picture says which way the camera went."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from headrace.benchmarks.motions import FRAMES, MOTIONS, SHIFT, SIDE, ZOOM, shot, window

HEIGHT, WIDTH = 200, 240


def seen(motion: str, number: int) -> np.ndarray:
    """float64 (T, S, S, 2): row and column in the picture of every pixel of every frame."""
    rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    picture = torch.stack([rows, columns, rows]).float()
    frames = shot(picture, window(motion, np.random.Generator(np.random.Philox([5, number])), HEIGHT, WIDTH))
    assert frames.shape == (FRAMES, SIDE, SIDE, 3)
    return frames[..., :2].astype(np.float64)


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("motion", MOTIONS)
def test_the_camera_goes_as_the_label_says(motion: str, number: int) -> None:
    places = seen(motion, number)
    down, right = np.moveaxis(np.diff(places.mean(axis=(1, 2)), axis=0), -1, 0)
    width = np.linalg.norm(places[:, SIDE // 2, -1] - places[:, SIDE // 2, 0], axis=-1)
    growth = width[1:] / width[:-1]
    top = places[:, 0].mean(axis=1) - places[:, -1].mean(axis=1)  # from the bottom edge to the top edge
    angle = np.unwrap(np.arctan2(top[:, 1], -top[:, 0]))  # of what is up in the frame, clockwise in the picture
    signs = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}.get(motion, (0, 0))
    for moved, sign in ((down, signs[0]), (right, signs[1])):
        if sign:
            assert (sign * moved > SHIFT[0] - 0.3).all()
            assert (sign * moved < SHIFT[1] + 0.3).all()
        else:
            assert np.abs(moved).max() < 0.5
    if motion in ("nearer", "farther"):
        factor = 1 / growth if motion == "nearer" else growth
        assert 1.0 < factor.mean() < ZOOM[1] + 0.01
    else:
        assert np.abs(growth - 1).max() < 0.08
    turned = angle[-1] - angle[0]
    assert np.sign(np.round(turned, 1)) == {"clockwise": 1, "counter-clockwise": -1}.get(motion, 0)
