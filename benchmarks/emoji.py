"""Emoji in three styles of drawing: Google's Noto, Twitter's Twemoji, and Microsoft's Fluent, which looks modelled.

    python -m headrace.benchmarks.emoji

Three packages are downloaded by `npm pack` (152 MB; npm compares their checksums, nothing is installed), and their
pictures, some 64 and some 256 pixels wide on transparent ground, are unpacked into the cache folder that
`headrace.benchmarks.photographs` describes. Art: Noto is under Apache 2.0, Twemoji under CC-BY 4.0, Fluent under MIT.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from headrace.benchmarks.errors import BenchmarkError, SourceMissing
from headrace.benchmarks.photographs import cache_folder


@dataclass(frozen=True, kw_only=True)
class Style:
    """An npm package, and what is kept of it."""

    package: str
    version: str
    pictures: str
    """Folder of the pictures in the package."""
    ending: str
    table: str = ""
    """The file that tells names and categories; empty where there is none."""


STYLES = {
    "noto": Style(
        package="emoji-datasource-google",
        version="16.0.0",
        pictures="img/google/64",
        ending=".png",
        table="emoji.json",
    ),
    "twemoji": Style(package="emoji-datasource-twitter", version="16.0.0", pictures="img/twitter/64", ending=".png"),
    "fluent": Style(package="@lobehub/fluent-emoji-3d", version="1.1.0", pictures="assets", ending=".webp"),
}
NO_CONTENT = ("Component", "Flags")
"""Categories that are left out: tones of skin and hair, and flags, which show nothing but their design."""


@dataclass(frozen=True, kw_only=True)
class Emoji:
    """A concept, drawn in each style."""

    name: str
    """Unique, such as "grinning"."""
    category: str
    """One of eight, such as "Food & Drink"."""
    pictures: dict[str, Path]
    """By the style's name; every style of STYLES is there."""


def emoji(cache: Path | None = None) -> list[Emoji]:
    """The 1,599 concepts that every style has, in Unicode's order, fetched on first use.

    Raises:
        SourceMissing: where they cannot be had.
    """
    folders = {name: npm_package(style, cache) for name, style in STYLES.items()}
    table = json.loads((folders["noto"] / STYLES["noto"].table).read_text(encoding="utf-8"))
    found = []
    for entry in sorted(table, key=lambda entry: entry["sort_order"]):
        stem = Path(entry["image"]).stem
        pictures = {name: folders[name] / style.pictures / f"{stem}{style.ending}" for name, style in STYLES.items()}
        if entry["category"] not in NO_CONTENT and all(path.exists() for path in pictures.values()):
            found.append(Emoji(name=entry["short_name"], category=entry["category"], pictures=pictures))
    return found


def npm_package(style: Style, cache: Path | None = None) -> Path:
    """The folder that holds what is kept of the style's package, downloaded on first use.

    Raises:
        SourceMissing: where npm is missing or cannot fetch it.
    """
    cache = cache_folder() if cache is None else cache
    target = cache / "npm" / f"{style.package.replace('/', '+')}-{style.version}"
    if target.exists():
        return target
    if shutil.which("npm") is None:
        raise SourceMissing(f"cannot fetch the npm package {style.package}: there is no npm on this machine")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".npm.", dir=target.parent) as temporary:
        work = Path(temporary)
        command = ["npm", "pack", "--silent", "--ignore-scripts", f"{style.package}@{style.version}"]
        done = subprocess.run(command, cwd=work, capture_output=True, encoding="utf-8", check=False)
        archives = list(work.glob("*.tgz"))
        if done.returncode or len(archives) != 1:
            said = done.stderr.splitlines() or [f"exit status {done.returncode}"]
            raise SourceMissing(f"cannot fetch the npm package {style.package}@{style.version}: {said[0]}")
        _unpack(archives[0], style, work / "package")
        try:
            (work / "package").rename(target)
        except OSError:
            if not target.exists():  # else another process was first: its files are as good
                raise
    return target


def _unpack(archive: Path, style: Style, target: Path) -> None:
    """Pictures and table, without the sheets of all pictures, which are most of a package."""
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.removeprefix("package/")
            folder, _, file = name.rpartition("/")
            if member.isfile() and (name == style.table or (folder == style.pictures and file.endswith(style.ending))):
                content = tar.extractfile(member)
                assert content is not None
                path = target / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.read())
    if not target.exists():
        raise SourceMissing(f"the npm package {style.package}@{style.version} has no {style.pictures}")


def main() -> int:
    try:
        found = emoji()
    except BenchmarkError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{len(found):,} emoji in {len(STYLES)} styles below {cache_folder() / 'npm'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
