"""Probes against scikit-learn, on features that are easy to see through, and on real digits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from headrace.models import build_method
from headrace.models.parts.backbones import tiny_resnet
from headrace.pipeline import Batch, Loader, Normalize, View, ViewSpec, center_view, plan
from headrace.shards import Field, ShardError, ShardSet, open_shards, write_shards
from headrace.train import RunError
from headrace.train.probes import (
    FinetuneConfig,
    extract_features,
    finetune_probe,
    knn_probe,
    linear_probe,
    pixel_features,
)
from headrace.train.probes import features as features_module
from headrace.train.probes import finetune as finetune_module
from headrace.train.probes import knn as knn_module
from headrace.train.probes.finetune import _groups, cropped, finetune_predictions
from tests.conftest import digit_samples
from tests.train.tiny_runs import tiny_run

Data = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def blobs(spread: float, *, n: int = 300, m: int = 200, d: int = 8, classes: int = 5, seed: int = 0) -> Data:
    """Classes 10, 20, ... as normal clouds around random centres."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(classes, d))
    y = random.integers(0, classes, n + m)
    x = (centres[y] + spread * random.normal(size=(n + m, d))).astype(np.float32)
    return x[:n], 10 * (y[:n] + 1), x[n:], 10 * (y[n:] + 1)


@pytest.mark.parametrize("k", [1, 5, 20])
@pytest.mark.parametrize("spread", [0.1, 0.6, 1.5])
def test_knn_votes_as_scikit_learn_does(k: int, spread: float) -> None:
    train_x, train_y, test_x, test_y = blobs(spread)
    judge = KNeighborsClassifier(k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07))
    expected = judge.fit(train_x, train_y).score(test_x, test_y)
    assert knn_probe(train_x, train_y, test_x, test_y, k=k) == pytest.approx(expected, abs=1 / len(test_y))


def test_knn_corners() -> None:
    x = np.eye(3, dtype=np.float32)
    y = np.array([7, 8, 9])
    assert knn_probe(x, y, 5 * x, y) == 1.0  # length does not matter, and 3 neighbours are all there are
    assert knn_probe(x, y, x, np.array([7, 8, 1])) == pytest.approx(2 / 3)  # a class that nobody has seen
    far = knn_probe(x[[0, 1, 1]], y[[0, 1, 1]], np.array([[1.0, 0.9, 0.0]], np.float32), y[:1], temperature=10.0)
    near = knn_probe(x[[0, 1, 1]], y[[0, 1, 1]], np.array([[1.0, 0.9, 0.0]], np.float32), y[:1], temperature=0.01)
    assert (far, near) == (0.0, 1.0)  # a high temperature counts heads, a low one asks the nearest


