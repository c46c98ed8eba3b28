"""The video peers decode the very frames that Headrace does, and their clips look alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from headrace.benchmarks.loader import VIDEOMAE
from headrace.benchmarks.peers.video_dataset import Clips, chosen
from headrace.benchmarks.videos import training_videos
from headrace.pipeline import Clip, plan
from tests import clips

pytestmark = pytest.mark.peer("av")
SMOKE_VIDEOS = 3


@pytest.fixture(scope="module")
def videos() -> list[Path]:
    return clips.fetched(lambda: training_videos(SMOKE_VIDEOS))


def test_training_videos_are_what_they_say(videos: list[Path]) -> None:
    from headrace.tools.media.videos import probe_video

    for video in videos:
        info = probe_video(video.read_bytes())
        assert (info.width, info.height, info.frames, info.fps, info.codec) == (340, 256, 250, 25.0, "h264")


@pytest.mark.parametrize("peer", ["av", pytest.param("torchcodec", marks=pytest.mark.peer("torchcodec"))])
def test_the_same_frames(peer: str, videos: list[Path]) -> None:
    from headrace.benchmarks.peers import pyav, torchcodec
    from headrace.shards.formats.video import open_video

    decode = {"av": pyav.decode, "torchcodec": torchcodec.decode}[peer]
    for video, first in zip(videos, (0, 77, 189), strict=True):
        wanted = [first + 4 * number for number in range(16)]
        found = decode(video, lambda length, wanted=wanted: wanted if length == 250 else [])
        assert found.shape == (16, 3, 256, 340)
        with open_video(video.read_bytes()) as opened:
            expected = np.stack([picture for _, picture in opened.pictures(wanted)])
        difference = (found.permute(0, 2, 3, 1).int() - torch.from_numpy(expected).int()).abs().float()
        # TorchCodec may have another FFmpeg, whose conversion to RGB rounds otherwise; a frame beside differs by more.
        assert difference.mean() <= (0 if peer == "av" else 1.5)
        if peer == "av":
            neighbour = np.abs(expected[1:].astype(int) - expected[:-1]).mean()
            assert neighbour > 3


def test_a_clip_and_its_mask(videos: list[Path]) -> None:
    from headrace.benchmarks.peers import pyav

    clip, visible, masked = Clips(videos, VIDEOMAE, pyav.decode)[1]
    assert (clip.shape, clip.dtype) == ((3, 16, 224, 224), torch.float32)
    assert torch.equal(torch.cat([visible, masked]).sort().values, torch.arange(8 * 196))
    assert torch.equal(visible.view(8, 20) % 196, (visible[:20] % 196).expand(8, 20))


def test_crops_are_as_large_as_videomaes() -> None:
    """GroupMultiScaleCrop of VideoMAE's transforms.py in a frame of 340 x 256."""
    sides = [int(256 * scale) for scale in (1, 0.875, 0.75, 0.66)]
    pairs = [(w, h) for i, w in enumerate(sides) for j, h in enumerate(sides) if abs(i - j) <= 1]
    drawn = plan(VIDEOMAE.views, 0, 0, np.arange(4000), np.tile((256, 340), (4000, 1)))
    height, width = drawn.crop[:, 0, 2:].T.astype(float)
    shares, aspects = [w * h / (340 * 256) for w, h in pairs], [w / h for w, h in pairs]
    assert np.percentile(height * width / (340 * 256), [0, 100]) == pytest.approx([min(shares), max(shares)], abs=0.02)
    assert np.percentile(width / height, [0, 100]) == pytest.approx([min(aspects), max(aspects)], abs=0.02)
    assert np.mean(height * width) / (340 * 256) == pytest.approx(np.mean(shares), abs=0.03)


def test_frames_are_chosen_as_headrace_chooses_them() -> None:
    clip = Clip(frames=4, strides=(3,))
    firsts = {tuple(chosen(clip, 12)) for _ in range(200)}
    assert firsts == {(0, 3, 6, 9), (1, 4, 7, 10), (2, 5, 8, 11)}
    assert chosen(clip, 5) == [0, 3, 4, 4]
