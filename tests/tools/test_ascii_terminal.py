"""A terminal that knows ASCII alone, and names that it cannot show: nothing is lost for that, least of all the work."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from headrace.shards import open_shards
from headrace.tools.cli import main

ASCII = {"LC_ALL": "C", "LANG": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
UNICODE = {"PYTHONUTF8": "1"}
FILES_TOO = {**ASCII, "PYTHONCOERCECLOCALE": "0"}
"""Python would take names of files for ASCII as well."""


def headrace(*arguments: object, environment: dict[str, str]) -> str:
    """The output of a command that succeeds."""
    done = subprocess.run(
        [sys.executable, "-m", "headrace.tools.cli", *map(os.fspath, map(str, arguments))],
        env={**os.environ, **environment},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    return (done.stdout + done.stderr).decode("ascii" if environment is not UNICODE else "utf-8")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes and a stray, all of whose names are no ASCII."""
    stream = io.BytesIO()
    Image.new("RGB", (20, 20), (200, 30, 40)).save(stream, "JPEG")
    for name in ("bilder-ü/café/bild-ö.jpg", "bilder-ü/中文/b.jpg", "bilder-ü/中文/straße.ö"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(stream.getvalue() if name.endswith("jpg") else b"none")
    return tmp_path / "bilder-ü"


@pytest.mark.parametrize("environment", [ASCII, FILES_TOO], ids=["terminal", "names of files"])
def test_commands_on_an_ascii_terminal(photos: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    out = tmp_path / "sätze"
    assert "2 samples" in headrace("shard", "folder", photos, out, environment=environment)
    with open_shards(out) as shards:
        assert shards.fields["label"].classes == ("café", "中文")
        assert {shards.key(0), shards.key(1)} == {"café/bild-ö", "中文/b"}
        assert shards.manifest.provenance["src"] == "bilder-ü"
    (stray,) = map(json.loads, (out / "rejects.jsonl").read_text(encoding="utf-8").splitlines())
    assert stray["source"] == f"{photos}/中文/straße.ö"
    assert "caf\\xe9" in headrace("inspect", out, environment=environment)
    assert "ok, 2 samples" in headrace("verify", out, environment=environment)
    headrace("inspect", out, "--sheet", tmp_path / "bögen.png", environment=environment)
    assert (tmp_path / "bögen.png").exists()
    assert "simclr" in headrace("methods", environment=environment)
    assert json.loads(headrace("inspect", out, "--json", environment=environment))["samples"] == 2


def test_the_set_is_the_same_whatever_the_terminal(photos: Path, tmp_path: Path) -> None:
    headrace("shard", "folder", photos, tmp_path / "one", environment=FILES_TOO)
    headrace("shard", "folder", photos, tmp_path / "other", environment=UNICODE)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "other").iterdir())
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_a_source_whose_name_is_no_unicode(photos: Path, tmp_path: Path) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    os.rename(photos, odd)
    assert main(["shard", "folder", odd, str(tmp_path / "set")]) == 0
    with open_shards(tmp_path / "set", check=True) as shards:
        assert (len(shards), shards.manifest.provenance["src"]) == (2, "caf\\xe9")
