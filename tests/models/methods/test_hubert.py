"""HuBERT: labels and their times, centres, the second round, and what fairseq's code says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from headrace.models import build_method
from headrace.models.parts.cepstra import cepstral_basis, with_differences
from headrace.models.parts.masked_vit import take
from headrace.models.parts.speech import frames_of
from headrace.pipeline import Batch, FrameSpanMask, Loader, Mel, Sound, SoundSpec
from headrace.pipeline.sounds.sounds import DrawnSounds, Sounds
from headrace.shards import ShardSet
from headrace.train.recipes import hubert_librispeech
from tests.models.methods.speech_contexts import context
from tests.models.tiny_methods import SPEECH, TINY, tiny

pytestmark = pytest.mark.peer("transformers", "soundfile")
PLAIN = replace(SPEECH, dropout=0.0, attention_dropout=0.0, input_dropout=0.0, layer_drop=0.0)


def hubert(**changes: Any) -> Any:
    return build_method("hubert", **{**TINY["hubert"], "network": PLAIN, **changes})


@pytest.fixture(scope="module")
def batch(sounds_webdataset: ShardSet) -> Batch:
    with Loader(sounds_webdataset, hubert().inputs, 8, threads=1) as loader:
        return next(iter(loader))


def begun(shards: ShardSet, method: Any, epoch: int = 0) -> Any:
    """Behind the hook of an epoch's beginning."""

    def batches(spec: Any) -> Any:
        with Loader(shards, spec, 40, shuffle=False, drop_last=False, threads=1) as loader:
            yield from loader

    place = replace(context(10 * epoch), samples=len(shards), batches=batches)
    with torch.no_grad():
        method.on_epoch(place)
    return method


def test_it_asks_for_the_authors_crops_masks_and_cepstra() -> None:
    network = replace(SPEECH, channels=(8,) * 7, kernels=(10, 3, 3, 3, 3, 2, 2), strides=(5, 2, 2, 2, 2, 2, 2))
    method: Any = build_method("hubert", network=network)
    assert isinstance(method.inputs, SoundSpec)
    wave, mel = method.inputs.sounds
    assert (wave.samples, wave.rate, wave.mel) == (250_000, 16_000, None)
    assert (mel.place, mel.samples, mel.mel) == ("first", 250_000, Mel(bins=23, taper="povey"))
    assert method.inputs.masks == (FrameSpanMask(frames=781, ratio=0.8, span=10, smallest=2),)
    assert method.every == 2  # labels of 100 Hz, frames of 50 Hz
    assert method.centres.shape == (100, 39)
    assert method.probe_inputs == SoundSpec([replace(wave, place="center")])


