"""One process writes to a run's folder; the lock goes with it, and says who has it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from headrace.shards import ShardSet
from headrace.tools.evaluation.results import keep, read_results
from headrace.train import RunError, load_run, read_metrics, train
from headrace.train import lock as lock_module
from headrace.train.distributed import World
from headrace.train.lock import NAME, Holder, one_writer
from tests.train.tiny_runs import final_state, tiny_run

ALONE = World(0, 1, torch.device("cpu"))

RUN = """
import sys
from headrace.train import RunConfig, train

def wait(record):
    if record["step"] == 4:
        print("here", flush=True)
        sys.stdin.readline()

train(RunConfig.load(sys.argv[1]), progress=False, on_step=wait)
"""


@contextmanager
def waiting_run(data: Path, out: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that trains and waits after step 4 for a line on its standard input."""
    file = out.with_suffix(".yaml")
    tiny_run(data, out).save(file)
    command = [sys.executable, "-c", RUN, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8") as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "here\n"
            yield process
        finally:
            with suppress(BrokenPipeError):
                process.kill()


def test_a_second_run_is_refused_and_the_first_loses_nothing(digits_webdataset: ShardSet, tmp_path: Path) -> None:
    data, out = Path(digits_webdataset.path), tmp_path / "run"
    with waiting_run(data, out) as process:
        before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        with pytest.raises(RunError) as caught:
            train(tiny_run(data, out), progress=False)
        host = lock_module.socket.gethostname()
        assert f"{out}: process {process.pid} on {host} has been writing to it since 20" in str(caught.value)
        assert str(caught.value).endswith("; let it end, stop it, or use another out")
        assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
        process.communicate("go on\n")
    assert process.returncode == 0
    assert final_state(out)["step"] == 12
    assert load_run(out)[0].out == str(out)
    assert [record["step"] for record in read_metrics(out)] == list(range(1, 13))
    assert not (out / NAME).exists()
    assert train(tiny_run(data, out), progress=False).step == 12  # it is free again


def test_a_killed_runs_folder_is_taken_over_with_a_line(
    digits_webdataset: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also from another machine, which on a file system with locks between machines is as good as this one."""
    data, out = Path(digits_webdataset.path), tmp_path / "run"
    with waiting_run(data, out) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    said = json.loads((out / NAME).read_text(encoding="utf-8"))
    assert said["pid"] == process.pid
    (out / NAME).write_text(json.dumps(said | {"host": "node17"}), encoding="utf-8")
    assert train(tiny_run(data, out), progress=False).step == 12
    told = f"{out}: taken over from process {process.pid} on node17, which is gone\n"
    assert capsys.readouterr().err.count(told) == 1
    assert not (out / NAME).exists()


def test_only_one_of_many_threads_has_it(tmp_path: Path) -> None:
    """They ask at once, and again and again, also while the folder comes and goes; nobody meets another one inside."""
    inside, most, done = 0, 0, 0
    guard, start = threading.Lock(), threading.Barrier(8)

    def ask() -> None:
        nonlocal inside, most, done
        start.wait()
        for _ in range(50):
            with suppress(RunError), one_writer(tmp_path / "run", ALONE, pytest.fail):
                with guard:
                    inside += 1
                    most = max(most, inside)
                with guard:
                    inside -= 1
        with guard:
            done += 1

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, done) == (1, 8)
    assert list(tmp_path.rglob(NAME)) == []


def test_a_forked_child_does_not_keep_it(tmp_path: Path) -> None:
    read, write = os.pipe()
    with one_writer(tmp_path, ALONE, pytest.fail):
        child = os.fork()
        if child == 0:  # outlives the lock's holder
            os.read(read, 1)
            os._exit(0)
    with one_writer(tmp_path, ALONE, pytest.fail):
        pass
    os.write(write, b".")
    assert os.waitpid(child, 0)[1] == 0


def test_a_folder_that_was_made_for_nothing_goes_again(tmp_path: Path) -> None:
    with pytest.raises(KeyError), one_writer(tmp_path / "new", ALONE, pytest.fail):
        raise KeyError
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    with one_writer(tmp_path / "old", ALONE, pytest.fail):
        assert [path.name for path in (tmp_path / "old").iterdir()] == [NAME]
    assert list((tmp_path / "old").iterdir()) == []


def write_record(folder: Path, holder: Holder) -> None:
    (folder / NAME).write_bytes(lock_module._record(holder))


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without locks, as NFS without its lock daemon."""

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(lock_module, "_PAUSE_S", 0.01)


@pytest.mark.usefixtures("no_locks")
def test_without_locks_the_file_stands_for_them(tmp_path: Path) -> None:
    lines: list[str] = []
    with one_writer(tmp_path, ALONE, lines.append):
        held = json.loads((tmp_path / NAME).read_text(encoding="utf-8"))
        assert held["pid"] == os.getpid()
        refused = pytest.raises(RunError, match=f"process {os.getpid()} on .* has been writing to it")
        with refused, one_writer(tmp_path, ALONE, lines.append):
            pass
        assert json.loads((tmp_path / NAME).read_text(encoding="utf-8")) == held
    assert list(tmp_path.iterdir()) == []
    assert lines == []


@pytest.mark.usefixtures("no_locks")
def test_without_locks_a_dead_process_of_this_machine_is_known(tmp_path: Path) -> None:
    """Also where its number is another process's by now."""
    ours = Holder.this_process()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    lines: list[str] = []
    for gone in (replace(ours, pid=ended.pid), replace(ours, began=1)):
        write_record(tmp_path, gone)
        with one_writer(tmp_path, ALONE, lines.append):
            pass
    assert [line.split(": ", 1)[1] for line in lines] == [
        f"taken over from process {ended.pid} on {ours.host}, which is gone",
        f"taken over from process {ours.pid} on {ours.host}, which is gone",
    ]


@pytest.mark.usefixtures("no_locks")
def test_without_locks_nobody_can_tell_of_another_machine(tmp_path: Path) -> None:
    write_record(tmp_path, replace(Holder.this_process(), host="node17", pid=5))
    with pytest.raises(RunError) as caught, one_writer(tmp_path, ALONE, pytest.fail):
        pass
    assert "process 5 on node17 has been writing to it" in str(caught.value)
    assert str(caught.value).endswith(f"if that process is gone, delete {tmp_path / NAME}: nobody can tell from here")
    (tmp_path / NAME).unlink()
    with one_writer(tmp_path, ALONE, pytest.fail):
        pass


def test_scores_of_evaluations_at_once_are_all_kept(tmp_path: Path) -> None:
    def found(number: int) -> dict[str, Any]:
        metrics = {"accuracy": {"value": number / 10, "low": 0.0, "high": 1.0}}
        each = {"version": 1, "settings": {}, "metric": "accuracy", "encoders": {"trained": {"metrics": metrics}}}
        return {f"protocol {number}": each}

    threads = [threading.Thread(target=keep, args=(tmp_path, "data", None, found(n))) for n in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read_results(tmp_path)["probes"] == {"trained": {f"protocol {n}": n / 10 for n in range(10)}}
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
