"""What `headrace runs` and `headrace compare` say of runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from headrace.shards import ShardSet
from headrace.tools.cli import main
from headrace.tools.comparison import compare, short_names
from headrace.tools.errors import UserError
from headrace.tools.evaluation.evaluate import evaluate
from headrace.tools.runs import TAIL, in_words, last_record, runs_in, state_of
from headrace.train import RunConfig, read_metrics, train
from headrace.train.distributed import World
from headrace.train.lock import one_writer
from tests.browser import require_readable
from tests.train.tiny_runs import tiny_run


@pytest.fixture(scope="module")
def runs(digits_webdataset: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs that differ in their seeds, the first with scores, the second in a folder below."""
    folder = tmp_path_factory.mktemp("experiments")
    train(tiny_run(digits_webdataset.path, folder / "a", "epochs=2"), progress=False)
    evaluate(folder / "a", digits_webdataset.path)
    watched = ("seed=1", "epochs=2", "probe.every=1", "probe.protocols=[knn]")
    train(tiny_run(digits_webdataset.path, folder / "group" / "b", *watched), progress=False)
    return folder


def listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["runs", str(folder), "--json"]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def test_runs_are_found_wherever_they_are(runs: Path) -> None:
    assert list(runs_in(runs)) == [runs / "a", runs / "group" / "b"]
    assert list(runs_in(runs / "a")) == [runs / "a"]
    os.symlink(runs, runs / "group" / "again", target_is_directory=True)
    try:
        assert list(runs_in(runs)) == [runs / "a", runs / "group" / "b"], "no circles"
    finally:
        (runs / "group" / "again").unlink()


