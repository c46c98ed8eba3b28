"""The demo: both formats, one encoder; what is printed, written, used again and refused."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from headrace.shards import open_shards
from headrace.tools.cli import FAILED, INTERRUPTED, USAGE, main
from headrace.tools.demo import FORMATS, demo
from headrace.train import read_metrics

pytestmark = pytest.mark.peer("mlxtend")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A demo of one epoch from each format."""
    out = tmp_path_factory.mktemp("demo") / "out"
    return out, demo(out, formats=FORMATS, epochs=1)


def test_results_have_the_promised_form(made: tuple[Path, dict[str, Any]]) -> None:
    out, results = made
    assert json.loads((out / "results.json").read_text(encoding="utf-8")) == results
    assert set(results) == {"probes", "seconds", "samples_per_s", "data_wait", "formats"}
    assert set(results["formats"]) == set(FORMATS)
    for part in (results, *results["formats"].values()):
        assert set(part["probes"]) == {"input", "untrained", "trained"}
        for scores in part["probes"].values():
            assert set(scores) == {"knn", "linear"}
            assert all(0.5 < accuracy <= 1.0 for accuracy in scores.values())
        assert part["seconds"] > 0
        assert part["samples_per_s"] > 0
        assert 0.0 <= part["data_wait"] <= 1.0
    assert results["seconds"] >= sum(part["seconds"] for part in results["formats"].values()) - 0.2


def test_raw_pixels_score_as_known(made: tuple[Path, dict[str, Any]]) -> None:
    """92.9 % for five neighbours and 88.8 % for plain logistic regression are known of this split."""
    _, results = made
    assert results["probes"]["input"]["knn"] == pytest.approx(0.93, abs=0.02)
    assert results["probes"]["input"]["linear"] == pytest.approx(0.90, abs=0.03)


def test_both_formats_hold_the_same_digits_and_train_alike(made: tuple[Path, dict[str, Any]]) -> None:
    out, results = made
    for split, count in (("train", 4000), ("test", 1000)):
        tars, beton = (open_shards(out / "shards" / format / split) for format in FORMATS)
        with tars, beton:
            assert len(tars) == len(beton) == count
            assert (tars.ints() == beton.ints()).all()
            assert all((tars.read(i)["image"] == beton.read(i)["image"]).all() for i in range(0, count, 97))
    first, second = (results["formats"][format]["probes"] for format in FORMATS)
    assert first["input"] == second["input"]
    assert first["untrained"] == second["untrained"]
    losses = [[record["loss"] for record in read_metrics(out / format)] for format in FORMATS]
    assert losses[0] == pytest.approx(losses[1], rel=0.05), "the same plan on the same pixels"


def test_the_report_draws_both_runs(made: tuple[Path, dict[str, Any]]) -> None:
    out, results = made
    page = (out / "report.html").read_text(encoding="utf-8")
    for format in FORMATS:
        trained = results["formats"][format]["probes"]["trained"]["knn"]
        assert f"trained encoder, {format}</th>" in page
        assert f"<b>{100 * trained:.1f}%</b>" in page


def test_a_finished_demo_keeps_its_shards_and_trains_anew(made: tuple[Path, dict[str, Any]]) -> None:
    out, results = made
    manifest, checkpoint = (
        out / "shards" / "ffcv" / "train" / "manifest.json",
        max((out / "ffcv" / "checkpoints").iterdir()),
    )
    before = manifest.stat().st_mtime_ns, checkpoint.stat().st_mtime_ns
    again = demo(out, formats=("ffcv",), epochs=1)
    assert manifest.stat().st_mtime_ns == before[0]
    assert checkpoint.stat().st_mtime_ns > before[1]
    assert "formats" not in again
    assert again["probes"]["untrained"] == results["probes"]["untrained"]


def run_demo(out: Path, *options: str) -> subprocess.Popen[str]:
    code = "import sys; from headrace.tools.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "demo", "--format", "webdataset", "--out", str(out), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")


def test_an_interrupted_demo_goes_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    process = run_demo(out, "--epochs", "2")
    metrics = out / "webdataset" / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED, errors
    assert errors.splitlines()[-1] == "headrace demo: interrupted"
    assert "Traceback" not in errors
    assert not (out / "results.json").exists()
    stopped = read_metrics(out / "webdataset")

    # A damaged shard is written again, and the training goes on where it stopped.
    shard = next((out / "shards" / "webdataset" / "test").glob("*.tar"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 0xFF
    shard.write_bytes(content)
    assert main(["demo", "--format", "webdataset", "--out", str(out), "--epochs", "2", "--json"]) == 0
    printed = capfd.readouterr()
    results = json.loads(printed.out)
    assert set(results) == {"probes", "seconds", "samples_per_s", "data_wait"}
    assert "resume" in printed.err
    assert read_metrics(out / "webdataset")[: len(stopped)] == stopped
    with open_shards(out / "shards" / "webdataset" / "test") as shards:
        assert len(shards) == 1000


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").write_text("years of work", encoding="utf-8")
    assert main(["demo", "--out", str(tmp_path)]) == FAILED
    assert "holds something else" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_bad_number_of_epochs_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--out", str(tmp_path / "out"), "--epochs", "0"]) == USAGE
    assert "epochs" in capsys.readouterr().err.splitlines()[-1]
