"""Kept kernels follow the source files that they are made of, not only their own, and ask no more of a machine."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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


HOMELESS = {"HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null", "NUMBA_CACHE_DIR": ""}
NOBODY = 65534
CALL = "from package import caller; print(caller.outer(1), sum(caller.outer.stats.cache_hits.values()))"


def python(program: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program that finds packages in `folder` first."""
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        encoding="utf-8",
        check=False,
        env=os.environ | {"PYTHONPATH": str(folder)} | environment,
    )


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """Where a package lies beside whose sources nothing can be kept, not even by root."""
    (write_package(tmp_path) / "__pycache__").touch()  # no folder can be made of this name
    return tmp_path


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    """A temporary folder as a system's: everybody writes to it, and nobody moves what is another's."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


def private(temporary: Path) -> Path:
    return temporary / f"headrace-kernels-{os.geteuid()}"


def warned(done: subprocess.CompletedProcess[str]) -> str:
    """The one warning, if any."""
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Warning: ") <= 1, done.stderr
    return done.stderr.partition("Warning: ")[2]


def test_without_a_home_kernels_are_kept_in_a_folder_of_the_users_own(closed: Path, temporary: Path) -> None:
    environment = HOMELESS | {"TMPDIR": str(temporary)}
    first = python(CALL, closed, **environment)
    assert first.stdout == "11 0\n"
    assert f"are kept in {private(temporary)}" in warned(first)
    assert "set NUMBA_CACHE_DIR to keep them in another folder" in warned(first)
    assert private(temporary).stat().st_mode & 0o777 == 0o700
    again = python(CALL, closed, **environment)
    assert (again.stdout, warned(again)) == ("11 1\n", "")


def test_a_folder_that_is_named_is_taken(closed: Path, temporary: Path, tmp_path: Path) -> None:
    environment = HOMELESS | {"TMPDIR": str(temporary), "NUMBA_CACHE_DIR": str(tmp_path / "named")}
    done = python(CALL, closed, **environment)
    assert (done.stdout, warned(done)) == ("11 0\n", "")
    assert list(tmp_path.glob("named/*/*.nbc"))
    assert not private(temporary).exists()


@pytest.mark.parametrize("planted", ["open to others", "a link", "a file", "another's", "exchangeable"])
def test_a_folder_in_which_others_may_have_put_code_is_not_taken(planted: str, closed: Path, temporary: Path) -> None:
    """Each process compiles for itself then, and a sentence says why and how to keep kernels."""
    folder, reason = private(temporary), f"{private(temporary)} is not a folder of this user's alone"
    match planted:
        case "open to others":
            folder.mkdir()
            folder.chmod(0o770)
        case "a link":
            (temporary / "elsewhere").mkdir(0o700)
            folder.symlink_to("elsewhere")
        case "a file":
            folder.touch(0o700)
        case "another's":
            if os.geteuid() != 0:
                pytest.skip("only root makes another user's folder")
            folder.mkdir(0o700)
            os.chown(folder, NOBODY, NOBODY)
        case "exchangeable":
            temporary.chmod(0o777)
            reason = f"in {temporary} other users may exchange folders"
    for _ in range(2):
        done = python(CALL, closed, **HOMELESS, TMPDIR=str(temporary))
        assert done.stdout == "11 0\n"
        assert f"compiled kernels cannot be kept, since no folder for them can be written ({reason})" in warned(done)
        assert "set NUMBA_CACHE_DIR to a folder that can be written" in warned(done)
    assert not list(temporary.rglob("*.nb?"))


def test_who_only_imports_kernels_asks_for_no_folder(closed: Path, temporary: Path) -> None:
    done = python("from package import caller", closed, **HOMELESS, TMPDIR=str(temporary))
    assert warned(done) == ""
    assert not list(temporary.iterdir())


def test_without_a_home_that_is_known_no_folder_named_tilde_is_made(
    closed: Path, temporary: Path, tmp_path: Path
) -> None:
    """As for a user whom the system does not know."""
    unknown = "import os.path; os.path.expanduser = lambda path: path\nimport os; os.chdir({!r})\n"
    here = tmp_path / "here"
    here.mkdir()
    environment = HOMELESS | {"TMPDIR": str(temporary)}
    del environment["XDG_CACHE_HOME"]
    done = python(unknown.format(str(here)) + CALL, closed, **environment)
    assert done.stdout == "11 0\n"
    assert f"are kept in {private(temporary)}" in warned(done)
    assert not list(here.iterdir())


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root and setpriv (Linux)")
def test_another_user_than_the_one_who_installed_it(temporary: Path, tmp_path: Path) -> None:
    """Installed by root, run by nobody, without a home, out of folders that only root may write to."""
    write_package(tmp_path)
    environment = os.environ | HOMELESS | {"HOME": "/nonexistent", "TMPDIR": str(temporary)}
    # This interpreter may lie where only root looks, so that nobody may read everything here, and write nothing.
    may_read = [f"--{kind}-caps=+dac_read_search" for kind in ("inh", "ambient")]
    nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *may_read]
    found = [
        subprocess.run(
            [*nobody, sys.executable, "-c", CALL],
            capture_output=True,
            encoding="utf-8",
            check=False,
            env=environment | {"PYTHONPATH": str(tmp_path)},
        )
        for _ in range(2)
    ]
    folder = temporary / f"headrace-kernels-{NOBODY}"
    assert [done.stdout for done in found] == ["11 0\n", "11 1\n"], found[0].stderr
    assert f"are kept in {folder}" in warned(found[0])
    assert warned(found[1]) == ""
    assert (folder.stat().st_uid, folder.stat().st_mode & 0o777) == (NOBODY, 0o700)


def test_what_cannot_be_kept_when_it_is_compiled_ends_nothing(tmp_path: Path) -> None:
    """The folder goes between two compilations."""
    package = write_package(tmp_path)
    program = (
        "import shutil; from package import caller; caller.outer(1.5)\n"
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
    done = python(other + "from package import caller; caller.outer._cache.cache_path", tmp_path)
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
