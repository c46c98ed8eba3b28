"""The benchmark of methods goes on where it was stopped, and says what it leaves out; nothing is trained here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headrace.benchmarks import methods
from headrace.benchmarks.errors import SourceMissing
from headrace.benchmarks.learning.speed import Speed
from headrace.benchmarks.learning.table import Row
from headrace.benchmarks.methods import PARTS, Asked, Bench, measure
from headrace.train import RunConfig

ASKED = Asked(
    methods=("simclr", "mae"), sets=None, parts=PARTS, seeds=range(2), epochs=None, keep_older=False, smoke=True
)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was trained, in order. Scores are those of the seed."""
    done: list[str] = []

    def trains(side: str) -> Any:
        def train(config: RunConfig, data: Path) -> dict[str, float]:
            done.append(f"{config.method} {config.seed} {side}")
            return {"knn": 0.5 + config.seed / 10, "linear": 0.75}

        return train

    def speed(config: RunConfig, samples: int, out: Path, *, peer: bool, rounds: int, **given: Any) -> Speed:
        done.append(f"{config.method} speed")
        return Speed(method=config.method, ours=[100.0], peer=[50.0] if peer else [], foreign_cores=0.0, **given)

    monkeypatch.setattr(methods, "train_ours", trains("ours"))
    monkeypatch.setattr(methods, "train_peer", trains("peer"))
    monkeypatch.setattr(methods, "probe_untrained", lambda config, data: {"knn": 0.25, "linear": 0.25})
    monkeypatch.setattr(methods, "measure_speed", speed)
    monkeypatch.setattr(methods, "has_peer", lambda name: name == "simclr")
    return done


def run(asked: Asked, folder: Path, records: Path, source: str = "c0ffee") -> tuple[Bench, list[list[Row]]]:
    """The bench, and the rows as they were written again and again."""
    bench = Bench(asked=asked, folder=folder, records=records, source=source, progress=lambda what: None)
    written: list[list[Row]] = []
    measure(bench, written.append)
    return bench, written


WHOLE = ["simclr 0 ours", "simclr 0 peer", "simclr 1 ours", "simclr 1 peer", "mae 0 ours", "mae 1 ours"]


def test_all_seeds_of_a_method_and_its_peer_make_rows(trained: list[str], tmp_path: Path) -> None:
    _, written = run(ASKED, tmp_path / "a", tmp_path)
    assert trained == [*WHOLE, "simclr speed", "mae speed"]
    assert [len(rows) for rows in written] == [0, 2, 4, 4, 4]
    simclr, _, mae, _ = written[-1]
    assert (simclr.score, simclr.peer, simclr.samples_per_s, simclr.peer_samples_per_s) == (0.55, 0.55, 100.0, 50.0)
    assert (mae.method, mae.probe, mae.peer, mae.seeds, mae.peer_samples_per_s) == ("mae", "knn", None, [0, 1], None)
    assert written[2][0].samples_per_s is None  # the scores come first


def test_what_was_measured_is_not_measured_again(trained: list[str], tmp_path: Path) -> None:
    scores = replace(ASKED, parts=("scores",))
    _, written = run(scores, tmp_path / "a", tmp_path)
    assert trained == WHOLE
    _, again = run(scores, tmp_path / "b", tmp_path)
    assert trained == WHOLE
    assert again[-1] == written[-1]
    _, both = run(replace(ASKED, parts=("speed",)), tmp_path / "c", tmp_path)
    assert trained == [*WHOLE, "simclr speed", "mae speed"]
    assert [each.score for each in both[-1]] == [each.score for each in written[-1]]
    run(replace(scores, epochs=2), tmp_path / "d", tmp_path)
    assert trained[len(WHOLE) + 2 :] == WHOLE  # other settings, other trainings


def test_without_a_part_the_table_is_of_what_there_is(trained: list[str], tmp_path: Path) -> None:
    run(replace(ASKED, parts=("scores",), methods=("mae",), seeds=range(1)), tmp_path / "a", tmp_path)
    assert trained == ["mae 0 ours"]
    _, written = run(replace(ASKED, parts=()), tmp_path / "b", tmp_path)
    assert trained == ["mae 0 ours"]
    assert [(each.method, each.seeds) for each in written[-1]] == [("mae", [0])] * 2


