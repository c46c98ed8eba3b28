"""Every method of images has twenty steps beside a peer, tests of its authors' facts, and the runs that were published,
or stands in a list with its reason."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from headrace.models import METHODS
from headrace.train.recipes import RECIPES
from tests.models import solo_learn_curves
from tests.models.test_reference_curves import LOOPS

IMAGES = [name for name, entry in METHODS.items() if entry.family in ("joint", "masked", "pretext")]
CURVES = {*LOOPS, *solo_learn_curves.LOSSES}

WITHOUT_PEER = {
    **dict.fromkeys(
        (
            "deepcluster", "instance_discrimination", "rotation", "autoencoder", "denoising_autoencoder", "vae",
            "colorization", "inpainting", "context_prediction", "jigsaw", "block_order", "maskfeat", "data2vec2",
        ),
        "neither lightly nor solo-learn nor transformers has the method or its network",
    ),
    "dinov2_gram": "of DINOv3 transformers has the network alone, with other positions, and lightly nothing",
}  # fmt: skip
"""Of them losses have slow loops and torch's own functions as judges (`tests/models/losses`)."""

WITHOUT_IMAGENET = {
    "dinov2_gram": "its authors have run it on networks of their own with seven billion weights",
    "autoencoder": "published on digits: autoencoder_mnist",
    "denoising_autoencoder": "published on digits: denoising_autoencoder_mnist",
    "vae": "published on digits: vae_mnist",
}
WITHOUT_ACCURACY = {
    "deepcluster": "judged by transfer",
    "densecl": "judged by detection and segmentation, whose numbers it has",
    "msn": "none in the repository",
    "w_mse": "none in the repository for ImageNet-100",
    "inpainting": "judged by its pictures",
    "block_order": "none in the repository",
    "data2vec2": "none in the repository",
}
"""Recipes on ImageNet that name none which the authors reached with that network."""

OF_SOLO_LEARN = {
    "barlow_twins": 92.10, "byol": 92.58, "deepcluster_v2": 88.85, "dino": 89.52, "moco_v2": 92.94, "moco_v3": 93.10,
    "nnclr": 91.88, "ressl": 90.63, "simsiam": 90.51, "swav": 89.17, "vicreg": 92.07, "w_mse": 88.67,
}  # fmt: skip
"""Accuracies on CIFAR-10 in the README of vturrisi/solo-learn at 9187ea3, of methods that Headrace has, but for SimCLR,
whose recipe is lightly's."""

TESTS = {
    "moco_v2": "moco",
    "autoencoder": "autoencoders",
    "denoising_autoencoder": "autoencoders",
    "vae": "autoencoders",
}
"""Files that do not have the method's name."""


@pytest.mark.parametrize("name", IMAGES)
def test_a_peer_trains_beside_it_or_there_is_none(name: str) -> None:
    assert (name in CURVES) != (name in WITHOUT_PEER)


@pytest.mark.parametrize("name", IMAGES)
def test_its_authors_facts_have_a_file(name: str) -> None:
    assert (Path(__file__).parent / "methods" / f"test_{TESTS.get(name, name)}.py").is_file()


@pytest.mark.parametrize("name", IMAGES)
def test_it_has_the_published_run_with_its_number(name: str) -> None:
    recipe = RECIPES.get(f"{name}_imagenet")
    assert (recipe is None) == (name in WITHOUT_IMAGENET)
    if recipe is None:
        assert f"{name}_mnist" in RECIPES or name == "dinov2_gram"
    elif name not in WITHOUT_ACCURACY:
        assert re.search(r"\d+(\.\d+)? %", recipe.__doc__ or "")


@pytest.mark.parametrize("name", OF_SOLO_LEARN)
def test_it_quotes_solo_learns_accuracy_on_cifar10(name: str) -> None:
    assert f"{OF_SOLO_LEARN[name]:.2f} % in solo-learn's table" in (RECIPES[f"{name}_cifar10"].__doc__ or "")


def test_lists_name_methods_of_images_alone() -> None:
    for listed in (WITHOUT_PEER, WITHOUT_IMAGENET, WITHOUT_ACCURACY, OF_SOLO_LEARN, TESTS):
        assert set(listed) <= set(IMAGES)
