"""Video and audio files, with PyAV: what they hold, whether they decode, and clips of frames."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
from av.video.reformatter import Interpolation, VideoReformatter

from headrace.shards.video import checked_size, open_video, opened, packets

MAX_SAMPLES = 1 << 33
"""Of a sound and channel: two days at 48 kHz."""
MAX_CLIP = 1 << 30
"""Bytes of a clip's pixels."""
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
    with open_video(data) as video:
        width, height = scaled(video.width, video.height, short_side)
        if frames * height * width * 3 > MAX_CLIP:
            raise ValueError(f"{frames} frames of {width}x{height} pixels, more than the limit of {MAX_CLIP:,} bytes")
        clip = np.empty((frames, height, width, 3), np.uint8)
        reformatter = VideoReformatter()
        first = max(0, video.length - (frames - 1) * stride - 1) // 2
        numbers = np.minimum(first + stride * np.arange(frames), video.length - 1)
        for number, frame in video.frames(np.unique(numbers).tolist()):
            pixels = reformatter.reformat(frame, width, height, "rgb24", interpolation=SCALING, threads=1)
            clip[numbers == number] = pixels.to_ndarray()
        return clip


def scaled(width: int, height: int, short_side: int | None) -> tuple[int, int]:
    """(width, height) with a shorter side of `short_side` pixels."""
    short = min(width, height)
    if short_side is None:
        return width, height
    return (width * short_side + short // 2) // short, (height * short_side + short // 2) // short
