"""Every benchmark runs from end to end at smoke size with every contestant that is installed; no time is asserted.

With HEADRACE_REQUIRE_PEERS=1 a missing peer, or missing photographs, is a failure.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from headrace.benchmarks.command import SMOKE_BATCH, SMOKE_PHOTOGRAPHS
from headrace.benchmarks.photographs import photographs_or_skip
from headrace.benchmarks.report import COLUMNS
from headrace.pipeline.engines import CLIP_ENGINES, CPU_ENGINES
from headrace.tools.doctor import ENGINE_MODULES, installed

CROP = f"1 x float32 ({SMOKE_BATCH}, 3, 224, 224)"
PAIR = f"2 x float32 ({SMOKE_BATCH}, 3, 224, 224)"
SMALL_PAIR = f"2 x float32 ({SMOKE_BATCH}, 3, 32, 32)"
MASK = f"mask of visible ({SMOKE_BATCH}, 49) and masked ({SMOKE_BATCH}, 147)"
LOADERS = {"Headrace", "lightly", "webdataset + torchvision", "DALI, CPU", "decoding only"}
OTHER_ENGINES = {f"Headrace, {engine}" for engine in ("kornia", "dali", "dali+kornia", "ffcv")}


def smoke(name: str, out: Path, *arguments: str) -> dict[str, dict[str, Any]]:
    """Runs benchmark `name` with --smoke; its comparisons by name, after a check of its files."""
    photographs_or_skip(SMOKE_PHOTOGRAPHS)
    figures = out / "figures.json"
    # In this process, for its imports take seconds; the contestants have processes of their own.
    main = importlib.import_module(f"headrace.benchmarks.{name}").main
    printed = io.StringIO()
    terminated = signal.getsignal(signal.SIGTERM)
    try:
        with contextlib.redirect_stdout(printed):
            status = main(["--smoke", "--out", str(out), "--json", str(figures), *arguments])
    finally:
        signal.signal(signal.SIGTERM, terminated)
    assert status == 0  # why not, is on stderr
    report = json.loads(figures.read_text(encoding="utf-8"))
    (markdown,) = out.glob(f"{name}_*.md")
    assert markdown.read_text(encoding="utf-8").strip() == printed.getvalue().strip()
    with Image.open(markdown.with_suffix(".png")) as picture:
        picture.load()
    assert markdown.with_suffix(".json").read_text(encoding="utf-8") == figures.read_text(encoding="utf-8")
    check_conditions(report)
    for comparison in report["comparisons"]:
        check_table(markdown.read_text(encoding="utf-8"), comparison)
    return {comparison["name"]: comparison for comparison in report["comparisons"]}


def check_conditions(report: dict[str, Any]) -> None:
    assert report["machine"]["cpu"]
    assert report["machine"]["cores"] >= 1
    assert {"torch", "torchvision", "numpy", "numba", "headrace"} <= report["versions"].keys()
    assert report["settings"]["photographs"] == SMOKE_PHOTOGRAPHS
    assert report["settings"]["smoke"] is True
    assert isinstance(report["quiet"], bool)


def check_table(markdown: str, comparison: dict[str, Any]) -> None:
    """The table of `comparison` has all columns, and a row for everybody who took part or could not."""
    section = markdown.partition(f"## {comparison['title']}\n")[2].partition("\n## ")[0]
    lines = [
        [cell.strip(" *") for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"
    ]
    assert all(len(line) == len(COLUMNS) for line in lines)
    names = [each["name"] for each in comparison["contestants"] + comparison["missing"]]
    assert sorted(line[0] for line in lines[2:]) == sorted(names)
    for name, *cells in lines[2:]:
        empty = [COLUMNS[number] for number, cell in enumerate(cells, 1) if not cell]
        if name not in [each["name"] for each in comparison["missing"]]:
            assert set(empty) <= {"target", "of the limit"}  # where nothing is wanted, or nothing bounds the work


def took_part(comparison: dict[str, Any], names: set[str]) -> dict[str, dict[str, Any]]:
    """The contestants by name: `names`, less those that are not installed; each delivered something."""
    found = {each["name"]: each for each in comparison["contestants"]}
    missing = {each["name"] for each in comparison["missing"]}
    assert found.keys() | missing == names
    for each in found.values():
        assert len(each["rounds"]) == 1
        assert each["rounds"][0]["samples"] > 0
        assert each["rounds"][0]["seconds"] > 0
    return found


@pytest.mark.timeout(900)
def test_loader(tmp_path: Path) -> None:
    """One work of each kind of contestants."""
    works = (
        ("simclr", PAIR, LOADERS | OTHER_ENGINES),
        ("cifar", SMALL_PAIR, {"Headrace", "lightly", "copying only"}),
        ("mae", f"{CROP} + {MASK}", {"Headrace", "webdataset + torchvision", "decoding only"}),
        ("crop", CROP, LOADERS - {"lightly"} | {"ffcv"}),
        ("raw", CROP, {"Headrace", "ffcv", "copying only"}),
    )
    comparisons = smoke("loader", tmp_path, "--works", *(name for name, _, _ in works))
    for name, batch, names in works:
        found = took_part(comparisons[name], names)
        ours = found["Headrace"]
        for each in found.values():
            if each["limit"]:
                continue
            assert each["batch"] == batch
            assert each["rounds"][0]["samples"] % SMOKE_BATCH == 0
            # Normalised pixels of the same photographs; 16 random crops of 96 photographs differ by this much.
            assert abs(each["mean"] - ours["mean"]) < 1.0
            assert 0.6 < each["deviation"] / ours["deviation"] < 1.6


@pytest.mark.timeout(900)
def test_shard(tmp_path: Path) -> None:
    comparisons = smoke("shard", tmp_path, "--works", "tar", "beton", "raw-memory", "read")
    contestants = {
        "tar": {"Headrace", "Headrace, quick", "GNU tar", "GNU tar, sha256sum", "webdataset"},
        "beton": {"Headrace", "Headrace, quick", "ffcv", "ffcv, simplejpeg"},
        "raw-memory": {"Headrace", "ffcv", "ffcv, simplejpeg", "limit: decoding, writing"},
        "read": {"Headrace", "Headrace, .beton", "ffcv"},
    }
    for name, names in contestants.items():
        for each in took_part(comparisons[name], names).values():
            assert each["rounds"][0]["samples"] % (SMOKE_BATCH if name == "read" else SMOKE_PHOTOGRAPHS) == 0


@pytest.mark.timeout(900)
def test_step(tmp_path: Path) -> None:
    comparisons = smoke("step", tmp_path, "--works", "resnet18-32")
    names = LOADERS - {"lightly", "decoding only"} | {"synthetic data"}
    for each in took_part(comparisons["resnet18-32"], names).values():
        assert each["rounds"][0]["samples"] % SMOKE_BATCH == 0


def test_features(tmp_path: Path) -> None:
    comparisons = smoke("features", tmp_path, "--works", "test_vit")
    names = {"Headrace", "timm, DataLoader", "encoder alone"}
    for each in took_part(comparisons["test_vit"], names).values():
        assert each["rounds"][0]["samples"] % SMOKE_BATCH == 0


def smoke_methods(out: Path, *arguments: str) -> tuple[list[dict[str, Any]], str]:
    """The rows and the table, after a check of the files."""
    from headrace.benchmarks.methods import main

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["--smoke", "--out", str(out), "--json", str(out / "figures.json"), *arguments]) == 0
    (markdown,) = out.glob("methods_*.md")
    assert markdown.read_text(encoding="utf-8").strip() == printed.getvalue().strip()
    with Image.open(markdown.with_suffix(".png")) as picture:
        picture.load()
    return json.loads((out / "figures.json").read_text(encoding="utf-8"))["rows"], printed.getvalue()


def has_peer(name: str) -> bool:
    """In CI, which has lightly, every peer takes part."""
    from headrace.benchmarks.peers.lightly_methods import PEERS

    return name in PEERS and (os.environ.get("HEADRACE_REQUIRE_PEERS") == "1" or installed("lightly"))


@pytest.mark.timeout(1200)  # dozens of trainings
def test_methods(tmp_path: Path) -> None:
    """Every method that the digits suit trains a little, and so does its peer."""
    from headrace.benchmarks.learning.sets import SETS
    from headrace.models import METHODS, build_method
    from headrace.train.recipes import RECIPES

    rows, table = smoke_methods(tmp_path, "--data", "digits", "--part", "scores")
    built = {name: build_method(name, RECIPES[f"{name}_small"]().model) for name in METHODS}
    names = [name for name in METHODS if SETS["digits"].suits(built[name])]
    assert [(row["method"], row["probe"]) for row in rows] == [
        (name, probe) for name in names for probe in ("knn", "linear")
    ]
    for row in rows:
        assert row["data"] == "digits"
        assert row["seeds"] == [0]
        assert all(0 <= row[each] <= 1 for each in ("score", "untrained", "input"))
        assert (row["peer"] is not None) == has_peer(row["method"])
        assert row["samples_per_s"] is row["peer_samples_per_s"] is None
    assert all(table.count(f"| {name} |") == 2 for name in names)


def test_speed_of_methods(tmp_path: Path) -> None:
    """Of one with a peer and of one without."""
    rows, _ = smoke_methods(tmp_path, "--only", "simclr,mae")
    assert [row["method"] for row in rows] == ["simclr", "simclr", "mae", "mae"]
    for row in rows:
        assert row["samples_per_s"] > 0
        assert (row["peer_samples_per_s"] is not None) == has_peer(row["method"])
        assert len(row["speeds"]["ours"]) == 1


def test_methods_refuses_an_unknown_name(capsys: pytest.CaptureFixture[str]) -> None:
    from headrace.benchmarks.methods import main

    with pytest.raises(SystemExit) as stopped:
        main(["--smoke", "--only", "simclr,simcler"])
    assert stopped.value.code == 2
    assert "--only: 'simcler' is not known; known: simclr, " in capsys.readouterr().err


def test_parity(tmp_path: Path) -> None:
    photographs_or_skip(SMOKE_PHOTOGRAPHS)
    command = [sys.executable, "-m", "headrace.benchmarks.parity", "--smoke", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "parity.json").read_text(encoding="utf-8"))
    found = report["differences"]
    assert {"flip", "hue", "blur", "simclr", "turn", "projection", "erase", "tiles"} <= found.keys()
    assert {"lab", "per view"} == report["floats"].keys()
    assert (tmp_path / "parity.md").read_text(encoding="utf-8").strip() == done.stdout.strip()
    assert {"clip: crop", "clips: simclr, byol"} <= found.keys()
    for work, by_engine in found.items():
        engines = CLIP_ENGINES if work.startswith("clip") else CPU_ENGINES
        assert by_engine.keys() == {name for name in engines if name != "torchvision" and can_run(name)}
        assert by_engine["native"]["largest"] <= 2


def can_run(engine: str) -> bool:
    """DALI, Kornia and ffcv are optional; CI has all."""
    return os.environ.get("HEADRACE_REQUIRE_PEERS") == "1" or all(map(installed, ENGINE_MODULES[engine]))


def test_a_folder_without_photographs_is_one_clear_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "headrace.benchmarks.loader", "--smoke", "--images", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 1
    assert done.stderr == (
        f"headrace.benchmarks.loader: --images {tmp_path}: there is no .jpg or .jpeg file below it\n"
    )


def test_the_gpu_script_runs_dry(tmp_path: Path) -> None:
    """On the CPU, the kernel in Triton's interpreter: every part, and a table of each."""
    script = Path(__file__).with_name("gpu.sh")
    environment = {**os.environ, "DEVICE": "cpu", "PYTHON": sys.executable}
    command = ["bash", str(script), str(tmp_path / "out")]
    done = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    parts = (tmp_path / "out" / "parts.txt").read_text(encoding="utf-8").splitlines()
    assert [line.partition(",")[0] for line in parts] == [
        "tests: done", "views: done", "training: done", "learning: done"
    ]  # fmt: skip
    table = (tmp_path / "out" / "gpu.md").read_text(encoding="utf-8")
    for contestant in ("Headrace, cuda", "torchvision v2, sample by sample", "engine cuda", "synthetic data", "simclr"):
        assert f"| {contestant}" in table
    for name in ("views", "training", "learning"):
        rows = json.loads((tmp_path / "out" / name / "gpu.json").read_text(encoding="utf-8"))["rows"]
        assert rows
        assert all(row["value"] > 0 for row in rows)
