"""Probing and clips against a plain decoder that reads every frame, in every container; damaged and hostile files."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headrace.benchmarks.videos import NAMES, sample_videos
from headrace.shards import Field
from headrace.tools.conversion.encode import EncodeSettings
from tests import clips
from tests.conftest import needs_linux

pytestmark = pytest.mark.peer("av")

VIDEOS, AUDIOS = list(clips.VIDEO_MUXERS), list(clips.AUDIO_MUXERS)
WHOLE = ("mp4", "mov", "3gp", "webm", "mkv", "avi")
"""Containers that say how long they are."""


@lru_cache(maxsize=8)
def every_frame(data: bytes) -> list[Any]:
    import av

    with av.open(io.BytesIO(data)) as container:
        return list(container.decode(video=0))


@pytest.mark.parametrize("name", NAMES)
def test_real_videos(name: str) -> None:
    from headrace.tools.media.videos import VideoInfo, probe_video

    width, height, frames, fps, sound = {
        "bigbuckbunny.mp4": (1280, 720, 132, 25.0, True),
        "bikes.mp4": (640, 272, 250, 25.0, False),
        "carphone_pristine.mp4": (176, 144, 120, 30000 / 1001, False),
        "carphone_distorted.mp4": (176, 144, 120, 30000 / 1001, False),
    }[name]
    assert probe_video(clips.fetched(sample_videos)[name].read_bytes()) == VideoInfo(
        width=width,
        height=height,
        frames=frames,
        fps=fps,
        seconds=pytest.approx(frames / fps),  # type: ignore[arg-type]
        codec="h264",
        sound=sound,
    )


@pytest.mark.parametrize("sound", [False, True])
@pytest.mark.parametrize("encoding", VIDEOS)
def test_every_container(encoding: str, sound: bool) -> None:
    from headrace.tools.media.videos import probe_video

    info = probe_video(clips.video(encoding, sound=sound))
    assert (info.width, info.height, info.frames, info.sound) == (176, 144, 12, sound)
    assert info.fps == pytest.approx(25)
    assert info.seconds == pytest.approx(0.48, abs=0.041)


@pytest.mark.parametrize("encoding", AUDIOS)
def test_every_container_of_sound(encoding: str) -> None:
    from headrace.tools.media.videos import probe_audio

    info = probe_audio(clips.audio(encoding))
    assert (info.rate, info.channels) == (48000, 2)
    assert info.seconds == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("encoding", VIDEOS)
@pytest.mark.parametrize(("frames", "stride"), [(1, 1), (3, 2), (12, 1), (4, 3), (5, 7), (20, 1)])
def test_a_clip_is_the_middle_of_all_frames(encoding: str, frames: int, stride: int) -> None:
    from headrace.tools.media.videos import SCALING, decode_clip

    data = clips.video(encoding, count=23)
    everything = every_frame(data)
    first = max(0, len(everything) - (frames - 1) * stride - 1) // 2
    chosen = [everything[min(first + stride * number, len(everything) - 1)] for number in range(frames)]
    expected = [f.reformat(78, 64, "rgb24", interpolation=SCALING).to_ndarray() for f in chosen]
    found = decode_clip(data, frames, stride, 64)
    assert (found.shape, found.dtype) == ((frames, 64, 78, 3), np.uint8)
    np.testing.assert_array_equal(found, expected)


CODERS = {
    "B frames in AVI, which has no times of display": ("avi", "libx264", {}),
    "B frames of MPEG-4 in AVI": ("avi", "mpeg4", {"bf": "2"}),
    "B frames of MPEG-2": ("mpeg", "mpeg2video", {"bf": "2"}),
    "frames that need the group before": (
        "matroska",
        "libx264",
        {"x264-params": "open-gop=1:keyint=12:min-keyint=12:scenecut=0"},
    ),
    "hidden frames of VP8": ("webm", "libvpx", {"auto-alt-ref": "1", "lag-in-frames": "16", "b:v": "100k"}),
    "hidden frames of VP9": (
        "webm",
        "libvpx-vp9",
        {"auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "8", "b:v": "100k"},
    ),
}


@pytest.mark.parametrize("coder", CODERS)
def test_frames_in_another_order_than_they_are_shown(coder: str) -> None:
    from headrace.tools.media.videos import SCALING, decode_clip, probe_video

    data = clips.encoded(*CODERS[coder], 0, 60, 12)
    everything = every_frame(data)
    assert probe_video(data).frames == len(everything) == 60
    for frames, stride in ((1, 1), (8, 3), (60, 1), (5, 5)):
        first = (60 - (frames - 1) * stride - 1) // 2
        chosen = everything[first : first + frames * stride : stride]
        expected = [f.reformat(format="rgb24", interpolation=SCALING).to_ndarray() for f in chosen]
        np.testing.assert_array_equal(decode_clip(data, frames, stride), expected)


def test_pixels_are_those_of_the_frames() -> None:
    """Another path from YUV to RGB: Pillow's conversion of planes at full range."""
    from headrace.tools.media.videos import decode_clip

    data = clips.fetched(sample_videos)["carphone_pristine.mp4"].read_bytes()
    frame = every_frame(data)[59]
    planes = [np.asarray(plane).reshape(-1, plane.line_size)[:, : plane.width] for plane in frame.planes]
    luma, blue, red = (np.asarray(plane, np.float64) for plane in planes)
    blue, red = (np.asarray(Image.fromarray(c).resize((176, 144), Image.Resampling.BICUBIC)) for c in (blue, red))
    luma = (luma - 16) * 255 / 219
    blue, red = (blue - 128) * 255 / 224, (red - 128) * 255 / 224
    expected = np.stack([luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue], axis=2)
    found = decode_clip(data, 1, 1)[0]
    assert np.abs(found - expected.clip(0, 255)).mean() < 2


