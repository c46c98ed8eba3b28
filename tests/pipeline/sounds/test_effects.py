"""What happens to a crop behind its cutting: each effect beside its definition, in the plan and through the loader."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import chisquare

from headrace.pipeline import (
    Batch,
    Loader,
    LogMixup,
    Mel,
    Noise,
    ResizeCrop,
    Sound,
    SoundPlan,
    SoundSpec,
    Stripes,
)
from headrace.pipeline.random import draw_units, key_word
from headrace.pipeline.sounds.effects import log_mixed, with_noise
from headrace.pipeline.sounds.resample import resample, resampled_length
from headrace.pipeline.sounds.sounds import other_sounds
from headrace.shards import ShardError, ShardSet, open_shards, write_shards
from tests.sounds import SOUND_FIELDS, sounds

MEL = Mel(definition="librosa", bins=16, window=256, hop=80, fft=256, mean=-5.0, std=4.0)
HEARD = Sound(samples=MEL.samples(33), rate=8000, mel=MEL)
SPEC = SoundSpec(
    [
        replace(HEARD, mixup=LogMixup(), part=ResizeCrop()),
        replace(HEARD, place="first", mixup=LogMixup(), part=ResizeCrop(), stripes=Stripes(frames=6, bins=4)),
        Sound(samples=3000, rate=8000, gain=(-3.0, 3.0), noise=Noise(snr=(0.0, 10.0), probability=0.5)),
        replace(HEARD, short="loop", noise=Noise()),
        replace(HEARD, place="first"),
    ]
)


def filled(spec: SoundSpec, samples: int, length: int = 9000, rate: int = 8000) -> SoundPlan:
    plan = SoundPlan.blank(spec, 3, 1, samples)
    plan.fill(spec, np.arange(samples), np.full(samples, length), np.full(samples, rate))
    return plan


def spectrogram(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((33, 16), np.float32)


# Each by itself


def authors_resize_crop(mel: np.ndarray, spec: ResizeCrop, part: np.ndarray) -> torch.Tensor:
    """With torch's bicubic interpolation, as the authors'."""
    height, width = (int(side * share) for side, share in zip(mel.shape, spec.canvas, strict=True))
    top, left = (height - mel.shape[0]) // 2, (width - mel.shape[1]) // 2
    canvas = F.pad(torch.from_numpy(mel), (left, width - mel.shape[1] - left, top, height - mel.shape[0] - top))
    first, lowest, frames, bins = part.tolist()
    cut = canvas[first : first + frames, lowest : lowest + bins]
    return F.interpolate(cut[None, None], size=mel.shape, mode="bicubic", align_corners=True)[0, 0]


@pytest.mark.parametrize("spec", [ResizeCrop(), ResizeCrop(canvas=(1.0, 1.2), frames=(0.1, 0.3), bins=(1.1, 2.0))])
def test_parts_are_resized_as_by_torch(spec: ResizeCrop) -> None:
    units = np.random.default_rng(1).random((40, 4))
    for number, part in enumerate(spec.draw(units, (33, 16))):
        mel = spectrogram(number)
        expected = authors_resize_crop(mel, spec, part)
        torch.testing.assert_close(torch.from_numpy(spec.apply(mel, part)), expected, rtol=1e-4, atol=1e-5)


def test_parts_have_the_authors_sizes_and_lie_anywhere() -> None:
    spec = ResizeCrop()
    parts = spec.draw(np.random.default_rng(2).random((20_000, 4)), (96, 64))
    first, lowest, frames, bins = parts.T
    assert (frames.min(), frames.max(), bins.min(), bins.max()) == (57, 143, 38, 64)  # bins: the canvas's at most
    assert (bins == 64).mean() == pytest.approx((1.5 - 1.0) / 0.9, abs=0.02)
    assert (first + frames).max() == 144
    assert (lowest + bins).max() == 64
    assert chisquare(np.bincount(first[frames == 100], minlength=45)).pvalue > 1e-4


def test_the_whole_in_its_own_size_is_itself() -> None:
    spec = ResizeCrop()
    mel = spectrogram()
    middle = np.array([(49 - 33) // 2, 0, 33, 16])
    np.testing.assert_array_equal(spec.apply(mel, middle), mel)


def test_a_share_of_nothing_and_two_alike_change_nothing() -> None:
    own, other = spectrogram(0), spectrogram(1)
    assert log_mixed(own, other, 0.0) is own
    np.testing.assert_allclose(log_mixed(own, own, 0.3), own, atol=1e-5)
    expected = np.log(0.7 * np.exp(own.astype(np.float64)) + 0.3 * np.exp(other) + np.finfo(np.float32).eps)
    np.testing.assert_allclose(log_mixed(own, other, 0.3), expected, atol=1e-5)


def test_noise_has_the_power_that_was_drawn() -> None:
    random = np.random.default_rng(3)
    wave, noise = random.standard_normal(4000, np.float32), 0.01 * random.standard_normal(4000, np.float32)
    for snr in (-10.0, 0.0, 13.0):
        added = with_noise(wave, noise, snr).astype(np.float64) - wave
        assert 10 * np.log10((wave.astype(np.float64) ** 2).mean() / (added**2).mean()) == pytest.approx(snr, abs=0.01)
    silence = np.zeros(4000, np.float32)
    assert with_noise(silence, noise, 5.0) is silence
    assert with_noise(wave, silence, 5.0) is wave


def test_stripes_are_as_wide_as_specaugments_and_lie_anywhere() -> None:
    spec = Stripes(times=2, frames=10, pitches=1, bins=40)
    pairs = spec.draw(np.random.default_rng(4).random((22_000, 4)), 0, (33, 16))
    assert chisquare(np.bincount(pairs[:, 1], minlength=11)).pvalue > 1e-4
    assert chisquare(np.bincount(pairs[:, 3], minlength=17)).pvalue > 1e-4  # no wider than the spectrogram
    assert chisquare(np.bincount(pairs[pairs[:, 1] == 5, 0], minlength=29)).pvalue > 1e-4
    assert (pairs[:, 0] + pairs[:, 1]).max() == 33
    assert not spec.draw(np.full((1, 4), 0.9), 1, (33, 16))[:, 2:].any()
    mel = spectrogram() + 10
    found = spec.apply(mel, np.array([[3, 4, 5, 6], [32, 1, 0, 0]]))
    zero = np.zeros((33, 16), bool)
    zero[3:7] = zero[32] = True
    zero[:, 5:11] = True
    np.testing.assert_array_equal(found, np.where(zero, 0, mel))
    assert mel.all()


# In the plan


def test_places_and_gains_are_what_they_were() -> None:
    """Of the first counter block, whatever effects a sound has."""
    plan = filled(SPEC, 50)
    ids = np.arange(50)
    for k, sound in enumerate(SPEC.sounds):
        units = draw_units(key_word(3), key_word(0x736F6E64), np.uint64(k << 16), key_word(1), ids)
        free = 9000 - sound.samples
        if sound.place == "random":
            np.testing.assert_array_equal(plan.start[:, k], (units[:, 0] * (free + 1)).astype(np.int64))
        else:
            np.testing.assert_array_equal(plan.start[:, k], plan.start[:, 0])
        low, high = sound.gain
        np.testing.assert_array_equal(plan.gain[:, k], (low + (high - low) * units[:, 1]).astype(np.float32))


def test_what_is_drawn_for_effects_is_uniform() -> None:
    plan = filled(SPEC, 4000)
    share, snr = plan.share[:, 0], plan.snr[:, 2]
    assert chisquare(np.histogram(share, 10, (0, 0.4))[0]).pvalue > 1e-4
    assert np.isfinite(snr).mean() == pytest.approx(0.5, abs=0.03)
    assert chisquare(np.histogram(snr[np.isfinite(snr)], 10, (0, 10))[0]).pvalue > 1e-4
    assert not np.array_equal(plan.share[:, 0], plan.share[:, 1])
    assert not np.array_equal(plan.part[:, 0], plan.part[:, 1])
    assert (plan.share[:, 2:] == 0).all()
    assert np.isinf(plan.snr[:, [0, 1, 4]]).all()


def test_others_are_any_but_the_sample_itself() -> None:
    many = other_sounds(SPEC, 5, 0, np.arange(14_000), 14_001)
    assert (many[:, [0, 1, 2, 3]] != np.arange(14_000)[:, None]).all()
    assert (many[:, 4] == -1).all()
    assert (many[:, 0] != many[:, 1]).mean() > 0.99
    few = np.concatenate([other_sounds(SPEC, seed, 0, np.array([3]), 7)[:, 0] for seed in range(3000)])
    counts = np.bincount(few, minlength=7)
    assert counts[3] == 0
    assert chisquare(np.delete(counts, 3)).pvalue > 1e-4


def test_the_plain_form_has_no_effects() -> None:
    assert SPEC.plain() == SoundSpec([replace(HEARD, place="center")])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Noise(snr=(5, 0)), r"Noise.snr must be -100 <= low <= high <= 100, got \(5, 0\)"),
        (lambda: Noise(probability=2.0), r"Noise.probability must be in \[0, 1\], got 2.0"),
        (lambda: LogMixup(ratio=0.0), r"LogMixup.ratio must be in \(0, 1\], got 0.0"),
        (lambda: ResizeCrop(canvas=(0.9, 1.0)), r"ResizeCrop.canvas must be at least 1, got \(0.9, 1.0\)"),
        (lambda: ResizeCrop(bins=(0.0, 1.0)), r"ResizeCrop.bins must be 0 < low <= high, got \(0.0, 1.0\)"),
        (lambda: Stripes(times=-1), "Stripes.times must be 0 to 1000, got -1"),
        (lambda: Sound(mixup=LogMixup()), "Sound.mixup must be None where there is no spectrogram, got LogMixup"),
        (lambda: SoundSpec([Sound(place="first")]), "first sound needs a place of its own"),
        (lambda: SoundSpec([Sound(), Sound(samples=9, place="first")]), "needs the samples and the rate of that one"),
    ],
)
def test_what_cannot_be_is_refused(make: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


# Through the loader


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShardSet]:
    """14 notes in FLAC, Ogg and WAV at three rates."""
    path = tmp_path_factory.mktemp("sounds") / "set"
    write_shards(path, sounds(14), SOUND_FIELDS, shard_size=1 << 17)
    with open_shards(path) as opened:
        yield opened


def made(shards: ShardSet, **options: Any) -> list[Batch]:
    with Loader(shards, SPEC, 4, **({"seed": 5, "threads": 2, "drop_last": False} | options)) as loader:
        return [batch.to("cpu") for batch in loader]


def whole(data: bytes, wanted: int) -> np.ndarray:
    import soundfile

    samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    samples = samples.mean(axis=1)
    return resample(samples, 0, 0, resampled_length(len(samples), rate, wanted), rate, wanted)


def cut(wave: np.ndarray, start: int, sound: Sound) -> tuple[np.ndarray, int]:
    """A crop of a whole wave, and how much of it is sound."""
    crop = wave[start : start + sound.samples]
    heard = len(crop)
    filler = np.zeros(sound.samples, np.float32) if sound.short == "pad" else np.tile(crop, sound.samples)
    return np.concatenate([crop, filler])[: sound.samples], heard


def mel_of(wave: np.ndarray, heard: int, sound: Sound) -> np.ndarray:
    assert sound.mel is not None
    return sound.mel.spectrogram(wave, sound.rate, heard if sound.short == "pad" else None)


def plain(shards: ShardSet, sample: int) -> list[np.ndarray]:
    """Each sound of a sample from whole files and the plan's numbers, one effect after the other."""
    own = whole(shards.read(sample)["audio"], 8000)
    ids = np.array([sample])
    plan = SoundPlan.blank(SPEC, 5, 0, 1)
    plan.fill(SPEC, ids, np.array([len(own)]), np.array([8000]))
    others = other_sounds(SPEC, 5, 0, ids, len(shards))[0]
    found = []
    for k, sound in enumerate(SPEC.sounds):
        wave, heard = cut(own, int(plan.start[0, k]), sound)
        if gain := float(plan.gain[0, k]):
            wave = wave * np.float32(10 ** (gain / 20))
        if sound.mixes:
            other = whole(shards.read(int(others[k]))["audio"], 8000)
            plan.fill_other(k, sound, ids, np.array([len(other)]), np.array([8000]))
            background, other_heard = cut(other, int(plan.other_start[0, k]), sound)
        if sound.noise is not None and np.isfinite(plan.snr[0, k]):
            wave = with_noise(wave, background, float(plan.snr[0, k]))
        made = wave
        if sound.mel is not None:
            made = mel_of(wave, heard, sound)
        if sound.mixup is not None:
            made = log_mixed(made, mel_of(background, other_heard, sound), float(plan.share[0, k]))
        if sound.part is not None:
            made = sound.part.apply(made, plan.part[0, k])
        if sound.stripes is not None:
            made = sound.stripes.apply(made, plan.stripes[0, k])
        found.append(made)
    return found


