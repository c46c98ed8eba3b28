"""Video and audio files, with PyAV: what they hold, whether they decode, and clips of frames.

FFmpeg also has demuxers that open other files and addresses (playlists, lists of parts). So the format is never guessed
by it, but named after the file's first bytes, and a file is read from memory alone.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.stream import Disposition
from av.video.reformatter import Interpolation, VideoReformatter

from headrace.tools.containers import check_whole

MAX_PIXELS = 1 << 25
"""Of a frame; 7680x4320 fits."""
MAX_FRAMES = 1 << 20
"""Of a video: nine hours at 30 a second."""
MAX_SAMPLES = 1 << 33
"""Of a sound and channel: two days at 48 kHz."""
MAX_CLIP = 1 << 30
"""Bytes of a clip's pixels."""
DEMUXERS = {
    **dict.fromkeys(("mp4", "mov", "3gp", "m4a"), "mov"),
    **dict.fromkeys(("webm", "mkv", "weba", "mka"), "matroska"),
    **dict.fromkeys(("ogv", "ogg", "opus"), "ogg"),
    **dict.fromkeys(("wmv", "wma"), "asf"),
    **{name: name for name in ("avi", "flv", "flac", "wav", "mp3", "aac", "aiff", "au")},
    "mpg": "mpeg",
    "ts": "mpegts",
}
TIMELESS = ("avi", "mpegvideo")
"""Formats whose packets have no time of display, so that FFmpeg can only guess it."""
# The same pixels on every processor, whatever vector units it has.
SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a video holds."""

    width: int
    """Pixels as they are stored: neither turned nor stretched, whatever the file says about showing it."""
    height: int
    """Likewise."""
    frames: int
    """Number of frames, counted."""
    fps: float
    """Frames a second, on average."""
    seconds: float
    """Duration of the picture, from its first frame to the end of its last."""
    codec: str
    """FFmpeg's name of the decoder, such as h264."""
    sound: bool
    """True where there is an audio stream."""


@dataclass(frozen=True, kw_only=True)
class AudioInfo:
    """What a sound holds."""

    seconds: float
    """Duration, counted."""
    rate: int
    """Samples a second."""
    channels: int
    """1 mono, 2 stereo."""
    codec: str
    """FFmpeg's name of the decoder, such as flac."""


def probe_video(data: bytes) -> VideoInfo:
    """Read a video to its end, decode its beginning and what follows its last key frame.

    ValueError with the reason where it is cut off, cannot be opened, has too many pixels or frames, or does not decode.
    Never takes more memory than some frames and the part that follows a key frame.
    """
    with opened("video", data) as (container, stream):
        context = stream.codec_context
        decoded = number = shown = 0
        begin, end = math.inf, -math.inf
        tail: list[Any] = []
        for packet in packets(container, stream):
            number += 1
            if not packet.is_discard:
                shown += 1
                if packet.pts is not None:
                    begin, end = min(begin, packet.pts), max(end, packet.pts + (packet.duration or 0))
            if packet.is_keyframe:
                tail.clear()
            tail.append(packet)
            if not decoded:
                decoded += len(context.decode(packet))
        if not number:
            raise ValueError("holds no frames")
        context.flush_buffers()
        frames = [frame for packet in [*tail, None] for frame in context.decode(packet)]
        if not frames or any(frame.is_corrupt for frame in frames):
            raise ValueError("its end does not decode")
        width, height = checked_size(context)
        rate = stream.average_rate or stream.guessed_rate
        seconds = (end - begin) * float(stream.time_base) if end > begin else float(shown / rate) if rate else 0.0
        return VideoInfo(
            width=width,
            height=height,
            frames=shown,
            fps=float(rate) if rate else (shown / seconds if seconds > 0 else 0.0),
            seconds=seconds,
            codec=context.name,
            sound=bool(container.streams.audio),
        )


def probe_audio(data: bytes) -> AudioInfo:
    """Decode the first audio stream of a file to its end; ValueError with the reason where that fails."""
    with opened("audio", data) as (container, stream):
        context = stream.codec_context
        samples = 0
        for packet in chain(packets(container, stream), [None]):
            for frame in context.decode(packet):
                samples += frame.samples
                if samples > MAX_SAMPLES:
                    raise ValueError(f"more than the limit of {MAX_SAMPLES:,} samples")
        rate, channels = context.sample_rate, context.channels
        if not samples or not rate:
            raise ValueError("holds no sound")
        return AudioInfo(seconds=samples / rate, rate=rate, channels=channels, codec=context.name)


