"""BYOL-A: its views, its network and its loss beside the authors' code written anew, and what that code says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from headrace.models import build_method
from headrace.models.methods.sound.byol_a import AudioNetwork, normalized_together
from headrace.models.seeding import seeded
from headrace.pipeline import Batch, Loader, LogMixup, ResizeCrop, SoundSpec
from headrace.shards import ShardSet
from headrace.train.recipes import byol_a_audioset
from tests.models.methods.speech_contexts import context
from tests.models.tiny_methods import TINY

pytestmark = pytest.mark.peer("soundfile")


def byol_a(**changes: Any) -> Any:
    return build_method("byol_a", **{**TINY["byol_a"], **changes})


@pytest.fixture(scope="module")
def batch(sounds_webdataset: ShardSet) -> Batch:
    with Loader(sounds_webdataset, byol_a().inputs, 8, threads=1) as loader:
        return next(iter(loader))


def test_it_asks_for_the_authors_views() -> None:
    """0.95 s, 64 bands, both views of one crop, each with a mixture and a part of its own."""
    method: Any = build_method("byol_a", hidden_dim=8, feature_dim=8)
    first, second = method.inputs.sounds
    assert (first.samples, first.rate, first.shape) == (15_200, 16_000, (1, 96, 64))
    assert (first.mixup, first.part) == (LogMixup(ratio=0.4), ResizeCrop())
    assert (first.part.canvas, first.part.frames, first.part.bins) == ((1.5, 1.0), (0.6, 1.5), (0.6, 1.5))
    assert second == replace(first, place="first")
    mel = first.mel
    assert (mel.fft, mel.window, mel.hop, mel.low, mel.high, mel.scale) == (1024, 1024, 160, 60.0, 7800.0, "slaney")
    assert method.probe_inputs == SoundSpec([replace(first, place="center", mixup=None, part=None)])


def test_the_published_run() -> None:
    config = byol_a_audioset()
    assert (config.epochs, config.batch_size, config.optim.lr, config.optim.weight_decay) == (100, 256, 3e-4, 0.0)
    assert (config.model.momentum, config.model.hidden_dim, config.model.projection_dim) == (0.99, 4096, 256)


def test_views_of_one_crop_differ(batch: Batch) -> None:
    part = batch["sound"]
    first, second = part.mels
    assert torch.equal(part.drawn.start[:, 0], part.drawn.start[:, 1])
    assert all(not torch.equal(a, b) for a, b in zip(first, second, strict=True))


def authors_network(network: AudioNetwork, mels: torch.Tensor) -> torch.Tensor:
    """The authors' forward, on (B, 1, bands, times)."""
    x = network.features(mels)
    x = x.permute(0, 3, 2, 1)
    x = x.reshape((*x.shape[:2], -1))
    x = network.fc(x)
    largest, _ = torch.max(x, dim=1)
    return largest + torch.mean(x, dim=1)


def test_the_network_is_the_authors() -> None:
    network = AudioNetwork(16, channels=8, dim=24, dropout=0.3).eval()
    mels = torch.randn(3, 1, 16, 24)  # bands first
    torch.testing.assert_close(network(mels.transpose(2, 3)), authors_network(network, mels))
    names = [name for name, _ in AudioNetwork(64, channels=64, dim=2048, dropout=0.3).named_parameters()]
    assert names == [
        *[f"features.{n}.{what}" for n in (0, 1, 4, 5, 8, 9) for what in ("weight", "bias")],
        *[f"fc.{n}.{what}" for n in (0, 3) for what in ("weight", "bias")],
    ]
    assert dict(network.named_parameters())["fc.0.weight"].shape == (24, 8 * 2)


def test_the_loss_is_byols_on_views_that_are_normalised_together(batch: Batch) -> None:
    method = byol_a(dropout=0.0).train()
    views = torch.cat(batch["sound"].mels)
    views = (views - views.mean()) / views.std()
    first, second = views.chunk(2)
    online, slow = [], []
    with torch.no_grad():
        for view in (first, second):
            online.append(F.normalize(method.predictor(method.projector(method.backbone(view))), dim=1))
            slow.append(F.normalize(method.slow_projector(method.slow_backbone(view)), dim=1))
    expected = (2 - 2 * (online[0] * slow[1]).sum(1)) + (2 - 2 * (online[1] * slow[0]).sum(1))
    torch.testing.assert_close(method.loss(batch)["loss"].detach(), expected.mean(), rtol=1e-4, atol=1e-5)


def test_level_is_no_shortcut() -> None:
    """A shift and a scale of all views change nothing."""
    views = [torch.randn(4, 1, 8, 8), torch.randn(4, 1, 8, 8)]
    found, moved = normalized_together(views), normalized_together([3 * view + 5 for view in views])
    for a, b in zip(found, moved, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    whole = torch.cat(found)
    assert whole.mean().item() == pytest.approx(0, abs=1e-6)
    assert whole.std().item() == pytest.approx(1, abs=1e-5)
    assert all(view.isfinite().all() for view in normalized_together([torch.ones(2, 1, 3, 3)] * 2))


def test_the_slow_network_begins_as_a_copy_has_no_gradient_and_moves_by_a_tenth(batch: Batch) -> None:
    method = byol_a()
    pairs = [(method.slow_backbone, method.backbone), (method.slow_projector, method.projector)]
    for slow, fast in pairs:
        for a, b in zip(slow.parameters(), fast.parameters(), strict=True):
            assert torch.equal(a, b)
            assert not a.requires_grad
    with seeded(0):
        method.loss(batch)["loss"].backward()
    with torch.no_grad():
        for _, fast in pairs:
            for parameter in fast.parameters():
                parameter.add_(1.0)
        before = [x.clone() for slow, _ in pairs for x in slow.parameters()]
        method.after_step(context(3))
    after = [x for slow, _ in pairs for x in slow.parameters()]
    fast = [x for _, module in pairs for x in module.parameters()]
    for a, b, c in zip(before, after, fast, strict=True):
        torch.testing.assert_close(b - a, 0.1 * (c - a))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"frames": 7}, "frames must be at least 8, got 7"),
        ({"mixup": 1.5}, r"mixup must lie in \[0, 1\], got 1.5"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        byol_a(**changes)


def test_without_effects_views_are_the_crop_itself() -> None:
    method = byol_a(mixup=0.0, part=False)
    first, second = method.inputs.sounds
    assert (first.mixup, first.part, second.mixup, second.part) == (None, None, None, None)