@pytest.mark.peer("soundfile")
def test_a_slow_plain_loop_gives_the_same(shards: ShardSet) -> None:
    for batch in made(shards):
        part = batch["sound"]
        (wave,) = part.waves
        for row, sample in enumerate(batch.index.tolist()):
            first, second, third, fourth, fifth = plain(shards, sample)
            np.testing.assert_array_equal(wave[row].numpy(), third)
            for mel, expected in zip(part.mels, (first, second, fourth, fifth), strict=True):
                np.testing.assert_array_equal(mel[row, 0].numpy(), expected)


@pytest.mark.peer("soundfile")
def test_threads_and_ranks_change_nothing(shards: ShardSet) -> None:
    one = made(shards, threads=1)
    for other in (made(shards, threads=4, prefetch=1), made(shards, threads=1)):
        for a, b in zip(one, other, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(a.tensors(), b.tensors(), strict=True))
    ranks = [made(shards, rank=rank, world_size=2) for rank in range(2)]
    for a, *parts in zip(one[:3], *ranks, strict=False):
        mels = torch.cat([part["sound"].mels[0] for part in parts])
        assert torch.equal(a["sound"].mels[0], mels)


@pytest.mark.peer("soundfile")
def test_a_damaged_other_is_named(shards: ShardSet, tmp_path: Path) -> None:
    samples = list(sounds(3))
    samples[2]["audio"] = samples[2]["audio"][:100]
    write_shards(tmp_path / "set", samples, SOUND_FIELDS)
    spec = SoundSpec([replace(HEARD, mixup=LogMixup())])
    seeds = [seed for seed in range(9) if other_sounds(spec, seed, 0, np.array([0]), 3)[0, 0] == 2]
    said = "key note_002: cannot decode the sound"
    with (
        open_shards(tmp_path / "set") as damaged,
        Loader(damaged, spec, 1, shuffle=False, seed=seeds[0]) as loader,
        pytest.raises(ShardError, match=said),
    ):
        next(iter(loader))
    write_shards(tmp_path / "one", samples[:1], SOUND_FIELDS)
    with open_shards(tmp_path / "one") as one, pytest.raises(ValueError, match="and the set has one"):
        Loader(one, spec, 1)
