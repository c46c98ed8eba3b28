"""What the peers of sounds share: torch's DataLoader around a spectrogram of a random crop of a WAV file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

from headrace.benchmarks.peers import Views
from headrace.pipeline import Mel, SoundSpec

FOREVER = 1 << 30  # samples of an epoch, so that no worker ever runs dry

Spectrogram = Callable[[np.ndarray], Tensor]
"""Of a crop, float32 (samples,): its log-mel spectrogram, float32 (frames, bins), not normalised yet."""


class Crops(Dataset[Tensor]):
    """The spectrogram of a random crop of each file, which starts again where it is too short; the files have the
    rate that is asked for.

    Args:
        spec: one sound in librosa's definition, without resampling and effects.
        make: makes what makes spectrograms, once in each worker.
    """

    def __init__(self, files: Sequence[Path], spec: SoundSpec, make: Callable[[Mel, int], Spectrogram]) -> None:
        (self.sound,) = spec.sounds
        assert self.sound.mel is not None
        self.mel = self.sound.mel
        assert self.mel.definition == "librosa"
        assert self.mel.log == "ln"
        self.files, self._make = list(files), make
        self._spectrogram: Spectrogram | None = None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> Tensor:
        if self._spectrogram is None:
            self._spectrogram = self._make(self.mel, self.sound.rate)
        mel = self._spectrogram(self.crop(self.files[number]))
        return ((mel - self.mel.mean) / self.mel.std)[None]

    def crop(self, path: Path) -> np.ndarray:
        """No more of the file than is needed."""
        import soundfile

        with soundfile.SoundFile(path) as file:
            wanted = self.sound.samples
            start = int(torch.randint(max(1, file.frames - wanted + 1), ()))
            file.seek(start)
            wave = file.read(min(wanted, file.frames), dtype="float32")
        return wave if len(wave) == wanted else np.resize(wave, wanted)


def batches(
    files: Sequence[Path], spec: SoundSpec, make: Callable[[Mel, int], Spectrogram], batch_size: int, workers: int
) -> Iterator[Views]:
    """Batches of one crop a file, in random order, without end."""
    dataset = Crops(files, spec, make)
    sampler = RandomSampler(dataset, replacement=True, num_samples=FOREVER)
    for mels in DataLoader(dataset, batch_size, sampler=sampler, num_workers=workers):
        yield Views([mels])
