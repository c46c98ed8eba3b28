"""Short clips of real videos and sounds, in every container that PyAV writes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np

from headrace.benchmarks.errors import fetched
from headrace.benchmarks.videos import sample_videos
from headrace.shards import Field

VIDEO_MUXERS = {
    "mp4": ("mp4", "libx264", "aac"),
    "mov": ("mov", "libx264", "aac"),
    "3gp": ("3gp", "mpeg4", "aac"),
    "webm": ("webm", "libvpx", "libopus"),
    "mkv": ("matroska", "libx264", "libopus"),
    "avi": ("avi", "mpeg4", "libmp3lame"),
    "mpg": ("mpeg", "mpeg1video", "mp2"),
    "ts": ("mpegts", "libx264", "aac"),
    "flv": ("flv", "flv", "libmp3lame"),
    "wmv": ("asf", "wmv2", "wmav2"),
}
"""Container, encoder of the picture, encoder of the sound. There is no encoder for ogv."""
AUDIO_MUXERS = {
    "flac": ("flac", "flac"),
    "ogg": ("ogg", "flac"),
    "opus": ("ogg", "libopus"),
    "wav": ("wav", "pcm_s16le"),
    "mp3": ("mp3", "libmp3lame"),
    "m4a": ("mp4", "aac"),
    "aac": ("adts", "aac"),
    "aiff": ("aiff", "pcm_s16be"),
    "au": ("au", "pcm_s16be"),
    "wma": ("asf", "wmav2"),
    "weba": ("webm", "libopus"),
    "mka": ("matroska", "libopus"),
}


T = TypeVar("T")


@lru_cache(maxsize=1)
def frames() -> list[Any]:
    """The 120 frames of carphone_pristine.mp4, 176x144."""
    import av

    with av.open(str(fetched(sample_videos)["carphone_pristine.mp4"])) as container:
        return list(container.decode(video=0))


@lru_cache(maxsize=1)
def sounds() -> list[Any]:
    """A second of bigbuckbunny.mp4's sound, 48 kHz, as 16-bit stereo."""
    import av

    resampler = av.AudioResampler(format="s16", layout="stereo", rate=48000)
    found: list[Any] = []
    with av.open(str(fetched(sample_videos)["bigbuckbunny.mp4"])) as container:
        for frame in container.decode(audio=0):
            found += resampler.resample(frame)
            if sum(part.samples for part in found) >= 48000:
                break
    return found


@lru_cache(maxsize=256)
def video(encoding: str = "mp4", first: int = 0, count: int = 12, sound: bool = False) -> bytes:
    """`count` frames from `first` on, 25 a second, with a key frame every 5."""
    muxer, codec, audio_codec = VIDEO_MUXERS[encoding]
    options = {"deadline": "realtime", "cpu-used": "8"} if codec == "libvpx" else {}
    return encoded(muxer, codec, options, first, count, 5, audio_codec if sound else "")


def encoded(
    muxer: str, codec: str, options: dict[str, str], first: int, count: int, gop: int, audio_codec: str = ""
) -> bytes:
    """The same with any encoder, and a key frame every `gop` or so."""
    import av

    stream = io.BytesIO()
    with av.open(stream, "w", format=muxer) as out:
        picture = out.add_stream(codec, rate=25)
        picture.width, picture.height, picture.pix_fmt, picture.gop_size = 176, 144, "yuv420p", gop
        picture.options = options
        track = out.add_stream(audio_codec, rate=48000, bit_rate=128_000) if audio_codec else None
        for number, frame in enumerate(frames()[first : first + count]):
            copy = av.VideoFrame.from_ndarray(frame.to_ndarray(), "yuv420p")
            copy.pts = number
            out.mux(picture.encode(copy))
        out.mux(picture.encode(None))
        if track is not None:
            write_sound(out, track)
    return stream.getvalue()


@lru_cache(maxsize=32)
def audio(encoding: str = "flac") -> bytes:
    """A second of sound."""
    import av

    muxer, codec = AUDIO_MUXERS[encoding]
    stream = io.BytesIO()
    with av.open(stream, "w", format=muxer) as out:
        write_sound(out, out.add_stream(codec, rate=48000, bit_rate=128_000))
    return stream.getvalue()


def write_sound(out: Any, track: Any) -> None:
    """The second of sound in a stream."""
    import av

    resampler = av.AudioResampler(format=track.format.name, layout="stereo", rate=48000, frame_size=track.frame_size)
    at = 0
    for frame in [*sounds(), None]:
        if frame is not None:
            frame = av.AudioFrame.from_ndarray(frame.to_ndarray(), "s16", "stereo")
            frame.sample_rate, frame.pts = 48000, at
            at += frame.samples
        for part in resampler.resample(frame):
            out.mux(track.encode(part))
    out.mux(track.encode(None))


def stacks(count: int, length: int = 10) -> Iterator[dict[str, Any]]:
    """`count` samples of `length` frames in a row, of 44x36 pixels, forwards (label 0) and backwards (1) in turn."""
    small = np.stack([frame.reformat(44, 36, "rgb24").to_ndarray() for frame in frames()])
    for number in range(count):
        first = number * 37 % (len(small) - length + 1)
        shown = small[first : first + length][:: -1 if number % 2 else 1]
        yield {"__key__": f"{number:06d}", "frames": np.ascontiguousarray(shown), "label": number % 2}


STACK_FIELDS = {"frames": Field(kind="array"), "label": Field(kind="int", classes=("forwards", "backwards"))}
