"""Video and audio files, with PyAV: what they hold, whether they decode, and clips of frames."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.video.reformatter import Interpolation, VideoReformatter

from headrace.shards.formats.orientation import TRANSPOSED, UPRIGHT, Orientation, shown_size, turned
from headrace.shards.formats.video import checked_size, open_video, opened, packets, plain, said

MAX_SAMPLES = 1 << 33
"""Of a sound and channel: two days at 48 kHz."""
MAX_CLIP = 1 << 30
"""Bytes of a clip's pixels."""
UNKNOWN = -(1 << 63)
"""A time that a file does not tell."""
MARKING = ("h264",)
"""Decoders that mark every frame of which they conceal a part. Others are asked to stop at errors, among which these
would count frames at the beginning of a video that was cut, whose references are gone."""
ONE_EACH = ("h264", "av1", "libdav1d")
"""Decoders that give a frame for each packet that is shown. Elsewhere hidden frames may have packets of their own."""
# The same pixels on every processor, whatever vector units it has.
SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.BITEXACT | Interpolation.FULL_CHR_H_INT
COUNTING = ("flac", "ogg")
"""Formats that say how many samples there are (in ogg with some at the beginning that are not played), and from which
FFmpeg leaves out damaged frames or pages without an error."""


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a video holds."""

    width: int
    """Pixels of a frame as it is shown, turned as the file says, and not stretched where pixels are not square."""
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
    orientation: int = UPRIGHT
    """How the file says that the stored frames are to be turned, `headrace.shards.formats.orientation`."""
    pixel_aspect: tuple[int, int] = (1, 1)
    """Width to height of a pixel as it is shown; (1, 1) also where the file does not say."""

    def meta(self) -> dict[str, Any]:
        """For JSON: `orientation` and `pixel_aspect` are named only where they are not the usual ones."""
        parts = {**asdict(self), "pixel_aspect": list(self.pixel_aspect)}
        usual = {"orientation": UPRIGHT, "pixel_aspect": [1, 1]}
        return {name: value for name, value in parts.items() if usual.get(name) != value}


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

    def meta(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def probe_video(data: bytes, *, whole: bool = False) -> VideoInfo:
    """Read a video to its end, decode its beginning and what follows its last key frame, or all of it where that is
    asked for or the end alone does not decode.

    ValueError with the reason where it is cut off, cannot be opened, has too many pixels or frames, or does not decode.
    Never takes more memory than some frames and the part that follows a key frame.

    Args:
        data: The file.
        whole: Decode every frame, and take nothing that FFmpeg would conceal. What a decoder cannot tell, such as a
            change inside a frame of VP8 or VP9, where any bytes are a picture, is left to the set's checksums.
    """
    with opened("video", data) as (container, stream):
        context = stream.codec_context
        tally = Tally()
        counted = tally.of(packets(container, stream))
        if whole:
            check_every_frame(context, counted, tally)
        elif not ends_decode(context, counted):
            # What is called a key frame may need those before it, where the picture is renewed piece by piece.
            return probe_video(data, whole=True)
        width, height = checked_size(context)
        orientation = said(data, container, stream)
        height, width = shown_size(height, width, orientation)
        rate = stream.average_rate or stream.guessed_rate
        shown = len(tally.times)
        seconds = (tally.end - tally.begin) * float(stream.time_base) if tally.end > tally.begin else 0.0
        if not seconds and rate:
            seconds = float(shown / rate)
        return VideoInfo(
            width=width,
            height=height,
            frames=shown,
            fps=float(rate) if rate else (shown / seconds if seconds > 0 else 0.0),
            seconds=seconds,
            codec=context.name,
            sound=bool(container.streams.audio),
            orientation=orientation,
            pixel_aspect=pixel_aspect(stream, orientation),
        )


def pixel_aspect(stream: Any, orientation: int) -> tuple[int, int]:
    """Width to height of a pixel of a stream's frames as they are shown."""
    found = stream.sample_aspect_ratio
    if not found or found <= 0:
        return 1, 1
    width, height = found.numerator, found.denominator
    return (height, width) if orientation in TRANSPOSED else (width, height)


class Tally:
    """Counts the packets of a video as they pass."""

    def __init__(self) -> None:
        self.number = 0
        """Packets so far."""
        self.times = array("q")
        """When each that is shown is shown, in the units of its stream; `UNKNOWN` where the file does not say."""
        self.begin, self.end = math.inf, -math.inf
        """Of what is shown."""

    def of(self, packets: Iterator[Any]) -> Iterator[Any]:
        """The packets."""
        for packet in packets:
            self.number += 1
            if not packet.is_discard:
                self.times.append(UNKNOWN if packet.pts is None else packet.pts)
                if packet.pts is not None:
                    self.begin = min(self.begin, packet.pts)
                    self.end = max(self.end, packet.pts + (packet.duration or 0))
            yield packet
        if not self.number:
            raise ValueError("holds no frames")


