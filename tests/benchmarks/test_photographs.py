"""Photographs are the same every time, go on where they stopped, and say plainly where they cannot be had."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headrace.benchmarks import photographs as module
from headrace.benchmarks.errors import SourceMissing
from headrace.benchmarks.photographs import PACKAGES, cache_folder, photographs, photographs_or_skip, wallpapers


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache with unpacked packages of three small wallpapers, one of them flat on the left, and some litter."""
    pictures = tmp_path / "debian" / PACKAGES[0] / "usr" / "share"
    pictures.mkdir(parents=True)
    (tmp_path / "debian" / PACKAGES[1]).mkdir()
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (1000, 1200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(pictures / "a.jpg", quality=70)
    half = noise.copy()
    half[:, :300] = 128
    Image.fromarray(half).save(pictures / "b.jpg", quality=70)
    Image.fromarray(noise[:, ::-1]).resize((1000, 1300)).save(pictures / "c.jpg", quality=70)
    Image.fromarray(noise[:500]).save(pictures / "small.jpg")
    Image.fromarray(noise).save(pictures / "drawn.png")
    (pictures / "d.jpg").symlink_to("a.jpg")
    return tmp_path


def contents(paths: list[Path]) -> list[bytes]:
    return [path.read_bytes() for path in paths]


def test_only_real_photographs_of_some_size_are_taken(cache: Path) -> None:
    assert [path.name for path in wallpapers(cache)] == ["a.jpg", "b.jpg", "c.jpg"]


def test_they_are_of_imagenets_shape_and_all_different(cache: Path) -> None:
    found = photographs(12, cache=cache)
    sizes = [Image.open(path).size for path in found]
    assert set(sizes) == {(500, 375), (375, 500)}
    assert len(set(contents(found))) == 12
    assert all(Image.open(path).format == "JPEG" for path in found)
    assert not [path for path in cache.rglob(".*") if path.is_file()]


def test_the_first_ones_do_not_depend_on_how_many_are_asked_for(cache: Path) -> None:
    few = contents(photographs(4, cache=cache))
    shutil.rmtree(cache / "photographs")
    assert contents(photographs(10, cache=cache))[:4] == few


def test_only_what_is_missing_is_cut_again(cache: Path) -> None:
    paths = photographs(6, cache=cache)
    before = contents(paths)
    paths[2].unlink()
    paths[3].write_bytes(b"left alone")
    heard: list[tuple[int, int]] = []
    photographs(6, cache=cache, progress=lambda done, total: heard.append((done, total)))
    assert paths[2].read_bytes() == before[2]
    assert paths[3].read_bytes() == b"left alone"
    assert heard == [(5, 6), (6, 6)]


def test_a_kill_while_writing_leaves_no_half_photograph(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        photographs(1, cache=cache)
    monkeypatch.undo()
    assert not (cache / "photographs" / "000000.jpg").exists()
    assert Image.open(photographs(1, cache=cache)[0]).size[0] in (500, 375)


def test_bare_sky_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    picture = np.full((1000, 4000, 3), 128, np.uint8)
    picture[:, 2000:] = random.integers(0, 256, (1000, 2000, 3), dtype=np.uint8)
    image = Image.fromarray(picture)
    flat = [len(module.cut(image, index)) < module.FLAT_BYTES for index in range(20)]
    monkeypatch.setattr(module, "DRAWS", 1)
    flat_at_once = [len(module.cut(image, index)) < module.FLAT_BYTES for index in range(20)]
    assert sum(flat_at_once) > 3
    assert sum(flat) == 0


def test_the_cache_can_be_moved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("HEADRACE_CACHE")
    assert cache_folder() == Path(__file__).parents[2] / ".cache"


def test_without_apt_there_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    said = "cannot fetch the Debian package mate-backgrounds: there is no apt-get on this machine"
    with pytest.raises(SourceMissing, match=said):
        photographs(1)
    monkeypatch.delenv("HEADRACE_REQUIRE_PEERS", raising=False)
    with pytest.raises(pytest.skip.Exception, match=said):
        photographs_or_skip(1)
    monkeypatch.setenv("HEADRACE_REQUIRE_PEERS", "1")
    with pytest.raises(pytest.fail.Exception, match=said):
        photographs_or_skip(1)
    done = subprocess.run(
        [sys.executable, "-m", "headrace.benchmarks.photographs", "1"],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"{said}\n")


def test_what_apt_says_reaches_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apt = tmp_path / "bin" / "apt-get"
    apt.parent.mkdir()
    apt.write_text(
        "#!/bin/sh\necho 'W: noise' >&2\necho 'E: Unable to locate package' >&2\nexit 100\n", encoding="utf-8"
    )
    apt.chmod(0o755)
    (tmp_path / "bin" / "dpkg").symlink_to(apt)
    monkeypatch.setenv("PATH", f"{apt.parent}:{os.environ['PATH']}")
    with pytest.raises(SourceMissing, match=r"E: Unable to locate package \(has `apt-get update` run"):
        photographs(1, cache=tmp_path / "cache")
    assert not list((tmp_path / "cache" / "debian").iterdir())


def test_real_photographs_are_as_large_as_imagenets() -> None:
    found = photographs_or_skip(96)
    sizes = [path.stat().st_size for path in found]
    assert 60_000 < sum(sizes) / len(sizes) < 120_000
    assert sum(size < module.FLAT_BYTES for size in sizes) < 10
