"""Dataclasses from plain values and back: every kind of field, and a line for what fits none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pytest
import yaml

from headrace.pipeline import Normalize, View, ViewSpec
from headrace.pipeline.images.views import Tiles
from headrace.pipeline.masks import RandomMask
from headrace.train import ConfigError
from headrace.train.settings.overrides import override
from headrace.train.settings.plain import build, read_yaml, to_plain


@dataclass(frozen=True, kw_only=True)
class Few:
    ratio: float = 0.5
    grid: tuple[int, int] = (2, 2)


@dataclass(frozen=True, kw_only=True)
class Many:
    ratio: float = 0.5
    smallest: int = 1


@dataclass(frozen=True, kw_only=True)
class Twins:
    one: Few = Few()
    other: Literal[0, 1, "both"] = 0
    flag: bool = False
    maybe: Few | None = None


@dataclass(frozen=True, kw_only=True)
class Everything:
    size: int | tuple[int, int] = 1
    rate: str | float = 0.0
    share: float | int = 0.5
    layers: list[int] = field(default_factory=list)
    names: Sequence[str] = ()
    weights: dict[str, float] = field(default_factory=dict)
    free: Any = None
    mask: Few | Many | None = None
    masks: tuple[Few | Many, ...] = ()
    text: str | None = None
    choice: Literal["a", 1] | None = None
    pair: tuple[int, str] = (0, "")
    named: dict[str, Few] = field(default_factory=dict)
    views: ViewSpec | None = None
    deep: Twins = field(default_factory=Twins)


@dataclass(frozen=True, kw_only=True)
class Unwritable:
    flags: set[int] = field(default_factory=set)


@pytest.mark.parametrize(
    "values",
    [
        {"size": 3},
        {"size": (3, 4)},
        {"rate": "auto"},
        {"rate": 0.25},
        {"share": 3},
        {"share": 0.25},
        {"layers": [3, 4, 6, 3]},
        {"names": ("a", "b")},
        {"weights": {"a": 1.0}},
        {"free": [1, {"a": "b"}]},
        {"mask": Many(ratio=0.25)},
        {"mask": Few(ratio=0.25)},
        {"masks": (Many(), Few(), Many(smallest=9))},
        {"text": "null and void"},
        {"text": "1e3"},
        {"choice": 1},
        {"choice": "a"},
        {"choice": None},
        {"pair": (3, "x")},
        {"named": {"a": Few(ratio=0.25)}},
        {"deep": Twins(one=Few(grid=(3, 4)), other="both", maybe=Few())},
        {"views": ViewSpec([View(size=8), View(size=4, flip=0.0)], draws=[0, 0])},
        {"views": ViewSpec([View(size=8)], [RandomMask(grid=(2, 2))])},
    ],
    ids=str,
)
def test_every_kind_of_field_survives_a_trip_through_plain_values(values: dict[str, Any]) -> None:
    """As what it was: a union is any of its kinds, and not only the first."""
    whole = Everything(**values)
    plain = yaml.safe_dump(to_plain(whole))
    read = build(Everything, yaml.safe_load(plain))
    assert read == whole
    for name in values:
        assert type(getattr(read, name)) is type(getattr(whole, name))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"size": "x"},
            "size: fits none of 2 kinds: size: must be an integer, got 'x'; or size: must be a list of 2, got 'x'",
        ),
        ({"layers": [1, "x"]}, "layers[1]: must be an integer, got 'x'"),
        ({"layers": 3}, "layers: must be a list, got 3"),
        ({"weights": {"a": "x"}}, "weights.a: must be a number, got 'x'"),
        ({"text": 3}, "text: must be a text, got 3"),
        (
            {"mask": {"ratio": 0.1}},
            "mask: may be Few or Many; say which with class: Few, got {'ratio': 0.1}",
        ),
        ({"mask": {"class": "Fwe"}}, "mask.class: must be one of Few, Many, got 'Fwe'"),
        ({"deep": {"one": {"class": "Many"}}}, "deep.one.class: must be Few, got 'Many'"),
        (
            {"size": True},
            "size: fits none of 2 kinds: size: must be an integer, got True; or size: must be a list of 2, got True",
        ),
        ({"layers": [True]}, "layers[0]: must be an integer, got True"),
        ({"layers": [1.0]}, "layers[0]: must be an integer, got 1.0"),
        ({"layers": "12"}, "layers: must be a list, got '12'"),
        ({"names": "ab"}, "names: must be a list, got 'ab'"),
        ({"pair": [1, "x", 2]}, "pair: must be a list of 2, got [1, 'x', 2]"),
        ({"pair": ["x", 1]}, "pair[0]: must be an integer, got 'x'"),
        ({"choice": True}, "choice: must be one of a, 1, got True"),
        ({"choice": 1.0}, "choice: must be one of a, 1, got 1.0"),
        ({"deep": {"flag": 1}}, "deep.flag: must be true or false, got 1"),
        ({"deep": {"one": None}}, "deep.one: must be a mapping, got None"),
        ({"deep": {"maybe": {"grid": [1]}}}, "deep.maybe.grid: must be a list of 2, got [1]"),
        ({"deep": {"oen": {}}}, "deep.oen: unknown key; did you mean one?"),
        ({"weights": {1: 0.5}}, "weights.1: must be a text, got 1"),
        ({"named": {"a": {"ratoi": 1}}}, "named.a.ratoi: unknown key; did you mean ratio?"),
        (
            {"rate": 10**400},
            "rate: fits none of 2 kinds: rate: must be a text, got 1" + 400 * "0" + "; or "
            "rate: must be a number below 1.8e308, got one of 401 digits",
        ),
        (
            {"free": {"a": [np.int64(3)]}},
            "free.a.0: a int64 cannot be written in a config; numbers, texts and lists of them can",
        ),
        ({"views": {}}, "views.views: must be given"),
        ({"views": {"views": []}}, "views: ViewSpec needs at least one view"),
        (
            {"views": {"views": [{"size": 8, "flpi": 1}]}},
            "views.views[0]: fits none of 3 kinds: views.views[0].flpi: unknown key; did you mean flip?; or "
            "views.views[0].size: unknown key; known: view, grid, extent, tile, jitter, permutations, alike; or "
            "views.views[0].size: unknown key; known: view, scale, gap, jitter, alike",
        ),
        (
            {"views": {"views": [{"class": "View", "size": 8, "hue": 2}]}},
            "views.views[0]: View.hue must lie in [0, 0.5], got 2.0",
        ),
        ({"views": {"views": [{"class": "View"}]}}, "views.views[0].size: must be given"),
    ],
    ids=str,
)
def test_what_fits_no_kind_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(Everything, values)
    assert str(caught.value) == message


def test_a_field_that_no_text_can_fill_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^flags: of the type set, which cannot be written in a config$"):
        build(Unwritable, {"flags": [1]})


def test_a_union_of_mappings_goes_by_its_keys() -> None:
    assert build(Everything, {"mask": {"smallest": 3}}).mask == Many(smallest=3)
    assert build(Everything, {"mask": {"grid": [1, 2]}}).mask == Few(grid=(1, 2))
    with pytest.raises(ConfigError, match=r"mask: fits none of 2 kinds: mask\.small: unknown key"):
        build(Everything, {"mask": {"small": 3}})


def test_specs_are_read_as_a_person_writes_them() -> None:
    """By their constructors: tiles among the views, a mask by its name where others have the same keys."""
    text = """
    views:
    - {size: 8, scale: [0.5, 1], normalize: {mean: [0, 0, 0]}}
    - {view: {size: 4, flip: 0}, grid: [2, 2], permutations: 24}
    masks:
    - {class: RandomMask, grid: [6, 6]}
    """
    tiles = Tiles(view=View(size=4, flip=0.0), grid=(2, 2), permutations=24)
    first = View(size=8, scale=(0.5, 1.0), normalize=Normalize(mean=(0.0, 0.0, 0.0)))
    assert build(ViewSpec, read_yaml(text)) == ViewSpec([first, tiles], [RandomMask(grid=(6, 6))])
    with pytest.raises(ConfigError, match=r"masks\[0\]: may be RandomMask or .*; say which with class: RandomMask"):
        build(ViewSpec, read_yaml(text.replace("class: RandomMask, ", "")))


def test_a_spec_that_is_not_made_again_from_what_would_be_written_is_refused() -> None:
    with pytest.raises(ConfigError, match="this ViewSpec cannot be written in a config"):
        to_plain(ViewSpec([Tiles(view=View(size=4, flip=0.0))]))


def test_numbers_of_numpy_become_plain_ones() -> None:
    assert type(build(Few, {"ratio": np.float64(0.25)}).ratio) is float


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        ("mask.smallest", "3", Everything(mask=Many(smallest=3))),
        ("mask", "{grid: [1, 2]}", Everything(mask=Few(grid=(1, 2)))),
        ("mask", "null", Everything()),
        ("deep.maybe.ratio", "1", Everything(deep=Twins(maybe=Few(ratio=1.0)))),
        ("deep.other", "both", Everything(deep=Twins(other="both"))),
        ("deep.other", "1", Everything(deep=Twins(other=1))),
        ("named.a.ratio", "0.1", Everything(named={"a": Few(ratio=0.1)})),
        ("weights.a", "0.1", Everything(weights={"a": 0.1})),
        ("size", "[3, 4]", Everything(size=(3, 4))),
        ("rate", "auto", Everything(rate="auto")),
        ("rate", "1e-3", Everything(rate=1e-3)),
        ("choice", "1", Everything(choice=1)),
    ],
)
def test_an_override_reaches_what_may_be_missing_or_one_of_several(key: str, text: str, expected: Everything) -> None:
    values = to_plain(Everything())
    override(values, key, text, Everything)
    assert build(Everything, values) == expected


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("mask.smalest", "mask.smalest: unknown key; did you mean mask.smallest?"),
        ("layers.0", "layers.0: layers has no keys of its own"),
        ("deep.one.ratio.x", "deep.one.ratio.x: deep.one.ratio has no keys of its own"),
        ("weights.a.b", "weights.a.b: weights.a has no keys of its own"),
    ],
)
def test_an_override_of_what_is_not_there_is_named(key: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        override(to_plain(Everything()), key, "1", Everything)
    assert str(caught.value) == message


def test_a_key_that_is_given_twice_is_refused() -> None:
    with pytest.raises(yaml.YAMLError, match="the key a is given twice"):
        read_yaml("b: {a: 1, c: 2, a: 3}")
    assert read_yaml("x: &x {a: 1}\ny: {<<: *x, b: 2}\nz: {a: 1}") == {
        "x": {"a": 1},
        "y": {"a": 1, "b": 2},
        "z": {"a": 1},
    }
