"""The table: means and spreads over the seeds, empty cells, what is said of absent sets and busy machines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from headrace.benchmarks.learning import table
from headrace.benchmarks.learning.records import INPUT, OURS, PEER, Trial
from headrace.benchmarks.learning.speed import Speed
from headrace.benchmarks.learning.table import MethodsReport, as_markdown, row, save
from headrace.benchmarks.machine import machine


def trial(method: str, side: str, seed: int, score: float, *, data: str = "digits") -> Trial:
    untrained = {"knn": 0.25, "linear": 0.3} if side == OURS else None
    return Trial(
        digest=f"{method}{side}{seed}",
        sources="5678",
        commit="c0ffee",
        data=data,
        method=method,
        side=side,
        seed=seed,
        scores={"knn": score, "linear": score},
        untrained=untrained,
    )


RATES = {"ours": [900.0, 1000.0, 1200.0], "peer": [500.0, 600.0, 700.0]}
SPEED = Speed(digest="s", sources="5678", commit="c0ffee", data="digits", method="simclr", foreign_cores=0.0, **RATES)
GIVEN = trial("", INPUT, 0, 0.5)
SIDES = ((OURS, 0.9), (PEER, 0.8))
TWO = [[trial("simclr", side, seed, score + 0.06 * seed) for seed in (0, 1)] for side, score in SIDES]
BOTH = row("knn", GIVEN, *TWO, SPEED)
ALONE = row("linear", GIVEN, [trial("mae", OURS, 0, 0.75)], [], None)
REPORT = MethodsReport(
    date="2026-01-02T03:04:05+00:00",
    commit="c0ffee",
    machine=machine([0]),
    versions={"headrace": "1"},
    settings={"smoke": False},
    rows=[BOTH, ALONE],
    missing={"stamps": "there is no apt-get"},
)


def test_a_row_holds_means_over_the_seeds_and_medians_over_the_rounds() -> None:
    assert BOTH.score == pytest.approx(0.93)
    assert BOTH.peer == pytest.approx(0.83)
    assert (BOTH.untrained, BOTH.input, BOTH.seeds) == (0.25, 0.5, [0, 1])
    assert (BOTH.samples_per_s, BOTH.peer_samples_per_s) == (1000.0, 600.0)
    assert (ALONE.peer, ALONE.peer_scores, ALONE.samples_per_s, ALONE.peer_samples_per_s) == (None,) * 4


def test_the_table_shows_spreads_and_leaves_empty_what_there_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "UNLEARNT", {"capi": "nobody knows why"})
    lines = as_markdown(REPORT).splitlines()
    both = (
        "| simclr | 2 | 93.0 (90.0 to 96.0) | 25.0 (25.0 to 25.0) | 50.0 | 83.0 (80.0 to 86.0) | 1,000 | 600 | c0ffee |"
    )
    assert both in lines
    assert "| mae | 1 | 75.0 | 30.0 | 50.0 |  |  |  | c0ffee |" in lines
    assert [line for line in lines if line.startswith("## ")] == [
        "## Digits, k-NN",
        "## Digits, linear",
        "## Not measured",
        "## Not shown to learn",
    ]
    assert "- capi: nobody knows why" in lines
    monkeypatch.setattr(table, "UNLEARNT", {})
    assert "learn" not in as_markdown(REPORT).rpartition("## ")[2]
    assert "- stamps: there is no apt-get" in lines
    assert "do not quote" not in as_markdown(REPORT)


def test_it_says_when_figures_are_not_to_be_quoted() -> None:
    busy = replace(BOTH, speeds=replace(SPEED, foreign_cores=0.9))
    assert "do not quote samples a second" in as_markdown(replace(REPORT, rows=[busy]))
    older = replace(BOTH, commits=["0ff1ce123456+changes", "c0ffee123456"])
    told = as_markdown(replace(REPORT, rows=[older]))
    assert "| 0ff1ce1+changes, c0ffee1 |" in told
    assert "do not quote these figures" in told


def test_it_is_saved_with_a_picture_of_every_set(tmp_path: Path) -> None:
    emoji = row("knn", GIVEN, [trial("simclr", OURS, 0, 0.4, data="emoji")], [], None)
    few = save(REPORT, tmp_path / "few", None)
    paths = save(replace(REPORT, rows=[BOTH, ALONE, emoji]), tmp_path, tmp_path / "deep" / "figures.json")
    assert [path.name.partition("_2026-01-02")[2] for path in paths[:3]] == [".json", ".md", ".png"]
    assert paths[3].read_text(encoding="utf-8") == paths[0].read_text(encoding="utf-8")
    with Image.open(paths[2]) as tall, Image.open(few[2]) as flat:
        assert tall.height > flat.height
