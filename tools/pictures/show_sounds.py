"""Waves and spectrograms of the sounds that a method will see, each with the numbers that made it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray

from headrace.pipeline import FrameSpanMask, Sound
from headrace.tools.pictures.canvas import blank, picture
from headrace.tools.pictures.delivered import Delivered
from headrace.tools.pictures.masks import count_in_words, hidden_rows, masked


@dataclass(frozen=True, kw_only=True)
class ShownSound:
    """One crop of a sound, or what a mask leaves of it."""

    wave: NDArray[np.float32] | None
    """float32 (samples,), of a `Sound` without a spectrogram."""
    spectrogram: NDArray[np.uint8] | None
    """uint8 (frames, bins, 3), else: dark for little, bright for much."""
    words: str
    """Key of the sample and the plan's numbers of the crop, or the mask's."""


def sounds_of(one: Delivered, *, masks: bool = False) -> list[list[ShownSound]]:
    """The crops of a stream of sounds, a row a sample; with `masks` the first one behind each mask, too."""
    spec: Any = one.spec
    rows = []
    for row, title in enumerate(one.titles):
        places = {True: 0, False: 0}
        crops = []
        for k, sound in enumerate(spec.sounds):
            has_mel = sound.mel is not None
            found = (one.part.mels if has_mel else one.part.waves)[places[has_mel]][row].numpy()
            places[has_mel] += 1
            words = "\n".join([title if k == 0 else "", *sound_words(sound, one.part.drawn, row, k)])
            image = coloured(found[0]) if has_mel else None
            crops.append(ShownSound(wave=None if has_mel else found, spectrogram=image, words=words))
        if masks:
            crops = [crops[0], *(_behind(one, crops[0], row, number) for number in range(len(spec.masks)))]
        rows.append(crops)
    return rows


def _behind(one: Delivered, shown: ShownSound, row: int, number: int) -> ShownSound:
    spec: Any = one.spec
    mask = type(one.part.masks[number])(*(part[row : row + 1] for part in one.part.masks[number]))
    words = count_in_words(mask)
    if shown.spectrogram is not None:
        return ShownSound(wave=None, spectrogram=masked(shown.spectrogram, spec.masks[number], mask), words=words)
    assert shown.wave is not None
    wave = shown.wave.copy()
    if isinstance(spec.masks[number], FrameSpanMask):
        wave[hidden_rows(spec.masks[number], mask, len(wave))] = np.nan  # which leaves a gap
    return ShownSound(wave=wave, spectrogram=None, words=words)


def coloured(mel: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(frames, bins) to colours, from its least to its largest value."""
    low, high = float(mel.min()), float(mel.max())
    colours: NDArray[np.uint8] = colormaps["magma"]((mel - low) / max(high - low, 1e-6), bytes=True)[..., :3]
    return colours


def sound_words(sound: Sound, drawn: Any, row: int, k: int) -> list[str]:
    """What was drawn for one crop."""
    start, length = int(drawn.start[row, k]) / sound.rate, int(drawn.length[row, k]) / sound.rate
    words = [f"from {start:.2f} s, {length:.2f} s of {sound.samples / sound.rate:.2f} s"]
    gain = float(drawn.gain[row, k])
    return words + ([f"{gain:+.1f} dB"] if gain else [])


def draw_sounds(rows: list[list[ShownSound]], title: str) -> Figure:
    """A row a sample; time runs to the right, of spectrograms pitch upwards."""
    columns = max(map(len, rows))
    figure = blank((4.0 * columns, 1.7 * len(rows) + 0.5), title)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for line, crops in zip(axes, rows, strict=True):
        for axis, shown in zip(line, crops, strict=True):
            if shown.spectrogram is not None:
                picture(axis, shown.spectrogram.transpose(1, 0, 2)[::-1], shown.words)
                axis.set_aspect("auto")
            else:
                assert shown.wave is not None
                axis.plot(shown.wave, linewidth=0.4, color="0.2")
                axis.set(xlim=(0, len(shown.wave)), ylim=(-1, 1), xticks=[], yticks=[])
                axis.set_xlabel(shown.words, fontsize=6, color="0.35", parse_math=False)
    return figure
