"""A report holds every figure with its conditions, and its three files agree."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from headrace.benchmarks.machine import CHANGED, Machine, commit, cpu_flags, machine, versions
from headrace.benchmarks.report import COLUMNS, Report, as_json, as_markdown, figure, save
from headrace.benchmarks.runner import Comparison, Missing, Opened, Result, Round

MACHINE = Machine(
    cpu="AMD EPYC (9R14)", cores=2, cores_present=4, memory_gb=25.3, gpu="", system="Linux 6, Debian", python="3.11.7"
)


def result(name: str, rates: list[float], *, limit: bool = False, foreign: float = 0.0, note: str = "") -> Result:
    return Result(
        name=name,
        limit=limit,
        note=note,
        opened=Opened(first_batch_s=1.25, batch="2 x float32 (64, 3, 224, 224)", mean=0.1, deviation=1.2),
        rounds=[Round(samples=round(8 * rate), seconds=8.0, cores=1.9, foreign_cores=foreign) for rate in rates],
        peak_rss_mb=1234.0,
        pss_mb=1000.0,
    )


def report(foreign: float = 0.0) -> Report:
    comparison = Comparison(
        name="simclr",
        title="SimCLR, two views",
        reference="Headrace",
        unit="samples/s",
        results=[
            result("Headrace", [500, 600, 700], foreign=foreign, note="native engine"),
            result("peer", [100, 150, 100]),
            result("decoding only", [1000, 1200, 1400], limit=True),
        ],
        missing=[Missing("ffcv", "not installed: pip install ffcv")],
        targets={"peer": 4.5, "ffcv": 2.0},
    )
    return Report(
        benchmark="loader",
        date="2026-01-02T03:04:05+00:00",
        commit="abc",
        machine=MACHINE,
        versions={"torch": "2.0"},
        settings={"rounds": 3},
        comparisons=[comparison],
    )


def rows(markdown: str) -> dict[str, dict[str, str]]:
    """The table's rows by contestant."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines() if line[:1] == "|"]
    assert all(len(line) == len(COLUMNS) for line in lines)
    return {line[0]: dict(zip(lines[0], line, strict=True)) for line in lines[2:]}


def test_the_table_shows_medians_ratios_of_rounds_and_shares_of_the_limit() -> None:
    markdown = as_markdown(report())
    table = rows(markdown)
    assert list(table) == ["decoding only", "**Headrace**", "peer", "ffcv"]  # fastest first, missing last
    assert table["**Headrace**"]["samples/s"] == "600"
    assert table["**Headrace**"]["of the limit"] == "50%"
    assert table["peer"]["samples/s"] == "100"
    assert table["peer"]["Headrace is"] == "5.00 x"
    assert table["peer"]["range"] == "100 to 150"
    assert table["peer"]["ratio range"] == "4.00 to 7.00"
    assert table["peer"]["target"] == "4.5 x, met"
    assert table["**Headrace**"]["target"] == ""
    assert table["ffcv"]["samples/s"] == "not installed: pip install ffcv"
    for condition in ("AMD EPYC (9R14), 2 of 4 cores, 25.3 GB", "2026-01-02", "abc", "torch 2.0", "native engine"):
        assert condition in markdown
    assert "do not quote" not in markdown


def test_a_target_that_is_missed_is_told() -> None:
    missed = report()
    missed.comparisons[0].targets = {"peer": 5.01}
    assert rows(as_markdown(missed))["peer"]["target"] == "5.01 x, missed"


def test_a_busy_machine_is_told() -> None:
    busy = report(foreign=0.8)
    assert not busy.quiet
    assert "do not quote" in as_markdown(busy)
    assert as_json(busy)["quiet"] is False
    assert as_json(report())["quiet"] is True


def test_the_files_name_benchmark_machine_and_day_and_agree(tmp_path: Path) -> None:
    elsewhere = tmp_path / "deep" / "figures.json"
    paths = save(report(), tmp_path / "out", elsewhere)
    names = [f"loader_amd-epyc-9r14-2-cores_2026-01-02{ending}" for ending in (".json", ".md", ".png")]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(names)
    assert paths == [*(tmp_path / "out" / name for name in names), elsewhere]
    stored = json.loads(paths[0].read_text(encoding="utf-8"))
    assert stored == json.loads(elsewhere.read_text(encoding="utf-8")) == as_json(report())
    (comparison,) = stored["comparisons"]
    peer = comparison["contestants"][1]
    assert peer["per_second"] == {"median": 100.0, "low": 100.0, "high": 150.0}
    assert peer["headrace_times"] == {"median": 5.0, "low": 4.0, "high": 7.0}
    assert peer["target"] == 4.5
    assert comparison["contestants"][0]["target"] is None
    assert [each["samples"] for each in peer["rounds"]] == [800, 1200, 800]
    assert comparison["missing"] == [{"name": "ffcv", "reason": "not installed: pip install ffcv"}]
    with Image.open(paths[2]) as drawn:
        assert min(drawn.size) > 300
        assert len(drawn.convert("RGB").getcolors(1 << 20) or []) > 8


def test_changed_sources_are_marked() -> None:
    mark = "do not quote these figures"
    assert mark not in as_markdown(report())
    assert mark in as_markdown(replace(report(), commit=f"{report().commit}{CHANGED}"))


def test_this_machine_is_described() -> None:
    here = machine([0, 0, 1], gpu="NVIDIA H100")
    assert here.cpu
    assert here.cores == 2
    assert here.slug() == "nvidia-h100-2-cores"
    assert {"torch", "numpy", "headrace"} <= set(versions())
    assert commit() == "" or commit().removesuffix(CHANGED).isalnum()
    assert isinstance(cpu_flags(), set)


def test_a_curve_keeps_its_order_and_says_what_follows() -> None:
    told = report()
    (comparison,) = told.comparisons
    comparison.results.pop()
    comparison.results[0].rounds, comparison.results[1].rounds = [
        [Round(samples=samples, seconds=8.0, cores=1.0, foreign_cores=0.0)] for samples in (8, 800)
    ]
    comparison.ratio, comparison.curve, comparison.findings = "time of a sample", True, ["It takes longer."]
    markdown = as_markdown(told)
    table = rows(markdown)
    assert list(table) == ["**Headrace**", "peer", "ffcv"], "the slower one first, as entered"
    assert table["peer"]["time of a sample"] == "0.01 x"
    assert "- It takes longer." in markdown
    assert as_json(told)["comparisons"][0]["findings"] == ["It takes longer."]


@pytest.mark.parametrize(
    ("value", "shown"), [(1234.0, "1,230"), (999.6, "1,000"), (155.49, "155"), (15.55, "15.6"), (0.1234, "0.123")]
)
def test_figures_have_three_digits(value: float, shown: str) -> None:
    assert figure(value) == shown
