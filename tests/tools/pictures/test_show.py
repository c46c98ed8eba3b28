"""`headrace show`: whose inputs are drawn, which of them, and what is said where there are none."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headrace.models import METHODS, build_method
from headrace.pipeline import BlockMask, Loader, Mixed, Other, PatchPair, Tiles, View, ViewSpec
from headrace.shards import Field, ShardSet, open_shards, write_shards
from headrace.tools import catalogue, cli
from headrace.tools.errors import UserError
from headrace.tools.pictures.delivered import delivered
from headrace.tools.pictures.show import show, shown
from headrace.tools.pictures.show_views import views_of
from headrace.train import RunConfig
from headrace.train.config import OWN
from headrace.train.recipes import RECIPES
from tests.conftest import digit_samples

SMALL = ViewSpec([View(size=16)])


def shows(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What the command prints."""
    assert cli.main(["show", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = cli.USAGE) -> str:
    """The one line on which the command ends."""
    assert cli.main(["show", *map(str, arguments)]) == code
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("name", METHODS)
def test_there_is_something_of_every_method_to_show(name: str) -> None:
    inputs = catalogue.inputs_of(name)
    assert shown(inputs)
    if "texts" not in shown(inputs):  # whose masks are printed with them
        assert ("masks" in shown(inputs)) == ("mask" in catalogue.in_words(inputs))


@pytest.mark.parametrize(
    ("what", "method"),
    [
        ("views", "rotation --model.size 32"),
        ("views", "simclr_digits --model.blur 1"),
        ("masks", "mae --model.size 64"),
    ],
)
def test_a_method_is_drawn_with_its_keys_changed(
    what: str, method: str, photos: ShardSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "picture.png"
    printed = shows(capsys, what, photos.path, "--method", *shlex.split(method), "--samples", 1, "--out", out)
    assert printed == f"{out}\n"
    assert min(Image.open(out).size) > 200


def drawn(folder: Path, name: str, draw: Callable[[Path], object]) -> bytes:
    """The picture that `draw` makes."""
    out = folder / f"{name}.png"
    draw(out)
    return out.read_bytes()


@pytest.mark.parametrize("named", ["run", "run/config.yaml"])
def test_a_runs_folder_shows_what_that_run_sees(
    named: str, photos: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    config = RECIPES["simclr_digits"]().with_overrides(["model.size=20", "model.flip=1", "seed=7"])
    (tmp_path / "run").mkdir()
    config.save(tmp_path / "run" / "config.yaml")
    inputs = build_method("simclr", config.model).inputs
    data = photos.path

    def by_command(*more: str) -> Callable[[Path], object]:
        arguments = ["views", data, "--method", named, "--samples", 2, "--epoch", 3, *more]
        return lambda out: shows(capsys, *arguments, "--out", out)

    expected = drawn(tmp_path, "python", lambda out: show("views", data, inputs, out, count=2, seed=7, epoch=3))
    assert drawn(tmp_path, "command", by_command()) == expected
    assert drawn(tmp_path, "other seed", by_command("--seed", "8")) != expected
    assert drawn(tmp_path, "other key", by_command("--model.flip", "0")) != expected


def test_a_name_is_a_method_before_it_is_a_folder(
    photos: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "simclr").mkdir()
    assert shows(capsys, "views", photos.path, "--method", "simclr", "--samples", 1, "--out", "x.png") == "x.png\n"
    line = refused(capsys, "views", photos.path, "--method", "./simclr", "--out", "y.png")
    assert str(Path("simclr", "config.yaml")) in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("views DIR --preset mae --out x.png", "--preset is --method now: show views DIR --method NAME"),
        ("views DIR --out x.png", "show views needs --method"),
        ("texts DIR", "show texts needs --method, or --tokenizer FILE"),
        ("views DIR --method simclr", "show views needs --out"),
        ("masks DIR --method simclr --out x.png", "simclr has no masks; it has views"),
        ("tiles DIR --method mae --out x.png", "mae has no tiles; it has views and masks"),
        ("clips DIR --method simclr --out x.png", "simclr has no clips; it has views"),
        ("texts DIR --method simclr", "simclr has no texts; it has views"),
        ("views DIR --method simclear --out x.png", "did you mean 'simclr'?"),
        ("views DIR --method simclr --model.sise 9 --out x.png", "did you mean model.size?"),
        ("views DIR --method simclr --model.size 0 --out x.png", "View.size"),
        ("views DIR --method simclr --sampels 3 --out x.png", "did you mean '--samples'?"),
        ("views DIR --method runs/none --out x.png", "runs/none/config.yaml: [Errno 2] No such file or directory"),
        ("views DIR --method simclr --mask words --out x.png", "--mask goes with --tokenizer"),
        ("texts DIR --tokenizer a.json --model.size 9", "--model.size is a key of a configuration"),
        ("texts DIR --tokenizer a.json --method simclr", "not allowed with argument"),
    ],
)
def test_what_there_is_not_is_said_in_a_line(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refused(capsys, *shlex.split(arguments))


def test_a_run_of_ones_own_method_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    RunConfig(method=OWN, model={"class": "Mine", "config": {}}).save(tmp_path / "config.yaml")
    line = refused(capsys, "views", "DIR", "--method", tmp_path, "--out", "x.png")
    assert f"{tmp_path}: is of a method of one's own" in line


def test_from_python_too_what_there_is_not_is_said(photos: ShardSet, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there are no tiles; there are views"):
        show("tiles", photos.path, SMALL, tmp_path / "x.png")
    with pytest.raises(UserError, match="the name of a picture"):
        show("views", photos.path, SMALL, tmp_path / "x.txt")
    with pytest.raises(UserError, match="at least one sample"):
        show("views", photos.path, SMALL, tmp_path / "x.png", count=0)


@pytest.mark.parametrize("part", [Tiles(view=View(size=16, flip=0.0)), PatchPair(view=View(size=16, flip=0.0))])
def test_tiles_are_drawn(part: Any, photos: ShardSet, tmp_path: Path) -> None:
    out = tmp_path / "tiles.png"
    assert show("tiles", photos.path, ViewSpec([part]), out, count=1) == [out]
    assert min(Image.open(out).size) > 200


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Digits in the field `left`, their negatives in `right`."""
    samples = [
        {
            "__key__": sample["__key__"],
            "label": sample["label"],
            "left": sample["image"],
            "right": 255 - sample["image"],
        }
        for sample in digit_samples(2)
    ]
    images = {name: Field(kind="image", encoding="raw") for name in ("left", "right")}
    write_shards(tmp_path / "pairs", samples, images | {"label": Field(kind="int")})
    return tmp_path / "pairs"


LEFT, RIGHT = ViewSpec([View(size=16)], field="left"), ViewSpec([View(size=16, blur=1.0)], field="right")


def test_streams_of_a_kind_have_a_picture_each(pairs: Path, tmp_path: Path) -> None:
    inputs = {"left": LEFT, "right": ViewSpec(RIGHT.views, [BlockMask(grid=(4, 4), smallest=1)], field="right")}
    assert shown(inputs) == {"views": ["left", "right"], "masks": ["right"]}
    files = show("views", pairs, inputs, tmp_path / "both.png", count=2)
    assert files == [tmp_path / "both_left.png", tmp_path / "both_right.png"]
    assert all(min(Image.open(file).size) > 200 for file in files)
    assert show("masks", pairs, inputs, tmp_path / "one.png", count=2) == [tmp_path / "one.png"]


def test_each_stream_is_shown_as_the_loader_brings_it(pairs: Path) -> None:
    """Also the second one of a kind, whose draws are its own, and another sample's."""
    inputs = {"left": LEFT, "again": LEFT, "right": RIGHT, "other": Other(spec=LEFT), "mixed": Mixed(spec=LEFT)}
    with open_shards(pairs) as shards:
        found = delivered(shards, inputs, count=4, seed=3, epoch=2)
        with Loader(shards, inputs, 4, seed=3) as loader:
            loader.epoch = 2
            batch = next(iter(loader))
        own = [shards.key(int(i)) for i in batch.index]
        for name, one in found.items():
            field = "right" if name == "right" else "left"
            for row, sample in enumerate(views_of(shards, one)):
                assert np.array_equal(sample.views[0], batch[name].views[0][row].permute(1, 2, 0).numpy())
                assert sample.crops[0] == tuple(batch[name].drawn.crop[row, 0].tolist())
                whose = batch.others["other"].index if name == "other" else batch.index
                assert np.array_equal(sample.original, shards.read(int(whose[row]))[field])
                other = shards.key(int(batch.others["other"].index[row]))
                if name == "other":
                    assert sample.key == f"{other} for {own[row]}"
                elif name == "mixed":
                    assert sample.key.endswith(f" {shards.key(int(batch.others['mixed'].index[row]))}")
                    assert f" {own[row]} + " in sample.key
                else:
                    assert sample.key == own[row]
        first, again = ([sample.crops for sample in views_of(shards, found[name])] for name in ("left", "again"))
    assert first != again
