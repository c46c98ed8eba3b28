"""Loading sounds: against a slow plain loop, resumed at every step, on any threads and ranks, from both formats."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from headrace.pipeline import Batch, Loader, Mel, RandomMask, Sound, SoundPlan, Sounds, SoundSpec, order
from headrace.pipeline.sounds.resample import resample, resampled_length
from headrace.shards import Field, ShardError, ShardSet, open_shards, write_shards
from tests.sounds import SOUND_FIELDS, encoded, sounds

pytestmark = pytest.mark.peer("soundfile")

MEL = Mel(bins=16, window=200, hop=80, fft=256, mean=-5.0, std=4.0)
SPEC = SoundSpec(
    [
        Sound(samples=MEL.samples(32), rate=8000, gain=(-6.0, 6.0), short="loop", mel=MEL),
        Sound(samples=4000, rate=16_000),
        Sound(samples=MEL.samples(64), rate=8000, place="center", mel=MEL),
    ],
    masks=[RandomMask(grid=(4, 2), ratio=0.5)],
)
COUNT = 14


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShardSet]:
    """14 notes in FLAC, Ogg and WAV at three rates."""
    path = tmp_path_factory.mktemp("sounds") / "set"
    write_shards(path, sounds(COUNT), SOUND_FIELDS, shard_size=1 << 17)
    with open_shards(path) as opened:
        yield opened


def make(shards: ShardSet, spec: SoundSpec = SPEC, batch_size: int = 4, **options: Any) -> Loader:
    return Loader(shards, spec, batch_size, **({"seed": 5, "threads": 2} | options))


def copied(batches: Iterator[Batch]) -> list[dict[str, np.ndarray]]:
    found = []
    for batch in batches:
        part = batch["sound"]
        tensors = {"index": batch.index, **part.drawn._asdict(), **part.masks[0]._asdict()}
        tensors |= {f"wave{k}": wave for k, wave in enumerate(part.waves)}
        tensors |= {f"mel{k}": mel for k, mel in enumerate(part.mels)}
        found.append({name: tensor.numpy().copy() for name, tensor in tensors.items()})
    return found


def assert_same(ours: list[dict[str, np.ndarray]], theirs: list[dict[str, np.ndarray]]) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        assert all(np.array_equal(a[name], b[name]) for name in a)


def plain(data: bytes, spec: SoundSpec, sample: int) -> list[np.ndarray]:
    """The whole file decoded and resampled, then cut; K crops."""
    import io

    import soundfile

    samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    samples = samples.mean(axis=1)
    plan = SoundPlan.blank(spec, 5, 0, 1)
    plan.fill(spec, np.array([sample]), np.array([len(samples)]), np.array([rate]))
    found = []
    for k, sound in enumerate(spec.sounds):
        length = resampled_length(len(samples), rate, sound.rate)
        whole = resample(samples, 0, 0, length, rate, sound.rate)
        start, gain = int(plan.start[0, k]), float(plan.gain[0, k])
        wave = whole[start : start + sound.samples] * np.float32(10 ** (gain / 20))
        heard = len(wave)
        while len(wave) < sound.samples:
            more = wave[:heard] if sound.short == "loop" else np.zeros(sound.samples, np.float32)
            wave = np.concatenate([wave, more])[: sound.samples]
        if sound.mel is not None:
            wave = sound.mel.spectrogram(wave, sound.rate, heard if sound.short == "pad" else None)[None]
        found.append(wave)
    return found


def test_a_slow_plain_loop_gives_the_same(shards: ShardSet) -> None:
    with make(shards, drop_last=False) as loader:
        batches = list(loader)
    assert [len(batch) for batch in batches] == [4, 4, 4, 2]
    assert np.array_equal(np.concatenate([batch.index.numpy() for batch in batches]), order(5, 0, COUNT)[:])
    for batch in batches:
        assert isinstance(batch["sound"], Sounds)
        first, third = batch["sound"].mels
        (second,) = batch["sound"].waves
        for row, sample in enumerate(batch.index.tolist()):
            expected = plain(shards.read(sample)["audio"], SPEC, sample)
            for ours, theirs in zip((first[row], second[row], third[row]), expected, strict=True):
                np.testing.assert_array_equal(ours.numpy(), theirs)


def test_batches_have_the_stated_shapes(shards: ShardSet) -> None:
    with make(shards) as loader:
        batch = next(iter(loader))
    part = batch["sound"]
    assert [tuple(mel.shape) for mel in part.mels] == [(4, 1, 32, 16), (4, 1, 64, 16)]
    assert [tuple(wave.shape) for wave in part.waves] == [(4, 4000)]
    assert all(tensor.dtype == torch.float32 for tensor in (*part.mels, *part.waves, part.drawn.gain))
    assert tuple(part.drawn.start.shape) == (4, 3)
    assert batch.masks is part.masks
    assert tuple(batch.masks[0].visible.shape) == (4, 4)
    assert batch.labels is not None
    assert batch.labels.tolist() == [shards.read(i)["label"] for i in batch.index.tolist()]
    halves = batch.parts(2)
    assert torch.equal(halves[1]["sound"].mels[0], part.mels[0][2:])
    assert torch.equal(batch.to("cpu")["sound"].drawn.start, part.drawn.start)


def test_resumes_at_every_step_on_other_ranks_and_threads(shards: ShardSet) -> None:
    with make(shards) as loader:
        states, expected = [loader.state_dict()], []
        for _ in range(2):
            for batch in loader:
                expected += copied(iter([batch]))
                states.append(loader.state_dict())
    for step, state in enumerate(states[:-1]):
        world = 1 + step % 3
        shares = []
        for rank in range(world):
            options = {"rank": rank, "world_size": world, "threads": 1 + step % 4, "prefetch": 1 + step % 2, "seed": 99}
            with make(shards, **options) as resumed:
                resumed.load_state_dict(state)
                rest = copied(iter(resumed))
                if len(rest) < len(expected) - step:
                    rest += copied(iter(resumed))
                shares.append(rest)
        joined = [
            {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            for parts in zip(*shares, strict=True)
        ]
        assert_same(joined, expected[step:])


@pytest.mark.parametrize("format", ["webdataset", "ffcv"])
def test_both_formats_give_the_same(format: Literal["webdataset", "ffcv"], shards: ShardSet, tmp_path: Path) -> None:
    write_shards(tmp_path / "set", sounds(COUNT), SOUND_FIELDS, format=format)
    with open_shards(tmp_path / "set") as opened, make(opened) as one, make(shards) as other:
        assert_same(copied(iter(one)), copied(iter(other)))


BAD = {2, 5, 9}


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShardSet]:
    """The notes, of which one is cut off, one is no sound, and one is not a number."""
    samples = list(sounds(COUNT))
    samples[2]["audio"] = samples[2]["audio"][:100]
    samples[5]["audio"] = b"RIFF\x10\0\0\0WAVE" + bytes(12)
    samples[9]["audio"] = encoded(np.full(9000, np.nan, np.float32), 8000, "wav", "FLOAT")
    path = tmp_path_factory.mktemp("damaged") / "set"
    write_shards(path, samples, SOUND_FIELDS)
    with open_shards(path) as opened:
        yield opened


def test_a_damaged_sound_ends_the_epoch_with_its_name(damaged: ShardSet) -> None:
    said = r"key note_002: cannot decode the sound: cut off: the chunk 'RIFF' at offset 0 lacks"
    with make(damaged, shuffle=False) as loader, pytest.raises(ShardError, match=said) as caught:
        list(loader)
    assert "\n" not in str(caught.value)


def test_substitutes_and_skips(damaged: ShardSet) -> None:
    with make(damaged, on_error="substitute", drop_last=False) as loader:
        whole = list(loader)
        assert set(loader.bad) == BAD
    indices = np.concatenate([batch.index.numpy() for batch in whole])
    assert len(indices) == COUNT
    assert set(indices.tolist()) == set(range(COUNT)) - BAD
    with make(damaged, on_error="substitute", drop_last=False, threads=5, prefetch=1) as loader:
        assert_same(copied(iter(loader)), copied(iter(whole)))
    with make(damaged, on_error="skip", drop_last=False) as loader:
        left = list(loader)
    indices = np.concatenate([batch.index.numpy() for batch in left])
    assert sorted(indices.tolist()) == sorted(set(range(COUNT)) - BAD)
    assert all(len(batch["sound"].mels[0]) == len(batch) for batch in left)


def test_fields_are_found_by_kind_and_name(shards: ShardSet, tmp_path: Path) -> None:
    samples = [{"__key__": s["__key__"], "noise": s["audio"], "speech": s["audio"]} for s in sounds(4)]
    fields = {name: Field(kind="audio", encoding="mixed") for name in ("noise", "speech")}
    write_shards(tmp_path / "two", samples, fields)
    with open_shards(tmp_path / "two") as two:
        with pytest.raises(ValueError, match="several audio fields, noise, speech, and none of them is called audio"):
            make(two)
        with make(two, SoundSpec([SPEC.sounds[1]], field="noise")) as loader:
            assert next(iter(loader))["sound"].waves[0].shape == (4, 4000)
    with pytest.raises(ValueError, match="has no audio field 'speech'; it has audio, label"):
        make(shards, SoundSpec(SPEC.sounds, field="speech"))
