"""Conversion on a Ray cluster of two nodes: the same bytes as on one machine, also where workers die on the way."""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace.shards import ShardSet
from headrace.tools.conversion import units, workers
from headrace.tools.conversion.convert import convert
from headrace.tools.conversion.depot import Depot
from headrace.tools.conversion.units import Job, UnitRecord
from headrace.tools.errors import UserError
from headrace.tools.upkeep.verify import verify

SHARD_SIZE = 1 << 20


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes with one core each, in this machine, whose processes are as urgent as others: Ray's own choice starves
    beside another process of tests."""
    import ray
    from ray.cluster_utils import Cluster

    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        found.add_node(num_cpus=1)
        ray.init(address=found.address, log_to_driver=False, logging_level=logging.ERROR)
        yield found
        ray.shutdown()
    finally:
        found.shutdown()


@pytest.fixture(scope="module")
def pictures(photos: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    for i in range(90):
        (root / f"{i:03d}.jpg").write_bytes(photos.read(i % len(photos))["image"])
    (root / "bad.jpg").write_bytes(b"not a picture")
    return root


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.peer("ray")
def test_the_bytes_are_those_of_one_machine(
    cluster: Any, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaths = tmp_path / "deaths"
    deaths.mkdir()

    def dying_once(job: Job, depot: Depot, unit: int, *_: object) -> UnitRecord:
        """Convert a unit; every third one kills its worker the first time, in the middle."""

        def count(samples: int) -> None:
            death = deaths / str(unit)
            if unit % 3 == 0 and not death.exists():
                death.touch()
                os.kill(os.getpid(), signal.SIGKILL)

        return workers.work(job, depot, unit, 1, count)

    convert("folder", pictures, tmp_path / "local", shard_size=SHARD_SIZE, workers=2)
    monkeypatch.setattr(workers, "_work_on_ray", dying_once)
    result = convert("folder", pictures, tmp_path / "ray", shard_size=SHARD_SIZE, workers=2, engine="ray")
    assert len(list(deaths.iterdir())) >= 2
    assert (result.samples, result.rejects) == (90, 1)
    assert content(tmp_path / "ray") == content(tmp_path / "local")
    assert len(list((tmp_path / "ray").glob("*.tar"))) > 5
    assert verify(tmp_path / "ray").ok
    assert not list(tmp_path.glob(".*"))


def dying_at(sample: int | None) -> Callable[..., UnitRecord | Exception]:
    """What kills its worker at a sample, or when all samples of the second unit are read."""

    def deadly(job: Job, depot: Depot, unit: int, skip: Any, notes: Any) -> UnitRecord | Exception:
        load, convert_unit = units.load, workers.convert_unit

        def load_or_die(data: Any, i: int, settings: Any) -> units.Sample:
            if i == sample:
                os.kill(os.getpid(), signal.SIGKILL)
            return load(data, i, settings)

        def convert_or_die(job: Job, unit: int, *rest: Any) -> UnitRecord:
            record = convert_unit(job, unit, *rest)
            if sample is None and unit == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return record

        units.load, workers.convert_unit = load_or_die, convert_or_die  # type: ignore[assignment]
        try:
            return work_on_ray(job, depot, unit, skip, notes)
        finally:
            units.load, workers.convert_unit = load, convert_unit

    work_on_ray = workers._work_on_ray
    return deadly


@pytest.mark.peer("ray")
def test_a_sample_of_which_workers_die_is_left_out(
    cluster: Any, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_work_on_ray", dying_at(33))
    result = convert("folder", pictures, tmp_path / "set", shard_size=SHARD_SIZE, workers=2, engine="ray")
    assert (result.samples, result.rejects) == (89, 2)
    rejects = map(json.loads, (tmp_path / "set" / "rejects.jsonl").read_text(encoding="utf-8").splitlines())
    reasons = {reject["key"]: reject["reason"] for reject in rejects}
    assert reasons["033"] == "the process that read it died (WorkerCrashedError), twice"


@pytest.mark.peer("ray")
def test_deaths_that_no_sample_explains_end_it(
    cluster: Any, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(workers, "_work_on_ray", dying_at(None))
        with pytest.raises(UserError, match=r"3 worker processes died, one after the other, at unit 1 of"):
            convert("folder", pictures, tmp_path / "set", shard_size=SHARD_SIZE, workers=2, engine="ray")


@pytest.mark.peer("ray")
def test_an_error_on_a_node_is_one_line(
    cluster: Any, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> Exception:
        return UserError("has headrace 9.9")

    monkeypatch.setattr(workers, "_work_on_ray", failing)
    with pytest.raises(UserError) as caught:
        convert("folder", pictures, tmp_path / "set", shard_size=SHARD_SIZE, workers=2, engine="ray")
    assert str(caught.value) == "has headrace 9.9"


def test_without_ray_the_message_says_what_to_install(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install headrace\[ray\]"):
        convert("folder", pictures, tmp_path / "set", engine="ray")
