"""What was measured is found again by its digest, and only where everything that decides is the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headrace.benchmarks.learning.records import (
    DECIDING,
    OURS,
    PEER,
    RECIPES_FOLDER,
    Records,
    Trial,
    digest_of,
    sources_digest,
)
from headrace.benchmarks.learning.speed import Speed
from headrace.models import METHODS
from headrace.train import RunConfig
from headrace.train.recipes import bert_small, simclr_small

TRIAL = Trial(
    digest="a1",
    sources="5678",
    commit="c0ffee",
    data="digits",
    method="simclr",
    side=OURS,
    seed=0,
    scores={"knn": 0.5},
    untrained=None,
)
GIVEN: dict[str, Any] = {"data": "digits", "content": "1234", "side": OURS}


def found(path: Path) -> list[str]:
    """Those of three digests that a file has records of."""
    records = Records(path, Trial)
    return [digest for digest in ("a1", "b2", "c3") if records.find(digest, None)]


def test_records_are_found_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "trials.jsonl"
    records = Records(path, Trial)
    records.add(TRIAL)
    second = replace(TRIAL, digest="b2", untrained={"knn": 0.25})
    records.add(second)
    for each in (records, Records(path, Trial)):
        assert each.find("a1", None) == TRIAL
        assert each.find("b2", "5678") == second
        assert each.find("c3", None) is None
    speed = Speed(
        digest="c3", sources="", commit="", data="digits", method="mae", ours=[1.0], peer=[], foreign_cores=0.0
    )
    Records(tmp_path / "speeds.jsonl", Speed).add(speed)
    assert Records(tmp_path / "speeds.jsonl", Speed).find("c3", "") == speed


def test_the_last_record_is_taken_of_the_wanted_sources_or_of_any(tmp_path: Path) -> None:
    records = Records(tmp_path / "trials.jsonl", Trial)
    older, newer = TRIAL, replace(TRIAL, sources="9abc")
    for each in (older, newer):
        records.add(each)
    assert records.find("a1", "5678") == older
    assert records.find("a1", "9abc") == newer
    assert records.find("a1", None) == newer
    assert records.find("a1", "other") is None


@pytest.mark.parametrize("kept", [1, 30, -1])
def test_a_line_that_a_kill_cut_short_is_measured_again(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "trials.jsonl"
    Records(path, Trial).add(TRIAL)
    whole = path.read_bytes()
    second = replace(TRIAL, digest="b2")
    Records(path, Trial).add(second)
    path.write_bytes(whole + path.read_bytes()[len(whole) :][:kept].removesuffix(b"}"))
    assert found(path) == ["a1"]
    Records(path, Trial).add(second)
    assert found(path) == ["a1", "b2"]


def test_records_of_two_processes_are_all_kept(tmp_path: Path) -> None:
    first, second = (Records(tmp_path / "trials.jsonl", Trial) for _ in range(2))
    first.add(TRIAL)
    second.add(replace(TRIAL, digest="b2"))
    first.add(replace(TRIAL, digest="c3"))
    assert found(tmp_path / "trials.jsonl") == ["a1", "b2", "c3"]


def test_a_digest_does_not_depend_on_places() -> None:
    config = simclr_small(data="a", out="b").with_overrides(["epochs=36"])
    same = simclr_small(data="c", out="d").with_overrides(["log.every_steps=3", "loader.threads=1"])
    assert digest_of(config, **GIVEN) == digest_of(same, **GIVEN)


def test_a_digest_depends_on_all_that_decides() -> None:
    config = simclr_small()
    changed = [
        digest_of(config.with_overrides([change]), **GIVEN)
        for change in ("seed=1", "epochs=2", "model.temperature=0.3", "optim.lr=0.5", "batch_size=64")
    ]
    changed += [digest_of(config, **{**GIVEN, key: x}) for key, x in (("data", "emoji"), ("content", "1"))]
    changed.append(digest_of(config, **{**GIVEN, "side": PEER}))
    assert len({digest_of(config, **GIVEN), *changed}) == 1 + len(changed)


def test_a_digest_does_not_depend_on_settings_that_are_as_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that there was not when something was measured does not make it something else."""
    config = simclr_small(data="a", out="b")
    with_more = RunConfig.to_dict

    def to_dict(self: RunConfig) -> dict[str, Any]:
        plain = with_more(self)
        return {**plain, "new": 0.0, "optim": {**plain["optim"], "new": {"deep": 1}}}

    before = digest_of(config, **GIVEN)
    monkeypatch.setattr(RunConfig, "to_dict", to_dict)
    assert digest_of(config, **GIVEN) == before


def test_methods_with_the_same_settings_have_other_digests() -> None:
    usual = [RunConfig(method=name, model=METHODS[name].config(), data="a", out="b") for name in ("simclr", "vicreg")]
    assert len({digest_of(config, **GIVEN) for config in usual}) == 2


def test_a_digest_does_not_depend_on_where_the_tokenizer_lies() -> None:
    here, there = (bert_small().with_overrides([f"model.tokenizer={folder}/t.json"]) for folder in "ab")
    assert digest_of(here, **GIVEN) == digest_of(there, **GIVEN)


def test_sources_are_the_deciding_files_and_those_below_the_deciding_folders(tmp_path: Path) -> None:
    paths = [tmp_path / place if place.endswith(".py") else tmp_path / place / "deep" / "a.py" for place in DECIDING]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x = 1\n", encoding="utf-8")
    before = sources_digest(tmp_path)
    for other in ("models/README.md", "benchmarks/learning/table.py", f"{RECIPES_FOLDER}/joint.py"):
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / other).write_text("of no weight", encoding="utf-8")
    assert sources_digest(tmp_path) == before
    for path in paths:
        path.write_text("x = 2\n", encoding="utf-8")
        after = sources_digest(tmp_path)
        assert after != before
        before = after
