"""wav2vec 2.0 beside `transformers`' Wav2Vec2ForPreTraining with the same weights, and what fairseq's code says."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from headrace.models import build_method
from headrace.models.parts.masked_vit import take
from headrace.models.parts.quantizer import GumbelQuantizer
from headrace.models.parts.speech import frames_of, normed_frames
from headrace.models.seeding import seeded
from headrace.pipeline import Batch, FrameSpanMask, Loader, NegativeFrameDraw, SoundSpec
from headrace.shards import ShardSet
from headrace.train.optim import peak_lr
from headrace.train.recipes import wav2vec2_librispeech
from tests.models.methods.speech_contexts import context
from tests.models.tiny_methods import SPEECH, TINY, tiny

pytestmark = pytest.mark.peer("transformers", "soundfile")
PLAIN = replace(SPEECH, dropout=0.0, attention_dropout=0.0, input_dropout=0.0, layer_drop=0.0)


def without_drops(**changes: Any) -> Any:
    settings = {**TINY["wav2vec2"], "network": PLAIN, "target_dropout": 0.0, **changes}
    return build_method("wav2vec2", **settings)


@pytest.fixture(scope="module")
def batch(sounds_webdataset: ShardSet) -> Batch:
    with Loader(sounds_webdataset, tiny("wav2vec2").inputs, 4, threads=1) as loader:
        return next(iter(loader))


def judge_of(method: Any, **changes: Any) -> Any:
    """transformers' model with the same weights."""
    from transformers import Wav2Vec2ForPreTraining

    config = method.backbone.config
    for key, value in {
        "num_codevector_groups": 2, "num_codevectors_per_group": 4, "codevector_dim": 8, "proj_codevector_dim": 8,
        "contrastive_logits_temperature": 0.1, "diversity_loss_weight": 0.1, "feat_quantizer_dropout": 0.0, **changes,
    }.items():  # fmt: skip
        setattr(config, key, value)
    judge = Wav2Vec2ForPreTraining(config)
    judge.wav2vec2.load_state_dict(method.backbone.state_dict())
    judge.quantizer.weight_proj.load_state_dict(method.quantizer.logits.state_dict())
    judge.quantizer.codevectors.data = method.quantizer.vectors.detach().flatten(0, 1)[None].clone()
    judge.project_q.load_state_dict(method.project_targets.state_dict())
    judge.project_hid.load_state_dict(method.project_states.state_dict())
    return judge


def test_it_asks_for_the_authors_crops_and_masks() -> None:
    method: Any = build_method("wav2vec2", network=replace(SPEECH, channels=(8,) * 7, kernels=(10, 3, 3, 3, 3, 2, 2),
                               strides=(5, 2, 2, 2, 2, 2, 2)))  # fmt: skip
    assert isinstance(method.inputs, SoundSpec)
    (sound,) = method.inputs.sounds
    assert (sound.samples, sound.rate, sound.place, sound.mel) == (250_000, 16_000, "random", None)
    mask, draw = method.inputs.masks
    assert mask == FrameSpanMask(frames=781, ratio=0.65, span=10, smallest=2)
    assert draw == NegativeFrameDraw(frames=mask.masked, among=mask.masked, count=100)


