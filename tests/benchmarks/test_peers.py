"""Every contestant does the same work: the same views by definition, and views that look alike in the outcome."""

from __future__ import annotations

import inspect
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from headrace.benchmarks.command import Options
from headrace.benchmarks.forms import Forms
from headrace.benchmarks.loader import WORKS, contestants
from headrace.benchmarks.photographs import photographs_or_skip
from headrace.benchmarks.step import CONFIGS
from headrace.models.methods.joint.simclr import simclr_views
from headrace.pipeline import View
from tests.benchmarks.equal_work import Look, look

PHOTOGRAPHS = 96
SAMPLES = 192
# How far two contestants may lie apart: about four standard errors of so many views, for the random draws differ.
APART = {"grey": 0.1, "level": 0.06, "contrast": 0.03, "colour": 0.04, "blurred": 0.12, "varied": 0.06}


# Each contestant has a process of its own, forked from one that has imported what all need.
FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["headrace.benchmarks.loader"])


def options() -> Options:
    return Options(
        forms=Forms.of(photographs_or_skip(PHOTOGRAPHS)),
        works=("simclr",),
        rounds=1,
        seconds=1.0,
        batch_size=32,
        cores=(0, 1),
        smoke=True,
        progress=lambda what, done, total: None,
    )


def look_of(name: str, work_name: str = "simclr") -> Look:
    """How contestant `name` of a work makes its views look."""
    work = WORKS[work_name]
    (contestant,) = (each for each in contestants(work, options()) if each.name == name)
    normalize = work.views.views[0].normalize
    with ProcessPoolExecutor(1, mp_context=FORKED) as pool:
        return pool.submit(look, contestant.batches, contestant.arguments, SAMPLES, normalize).result()


@pytest.fixture(scope="module")
def headrace_look() -> Look:
    return look_of("Headrace")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("lightly", marks=pytest.mark.peer("lightly")),
        pytest.param("webdataset + torchvision", marks=pytest.mark.peer("webdataset")),
        pytest.param("DALI, CPU", marks=pytest.mark.peer("dali")),
    ],
)
def test_views_look_alike(name: str, headrace_look: Look) -> None:
    theirs = look_of(name)
    for figure, apart in APART.items():
        assert abs(getattr(theirs, figure) - getattr(headrace_look, figure)) < apart, (figure, theirs, headrace_look)
    assert 0.75 < theirs.sharpness / headrace_look.sharpness < 1.33


@pytest.mark.peer("lightly")
def test_small_views_look_alike() -> None:
    ours, theirs = (look_of(name, "cifar") for name in ("Headrace", "lightly"))
    for figure, apart in APART.items():
        assert abs(getattr(theirs, figure) - getattr(ours, figure)) < apart, (figure, theirs, ours)
    assert 0.75 < theirs.sharpness / ours.sharpness < 1.33


def expected(view: View, transform: type) -> dict[str, object]:
    """Keyword arguments of lightly's view transforms that say what `view` says."""
    defaults = {name: each.default for name, each in inspect.signature(transform).parameters.items()}
    strength = defaults["cj_strength"]
    return {
        "cj_prob": view.jitter,
        "cj_bright": pytest.approx(view.brightness / strength),
        "cj_contrast": pytest.approx(view.contrast / strength),
        "cj_sat": pytest.approx(view.saturation / strength),
        "cj_hue": pytest.approx(view.hue / strength),
        "hf_prob": view.flip,
        "vf_prob": 0.0,
        "rr_prob": 0.0,
        "random_gray_scale": view.grayscale,
        "sigmas": view.blur_sigma,
        "normalize": {"mean": list(view.normalize.mean), "std": list(view.normalize.std)},
    }


@pytest.mark.peer("lightly")
def test_simclr_is_lightlys_default_and_ours() -> None:
    from lightly.transforms import SimCLRTransform

    defaults = {name: each.default for name, each in inspect.signature(SimCLRTransform).parameters.items()}
    first, second = WORKS["simclr"].views.views
    assert first == second
    wanted = expected(first, SimCLRTransform) | {
        "input_size": first.size,
        "min_scale": first.scale[0],
        "gaussian_blur": first.blur,
    }
    assert {name: defaults[name] for name in wanted} == wanted
    assert first.scale[1] == 1.0
    assert first.ratio == (3 / 4, 4 / 3)  # torchvision's default, which lightly leaves
    assert first.solarize == 0.0
    assert simclr_views(CONFIGS["resnet18-224"]) == WORKS["simclr"].views


def test_small_views_are_those_of_simclr_with_a_blur_as_wide_as_pillows() -> None:
    (first, second), (large, _) = WORKS["cifar"].views.views, WORKS["simclr"].views.views
    assert first == second == replace(large, size=32, blur_kernel=13)
    edge = np.zeros((1, 64), np.uint8)
    edge[:, 32:] = 255
    blurred = np.asarray(Image.fromarray(edge).filter(ImageFilter.GaussianBlur(first.blur_sigma[1])))
    assert 32 - np.flatnonzero(blurred)[0] in (5, 6)  # the outermost tap rounds to nothing or not


@pytest.mark.peer("lightly")
def test_dino_is_lightlys_default() -> None:
    from lightly.transforms import DINOTransform

    defaults = {name: each.default for name, each in inspect.signature(DINOTransform).parameters.items()}
    first, second, *local = WORKS["dino"].views.views
    for view in (first, second, local[0]):
        wanted = expected(view, DINOTransform)
        assert {name: defaults[name] for name in wanted} == wanted
    assert defaults["global_crop_size"] == first.size == second.size
    assert defaults["global_crop_scale"] == first.scale == second.scale
    assert defaults["local_crop_size"] == local[0].size
    assert defaults["local_crop_scale"] == local[0].scale
    assert defaults["n_local_views"] == len(local)
    assert len(set(local)) == 1
    assert defaults["gaussian_blur"] == (first.blur, second.blur, local[0].blur)
    assert (first.solarize, second.solarize, local[0].solarize) == (0.0, defaults["solarization_prob"], 0.0)


def test_forms_hold_the_same_photographs(tmp_path: Path) -> None:
    import tarfile

    from headrace.shards import open_shards

    photographs = photographs_or_skip(5)
    forms = Forms.of(photographs, cache=tmp_path)
    bytes_of = [path.read_bytes() for path in photographs]
    linked = sorted(forms.folder().rglob("*.jpg"), key=lambda path: path.name)
    assert [path.read_bytes() for path in linked] == bytes_of
    assert [path.parent.name for path in linked] == [f"class-{number}" for number in range(5)]
    in_tars = []
    for tar in forms.tars():
        with tarfile.open(tar) as opened:
            in_tars += [opened.extractfile(each).read() for each in opened if each.name.endswith(".jpg")]  # type: ignore[union-attr]
    assert sorted(in_tars) == sorted(bytes_of)
    with open_shards(forms.raw_shards()) as shards:
        assert [shards.read(number)["image"].shape[2] for number in range(len(shards))] == [3] * 5
    pieces = np.load(forms.small_pixels())
    assert pieces.shape == (5 * 48, 32, 32, 3)
    with open_shards(forms.small_shards()) as shards:
        assert all(np.array_equal(shards.read(number)["image"], piece) for number, piece in enumerate(pieces))
    made = forms.shards().stat().st_mtime_ns
    assert Forms.of(photographs, cache=tmp_path).shards().stat().st_mtime_ns == made
    assert Forms.of(photographs[:4], cache=tmp_path).root != forms.root
