"""Short notes as sound files: what they hold is known, and no two of them are alike."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from headrace.shards import Field

PITCHES = (220.0, 330.0, 495.0, 742.5)
"""In Hz; a note's label is its place here."""
KINDS = (("flac", 16_000, 1), ("ogg", 44_100, 2), ("wav", 8_000, 1))
"""Type of file, samples a second, channels."""
SOUND_FIELDS = {
    "audio": Field(kind="audio", encoding="mixed"),
    "label": Field(kind="int", classes=("low", "middle", "high", "highest")),
}


def note(number: int, rate: int, channels: int = 1) -> np.ndarray:
    """float32 (samples, channels) in [-1, 1]: a pitch with overtones that fade, and some noise; 0.2 to 1.5 seconds."""
    random = np.random.Generator(np.random.Philox(number))
    time = np.arange(int(rate * random.uniform(0.2, 1.5))) / rate
    pitch = PITCHES[number % len(PITCHES)] * random.uniform(0.97, 1.03)
    overtones = random.uniform(0.2, 1.0, 5) / np.arange(1, 6)
    wave = sum(part * np.sin(2 * np.pi * pitch * (k + 1) * time) for k, part in enumerate(overtones))
    wave = wave * np.exp(-random.uniform(0.5, 4) * time)
    wave = wave[:, None] + 0.02 * random.standard_normal((len(time), channels))
    return (0.3 * wave).astype(np.float32)


def encoded(wave: np.ndarray, rate: int, kind: str, subtype: str | None = None) -> bytes:
    """A file of (samples, channels) or (samples,)."""
    import soundfile

    stream = io.BytesIO()
    soundfile.write(stream, wave, rate, format=kind.upper(), subtype=subtype)
    return stream.getvalue()


@lru_cache(maxsize=256)
def sound(number: int) -> bytes:
    """The note as a file of one of `KINDS`."""
    kind, rate, channels = KINDS[number % len(KINDS)]
    return encoded(note(number, rate, channels), rate, kind)


def sounds(count: int) -> Iterator[dict[str, Any]]:
    """Notes of all pitches in turn, of all kinds of files in turn."""
    for number in range(count):
        yield {"__key__": f"note_{number:03d}", "audio": sound(number), "label": number % len(PITCHES)}
