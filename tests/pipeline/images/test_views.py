from collections.abc import Callable
from dataclasses import fields, replace

import pytest
import torch

from headrace.pipeline import Normalize, PatchPair, Tiles, View, ViewSpec, center_view
from headrace.pipeline.batch import Batch, normalize_images
from headrace.pipeline.images.view import OPERATIONS
from tests.pipeline.colour import lab_of


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 0}, "size"),
        ({"flip": 1.5}, "flip"),
        ({"scale": (0.5, 0.1)}, "scale"),
        ({"ratio": (0.0, 1.0)}, "ratio"),
        ({"hue": 0.6}, "hue"),
        ({"contrast": -0.1}, "contrast"),
        ({"blur_sigma": (0.0, 1.0)}, "blur_sigma"),
        ({"blur_kernel": 4}, "blur_kernel"),
        ({"size": 8, "blur": 0.5, "blur_kernel": 23}, "blur_kernel"),
        ({"jitter": 0.8}, "jitter"),
        ({"solarize_threshold": 300}, "solarize_threshold"),
        ({"turns": ()}, "turns"),
        ({"turns": (0, 4)}, "turns"),
        ({"turns": (1, 1)}, "turns"),
        ({"project": 1.5}, "project"),
        ({"drop_channels": -0.1}, "drop_channels"),
        ({"erase": -0.1}, "erase"),
        ({"erase_scale": (0.0, 0.3)}, "erase_scale"),
        ({"erase_ratio": (3.0, 0.3)}, "erase_ratio"),
        ({"erase_value": (0, 0, 256)}, "erase_value"),
        ({"order": ("grayscale", "sharpen")}, r"View\.order must be different names out of jitter, .*'sharpen'"),
        ({"order": ("flip", "jitter")}, r"View\.order .*'flip'"),
        ({"order": ("blur", "erase", "blur")}, r"View\.order must be different names"),
        ({"order": ("grayscale",), "blur": 0.5}, r"View\.order must name blur, which is on, got \('grayscale',\)"),
    ],
)
def test_contradictions_fail_while_describing(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        View(**({"size": 32} | change))


def test_operations_are_those_that_are_on_in_their_order() -> None:
    view = View(size=32, jitter=0.8, hue=0.1, grayscale=0.2, solarize=0.1)
    assert view.operations == ("jitter", "grayscale", "solarize")
    assert replace(view, order=("grayscale", "jitter", "solarize")).operations == ("grayscale", "jitter", "solarize")
    assert replace(view, order=OPERATIONS[::-1]).operations == ("solarize", "grayscale", "jitter")
    assert view.crop_only() == View(size=32, hue=0.1)
    assert View(size=32, order=()).operations == ()


def test_blur_kernel_defaults_to_a_tenth() -> None:
    assert View(size=224).blur_taps == 23
    assert View(size=32).blur_taps == 3


def test_a_spec_needs_views() -> None:
    with pytest.raises(ValueError, match="at least one"):
        ViewSpec([])


def test_center_view_draws_nothing() -> None:
    view = center_view(8).views[0]
    assert all(getattr(view, f.name) == 0.0 for f in fields(view) if f.name in ("flip", "jitter", "grayscale", "blur"))


STILL = View(size=8, flip=0.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Tiles(view=View(size=8)), "flip"),
        (lambda: Tiles(view=replace(STILL, turns=(1,))), "turns"),
        (lambda: Tiles(view=STILL, grid=(2, 5)), "2 to 9 cells"),
        (lambda: Tiles(view=STILL, extent=(0.5, 1.5)), "extent"),
        (lambda: Tiles(view=STILL, tile=0.0), "tile"),
        (lambda: Tiles(view=STILL, jitter=2.0), "jitter"),
        (lambda: Tiles(view=STILL, grid=(2, 2), permutations=25), r"\[1, 24\]"),
        (lambda: PatchPair(view=View(size=8)), "flip"),
        (lambda: PatchPair(view=STILL, scale=(0.0, 0.5)), "scale"),
        (lambda: PatchPair(view=STILL, gap=-1.0), "gap"),
        (lambda: Normalize(space="xyz"), "space"),  # type: ignore[arg-type]
        (lambda: Normalize(space="lab"), "Normalize.lab"),
        (lambda: Normalize(std=(1.0, 0.0, 1.0)), "std"),
        (lambda: replace(Normalize.lab(), per_view=True), "per_view"),
        (lambda: ViewSpec([STILL, STILL], draws=[0]), "draws"),
        (lambda: ViewSpec([STILL, STILL], draws=[1, 1]), "draws"),
        (lambda: ViewSpec([STILL] * 3, draws=[0, 0, 1]), "draws"),
    ],
)
def test_contradictions_of_views_together_fail_too(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_tiles_and_pairs_become_views() -> None:
    tile, patch = replace(STILL, size=12), replace(STILL, size=16)
    tiles, pair = Tiles(view=tile, grid=(2, 3), permutations=9), PatchPair(view=patch)
    spec = ViewSpec([STILL, tiles, pair])
    assert spec.views == (STILL, *[tile] * 6, *[patch] * 2)
    assert spec.draws == (0, *[1] * 6, 7, 8)
    assert spec.arranged == ((1, tiles), (7, pair))


def test_rotations_share_their_draws() -> None:
    spec = ViewSpec.rotations(STILL)
    assert [view.turns for view in spec.views] == [(0,), (1,), (2,), (3,)]
    assert spec.draws == (0, 0, 0, 0)


def test_lab_and_per_view_batches_match_the_formulas() -> None:
    levels = torch.randint(0, 256, (2, 3, 5, 5), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    lab, own = Normalize.lab(mean=(50, 0, 0), std=(100, 110, 110)), Normalize(per_view=True)
    batch = Batch.of_views([levels] * 2, [lab, own])
    in_lab, standard = batch.normalized()
    expected = (lab_of(levels.permute(0, 2, 3, 1).numpy()) - lab.mean) / lab.std
    torch.testing.assert_close(in_lab, torch.from_numpy(expected).permute(0, 3, 1, 2).float(), atol=5e-6, rtol=0)
    mean, std = levels.double().mean((2, 3), True), levels.double().std((2, 3), correction=0, keepdim=True)
    torch.testing.assert_close(standard, ((levels - mean) / std).float())


@pytest.mark.parametrize("normalize", [Normalize(), Normalize.lab(mean=(50, 0, 0)), Normalize(per_view=True)])
def test_frames_of_clips_are_normalised_one_by_one(normalize: Normalize) -> None:
    clips = torch.randint(0, 256, (2, 3, 4, 5, 5), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    whole = normalize_images(clips, normalize)
    for t in range(4):
        frame = normalize_images(clips[:, :, t], normalize)
        # torch's powers differ in the last bits between the body and the end of its vector loops.
        torch.testing.assert_close(whole[:, :, t], frame, atol=1e-4, rtol=0)


def test_normalized_batches_match_the_formula() -> None:
    normalize = Normalize(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    levels = torch.arange(2 * 3 * 4 * 4).reshape(2, 3, 4, 4).to(torch.uint8)
    batch = Batch.of_views([levels], [normalize])
    (images,) = batch.normalized()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (normalize.mean, normalize.std))
    torch.testing.assert_close(images, (levels / 255 - mean) / std)
