"""Bytes of sound files to waves, with libsndfile: no more of a file than is needed, and without the GIL but for the
reading of its bytes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from headrace.pipeline.sounds.resample import MAX_RATE, needed, resample
from headrace.pipeline.sounds.sounds import Sound
from headrace.shards.formats.containers import check_whole, sized

try:
    import soundfile
except ImportError as error:
    raise ImportError(f"sounds need soundfile: pip install headrace[sound] ({error})") from error

ENCODINGS = ("flac", "ogg", "opus", "wav", "mp3", "aiff", "au")
"""Types of `headrace.shards.fields.AUDIO_ENCODINGS` that libsndfile reads."""
MAX_DECODED = 1 << 27
"""Numbers, of all channels, that are decoded at once: a small file can claim to be silent for years."""
BLOCK = 1 << 16


class OpenSound:
    """A file whose header has been read.

    Args:
        file: at its beginning.
    """

    def __init__(self, file: soundfile.SoundFile) -> None:
        self.rate = int(file.samplerate)
        """Samples a second."""
        self.length = int(file.frames)
        """Samples of a channel."""
        self._file = file
        self._whole: np.ndarray | None = None
        if not 1 <= self.rate <= MAX_RATE:
            raise ValueError(f"{self.rate} samples a second, expected 1 to {MAX_RATE:,}")
        # Streams that were written into a pipe do not know their length.
        if not file.seekable() or self.length > MAX_DECODED:
            self._whole = np.concatenate(list(self._rest()))
            self.length = len(self._whole)
        if not self.length:
            raise ValueError("holds no sound")

    def read(self, first: int, count: int) -> np.ndarray:
        """float32 (count,): some samples, the mean of the channels.

        Raises:
            ValueError: where they do not decode, or are no numbers.
        """
        if self._whole is not None:
            wave = self._whole[first : first + count]
        else:
            if count * self._file.channels > MAX_DECODED:
                raise ValueError(f"{count:,} samples are needed of it, more than {MAX_DECODED:,} of all channels")
            self._file.seek(first)
            wave = _mono(self._file.read(count, dtype="float32", always_2d=True))
        if len(wave) < count:
            raise ValueError(f"says that it has {self.length:,} samples, and {first + len(wave):,} decode")
        if not np.isfinite(wave).all():
            raise ValueError("has samples that are not finite")
        return wave

    def _rest(self) -> Iterator[np.ndarray]:
        """What is left of a file of unknown length."""
        found = 0
        while True:
            block = self._file.read(BLOCK, dtype="float32", always_2d=True)
            found += block.size
            if found > MAX_DECODED:
                raise ValueError(f"more than {MAX_DECODED:,} samples of all channels")
            yield _mono(block)
            if len(block) < BLOCK:
                return

    def crop(self, sound: Sound, start: int, length: int, gain: float) -> np.ndarray:
        """One crop as it is delivered, float32 of `Sound.shape`; see `DrawnSounds`."""
        begin, end = needed(start, length, self.length, self.rate, sound.rate)
        wave = resample(self.read(begin, end - begin), begin, start, length, self.rate, sound.rate)
        if gain:
            wave = wave * np.float32(10 ** (gain / 20))
        if length < sound.samples:
            wave = np.resize(wave, sound.samples) if sound.short == "loop" else _padded(wave, sound.samples)
        if sound.mel is None:
            return wave
        return sound.mel.spectrogram(wave, sound.rate, length if sound.short == "pad" else None)[None]


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
            yield OpenSound(file)
    except soundfile.SoundFileError as error:
        raise ValueError(getattr(error, "error_string", str(error)).removeprefix("Error : ").rstrip(".")) from error


def _mono(samples: np.ndarray) -> np.ndarray:
    """float32 (n,) of (n, channels)."""
    return samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)


def _padded(wave: np.ndarray, samples: int) -> np.ndarray:
    """With silence behind."""
    return np.pad(wave, (0, samples - len(wave)))
