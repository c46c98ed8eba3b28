"""TensorBoard, Weights & Biases and MLflow get what metrics.jsonl gets, offline, and go on where a run goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from headrace.shards import ShardSet
from headrace.train import read_metrics, trackers, train
from headrace.train.config import ConfigError
from headrace.train.metrics import NO_FIGURES, Record
from headrace.train.trackers import IDS, Behind, open_trackers
from tests.train.tiny_runs import tiny_run


class Crash(Exception):
    pass


def trained_in_two_parts(digits: ShardSet, out: Path, *settings: str) -> None:
    """A run that is cut off after its sixth step, and then goes on."""

    def crash(record: Record) -> None:
        if record["step"] == 6:
            raise Crash

    config = tiny_run(digits.path, out, "epochs=2", *settings)
    with pytest.raises(Crash):
        train(config, progress=False, on_step=crash)
    train(config, progress=False)


def figures_of(record: Record) -> dict[str, float]:
    return {name: value for name, value in record.items() if name not in NO_FIGURES}


def test_tensorboard_has_figures_and_pictures(digits_webdataset: ShardSet, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = tiny_run(digits_webdataset.path, tmp_path, "epochs=2", "probe.every=1", "log.tensorboard=true")
    train(config, progress=False)
    events = EventAccumulator(str(tmp_path / "tensorboard"), {"images": 0, "scalars": 0})
    events.Reload()
    records = read_metrics(tmp_path)
    assert [event.step for event in events.Scalars("loss")] == [record["step"] for record in records]
    np.testing.assert_allclose(
        [event.value for event in events.Scalars("loss")], [record["loss"] for record in records], rtol=1e-6
    )
    assert "memory_mb" in events.Tags()["scalars"]
    assert "step" not in events.Tags()["scalars"]


def test_pictures_reach_the_trackers(digits_webdataset: ShardSet, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from headrace.train.pictures import drawn_pictures
    from headrace.train.recipes import RECIPES

    config = RECIPES["mae_small"](data=str(digits_webdataset.path), out=str(tmp_path))
    config = config.with_overrides(["epochs=1", "batch_size=100", "probe.every=1", "probe.protocols=[]", "device=cpu"])
    train(config, progress=False)
    events = EventAccumulator(str(tmp_path / "tensorboard"), {"images": 0, "scalars": 0})
    events.Reload()
    drawn = drawn_pictures(tmp_path)
    assert set(drawn) == {0, 2}
    for name in drawn[2]:
        assert [event.step for event in events.Images(name)] == [0, 2]


def log_records(data: bytes) -> Iterator[bytes]:
    """The records of a .wandb file: LevelDB's log format behind a header of seven bytes, in blocks of 32 KiB."""
    position, whole = 7, b""
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:  # the rest of a block that no header fits in
            position += 32768 - position % 32768
            continue
        size, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        whole += data[position + 7 : position + 7 + size]
        position += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""


@pytest.mark.peer("wandb")
def test_weights_and_biases_offline(
    digits_webdataset: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    trained_in_two_parts(digits_webdataset, tmp_path / "run", "log.wandb=headrace-tests")
    logged: dict[int, dict[str, Any]] = {}
    names = set()
    for path in sorted((tmp_path / "run").glob("wandb/offline-run-*/run-*.wandb")):
        for data in log_records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            names |= {record.run.run_id} - {""}
            if record.history.item:
                pairs = ((item.key or ".".join(item.nested_key), item.value_json) for item in record.history.item)
                items = {name: json.loads(value) for name, value in pairs}
                logged.setdefault(int(items["_step"]), {}).update(items)
    assert names == {json.loads((tmp_path / "run" / IDS).read_text(encoding="utf-8"))["wandb"]}
    records = read_metrics(tmp_path / "run")
    assert set(logged) == {record["step"] for record in records}
    for record in records[6:]:
        assert logged[record["step"]].items() >= figures_of(record).items()


@pytest.mark.peer("mlflow")
def test_mlflow_offline(digits_webdataset: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # without a database, which mlflow-skinny has not
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    trained_in_two_parts(digits_webdataset, tmp_path / "run", "log.mlflow=tests")
    client = MlflowClient()
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    [run] = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.tags["ending"] == "finished"
    assert run.data.params["method"] == "simclr"
    losses = {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, "loss")}
    assert losses == {record["step"]: record["loss"] for record in read_metrics(tmp_path / "run")}


@pytest.mark.peer("mlflow")
def test_a_service_that_cannot_be_reached_costs_a_line(
    digits_webdataset: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    config = tiny_run(digits_webdataset.path, tmp_path, "epochs=2", "log.mlflow=tests", "log.tensorboard=true")
    result = train(config, progress=False)
    assert result.ending.why == "finished"
    assert result.step == 8
    assert len(read_metrics(tmp_path)) == 8
    told = [line for line in capsys.readouterr().err.splitlines() if "MLflow" in line]
    assert len(told) == 1
    assert told[0].startswith("MLflow failed, and the run goes on without it: ")
    assert list((tmp_path / "tensorboard").iterdir())


class Failing:
    """A service that fails from its third figure on."""

    name = "Failing"

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.closed = False

    def write(self, figures: dict[str, float], step: int) -> None:
        if len(self.taken) == 2:
            raise ConnectionError("gone away")
        self.taken.append(step)

    def draw(self, name: str, pixels: np.ndarray, step: int) -> None:
        raise AssertionError

    def end(self, why: str) -> None:
        self.taken.append(-1)

    def close(self) -> None:
        self.closed = True


def write_many(tracker: Behind, number: int, pause_s: float = 0.0) -> None:
    for step in range(number):
        tracker.write({"loss": 1.0}, step)
        time.sleep(pause_s)


def test_what_fails_behind_a_run_is_raised_by_a_later_call() -> None:
    service = Failing()
    behind = Behind("Failing", lambda: service)
    with pytest.raises(ConnectionError, match="gone away"):
        write_many(behind, 1000, pause_s=0.001)
    assert service.taken == [0, 1]
    whole = Failing()
    behind = Behind("Failing", lambda: whole)
    behind.write({"loss": 1.0}, 0)
    behind.end("finished")
    behind.close()
    assert whole.taken == [0, -1]
    assert whole.closed


def test_a_service_that_hangs_holds_up_neither_steps_nor_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    hanging = Event()

    def opened() -> Failing:
        hanging.wait()
        return Failing()

    behind = Behind("Hanging", opened)
    monkeypatch.setattr(trackers, "END_S", 0.05)
    monkeypatch.setattr(trackers, "WAITING", 5)
    try:
        with pytest.raises(TimeoutError, match="calls wait for it"):
            write_many(behind, 100)
        with pytest.raises(TimeoutError):
            behind.close()
    finally:
        hanging.set()


@pytest.mark.parametrize("package", ["wandb", "mlflow"])
def test_a_missing_package_is_named(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in [package, *(each for each in sys.modules if each.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=rf"log.{package}: needs {package}: pip install headrace\[{package}\]"):
        open_trackers(tmp_path, tiny_run("", "", f"log.{package}=tests"), 0)
