"""Resampling: against scipy with the same filter, against soxr, and cuts against the whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import signal

from headrace.pipeline.sounds.resample import BETA, CROSSINGS, CUTOFF, needed, resample, resampled_length
from tests.conftest import require_peer

RATES = [(44_100, 16_000), (8_000, 16_000), (16_000, 8_000), (48_000, 16_000), (11_025, 44_100), (16_001, 16_000)]


def whole(wave: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    return resample(wave, 0, 0, resampled_length(len(wave), rate, wanted), rate, wanted)


def noise(samples: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(7)).standard_normal(samples).astype(np.float32)


def tones(rate: int, highest: float, samples: int, times_of: int | None = None) -> np.ndarray:
    """float64: twenty sines up to `highest` Hz, at the times of another rate if that is given."""
    time = np.arange(samples) / (times_of or rate)
    found: Any = sum(np.sin(2 * np.pi * f * time + f) for f in np.linspace(0.05, 1, 20) * highest)
    return found / 20


@pytest.mark.parametrize(("rate", "wanted"), RATES)
def test_it_is_scipys_polyphase_filter(rate: int, wanted: int) -> None:
    wave = noise(3000)
    up, down = wanted // np.gcd(rate, wanted), rate // np.gcd(rate, wanted)
    half = CROSSINGS * max(up, down)
    at = np.arange(-half, half + 1)
    taps = np.sinc(CUTOFF * at / max(up, down)) * np.kaiser(len(at), BETA)
    theirs = signal.resample_poly(wave.astype(np.float64), up, down, window=taps / taps.sum())
    ours = whole(wave, rate, wanted)
    assert ours.dtype == np.float32
    assert len(ours) == len(theirs) == -(-3000 * wanted // rate)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize(("rate", "wanted"), RATES)
def test_a_cut_is_what_the_whole_has_there_bit_for_bit(rate: int, wanted: int) -> None:
    wave = noise(3000)
    expected = whole(wave, rate, wanted)
    random = np.random.Generator(np.random.Philox(1))
    places = [(0, 1), (0, len(expected)), (len(expected) - 5, 5)]
    places += [(int(first), int(random.integers(1, 200))) for first in random.integers(0, len(expected) - 200, 40)]
    for first, count in places:
        begin, end = needed(first, count, len(wave), rate, wanted)
        assert 0 <= begin < end <= len(wave)
        cut = resample(wave[begin:end].copy(), begin, first, count, rate, wanted)
        assert np.array_equal(cut, expected[first : first + count])


def test_no_more_is_needed_than_the_filter_reaches() -> None:
    begin, end = needed(1000, 100, 1_000_000, 44_100, 16_000)
    assert end - begin <= 100 * 44_100 / 16_000 + 2 * CROSSINGS * 44_100 / 16_000 + 2
    assert needed(10, 5, 100, 8_000, 8_000) == (10, 15)


@pytest.mark.parametrize(("rate", "wanted"), RATES)
def test_what_is_heard_stays_as_soxr_has_it(rate: int, wanted: int) -> None:
    """Frequencies up to 0.8 of what the lower rate has, away from the ends, where filters of other lengths differ."""
    soxr = require_peer("soxr")
    highest, samples = 0.4 * min(rate, wanted), 20_000
    ours = whole(tones(rate, highest, samples).astype(np.float32), rate, wanted)
    inside = slice(400, -400)
    np.testing.assert_allclose(ours[inside], tones(rate, highest, len(ours), wanted)[inside], atol=5e-5)
    theirs = soxr.resample(tones(rate, highest, samples), rate, wanted, quality="VHQ")
    length = min(len(ours), len(theirs))
    np.testing.assert_allclose(ours[:length][inside], theirs[:length][inside], atol=2e-4)


def test_what_the_lower_rate_cannot_have_is_gone() -> None:
    """80 dB under, from the lower rate's Nyquist frequency on."""
    time = np.arange(40_000) / 44_100
    for frequency in (8_000, 9_500, 15_000):
        wave = np.sin(2 * np.pi * frequency * time).astype(np.float32)
        assert np.abs(whole(wave, 44_100, 16_000)[400:-400]).max() < 2e-4


def test_the_same_rate_changes_nothing() -> None:
    wave = noise(100)
    assert np.array_equal(whole(wave, 8_000, 8_000), wave)