def test_a_list_says_state_progress_and_scores(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = listed(runs, capsys)
    assert [first["run"], second["run"]] == [str(runs / "a"), str(runs / "group" / "b")]
    for found, name in ((first, "a"), (second, "group/b")):
        assert (found["state"], found["step"], found["total_steps"], found["method"]) == ("finished", 8, 8, "simclr")
        assert found["last"] == read_metrics(runs / name)[-1]
        assert found["left_s"] is None
        assert found["idle_s"] >= 0
    results = json.loads((runs / "a" / "results.json").read_text(encoding="utf-8"))
    assert first["scores"] == results["probes"]["trained"]
    assert first["best"] == {}
    scores = [record["knn"] for record in read_metrics(runs / "group" / "b") if "knn" in record]
    assert len(scores) == 2
    assert second["best"] == {"knn": max(scores)}
    assert second["scores"] == {}
    assert main(["runs", str(runs)]) == 0
    shown = capsys.readouterr().out
    assert "8 of 8" in shown
    assert "finished" in shown


@pytest.mark.parametrize("ending", ["running", "killed", "killed without a trace", "error", "elsewhere"])
def test_a_run_that_has_not_finished(runs: Path, tmp_path: Path, ending: str) -> None:
    out = tmp_path / "run"
    out.mkdir()
    for name in ("config.yaml", "metrics.jsonl"):
        lines = (runs / "a" / name).read_text(encoding="utf-8").splitlines(keepends=True)
        (out / name).write_text("".join(lines if name == "config.yaml" else lines[:3]), encoding="utf-8")
    changed = (out / "metrics.jsonl").stat().st_mtime
    if ending == "running":
        with one_writer(out, World(0, 1, torch_cpu()), print):
            state = state_of(out, changed + 7)
        assert state.state == "running"
        assert str(os.getpid()) in state.line
        assert state.left_s == pytest.approx(5 * state.batch_size / state.last["samples_per_s"])
    elif ending == "elsewhere":
        record = {"host": "another", "pid": 1, "since": "2026-01-01T00:00:00+00:00", "began": None}
        (out / "run.lock").write_text(json.dumps(record), encoding="utf-8")
        state = state_of(out, changed + 7)
        assert state.state == "running"
        assert "on another" in state.line
    elif ending == "killed":
        code = (
            "import os, sys; from pathlib import Path; from headrace.train.lock import Holder, _record\n"
            "Path(sys.argv[1]).write_bytes(_record(Holder.this_process()))"
        )
        subprocess.run([sys.executable, "-c", code, str(out / "run.lock")], check=True)
        state = state_of(out, changed + 7)
        assert state.state == "killed"
        assert "is gone" in state.line
    elif ending == "error":
        (out / "ended.json").write_text('{"why": "error", "line": "the disk is full", "step": 3}', encoding="utf-8")
        state = state_of(out, changed + 7)
        assert (state.state, state.line) == ("error", "the disk is full")
    else:
        state = state_of(out, changed + 7)
        assert state.state == "killed"
    assert (state.step, state.total_steps) == (3, 8)
    assert state.idle_s == pytest.approx(7)


def torch_cpu() -> Any:
    import torch

    return torch.device("cpu")


def test_the_last_line_of_a_long_run_is_read_from_its_end(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert last_record(path) == {}
    lines = [json.dumps({"step": step, "loss": 0.5}) for step in range(20_000)]
    path.write_text("\n".join(lines) + "\n" + '{"step": 20000, "lo', encoding="utf-8")
    assert path.stat().st_size > 2 * TAIL
    assert last_record(path) == {"step": 19_999, "loss": 0.5}


def test_a_damaged_run_is_named_and_the_others_are_listed(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").mkdir()
    os.symlink(runs / "a", tmp_path / "link")
    (tmp_path / "runs" / "bad").mkdir()
    (tmp_path / "runs" / "bad" / "config.yaml").write_text("method: [", encoding="utf-8")
    good = tmp_path / "runs" / "good"
    good.mkdir()
    (good / "config.yaml").write_bytes((runs / "a" / "config.yaml").read_bytes())
    assert main(["runs", str(tmp_path / "runs"), "--json"]) == 1
    told = capsys.readouterr()
    assert [found["run"] for found in json.loads(told.out)] == [str(good)]
    assert str(tmp_path / "runs" / "bad" / "config.yaml") in told.err
    assert len(told.err.splitlines()) == 1
    assert main(["runs", str(tmp_path / "nothing")]) == 2
    (tmp_path / "empty").mkdir()
    assert main(["runs", str(tmp_path / "empty")]) == 0


def test_runs_side_by_side(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "pages" / "compared.html"
    both = [str(runs / "a"), str(runs / "group" / "b")]
    assert main(["compare", *both, "--json", "--out", str(page)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["runs"]) == ["a", "group/b"]
    assert found["differences"] == {
        "seed": {"a": 0, "group/b": 1},
        "probe.every": {"a": 0, "group/b": 1},
    }
    results = json.loads((runs / "a" / "results.json").read_text(encoding="utf-8"))
    for name in ("knn", "linear"):
        full = results["protocols"][name]
        assert found["scores"][name]["a"].items() >= full["encoders"]["trained"]["metrics"]["accuracy"].items()
    assert main(["compare", *both]) == 0
    shown = capsys.readouterr().out
    assert "seed" in shown
    assert "group/b" in shown
    require_readable(page, tmp_path, width=390, dark=True)
    text = page.read_text(encoding="utf-8")
    assert text.count('class="chart"') >= 4
    assert text.count("polyline") >= 2 * 4


def test_scores_of_other_settings_or_sets_are_not_comparable(runs: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for file in ("config.yaml", "metrics.jsonl", "results.json"):
            (tmp_path / name / file).write_bytes((runs / "a" / file).read_bytes())
    folders = [tmp_path / "one", tmp_path / "two"]
    assert not compare(folders).warnings
    assert not compare(folders).differences
    results = json.loads((runs / "a" / "results.json").read_text(encoding="utf-8"))
    results["protocols"]["knn"]["settings"] = {**results["protocols"]["knn"]["settings"], "k": 5}
    results["test"] = "elsewhere"
    (tmp_path / "two" / "results.json").write_text(json.dumps(results), encoding="utf-8")
    warnings = compare(folders).warnings
    assert [("settings" in line, "score on" in line) for line in warnings] == [
        (True, False),
        (False, True),
        (False, True),
    ]


def test_a_setting_that_only_one_run_has(runs: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    config = RunConfig.load(runs / "a" / "config.yaml")
    config.save(tmp_path / "one" / "config.yaml")
    RunConfig(method="mae", data=config.data, out=config.out).save(tmp_path / "two" / "config.yaml")
    compared = compare([tmp_path / "one", tmp_path / "two"])
    assert compared.differences["method"] == {"one": "simclr", "two": "mae"}
    assert compared.differences["model.mask_ratio"] == {"two": 0.75}
    assert "out" not in compared.differences
    row = next(row for row in compared.rows_of_settings() if row[0] == "model.mask_ratio")
    assert row[1:] == ["-", "0.75"]


def test_what_cannot_be_compared(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least two"):
        compare([runs / "a", runs / "group" / ".." / "a"])
    with pytest.raises(UserError, match="no run in it"):
        compare([runs / "a", tmp_path])
    assert yaml.safe_load((runs / "a" / "config.yaml").read_text(encoding="utf-8"))["seed"] == 0


def test_names_tell_runs_apart() -> None:
    assert list(short_names([Path("/x/a/run"), Path("/x/b/run")])) == ["a/run", "b/run"]
    assert list(short_names([Path("/x/a"), Path("/x/b")])) == ["a", "b"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(None, ""), (40, "40 s"), (720, "12 min"), (3.5 * 3600, "3.5 h"), (2.1 * 86400, "2.1 d")],
)
def test_times_in_words(seconds: float | None, words: str) -> None:
    assert in_words(seconds) == words
