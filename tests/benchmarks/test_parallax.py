"""Scenes whose depth is known: frames explain each other by it, and errors of depth are what they say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from headrace.benchmarks import parallax
from headrace.benchmarks.parallax import (
    FRAMES,
    INTRINSICS,
    SIDE,
    WAYS,
    facing,
    parallax_clips,
    relative_error,
    scene,
    way,
)
from headrace.models.parts.cameras import Intrinsics, Motion, moved
from headrace.shards import open_shards


@pytest.fixture(autouse=True)
def pictures(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Smooth textures in the place of photographs."""
    generator = torch.Generator().manual_seed(0)
    rough = torch.rand(4, 3, 30, 40, generator=generator) * 255
    smooth = list(torch.nn.functional.interpolate(rough, scale_factor=8, mode="bicubic").clamp(0, 255))
    monkeypatch.setattr(parallax, "sources", lambda split: list(range(4)))
    monkeypatch.setattr(parallax, "shrunk", smooth.__getitem__)
    return smooth


@pytest.fixture
def clips() -> list[dict[str, Any]]:
    return list(parallax_clips("train", 4))


def test_clips_are_frames_a_depth_and_the_way_that_the_camera_goes(clips: list[dict[str, Any]]) -> None:
    for number, clip in enumerate(clips):
        assert clip["frames"].shape == (FRAMES, SIDE, SIDE, 3)
        assert clip["depth"].shape == (SIDE, SIDE)
        assert clip["depth"].dtype == np.float32
        assert WAYS[clip["label"]] == WAYS[number]
        floor = clip["depth"][-1]  # the camera is 1 above it
        expected = 52.0 / (SIDE - 0.5 - SIDE / 2)
        assert np.median(floor) == pytest.approx(expected, rel=1e-5)
    again = list(parallax_clips("train", 4))
    assert all(np.array_equal(a["frames"], b["frames"]) for a, b in zip(clips, again, strict=True))


def test_other_frames_explain_the_middle_one_by_its_depth(clips: list[dict[str, Any]], pictures: list[Tensor]) -> None:
    """Where the camera is known, what is moved differs far less than what is not."""
    camera = Intrinsics(*(torch.tensor([value]) for value in INTRINSICS))
    for number, clip in enumerate(clips):
        random = np.random.Generator(np.random.Philox([10, number]))
        scene(random, pictures)
        step, turn = way(random, clip["label"])
        frames = torch.from_numpy(clip["frames"]).permute(0, 3, 1, 2).float() / 255
        depth, middle = torch.from_numpy(clip["depth"])[None, None], frames[FRAMES // 2]
        for since in (-1, 1):
            turned = facing(since * turn)
            motion = Motion(turned[None].float(), (-turned @ (since * step))[None].float())
            source = frames[FRAMES // 2 + since]
            there = moved(source[None], depth, camera, motion, "border")[0]
            wrong = moved(source[None], depth, camera, motion.inverted(), "border")[0]
            error, still, away = ((each - middle).abs().median().item() for each in (there, source, wrong))
            assert error < 0.35 * still
            assert error < 0.25 * away


def test_the_error_knows_no_unit() -> None:
    true = torch.rand(3, 5, 5) + 1
    assert relative_error(7 * true, true).abs().max() < 1e-6
    wrong = true.clone()
    wrong[0, 0, 0] = 1.5 * true[0, 0, 0]
    medians = true[0].median() / wrong[0].median()
    expected = ((wrong[0] * medians - true[0]).abs() / true[0]).mean()
    torch.testing.assert_close(relative_error(wrong, true)[0], expected)


def test_it_is_written_and_judged(tmp_path: Path) -> None:
    parallax.write_parallax(tmp_path, {"train": 4, "test": 8})
    with open_shards(tmp_path / "test") as shards:
        assert len(shards) == 8
        true = torch.stack([torch.from_numpy(shards.read(n)["depth"]) for n in range(8)])
    given: Iterator[Tensor] = iter([true[:, None]])
    assert parallax.judged(lambda images: next(given), tmp_path / "test") < 1e-6
    constant = parallax.judged(lambda images: torch.ones_like(images[:, :1]), tmp_path / "test")
    medians = true.flatten(1).median(dim=1).values[:, None, None]
    assert constant == pytest.approx(((medians - true).abs() / true).mean().item(), rel=1e-5)
