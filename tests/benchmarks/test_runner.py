"""The runner keeps its promises: order, clock, ratios, stopped idlers, equal work, clear failures, no litter."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import time
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import torch

from headrace.benchmarks.errors import BenchmarkError
from headrace.benchmarks.machine import group_usage
from headrace.benchmarks.runner import (
    Comparison,
    Contestant,
    Missing,
    Opened,
    Result,
    Round,
    Spread,
    _check_equal_work,
    _describe,
    _Rival,
    compare,
    measure,
)
from tests.benchmarks import fakes

ONE_CORE = [min(os.sched_getaffinity(0))] if hasattr(os, "sched_getaffinity") else [0]
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def run(*contestants: Contestant, rounds: int = 1, seconds: float = 0.05, **options: Any) -> Comparison:
    return compare(
        "fakes",
        "fake work",
        contestants,
        reference=contestants[0].name,
        rounds=rounds,
        seconds=seconds,
        cores=options.pop("cores", ONE_CORE),
        warm_up_s=0.01,
        **options,
    )


def sleeper(name: str, *, pause_s: float = 0.005, log: Path | None = None) -> Contestant:
    arguments = {"batch": 10, "pause_s": pause_s, "log": log, "name": name}
    return Contestant(name=name, batches=fakes.sleeper, arguments=arguments)


def alive(process: int) -> bool:
    """Whether it runs; one that nobody has reaped yet does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_rounds_are_interleaved_and_rates_are_those_of_the_contestants(tmp_path: Path) -> None:
    log = tmp_path / "log"
    names = ["a", "b", "c"]
    pauses = [0.010, 0.020, 0.005]
    found = run(
        *(sleeper(name, pause_s=pause, log=log) for name, pause in zip(names, pauses, strict=True)),
        rounds=3,
        seconds=0.2,
    )
    order = [name for name, _ in groupby(log.read_text(encoding="utf-8").split())]
    assert order == names * 4  # opening and warming up come in the same order as the three rounds
    for name, pause in zip(names, pauses, strict=True):
        rates = found.result(name).rates
        assert len(rates) == 3
        assert Spread.of(rates).high <= 10 / pause
        assert Spread.of(rates).median > 0.2 * 10 / pause
    assert all(0.5 < ratio < 8.0 for ratio in found.ratios("b"))


def test_progress_counts_every_opening_and_every_round() -> None:
    heard: list[tuple[str, int, int]] = []
    run(sleeper("a"), sleeper("b"), rounds=2, progress=lambda *step: heard.append(step))
    steps = ["opening a", "opening b", *[f"round {number} of 2, {name}" for number in (1, 2) for name in "ab"]]
    assert heard == [(f"fakes: {step}", number, 6) for number, step in enumerate(steps)]


def test_ratios_and_shares_pair_figures_of_the_same_round() -> None:
    def result(name: str, rates: list[float], limit: bool = False, foreign: float = 0.0) -> Result:
        opened = Opened(first_batch_s=0.0, batch="", mean=None, deviation=None)
        rounds = [Round(samples=int(rate), seconds=1.0, cores=1.0, foreign_cores=foreign) for rate in rates]
        return Result(name=name, limit=limit, note="", opened=opened, rounds=rounds)

    found = Comparison(
        name="x",
        title="x",
        reference="ours",
        unit="samples/s",
        results=[
            result("ours", [100, 200, 400]),
            result("peer", [50, 50, 400], foreign=0.25),
            result("top", [400, 400, 800], limit=True),
        ],
    )
    assert found.ratios("peer") == [2.0, 4.0, 1.0]
    assert Spread.of(found.ratios("peer")) == Spread(2.0, 1.0, 4.0)  # a ratio of the medians would be 4
    assert found.shares("ours") == [0.25, 0.5, 0.5]
    assert found.foreign_cores == 0.25


def test_the_clock_counts_whole_groups_and_leaves_the_first_one_out() -> None:
    taken = []

    def batches() -> Any:
        number = 0
        while True:
            number += 1
            taken.append(number)
            time.sleep(0.05 if number <= 3 else 0.001)
            yield range(number)

    samples, seconds = measure(batches(), seconds=0.01, group=3)
    assert len(taken) % 3 == 0
    assert samples == sum(taken[3:])
    assert 0.01 <= seconds < 0.05 * 3