@pytest.mark.parametrize(("queries", "bank"), [(7, 11), (1, 300), (200, 3)])
def test_knn_in_blocks_is_knn(queries: int, bank: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also where the training features lie in a file that nobody may write to."""
    train_x, train_y, test_x, _ = blobs(1.0)
    whole = knn_module.knn_predictions(train_x, train_y, test_x, k=9)
    similarity, place = knn_module.nearest(train_x, test_x, 9)
    unit = train_x / np.linalg.norm(train_x, axis=1, keepdims=True)
    expected = (test_x / np.linalg.norm(test_x, axis=1, keepdims=True)) @ unit.T
    np.testing.assert_allclose(similarity, np.sort(expected, axis=1)[:, :-10:-1], atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(expected, place.numpy(), 1), similarity, atol=1e-6)
    monkeypatch.setattr(knn_module, "QUERIES", queries)
    monkeypatch.setattr(knn_module, "BANK", bank)
    np.save(tmp_path / "x.npy", train_x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    np.testing.assert_array_equal(knn_module.knn_predictions(mapped, train_y, test_x, k=9), whole)


@pytest.mark.parametrize("penalty", [1.0, 0.01])
@pytest.mark.parametrize("spread", [0.3, 1.5])
def test_linear_is_scikit_learns_regression(penalty: float, spread: float) -> None:
    train_x, train_y, test_x, test_y = blobs(spread)
    mean, deviation = train_x.mean(0), train_x.std(0)
    judge = LogisticRegression(C=1 / (len(train_x) * penalty), max_iter=500)
    expected = judge.fit((train_x - mean) / deviation, train_y).score((test_x - mean) / deviation, test_y)
    found = linear_probe(train_x, train_y, test_x, test_y, penalties=[penalty])
    assert found == pytest.approx(expected, abs=1 / len(test_y))


def test_linear_chooses_its_penalty_without_the_test_set() -> None:
    train_x, train_y, test_x, test_y = blobs(6.0, n=60, d=40, classes=2)
    swept = linear_probe(train_x, train_y, test_x, test_y)
    alone = {linear_probe(train_x, train_y, test_x, test_y, penalties=[p]) for p in (1.0, 0.1, 0.01, 1e-3, 1e-4)}
    assert len(alone) > 1
    assert swept in alone
    # With the two classes' test labels swapped the same classifier, and so the same penalty, has all answers wrong.
    assert linear_probe(train_x, train_y, test_x, 30 - test_y) == pytest.approx(1 - swept)


def test_linear_takes_constant_features_and_unseen_classes() -> None:
    train_x, train_y, test_x, test_y = blobs(0.2)
    constant = np.full((len(train_x), 1), 3.0, np.float32)
    with_constant = linear_probe(np.hstack([train_x, constant]), train_y, np.hstack([test_x, constant[:200]]), test_y)
    assert with_constant == linear_probe(train_x, train_y, test_x, test_y)
    assert linear_probe(train_x, train_y, test_x, np.full_like(test_y, 1)) == 0.0


@pytest.mark.parametrize("batch_size", [7, 64, 200, 500])
def test_features_cover_every_sample_once_in_order(digits_webdataset: ShardSet, batch_size: int) -> None:
    plain = center_view(28, Normalize(mean=(0, 0, 0), std=(1, 1, 1)))
    features, labels = extract_features(
        lambda batch: batch.normalized()[0].mean((1, 2, 3))[:, None], digits_webdataset, plain, batch_size=batch_size
    )
    stored = [digits_webdataset.read(i) for i in range(len(digits_webdataset))]
    assert features.dtype == np.float32
    assert labels.dtype == np.int64
    np.testing.assert_allclose(features[:, 0], [sample["image"].mean() / 255 for sample in stored], atol=1e-5)
    assert labels.tolist() == [sample["label"] for sample in stored]


def test_samples_without_a_label_are_no_class(tmp_path: Path) -> None:
    some = [sample | {"label": -1 if i % 3 == 0 else sample["label"]} for i, sample in enumerate(digit_samples(20))]
    write_shards(tmp_path / "set", some, {"image": Field(kind="image", encoding="raw"), "label": Field(kind="int")})
    with open_shards(tmp_path / "set") as shards:
        features, labels = pixel_features(shards, 28)
        everything = Loader(shards, center_view(28), 7, shuffle=False, drop_last=False)
        with everything:
            kept = [label for batch in everything for label in batch.labels.tolist() if label != -1]
    assert labels.tolist() == kept == [sample["label"] for sample in some if sample["label"] != -1]
    assert len(features) == len(labels)
    bare = [sample | {"label": -1} for sample in some]
    write_shards(tmp_path / "none", bare, {"image": Field(kind="image", encoding="raw"), "label": Field(kind="int")})
    method, epoch = build_method("simclr", tiny_run("", "").model), FinetuneConfig(epochs=1, batch_size=4)
    with open_shards(tmp_path / "none") as none, open_shards(tmp_path / "set") as some_labels:
        with pytest.raises(RunError, match="none: every label is -1, which stands for none, and probes need some"):
            pixel_features(none, 28)
        with pytest.raises(RunError, match="none: every label is -1, which stands for none, and fine-tuning needs"):
            finetune_probe(method, none, some_labels)
        assert 0.0 <= finetune_probe(method, some_labels, some_labels, epoch) <= 1.0


def test_features_are_taken_in_evaluation_mode(digits_webdataset: ShardSet) -> None:
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3 * 16 * 16)).train()

    class Owner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def encode(self, batch: Batch) -> Tensor:
            assert not torch.is_grad_enabled()
            return self.network(batch.normalized()[0])  # type: ignore[no-any-return]

    owner = Owner().train()
    by_seven, _ = extract_features(owner.encode, digits_webdataset, center_view(16), batch_size=7)
    by_all, _ = extract_features(owner.encode, digits_webdataset, center_view(16), batch_size=200)
    np.testing.assert_array_equal(by_seven, by_all)
    assert owner.training
    assert network.training


def test_pixels_of_grey_images_have_one_channel(digits_webdataset: ShardSet, photos: ShardSet) -> None:
    grey, labels = pixel_features(digits_webdataset, 28)
    assert grey.shape == (200, 28 * 28)
    np.testing.assert_allclose(grey[3].reshape(28, 28), digits_webdataset.read(3)["image"][:, :, 0] / 255, atol=1e-6)
    assert pixel_features(photos, 16)[0].shape == (36, 3 * 16 * 16)
    assert knn_probe(grey[:100], labels[:100], grey[100:], labels[100:], k=1) > 0.6


def test_probes_need_labels(tmp_path: object) -> None:
    write_shards(
        f"{tmp_path}/bare",
        [{"__key__": "0", "image": np.zeros((4, 4, 3), np.uint8)}],
        {"image": Field(kind="image", encoding="raw")},
    )
    with open_shards(f"{tmp_path}/bare") as shards:
        with pytest.raises(RunError, match="bare: has no label field, which probes need"):
            pixel_features(shards, 4)
        with pytest.raises(RunError, match="bare: has no label field, which fine-tuning needs"):
            finetune_probe(build_method("simclr", tiny_run("", "").model), shards, shards)


def test_fine_tuning_learns_and_leaves_the_method_alone(digits_webdataset: ShardSet) -> None:
    method = build_method("simclr", size=28, flip=0.0, crop_scale=(0.6, 1.0), backbone=tiny_resnet(width=8)).eval()
    before = {key: value.clone() for key, value in method.state_dict().items()}
    config = FinetuneConfig(epochs=10, batch_size=50, lr=2e-2, layer_decay=0.9, warmup_epochs=1)
    accuracy = finetune_probe(method, digits_webdataset, digits_webdataset, config)
    assert accuracy > 0.6  # chance is 0.1
    assert all(torch.equal(value, before[key]) for key, value in method.state_dict().items())


def test_fine_tuning_repeats(digits_webdataset: ShardSet) -> None:
    method = build_method("simclr", tiny_run("", "").model)
    changes = {"mixup": 0.8, "cutmix": 1.0, "rand_augment": 9.0, "random_erasing": 0.25}
    plain, changed = FinetuneConfig(epochs=1, batch_size=50), FinetuneConfig(epochs=1, batch_size=50, **changes)
    both = digits_webdataset, digits_webdataset
    predicted = {
        (config, threads): finetune_predictions(method, *both, config, threads=threads)[1]
        for config in (plain, changed)
        for threads in (1, 2)
    }
    for config in (plain, changed):
        assert (predicted[config, 1] == predicted[config, 2]).all()
    assert (predicted[plain, 1] != predicted[changed, 1]).any()


def test_probes_resize_as_the_method_does(digits_webdataset: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever shows the encoder its images: frozen features, and fine-tuning in training and in testing."""
    made: list[ViewSpec] = []

    class Noted(Loader):
        def __init__(self, shards: ShardSet, views: ViewSpec, *arguments: Any, **settings: Any) -> None:
            made.append(views)
            super().__init__(shards, views, *arguments, **settings)

    for module in (features_module, finetune_module):
        monkeypatch.setattr(module, "Loader", Noted)
    config = tiny_run("", "").model
    for interpolation in ("bilinear", "bicubic"):
        method = build_method("simclr", replace(config, interpolation=interpolation))
        made.clear()
        extract_features(method.encode, digits_webdataset, method.probe_inputs)
        finetune_probe(method, digits_webdataset, digits_webdataset, FinetuneConfig(epochs=1, batch_size=100))
        assert [spec.views[0].interpolation for spec in made] == [interpolation] * 3


def test_features_that_are_not_finite_are_no_features(digits_webdataset: ShardSet) -> None:
    with pytest.raises(RunError, match="features of it are not finite, so that no probe means anything"):
        extract_features(
            lambda batch: batch.normalized()[0].mean((1, 2, 3))[:, None] / 0, digits_webdataset, center_view(8)
        )


def test_layers_decay_towards_the_input() -> None:
    method = build_method("simclr", tiny_run("", "").model)
    network = nn.Sequential(method.backbone, nn.Linear(method.feature_dim, 10))
    groups = _groups(network, FinetuneConfig(layer_decay=0.5))
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    named = {name: scale[id(p)] for name, p in network.named_parameters()}
    assert len(scale) == len(list(network.parameters()))
    assert named["1.weight"] == 1.0
    assert named["0.conv1.weight"] < named["0.layer1.0.conv1.weight"] < named["0.layer4.0.conv1.weight"] < 1.0
    assert named["0.layer4.0.conv1.weight"] == 0.5


def test_fine_tuning_sees_crops_and_flips_alone() -> None:
    everything = View(
        size=16,
        interpolation="bicubic",
        turns=(1, 2),
        jitter=1.0,
        brightness=0.4,
        project=1.0,
        grayscale=1.0,
        blur=1.0,
        solarize=1.0,
        erase=1.0,
        normalize=Normalize.lab(),
    )
    view = cropped(everything)
    assert (view.size, view.interpolation, view.flip, view.normalize) == (16, "bicubic", 0.5, Normalize.lab())
    drawn = plan(ViewSpec([view]), 0, 0, np.arange(30), np.full((30, 2), 64))
    words = [drawn.describe(i, 0) for i in range(30)]
    assert set().union(*words) == {"crop", "flip"}
    assert np.array_equal(drawn.crop, plan(ViewSpec([everything]), 0, 0, np.arange(30), np.full((30, 2), 64)).crop)


def test_bad_samples_are_left_out_where_the_run_put_up_with_them(photos: ShardSet, tmp_path: Path) -> None:
    samples = [photos.read(i) for i in range(30)]
    bad = {3, 17}
    for i in bad:
        samples[i]["image"] = samples[i]["image"][:5000]
    write_shards(tmp_path / "set", samples, photos.fields)
    method = build_method("simclr", tiny_run("", "").model)
    with open_shards(tmp_path / "set") as shards:
        for ends in (lambda: pixel_features(shards, 8), lambda: pixel_features(shards, 8, max_bad=1)):
            with pytest.raises(ShardError, match="key photo_00"):
                ends()
        pixels, labels = pixel_features(shards, 8, max_bad=2)
        known = [samples[i]["label"] for i in range(30) if i not in bad]
        assert (len(pixels), labels.tolist()) == (28, known)
        config = FinetuneConfig(epochs=1, batch_size=10)
        assert 0.0 <= finetune_probe(method, shards, shards, config, max_bad=2) <= 1.0
