"""What is installed: every package on disk, nothing else, and a wheel that works away from the checkout."""

from __future__ import annotations

import json
import os
import shutil
import site
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]
TOP = ("benchmarks", "models", "pipeline", "shards", "tools", "train")


def test_packages_are_the_folders_on_disk() -> None:
    on_disk = [init.parent.relative_to(ROOT) for top in TOP for init in (ROOT / top).rglob("__init__.py")]
    assert SETUPTOOLS["packages"] == sorted(".".join(("headrace", *folder.parts)) for folder in on_disk)
    assert SETUPTOOLS["package-dir"] == {f"headrace.{top}": top for top in TOP}


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {path.parent for top in TOP for path in (ROOT / top).rglob("*.py")}
    assert [str(folder) for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that the checkout gains no build folder."""
    copy = tmp_path_factory.mktemp("source")
    for top in TOP:
        shutil.copytree(ROOT / top, copy / top, ignore=shutil.ignore_patterns("__pycache__", "results"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "."]
    done = subprocess.run([*command, "--wheel-dir", "dist"], cwd=copy, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (built,) = (copy / "dist").iterdir()
    return built


def test_wheel_holds_the_packages_and_the_licence(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    modules = {name for name in names if name.endswith(".py")}
    on_disk = {f"headrace/{path.relative_to(ROOT).as_posix()}" for top in TOP for path in (ROOT / top).rglob("*.py")}
    assert modules == on_disk
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"headrace"}


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that holds the wheel; its dependencies come from this one's site-packages.

    A path line in a .pth file adds a folder without running the .pth files in it, so the editable installation of
    the checkout stays invisible.
    """
    env = tmp_path_factory.mktemp("env")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(env)], check=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(env), "platbase": str(env)}))
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(env / "bin" / "python"),
        "--disable-pip-version-check",
    ]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n", encoding="utf-8")
    # Kernels that were compiled for these sources serve their copies, too; others are compiled anew.
    for kernel in (ROOT / "pipeline").rglob("*.nb[ic]"):
        target = packages / "headrace" / kernel.relative_to(ROOT)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(kernel, target)
    return env


def run(installed: Path, *command: str, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [str(installed / "bin" / command[0]), *command[1:]],
        cwd=cwd,
        env=environment,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def test_wheel_is_what_runs(installed: Path, tmp_path: Path) -> None:
    code = "import headrace.shards, headrace.tools; print(*headrace.shards.__path__, *headrace.tools.__path__)"
    folders = run(installed, "python", "-c", code, cwd=tmp_path).split()
    assert len(folders) == 2
    assert all(Path(folder).is_relative_to(installed) for folder in folders)
    assert run(installed, "headrace", "--version", cwd=tmp_path) == f"headrace {PYPROJECT['project']['version']}\n"


@pytest.mark.peer("mlxtend")
@pytest.mark.timeout(900)  # it may compile every kernel
def test_demo_runs_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    printed = run(installed, "headrace", "demo", "--format", "webdataset", "--epochs", "1", "--json", cwd=tmp_path)
    assert set(json.loads(printed)["probes"]) == {"input", "untrained", "trained"}
    assert (tmp_path / "runs" / "demo" / "report.html").stat().st_size > 10_000