@linux
def test_an_idle_contestant_does_not_slow_the_others() -> None:
    found = run(
        Contestant(name="quiet", batches=fakes.sleeper, arguments={"batch": 1, "pause_s": 0.01}),
        Contestant(name="burner", batches=fakes.burner, arguments={"threads": 2}),
        rounds=2,
        seconds=0.4,
    )
    assert min(each.cores for each in found.result("burner").rounds) > 0.3  # it does burn when it may
    assert max(each.cores for each in found.result("quiet").rounds) < 0.2


@linux
def test_a_stopped_contestant_uses_no_cpu() -> None:
    rival = _Rival(Contestant(name="burner", batches=fakes.burner, arguments={"threads": 2}), ONE_CORE, 1, 30.0)
    try:
        rival.wait()
        rival.open(0.01)
        time.sleep(0.05)  # a thread that runs hears of the signal at its next tick
        before = group_usage(rival._process.pid or 0).cpu_s
        time.sleep(0.3)
        assert group_usage(rival._process.pid or 0).cpu_s == before
        rival.run(0.1)
        assert group_usage(rival._process.pid or 0).cpu_s > before
    finally:
        rival.close()


@linux
def test_memory_and_cpu_of_child_processes_count(tmp_path: Path) -> None:
    found = run(Contestant(name="parent", batches=fakes.with_worker, arguments={"folder": tmp_path}))
    result = found.result("parent")
    assert result.peak_rss_mb > 2 * 64
    assert 64 < result.pss_mb < result.peak_rss_mb
    worker = int((tmp_path / "worker").read_text(encoding="utf-8").split()[0])
    deadline = time.monotonic() + 10.0
    while alive(worker) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(worker)


@linux
def test_each_contestant_gets_the_cores_and_the_threads_it_may_use(tmp_path: Path) -> None:
    before = os.environ.get("OMP_NUM_THREADS")
    one, two = tmp_path / "one", tmp_path / "two"
    run(
        Contestant(name="one", batches=fakes.surroundings, arguments={"file": one}),
        Contestant(name="two", batches=fakes.surroundings, arguments={"file": two}, compute_threads=5),
    )
    assert one.read_text(encoding="utf-8") == f"{ONE_CORE} 1"
    assert two.read_text(encoding="utf-8") == f"{ONE_CORE} 5"
    assert os.environ.get("OMP_NUM_THREADS") == before


def test_a_batch_is_described_by_its_views_and_values() -> None:
    views = torch.tensor([-0.5, 0.5]).repeat_interleave(96).reshape(1, 3, 8, 8)
    opened = _describe(fakes.Views(views, views, views.to(torch.uint8)), 1.5)
    assert opened.batch == "2 x float32 (1, 3, 8, 8) + 1 x uint8 (1, 3, 8, 8)"
    assert opened.first_batch_s == 1.5
    assert opened.mean == pytest.approx(0.0)
    assert opened.deviation == pytest.approx((2 / 3 * 0.25) ** 0.5)
    assert _describe(range(3), 1.5).batch == ""


def test_contestants_that_deliver_different_batches_are_refused() -> None:
    one, two = (
        Contestant(name=str(views), batches=fakes.viewer, arguments={"shape": (4, 3, 8, 8), "views": views})
        for views in (1, 2)
    )
    with pytest.raises(BenchmarkError, match=r"2: 2 x float32 \(4, 3, 8, 8\)"):
        run(one, two)


