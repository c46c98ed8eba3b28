"""The disk that fails does so where it is told to, as long as it is told to."""

from __future__ import annotations

import errno
import signal
import sys
import textwrap
from pathlib import Path

from tests.failing_disk import FailingDisk

READ = """
import sys
from pathlib import Path
for _ in range(4):
    try:
        print(Path(sys.argv[1]).read_bytes().decode())
    except OSError as error:
        print(error.errno)
"""


def python(disk: FailingDisk, program: str, *arguments: object) -> list[str]:
    done = disk.run([sys.executable, "-c", textwrap.dedent(program), *map(str, arguments)])
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_reads_fail_for_a_while(failing_disk: FailingDisk, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("good", encoding="utf-8")
    rule = failing_disk.fail("read", "*/a", errno.EIO, times=2)
    assert python(failing_disk, READ, tmp_path / "a") == ["5", "5", "good", "good"]
    assert failing_disk.hits(rule) == 2
    failing_disk.mend()
    failing_disk.fail("open", f"{tmp_path}/*", errno.ESTALE, times=1, after=2)
    assert python(failing_disk, READ, tmp_path / "a") == ["good", "good", str(errno.ESTALE), "good"]


def test_other_files_are_read(failing_disk: FailingDisk, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("good", encoding="utf-8")
    failing_disk.fail("read", "*/b", errno.EIO)
    assert python(failing_disk, READ, tmp_path / "a") == ["good"] * 4


def test_every_kind_of_call_fails(failing_disk: FailingDisk, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("good", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    calls = {
        "open": "open('a')",
        "read": "os.pread(os.open('a', os.O_RDONLY), 4, 0)",
        "write": "os.write(os.open('a', os.O_WRONLY), b'x')",
        "sync": "os.fsync(os.open('a', os.O_RDONLY))",
        "stat": "os.stat('a')",
        "list": "os.listdir('.')",
        "readdir": "list(os.scandir('folder'))",
        "mkdir": "os.mkdir('new')",
        "remove": "os.unlink('a')",
        "rename": "os.rename('a', 'b')",
        "link": "os.link('a', 'b')",
        "map": "mmap.mmap(os.open('a', os.O_RDONLY), 0, prot=mmap.PROT_READ)",
        "change": "open('c', 'w')",
    }
    for operation, call in calls.items():
        failing_disk.mend()
        failing_disk.fail(operation, f"{tmp_path}*", errno.EIO)  # type: ignore[arg-type]
        program = f"""
            import mmap, os
            try:
                {call}
                print("nothing")
            except OSError as error:
                print(error.errno)
        """
        done = failing_disk.run([sys.executable, "-I", "-c", textwrap.dedent(program)], cwd=tmp_path)
        assert done.stdout.split() == ["5"], (operation, done.stdout, done.stderr)
    assert (tmp_path / "a").read_text(encoding="utf-8") == "good"


def test_children_share_the_count(failing_disk: FailingDisk, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("good", encoding="utf-8")
    rule = failing_disk.fail("read", "*/a", errno.EIO, times=5)
    program = "import os; os.fork(); os.fork()\n" + READ
    python(failing_disk, program, tmp_path / "a")
    assert failing_disk.hits(rule) == 5


def test_a_process_is_killed_before_a_change(failing_disk: FailingDisk, tmp_path: Path) -> None:
    failing_disk.kill("change", f"{tmp_path}/*", after=2)
    program = f"from pathlib import Path\nfor i in range(5): Path({str(tmp_path)!r}, str(i)).touch()"
    done = failing_disk.run([sys.executable, "-c", program])
    assert done.returncode == -signal.SIGKILL
    assert sorted(path.name for path in tmp_path.glob("?")) == ["0", "1"]