@pytest.mark.parametrize(
    ("short_side", "size"), [(None, (144, 176)), (72, (72, 88)), (144, (144, 176)), (288, (288, 352))]
)
def test_the_shorter_side(short_side: int | None, size: tuple[int, int]) -> None:
    from headrace.tools.media.videos import decode_clip

    assert decode_clip(clips.video(), 2, 1, short_side).shape == (2, *size, 3)


def test_threads_and_repetition_change_nothing() -> None:
    from headrace.tools.media.videos import decode_clip, probe_video

    data = clips.fetched(sample_videos)["bikes.mp4"].read_bytes()
    expected, info = decode_clip(data, 4, 8, 56), probe_video(data)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: decode_clip(data, 4, 8, 56), range(6)):
            np.testing.assert_array_equal(found, expected)
        assert set(pool.map(lambda _: probe_video(data), range(6))) == {info}


@pytest.mark.parametrize("encoding", WHOLE)
def test_a_cut_video_is_found_wherever_it_is_cut(encoding: str) -> None:
    from headrace.tools.media.videos import probe_video

    data = clips.video(encoding, sound=True)
    random = np.random.Generator(np.random.Philox(5))
    for size in (0, 1, 30, 300, len(data) // 2, len(data) - 1, *random.integers(1, len(data), 20).tolist()):
        with pytest.raises(ValueError, match=r"empty|cut off|no video file|damaged"):
            probe_video(data[:size])


@pytest.mark.parametrize("encoding", [*WHOLE, "ogg", "wav", "weba"])
def test_containers_know_their_end_at_every_byte(encoding: str) -> None:
    from headrace.shards.formats.containers import check_whole

    kind = "video" if encoding in VIDEOS else "audio"
    data = clips.video(encoding) if kind == "video" else clips.audio(encoding)
    assert check_whole(kind, data) == encoding
    for size in {*range(0, 600), *range(0, len(data), 41), *range(len(data) - 300, len(data))}:
        try:
            check_whole(kind, data[:size])
        except ValueError:
            continue
        assert encoding == "ogg"  # where a page ends, which the decoder has to notice
        assert data[size : size + 4] == b"OggS"


@pytest.mark.parametrize("encoding", ["flac", "ogg", "opus", "wav", "m4a", "weba"])
def test_a_cut_sound_is_found(encoding: str) -> None:
    from headrace.tools.media.videos import probe_audio

    data = clips.audio(encoding)
    for size in (0, 1, 20, len(data) // 2, len(data) - 1):
        with pytest.raises(ValueError, match=r"empty|cut off|no audio file|no sound|damaged|decode"):
            probe_audio(data[:size])


@pytest.mark.parametrize("encoding", [*VIDEOS, *AUDIOS])
def test_damage_is_a_value_error_or_nothing(encoding: str) -> None:
    """Zeros, noise and flipped bits anywhere: no other exception, and no hang."""
    from headrace.tools.media.videos import decode_clip, probe_audio, probe_video

    video = encoding in VIDEOS
    data = clips.video(encoding, sound=True) if video else clips.audio(encoding)
    random = np.random.Generator(np.random.Philox(6))
    reasons = []
    for number in range(24):
        damaged = bytearray(data)
        at = int(random.integers(len(data))) if number % 2 else int(random.integers(min(len(data), 400)))
        size = int(random.integers(1, 64))
        damaged[at : at + size] = random.bytes(size) if number % 3 else bytes(size)
        del damaged[len(data) :]
        try:
            if video:
                probe_video(bytes(damaged))
                decode_clip(bytes(damaged), 3, 2, 32)
            else:
                probe_audio(bytes(damaged))
        except ValueError as error:
            reasons.append(str(error))
    assert reasons
    assert not any("\n" in reason for reason in reasons)


@pytest.mark.parametrize(
    "data",
    [
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"<?xml version='1.0'?><MPD></MPD>",
        b"\0\0\0\x18ftypisom" + bytes(12),
        b"\0\0\0\x10ftypisom\0\0\0\0" + b"\0\0\0\x08mdat" + b"\0\0\0\x08moov",
        b"RIFF\x04\0\0\0AVI ",
        b"OggS" + bytes(100),
    ],
)
def test_what_is_no_film_never_reaches_a_demuxer_that_opens_other_files(data: bytes) -> None:
    from headrace.tools.media.videos import decode_clip, probe_audio, probe_video

    for refusing in (probe_video, probe_audio, lambda data: decode_clip(data, 1, 1)):
        with pytest.raises(ValueError, match=r"no (video|audio) file|cut off|decode|holds no|damaged"):
            refusing(data)


def copied(data: bytes, keys: int = 0, muxer: str = "mp4", seconds: float = 0.0, zeroed: range = range(0)) -> bytes:
    """A copy of a video's packets, from its key frame number `keys` on, those of the numbers `zeroed` overwritten, with
    an edit list that skips the first `seconds`."""
    import av

    stream = io.BytesIO()
    with av.open(io.BytesIO(data)) as container, av.open(stream, "w", format=muxer) as out:
        track = container.streams.video[0]
        copy = out.add_stream_from_template(track)
        number, start = 0, None
        for packet in container.demux(track):
            keys -= packet.is_keyframe
            if not packet.size or keys >= 0:
                continue
            start = packet.pts + round(seconds / packet.time_base) if start is None else start
            moved = av.Packet(bytes(packet.size) if number in zeroed else bytes(packet))
            moved.time_base, moved.duration, moved.is_keyframe = packet.time_base, packet.duration, packet.is_keyframe
            moved.pts, moved.dts, moved.stream = packet.pts - start, packet.dts - start, copy
            out.mux(moved)
            number += 1
    return stream.getvalue()


def x264(parameters: str, count: int = 40, muxer: str = "mp4") -> bytes:
    return clips.encoded(muxer, "libx264", {"x264-params": parameters}, 0, count, 10)


OPEN = "open-gop=1:bframes=3:keyint=10:min-keyint=10:scenecut=0"
"""Groups of pictures whose first frames refer to the group before."""
ALTERNATE = {"auto-alt-ref": "1", "lag-in-frames": "16", "deadline": "good", "cpu-used": "8"}
GOOD: dict[str, Callable[[], bytes]] = {
    "open groups": lambda: x264(OPEN),
    "open groups, the first cut away": lambda: copied(x264(OPEN), 1),
    "open groups, cut in a file without edit lists": lambda: copied(x264(OPEN), 1, "matroska"),
    "an edit list": lambda: copied(x264(OPEN), 1, seconds=0.2),
    "renewed piece by piece": lambda: x264("intra-refresh=1:keyint=10"),
    "renewed piece by piece, cut": lambda: copied(
        x264("intra-refresh=1:keyint=10:bframes=0", 40, "mpegts"), 2, "mpegts"
    ),
    "many references at the end": lambda: x264("bframes=8:b-adapt=0:b-pyramid=normal:ref=8", 38),
    "interlaced": lambda: x264("tff=1:bframes=3"),
    "HEVC, cut": lambda: copied(
        clips.encoded("mp4", "libx265", {"x265-params": f"{OPEN}:log-level=none"}, 0, 40, 10), 1
    ),
    "hidden frames": lambda: clips.encoded("webm", "libvpx-vp9", ALTERNATE, 0, 40, 20),
    "AV1": lambda: clips.encoded("mp4", "libsvtav1", {"preset": "12"}, 0, 20, 10),
    "MPEG-2": lambda: clips.encoded("mpeg", "mpeg2video", {"bf": "2", "flags": "+ildct+ilme"}, 0, 40, 10),
    "MPEG-2, cut": lambda: copied(clips.encoded("mpeg", "mpeg2video", {"bf": "2"}, 0, 40, 10), 1, "mpeg"),
    "MPEG-4, cut": lambda: copied(clips.encoded("avi", "mpeg4", {"bf": "2"}, 0, 40, 10), 1, "avi"),
    **{f"every {encoding}": lambda encoding=encoding: clips.video(encoding, count=23) for encoding in VIDEOS},
    **{name: lambda name=name: clips.fetched(sample_videos)[name].read_bytes() for name in NAMES},
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_video_is_whole(name: str) -> None:
    """Also where frames at its beginning refer to what was cut away, and where not each packet is a frame."""
    from headrace.tools.media.videos import probe_video

    data = GOOD[name]()
    assert repr(probe_video(data, whole=True)) == repr(probe_video(data))


def test_a_video_of_which_nothing_decodes_between_its_ends_is_not_whole() -> None:
    from headrace.tools.media.videos import probe_video

    whole = clips.encoded("mp4", "libx264", {}, 0, 120, 12)
    assert probe_video(copied(whole), whole=True).frames == 120
    damaged = copied(whole, zeroed=range(3, 108))
    assert probe_video(damaged).frames == 120, "its beginning and its last group of pictures are right"
    with pytest.raises(ValueError, match=r"packet \d+ of the picture does not decode"):
        probe_video(damaged, whole=True)
    video = Field(kind="video", encoding="mixed")
    assert EncodeSettings().stored(video, "key", damaged) == damaged
    with pytest.raises(ValueError, match=r"packet \d+ of the picture does not decode"):
        EncodeSettings(strict=True).stored(video, "key", damaged)


def spoilt(data: bytes, kind: str, numbers: range) -> bytes:
    """A file with zeros in the second half of some packets."""
    import av

    content = bytearray(data)
    with av.open(io.BytesIO(data)) as container:
        packets = [bytes(packet) for packet in container.demux(**{kind: 0}) if packet.size]
    for number in numbers:
        start, size = data.find(packets[number][:64]), len(packets[number])
        assert start > 0
        content[start + size // 2 : start + size] = bytes(size - size // 2)
    return bytes(content)


@pytest.mark.parametrize("encoding", [encoding for encoding in VIDEOS if encoding not in ("webm", "wmv")])
def test_damage_in_the_middle_of_packets_is_noticed(encoding: str) -> None:
    """What FFmpeg would conceal. VP8 and WMV 8 tell nothing: these bytes, too, are a picture."""
    from headrace.tools.media.videos import probe_video

    with pytest.raises(ValueError, match=r"does not decode|damaged"):
        probe_video(spoilt(clips.video(encoding, count=40), "video", range(15, 20)), whole=True)


@pytest.mark.parametrize("encoding", ["flac", "ogg", "opus", "m4a", "aac"])
def test_a_damaged_packet_of_a_sound_is_noticed(encoding: str) -> None:
    """Also where FFmpeg passes over the page or the frame that it is in."""
    from headrace.tools.media.videos import probe_audio

    with pytest.raises(ValueError, match=r"does not decode|samples decode"):
        probe_audio(spoilt(clips.audio(encoding), "audio", range(5, 6)))


def test_a_video_without_a_picture() -> None:
    from headrace.tools.media.videos import probe_video

    with pytest.raises(ValueError, match="the mp4 file holds no video"):
        probe_video(clips.audio("m4a"))


def test_the_cover_of_a_sound_is_no_video() -> None:
    import av
    from av.stream import Disposition

    from headrace.tools.media.videos import probe_audio, probe_video

    cover, stream = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (64, 64)).save(cover, "JPEG")
    with av.open(stream, "w", format="mp4") as out:
        picture = out.add_stream("mjpeg", rate=1)
        picture.width, picture.height, picture.pix_fmt = 64, 64, "yuvj420p"
        picture.disposition = Disposition.attached_pic
        track = out.add_stream("aac", rate=48000)
        packet = av.Packet(cover.getvalue())
        packet.stream, packet.pts, packet.dts, packet.is_keyframe = picture, 0, 0, True
        out.mux(packet)
        clips.write_sound(out, track)
    assert probe_audio(stream.getvalue()).seconds == pytest.approx(1, abs=0.1)
    with pytest.raises(ValueError, match="the mp4 file holds no video"):
        probe_video(stream.getvalue())


def test_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    from headrace.shards.formats import video
    from headrace.tools.media import videos

    data = clips.video()
    for name, limit, match in (
        ("MAX_PIXELS", 100 * 100, r"176x144 pixels, expected 1 to 10,000"),
        ("MAX_FRAMES", 11, r"more than the limit of 11 frames"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(video, name, limit)
            for call in (videos.probe_video, lambda data: videos.decode_clip(data, 1, 1)):
                with pytest.raises(ValueError, match=match):
                    call(data)
    monkeypatch.setattr(videos, "MAX_SAMPLES", 1000)
    with pytest.raises(ValueError, match=r"more than the limit of 1,000 samples"):
        videos.probe_audio(clips.audio())
    with pytest.raises(ValueError, match=r"60000 frames of 176x144 pixels, more than the limit of 1,073,741,824 bytes"):
        videos.decode_clip(data, 60_000, 1)
    for frames, stride, side in ((0, 1, 8), (1, 0, 8), (1, 1, 0)):
        with pytest.raises(ValueError, match="must be at least 1"):
            videos.decode_clip(data, frames, stride, side)


BOMB = """
import io, resource, sys, zlib
import av
from headrace.tools.media.videos import decode_clip, probe_video

SIDE = 15000
packer = zlib.compressobj(1)
pixels = b"".join(packer.compress(bytes(1 + SIDE)) for _ in range(SIDE)) + packer.flush()
picture = b"\\x89PNG\\r\\n\\x1a\\n"
header = SIDE.to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
for name, content in ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")):
    chunk = name + content
    picture += len(content).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
stream = io.BytesIO()
with av.open(stream, "w", format=sys.argv[1]) as out:
    track = out.add_stream("png", rate=25)
    track.width, track.height, track.pix_fmt = 176, 144, "rgb24"
    for number in range(3):
        packet = av.Packet(picture)
        packet.stream, packet.pts, packet.dts = track, number, number
        packet.is_keyframe = True
        out.mux(packet)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
for call in (probe_video, lambda data: decode_clip(data, 1, 1, 8)):
    try:
        print(call(stream.getvalue()))
    except ValueError as error:
        print("refused:", error)
print("kB more:", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("muxer", ["mov", "avi"])
def test_a_picture_that_claims_to_be_gigabytes(muxer: str) -> None:
    """The container says 176x144, the frame in it 15000x15000."""
    needs_linux("limits on memory, and its peak in kB")
    done = subprocess.run([sys.executable, "-c", BOMB, muxer], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    *said, memory = done.stdout.splitlines()
    assert len(said) == 2
    assert all(line.startswith("refused: ") for line in said)
    assert int(memory.rpartition(" ")[2]) < 40_000
