"""Plans of sounds: the same draws whoever asks, places and gains as they are described."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headrace.pipeline import Mel, Sound, SoundPlan, SoundSpec

SPEC = SoundSpec(
    [
        Sound(samples=1000, rate=8000, gain=(-6.0, 3.0)),
        Sound(samples=500, rate=16_000, place="center"),
        Sound(samples=500, rate=16_000, place="start"),
    ]
)


def plan_of(spec: SoundSpec, ids: np.ndarray, lengths: Any, rates: Any, seed: int = 3, epoch: int = 1) -> SoundPlan:
    plan = SoundPlan.blank(spec, seed, epoch, len(ids))
    plan.fill(spec, ids, np.broadcast_to(lengths, ids.shape), np.broadcast_to(rates, ids.shape))
    return plan


def test_a_row_depends_on_its_sample_alone() -> None:
    ids = np.arange(40)
    lengths = 3000 + 100 * ids
    whole = plan_of(SPEC, ids, lengths, 8000)
    for i in (0, 17, 39):
        alone = plan_of(SPEC, ids[i : i + 1], lengths[i : i + 1], 8000)
        for name in ("start", "length", "gain"):
            assert np.array_equal(getattr(alone, name), getattr(whole, name)[i : i + 1])
    others = [plan_of(SPEC, ids, lengths, 8000, seed=4), plan_of(SPEC, ids, lengths, 8000, epoch=2)]
    assert all(not np.array_equal(other.start, whole.start) for other in others)


def test_places_are_uniform_and_gains_too() -> None:
    """Chi-squared over ten equal parts, 99.9 %."""
    ids = np.arange(5000)
    plan = plan_of(SPEC, ids, 10_999, 8000)
    start, gain = plan.start[:, 0], plan.gain[:, 0]
    assert start.min() >= 0
    assert start.max() <= 9999
    assert ((gain >= -6) & (gain <= 3)).all()
    for counts in (np.bincount(start // 1000, minlength=10), np.histogram(gain, 10, (-6, 3))[0]):
        assert ((counts - 500) ** 2 / 500).sum() < 27.9
    assert abs(np.corrcoef(start, gain)[0, 1]) < 0.05


def test_every_place_comes_and_none_beyond_the_end() -> None:
    spec = SoundSpec([Sound(samples=1000, rate=8000)])
    starts = plan_of(spec, np.arange(500), 1003, 8000).start[:, 0]
    assert set(starts.tolist()) == {0, 1, 2, 3}


def test_places_that_are_not_drawn() -> None:
    plan = plan_of(SPEC, np.arange(3), [1000, 2001, 100], 8000)
    assert plan.start[:, 1].tolist() == [(2000 - 500) // 2, (4002 - 500) // 2, 0]
    assert plan.start[:, 2].tolist() == [0, 0, 0]
    assert plan.length[:, 0].tolist() == [1000, 1000, 100]
    assert plan.length[:, 1].tolist() == [500, 500, 200]  # counted at 16 kHz


def test_two_draws_of_one_sound_differ() -> None:
    plan = plan_of(SoundSpec.repeat(SPEC.sounds[0], 2), np.arange(50), 9000, 8000)
    assert (plan.start[:, 0] != plan.start[:, 1]).mean() > 0.9


def test_rows_index_as_one() -> None:
    plan = plan_of(SPEC, np.arange(6), 9000, 8000)
    some = plan[2:4]
    assert len(some) == 2
    assert np.array_equal(some.start, plan.start[2:4])
    plan[0:2] = some
    assert np.array_equal(plan.gain[0:2], some.gain)
    assert plan.drawn().start.shape == (6, 3)


def test_the_plain_form_draws_nothing() -> None:
    mel = Mel(bins=8, window=100, hop=40, fft=128)
    spec = SoundSpec([Sound(samples=500, gain=(-3, 3), mel=mel), Sound(samples=100)], field="noise")
    assert spec.plain() == SoundSpec([Sound(samples=500, place="center", mel=mel)], field="noise")
    assert SoundSpec([Sound(samples=500, place="start")]).plain().sounds[0].place == "start"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"samples": 0}, "Sound.samples must be 1 to 67108864, got 0"),
        ({"rate": 0}, "Sound.rate must be 1 to 384000, got 0"),
        ({"place": "end"}, "Sound.place must be random, center, start or first, got end"),
        ({"gain": (3.0, -3.0)}, r"Sound.gain must be -100 <= low <= high <= 100, got \(3.0, -3.0\)"),
        ({"short": "clamp"}, "Sound.short must be pad or loop, got clamp"),
        ({"samples": 399, "mel": Mel()}, "Sound.samples must be at least 400 for its spectrogram, got 399"),
        ({"rate": 40, "mel": Mel()}, "Sound.mel.low must be below half of the rate 40, got 20.0"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}$"):
        Sound(**settings)


def test_no_sounds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^SoundSpec needs at least one sound$"):
        SoundSpec([])
