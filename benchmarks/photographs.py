"""Real photographs for benchmarks and tests, the size of ImageNet's: random crops of Debian's wallpapers.

    python -m headrace.benchmarks.photographs [N]

Two Debian packages are downloaded (`apt-get download`, 141 MB) and unpacked (`dpkg -x`, nothing is installed) into
the cache folder, and seeded random crops of their photographs are saved there as JPEGs of 500x375 or 375x500 pixels,
79 kB on average. (`gnome-backgrounds` holds no photograph since Debian 12, only drawings.) Crop `i` depends on the
seed and `i` alone, so the first N photographs are the same however many are asked for, and an interrupted run goes on
where it stopped. The JPEG bytes also depend on the versions of Pillow and of the packages.

The cache folder is `.cache` in the repository, `~/.cache/headrace` where there is no repository, or what the
environment variable HEADRACE_CACHE names.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.progress import Progress

from headrace.benchmarks.errors import BenchmarkError, SourceMissing, fetched

PACKAGES = ("mate-backgrounds", "plasma-workspace-wallpapers")
SEED = 0
QUALITY = 98
LANDSCAPE = (500, 375)
LANDSCAPE_SHARE = 0.75
SMALLEST_SIDE = 1000  # a wallpaper's sides, and its width when shrunk: below, a crop would hold most of the picture
FLAT_BYTES = 30_000  # a crop that compresses below this is bare sky or plain colour: draw another
DRAWS = 8


def cache_folder() -> Path:
    """Where fetched and derived data lives; git ignores it."""
    chosen = os.environ.get("HEADRACE_CACHE")
    if chosen:
        return Path(chosen)
    repository = Path(__file__).resolve().parents[1]
    if (repository / "pyproject.toml").exists():
        return repository / ".cache"
    return Path.home() / ".cache" / "headrace"


def debian_package(name: str, cache: Path | None = None) -> Path:
    """The folder that holds the unpacked Debian package, downloaded on first use.

    Raises SourceMissing where apt-get or dpkg is missing or does not know the package.
    """
    cache = cache_folder() if cache is None else cache
    target = cache / "debian" / name
    if target.exists():
        return target
    for program in ("apt-get", "dpkg"):
        if shutil.which(program) is None:
            raise SourceMissing(f"cannot fetch the Debian package {name}: there is no {program} on this machine")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=target.parent) as temporary:
        work = Path(temporary)
        _command(["apt-get", "-q", "download", name], work, name)
        (archive,) = work.glob("*.deb")
        _command(["dpkg", "-x", archive.name, "files"], work, name)
        try:
            (work / "files").rename(target)
        except OSError:
            if not target.exists():  # else another process was first: its files are as good
                raise
    return target


def _command(command: Sequence[str], folder: Path, package: str) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("E:")] or done.stderr.splitlines()
        reason = said[-1] if said else f"exit status {done.returncode}"
        raise SourceMissing(f"cannot fetch the Debian package {package}: {reason} (has `apt-get update` run?)")


def wallpapers(cache: Path | None = None) -> list[Path]:
    """The packages' JPEG wallpapers in a fixed order; what is drawn comes as PNG or SVG and is left out."""
    found = []
    for name in PACKAGES:
        for path in sorted(debian_package(name, cache).rglob("*")):
            if path.suffix != ".jpg" or path.is_symlink():
                continue
            with Image.open(path) as picture:
                if min(picture.size) >= SMALLEST_SIDE:
                    found.append(path)
    return found


def photographs(
    count: int, *, cache: Path | None = None, progress: Callable[[int, int], None] | None = None
) -> list[Path]:
    """The first `count` photographs as JPEG files, made where they are missing.

    `progress(done, count)` is called after every photograph. Raises SourceMissing where the wallpapers cannot be had.
    """
    cache = cache_folder() if cache is None else cache
    folder = cache / "photographs"
    paths = [folder / f"{index:06d}.jpg" for index in range(count)]
    missing = [index for index, path in enumerate(paths) if not path.exists()]
    done = count - len(missing)
    if progress:
        progress(done, count)
    if not missing:
        return paths
    sources = wallpapers(cache)
    if not sources:
        raise SourceMissing(f"no wallpaper of at least {SMALLEST_SIDE} pixels a side in {', '.join(PACKAGES)}")
    folder.mkdir(parents=True, exist_ok=True)
    for first, source in enumerate(sources):  # source by source, so that each is decoded once
        indices = [index for index in missing if index % len(sources) == first]
        if not indices:
            continue
        picture = Image.open(source).convert("RGB")
        for index in indices:
            _write(paths[index], cut(picture, index))
            done += 1
            if progress:
                progress(done, count)
    return paths


def photographs_or_skip(count: int) -> list[Path]:
    """For tests: `photographs`, as `fetched` has it."""
    return fetched(lambda: photographs(count))


def cut(picture: Image.Image, index: int) -> bytes:
    """Photograph `index` as JPEG bytes: a random window of `picture` at a random scale."""
    draw = random.Random(f"{SEED} {index}")
    encoded = b""
    for _ in range(DRAWS):
        width, height = LANDSCAPE if draw.random() < LANDSCAPE_SHARE else LANDSCAPE[::-1]
        largest = max(1.0, min(picture.width / width, picture.height / height, picture.width / SMALLEST_SIDE))
        shrink = math.exp(draw.uniform(0.0, math.log(largest)))
        left = draw.uniform(0.0, picture.width - width * shrink)
        top = draw.uniform(0.0, picture.height - height * shrink)
        box = (left, top, left + width * shrink, top + height * shrink)
        buffer = io.BytesIO()
        picture.resize((width, height), Image.Resampling.LANCZOS, box=box).save(buffer, "JPEG", quality=QUALITY)
        encoded = buffer.getvalue()
        if len(encoded) >= FLAT_BYTES:
            break
    return encoded


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    temporary.replace(path)


def with_bar(count: int) -> list[Path]:
    """`photographs` with a progress bar on stderr."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("photographs", total=count)
        return photographs(count, progress=lambda done, _: bar.update(task, completed=done))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="headrace.benchmarks.photographs", description=__doc__.splitlines()[0])
    parser.add_argument("count", type=int, nargs="?", default=1024, help="how many photographs (default 1024)")
    options = parser.parse_args(arguments)
    try:
        paths = with_bar(options.count)
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return 1
    mean = sum(path.stat().st_size for path in paths) / max(1, len(paths))
    print(f"{len(paths)} photographs, {mean / 1e3:.1f} kB on average, in {paths[0].parent if paths else '-'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
