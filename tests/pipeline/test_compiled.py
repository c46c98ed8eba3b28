"""Cached kernels follow the source files that they are made of, not only their own."""

import shutil
import subprocess
import sys
from pathlib import Path

from headrace.pipeline import compiled

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
    (package / "callee.py").write_text(CALLEE.format(10))
    (package / "caller.py").write_text(CALLER)
    return package


def run(folder: Path, argument: str = "1") -> tuple[float, int]:
    program = PROGRAM.replace("outer(1)", f"outer({argument})")
    result = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True)
    value, hits = result.stdout.split()
    return float(value), int(hits)


def test_a_change_in_a_called_file_recompiles_its_callers(tmp_path: Path) -> None:
    package = write_package(tmp_path)
    assert run(tmp_path) == (11, 0)
    assert run(tmp_path) == (11, 1)
    (package / "callee.py").write_text(CALLEE.format(20))
    assert run(tmp_path) == (21, 0)
    assert len(list((package / "__pycache__").glob("caller.outer-*.nbc"))) == 1


def test_a_change_in_a_file_that_kernels_do_not_import_recompiles_nothing(tmp_path: Path) -> None:
    package = write_package(tmp_path)
    (package / "loader.py").write_text("from package import caller")
    assert run(tmp_path) == (11, 0)
    (package / "loader.py").write_text("from package import caller, callee")
    assert run(tmp_path) == (11, 1)


def test_a_change_in_a_file_that_is_imported_by_what_a_kernel_imports_recompiles_it(tmp_path: Path) -> None:
    package = write_package(tmp_path)
    (package / "constants.py").write_text("TEN = 10")
    (package / "callee.py").write_text("from package.constants import TEN\n" + CALLEE.format("TEN"))
    assert run(tmp_path) == (11, 0)
    (package / "constants.py").write_text("TEN = 20")
    assert run(tmp_path) == (21, 0)


def test_processes_that_compile_at_once_do_not_run_each_others_code(tmp_path: Path) -> None:
    """One writes the index for integers, another index and code for floats, then the first the code for integers."""
    write_package(tmp_path)
    subprocess.run([sys.executable, "-c", FIRST, str(tmp_path), SECOND], check=True)
    assert run(tmp_path, "1.5") == (11.5, 1)
    assert run(tmp_path, "1") in [(11, 0), (11, 1)]
