"""Pictures of sounds: what they show is what the loader delivered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from headrace.pipeline import FrameSpanMask, NegativeFrameDraw, RandomMask, Sound, SoundSpec
from headrace.pipeline.masks import draw_masks
from headrace.pipeline.sounds.mel import Mel
from headrace.shards import ShardSet
from headrace.tools.errors import UserError
from headrace.tools.pictures.delivered import delivered
from headrace.tools.pictures.masks import count_in_words, hidden_rows, masked
from headrace.tools.pictures.show import show, shown
from headrace.tools.pictures.show_sounds import coloured, sounds_of

MEL = Mel(bins=32)
SPEC = SoundSpec(
    [
        Sound(samples=MEL.samples(32), gain=(-3, 3), mel=MEL),
        Sound(samples=2000),
        Sound(samples=MEL.samples(16), mel=MEL),
    ],
    [RandomMask(grid=(4, 4), ratio=0.5)],
)


@pytest.mark.peer("soundfile")
def test_rows_hold_waves_and_spectrograms_in_the_order_of_the_sounds(sounds_webdataset: ShardSet) -> None:
    one = delivered(sounds_webdataset, SPEC, count=3, seed=2)["sound"]
    rows = sounds_of(one)
    assert [len(row) for row in rows] == [3, 3, 3]
    for number, (first, second, third) in enumerate(rows):
        assert first.spectrogram is not None
        assert third.spectrogram is not None
        assert second.wave is not None
        assert first.spectrogram.shape == (32, 32, 3)
        assert third.spectrogram.shape == (16, 32, 3)
        assert np.array_equal(first.spectrogram, coloured(one.part.mels[0][number, 0].numpy()))
        assert np.array_equal(second.wave, one.part.waves[0][number].numpy())
        assert one.titles[number] in first.words
        assert f"{float(one.part.drawn.gain[number, 0]):+.1f} dB" in first.words


@pytest.mark.peer("soundfile")
def test_a_mask_dims_what_it_hides(sounds_webdataset: ShardSet) -> None:
    one = delivered(sounds_webdataset, SPEC, count=2)["sound"]
    for number, (plain, behind) in enumerate(sounds_of(one, masks=True)):
        assert plain.spectrogram is not None
        assert behind.spectrogram is not None
        changed = (plain.spectrogram != behind.spectrogram).any(axis=2).reshape(4, 8, 4, 8).any(axis=(1, 3))
        assert np.flatnonzero(changed).tolist() == sorted(one.part.masks[0].masked[number].tolist())


def test_brighter_is_more() -> None:
    levels = coloured(np.linspace(-5, 7, 12, dtype=np.float32).reshape(3, 4)).sum(axis=2).ravel().tolist()
    assert levels == sorted(levels)
    assert coloured(np.zeros((2, 2), np.float32)).max() < 64  # silence is dark


@pytest.mark.peer("soundfile")
@pytest.mark.parametrize("what", ["sounds", "masks"])
def test_pictures_are_written(what: str, sounds_webdataset: ShardSet, tmp_path: Path) -> None:
    (file,) = show(what, sounds_webdataset.path, SPEC, tmp_path / "sounds.png", count=2)
    assert file.stat().st_size > 10_000


def test_sounds_have_no_views(sounds_webdataset: ShardSet, tmp_path: Path) -> None:
    assert shown(SPEC) == {"sounds": ["sound"], "masks": ["sound"]}
    with pytest.raises(UserError, match="there are no views; there are sounds and masks"):
        show("views", sounds_webdataset.path, SPEC, tmp_path / "sounds.png")


def test_hidden_frames_are_gaps_in_a_wave_and_dimmed_in_a_spectrogram() -> None:
    spec, draw = FrameSpanMask(frames=20, span=3, ratio=0.3), NegativeFrameDraw(frames=4, among=6, count=5)
    mask, negatives = draw_masks((spec, draw), 0, 0, np.arange(1))
    hidden = np.zeros(20, bool)
    hidden[mask.masked[0].numpy()] = True
    np.testing.assert_array_equal(hidden_rows(spec, mask, 200), np.repeat(hidden, 10))
    view = np.full((20, 5, 3), 250, np.uint8)
    shown = masked(view, spec, mask)
    assert (shown[~hidden] == 250).all()
    assert (shown[hidden] != 250).all()
    assert masked(view, draw, negatives) is view
    assert count_in_words(mask) == f"{spec.masked} frames hidden"
    assert count_in_words(negatives) == "5 negatives of each of 4 frames"


@pytest.mark.peer("soundfile")
def test_a_wave_has_gaps_where_its_frames_are_hidden(sounds_webdataset: ShardSet) -> None:
    spec = FrameSpanMask(frames=20, span=3, ratio=0.3)
    waves = SoundSpec([Sound(samples=2000, short="loop")], [spec, NegativeFrameDraw(frames=4, among=6)])
    one = delivered(sounds_webdataset, waves, count=2)["sound"]
    for plain, behind, drawn in sounds_of(one, masks=True):
        assert plain.wave is not None
        assert behind.wave is not None
        assert drawn.wave is not None
        assert np.isnan(behind.wave).sum() == spec.masked * 100
        assert np.array_equal(plain.wave, drawn.wave)
