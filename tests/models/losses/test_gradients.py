"""Histograms of oriented gradients against a slow loop, and what the authors' code says of simple pictures."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from headrace.models.losses import cells_from_patches, cells_of_patches, drawn_gradients, oriented_gradients


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow(image: Tensor, cell: int) -> Tensor:
    """Of one channel (H, W): (9, H / cell, W / cell), pixel by pixel."""
    height, width = image.shape

    def at(row: int, column: int) -> float:
        row, column = abs(row), abs(column)
        row = 2 * (height - 1) - row if row >= height else row
        column = 2 * (width - 1) - column if column >= width else column
        return float(image[row, column])

    found = torch.zeros(9, height // cell, width // cell, dtype=torch.float64)
    for r in range(height):
        for c in range(width):
            x = sum(w * (at(r + d, c - 1) - at(r + d, c + 1)) for d, w in ((-1, 1), (0, 2), (1, 1)))
            y = sum(w * (at(r - 1, c + d) - at(r + 1, c + d)) for d, w in ((-1, 1), (0, 2), (1, 1)))
            number = math.floor(math.atan2(x, y) / math.pi * 9) % 9
            found[number, r // cell, c // cell] += math.sqrt(x * x + y * y)
    lengths = found.square().sum(dim=0).sqrt()
    return found / lengths


def test_it_is_the_slow_loop() -> None:
    images = draw(2, 3, 12, 8)
    found = oriented_gradients(images, 4)
    assert found.shape == (2, 3, 9, 3, 2)
    expected = torch.stack([torch.stack([slow(channel, 4) for channel in image]) for image in images])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def ramp(along: int) -> Tensor:
    """Brighter to the right (3) or downwards (2)."""
    numbers = torch.arange(16.0)
    return (numbers if along == 3 else numbers[:, None]).expand(1, 3, 16, 16)


@pytest.mark.parametrize(("along", "number"), [(3, 4), (2, 0)], ids=["horizontal", "vertical"])
def test_a_ramp_is_in_one_bin(along: int, number: int) -> None:
    """That of the horizontal gradient is the fifth, that of the vertical one the first; so is a ramp downhill."""
    for image in (ramp(along), -ramp(along)):
        found = oriented_gradients(image, 8)
        assert torch.equal(found[:, :, number], torch.ones(1, 3, 2, 2))
        assert found.sum() == 12


def test_contrast_the_other_way_round_changes_nothing() -> None:
    images = draw(4, 3, 16, 16)
    torch.testing.assert_close(oriented_gradients(-images, 8), oriented_gradients(images, 8))


def test_each_cell_and_channel_has_length_one_or_none() -> None:
    images = draw(2, 3, 16, 16)
    images[0, 1] = 7.0
    lengths = oriented_gradients(images, 8).norm(dim=2)
    assert (lengths[0, 1] == 0).all()
    torch.testing.assert_close(lengths[1], torch.ones(3, 2, 2, dtype=torch.float64))


def test_patches_hold_their_cells_channel_by_channel_bin_by_bin() -> None:
    gradients = draw(2, 3, 9, 6, 4)
    patches = cells_of_patches(gradients, 2)
    assert patches.shape == (2, 6, 108)
    assert torch.equal(patches[1, 3], gradients[1, :, :, 2:4, 2:4].flatten())  # second row, second column
    assert torch.equal(cells_from_patches(patches, 2, 3), gradients)


def test_bfloat16_images_have_float32_gradients_under_autocast() -> None:
    images = draw(1, 3, 16, 16).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = oriented_gradients(images, 8)
    assert found.dtype == torch.float32
    assert torch.equal(found, oriented_gradients(images.float(), 8))


@pytest.mark.parametrize("along", [3, 2], ids=["horizontal", "vertical"])
def test_lines_are_drawn_along_the_edge(along: int) -> None:
    """A horizontal gradient stands on vertical edges, but for half a bin."""
    gradients = oriented_gradients(ramp(along), 8)
    picture = drawn_gradients(gradients, 8)
    assert picture.shape == (1, 1, 16, 16)
    assert 0 <= picture.min() < picture.max() <= 1
    line = picture[0, 0, :8, :8]
    along_rows, along_columns = line.sum(dim=1).std(), line.sum(dim=0).std()
    assert (along_columns > along_rows) == (along == 3)
