"""Checkpoints: whole or not there, newest first, and never executed."""

from __future__ import annotations

import errno
import io
import os
import pickle
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from headrace.shards import ShardSet
from headrace.train import RunError, checkpoint_paths
from headrace.train import checkpoint as checkpoint_module
from headrace.train.checkpoint import newest_checkpoint, read_checkpoint, save_checkpoint
from tests.failing_disk import FailingDisk
from tests.train.tiny_runs import tiny_run


def save(folder: Path, *steps: int, keep: int = 9) -> None:
    for step in steps:
        save_checkpoint(folder, {"step": step, "model": {"w": torch.full((1000,), float(step))}}, keep)


def test_the_newest_are_kept_and_leftovers_go(tmp_path: Path) -> None:
    (tmp_path / "step-00000001.pt.tmp").write_bytes(b"half")
    save(tmp_path, 5, 30, 200_000_000, keep=2)
    assert [path.name for path in checkpoint_paths(tmp_path)] == ["step-200000000.pt", "step-00000030.pt"]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_killed_write_leaves_the_last_checkpoint_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)

    def killed(source: object, target: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 2)
    state = newest_checkpoint(tmp_path, warn=pytest.fail)
    assert state is not None
    assert state["step"] == 1


@pytest.mark.parametrize("size", [0, 10, 2000, -1])
def test_a_truncated_checkpoint_falls_back_with_a_line(tmp_path: Path, size: int) -> None:
    save(tmp_path, 1, 2)
    newest = checkpoint_paths(tmp_path)[0]
    data = newest.read_bytes()
    newest.write_bytes(data[:size])
    lines: list[str] = []
    state = newest_checkpoint(tmp_path, warn=lines.append)
    assert state is not None
    assert state["step"] == 1
    assert len(lines) == 1
    assert lines[0].startswith(f"{newest}: not a readable checkpoint (")
    assert lines[0].endswith("; taking the one before it")
    assert "\n" not in lines[0]


def test_a_disk_that_fails_to_read_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older checkpoint does not take the place of one that may be whole."""
    save(tmp_path, 1, 2)
    sound = torch.load

    def load(path: Path, **options: Any) -> Any:
        if path.name == "step-00000002.pt":
            raise RuntimeError("PytorchStreamReader failed reading file data/0: file read failed")
        return sound(path, **options)

    def fail(path: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(torch, "load", load)
    with monkeypatch.context() as failing:
        failing.setattr(checkpoint_module, "_read_through", fail)
        with pytest.raises(OSError, match=r"step-00000002\.pt") as caught:
            newest_checkpoint(tmp_path, warn=pytest.fail)
    assert caught.value.errno == errno.EIO
    lines: list[str] = []
    state = newest_checkpoint(tmp_path, warn=lines.append)  # one that is read to its end and makes no sense is damaged
    assert state is not None
    assert (state["step"], len(lines)) == (1, 1)


def test_a_full_disk_keeps_the_checkpoints_before_and_no_half_of_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1, 2)

    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            if self.tell() + len(data) > 2000:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(data)

    monkeypatch.setattr(checkpoint_module, "open", lambda path, mode: Full(path, "w"), raising=False)
    with pytest.raises(RunError) as caught:
        save(tmp_path, 3)
    reason = "cannot be written (No space left on device); the checkpoints before it are whole"
    assert str(caught.value) == f"{tmp_path / 'step-00000003.pt'}: {reason}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000001.pt", "step-00000002.pt"]


def test_nothing_readable_is_an_error_and_nothing_there_is_not(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path / "missing", warn=pytest.fail) is None
    save(tmp_path, 1, 2)
    for path in checkpoint_paths(tmp_path):
        path.write_bytes(b"no")
    with pytest.raises(RunError, match="none of 2 checkpoints can be read"):
        newest_checkpoint(tmp_path, warn=lambda line: None)


def test_a_pickle_with_code_is_refused(tmp_path: Path) -> None:
    class Code:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "executed"),)

    path = tmp_path / "step-00000001.pt"
    torch.save({"format": 1, "step": Code()}, path)
    with pytest.raises(RunError, match="not a readable checkpoint"):
        read_checkpoint(path)
    path.write_bytes(pickle.dumps(Code(), protocol=2))
    with pytest.raises(RunError, match="not a readable checkpoint"):
        read_checkpoint(path)
    assert not (tmp_path / "executed").exists()


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "step-00000001.pt"
    torch.save({"format": 99}, path)
    with pytest.raises(RunError, match="not a checkpoint of format 1"):
        read_checkpoint(path)


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("pattern", "after", "match"),
    [
        ("*.pt.tmp", 0, r"step-00000003\.pt: cannot be written \(No space left on device\)"),
        ("*.pt.tmp", 1, r"step-00000003\.pt: cannot be written \(No space left on device\)"),
        ("*/config.yaml.tmp", 0, r"config\.yaml: cannot be written \(No space left on device\)"),
        ("*/metrics.jsonl", 0, r"metrics\.jsonl: cannot be written \(No space left on device\)"),
    ],
)
def test_a_full_disk_is_said_with_the_file_and_leaves_nothing_aside(
    digits_webdataset: ShardSet, failing_disk: FailingDisk, tmp_path: Path, pattern: str, after: int, match: str
) -> None:
    tiny_run(digits_webdataset.path, tmp_path / "run", "epochs=1").save(tmp_path / "config.yaml")
    command = [sys.executable, "-m", "headrace.tools.cli", "train", "simclr", "--config", tmp_path / "config.yaml"]
    command += ["--data", digits_webdataset.path, "--out", tmp_path / "run"]
    failing_disk.fail("write", pattern, errno.ENOSPC, after=after)
    done = failing_disk.run(command)
    assert done.returncode == 1, done.stderr
    last = done.stderr.splitlines()[-1]
    assert re.search(match, last), done.stderr
    assert last.startswith("headrace train: ")
    assert not [*(tmp_path / "run").rglob("*.tmp")]
    failing_disk.mend()
    assert failing_disk.run(command).returncode == 0
    assert checkpoint_paths(tmp_path / "run" / "checkpoints")[0].name == "step-00000004.pt"
