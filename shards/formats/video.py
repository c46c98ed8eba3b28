"""Frames of videos by their numbers: files through PyAV, from the key frame before and no more of them than needed.

FFmpeg also has demuxers that open other files and addresses (playlists, lists of parts). So the format is never guessed
by it, but named after the file's first bytes, and a file is read from memory alone.
"""

from __future__ import annotations

import contextlib
import io
import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.stream import Disposition
from av.video.reformatter import VideoReformatter

from headrace.shards.formats.containers import check_whole, sized
from headrace.shards.formats.display import video_orientation
from headrace.shards.formats.media import HEAD, media_type
from headrace.shards.formats.orientation import UPRIGHT, Orientation, shown_size, turned

MAX_PIXELS = 1 << 25
"""Of a frame; 7680x4320 fits."""
MAX_FRAMES = 1 << 20
"""Of a video: nine hours at 30 a second."""
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
SKIPPING = ("h264",)
"""Decoders that leave out a frame which nothing refers to without a trace in the others. Not those of HEVC, where a
frame without references in its own layer may have some in a higher one."""


class _Reformatters(threading.local):
    """One for each thread, because making one anew takes longer than a small frame."""

    def __init__(self) -> None:
        self.of_this_thread = VideoReformatter()


_REFORMATTER = _Reformatters()


class EncodedVideo:
    """A video file whose packets have been read, and none decoded.

    Frames are numbered as they are shown: number i is what the i-th frame is when all of them are decoded from the
    first to the last. A frame that a file announces and that does not decode shows the one before it.

    `width` and `height` are those of the frames as they are shown, turned as `orientation` says
    (`headrace.shards.formats.orientation`); nothing is stretched where pixels are not square.
    """

    def __init__(self, container: Any, stream: Any, orientation: int = UPRIGHT) -> None:
        self._context = stream.codec_context
        self.stored_size = checked_size(self._context)
        """(width, height) of the frames as they are coded."""
        self.orientation = orientation
        self.height, self.width = shown_size(*self.stored_size[::-1], orientation)
        self._coded = list(packets(container, stream))
        if not self._coded:
            raise ValueError("holds no frames")
        self._open_for = container  # frames and packets stay valid while it is open
        shown = [packet.pts for packet in self._coded if not packet.is_discard]
        self._has_times = (
            container.format.name not in TIMELESS and None not in shown and len(set(shown)) == len(shown) > 0
        )
        self._times: list[int] = sorted(shown) if self._has_times else list(range(len(self._coded)))
        self.length = len(self._times)

    def frames(self, wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """(number, `av.VideoFrame`) of the frames `wanted`, as they are coded, whose numbers ascend and lie in
        [0, length).

        Raises:
            ValueError: if no frame decodes.
        """
        if not self._has_times:
            yield from self._from_first(wanted)
            return
        done = 0
        for start, last, numbers in self._segments(wanted):
            for number, frame in self._segment(start, last, numbers):
                yield number, frame
                done += 1
            if done < len(wanted) and wanted[done] <= numbers[-1]:
                # Something is missing between: only the whole of the video says what is shown in its place.
                yield from self._from_first(wanted[done:])
                return

    def pictures(self, wanted: Sequence[int]) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
        """(number, uint8 RGB (H, W, 3)) of `frames`, as PyAV converts them, as they are shown.

        A frame of another size than the first is scaled to that.
        """
        width, height = self.stored_size
        for number, frame in self.frames(wanted):
            picture = _REFORMATTER.of_this_thread.reformat(frame, width, height, "rgb24", threads=1)
            plane: Any = picture.planes[0]
            rows = np.frombuffer(plane, np.uint8).reshape(height, plane.line_size)
            yield number, turned(rows[:, : 3 * width].reshape(height, width, 3), self.orientation)

    def _segments(self, wanted: Sequence[int]) -> Iterator[tuple[int, int, list[int]]]:
        """(packet to begin with, last packet needed, numbers of frames): stretches that begin with a key frame."""
        place = {packet.pts: at for at, packet in enumerate(self._coded) if not packet.is_discard}
        keys = [at for at, packet in enumerate(self._coded) if packet.is_keyframe]
        start, last = 0, -1
        numbers: list[int] = []
        for number in wanted:
            moment = self._times[number]
            at = place[moment]
            # A frame that is shown before a key frame may refer to what was before that, wherever it is stored.
            before = range(bisect_right(keys, at) - 1, -1, -1)
            key = next((keys[i] for i in before if (self._coded[keys[i]].pts or 0) <= moment), 0)
            if numbers and key > last:
                yield start, last, numbers
                numbers = []
            if not numbers:
                start, last = key, -1
            numbers.append(number)
            last = max(last, at)
        yield start, last, numbers

    def _segment(self, start: int, last: int, numbers: list[int]) -> Iterator[tuple[int, Any]]:
        """Decodes from a key frame on; ends early where a frame is missing or may have been damaged by the start."""
        context = self._context
        context.flush_buffers()
        of_moment = {self._times[number]: number for number in numbers}
        skips = context.name in SKIPPING
        expected = iter(numbers)
        for packet in chain(self._coded[start : last + 1], [None]):
            if skips and packet is not None:
                context.skip_frame = "DEFAULT" if packet.pts in of_moment else "NONREF"
            for frame in context.decode(packet):
                number = of_moment.get(frame.pts)
                if number is None:
                    continue
                if number != next(expected) or frame.is_corrupt:
                    return
                yield number, frame

    def _from_first(self, wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """Decodes everything up to the last frame that is wanted."""
        context = self._context
        context.flush_buffers()
        context.skip_frame = "DEFAULT"
        moments = [self._times[number] for number in wanted]
        done, counted, shown = 0, 0, None
        for packet in chain(self._coded, [None]):
            for frame in context.decode(packet):
                moment = frame.pts if self._has_times and frame.pts is not None else counted
                counted += 1
                while done < len(wanted) and moments[done] < moment:
                    yield wanted[done], frame if shown is None else shown
                    done += 1
                shown = frame
                if done < len(wanted) and moments[done] == moment:
                    yield wanted[done], frame
                    done += 1
                if done == len(wanted):
                    return
        if shown is None:
            raise ValueError("no frame decodes")
        for number in wanted[done:]:
            yield number, shown


@contextlib.contextmanager
def open_video(data: bytes, orientation: Orientation = "apply") -> Iterator[EncodedVideo]:
    """The video in a file, its frames turned as it says unless that is to be ignored; FFmpeg's errors become
    ValueErrors, also those while it is open."""
    with opened("video", data) as (container, stream):
        yield EncodedVideo(container, stream, said(data, container, stream) if orientation == "apply" else UPRIGHT)


def said(data: bytes, container: Any, stream: Any) -> int:
    """How a file says that the frames of its stream are to be shown, 1 to 8."""
    number = [each.index for each in container.streams.video].index(stream.index)
    return video_orientation(media_type("video", data[:HEAD]), data, number, stream.id)


@contextlib.contextmanager
def opened(kind: str, data: bytes) -> Iterator[tuple[Any, Any]]:
    """(container, its first stream of the kind), ready to decode in this thread; FFmpeg's errors become ValueErrors."""
    encoding = check_whole(kind, data)
    demuxer = DEMUXERS[encoding]
    if data[:4] == b"\0\0\1\xb3":
        demuxer = "mpegvideo"  # a picture without a container
    limits = {"max_pixels": str(MAX_PIXELS), "threads": "1"}
    try:
        with av.open(
            io.BytesIO(sized(encoding, data)), format=demuxer, options=limits, metadata_errors="replace"
        ) as container:
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
