"""`headrace methods`: the table of methods, one in full, and the page that is made of it."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path

import pytest

from headrace.models import METHODS
from headrace.pipeline import (
    BlockMask,
    Clip,
    ClipSpec,
    Inputs,
    Mixed,
    Other,
    RandomMask,
    SpanMask,
    TextSpec,
    Tiles,
    TokenMask,
    TubeMask,
    View,
    ViewSpec,
)
from headrace.tools import catalogue
from headrace.tools.cli import main
from headrace.train.recipes import RECIPES

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"
LARGE, SMALL = View(size=224), View(size=96)


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["methods", *arguments]) == 0
    return capsys.readouterr().out


def test_the_page_is_what_the_table_of_methods_says() -> None:
    current = PAGE.read_text(encoding="utf-8") == catalogue.markdown()
    assert current, "make the page anew: headrace methods --markdown > docs/methods.md"


def test_json_is_a_list_of_all_methods(capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(printed(capsys, "--json"))
    assert [row["name"] for row in rows] == list(METHODS)
    assert all(list(row) == ["name", "family", "inputs", "paper", "recipes"] for row in rows)
    assert {recipe for row in rows for recipe in row["recipes"]} == set(RECIPES)
    (simclr,) = (row for row in rows if row["name"] == "simclr")
    assert simclr["family"] == "joint"
    assert simclr["inputs"] == "2 views of 224"
    assert simclr["paper"] == "2002.05709"
    assert "simclr_digits" in simclr["recipes"]


def test_without_an_extra_the_list_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert main(["methods", "--json"]) == 0
    found = {each["name"]: each["inputs"] for each in json.loads(capsys.readouterr().out)}
    assert "bert needs the library transformers: pip install headrace[text]" in found["bert"]
    assert found["simclr"] == "2 views of 224"
    assert main(["methods", "bert"]) == 1
    assert "pip install headrace[text]" in capsys.readouterr().err


def test_the_table_has_a_line_a_method(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys)
    assert [name for name in METHODS if f" {name} " not in text] == []


@pytest.mark.parametrize("name", METHODS)
def test_a_method_in_full_has_every_field_with_its_default(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (told,) = json.loads(printed(capsys, name, "--json"))
    found = {each["key"]: each for each in told["config"]}
    config = METHODS[name].config()
    for each in fields(config):
        assert found[each.name]["doc"], each.name
        value = getattr(config, each.name)
        if isinstance(value, (int, str, bool)):
            assert found[each.name]["default"] == repr(value)
    text = " ".join(printed(capsys, name).split())
    assert all(f"{key}: {each['type']} = {each['default']} " in text for key, each in found.items())
    assert " ".join(METHODS[name].followed.split()) in text
    assert METHODS[name].deviates in text


def test_fields_of_inherited_and_inner_dataclasses_are_told() -> None:
    keys = {each.key: each for each in catalogue.config_fields(METHODS["byol"].config())}
    assert keys["crop_scale"].default == "(0.08, 1.0)", "a field of BYOLViews"
    assert keys["backbone.name"].default == "'resnet50'"
    assert keys["backbone.name"].doc == "Any model that timm lists (`timm.list_models()`)."
    assert keys["normalize"].default == "Normalize()"


@dataclass(kw_only=True)
class Base:
    rate: float = 0.1
    """Of the base,
    on two lines."""
    plain: int = 1


@dataclass(kw_only=True)
class Derived(Base):
    rate: float = 1 / 3
    """Of the heir."""
    pair: tuple[int, ...] = field(default_factory=lambda: (1,))


def test_docs_of_attributes_come_from_the_source() -> None:
    assert catalogue.attribute_docs(Base) == {"rate": ("float", "Of the base, on two lines."), "plain": ("int", "")}
    found = {each.key: (each.type, each.default, each.doc) for each in catalogue.config_fields(Derived())}
    assert found == {
        "rate": ("float", "0.333333", "Of the heir."),
        "plain": ("int", "1", ""),
        "pair": ("tuple[int, ...]", "(1,)", ""),
    }


MASK = RandomMask(grid=(14, 14))
TOKENS = TextSpec(tokenizer="a.json", length=64, masks=(TokenMask(),))


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (ViewSpec([LARGE, LARGE]), "2 views of 224"),
        (ViewSpec([LARGE] * 2 + [SMALL] * 8), "2 of 224 + 8 of 96"),
        (ViewSpec([LARGE], [MASK]), "1 view of 224, random mask"),
        (ViewSpec([LARGE] * 2, [MASK, MASK, BlockMask(grid=(14, 14))]), "2 views of 224, random masks, block mask"),
        (ViewSpec.rotations(LARGE), "4 views of 224, of one draw"),
        (ViewSpec([Tiles(view=View(size=64, flip=0.0))]), "9 views of 64, of one draw"),
        ({"image": ViewSpec([LARGE]), "text": TOKENS}, "1 view of 224 + text of 64 tokens, token mask"),
        (Other(spec=ViewSpec([LARGE])), "1 view of 224, of another sample"),
        (Mixed(spec=ViewSpec([LARGE] * 2)), "2 views of 224, mixed with another sample"),
        (ClipSpec([Clip()], [TubeMask(grid=(14, 14), frames=8)]), "1 clip of 16 frames of 224, tube mask"),
        (ClipSpec([Clip(), Clip(frames=8)]), "1 of 16 frames of 224 + 1 of 8 frames of 224"),
        (TextSpec(tokenizer="a.json", masks=(SpanMask(),)), "text of 128 tokens, span mask"),
    ],
)
def test_inputs_in_words(inputs: Inputs, words: str) -> None:
    assert catalogue.in_words(inputs) == words
    assert catalogue.drawn(inputs)


def test_only_what_is_on_is_drawn() -> None:
    plain = View(size=32, scale=(1, 1), ratio=(1, 1), flip=0.0)
    (title, crop, normalize) = catalogue.drawn(ViewSpec([plain]))
    assert title == "view 1"
    assert " ".join(crop.split()) == "crop the largest centred square, resized to 32 pixels, bilinear"
    assert normalize.split()[0] == "normalize"
    rich = View(size=32, turns=(0, 2), jitter=0.8, brightness=0.4, blur=0.5, solarize=0.2, erase=0.1)
    drawn = [" ".join(line.split()) for line in catalogue.drawn(ViewSpec([rich, rich], draws=[0, 0]))]
    assert drawn[0] == "views 1 to 2"
    assert "turn 0 or 2 quarters, counter-clockwise" in drawn
    assert "jitter probability 0.8: brightness 0.4, contrast 0, saturation 0, hue 0" in drawn
    assert "blur probability 0.5: deviation 0.1 to 2 pixels, 3 taps" in drawn
    assert drawn[-1] == "view 2 takes the draws of view 1"
