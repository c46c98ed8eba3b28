"""Commands look at a set's only images whatever their field is called, and say what there is where they cannot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from headrace.models import build_method
from headrace.models.parts.backbones import tiny_resnet
from headrace.pipeline import Loader, View, ViewSpec
from headrace.shards import Field, ShardSet, open_shards, write_shards
from headrace.tools import doctor
from headrace.tools.cli import main
from headrace.tools.errors import UserError
from headrace.tools.evaluation.evaluate import _pixel_side
from headrace.tools.fields import image_field
from headrace.tools.pictures.show_views import augmented, pixels
from headrace.train.probes import pixel_features
from tests.conftest import digit_samples

SPEC = ViewSpec([View(size=16)])


def write(path: Path, *images: str) -> Path:
    """Digits, whose pictures are in fields of these names."""
    fields = {name: Field(kind="image", encoding="raw") for name in images} | {"label": Field(kind="int")}
    samples = [
        {"__key__": sample["__key__"], "label": sample["label"], **dict.fromkeys(images, sample["image"])}
        for sample in digit_samples(2)
    ]
    write_shards(path, samples, fields)
    return path


def test_the_only_images_are_taken_whatever_they_are_called(tmp_path: Path) -> None:
    with open_shards(write(tmp_path / "set", "photo")) as shards:
        assert image_field(shards) == "photo"
        with Loader(shards, SPEC, 4, threads=1) as loader:
            assert len(next(iter(loader)).views[0]) == 4
        (shown,) = augmented(shards, SPEC, count=1)
        assert np.array_equal(shown.original, pixels(shards, [shards.key(i) for i in range(20)].index(shown.key)))
        assert _pixel_side(build_method("simclr", backbone=tiny_resnet(width=8)), shards) == 28
        assert pixel_features(shards, 8)[0].shape == (20, 64)
        assert doctor.only_raw(shards)
        assert doctor.reading(shards, 1, 0.01) > 0


def test_of_several_the_one_called_image_is_taken(tmp_path: Path) -> None:
    with open_shards(write(tmp_path / "set", "depth", "image")) as shards:
        assert image_field(shards) == "image"


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ((), "set has no images; its fields are label"),
        (("left", "right"), "set has several image fields, left, right, and none of them is called image"),
    ],
)
@pytest.mark.parametrize(
    "look", [image_field, lambda shards: pixels(shards, 0), lambda shards: augmented(shards, SPEC, count=1)]
)
def test_a_set_without_the_images_of_a_loader_says_what_it_has(
    images: tuple[str, ...], message: str, look: Callable[[ShardSet], object], tmp_path: Path
) -> None:
    with open_shards(write(tmp_path / "set", *images)) as shards:
        with pytest.raises(UserError, match=message):
            look(shards)
        with pytest.raises(ValueError, match=message):
            Loader(shards, SPEC, 4)


def test_the_doctor_and_show_say_so_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write(tmp_path / "set"))
    method = ["--method", "simclr", "--model.size", "16", "--model.backbone.name", "resnet18"]
    for command in (["doctor", path, *method], ["show", "views", path, "--method", "simclr", "--out", f"{path}.png"]):
        assert main(command) == 1
        printed = capsys.readouterr()
        assert f"{path} has no images; its fields are label" in printed.err
        assert len(printed.err.splitlines()) == 1  # and no stage was measured before
