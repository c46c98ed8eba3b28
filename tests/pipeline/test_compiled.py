"""Kept kernels follow the source files that they are made of, not only their own, and ask no more of a machine."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.pipeline import compiled, order

PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from package import caller
print(caller.outer(1), sum(caller.outer.stats.cache_hits.values()))
"""
CALLEE = "from package.compiled import kernel\n@kernel\ndef inner(x):\n    return x + {}\n"
CALLER = """
from package.callee import inner
from package.compiled import kernel

@kernel
def outer(x):
    return inner(x)
"""


FIRST = """
import subprocess, sys
sys.path.insert(0, sys.argv[1])
from package import caller
files = caller.outer._cache._cache_file
save = files._save_data

def save_late(name, data):
    subprocess.run([sys.executable, "-c", sys.argv[2], sys.argv[1]], check=True)
    save(name, data)

files._save_data = save_late
caller.outer(1)
"""
SECOND = """
import sys
sys.path.insert(0, sys.argv[1])
from package import caller
caller.outer._cache._cache_file._load_index = dict  # what it held before the first process wrote to it
caller.outer(1.5)
"""


def write_package(folder: Path) -> Path:
    package = folder / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    shutil.copy(str(compiled.__file__), package / "compiled.py")
    (package / "callee.py").write_text(CALLEE.format(10), encoding="utf-8")
    (package / "caller.py").write_text(CALLER, encoding="utf-8")
    return package


def run(folder: Path, argument: str = "1") -> tuple[float, int]:
    program = PROGRAM.replace("outer(1)", f"outer({argument})")
    result = subprocess.run(
        [sys.executable, "-c", program, str(folder)], capture_output=True, encoding="utf-8", check=True
    )
    value, hits = result.stdout.split()
    return float(value), int(hits)


def test_a_change_in_a_called_file_recompiles_its_callers(tmp_path: Path) -> None:
    package = write_package(tmp_path)
    assert run(tmp_path) == (11, 0)
    assert run(tmp_path) == (11, 1)
    (package / "callee.py").write_text(CALLEE.format(20), encoding="utf-8")
    assert run(tmp_path) == (21, 0)
    assert len(list((package / "__pycache__").glob("caller.outer-*.nbc"))) == 1


def test_a_change_in_a_file_that_kernels_do_not_import_recompiles_nothing(tmp_path: Path) -> None:
    package = write_package(tmp_path)
    (package / "loader.py").write_text("from package import caller", encoding="utf-8")
    assert run(tmp_path) == (11, 0)
    (package / "loader.py").write_text("from package import caller, callee", encoding="utf-8")
    assert run(tmp_path) == (11, 1)


def test_a_change_in_a_file_that_is_imported_by_what_a_kernel_imports_recompiles_it(tmp_path: Path) -> None:
    package = write_package(tmp_path)
    (package / "constants.py").write_text("TEN = 10", encoding="utf-8")
    (package / "callee.py").write_text("from package.constants import TEN\n" + CALLEE.format("TEN"), encoding="utf-8")
    assert run(tmp_path) == (11, 0)
    (package / "constants.py").write_text("TEN = 20", encoding="utf-8")
    assert run(tmp_path) == (21, 0)


def test_processes_that_compile_at_once_do_not_run_each_others_code(tmp_path: Path) -> None:
    """One writes the index for integers, another index and code for floats, then the first the code for integers."""
    write_package(tmp_path)
    subprocess.run([sys.executable, "-c", FIRST, str(tmp_path), SECOND], check=True)
    assert run(tmp_path, "1.5") == (11.5, 1)
    assert run(tmp_path, "1") in [(11, 0), (11, 1)]


NO_FOLDER = {"HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null", "NUMBA_CACHE_DIR": ""}


def python(program: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program that finds packages in `folder` first."""
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        encoding="utf-8",
        check=False,
        env=os.environ | {"PYTHONPATH": str(folder)} | environment,
    )


def test_where_no_folder_can_be_written_kernels_are_compiled_and_a_sentence_says_how_to_keep_them(
    tmp_path: Path,
) -> None:
    package = tmp_path / "headrace"
    for name in ("pipeline", "shards"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(Path(compiled.__file__).parents[1] / name, package / name, ignore=ignored)
    for folder in {path.parent for path in package.rglob("*.py")}:
        (folder / "__pycache__").touch()  # no folder may be made of this name, not even by root
    done = python(
        "import headrace.pipeline as p; print(p.__path__[0], p.order(3, 1, 10)[:4].tolist())", tmp_path, **NO_FOLDER
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(maxsplit=1) == [str(package / "pipeline"), f"{order(3, 1, 10)[:4].tolist()}\n"]
    assert done.stderr.count("Warning") == 1
    assert "set NUMBA_CACHE_DIR to a folder that can be written" in done.stderr


def test_what_cannot_be_kept_when_it_is_compiled_ends_nothing(tmp_path: Path) -> None:
    """The folder goes between import and compilation."""
    package = write_package(tmp_path)
    program = (
        "import shutil; from package import caller\n"
        f"shutil.rmtree({str(package / '__pycache__')!r}); open({str(package / '__pycache__')!r}, 'w').close()\n"
        "print(caller.outer(1))"
    )
    done = python(program, tmp_path)
    assert (done.returncode, done.stdout) == (0, "11\n"), done.stderr
    assert done.stderr.count("Warning") == 1
    assert "set NUMBA_CACHE_DIR" in done.stderr


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
@pytest.mark.parametrize("left", [0, 20])
def test_kept_kernels_that_are_cut_off_are_made_anew(kind: str, left: int, tmp_path: Path) -> None:
    package = write_package(tmp_path)
    assert run(tmp_path) == (11, 0)
    for path in (package / "__pycache__").glob(f"*.{kind}"):
        os.truncate(path, left)
    assert run(tmp_path)[0] == 11
    assert run(tmp_path) == (11, 1)


def test_another_numba_keeps_kernels_its_own_way_and_a_sentence_says_what_that_means(tmp_path: Path) -> None:
    write_package(tmp_path)
    other = "from numba.core.caching import IndexDataCacheFile as F\nF.name_of = F._data_name\ndel F._data_name\n"
    done = python(other + "from package import caller", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Warning") == 1
    assert "does not know how numba" in done.stderr


def test_without_compilation_all_is_imported_and_a_sentence_says_what_is_missing(tmp_path: Path) -> None:
    program = (
        "import headrace.pipeline as p, headrace.models, headrace.tools.cli\n"
        "print(p.order(3, 1, 10, shuffle=False)[:4].tolist())\n"
        "p.order(3, 1, 10)[:4]"
    )
    done = python(program, tmp_path, NUMBA_DISABLE_JIT="1")
    assert done.stdout == "[0, 1, 2, 3]\n"
    assert done.stderr.splitlines()[-1].startswith("RuntimeError: Headrace's random draws and pixels are made by")
    assert "NUMBA_DISABLE_JIT" in done.stderr.splitlines()[-1]
