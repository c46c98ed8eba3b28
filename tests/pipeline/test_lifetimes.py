"""A loader that is left at work, however that happens, ends its process as Python says and not by a signal."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.shards import ShardSet, write_shards
from tests.pipeline.lifetimes import FEWER, FORMS

EXPECTED = {
    "broken off": (0, ""),
    "an error": (1, "RuntimeError: my own"),
    "interrupted": (-signal.SIGINT, "KeyboardInterrupt"),
    "ended": (0, ""),
    "closed before": (1, "ClosedError: {path}: the set is closed"),
    "a bad sample": (1, "cannot decode the image: "),
}


@pytest.fixture(scope="module", params=["webdataset", "ffcv"])
def paths(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A set, and one with damaged samples."""
    whole: ShardSet = request.getfixturevalue({"webdataset": "photos", "ffcv": "photos_ffcv"}[request.param])
    samples = [whole.read(i) for i in range(len(whole))]
    for i in (5, 6, 7, 20, 30):
        samples[i]["image"] = samples[i]["image"][:5000]
    bad = tmp_path_factory.mktemp("bad") / "set"
    write_shards(bad, samples, whole.fields, format=request.param, shard_size=1 << 20)
    return [str(whole.path), str(bad)]


def check(paths: list[str], *engines: str) -> None:
    command = [sys.executable, "-m", "tests.pipeline.lifetimes", *paths, *engines]
    ended = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", timeout=280, cwd=Path(__file__).parents[2]
    )
    found = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [(each["engine"], each["form"]) for each in found] == [
        (engine, form) for engine in engines for form in FEWER.get(engine, FORMS)
    ]
    for each in found:
        status, error = EXPECTED[each["form"]]
        last = (each["error"].strip().splitlines() or [""])[-1]
        assert each["status"] == status, each
        assert error.format(path=paths[0]) in last, each
        assert bool(error) == bool(last), each
        if each["form"] in ("an error", "interrupted"):  # the user's own line
            assert 'lifetimes.py"' in each["error"], each
    assert ended.returncode == 0, ended.stderr


@pytest.mark.timeout(600)
@pytest.mark.parametrize("paths", ["webdataset"], indirect=True)
def test_a_loader_that_is_left_at_work(paths: list[str]) -> None:
    check(paths, "native", "torchvision")


@pytest.mark.timeout(600)
@pytest.mark.peer("dali", "kornia")
@pytest.mark.parametrize("paths", ["webdataset"], indirect=True)
def test_one_with_libraries_that_have_threads(paths: list[str]) -> None:
    check(paths, "dali", "kornia", "dali+kornia")


@pytest.mark.timeout(600)
@pytest.mark.peer("ffcv")
@pytest.mark.parametrize("paths", ["ffcv"], indirect=True)
def test_one_with_a_process(paths: list[str]) -> None:
    check(paths, "ffcv")