def decode_clip(data: bytes, frames: int, stride: int, short_side: int | None = None) -> npt.NDArray[np.uint8]:
    """Frames from the middle of a video, uint8 RGB (frames, H, W, 3); the same on every machine.

    Frames are as they are stored: neither turned nor stretched, whatever the file says about showing them.

    A video that is too short for the clip shows its last frame until the clip ends.

    Args:
        data: The file.
        frames: Number of frames, at least 1.
        stride: From a frame to the next, in frames of the video, at least 1.
        short_side: Pixels of the shorter side, to which every video is scaled, up or down, in its proportions; None
            leaves it as it is.

    Raises:
        ValueError: The video cannot be decoded, or the clip would have more than `MAX_CLIP` bytes.
    """
    if frames < 1 or stride < 1 or (short_side is not None and short_side < 1):
        raise ValueError(f"frames {frames}, stride {stride} and short side {short_side} must be at least 1")
    with opened("video", data) as (container, stream):
        coded = list(packets(container, stream))
        if not coded:
            raise ValueError("holds no frames")
        width, height = scaled(*checked_size(stream.codec_context), short_side)
        if frames * height * width * 3 > MAX_CLIP:
            raise ValueError(f"{frames} frames of {width}x{height} pixels, more than the limit of {MAX_CLIP:,} bytes")
        clip = np.empty((frames, height, width, 3), np.uint8)
        reformatter = VideoReformatter()

        def draw(frame: Any, first: int, last: int) -> None:
            scaled_frame = reformatter.reformat(frame, width, height, "rgb24", interpolation=SCALING, threads=1)
            clip[first:last] = scaled_frame.to_ndarray()

        start, moments = schedule(coded, frames, stride, container.format.name not in TIMELESS)
        done, shown = 0, None
        for moment, frame in timed(stream.codec_context, coded, start):
            ahead = done
            while ahead < frames and shown is not None and moments[ahead] < moment:
                ahead += 1
            if ahead > done:
                draw(shown, done, ahead)
                done = ahead
            shown = frame
            if done == frames:
                break
        if shown is None:
            raise ValueError("no frame decodes")
        if done < frames:
            draw(shown, done, frames)
        return clip


def schedule(coded: list[Any], frames: int, stride: int, has_times: bool) -> tuple[int | None, list[int]]:
    """Where to begin decoding, and the moments whose frames make the clip.

    Returns:
        (start, moments): the packet to begin with, a key frame, and times in units of the stream; or None where packets
        lack times of their own, and numbers of frames counted from the first.
    """
    shown = [packet.pts for packet in coded if not packet.is_discard]
    has_times = has_times and None not in shown and len(set(shown)) == len(shown) > 0
    times = sorted(shown) if has_times else list(range(len(coded)))
    total = len(times)
    first = max(0, total - (frames - 1) * stride - 1) // 2
    numbers = [min(first + stride * number, total - 1) for number in range(frames)]
    moments = [times[number] for number in numbers]
    if not has_times:
        return None, moments
    keys = [at for at, packet in enumerate(coded) if packet.is_keyframe and (packet.pts or 0) <= moments[0]]
    return max(keys, default=0), moments


def timed(context: Any, coded: list[Any], start: int | None) -> Iterator[tuple[int, Any]]:
    """(moment, frame) of the decoded frames, in the order in which they are shown; see `schedule`."""
    number = 0
    for packet in chain(coded[start or 0 :], [None]):
        for frame in context.decode(packet):
            yield (number if start is None or frame.pts is None else frame.pts), frame
            number += 1


def scaled(width: int, height: int, short_side: int | None) -> tuple[int, int]:
    """(width, height) with a shorter side of `short_side` pixels."""
    short = min(width, height)
    if short_side is None:
        return width, height
    return (width * short_side + short // 2) // short, (height * short_side + short // 2) // short


@contextlib.contextmanager
def opened(kind: str, data: bytes) -> Iterator[tuple[Any, Any]]:
    """(container, its first stream of the kind), ready to decode in this thread; FFmpeg's errors become ValueErrors."""
    encoding = check_whole(kind, data)
    demuxer = DEMUXERS[encoding]
    if data[:4] == b"\0\0\1\xb3":
        demuxer = "mpegvideo"  # a picture without a container
    limits = {"max_pixels": str(MAX_PIXELS), "threads": "1"}
    try:
        with av.open(io.BytesIO(data), format=demuxer, options=limits, metadata_errors="replace") as container:
            of_kind: Any = container.streams.video if kind == "video" else container.streams.audio
            streams = [stream for stream in of_kind if not stream.disposition & Disposition.attached_pic]  # covers
            if not streams:
                raise ValueError(f"the {encoding} file holds no {kind}")
            context: Any = streams[0].codec_context
            if context is None:
                raise ValueError(f"there is no decoder for its {kind}")
            context.options = {"max_pixels": limits["max_pixels"]}
            context.thread_count = 1
            if kind == "video":
                checked_size(context)
            yield container, streams[0]
    except (av.FFmpegError, AssertionError, EOFError) as error:
        raise ValueError(f"does not decode: {plain(error)}") from error


def packets(container: Any, stream: Any) -> Iterator[Any]:
    """The packets of a stream; ValueError at one that is damaged."""
    number = 0
    for packet in container.demux(stream):
        if not packet.size:
            continue
        number += 1
        if packet.is_corrupt:
            raise ValueError(f"packet {number} is damaged or cut off")
        if number > MAX_FRAMES and stream.type == "video":
            raise ValueError(f"more than the limit of {MAX_FRAMES:,} frames")
        yield packet


def checked_size(context: Any) -> tuple[int, int]:
    """(width, height) in pixels; ValueError where there is none or too much."""
    width, height = context.width, context.height
    if width < 1 or height < 1 or width * height > MAX_PIXELS:
        raise ValueError(f"{width}x{height} pixels, expected 1 to {MAX_PIXELS:,}")
    return width, height


def plain(error: BaseException) -> str:
    """FFmpeg's words without the number and the name of the stream."""
    return getattr(error, "strerror", None) or str(error)