def test_the_published_run() -> None:
    config = wav2vec2_librispeech()
    assert peak_lr(config.optim, config.batch_size) == pytest.approx(5e-4)
    assert (config.optim.betas, config.optim.weight_decay, config.schedule.shape) == ((0.9, 0.98), 0.01, "linear")
    steps = config.epochs * (281_241 // config.batch_size)
    assert steps == pytest.approx(400_000, rel=0.003)
    assert config.schedule.warmup_epochs / config.epochs * 400_000 == pytest.approx(32_000)


def test_with_the_same_weights_it_is_transformers_with_its_gradient(batch: Batch) -> None:
    """In evaluation mode, where codes are chosen without noise. Their loss is a sum over frames, and its codes'
    perplexity is there that of the likeliest ones."""
    method = without_drops(penalty=0.0, diversity=0.0, gradient_scale=1.0).eval()
    judge = judge_of(method).eval()
    (waves,), (mask, draw) = batch["sound"].waves, batch["sound"].masks
    flags = torch.zeros(4, 40, dtype=torch.bool).scatter(1, mask.masked, True)
    negatives = torch.zeros(4, 40, 5, dtype=torch.int64)
    for row in range(4):
        negatives[row, mask.masked[row]] = mask.masked[row][draw.negatives[row]] + 40 * row
    theirs = judge(waves, mask_time_indices=flags, sampled_negative_indices=negatives)
    ours = method.loss(batch)
    count = mask.masked.numel()
    torch.testing.assert_close(ours["contrastive"], theirs.contrastive_loss / count, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours["perplexity"], theirs.codevector_perplexity, rtol=1e-4, atol=1e-5)
    ours["loss"].backward()
    (theirs.contrastive_loss / count).backward()
    for name, parameter in judge.wav2vec2.named_parameters():
        torch.testing.assert_close(
            method.backbone.get_parameter(name).grad,
            parameter.grad,
            rtol=1e-3,
            atol=1e-6,
            msg=lambda m, n=name: f"{n}: {m}",
        )
    torch.testing.assert_close(method.project_states.weight.grad, judge.project_hid.weight.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(method.project_targets.weight.grad, judge.project_q.weight.grad, rtol=1e-4, atol=1e-6)


def test_the_quantiser_is_transformers_with_the_same_noise() -> None:
    from transformers import Wav2Vec2Config
    from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2GumbelVectorQuantizer

    config = Wav2Vec2Config(num_codevector_groups=2, num_codevectors_per_group=5, codevector_dim=6, conv_dim=[8] * 7)
    theirs = Wav2Vec2GumbelVectorQuantizer(config).train()
    ours = GumbelQuantizer(8, groups=2, codes=5, out_dim=6, temperature=1.5).train()
    theirs.temperature = 1.5
    theirs.weight_proj.load_state_dict(ours.logits.state_dict())
    theirs.codevectors.data = ours.vectors.detach().flatten(0, 1)[None].clone()
    frames = torch.randn(3, 7, 8, requires_grad=True)
    again = frames.detach().clone().requires_grad_()
    with seeded(5):
        expected, perplexity = theirs(again)
    with seeded(5):
        found = ours(frames)
    torch.testing.assert_close(found.vectors, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.perplexity, perplexity, rtol=1e-4, atol=1e-4)
    weight = torch.randn(3, 7, 6)
    (found.vectors * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(frames.grad, again.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours.logits.weight.grad, theirs.weight_proj.weight.grad, rtol=1e-4, atol=1e-6)
    chosen = torch.stack([ours.vectors[g][found.codes[:, :, g]] for g in range(2)], dim=2).flatten(2)
    torch.testing.assert_close(found.vectors, chosen)


def test_perplexity_is_the_number_of_codes_where_all_are_alike_and_of_groups_where_one_is_taken() -> None:
    quantizer = GumbelQuantizer(4, groups=2, codes=8, out_dim=6, temperature=2.0).eval()
    quantizer.logits.weight.data.zero_()
    assert quantizer(torch.randn(2, 3, 4)).perplexity.item() == pytest.approx(16, rel=1e-4)
    quantizer.logits.bias.data.copy_(100 * F.one_hot(torch.tensor([3, 5]), 8).flatten().float())
    found = quantizer(torch.randn(2, 3, 4))
    assert found.perplexity.item() == pytest.approx(2, abs=1e-4)
    assert (found.codes == torch.tensor([3, 5])).all()


def test_targets_are_of_frames_that_are_not_hidden(batch: Batch) -> None:
    """Noise at hidden frames of the convolutions' output changes targets, and not the transformer's output."""
    method = without_drops().eval()
    (waves,), (mask, _) = batch["sound"].waves, batch["sound"].masks
    seen: list[Any] = []
    method.project_states.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    method.project_targets.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    norm = method.backbone.feature_projection.layer_norm
    noise = torch.zeros(4, 40, 8).scatter(
        1, mask.masked[:, :, None].expand(-1, -1, 8), torch.randn(4, mask.masked.shape[1], 8)
    )
    with torch.no_grad():
        method.loss(batch)
        handle = norm.register_forward_hook(lambda _, given, made: made + noise)
        method.loss(batch)
        handle.remove()
    torch.testing.assert_close(seen[0], seen[2])
    assert not torch.equal(seen[1], seen[3])
    assert waves.shape == (4, 1610)


def test_the_targets_have_a_gradient_and_the_penalty_is_of_the_frames_before_the_norm(batch: Batch) -> None:
    method = without_drops(diversity=0.0, penalty=0.0).eval()
    method.loss(batch)["loss"].backward()
    assert method.quantizer.vectors.grad.abs().sum() > 0
    terms = without_drops().eval().loss(batch)
    fresh = without_drops().eval()
    frames = frames_of(fresh.backbone, batch["sound"].waves[0], 0.1)
    torch.testing.assert_close(terms["penalty"], frames.square().mean())
    expected = terms["contrastive"] + 0.1 * terms["diversity"] + 10 * terms["penalty"]
    torch.testing.assert_close(terms["loss"].detach(), expected)
    normed = take(normed_frames(fresh.backbone, frames), batch["sound"].masks[0].masked)
    perplexity = fresh.quantizer(normed).perplexity
    torch.testing.assert_close(terms["diversity"], ((8 - perplexity) / 8).detach())


def test_chance_is_the_logarithm_of_the_negatives_and_one(batch: Batch) -> None:
    method = without_drops(negatives=5).eval()
    method.project_states.weight.data.zero_()
    method.project_states.bias.data.fill_(1.0)
    method.project_targets.weight.data.mul_(1e-4)  # cosines nearly alike, codes not
    found = method.loss(batch)["contrastive"].item()
    quantized = method.quantizer(
        take(normed_frames(method.backbone, frames_of(method.backbone, batch["sound"].waves[0], 1.0)),
             batch["sound"].masks[0].masked)
    )  # fmt: skip
    negatives = batch["sound"].masks[1].negatives
    same = (quantized.codes[:, :, None] == quantized.codes[:, None]).all(3)
    left = 5 - same.gather(2, negatives).sum(dim=2)
    assert found == pytest.approx((1 + left).float().log().mean().item(), abs=2e-2)


def test_the_temperature_falls_to_its_end() -> None:
    method = without_drops(gumbel=(2.0, 0.5, 0.9))
    for step, expected in ((0, 2.0), (1, 1.8), (10, 2 * 0.9**10), (13, 2 * 0.9**13), (14, 0.5), (100, 0.5)):
        method.before_step(context(step))
        assert method.quantizer.temperature.item() == pytest.approx(expected)
    assert math.isclose(2 * 0.999995**277_258, 0.5, rel_tol=1e-4)  # the authors' last temperature is reached there


def test_all_parameters_decay_alike() -> None:
    (group,) = tiny("wav2vec2").parameter_groups()
    assert group.decay_scale == 1.0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"samples": 200}, "samples must give more than 5 frames, got 200"),
        ({"code_dim": 7}, "code_dim must be a multiple of groups, got 7"),
        ({"gumbel": (1.0, 2.0, 0.9)}, "gumbel must be 0 < last <= first"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        without_drops(**changes)
