"""The command line: help, refusals that name what was meant, exit codes, JSON, and the way from pictures to a score."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headrace.shards import ShardError
from headrace.shards.errors import MachineError
from headrace.tools import cli, commands
from headrace.tools.cli import main
from headrace.tools.commands import bench
from headrace.tools.commands.arguments import UsageError, byte_size
from headrace.tools.errors import UserError
from headrace.tools.evaluation.table import PROTOCOLS
from headrace.tools.sources import SOURCES
from headrace.train.config import ConfigError

COMMAND_NAMES = [command.name for command in commands.COMMANDS]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path, code: int) -> str:
    """Run a command line that must fail with `code`; its one line on stderr."""
    assert main([str(argument) for argument in arguments]) == code
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert len(lines) == 1, printed.err
    assert printed.out == ""
    return lines[0]


def told(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Run a command line that must succeed; what it printed on stdout."""
    code = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return printed.out


# What a person reads first


def test_help_lists_every_command_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, "--help")
    assert all(f"    {name} " in text for name in COMMAND_NAMES)
    assert "headrace train simclr --data" in text
    assert told(capsys) == text, "no arguments: the same help"


@pytest.mark.parametrize("name", COMMAND_NAMES)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, name, "--help")
    assert text.startswith(f"usage: headrace {name}")
    described = [line for line in text.splitlines() if line.startswith("  -")]
    assert described, "options are listed"


def test_help_names_every_source_and_probe(capsys: pytest.CaptureFixture[str]) -> None:
    sources = told(capsys, "shard", "--help")
    assert [name for name in SOURCES if name not in sources] == []
    probes = told(capsys, "eval", "--help")
    assert [name for name in PROTOCOLS if name not in probes] == []


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "--version").startswith("headrace 0.")


# What is refused, and how


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["trian", "simclr"], "did you mean 'train'?"),
        (["shard", "folder", "a", "b", "--fromat", "ffcv"], "did you mean '--format'?"),
        (["shard", "folder", "a", "b", "--format", "webdatset"], "did you mean 'webdataset'?"),
        (["shard", "foldr", "a", "b"], "did you mean 'folder'?"),
        (["shard", "folder", "a", "b", "--shard-size", "many"], "'many' is no size"),
        (["shard", "folder", "a", "b", "--shard-size", "inf"], "'inf' is no size"),
        (["shard", "folder", "a", "b", "--shard-size", "0"], "must be positive"),
        (["shard", "folder", "a", "b", "--shard-size", "9999999TB"], "below 2**63 bytes"),
        (["shard", "folder", "a", "b", "--workers", "-1"], "--workers"),
        (["shard", "folder", "a", "b", "--workers", "0"], "'0' is no whole number of at least 1"),
        (["shard", "folder", "a", "b", "--max-side", "0"], "--max-side"),
        (["shard", "folder", "a", "b", "--quality", "101"], "'101' is no whole number from 1 to 100"),
        (["shard", "folder", "a", "b", "--max-rejects", "5"], "'5' is no share between 0 and 1"),
        (["shard", "folder", "a", "b", "--max-rejects", "nan"], "'nan' is no share between 0 and 1"),
        (["shard", "folder", "a", "b", "--encode", "frames"], "--short-side"),
        (["verify", "a", "b", "--fast"], "--fast is for one"),
        (["verify", "a", "--dry-run"], "--repair"),
        (["verify", "a", "--workers", "many"], "'many' is no whole number"),
        (["inspect", "a", "--pairs", "b.csv"], "--duplicates"),
        (["inspect", "a", "--duplicates", "--pairs", "b.txt"], "ends in one of .csv, .jsonl"),
        (["inspect", "a", "--duplicates", "--distance", "-1"], "from 0 to 64"),
        (["show", "views", "a", "--method", "simclr", "--out", "x.txt"], "ends in one of .png"),
        (["show", "views", "a", "--method", "simclr", "--out", "x.png", "--samples", "0"], "of at least 1"),
        (["doctor", "a", "--method", "simclr", "--seconds", "nan"], "--seconds"),
        (["doctor", "a", "--method", "simclr", "--out", "x.txt"], "ends in one of .png"),
        (["demo", "--epochs", "0"], "of at least 1"),
        (["show", "vews", "a", "--method", "simclr", "--out", "x.png"], "did you mean 'views'?"),
        (["show", "views", "a", "--method", "simclear", "--out", "x.png"], "did you mean 'simclr'?"),
        (["show", "clips", "a", "--method", "simclr", "--out", "x.png"], "simclr has no clips; it has views"),
        (["methods", "simclear"], "did you mean 'simclr'?"),
        (["methods", "simclr", "--markdown"], "give it alone"),
        (["train", "simclear", "--data", "a", "--out", "b"], "did you mean 'simclr'?"),
        (["train", "simclr", "--data", "a", "--out", "b", "--epoch", "3"], "did you mean epochs?"),
        (["train", "simclr", "--data", "a", "--out", "b", "--epochs"], "--epochs: needs a value"),
        (["train", "simclr", "--out", "b"], "--data"),
        (["eval", "liner", "a", "--data", "b"], "did you mean 'linear'?"),
        (["bench", "loadr"], "did you mean 'loader'?"),
        (["demo", "--format", "tar"], "known: webdataset, ffcv, both"),
        (["report"], "RUN"),
    ],
)
def test_usage_errors_name_what_was_meant(arguments: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert hint in refused(capsys, *arguments, code=cli.USAGE)


@pytest.mark.parametrize(
    ("text", "size"),
    [("4096", 4096), ("64KB", 1 << 16), ("256MiB", 1 << 28), ("1.5g", 3 << 29), ("1TB", 1 << 40), ("2 MB", 2 << 20)],
)
def test_sizes(text: str, size: int) -> None:
    assert byte_size(text) == size


def test_pictures_are_those_that_can_be_drawn() -> None:
    from headrace.tools.pictures.canvas import PICTURES

    assert commands.arguments.PICTURES == PICTURES


@pytest.mark.parametrize("name", ["verify", "inspect"])
def test_a_missing_shard_set_is_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, name, tmp_path / "nowhere", code=cli.FAILED)
    assert line.startswith(f"headrace {name}: ")
    assert str(tmp_path / "nowhere") in line