def test_the_published_run() -> None:
    config = hubert_librispeech()
    assert config.optim.clip == 10.0
    assert config.epochs * (281_241 // config.batch_size) == pytest.approx(400_000, rel=0.003)


def test_labels_are_the_nearest_centres_of_every_nth_frame(batch: Batch) -> None:
    method = hubert()
    method.centres.copy_(torch.randn(6, 15))
    cepstra = with_differences(batch["sound"].mels[0][:, 0] @ cepstral_basis(8, 5))[:, :40]
    torch.testing.assert_close(method.targets(batch), cepstra)
    labels = torch.cdist(cepstra, method.centres).argmin(dim=2)
    (mask,) = batch["sound"].masks
    shares = F.one_hot(labels.gather(1, mask.masked), 6).float().mean(dim=(0, 1))
    torch.testing.assert_close(method.loss(batch)["commonest"], shares.max())


def test_the_mel_of_another_rate_is_thinned() -> None:
    mel = Mel(bins=8, window=20, hop=20, fft=256, taper="povey")
    method = hubert(mel=mel)
    assert method.every == 2
    wave = torch.randn(2, 1610)
    spec = torch.stack([torch.from_numpy(mel.spectrogram(x.numpy(), 8000)) for x in wave])[:, None]
    nothing = torch.zeros(0, dtype=torch.int64)
    part = Sounds(waves=[wave], mels=[spec], drawn=DrawnSounds(nothing, nothing, nothing.float()))
    made = method.targets(Batch(streams={"sound": part}, index=torch.arange(2), labels=None, epoch=0))
    torch.testing.assert_close(made, with_differences(spec[:, 0] @ cepstral_basis(8, 5))[:, :79:2])


def test_a_click_moves_label_and_frame_at_the_same_place() -> None:
    """A second into two, with the authors' spectrogram, kernels and strides."""
    authors = {"kernels": (10, 3, 3, 3, 3, 2, 2), "strides": (5, 2, 2, 2, 2, 2, 2)}
    network = replace(PLAIN, channels=(8,) * 7, **authors)
    method: Any = build_method("hubert", samples=32_000, network=network).eval()
    mel = method.config.mel

    def both(wave: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        spec = torch.from_numpy(mel.spectrogram(wave, 16_000))[None, None]
        nothing = torch.zeros(0, dtype=torch.int64)
        waves = torch.from_numpy(wave)[None]
        part = Sounds(waves=[waves], mels=[spec], drawn=DrawnSounds(nothing, nothing, nothing))
        with torch.no_grad():
            frames = frames_of(method.backbone, waves, 1.0)[0]
        batch = Batch(streams={"sound": part}, index=torch.arange(1), labels=None, epoch=0)
        return method.targets(batch)[0, :, 0], frames

    noise = 1e-3 * np.random.default_rng(0).standard_normal(32_000).astype(np.float32)
    clicked = noise.copy()
    clicked[16_000:16_008] += 1.0
    (label, frame), (label_then, frame_then) = both(noise), both(clicked)
    assert len(label) == len(frame) == 99
    at_label = int((label_then - label).abs().argmax())
    at_frame = int((frame_then - frame).abs().amax(dim=1).argmax())
    assert abs(at_label - at_frame) <= 1
    assert abs(at_frame - 49) <= 1


def test_labels_at_frames_that_are_seen_do_not_count(batch: Batch) -> None:
    method = hubert(penalty=0.0)
    method.centres.copy_(torch.randn(6, 15))
    (mask,) = batch["sound"].masks
    before = method.loss(batch)["loss"]
    seen = torch.ones(8, 40, dtype=torch.bool).scatter(1, mask.masked, False)
    targets = method.targets(batch)
    method.targets = lambda _: torch.where(seen[:, :, None], torch.randn_like(targets), targets)
    assert torch.equal(method.loss(batch)["loss"], before)
    states: list[Any] = []
    method.project.register_forward_pre_hook(lambda _, given: states.append(given[0]))
    method.loss(batch)
    assert states[0].shape[1] == mask.masked.shape[1]


def test_centres_are_found_once_and_are_kept(sounds_webdataset: ShardSet, batch: Batch) -> None:
    method = begun(sounds_webdataset, hubert())
    centres = method.centres.clone()
    assert len(centres.unique(dim=0)) == 6
    assert torch.equal(begun(sounds_webdataset, hubert()).centres, centres)  # a function of the seed
    assert torch.equal(begun(sounds_webdataset, method, epoch=1).centres, centres)
    assert torch.equal(method.state_dict()["centres"], centres)
    targets = method.targets(batch).flatten(0, 1)
    error = torch.cdist(targets, centres).amin(dim=1).square().mean()
    assert error < 0.6 * (targets - targets.mean(dim=0)).square().sum(dim=1).mean()


def test_more_clusters_than_frames_are_refused(sounds_webdataset: ShardSet) -> None:
    with pytest.raises(ValueError, match="clusters must be at most 200, the frames that they are found with, got 201"):
        begun(sounds_webdataset, hubert(clusters=201, cluster_frames=200))


def test_a_second_round_clusters_a_layer_of_the_first_and_begins_anew(
    sounds_webdataset: ShardSet, batch: Batch
) -> None:
    method = hubert(target="layer", target_layer=1).train()
    first = hubert()
    for network in (method.backbone, method.teacher):
        network.load_state_dict(first.backbone.state_dict())
    assert [sound.mel for sound in method.inputs.sounds] == [None]
    assert not method.teacher.training
    (wave,) = batch["sound"].waves
    theirs = first.backbone.eval()(input_values=wave, output_hidden_states=True).hidden_states[1]
    torch.testing.assert_close(method.targets(batch), theirs, rtol=1e-4, atol=1e-5)
    begun(sounds_webdataset, method)
    assert method.centres.any()
    for name, parameter in method.teacher.named_parameters():
        assert torch.equal(parameter, first.backbone.get_parameter(name))
        assert not parameter.requires_grad
    weight = "encoder.layers.0.attention.q_proj.weight"
    assert not torch.equal(method.backbone.get_parameter(weight), first.backbone.get_parameter(weight))
    kept = hubert(target="layer", target_layer=1, fresh=False)
    kept.backbone.load_state_dict(first.backbone.state_dict())
    begun(sounds_webdataset, kept)
    assert torch.equal(kept.backbone.get_parameter(weight), first.backbone.get_parameter(weight))


def test_the_penalty_is_of_frames_before_the_norm(batch: Batch) -> None:
    method = hubert()
    terms = method.loss(batch)
    frames = frames_of(method.backbone, batch["sound"].waves[0], 0.1)
    torch.testing.assert_close(terms["penalty"], frames.square().mean().detach())
    torch.testing.assert_close(terms["loss"].detach(), terms["masked"] + 10 * terms["penalty"])
    assert take(frames, batch["sound"].masks[0].masked).shape[0] == 8


def test_the_spectrogram_is_that_of_the_wave(batch: Batch) -> None:
    config: Any = hubert().config
    (wave,), (mel,) = batch["sound"].waves, batch["sound"].mels
    for row in range(8):
        if int(batch["sound"].drawn.length[row, 0]) == config.samples:
            expected = config.mel.spectrogram(wave[row].numpy(), 8000)
            np.testing.assert_array_equal(mel[row, 0].numpy(), expected)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target": "waves"}, "target must be 'cepstra' or 'layer', got waves"),
        ({"target": "layer", "target_layer": 3}, "target_layer must be 1 to 2, the network's blocks, got 3"),
        ({"cepstra": 9}, "cepstra must be at most 8"),
        ({"mel": Mel(bins=8, window=40, hop=30, fft=256)}, "mel must have a frame for each of the network's 40"),
        ({"mel": Mel(bins=8, window=200, hop=40, fft=256)}, "mel must have a frame for each of the network's 40"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        hubert(**changes)


def test_the_tiny_form_has_a_wave_and_its_mel() -> None:
    inputs: Any = tiny("hubert").inputs
    assert [type(sound) for sound in inputs.sounds] == [Sound, Sound]
