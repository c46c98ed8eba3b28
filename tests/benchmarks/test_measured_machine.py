"""What is read of a machine while it is measured."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from headrace.benchmarks import command, machine
from headrace.benchmarks.errors import BenchmarkError


def test_time_that_the_host_gave_to_others_counts_as_used(monkeypatch):
    line = "cpu  100 20 30 4000 500 6 7 800 90 10\ncpu0 1 1 1 1 1 1 1 1 1 1\n"
    monkeypatch.setattr(machine, "_read", lambda path: line if path == "/proc/stat" else "")
    assert machine.machine_cpu_s() == (100 + 20 + 30 + 6 + 7 + 800) / machine.TICKS_PER_S


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, encoding="utf-8")
    return done.stdout.strip()


def test_the_commit_is_that_of_the_sources_and_says_whether_they_differ(tmp_path: Path) -> None:
    folder = tmp_path / "sources"
    (folder / "benchmarks" / "results").mkdir(parents=True)
    (folder / "benchmarks" / "machine.py").write_text("", encoding="utf-8")
    assert machine.commit(folder) == ""
    git(folder, "init", "-q")
    assert machine.commit(folder) == ""  # nothing is in it
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    name = git(folder, "rev-parse", "HEAD")[:12]
    (folder / "benchmarks" / "results" / "loader.json").write_text("{}", encoding="utf-8")
    (folder / "README.md").write_text("", encoding="utf-8")
    (folder / "tests").mkdir()
    (folder / "tests" / "test.py").write_text("", encoding="utf-8")
    assert machine.commit(folder) == name  # nothing of this is measured
    (folder / "new.py").write_text("", encoding="utf-8")
    assert machine.commit(folder) == name + machine.CHANGED
    (folder / "new.py").unlink()
    (folder / "benchmarks" / "machine.py").write_text("#", encoding="utf-8")
    assert machine.commit(folder) == name + machine.CHANGED


def test_installed_in_an_environment_inside_of_another_repository_there_is_no_commit(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "own.py").write_text("", encoding="utf-8")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "theirs")
    (tmp_path / "headrace").mkdir()
    assert machine.commit(tmp_path / "headrace") == ""


def test_figures_of_sources_that_no_commit_holds_are_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = f"0123456789ab{machine.CHANGED}"
    monkeypatch.chdir(command.PUBLISHED.parents[1])
    for out in (None, Path("benchmarks/results"), command.PUBLISHED):
        with pytest.raises(BenchmarkError, match="the sources differ from commit 0123456789ab"):
            command.check_publishable(changed, False, out)
        command.check_publishable("0123456789ab", False, out)
        command.check_publishable("", False, out)
    command.check_publishable(changed, True, None)  # smoke figures go to the cache
    command.check_publishable(changed, False, tmp_path)
