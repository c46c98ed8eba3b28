"""More shards than a process may have open files."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.many_shards import write_many

SHARDS = 1_100


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_many(tmp_path_factory.mktemp("many") / "set", SHARDS)


def headrace(*arguments: object) -> subprocess.CompletedProcess[str]:
    def few_files() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))

    program = "import sys; from headrace.tools.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, encoding="utf-8", preexec_fn=few_files)


def test_verify_compare_and_inspect(many: Path, tmp_path: Path) -> None:
    done = headrace("verify", many)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"ok, {SHARDS:,} samples" in done.stdout
    done = headrace("verify", many, many)
    assert (done.stdout, done.stderr) == (f"the same {SHARDS:,} samples\n", "")
    done = headrace("inspect", many, "--json", "--sheet", tmp_path / "sheet.png")
    assert done.stderr == ""
    assert json.loads(done.stdout)["fields"]["label"]["classes"] == {"a": SHARDS // 2, "b": SHARDS // 2}
    done = headrace("inspect", many, "--duplicates", "--json")
    assert (done.returncode, done.stderr) == (0, "")


def test_tars_without_a_manifest(many: Path, tmp_path: Path) -> None:
    for tar in many.glob("*.tar"):
        (tmp_path / tar.name).hardlink_to(tar)
    done = headrace("verify", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"ok, {SHARDS:,} samples" in done.stdout


def test_repair(many: Path, tmp_path: Path) -> None:
    """Many indexes are lost, and one shard."""
    (tmp_path / "set").mkdir()
    for file in many.iterdir():
        (tmp_path / "set" / file.name).hardlink_to(file)
    for index in (tmp_path / "set").glob("*0.index.npy"):
        index.unlink()
    (tmp_path / "set" / "shard-000777.tar").unlink()
    done = headrace("verify", tmp_path / "set", "--repair", "--drop-missing")
    assert done.returncode == 0, done.stderr
    assert f"repaired, {SHARDS - 1:,} samples" in done.stdout
    done = headrace("verify", many, tmp_path / "set")
    assert done.stdout == f"1 differences\n  key 000777: only in {many}\n"
