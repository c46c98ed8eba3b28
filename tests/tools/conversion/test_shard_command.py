"""`headrace shard` at the keyboard and in a batch job: what it refuses, what it says on the way, how it is stopped."""

from __future__ import annotations

import argparse
import io
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from headrace.tools import cli, progress
from headrace.tools.commands.arguments import at_least, byte_size, share
from headrace.tools.conversion import pool, workers

COUNT = 30


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(COUNT):
        stream = io.BytesIO()
        Image.new("RGB", (16, 16), (8 * i, 0, 99)).save(stream, "JPEG")
        (folder / f"{i:03d}.jpg").write_bytes(stream.getvalue())
    (folder / "bad.jpg").write_bytes(b"no picture")
    return folder


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("64KB", 64 << 10),
        ("256 MB", 256 << 20),
        ("256MiB", 256 << 20),
        ("1.5gib", 3 << 29),
        ("1TB", 1 << 40),
        ("2T", 2 << 40),
        ("10B", 10),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert byte_size(text) == size


@pytest.mark.parametrize("text", ["inf", "nan", "", "MB", "1e9", "-1", "1PB", "1iB5", "0", "0.0001", "1" * 400, "²"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        byte_size(text)


@pytest.mark.parametrize(("kind", "text"), [(share, "nan"), (share, "1.1"), (share, "-0.1"), (share, "half")])
def test_no_shares(kind: Any, text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="no share"):
        kind(text)


@pytest.mark.parametrize("text", ["-1", "1.5", str(1 << 64), "9" * 5000, "²"])
def test_no_seeds(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="no whole number"):
        at_least(0, (1 << 64) - 1)(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--workers -1", "'-1' is no whole number of at least 1"),
        ("--workers 0", "'0' is no whole number of at least 1"),
        ("--shard-size inf", "'inf' is no size; write it as 256MB"),
        ("--max-side 0", "'0' is no whole number of at least 1"),
        ("--quality 101", "'101' is no whole number from 1 to 100"),
        ("--max-rejects 2", "'2' is no share between 0 and 1"),
        ("--seed -1", "'-1' is no whole number"),
        ("--encode frames", "--encode frames needs --short-side, the side of the stored squares"),
        ("--format ffcv --shard-size 1MB", "--shard-size: a .beton has whole pages, so give at least 5MB"),
    ],
)
def test_wrong_command_lines(
    pictures: Path, tmp_path: Path, options: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["shard", "folder", str(pictures), str(tmp_path / "set"), *options.split()]) == cli.USAGE
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_options_are_grouped(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["shard", "--help"])
    text = capsys.readouterr().out
    groups = re.findall(r"^([a-z ]+):$", text, re.MULTILINE)
    assert groups == ["positional arguments", "options", "what is read", "images and videos", "shards", "running"]


def shard(pictures: Path, out: Path) -> int:
    return cli.main(["shard", "folder", str(pictures), str(out), "--shard-size", "16KB", "--workers", "2"])


def test_lines_stand_for_the_bar_where_there_is_no_terminal(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "PERIOD_S", 0.0)
    assert shard(pictures, tmp_path / "set") == cli.DONE
    lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"folder to webdataset: 0 samples, [\d,]+/s, planning", lines[0])
    some = r"folder to webdataset: \d+ of 31 samples \(\d+\.\d%\), -?[\d,]+/s, [01] left out, \d+\.\d MB(, \d+ s left)?"
    assert any(re.fullmatch(some, line) for line in lines), lines
    assert re.fullmatch(r"folder to webdataset: 31 of 31 samples \(100\.0%\), .*moving.*", lines[-1])
    monkeypatch.undo()
    assert shard(pictures, tmp_path / "other") == cli.DONE
    assert capsys.readouterr().err == "", "a line a minute, and this took less"


def test_a_line_says_rate_and_time_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with progress.sample_bar("names in [brackets]") as bar:
        bar.of(10_000)
        bar(1_000)  # of an earlier run
        now += 30
        bar(2_500)
        now += 30
        bar.note("3 left out")
        now += 60
        bar.note("3 left out")
    first, second = capsys.readouterr().err.splitlines()
    assert first == "names in [brackets]: 2,500 of 10,000 samples (25.0%), 25/s, 3 left out, 5 min left"
    assert second == "names in [brackets]: 2,500 of 10,000 samples (25.0%), 0/s, 3 left out, 10 min left"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59, "59 s"), (240, "4 min"), (18_360, "5 h 06 min"), (3_599, "1 h 00 min"), (691_200, "8 d 00 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text


@pytest.mark.skipif(not pool.FORKS, reason="what is patched here is not patched in a process that is spawned")
@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_by_a_signal(
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    how: signal.Signals,
    code: int,
) -> None:
    """It says what is kept; the same command goes on."""
    here = os.getpid()
    convert_unit = workers.convert_unit

    def stopping(job: Any, unit: int, *rest: Any) -> Any:
        if unit == 3:
            os.kill(here, how)
            signal.pause()  # until this process is ended
        return convert_unit(job, unit, *rest)

    handler = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        patch.setattr(pool, "GRACE_S", 0.5)
        patch.setattr(workers, "convert_unit", stopping)
        assert shard(pictures, tmp_path / "set") == code
    assert signal.getsignal(signal.SIGTERM) == handler
    line = capsys.readouterr().err
    kept = rf"\d whole shards are kept in {tmp_path}/\.set\.partial, and the same command goes on from there"
    assert re.fullmatch(rf"headrace shard: interrupted; {kept}\n", line), line
    assert shard(pictures, tmp_path / "set") == cli.DONE
    assert re.search(r"went on after \d+ samples", capsys.readouterr().err)
