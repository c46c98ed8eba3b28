"""Videos that say how they are to be shown, from the file to clips, against FFmpeg's program and libraries."""

from __future__ import annotations

import io
import struct
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.pipeline import Clip, ClipSpec, Loader, View
from headrace.shards import Field, open_shards, write_shards
from headrace.tools.cli import main
from headrace.tools.conversion.convert import convert
from tests.conftest import require_program
from tests.oriented import ORIENTATIONS, quarters

pytestmark = pytest.mark.peer("av")

TURNS = {
    1: (1, 0, 0, 1),
    2: (-1, 0, 0, 1),
    3: (-1, 0, 0, -1),
    4: (1, 0, 0, -1),
    5: (0, 1, 1, 0),
    6: (0, 1, -1, 0),
    7: (0, -1, -1, 0),
    8: (0, -1, 1, 0),
}
"""a, b, c, d of each orientation: a pixel x, y is shown at a x + c y, b x + d y."""
WIDTH, HEIGHT = 160, 120


@lru_cache(maxsize=32)
def video(
    container: str = "mp4", degrees: int = 0, mirrored: bool = False, aspect: tuple[int, int] | None = None
) -> bytes:
    """Ten frames of four quarters with a bar that moves; turned by `degrees` anticlockwise, then mirrored left to
    right, as PyAV writes that into a file."""
    import av

    stream = io.BytesIO()
    with av.open(stream, "w", format={"mkv": "matroska"}.get(container, container)) as out:
        made: Any = out.add_stream("libx264", rate=25, options={"crf": "4"})
        made.width, made.height, made.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        if aspect:
            from fractions import Fraction

            made.codec_context.sample_aspect_ratio = Fraction(*aspect)
        if degrees or mirrored:
            made.set_display_rotation(degrees, hflip=mirrored)
        for number in range(10):
            pixels = quarters(HEIGHT, WIDTH).copy()
            pixels[:, 10 * number : 10 * number + 8] = 255
            out.mux(made.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        out.mux(made.encode(None))
    return stream.getvalue()


def with_matrix(data: bytes, turn: tuple[int, ...], box: bytes = b"tkhd") -> bytes:
    """An mp4 with another matrix in its track's header, or the film's."""
    at = data.index(box) + 4 + (40 if box == b"tkhd" else 36)
    a, b, c, d = (65536 * number for number in turn)
    return data[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + data[at + 36 :]


def turned_videos() -> dict[int, bytes]:
    return {orientation: with_matrix(video(), turn) for orientation, turn in TURNS.items()}


def by_ffmpeg(path: Path, height: int, width: int) -> np.ndarray:
    """Frames as the program shows them, uint8 (T, H, W, 3)."""
    run = [require_program("ffmpeg"), "-v", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    out = subprocess.run(run, check=True, capture_output=True).stdout
    return np.frombuffer(out, np.uint8).reshape(-1, height, width, 3)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_frames_are_shown_as_ffmpeg_shows_them(orientation: int, tmp_path: Path) -> None:
    from headrace.shards.formats.video import open_video

    data = turned_videos()[orientation]
    (tmp_path / "a.mp4").write_bytes(data)
    with open_video(data) as opened:
        size = (opened.height, opened.width)
        found = np.stack([picture for _, picture in opened.pictures(range(10))])
        assert opened.orientation == orientation
    assert size == ((WIDTH, HEIGHT) if orientation > 4 else (HEIGHT, WIDTH))
    expected = by_ffmpeg(tmp_path / "a.mp4", *size)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).mean() < 3  # a wrong quarter makes a hundred
    with open_video(data, "ignore") as opened:
        stored = np.stack([picture for _, picture in opened.pictures(range(10))])
    with open_video(video()) as opened:
        assert np.array_equal(stored, np.stack([picture for _, picture in opened.pictures(range(10))]))


def of_library(data: bytes) -> tuple[int, int, int, int]:
    """The signs of the matrix that FFmpeg's library puts beside a frame."""
    import av

    with av.open(io.BytesIO(data)) as container:
        frame = next(container.decode(video=0))
        sides = [bytes(side) for side in frame.side_data if side.type.name == "DISPLAYMATRIX"]
    a, b, _, c, d = struct.unpack("<5i", sides[0][:20]) if sides else (1, 0, 0, 0, 1)
    return tuple(int(np.sign(round(number / 65536, 3))) for number in (a, b, c, d)) if sides else (1, 0, 0, 1)  # type: ignore[return-value]


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
@pytest.mark.parametrize("container", ["mp4", "mov", "mkv"])
def test_containers_say_what_ffmpegs_library_hears(container: str, degrees: int, mirrored: bool) -> None:
    from headrace.shards.formats.video import open_video

    data = video(container, degrees, mirrored)
    with open_video(data) as opened:
        assert TURNS[opened.orientation] == of_library(data)
        numbers = {0: 2, 90: 7, 180: 4, -90: 5} if mirrored else {0: 1, 90: 8, 180: 3, -90: 6}
        assert opened.orientation == numbers[degrees]


@pytest.mark.parametrize("film", [3, 6, 2])
@pytest.mark.parametrize("track", [1, 5, 8])
def test_the_films_matrix_comes_behind_the_tracks(film: int, track: int) -> None:
    from headrace.shards.formats.video import open_video

    data = with_matrix(with_matrix(video(), TURNS[track]), TURNS[film], b"mvhd")
    with open_video(data) as opened:
        assert TURNS[opened.orientation] == of_library(data)


def test_damaged_boxes_are_upright() -> None:
    from headrace.shards.formats.display import video_orientation

    data = with_matrix(video(), TURNS[6])
    draw = np.random.default_rng(0)
    for encoding, whole in (("mp4", data), ("mkv", video("mkv", 90))):
        start = whole.index(b"moov") - 4 if encoding == "mp4" else 0
        for _ in range(300):
            changed = bytearray(whole[start : start + 1000])
            changed[int(draw.integers(len(changed)))] = int(draw.integers(256))
            del changed[int(draw.integers(len(changed))) :]
            assert video_orientation(encoding, bytes(changed), 0, 1) in ORIENTATIONS


SPEC = ClipSpec([Clip(frames=4, strides=(2,), view=View(size=32, scale=(0.3, 1.0)))])


def clips_of(path: Path, engine: str = "native", orientation: Any = "apply") -> tuple[np.ndarray, np.ndarray]:
    with open_shards(path, orientation=orientation) as shards:
        loader = Loader(shards, SPEC, batch_size=len(shards), engine=engine, shuffle=False, dtype="uint8")
        (batch,) = list(loader)
        return batch.views[0].numpy(), batch.drawn.crop.numpy()


@pytest.mark.parametrize("engine", ["native", "torchvision"])
def test_clips_are_those_of_upright_frames(engine: str, tmp_path: Path) -> None:
    from headrace.shards.formats.video import open_video

    files = turned_videos()
    samples: list[dict[str, Any]] = [{"__key__": str(n), "video": data} for n, data in files.items()]
    write_shards(tmp_path / "videos", samples, {"video": Field(kind="video", encoding="mp4")})
    upright = []
    for number, data in files.items():
        with open_video(data) as opened:
            frames = np.stack([picture for _, picture in opened.pictures(range(10))])
        upright.append({"__key__": str(number), "frames": frames})
    write_shards(tmp_path / "frames", upright, {"frames": Field(kind="array")})
    found, expected = clips_of(tmp_path / "videos", engine), clips_of(tmp_path / "frames", engine)
    assert all(map(np.array_equal, found, expected))
    ignored, _ = clips_of(tmp_path / "videos", engine, "ignore")
    assert not np.array_equal(ignored, found[0])


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "raw" / "a"
    root.mkdir(parents=True)
    for orientation, data in turned_videos().items():
        (root / f"{orientation}.mp4").write_bytes(data)
    (root / "wide.mp4").write_bytes(video(aspect=(4, 3)))
    (root / "wide_turned.mp4").write_bytes(video(degrees=90, aspect=(4, 3)))
    return tmp_path / "raw"


def test_meta_has_the_shown_size_the_turn_and_the_shape_of_pixels(tree: Path, tmp_path: Path) -> None:
    convert("video", tree, tmp_path / "set")
    with open_shards(tmp_path / "set") as shards:
        assert shards.manifest.version == 2
        meta = {shards.key(i).rpartition("/")[2]: shards.read(i)["meta"] for i in range(len(shards))}
    for orientation in ORIENTATIONS:
        found = meta[str(orientation)]
        assert (found["width"], found["height"]) == ((HEIGHT, WIDTH) if orientation > 4 else (WIDTH, HEIGHT))
        assert found.get("orientation", 1) == orientation
        assert ("orientation" in found) == (orientation > 1)
        assert "pixel_aspect" not in found
    assert meta["wide"]["pixel_aspect"] == [4, 3]
    assert meta["wide_turned"]["pixel_aspect"] == [3, 4]
    assert meta["wide_turned"]["orientation"] == 8


def test_frames_are_stored_as_they_are_shown(tree: Path, tmp_path: Path) -> None:
    from headrace.shards.formats.video import open_video

    for rule in ("apply", "ignore"):
        settings: Any = {"encode": "frames", "short_side": 120, "frames": 2, "orientation": rule}
        convert("video", tree, tmp_path / rule, **settings)
        with open_shards(tmp_path / rule) as shards:
            frames = {shards.key(i).rpartition("/")[2]: shards.read(i) for i in range(len(shards))}
        for orientation, data in turned_videos().items():
            sample = next(value for value in frames[str(orientation)].values() if isinstance(value, np.ndarray))
            with open_video(data, rule) as opened:  # type: ignore[arg-type]
                (_, picture), _ = opened.pictures([2, 6])
            top, left = (picture.shape[0] - 120) // 2, (picture.shape[1] - 120) // 2
            square = picture[top : top + 120, left : left + 120].astype(int)
            assert np.abs(sample[0] - square).mean() < 8


def test_the_switch_on_the_command_line(tree: Path, tmp_path: Path) -> None:
    assert main(["shard", "video", str(tree), str(tmp_path / "ignored"), "--orientation", "ignore"]) == 0
    assert main(["shard", "video", str(tree), str(tmp_path / "applied")]) == 0
    with open_shards(tmp_path / "ignored") as shards:
        assert (shards.manifest.version, shards.fields["video"].as_stored) == (3, True)
    ignored, applied = clips_of(tmp_path / "ignored")[0], clips_of(tmp_path / "applied")[0]
    assert np.array_equal(ignored, clips_of(tmp_path / "applied", orientation="ignore")[0])
    assert not np.array_equal(ignored, applied)
    convert("shards", tmp_path / "ignored", tmp_path / "again")
    with open_shards(tmp_path / "again") as shards:
        assert shards.fields["video"].as_stored
    convert("shards", tmp_path / "ignored", tmp_path / "back", orientation="apply")
    with open_shards(tmp_path / "back") as shards:
        assert not shards.fields["video"].as_stored
