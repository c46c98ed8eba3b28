"""Emoji: which are taken, what is unpacked, and what is said where they cannot be had."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from headrace.benchmarks.emoji import STYLES, Style, emoji, npm_package
from headrace.benchmarks.errors import SourceMissing

TABLE = [
    {"short_name": "bear", "category": "Animals & Nature", "image": "1f43b.png", "sort_order": 7},
    {"short_name": "grinning", "category": "Smileys & Emotion", "image": "1f600.png", "sort_order": 1},
    {"short_name": "flag-eg", "category": "Flags", "image": "1f1ea-1f1ec.png", "sort_order": 9},
    {"short_name": "new", "category": "Objects", "image": "1fae9.png", "sort_order": 8},
]


def folder_of(style: Style, cache: Path) -> Path:
    return cache / "npm" / f"{style.package.replace('/', '+')}-{style.version}"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache in which one style lacks the newest emoji."""
    for name, style in STYLES.items():
        folder = folder_of(style, tmp_path)
        (folder / style.pictures).mkdir(parents=True)
        for entry in TABLE[: 3 if name == "fluent" else 4]:
            (folder / style.pictures / f"{Path(str(entry['image'])).stem}{style.ending}").touch()
    noto = STYLES["noto"]
    (folder_of(noto, tmp_path) / noto.table).write_text(json.dumps(TABLE), encoding="utf-8")
    return tmp_path


def test_those_that_every_style_has_are_taken_without_flags(cache: Path) -> None:
    found = emoji(cache)
    assert [(each.name, each.category) for each in found] == [
        ("grinning", "Smileys & Emotion"),
        ("bear", "Animals & Nature"),
    ]
    assert [path.name for path in found[0].pictures.values()] == ["1f600.png", "1f600.png", "1f600.webp"]
    assert all(path.exists() for each in found for path in each.pictures.values())


def npm(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A program of that name, which does what `script` says, is the only one."""
    folder.mkdir()
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    (folder / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


def test_pictures_and_the_table_are_unpacked_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    style = Style(package="@a/b", version="1.2.0", pictures="img/64", ending=".png", table="emoji.json")
    archive = tmp_path / "made.tgz"
    members = ("emoji.json", "img/64/a.png", "img/64/a.txt", "img/sheets/all.png", "../../out.png", "index.js")
    with tarfile.open(archive, "w:gz") as tar:
        for name in members:
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(name)
            tar.addfile(info, io.BytesIO(name.encode()))
    npm(tmp_path / "bin", monkeypatch, f'echo "$@" > {tmp_path}/asked; /bin/cp {archive} a-b-1.2.0.tgz')
    folder = npm_package(style, tmp_path / "cache")
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {"emoji.json", "img/64/a.png"}
    assert (folder / "img/64/a.png").read_text(encoding="utf-8") == "img/64/a.png"
    assert (tmp_path / "asked").read_text(encoding="utf-8").split()[-1] == "@a/b@1.2.0"
    assert [path.name for path in (tmp_path / "cache" / "npm").iterdir()] == ["@a+b-1.2.0"]


def test_npm_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm(tmp_path / "bin", monkeypatch, "echo 'npm error code E404' >&2; exit 1")
    with pytest.raises(SourceMissing) as error:
        emoji(tmp_path / "cache")
    assert str(error.value) == "cannot fetch the npm package emoji-datasource-google@16.0.0: npm error code E404"


def test_a_machine_without_npm_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SourceMissing, match="there is no npm on this machine"):
        emoji(tmp_path / "cache")