@pytest.mark.parametrize(
    ("after", "how", "said"),
    [
        (0, "raise", "bad failed while opening: ValueError: photograph 7 is no photograph"),
        (20, "raise", "bad failed while .*: ValueError: photograph 7 is no photograph"),
        (1, "end", "bad failed while warming up: BenchmarkError: it ran out of batches"),
        (1, "die", r"bad died while warming up \(exit code 3\): out of luck"),
        (1, "hang", "bad gave no answer within 2 s while"),
    ],
)
def test_a_contestant_that_fails_is_named_and_nothing_is_left(
    after: int, how: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    bad = Contestant(name="bad", batches=fakes.failing, arguments={"after": after, "how": how})
    with pytest.raises(BenchmarkError, match=said) as caught:
        run(sleeper("good"), bad, timeout_s=2.0 if how == "hang" else 30.0)
    assert "\n" not in str(caught.value)
    if how == "raise":
        assert "fakes.py" in str(caught.value.__cause__)  # the traceback of the contestant's own process
    assert not multiprocessing.active_children()
    assert not list(tmp_path.iterdir())


def test_a_missing_peer_is_a_remark_or_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = Contestant(
        name="absent", batches=fakes.sleeper, requires={"no_such_package.inside": "pip install no-such-package"}
    )
    monkeypatch.delenv("HEADRACE_REQUIRE_PEERS", raising=False)
    found = run(sleeper("ours"), absent)
    assert found.missing == [Missing("absent", "not installed: pip install no-such-package")]
    assert [result.name for result in found.results] == ["ours"]
    monkeypatch.setenv("HEADRACE_REQUIRE_PEERS", "1")
    with pytest.raises(BenchmarkError, match=r"absent cannot take part: not installed: pip install no-such-package"):
        run(sleeper("ours"), absent)


def test_nonsense_is_refused_before_anything_starts() -> None:
    with pytest.raises(ValueError, match="different names"):
        run(sleeper("a"), sleeper("a"))
    with pytest.raises(ValueError, match="reference"):
        compare("x", "x", [sleeper("a")], reference="b", rounds=1, seconds=1.0, cores=ONE_CORE)
    with pytest.raises(ValueError, match="must be positive"):
        run(sleeper("a"), rounds=0)


def opened(mean: float = 0.1, deviation: float = 1.2, pictures: int = 64, grey: int = 102, views: int = 512) -> Opened:
    return Opened(
        first_batch_s=1.0, batch="8 x", mean=mean, deviation=deviation, pictures=pictures, views=views, grey=grey
    )


def equal(other: Opened, limit: bool = False) -> None:
    ours = Result(name="ours", limit=False, note="", opened=opened())
    _check_equal_work("work", {"ours": ours, "peer": Result(name="peer", limit=limit, note="", opened=other)}, "ours")


@pytest.mark.parametrize(
    "other",
    [
        opened(),
        opened(mean=-0.2),  # other pictures
        opened(deviation=1.35),
        opened(grey=140),
        Opened(first_batch_s=1.0, batch="8 x", mean=None, deviation=None),
    ],
)
def test_other_draws_and_pictures_are_equal_work(other: Opened) -> None:
    equal(other)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (opened(mean=0.45, deviation=0.26), "peer delivers other views than ours: .* a deviation of 0.26, not 1.2"),
        (opened(mean=110.0, deviation=60.0), "their pixels have a mean of 110, not 0.1"),
        (opened(deviation=0.0), "a deviation of 0, not 1.2"),
        (opened(grey=0), "0 of 512 views have no colour, not 102 of 512"),
    ],
    ids=["not normalised", "levels", "black", "augmentation lost"],
)
def test_what_draws_do_not_explain_is_not_equal_work(other: Opened, message: str) -> None:
    with pytest.raises(BenchmarkError, match=message):
        equal(other)
    equal(other, limit=True)  # a bound is no competitor


def test_a_peer_that_lost_its_augmentation_is_refused() -> None:
    """Both crop; only one of them takes the colour of a fifth of its views away, and jitters the rest."""
    seen = {}
    for name, grey in (("augmented", 0.2), ("plain", 0.0), ("again", 0.2)):
        batch = next(fakes.photographs(64, 4, grey, seed=len(seen)))
        seen[name] = Result(name=name, limit=False, note="", opened=_describe(batch, 1.0))
    assert seen["plain"].opened.grey == 0
    assert 20 < seen["augmented"].opened.grey < 90
    _check_equal_work("work", {name: seen[name] for name in ("augmented", "again")}, "augmented")
    with pytest.raises(
        BenchmarkError, match="plain delivers other views than augmented: 0 of 256 views have no colour"
    ):
        _check_equal_work("work", seen, "augmented")
