"""Sound files: parts beside the whole file, and what is wrong with those that do not decode."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from headrace.pipeline import Mel, Sound
from headrace.pipeline.sounds.resample import resample
from tests.sounds import encoded, note, sound

pytestmark = pytest.mark.peer("soundfile")

FILES = [
    ("flac", 16_000, 1, None),
    ("flac", 44_100, 2, "PCM_24"),
    ("ogg", 44_100, 2, "VORBIS"),
    ("ogg", 48_000, 1, "OPUS"),
    ("wav", 8_000, 1, "PCM_16"),
    ("wav", 48_000, 6, "FLOAT"),
    ("wav", 8_000, 1, "ULAW"),
    ("wav", 22_050, 2, "IMA_ADPCM"),
    ("wav", 8_000, 1, "GSM610"),
    ("mp3", 44_100, 2, None),
    ("aiff", 22_050, 1, None),
    ("au", 11_025, 2, None),
]


def whole(data: bytes) -> tuple[np.ndarray, int]:
    """The mean of the channels, by soundfile alone."""
    import soundfile

    with soundfile.SoundFile(io.BytesIO(data)) as file:
        samples = file.read(file.frames, dtype="float32", always_2d=True)
        return samples.mean(axis=1), file.samplerate


def opened(data: bytes) -> Any:
    from headrace.pipeline.sounds.decode import open_sound

    return open_sound(data)


@pytest.mark.parametrize(("kind", "rate", "channels", "subtype"), FILES)
def test_a_part_is_what_the_whole_file_has_there(kind: str, rate: int, channels: int, subtype: str | None) -> None:
    data = encoded(note(4, rate, channels), rate, kind, subtype)
    expected, _ = whole(data)
    with opened(data) as file:
        assert (file.rate, file.length) == (rate, len(expected))
        random = np.random.Generator(np.random.Philox(0))
        for first in [0, *random.integers(0, len(expected) - 900, 6).tolist(), len(expected) - 900]:
            assert np.array_equal(file.read(first, 900), expected[first : first + 900])
        assert np.array_equal(file.read(0, len(expected)), expected)


@pytest.mark.parametrize(("kind", "rate", "channels"), [("flac", 44_100, 2), ("ogg", 48_000, 1), ("wav", 8_000, 1)])
def test_a_crop_of_another_rate_is_cut_out_of_the_whole_resampled(kind: str, rate: int, channels: int) -> None:
    data = encoded(note(4, rate, channels), rate, kind)
    samples, _ = whole(data)
    length = -(-len(samples) * 16_000 // rate)
    expected = resample(samples, 0, 0, length, rate, 16_000)
    with opened(data) as file:
        for start in (0, 777, length - 1600):
            crop = file.crop(Sound(samples=1600, rate=16_000), start, 1600, 0.0)
            assert np.array_equal(crop, expected[start : start + 1600])
        louder = file.crop(Sound(samples=1600, rate=16_000), 777, 1600, 6.0)
    np.testing.assert_allclose(louder, expected[777:2377] * 10**0.3, rtol=1e-6)


def test_short_sounds_are_padded_or_start_again() -> None:
    wave = note(1, 8_000)[:600, 0]
    data = encoded(wave, 8_000, "wav", "FLOAT")
    mel = Mel(bins=8, window=200, hop=80, fft=256)
    with opened(data) as file:
        padded = file.crop(Sound(samples=1400, rate=8000), 0, 600, 0.0)
        looped = file.crop(Sound(samples=1400, rate=8000, short="loop"), 0, 600, 0.0)
        spectrogram = file.crop(Sound(samples=1400, rate=8000, mel=mel), 0, 600, 0.0)
    assert np.array_equal(padded, np.concatenate([wave, np.zeros(800)]))
    assert np.array_equal(looped, np.concatenate([wave, wave, wave[:200]]))
    assert spectrogram.shape == (1, 16, 8)
    assert np.array_equal(spectrogram[0, :6], mel.spectrogram(wave, 8000))
    assert not spectrogram[0, 6:].any()


def test_less_than_a_window_is_one_frame() -> None:
    mel = Mel(bins=8, window=200, hop=80, fft=256)
    with opened(encoded(note(1, 8_000)[:50, 0], 8_000, "wav")) as file:
        found = file.crop(Sound(samples=1400, rate=8000, mel=mel), 0, 50, 0.0)
    assert found[0, 0].any()
    assert not found[0, 1:].any()


def piped(data: bytes) -> bytes:
    """A .wav as a program writes it into a pipe."""
    at = data.index(b"data")
    return data[:4] + b"\xff" * 4 + data[8 : at + 4] + b"\xff" * 4 + data[at + 8 :]


def test_sizes_that_the_writer_could_not_know() -> None:
    data = sound(2)
    with opened(piped(data)) as file, opened(data) as known:
        assert file.length == known.length
        assert np.array_equal(file.read(0, file.length), known.read(0, known.length))


def with_rate(data: bytes, rate: int) -> bytes:
    return data[:24] + rate.to_bytes(4, "little") + data[28:]


def broken(name: str) -> bytes:
    wav, flac, ogg = sound(2), sound(0), sound(1)
    nothing = np.full(2000, np.nan, np.float32)
    return {
        "empty": b"",
        "text": b"these are words and no sound at all",
        "cut wav": wav[: len(wav) // 2],
        "cut flac": flac[: len(flac) // 2],
        "cut ogg": ogg[: len(ogg) // 2],
        "header alone": wav[:44],
        "no samples": encoded(np.zeros((0, 1), np.float32), 8000, "wav"),
        "not finite": encoded(nothing, 8000, "wav", "FLOAT"),
        "rate of zero": with_rate(wav, 0),
        "rate too high": with_rate(wav, 1_000_000_000),
        "damaged flac": flac[: len(flac) // 2] + bytes(200) + flac[len(flac) // 2 + 200 :],
        "endless flac": flac[:21] + bytes([flac[21] & 0xF0]) + bytes(4) + flac[26:],
        "other type": b"\0\0\0\x20ftypM4A " + bytes(100),
    }[name]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("empty", "empty"),
        ("text", "no audio file of a known type"),
        ("cut wav", "cut off: the chunk 'RIFF' at offset 0 lacks"),
        ("cut flac", "^damaged"),
        ("cut ogg", "cut off"),
        ("header alone", "cut off: the chunk 'RIFF'"),
        ("no samples", "holds no sound"),
        ("not finite", "samples that are not finite"),
        ("rate of zero", "^damaged"),
        ("rate too high", "1000000000 samples a second, expected 1 to 384,000"),
        ("damaged flac", "^damaged"),
        ("endless flac", "does not say how long it is"),
        ("other type", "cut off|files of the type m4a are not read"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(name: str, said: str) -> None:
    data = broken(name)
    with pytest.raises(ValueError, match=said) as caught, opened(data) as file:
        file.read(0, file.length)
    assert "\n" not in str(caught.value)


def test_nothing_larger_than_the_limit_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    from headrace.pipeline.sounds import decode

    monkeypatch.setattr(decode, "MAX_DECODED", 1000)
    with pytest.raises(ValueError, match=r"more than 1,000 of all channels"), opened(sound(0)) as file:
        file.read(0, file.length)