def test_a_killed_run_goes_on(trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = methods.train_ours

    def killed(config: RunConfig, data: Path) -> dict[str, float]:
        if (config.method, config.seed) == ("mae", 1):
            raise KeyboardInterrupt
        return ours(config, data)

    monkeypatch.setattr(methods, "train_ours", killed)
    with pytest.raises(KeyboardInterrupt):
        run(ASKED, tmp_path / "a", tmp_path)
    monkeypatch.setattr(methods, "train_ours", ours)
    _, written = run(ASKED, tmp_path / "b", tmp_path)
    assert trained == [*WHOLE, "simclr speed", "mae speed"]
    assert [len(rows) for rows in written] == [4, 4, 4, 4, 4]
    assert [each.seeds for rows in (written[0], written[-1]) for each in rows] == [[0, 1]] * 2 + [[0]] * 2 + [
        [0, 1]
    ] * 4


def test_other_sources_are_shown_until_they_are_measured_anew(
    trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = replace(ASKED, parts=("scores",), methods=("mae",))
    whole = ["mae 0 ours", "mae 1 ours"]
    run(scores, tmp_path / "a", tmp_path)
    monkeypatch.setattr(methods, "sources_digest", lambda: "other")
    for kept in (replace(scores, parts=()), replace(scores, keep_older=True)):
        _, written = run(kept, tmp_path / "b", tmp_path, source="decade")
        assert trained == whole
        assert written[-1][0].commits == ["c0ffee"]
    _, written = run(scores, tmp_path / "c", tmp_path, source="decade")
    assert trained == whole * 2
    assert written[-1][0].commits == ["decade"]
    run(replace(scores, keep_older=True, seeds=range(3)), tmp_path / "d", tmp_path)
    assert trained == [*whole * 2, "mae 2 ours"]


def test_what_cannot_be_had_or_suits_nothing_is_said(
    trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(folder: Path, smoke: bool) -> None:
        raise SourceMissing("there is no npm on this machine")

    known = methods.SETS["digits"]
    other = replace(known, write=absent)
    monkeypatch.setattr(methods, "SETS", {"emoji": other, "digits": known})
    bench, written = run(replace(ASKED, sets=("digits", "emoji")), tmp_path / "a", tmp_path)
    assert bench.missing == {"emoji": "there is no npm on this machine"}
    assert {each.data for each in written[-1]} == {"digits"}
    monkeypatch.setattr(methods, "SETS", {"digits": replace(known, suits=lambda method: False)})
    bench, written = run(ASKED, tmp_path / "b", tmp_path)
    assert bench.missing == {"simclr": "no set suits it", "mae": "no set suits it"}
    assert written == [[]]


def test_a_method_is_trained_on_the_first_set_that_suits_it_or_on_those_that_are_asked_for(
    trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits = methods.SETS["digits"]
    texts = replace(digits, suits=lambda method: False)
    monkeypatch.setattr(methods, "SETS", {"texts": texts, "digits": digits, "more": digits})
    bench, _ = run(ASKED, tmp_path / "a", tmp_path)
    assert bench.pairs() == [("digits", "simclr"), ("digits", "mae")]
    bench, _ = run(replace(ASKED, methods=("mae",), sets=("more", "digits", "texts")), tmp_path / "b", tmp_path)
    assert bench.pairs() == [("digits", "mae"), ("more", "mae")]
    assert trained.count("mae 0 ours") == 2  # on the digits they were there


def test_settings_are_tried_and_nothing_is_kept(
    trained: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tried(config: RunConfig, data: Path) -> tuple[dict[str, float], dict[str, float]]:
        return {"knn": 0.25, "linear": 0.5}, {"knn": config.optim.lr, "linear": 0.75}

    monkeypatch.setattr(methods, "try_settings", tried)
    bench = Bench(asked=ASKED, folder=tmp_path / "a", records=tmp_path, source="c0ffee", progress=lambda what: None)
    bench.write_sets()
    found = list(bench.choices(["optim.lr=0.625"]))
    line = "k-NN 62.5 (untrained 25.0), linear 75.0 (untrained 50.0)"
    assert found == [f"digits, {name}, seed {seed}: {line}" for name in ASKED.methods for seed in (0, 1)]
    assert trained == []
    assert not list(tmp_path.glob("*.jsonl"))
