"""Frames by their numbers are those that decoding everything in order gives, whatever the file is like."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

from tests import clips

pytestmark = pytest.mark.peer("av")

COUNT = 60
X264 = "keyint=12:min-keyint=12:scenecut=0"


def encode(
    muxer: str, codec: str, options: dict[str, str], times: Callable[[int], int], gop: int = 12, repeat: int = 1
) -> bytes:
    """60 frames shown at `times`, in hundredths of a second."""
    from fractions import Fraction

    import av

    stream = io.BytesIO()
    with av.open(stream, "w", format=muxer) as out:
        picture: Any = out.add_stream(codec, rate=25)
        picture.width, picture.height, picture.pix_fmt, picture.gop_size = 176, 144, "yuv420p", gop
        picture.options = options
        picture.codec_context.time_base = Fraction(1, 100)
        for number, frame in enumerate(clips.frames()[:COUNT]):
            copy = av.VideoFrame.from_ndarray(frame.to_ndarray(), "yuv420p")
            copy.pts, copy.time_base = times(number), Fraction(1, 100)
            out.mux(picture.encode(copy))
        out.mux(picture.encode(None))
    return stream.getvalue()


def regular(number: int) -> int:
    return 4 * number


def variable(number: int) -> int:
    return 4 * number + (number % 3) + 30 * (number > 20) + 75 * (number > 41)


FILES: dict[str, tuple[str, str, dict[str, str], Callable[[int], int]]] = {
    "B frames": ("mp4", "libx264", {"x264-params": X264}, regular),
    "one key frame": ("mp4", "libx264", {"x264-params": "keyint=250"}, regular),
    "B frames that others refer to": ("mp4", "libx264", {"x264-params": X264 + ":bframes=5:b-pyramid=strict"}, regular),
    "no B frames": ("mp4", "libx264", {"x264-params": X264 + ":bframes=0"}, regular),
    "open groups": ("matroska", "libx264", {"x264-params": X264 + ":open-gop=1"}, regular),
    "open groups in MP4": ("mp4", "libx264", {"x264-params": X264 + ":open-gop=1:bframes=4"}, regular),
    "intra refresh, no key frames": ("mp4", "libx264", {"x264-params": X264 + ":intra-refresh=1"}, regular),
    "slices and interlaced": ("mp4", "libx264", {"x264-params": X264 + ":slices=3:tff=1"}, regular),
    "a start that is not zero": ("matroska", "libx264", {"x264-params": X264}, lambda number: 731 + 4 * number),
    "a start that is not zero in TS": ("mpegts", "libx264", {"x264-params": X264}, lambda number: 731 + 4 * number),
    "a variable rate": ("mp4", "libx264", {"x264-params": X264}, variable),
    "a variable rate in Matroska": ("matroska", "libx264", {"x264-params": X264}, variable),
    "HEVC": ("mp4", "libx265", {"x265-params": "keyint=12:log-level=none", "preset": "ultrafast"}, regular),
    "VP8": ("webm", "libvpx", {"auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "8", "b:v": "100k"}, regular),
    "VP9": (
        "webm",
        "libvpx-vp9",
        {"auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "8", "b:v": "100k"},
        regular,
    ),
    "MPEG-4": ("mp4", "mpeg4", {"bf": "2"}, regular),
    "MPEG-2": ("mpeg", "mpeg2video", {"bf": "2"}, regular),
    "AVI": ("avi", "mpeg4", {}, regular),
    "AVI with B frames": ("avi", "mpeg4", {"bf": "2"}, regular),
}


@cache
def file(name: str) -> bytes:
    return encode(*FILES[name])


def planes(frame: Any) -> bytes:
    return frame.to_ndarray().tobytes()


@cache
def everything(name: str) -> list[bytes]:
    import av

    with av.open(io.BytesIO(file(name))) as container:
        return [planes(frame) for frame in container.decode(video=0)]


@pytest.mark.parametrize("name", FILES)
def test_frames_are_those_of_a_full_decode(name: str) -> None:
    from headrace.shards.formats.video import open_video

    expected = everything(name)
    assert len(expected) == COUNT
    random = np.random.Generator(np.random.Philox(11))
    chosen = [[0], [COUNT - 1], [11, 12, 13], list(range(COUNT)), list(range(7, 56, 4)), [2, 40, 41, 59]]
    chosen += [sorted(random.choice(COUNT, 1 + case % 7, replace=False).tolist()) for case in range(30)]
    with open_video(file(name)) as video:
        assert (video.length, video.height, video.width) == (COUNT, 144, 176)
        for wanted in chosen:  # one open video, forwards and back again
            found = [(number, planes(frame)) for number, frame in video.frames(wanted)]
            assert [number for number, _ in found] == wanted
            assert [pixels for _, pixels in found] == [expected[number] for number in wanted]


class Around:
    """A decoder that counts its packets and loses the frames shown at some times."""

    def __init__(self, context: Any, lost: set[int] | None = None) -> None:
        vars(self).update(context=context, lost=lost or set(), count=0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.context, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.context, name, value)

    def decode(self, packet: Any) -> list[Any]:
        vars(self)["count"] += packet is not None
        return [frame for frame in self.context.decode(packet) if frame.pts not in self.lost]


def decoded_packets(data: bytes, wanted: list[int]) -> int:
    """Packets that `frames` gives to the decoder."""
    from headrace.shards.formats.video import open_video

    with open_video(data) as video:
        video._context = around = Around(video._context)
        assert [number for number, _ in video.frames(wanted)] == wanted
        return around.count


@pytest.mark.parametrize("name", ["B frames", "open groups", "VP9", "HEVC", "a variable rate"])
def test_no_more_is_decoded_than_the_groups_that_are_needed(name: str) -> None:
    assert decoded_packets(file(name), [50, 52]) <= 24
    assert decoded_packets(file(name), [3, 50]) <= 36  # and nothing between two clips


def test_what_nothing_refers_to_is_left_out() -> None:
    """The decoder, told to skip, gives fewer frames, and the ones that are wanted are the same."""
    import av

    from headrace.shards.formats.video import open_video

    with open_video(file("one key frame")) as video:
        context, given = video._context, 0
        decode = context.decode
        for packet in [*video._coded, None]:
            if packet is not None:
                context.skip_frame = "NONREF"
            given += len(decode(packet))
    with av.open(io.BytesIO(file("one key frame"))) as container:
        assert given < len(list(container.decode(video=0))) * 2 / 3


def test_a_frame_that_does_not_decode_shows_the_one_before() -> None:
    from headrace.shards.formats.video import open_video

    expected = everything("B frames")
    for wanted in ([29, 30], [30], [30, 59], [24, 30, 36], [0, 30], [0], [0, 1], [59]):
        with open_video(file("B frames")) as video:
            video._context = Around(video._context, {video._times[number] for number in (0, 30, 59)})
            found = {number: planes(frame) for number, frame in video.frames(wanted)}
            assert list(found) == wanted
            for number, pixels in found.items():
                shown = {0: 1, 30: 29, 59: 58}.get(number, number)  # before the first there is none: the next
                assert pixels == expected[shown]
