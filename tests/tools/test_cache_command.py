"""`headrace cache` on caches as sets leave them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headrace.shards import open_shards, write_shards
from headrace.shards.remote.remote import RemoteFolder
from headrace.tools.cli import main
from tests.conftest import DIGIT_FIELDS, digit_samples


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """URLs of two sets, each of which has left a cache."""
    write_shards(tmp_path / "set", digit_samples(3), DIGIT_FIELDS, format="webdataset", shard_size=20_000)
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    urls = [f"memory://{tmp_path}/{name}" for name in ("train", "train-2")]
    for url in urls:
        for path in (tmp_path / "set").iterdir():
            RemoteFolder(url).put(path, path.name)
        with open_shards(url) as shards:
            shards.read(len(shards) - 1)
    return urls


def listed(capsys: pytest.CaptureFixture[str]) -> dict[str, bool]:
    """Which sets `cache ls` finds, and whether they are in use."""
    assert main(["cache", "ls", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert all(row["bytes"] > 0 for row in rows)
    return {row["set"]: row["in_use"] for row in rows}


def test_caches_are_listed_and_removed(caches: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = caches
    assert listed(capsys) == {first: False, second: False}
    assert main(["cache", "ls", second]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"{second}: 0.")
    with open_shards(first) as shards:
        assert listed(capsys) == {first: True, second: False}
        assert main(["cache", "rm", first]) == 1
        assert ", in use, " in capsys.readouterr().out
        assert main(["cache", "rm", "--all"]) == 1
        capsys.readouterr()
        assert listed(capsys) == {first: True}
        shards.read(0)
    assert main(["cache", "rm", f"{first}/"]) == 0
    assert ", removed, " in capsys.readouterr().out
    assert listed(capsys) == {}
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rm"], "cache rm takes a set's URL, or --all"),
        (["rm", "x", "--all"], "cache rm takes a set's URL, or --all"),
        (["rm", "memory://nothing"], "holds no cache of memory://nothing; `headrace cache ls` lists what it holds"),
        (["empty"], "unknown 'empty'"),
    ],
)
def test_what_it_refuses(words: list[str], message: str, caches: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", *words]) == 2
    assert message in capsys.readouterr().err
    assert len(listed(capsys)) == 2
