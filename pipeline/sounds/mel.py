"""Mel spectrograms: short pieces of a wave, the power of their frequencies, and its sums over bands of equal width to
the ear, in logarithms."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from scipy import fft

from headrace.pipeline.checks import check
from headrace.pipeline.compiled import kernel

PREEMPHASIS = 0.97
"""Kaldi's: how much of the sample before is taken off."""

POVEY = 0.85
"""Likewise: the power of a Hann window that its own window is."""


@dataclass(frozen=True, kw_only=True)
class Mel:
    """One kind of log-mel spectrogram, in one of two common definitions.

    kaldi: frames lie wholly inside the wave; each loses its mean and is pre-emphasised; a symmetric Hann window;
    triangles on the mel scale. As `compute-fbank-feats` of kaldi-asr/kaldi and torchaudio.compliance.kaldi.fbank with
    a Hann window and without dither. What is padded behind a sound is 0, as in YuanGongND/ast and
    facebookresearch/AudioMAE.

    librosa: frames are centred at multiples of the hop, with zeros beyond both ends; a periodic Hann window; triangles
    on the scale of frequencies, of equal area. As librosa.feature.melspectrogram. What is padded is silence.
    """

    definition: Literal["kaldi", "librosa"] = "kaldi"
    """See above."""
    bins: int = 128
    """Bands."""
    window: int = 400
    """Samples of a frame."""
    taper: Literal["hann", "povey"] = "hann"
    """Window that a frame is multiplied by. povey: Kaldi's own, in its definition only, a Hann window to the power of
    0.85."""
    hop: int = 160
    """Samples from a frame to the next."""
    fft: int = 512
    """Points of the Fourier transform; what the window does not fill is zero."""
    low: float = 20.0
    """Where the lowest band begins, in Hz."""
    high: float | None = None
    """Where the highest ends; None for half of the rate."""
    scale: Literal["htk", "slaney"] = "htk"
    """htk: 2595 log10(1 + f / 700). slaney: linear up to 1 kHz, logarithmic above."""
    log: Literal["ln", "db"] = "ln"
    """ln: the natural logarithm. db: 10 log10."""
    floor: float = float(np.finfo(np.float32).eps)
    """Smallest power that is told from none."""
    mean: float = 0.0
    """Subtracted from the logarithms."""
    std: float = 1.0
    """What they are divided by then."""

    def __post_init__(self) -> None:
        check(self.definition in ("kaldi", "librosa"), self, "definition", self.definition, "kaldi or librosa")
        for name in ("bins", "hop"):
            check(getattr(self, name) >= 1, self, name, getattr(self, name), "at least 1")
        check(self.taper in ("hann", "povey"), self, "taper", self.taper, "hann or povey")
        good = self.taper == "hann" or self.definition == "kaldi"
        check(good, self, "taper", self.taper, "hann in librosa's definition")
        check(self.window >= 2, self, "window", self.window, "at least 2")
        check(self.fft >= self.window and self.fft % 2 == 0, self, "fft", self.fft, f"even and at least {self.window}")
        check(self.low >= 0, self, "low", self.low, "at least 0")
        check(self.high is None or self.high > self.low, self, "high", self.high, f"above {self.low}, or None")
        check(self.scale in ("htk", "slaney"), self, "scale", self.scale, "htk or slaney")
        check(
            self.scale == "htk" or self.definition == "librosa", self, "scale", self.scale, "htk in Kaldi's definition"
        )
        check(self.log in ("ln", "db"), self, "log", self.log, "ln or db")
        check(self.floor > 0, self, "floor", self.floor, "above 0")
        check(self.std > 0, self, "std", self.std, "above 0")

    def frames(self, samples: int) -> int:
        """Of a wave."""
        if self.definition == "librosa":
            return 1 + samples // self.hop
        return 1 + (samples - self.window) // self.hop if samples >= self.window else 0

    def samples(self, frames: int) -> int:
        """Of the shortest wave with so many frames."""
        return (frames - 1) * self.hop + (self.window if self.definition == "kaldi" else 0)

    def spectrogram(self, wave: np.ndarray, rate: int, sound: int | None = None) -> np.ndarray:
        """float32 (frames, bins) of a wave, float32 (samples,), at `rate` Hz.

        Args:
            sound: samples that are sound, where the others are padding; None for all.
        """
        sound = len(wave) if sound is None else min(len(wave), max(sound, self.window))
        pieces = self._pieces(wave[:sound] if self.definition == "kaldi" else wave)  # (frames, window), float64
        spectrum = fft.rfft(pieces, self.fft, axis=1)
        bank, begins, ends = bands_of(self, rate)
        power = np.empty((len(spectrum), self.bins))
        _sum_bands(spectrum, bank, begins, ends, power)
        np.maximum(power, self.floor, out=power)
        logarithms = np.log(power) if self.log == "ln" else 10 * np.log10(power)
        whole = np.zeros((self.frames(len(wave)), self.bins), np.float32)
        whole[: len(logarithms)] = logarithms
        return (whole - np.float32(self.mean)) / np.float32(self.std)

    def _pieces(self, wave: np.ndarray) -> np.ndarray:
        """float64 (frames, window), windowed."""
        if self.definition == "librosa":
            first = (self.fft - self.window) // 2
            frames = _every(np.pad(wave, self.fft // 2), self.fft, self.hop)[:, first : first + self.window]
            return frames * _hann(self.window, periodic=True)
        frames = _every(wave, self.window, self.hop)
        frames -= frames.mean(axis=1, keepdims=True)
        before = np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
        window = _hann(self.window, periodic=False)
        return (frames - PREEMPHASIS * before) * (window if self.taper == "hann" else window**POVEY)


def _every(wave: np.ndarray, length: int, hop: int) -> np.ndarray:
    """float64 (pieces, length): all whole pieces that begin at multiples of the hop."""
    return np.lib.stride_tricks.sliding_window_view(wave, length)[::hop].astype(np.float64)


@lru_cache(maxsize=16)
def _hann(length: int, periodic: bool) -> np.ndarray:
    """float64 (length,)"""
    return 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / (length if periodic else length - 1))


def to_mel(hertz: Any, scale: str) -> Any:
    """Frequencies on the mel scale; see `Mel.scale`."""
    hertz = np.asarray(hertz, np.float64)
    if scale == "htk":
        return 1127.0 * np.log1p(hertz / 700.0)
    step = np.log(6.4) / 27.0
    return np.where(hertz < 1000.0, hertz * 3 / 200, 15.0 + np.log(np.maximum(hertz, 1000.0) / 1000.0) / step)


def from_mel(mel: Any, scale: str) -> Any:
    """Inverse of `to_mel`."""
    mel = np.asarray(mel, np.float64)
    if scale == "htk":
        return 700.0 * np.expm1(mel / 1127.0)
    step = np.log(6.4) / 27.0
    return np.where(mel < 15.0, mel * 200 / 3, 1000.0 * np.exp(step * (mel - 15.0)))


@lru_cache(maxsize=16)
def bands_of(mel: Mel, rate: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights float64 (bins, fft / 2 + 1), and for each band where those that are not 0 begin and end."""
    high = rate / 2 if mel.high is None else min(mel.high, rate / 2)
    edges = np.linspace(to_mel(mel.low, mel.scale), to_mel(high, mel.scale), mel.bins + 2)
    at = np.arange(mel.fft // 2 + 1) * rate / mel.fft
    if mel.definition == "kaldi":
        places = to_mel(at, mel.scale)
    else:
        places, edges = at, from_mel(edges, mel.scale)
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    bank = np.minimum((places - left) / (centre - left), (right - places) / (right - centre)).clip(min=0.0)
    if mel.definition == "kaldi":
        bank[:, -1] = 0.0  # half of the rate itself is left out
    else:
        bank *= 2.0 / (right - left)
    begins = np.argmax(bank > 0, axis=1)
    ends = np.where((bank > 0).any(axis=1), bank.shape[1] - np.argmax(bank[:, ::-1] > 0, axis=1), begins)
    return bank, begins, ends


@kernel
def _sum_bands(spectrum, bank, begins, ends, power):
    frames, points = spectrum.shape
    squares = np.empty(points)
    for frame in range(frames):
        for point in range(points):
            value = spectrum[frame, point]
            squares[point] = value.real * value.real + value.imag * value.imag
        for band in range(len(bank)):
            total = 0.0
            for point in range(begins[band], ends[band]):
                total += bank[band, point] * squares[point]
            power[frame, band] = total