def ends_decode(context: Any, packets: Iterator[Any]) -> bool:
    """Whether what follows the last key frame decodes on its own; ValueError where it or the beginning is damaged."""
    decoded = 0
    tail: list[Any] = []
    for packet in packets:
        if packet.is_keyframe:
            tail.clear()
        tail.append(packet)
        if not decoded:
            decoded += len(context.decode(packet))
    context.flush_buffers()
    frames = [frame for packet in [*tail, None] for frame in context.decode(packet)]
    return bool(frames) and not any(frame.is_corrupt for frame in frames)


def check_every_frame(context: Any, packets: Iterator[Any], tally: Tally) -> None:
    """ValueError unless all frames decode, but those before the first, which may refer to what was cut away."""
    context.options = {**context.options, "err_detect": "crccheck" if context.name in MARKING else "crccheck+explode"}
    decoded, first, fields = 0, None, False
    for packet in chain(packets, [None]):
        try:
            frames = context.decode(packet)
        except av.FFmpegError as error:
            raise ValueError(f"{at_packet(tally)} does not decode: {plain(error)}") from error
        for frame in frames:
            if frame.is_corrupt:
                raise ValueError(f"{at_packet(tally)}: a frame is damaged")
            decoded += 1
            fields |= frame.interlaced_frame
            first = frame.pts if first is None else first
    if not decoded:
        raise ValueError("no frame decodes")
    if context.name not in ONE_EACH or first is None or UNKNOWN in tally.times:
        return
    expected = sum(time >= first for time in tally.times)
    if decoded < (expected // 2 if fields else expected):  # a field may have a packet of its own
        raise ValueError(f"{decoded} of {expected} frames decode")


def at_packet(tally: Tally) -> str:
    """Where a decoder is, which may be some packets behind."""
    return f"packet {tally.number} of the picture"


def probe_audio(data: bytes) -> AudioInfo:
    """Decode the first audio stream of a file to its end; ValueError with the reason where that fails."""
    with opened("audio", data) as (container, stream):
        context = stream.codec_context
        context.options = {**context.options, "err_detect": "crccheck+explode"}
        samples = longest = 0
        for packet in chain(packets(container, stream), [None]):
            longest = max(longest, packet.duration or 0 if packet is not None else 0)
            for frame in context.decode(packet):
                samples += frame.samples
                if samples > MAX_SAMPLES:
                    raise ValueError(f"more than the limit of {MAX_SAMPLES:,} samples")
        rate, channels = context.sample_rate, context.channels
        if not samples or not rate:
            raise ValueError("holds no sound")
        if container.format.name in COUNTING and stream.duration:
            announced, spare = (round(time * stream.time_base * rate) for time in (stream.duration, 2 * longest))
            if samples < announced - (spare if container.format.name == "ogg" else 0):
                raise ValueError(f"{samples:,} of {announced:,} samples decode")
        return AudioInfo(seconds=samples / rate, rate=rate, channels=channels, codec=context.name)


def decode_clip(
    data: bytes, frames: int, stride: int, short_side: int | None = None, orientation: Orientation = "apply"
) -> npt.NDArray[np.uint8]:
    """Frames from the middle of a video, uint8 RGB (frames, H, W, 3); the same on every machine.

    Frames are turned as the file says, unless that is to be ignored, and not stretched where pixels are not square.

    A video that is too short for the clip shows its last frame until the clip ends.

    Args:
        data: The file.
        frames: Number of frames, at least 1.
        stride: From a frame to the next, in frames of the video, at least 1.
        short_side: Pixels of the shorter side, to which every video is scaled, up or down, in its proportions; None
            leaves it as it is.
        orientation: apply or ignore, how the file says that frames are to be shown.

    Raises:
        ValueError: The video cannot be decoded, or the clip would have more than `MAX_CLIP` bytes.
    """
    if frames < 1 or stride < 1 or (short_side is not None and short_side < 1):
        raise ValueError(f"frames {frames}, stride {stride} and short side {short_side} must be at least 1")
    with open_video(data, orientation) as video:
        width, height = scaled(*video.stored_size, short_side)
        if frames * height * width * 3 > MAX_CLIP:
            raise ValueError(f"{frames} frames of {width}x{height} pixels, more than the limit of {MAX_CLIP:,} bytes")
        clip = np.empty((frames, *shown_size(height, width, video.orientation), 3), np.uint8)
        reformatter = VideoReformatter()
        first = max(0, video.length - (frames - 1) * stride - 1) // 2
        numbers = np.minimum(first + stride * np.arange(frames), video.length - 1)
        for number, frame in video.frames(np.unique(numbers).tolist()):
            scaled_frame = reformatter.reformat(frame, width, height, "rgb24", interpolation=SCALING, threads=1)
            pixels: Any = scaled_frame.to_ndarray()
            clip[numbers == number] = turned(pixels, video.orientation)
        return clip


def scaled(width: int, height: int, short_side: int | None) -> tuple[int, int]:
    """(width, height) with a shorter side of `short_side` pixels."""
    short = min(width, height)
    if short_side is None:
        return width, height
    return (width * short_side + short // 2) // short, (height * short_side + short // 2) // short
