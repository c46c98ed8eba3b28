"""A conversion that is killed before any of its changes to the file system goes on as if nothing had been."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

KILLER = """
    import json, os, shutil, signal, sys
    from pathlib import Path

    from headrace.shards.writing import staging
    import headrace.tools.conversion.convert as converting
    from headrace.tools.conversion import workers
    from headrace.tools.conversion import convert as conversion
    from headrace.shards import Field
    from headrace.tools.conversion.convert import convert
    from headrace.tools.conversion.encode import EncodeSettings

    # Compiled code and its files are no part of a conversion: a child has them from the start.
    EncodeSettings().load({"image": Field(kind="image", encoding="mixed")})

    pictures, work, how = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    CHANGES = {"os.rename", "os.link", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.utime"}
    converted, changes, last = 0, 0, 0

    def change():
        global changes
        changes += 1
        if changes == last:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event, arguments):
        if event in CHANGES or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
            change()

    def counted(*arguments):
        global converted
        converted += 1
        return plain(*arguments)

    def changing(one, other):
        change()
        return how != "without exchange" and exchange(one, other)

    conversion.FORKS = False  # one process makes all changes, so that the kill is everybody's
    plain, exchange = workers.convert_unit, staging.exchange
    workers.convert_unit, staging.exchange = counted, changing
    converting.FORKS = False  # so that units are converted in the process that is killed

    def run(out, die_at=0, src=pictures / "new"):
        \"\"\"(units that were converted, or None where it was killed) of the conversion in a process of its own.\"\"\"
        global last
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            last = die_at
            sys.addaudithook(hook)
            convert("folder", src, out, shard_size=9000, workers=1)
            os.write(writing, b"%d" % converted)
            os._exit(0)
        os.close(writing)
        _, status = os.waitpid(child, 0)
        with open(reading) as pipe:
            told = pipe.read()
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL and die_at
            return None
        assert os.WEXITSTATUS(status) == 0, f"killed at {die_at}, the next run fails"
        return int(told)

    def content(path):
        return {file.name: file.read_bytes() for file in path.iterdir()} if path.exists() else None

    os.fsync = lambda descriptor: None  # nothing here looks at what a power cut leaves
    units = run(work / "whole" / "set")
    new = content(work / "whole" / "set")
    if how != "fresh":
        run(work / "old", src=pictures / "old")
    old = content(work / "old")
    assert old is None or old != new and {n: len(old[n]) for n in old} == {n: len(new[n]) for n in new}
    step, found, over = 0, {"old": 0, "new": 0, "displaced": 0}, 0
    while True:
        step += 1
        folder = work / str(step)
        folder.mkdir()
        out, partial = folder / "set", folder / ".set.partial"
        if old is not None:
            shutil.copytree(work / "old", out)
        whole = run(out, step)
        now = content(out)
        if whole is not None:
            assert now == new and whole == units
            break
        if now is None and how == "without exchange":
            assert content(folder / ".set.displaced") == old, f"killed at {step}: the old set is gone"
            found["displaced"] += 1
        else:
            assert now in (old, new), f"killed at {step}: neither the old set nor the new one"
            found["new" if now == new else "old"] += 1
        expected = units - len(list(partial.glob("units/[0-9]*/unit.json")))
        if now == new:
            expected = 0 if (partial / "job.json").exists() else units
            over += expected > 0
        again = run(out)
        assert again == expected, f"killed at {step}: {again} units converted again, not {expected}"
        assert content(out) == new, f"killed at {step}, and other bytes after the next run"
        assert os.listdir(folder) == ["set"], f"killed at {step}, and something is left: {os.listdir(folder)}"
        shutil.rmtree(folder)
    print(json.dumps([units, step, over, found]))
"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trees of 8 small pictures of the same sizes: in `old` two classes have changed places."""
    root = tmp_path_factory.mktemp("pictures")
    random = np.random.Generator(np.random.Philox(7))
    for i in range(8):
        picture = Image.fromarray(random.integers(0, 256, (16, 16, 3), np.uint8))
        for tree, label in (("new", i % 2), ("old", 1 - i % 2)):
            (root / tree / f"class-{label}").mkdir(parents=True, exist_ok=True)
            picture.save(root / tree / f"class-{label}" / f"{i:02d}.jpg", quality=90)
    return root


@pytest.mark.parametrize("how", ["fresh", "replacing", "without exchange"])
def test_killed_before_every_change(tmp_path: Path, pictures: Path, how: str) -> None:
    """After each kill there is the old set or the new one, whole; the same command then ends with the same bytes, and
    converts no unit that was finished."""
    command = [sys.executable, "-c", textwrap.dedent(KILLER), str(pictures), str(tmp_path), how]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=240)
    assert done.returncode == 0, done.stderr
    units, steps, over, found = json.loads(done.stdout)
    assert units == 3
    assert steps > 50
    assert over < 6, "after the job is removed little may be left to do"
    assert found["old"] > 30
    assert found["new"] > 5
    assert (found["displaced"] > 0) == (how == "without exchange")
