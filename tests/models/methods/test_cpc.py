"""CPC: nothing knows of what comes later, scores and predictors beside a loop, and what the authors' code says."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from headrace.models import build_method
from headrace.models.parts.causal import CausalLayer, ChannelNorm, Recurrent
from headrace.models.seeding import seeded
from headrace.pipeline import Batch, Loader, NegativeFrameDraw
from headrace.shards import ShardSet
from headrace.train.recipes import cpc_librispeech
from tests.models.tiny_methods import TINY, tiny

pytestmark = pytest.mark.peer("soundfile")


def cpc(**changes: Any) -> Any:
    return build_method("cpc", **{**TINY["cpc"], **changes})


@pytest.fixture(scope="module")
def batch(sounds_webdataset: ShardSet) -> Batch:
    with Loader(sounds_webdataset, tiny("cpc").inputs, 4, threads=1) as loader:
        return next(iter(loader))


def test_it_asks_for_the_authors_crops_and_negatives() -> None:
    method: Any = build_method("cpc", predictor_dim=8)
    (sound,) = method.inputs.sounds
    assert (sound.samples, sound.rate, sound.mel) == (20_480, 16_000, None)
    assert method.inputs.masks == (NegativeFrameDraw(frames=116, among=128, count=128),)
    assert len(method.predictors) == 12
    assert [layer.stride for layer in method.backbone.frames if isinstance(layer, nn.Conv1d)] == [
        (5,),
        (4,),
        (2,),
        (2,),
        (2,),
    ]
    assert (method.backbone.context.kind, method.feature_dim) == ("lstm", 256)


def test_the_published_run() -> None:
    config = cpc_librispeech()
    assert (config.optim.lr, config.optim.betas, config.optim.weight_decay) == (2e-4, (0.9, 0.999), 0.0)
    assert (config.epochs, config.schedule.final) == (200, 1.0)


@pytest.mark.parametrize("context", ["lstm", "gru"])
def test_the_recurrent_layer_is_torchs_with_its_gradient(context: Any) -> None:
    ours = Recurrent(context, 5, 7)
    theirs = (nn.LSTM if context == "lstm" else nn.GRU)(5, 7, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, 9, 5, requires_grad=True)
    again = x.detach().clone().requires_grad_()
    found, expected = ours(x), theirs(again)[0]
    torch.testing.assert_close(found, expected)
    weight = torch.randn(3, 9, 7)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(x.grad, again.grad)
    torch.testing.assert_close(ours.weight_hh_l0.grad, theirs.weight_hh_l0.grad)
    assert ours.weight_ih_l0.abs().max().item() <= 1 / math.sqrt(7)


@pytest.mark.parametrize("context", ["lstm", "gru"])
def test_what_comes_later_changes_nothing_before(context: Any) -> None:
    """Bit for bit."""
    method = cpc(context=context).eval()
    wave = torch.randn(1, 1600)
    changed = wave.clone()
    changed[:, 800:] = torch.randn(800)
    with torch.no_grad():
        (frames, states), (frames_then, states_then) = (method.backbone(x) for x in (wave, changed))
    assert torch.equal(frames[:, :20], frames_then[:, :20])  # 40 samples each, none before its own
    assert torch.equal(states[:, :20], states_then[:, :20])
    assert not torch.equal(states[:, 20:], states_then[:, 20:])


def authors_layer(layer: CausalLayer, x: torch.Tensor) -> torch.Tensor:
    """One sound, place by place: attention to j <= i has a key of the distance i - j beside that of frame j."""
    frames, dim = x.shape
    width = dim // layer.heads
    mixed = torch.zeros_like(x)
    query, key, value = (x @ each.weight.T for each in (layer.query, layer.key, layer.value))
    for head in range(layer.heads):
        at = slice(head * width, (head + 1) * width)
        for i in range(frames):
            scores = torch.stack(
                [
                    (
                        query[i, at] @ key[j, at]
                        + query[i, at] @ layer.distances[:, layer.distances.shape[1] - 1 - (i - j)]
                    )
                    / math.sqrt(width)
                    for j in range(i + 1)
                ]
            )
            mixed[i, at] = scores.softmax(0) @ value[: i + 1, at]
    x = layer.norm(x + mixed @ layer.out.weight.T)
    return layer.inner_norm(x + layer.inner(x))


@pytest.mark.parametrize("frames", [6, 4])
def test_a_causal_layer_is_that_of_a_loop(frames: int) -> None:
    with seeded(0):
        layer = CausalLayer(8, 6, heads=2, hidden=12, dropout=0.5).double().eval()
    x = torch.randn(2, frames, 8, dtype=torch.float64)
    with torch.no_grad():
        found = layer(x)
        for row in range(2):
            torch.testing.assert_close(found[row], authors_layer(layer, x[row]))


def test_a_channel_norm_is_of_one_frame_with_the_unbiased_variance() -> None:
    norm = ChannelNorm(6).double()
    norm.weight.data.uniform_()
    norm.bias.data.uniform_()
    x = torch.randn(2, 6, 5, dtype=torch.float64)
    expected = (x - x.mean(1, keepdim=True)) / (x.var(1, keepdim=True) + 1e-5).sqrt() * norm.weight + norm.bias
    torch.testing.assert_close(norm(x), expected)


def test_the_loss_is_the_sum_over_steps(batch: Batch) -> None:
    """Each is at ln(1 + negatives) where predictions are 0."""
    method = cpc(predictor="linear")
    for predictor in method.predictors:
        predictor.weight.data.zero_()
    assert method.loss(batch)["loss"].item() == pytest.approx(3 * math.log(7), abs=1e-5)


def test_step_k_predicts_the_frame_k_later(batch: Batch) -> None:
    """Frames that come again after seven are found at steps seven and fourteen, and at no other, by a predictor that
    says the frame itself."""
    method = cpc(predictor="linear", steps=14, channels=24, context_dim=24, negatives=6)
    frames = 30 * torch.nn.functional.one_hot(torch.arange(40) % 7, 24).float()[None].expand(4, -1, -1)
    method.backbone.forward = lambda waves: (frames, frames)
    for predictor in method.predictors:
        predictor.weight.data.copy_(torch.eye(24))
    draw = NegativeFrameDraw(frames=26, among=40, count=6).draw(0, 0, batch.index.numpy(), 0)
    part = batch["sound"]
    other = type(part)(waves=part.waves, mels=[], masks=[draw], drawn=part.drawn)
    losses: list[float] = []
    import headrace.models.methods.sound.cpc as home

    real = home.future_info_nce

    def noting(*arguments: Any, **options: Any) -> Any:
        found = real(*arguments, **options)
        losses.append(found["loss"].item())
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(home, "future_info_nce", noting)
        method.loss(Batch(streams={"sound": other}, index=batch.index, labels=None, epoch=0))
    low = [step for step, loss in enumerate(losses, start=1) if loss < 1.0]
    assert low == [7, 14]


def test_features_are_the_mean_of_states(batch: Batch) -> None:
    method = cpc().eval()
    with torch.no_grad():
        torch.testing.assert_close(method.encode(batch), method.backbone(batch["sound"].waves[0])[1].mean(dim=1))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"paddings": (0,)}, "kernels must be as many as strides and paddings"),
        ({"context": "rnn"}, "context must be 'lstm' or 'gru', got rnn"),
        ({"context_dim": 8}, "context_dim must be 24, the channels, for a causal layer, got 8"),
        ({"samples": 200}, "samples must give more than 4 frames, got 200"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        cpc(**changes)
