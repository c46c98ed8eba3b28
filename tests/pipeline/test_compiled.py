"""Cached kernels follow every source file of the package, not only their own."""

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


def run(folder: Path) -> tuple[int, int]:
    result = subprocess.run([sys.executable, "-c", PROGRAM, str(folder)], capture_output=True, text=True, check=True)
    value, hits = result.stdout.split()
    return int(value), int(hits)


def test_a_change_in_a_called_file_recompiles_its_callers(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    shutil.copy(str(compiled.__file__), package / "compiled.py")
    (package / "callee.py").write_text(CALLEE.format(10))
    (package / "caller.py").write_text(CALLER)
    assert run(tmp_path) == (11, 0)
    assert run(tmp_path) == (11, 1)
    (package / "callee.py").write_text(CALLEE.format(20))
    assert run(tmp_path) == (21, 0)
