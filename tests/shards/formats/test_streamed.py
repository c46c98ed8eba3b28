"""Videos and sounds that were written into a pipe, whose writer could not go back to fill in sizes."""

from __future__ import annotations

import io
import struct
from typing import Any

import pytest

from headrace.shards.formats.containers import check_whole, sized
from headrace.tools.media.videos import probe_audio, probe_video
from tests import clips

pytestmark = pytest.mark.peer("av")


class Pipe:
    """A file that cannot be gone back in."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def write(self, part: bytes) -> int:
        self.parts.append(bytes(part))
        return len(part)


def piped(data: bytes, muxer: str, options: dict[str, str] | None = None) -> bytes:
    """The same packets, written into a pipe."""
    import av

    pipe: Any = Pipe()
    with av.open(io.BytesIO(data)) as source, av.open(pipe, "w", format=muxer, options=options or {}) as out:
        stream: Any = (source.streams.video or source.streams.audio)[0]
        target = out.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.stream = target
                out.mux(packet)
    return b"".join(pipe.parts)


def with_sizes(riff: int, sound: int) -> bytes:
    """A .wav whose header says these."""
    data = bytearray(clips.audio("wav"))
    at = data.index(b"data")
    data[4:8], data[at + 4 : at + 8] = struct.pack("<I", riff), struct.pack("<I", sound)
    return bytes(data)


def test_what_ffmpeg_writes_into_a_pipe() -> None:
    data = piped(clips.audio("wav"), "wav")
    assert data[4:8] == b"\xff\xff\xff\xff"
    assert probe_audio(data) == probe_audio(clips.audio("wav"))


@pytest.mark.parametrize(
    ("riff", "sound"),
    [
        (0xFFFFFFFF, 0xFFFFFFFF),  # FFmpeg
        (0, 0),  # GStreamer
        (0x7FFFF024, 0x7FFFF000),  # SoX, MPlayer
        (0x80000024, 0x80000000),  # arecord
        (0xFFFFFFFF, 0xFFFFFFDB),
        (0, 0xFFFFFFFF),
    ],
)
def test_sizes_that_say_to_the_end(riff: int, sound: int) -> None:
    data = with_sizes(riff, sound)
    assert probe_audio(data) == probe_audio(clips.audio("wav"))
    assert probe_audio(data[:-4000]).seconds == pytest.approx(probe_audio(data).seconds - 1000 / 48000)
    assert len(sized("wav", data)) == len(data)


@pytest.mark.parametrize(("riff", "sound"), [(0xFFFFFFFF, 1_000_000), (None, 1_000_000), (1_000_000, 1_000_000)])
def test_a_sound_that_has_a_size_is_held_to_it(riff: int | None, sound: int) -> None:
    data = with_sizes(len(clips.audio("wav")) - 8 if riff is None else riff, sound)
    with pytest.raises(ValueError, match=r"cut off|damaged"):
        probe_audio(data)


def test_what_lies_behind_a_sound_is_no_sound() -> None:
    """The size of the sound is known, that of the file is not."""
    size = len(clips.audio("wav")) - clips.audio("wav").index(b"data") - 8
    data = with_sizes(0xFFFFFFFF, size) + b"LIST" + struct.pack("<I", 4000) + bytes(4000)
    assert sized("wav", data) == data
    assert probe_audio(data) == probe_audio(clips.audio("wav"))


def test_a_large_wav() -> None:
    """RF64 (EBU Tech 3306) has its sizes in a chunk of their own, of zeros where they are unknown."""
    plain = clips.audio("wav")
    at = plain.index(b"data")
    for size in (0, (1 << 64) - 1, len(plain) - at - 8):
        ds64 = b"ds64" + struct.pack("<IQQQI", 28, size, size, 0, 0)
        data = b"RF64\xff\xff\xff\xffWAVE" + ds64 + plain[12:at] + b"data\xff\xff\xff\xff" + plain[at + 8 :]
        assert probe_audio(data) == probe_audio(plain)
    data = data.replace(struct.pack("<Q", size), struct.pack("<Q", size + 1))
    with pytest.raises(ValueError, match=r"cut off: the chunk 'data' at offset .* lacks 1 bytes"):
        probe_audio(data)


def test_headers_that_lead_nowhere() -> None:
    for data in (
        b"RIFF\0\0\0\0WAVE",
        b"RIFF\0\0\0\0WAVEdata",
        b"RF64\xff\xff\xff\xffWAVEds64\x04\0\0\0abcddata\0\0\0\0",
    ):
        assert sized("wav", data)[:4] == data[:4]
        with pytest.raises(ValueError, match=r"does not decode|no sound|holds no|cut off"):
            probe_audio(data)


def test_an_aiff_without_sizes_is_refused_for_what_it_is() -> None:
    data = piped(clips.audio("aiff"), "aiff")
    assert data[4:8] == bytes(4)
    with pytest.raises(ValueError, match=r"has no sizes, as one written into a pipe, .*; make it a \.wav"):
        probe_audio(data)


@pytest.mark.parametrize("encoding", ["mp3", "flac", "ogg", "opus", "aac", "au", "wma", "weba", "mka"])
def test_other_sounds_from_a_pipe(encoding: str) -> None:
    data = piped(clips.audio(encoding), clips.AUDIO_MUXERS[encoding][0])
    found, expected = probe_audio(data), probe_audio(clips.audio(encoding))
    assert (found.rate, found.channels) == (expected.rate, expected.channels)
    assert found.seconds == pytest.approx(expected.seconds, abs=0.06)


@pytest.mark.parametrize("encoding", ["mkv", "webm", "avi", "mpg", "ts", "flv", "wmv"])
def test_videos_from_a_pipe(encoding: str) -> None:
    source = clips.video("mp4" if encoding == "mkv" else encoding)  # of which every packet has its times
    assert probe_video(piped(source, clips.VIDEO_MUXERS[encoding][0]), whole=True).frames == 12


def test_a_film_in_fragments() -> None:
    data = piped(clips.video("mp4"), "mp4", {"movflags": "frag_keyframe+empty_moov"})
    assert probe_video(data).frames == 12
    with pytest.raises(ValueError, match="cut off: the box 'm"):
        probe_video(data[:-1000])


@pytest.mark.parametrize(("kind", "encoding"), [("video", "mkv"), ("video", "webm"), ("audio", "mka")])
def test_a_film_of_unknown_size_that_is_cut(kind: str, encoding: str) -> None:
    """In a cluster of unknown size each block has its own."""
    data = clips.video(encoding, count=40) if kind == "video" else clips.audio(encoding)
    muxer = clips.VIDEO_MUXERS[encoding][0] if kind == "video" else clips.AUDIO_MUXERS[encoding][0]
    whole = piped(data, muxer)
    assert b"\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xff" in whole
    assert check_whole(kind, whole) == encoding
    for size in range(len(whole) // 2, len(whole) - 40, len(whole) // 23):
        with pytest.raises(ValueError, match=r"cut off: the element at offset \d+ lacks \d+ bytes"):
            check_whole(kind, whole[:size])
