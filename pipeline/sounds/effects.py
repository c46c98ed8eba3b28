"""What happens to a crop of a sound behind its cutting: noise below its wave, and on its spectrogram another sound, a
random part of it at another size, and stripes. All draws are in the plan; here they are described and carried out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from headrace.pipeline.checks import check
from headrace.pipeline.compiled import kernel

CUBIC = -0.75
"""Of the cubic kernel at a distance of one: its slope, as torch has it."""


@dataclass(frozen=True, kw_only=True)
class Noise:
    """A part of another sound of the set below the wave, of a drawn power."""

    snr: tuple[float, float] = (5.0, 20.0)
    """Power of the crop over that of the noise, over the length of the crop, in dB, drawn uniformly."""
    probability: float = 1.0
    """Share of the crops that have any."""

    def __post_init__(self) -> None:
        low, high = self.snr
        check(-100.0 <= low <= high <= 100.0, self, "snr", self.snr, "-100 <= low <= high <= 100")
        check(0.0 <= self.probability <= 1.0, self, "probability", self.probability, "in [0, 1]")


@dataclass(frozen=True, kw_only=True)
class LogMixup:
    """A spectrogram and that of a part of another sound of the set, mixed where they are no logarithms: BYOL-A
    (2103.06695).

    log((1 - a) exp(x) + a exp(z) + eps), as `log_mixup_exp` in nttcslab/byol-a at 3e65c92, byol_a/augmentations.py, on
    logarithms that `Mel.mean` and `Mel.std` have normalised. Theirs draws z from the last 2,048 inputs, here it is any
    sound of the set.
    """

    ratio: float = 0.4
    """Largest a; it is drawn uniformly from 0."""

    def __post_init__(self) -> None:
        check(0.0 < self.ratio <= 1.0, self, "ratio", self.ratio, "in (0, 1]")


@dataclass(frozen=True, kw_only=True)
class ResizeCrop:
    """A random part of a canvas of zeros with the spectrogram in its middle, resized to the spectrogram's size with
    bicubic weights, corners on corners: `RandomResizeCrop` in nttcslab/byol-a at 3e65c92, byol_a/augmentations.py."""

    canvas: tuple[float, float] = (1.5, 1.0)
    """Frames and bins of the canvas, as shares of the spectrogram's."""
    frames: tuple[float, float] = (0.6, 1.5)
    """Frames of the part, as a share of the spectrogram's, drawn uniformly; at most the canvas's."""
    bins: tuple[float, float] = (0.6, 1.5)
    """Likewise."""

    def __post_init__(self) -> None:
        check(min(self.canvas) >= 1.0, self, "canvas", self.canvas, "at least 1")
        for name in ("frames", "bins"):
            low, high = getattr(self, name)
            check(0.0 < low <= high, self, name, (low, high), "0 < low <= high")

    def draw(self, units: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """int64 (B, 4): first frame, first bin, frames and bins of each part, on the canvas.

        Args:
            units: (B, 4) in [0, 1).
            shape: frames and bins of the spectrogram.
        """
        parts = np.empty((len(units), 4), np.int64)
        for axis, (low, high) in enumerate((self.frames, self.bins)):
            whole = int(shape[axis] * self.canvas[axis])
            size = ((low + (high - low) * units[:, axis]) * shape[axis]).astype(np.int64).clip(1, whole)
            parts[:, 2 + axis] = size
            parts[:, axis] = units[:, 2 + axis] * (whole - size + 1)
        return parts

    def apply(self, mel: np.ndarray, part: np.ndarray) -> np.ndarray:
        """float32 (frames, bins) of the same, and the part (4,) of its canvas."""
        canvas = np.zeros([int(side * share) for side, share in zip(mel.shape, self.canvas, strict=True)], np.float32)
        top, left = ((whole - side) // 2 for whole, side in zip(canvas.shape, mel.shape, strict=True))
        canvas[top : top + mel.shape[0], left : left + mel.shape[1]] = mel
        first, lowest, frames, bins = (int(number) for number in part)
        cut = np.ascontiguousarray(canvas[first : first + frames, lowest : lowest + bins])
        rows = np.empty((len(mel), bins), np.float32)
        _resize_rows(cut, rows)
        columns = np.empty((mel.shape[1], len(mel)), np.float32)
        _resize_rows(np.ascontiguousarray(rows.T), columns)
        return np.ascontiguousarray(columns.T)


@dataclass(frozen=True, kw_only=True)
class Stripes:
    """Frames and bins of a spectrogram set to 0, which is the mean where `Mel.mean` is: SpecAugment (1904.08779), its
    policy LD without the warping of time."""

    times: int = 2
    """Stripes of frames; 0 for none."""
    frames: int = 100
    """Frames of the widest; widths from 0 to it are equally likely, as are all places."""
    pitches: int = 2
    """Stripes of bins; 0 for none."""
    bins: int = 27
    """Likewise."""

    def __post_init__(self) -> None:
        for name in ("times", "pitches"):
            check(0 <= getattr(self, name) <= 1000, self, name, getattr(self, name), "0 to 1000")
        for name in ("frames", "bins"):
            check(getattr(self, name) >= 1, self, name, getattr(self, name), "at least 1")

    @property
    def count(self) -> int:
        """Pairs of stripes that are drawn, of frames and of bins."""
        return max(self.times, self.pitches)

    def draw(self, units: np.ndarray, number: int, shape: tuple[int, int]) -> np.ndarray:
        """int64 (B, 4): first frame and frames, first bin and bins of pair `number`, 0 where it has none. Arguments as
        in `ResizeCrop.draw`."""
        pairs = np.zeros((len(units), 4), np.int64)
        wanted = (self.times, self.frames), (self.pitches, self.bins)
        for axis, (count, widest) in enumerate(wanted):
            if number < count:
                width = (units[:, 2 * axis] * (min(widest, shape[axis]) + 1)).astype(np.int64)
                pairs[:, 2 * axis] = units[:, 2 * axis + 1] * (shape[axis] - width + 1)
                pairs[:, 2 * axis + 1] = width
        return pairs

    def apply(self, mel: np.ndarray, pairs: np.ndarray) -> np.ndarray:
        """float32 (frames, bins) with the pairs (count, 4) set to 0."""
        mel = mel.copy()
        for frame, frames, lowest, bins in pairs[: self.count].tolist():
            mel[frame : frame + frames] = 0.0
            mel[:, lowest : lowest + bins] = 0.0
        return mel


def with_noise(wave: np.ndarray, noise: np.ndarray, snr: float) -> np.ndarray:
    """float32 (samples,): the wave, with as much of the noise as gives `snr` dB. Silence is left as it is, and adds
    nothing."""
    power, noise_power = (float(np.mean(np.square(x, dtype=np.float64))) for x in (wave, noise))
    if not power or not noise_power:
        return wave
    return wave + noise * np.float32((power / noise_power * 10 ** (-snr / 10)) ** 0.5)


def log_mixed(own: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    """float32, of two of one shape; see `LogMixup`. `share` is the other's; 0 changes nothing."""
    if not share:
        return own
    mixed = (1 - np.float32(share)) * np.exp(own) + np.float32(share) * np.exp(other)
    return np.log(mixed + np.finfo(np.float32).eps)


@kernel
def _resize_rows(rows, resized):
    """(n, C) to (m, C): each row a cubic mean of four, the first on the first and the last on the last."""
    n, m = len(rows), len(resized)
    for i in range(m):
        place = i * (n - 1) / (m - 1) if m > 1 else 0.0
        whole = np.int64(np.floor(place))
        part = place - whole
        far, near, next_, last = part + 1.0, part, 1.0 - part, 2.0 - part
        weights = (
            ((CUBIC * far - 5.0 * CUBIC) * far + 8.0 * CUBIC) * far - 4.0 * CUBIC,
            ((CUBIC + 2.0) * near - (CUBIC + 3.0)) * near * near + 1.0,
            ((CUBIC + 2.0) * next_ - (CUBIC + 3.0)) * next_ * next_ + 1.0,
            ((CUBIC * last - 5.0 * CUBIC) * last + 8.0 * CUBIC) * last - 4.0 * CUBIC,
        )
        for column in range(rows.shape[1]):
            total = 0.0
            for tap in range(4):
                row = min(max(whole - 1 + tap, 0), n - 1)
                total += weights[tap] * rows[row, column]
            resized[i, column] = total