def test_report_of_a_folder_without_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert str(tmp_path) in refused(capsys, "report", tmp_path, code=cli.FAILED)


def breaking(error: BaseException) -> Any:
    def run(_: object) -> None:
        raise error

    return run


@pytest.fixture
def inspecting(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes `headrace inspect` raise what it is given."""

    def replace(error: BaseException) -> None:
        table = tuple(
            command._replace(run=breaking(error)) if command.name == "inspect" else command
            for command in commands.COMMANDS
        )
        monkeypatch.setattr(cli, "COMMANDS", table)

    return replace


def test_an_unforeseen_error_is_one_line(inspecting: Any, capsys: pytest.CaptureFixture[str]) -> None:
    inspecting(RuntimeError("first\nsecond"))
    line = refused(capsys, "inspect", "x", code=cli.FAILED)
    assert line == "headrace inspect: RuntimeError: first second (HEADRACE_DEBUG=1 shows where)"


def test_debug_shows_the_traceback(
    inspecting: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inspecting(RuntimeError("first"))
    monkeypatch.setenv("HEADRACE_DEBUG", "1")
    assert main(["inspect", "x"]) == cli.FAILED
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_ends_with_130(inspecting: Any, capsys: pytest.CaptureFixture[str]) -> None:
    inspecting(KeyboardInterrupt())
    assert refused(capsys, "inspect", "x", code=cli.INTERRUPTED) == "headrace inspect: interrupted"


LEAST = {
    "demo": [],
    "shard": ["folder", "a", "b"],
    "verify": ["a"],
    "inspect": ["a"],
    "show": ["views", "a", "--method", "simclr", "--out", "x.png"],
    "doctor": ["a", "--method", "simclr"],
    "methods": ["simclr"],
    "tokenizer": ["a", "--vocab", "100", "--kind", "bpe", "--out", "b.json"],
    "config": ["show", "simclr"],
    "train": ["simclr", "--data", "a", "--out", "b"],
    "runs": ["a"],
    "compare": ["a", "b"],
    "eval": ["knn", "a", "--data", "b"],
    "embed": ["a", "--data", "b", "--out", "c.npy"],
    "export": ["a", "--to", "timm", "b"],
    "bench": ["loader"],
    "replay": ["a"],
    "report": ["a"],
    "cache": ["ls"],
}
"""Arguments that each command takes."""


@pytest.mark.parametrize("name", COMMAND_NAMES)
def test_every_command_ends_with_the_same_codes(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(capsys, name, *LEAST[name], "--no-such-option", code=2).startswith(f"headrace {name}: ")
    for error, code in (
        (UsageError("no"), 2),
        (ConfigError("no"), 2),
        (UserError("no"), 1),
        (ShardError("no"), 1),
        (MachineError("no"), 1),
        (OSError(5, "no", "file"), 1),
        (MemoryError("no"), 1),
        (AssertionError(), 1),
        (KeyboardInterrupt(), 130),
    ):
        table = tuple(command._replace(run=breaking(error)) for command in commands.COMMANDS)
        monkeypatch.setattr(cli, "COMMANDS", table)
        refused(capsys, name, *LEAST[name], code=code)


def test_a_reader_that_leaves_is_no_error_message() -> None:
    script = f"{sys.executable} -m headrace.tools.cli --help | true"
    done = subprocess.run(["bash", "-c", script], capture_output=True, encoding="utf-8")
    assert done.stderr == ""


def test_it_runs_as_a_module_too() -> None:
    command = [sys.executable, "-m", "headrace.tools.cli", "--version"]
    run = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert run.returncode == 0
    assert run.stdout.startswith("headrace ")


# From a folder of pictures to a score


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of small pictures in two splits: bright discs and dark bars, noise on top."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.Generator(np.random.Philox(3))
    rows, columns = np.mgrid[:32, :32]
    shapes = {"disc": (rows - 16) ** 2 + (columns - 16) ** 2 < 80, "bar": abs(rows - 16) < 4}
    for split, count in (("train", 40), ("val", 10)):
        for name, shape in shapes.items():
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                noise = random.integers(0, 60, (32, 32, 3))
                image = np.where(shape[..., None], 255 - noise, noise).astype(np.uint8)
                Image.fromarray(image).save(folder / split / name / f"{i}.png")
    return folder


def test_from_pictures_to_a_report(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, val, run = tmp_path / "train", tmp_path / "val", tmp_path / "run"
    for split, shards, format in (("train", train, "webdataset"), ("val", val, "ffcv")):
        counts = json.loads(told(capsys, "shard", "folder", pictures / split, shards, "--format", format, "--json"))
        assert counts["samples"] == (80 if split == "train" else 20)
        assert "ok" in told(capsys, "verify", shards).lower()
    assert json.loads(told(capsys, "inspect", train, "--json"))["samples"] == 80

    picture = tmp_path / "views.png"
    told(capsys, "show", "views", train, "--method", "simclr", "--out", picture, "--samples", "2")
    with Image.open(picture) as image:
        assert min(image.size) > 200

    options = ["--data", train, "--out", run, "--epochs", "1", "--batch_size", "16"]
    trained = json.loads(told(capsys, "train", "simclr_digits", *options, "--json"))
    assert trained["steps"] == 5
    again = json.loads(told(capsys, "train", "simclr_digits", *options, "--json"))
    assert again["steps"] == 5, "a finished run has nothing left to do"

    table = json.loads(told(capsys, "eval", "knn", run, "--data", train, "--test", val, "--json"))["probes"]
    assert set(table) == {"input", "untrained", "trained"}
    assert all(0.0 <= scores["knn"] <= 1.0 for scores in table.values())
    assert table["input"]["knn"] == 1.0, "the two shapes differ in most pixels"
    told(capsys, "eval", "linear", run, "--data", train)

    page = Path(told(capsys, "report", run).strip())
    assert page == run / "report.html"
    assert f"{100 * table['trained']['knn']:.1f}%" in page.read_text(encoding="utf-8")


def test_bad_pictures_are_counted_and_bounded(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "pictures"
    shutil.copytree(pictures / "val", source)
    (source / "disc" / "bad.png").write_bytes(b"no picture")
    command = ["shard", "folder", source, tmp_path / "shards", "--workers", "2"]
    assert "1 samples were left out" in told(capsys, *command, "--seed", "1")
    reject = json.loads((tmp_path / "shards" / "rejects.jsonl").read_text(encoding="utf-8"))
    assert reject["source"].endswith("bad.png")
    assert json.loads((tmp_path / "shards" / "manifest.json").read_text(encoding="utf-8"))["provenance"]["seed"] == 1
    assert "rejects" in refused(capsys, *command, "--max-rejects", "0", code=1)


# Benchmarks, which run in processes of their own


def test_bench_collects_figures_and_stops_at_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[list[str]] = []

    def fake(command: list[str]) -> subprocess.CompletedProcess[str]:
        started.append(command)
        name = command[2].removeprefix("headrace.benchmarks.")
        Path(command[command.index("--json") + 1]).write_text(json.dumps({"is": name}), encoding="utf-8")
        return subprocess.CompletedProcess(command, 0 if name != broken else 1)

    monkeypatch.setattr(bench.subprocess, "run", fake)
    broken = ""
    told(capsys, "bench", "all", "--smoke", "--json", tmp_path / "all.json")
    assert json.loads((tmp_path / "all.json").read_text(encoding="utf-8")) == {
        name: {"is": name} for name in bench.BENCHMARKS
    }
    assert all(command[0] == sys.executable and command[-1] == "--smoke" for command in started)
    told(capsys, "bench", "step", "--json", tmp_path / "one.json", "--out", tmp_path / "results")
    assert started[-1][-2:] == ["--out", str(tmp_path / "results")]
    assert json.loads((tmp_path / "one.json").read_text(encoding="utf-8")) == {"is": "step"}
    started.clear()
    broken = bench.BENCHMARKS[0]
    assert main(["bench", "all"]) == cli.FAILED
    assert len(started) == 1


MODULES = """
import runpy, sys
for name in sys.argv[1:]:
    sys.argv = [name, "--help"]
    try:
        runpy.run_module(f"headrace.benchmarks.{name}", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        print("\\nEND", name, end.code)
"""


def test_every_benchmark_is_a_module() -> None:
    """Each as `python -m` runs it, in one process, since what they import takes longest."""
    names = list(bench.BENCHMARKS)
    done = subprocess.run([sys.executable, "-c", MODULES, *names], capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    texts = done.stdout.split("\nEND ")
    assert [text.splitlines()[0] for text in texts[1:]] == [f"{name} 0" for name in names]
    assert all("--json" in text for text in texts[:-1])
