"""Bytes of sound files to waves, with libsndfile: no more of a file than is needed, and without the GIL but for the
reading of its bytes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from headrace.pipeline.sounds.resample import MAX_RATE, needed, resample
from headrace.pipeline.sounds.sounds import MAX_SAMPLES, Sound
from headrace.shards.formats.containers import check_whole, sized

try:
    import soundfile
except ImportError as error:
    raise ImportError(f"sounds need soundfile: pip install headrace[sound] ({error})") from error

ENCODINGS = ("flac", "ogg", "opus", "wav", "mp3", "aiff", "au")
"""Types of `headrace.shards.fields.AUDIO_ENCODINGS` that libsndfile reads."""
SEEKING = ("flac", "wav", "aiff", "au")
"""Those in which it finds every place exactly, however often it is sent to one; of others the whole is decoded."""
MAX_DECODED = 1 << 27
"""Numbers, of all channels, that are decoded at once: a small file can claim to be silent for years."""


class OpenSound:
    """A file whose header has been read.

    Args:
        file: at its beginning.
        seeks: whether parts of it are read; else all of it is, now.
    """

    def __init__(self, file: soundfile.SoundFile, seeks: bool) -> None:
        self.rate = int(file.samplerate)
        """Samples a second."""
        self.length = int(file.frames)
        """Samples of a channel."""
        self._file = file
        self._whole: np.ndarray | None = None
        if not 1 <= self.rate <= MAX_RATE:
            raise ValueError(f"{self.rate} samples a second, expected 1 to {MAX_RATE:,}")
        if self.length < 1:
            raise ValueError("holds no sound")
        if self.length > MAX_SAMPLES:
            raise ValueError("does not say how long it is, as one written into a pipe")
        if not seeks or not file.seekable():
            self._whole = self._decoded(self.length)

    def read(self, first: int, count: int) -> np.ndarray:
        """float32 (count,): some samples, the mean of the channels.

        Raises:
            ValueError: where they do not decode, or are no numbers.
        """
        if self._whole is not None:
            return self._whole[first : first + count]
        self._file.seek(first)
        return self._decoded(count)

    def _decoded(self, count: int) -> np.ndarray:
        """The next samples."""
        if count * self._file.channels > MAX_DECODED:
            raise ValueError(f"{count:,} samples are needed of it, more than {MAX_DECODED:,} of all channels")
        samples = self._file.read(count, dtype="float32", always_2d=True)
        if len(samples) < count:
            raise ValueError(f"damaged: {len(samples):,} of {count:,} samples decode")
        if not np.isfinite(samples).all():
            raise ValueError("has samples that are not finite")
        return samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)

    def crop(self, sound: Sound, start: int, length: int, gain: float) -> np.ndarray:
        """One crop, float32 of `Sound.shape`, without what is mixed in or hidden; see `DrawnSounds`."""
        wave = self.wave(sound, start, length, gain)
        return wave if sound.mel is None else spectrogram(wave, sound, length)[None]

    def wave(self, sound: Sound, start: int, length: int, gain: float) -> np.ndarray:
        """float32 (samples,): its wave."""
        begin, end = needed(start, length, self.length, self.rate, sound.rate)
        wave = resample(self.read(begin, end - begin), begin, start, length, self.rate, sound.rate)
        if gain:
            wave = wave * np.float32(10 ** (gain / 20))
        if length < sound.samples:
            wave = np.resize(wave, sound.samples) if sound.short == "loop" else _padded(wave, sound.samples)
        return wave


@contextmanager
def open_sound(data: bytes) -> Iterator[OpenSound]:
    """A sound file from its bytes.

    Raises:
        ValueError: if it is cut off, of a type that libsndfile does not read, or damaged; in the block, too.
    """
    found = check_whole("audio", data)
    if found not in ENCODINGS:
        raise ValueError(f"files of the type {found} are not read; use {', '.join(ENCODINGS)}")
    try:
        with soundfile.SoundFile(io.BytesIO(sized(found, data))) as file:
            yield OpenSound(file, found in SEEKING)
    except soundfile.SoundFileError as error:
        reason = getattr(error, "error_string", str(error)).removeprefix("Error : ").rstrip(".")
        raise ValueError(f"damaged (libsndfile says {reason!r})") from error


def spectrogram(wave: np.ndarray, sound: Sound, length: int) -> np.ndarray:
    """float32 (frames, bins) of a crop's wave, of which `length` samples are sound."""
    assert sound.mel is not None
    return sound.mel.spectrogram(wave, sound.rate, length if sound.short == "pad" else None)


def _padded(wave: np.ndarray, samples: int) -> np.ndarray:
    """With silence behind."""
    return np.pad(wave, (0, samples - len(wave)))
