"""The report's pictures: SVG that a parser accepts and that says what the numbers say."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.tools.pictures.charts import HEIGHT, MAX_POINTS, WIDTH, class_map, legend, line_chart, ticks


def elements(svg: str, name: str) -> list[ElementTree.Element]:
    return [element for element in ElementTree.fromstring(svg).iter() if element.tag == name]


def points(line: ElementTree.Element) -> np.ndarray:
    return np.array([[float(v) for v in pair.split(",")] for pair in line.attrib["points"].split()])


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-3, 1e6))
def test_ticks_are_few_round_and_evenly_spaced(low: float, span: float) -> None:
    made = ticks(low, low + span)
    assert 2 <= len(made) <= 7
    steps = np.diff(made)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-6)
    mantissa = steps[0] / 10.0 ** np.floor(np.log10(steps[0]) + 1e-9)
    assert min(abs(mantissa - factor) for factor in (1, 2, 5, 10)) < 1e-6


def test_a_line_goes_where_its_numbers_go() -> None:
    svg = line_chart({"a": ([0, 1, 2], [0.0, 2.0, 1.0])}, label="loss", from_zero=True)
    (line,) = elements(svg, "polyline")
    x, y = points(line).T
    assert np.all(np.diff(x) > 0)
    assert y[0] > y[2] > y[1], "the y axis of SVG points down"
    assert x.min() >= 0
    assert x.max() <= WIDTH
    assert y.min() >= 0
    assert y.max() <= HEIGHT


def test_each_series_has_its_own_line_and_key() -> None:
    svg = line_chart({"<webdataset>": ([1, 2], [1, 2]), "ffcv": ([1, 2], [2, 3])}, label="loss")
    classes = [line.attrib["class"] for line in elements(svg, "polyline")]
    assert classes == ["line s0", "line s1"]
    assert "&lt;webdataset&gt;" in legend(["<webdataset>", "ffcv"])
    assert legend(["only"]) == ""


def test_shares_are_shown_in_percent() -> None:
    texts = [text.text for text in elements(line_chart({"a": ([0, 1], [0, 0.5])}, label="w", percent=True), "text")]
    assert "50%" in texts


@pytest.mark.parametrize("y", [[1.0, 1.0, 1.0], [float("nan"), 1.0, 2.0], [3.0, float("inf"), 1.0]])
def test_flat_and_missing_values_are_drawn(y: list[float]) -> None:
    (line,) = elements(line_chart({"a": ([0, 1, 2], y)}, label="loss"), "polyline")
    assert len(points(line)) == np.isfinite(y).sum()
    assert np.isfinite(points(line)).all()


def test_nothing_logged_says_so() -> None:
    assert "loss" in line_chart({"a": ([], [])}, label="loss")


def test_long_runs_are_thinned_without_losing_the_mean() -> None:
    y = np.sin(np.arange(10_000) / 100)
    (line,) = elements(line_chart({"a": (list(range(10_000)), list(y))}, label="loss"), "polyline")
    drawn = points(line)
    assert len(drawn) <= MAX_POINTS
    assert np.all(np.diff(drawn[:, 0]) > 0)


def test_a_map_has_a_dot_a_sample_and_a_name_a_class() -> None:
    svg = class_map(np.random.default_rng(0).normal(size=(30, 2)), np.arange(30) % 3, {0: "zero", 1: "one", 2: "<two>"})
    dots = elements(svg, "circle")
    assert [int(dot.attrib["data-i"]) for dot in dots] == list(range(30))
    assert [dot.attrib["class"] for dot in dots[:3]] == ["k0", "k1", "k2"]
    assert [text.text for text in elements(svg, "text")] == ["zero", "one", "<two>"]
