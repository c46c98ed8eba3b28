"""The page on collapse: its commands run as they stand, and it names the figures and settings that there are."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest

from headrace.shards import ShardSet
from headrace.tools.cli import FAILED, main
from headrace.train import GuardConfig

PAGE = (Path(__file__).parents[2] / "docs" / "collapse.md").read_text(encoding="utf-8")


def test_its_commands_run(
    digits_webdataset: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shards").mkdir()
    os.symlink(digits_webdataset.path, tmp_path / "shards" / "train")
    trained, replayed = re.findall(r"^    headrace (.*)", PAGE, re.MULTILINE)
    assert main(shlex.split(trained)) == FAILED
    printed = capsys.readouterr().err
    assert "the loss is not finite at step 2" in printed
    assert f"`headrace {replayed}` shows it" in printed
    assert main(shlex.split(replayed)) == 0
    text = capsys.readouterr().out
    for line in ("step 2 (epoch 1, batch 0, seed 0)", "41 of 41 gradients are not finite", "the same bits as recorded"):
        assert line in PAGE
        assert line in text


def test_it_names_every_setting() -> None:
    names = [f"guard.{field.name}" for field in fields(GuardConfig)]
    assert [name for name in names if name not in PAGE] == []
