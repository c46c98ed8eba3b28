"""Sounds to be heard and texts to be read as one page of HTML that needs nothing from outside."""

from __future__ import annotations

import base64
import io
import wave
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.pipeline import Mel, Sound
from headrace.pipeline.sounds.decode import open_sound
from headrace.shards import ShardSet
from headrace.shards.printing import printable
from headrace.tools.evaluation.results import write_aside
from headrace.tools.pictures.delivered import Delivered
from headrace.tools.pictures.page import Section, page, png_uri
from headrace.tools.pictures.show_sounds import ShownSound, coloured, sounds_of
from headrace.tools.pictures.show_texts import Piece, ShownText

COLUMNS = 720
"""Pixels of a picture in which time runs to the right, at most."""
HEIGHT = 96
"""Of a wave's picture."""
SOUNDS_NOTE = (
    "What the method hears: the wave, or where it is given a spectrogram the crop that this is made of, at its "
    "loudness and without what is mixed into it. Time runs to the right, pitch upwards; what a mask hides is grey."
)
TEXTS_NOTE = "What the method reads. A marked token is to be predicted: the token that it was stands below it."


def write_sounds_page(out: Path, shards: ShardSet, streams: Sequence[Delivered], title: str) -> None:
    """A page of `sound_sections`."""
    write_aside(out, page(title, SOUNDS_NOTE, sound_sections(shards, streams)))


def sound_sections(shards: ShardSet, streams: Sequence[Delivered]) -> list[Section]:
    """One a sample: each crop as a player, its wave, its spectrogram, and what each mask leaves of that."""
    sections = []
    for one in streams:
        plain, behind = sounds_of(one), sounds_of(one, masks=True) if one.part.masks else []
        for row, name in enumerate(one.titles):
            html = "".join(_crop(shards, one, row, k, shown) for k, shown in enumerate(plain[row]))
            html += "".join(_figure(_upright(shown), shown.words) for shown in (behind[row][1:] if behind else ()))
            sections.append(Section(printable(name), "", html))
    return sections


def _crop(shards: ShardSet, one: Delivered, row: int, k: int, shown: ShownSound) -> str:
    spec: Any = one.spec
    sound = spec.sounds[k]
    heard = shown.wave if shown.wave is not None else _wave(shards, one, row, k, sound)
    words = "\n".join(shown.words.split("\n")[1 if k == 0 else 0 :])
    html = f'<p class="note">{escape(printable(words.strip(), " · "))}</p>' if words.strip() else ""
    html += f'<audio controls preload="none" src="{wav_uri(heard, sound.rate)}"></audio>'
    html += _figure(wave_picture(heard), "wave")
    image = shown.spectrogram if shown.spectrogram is not None else spectrogram(heard, sound.rate)
    return html + (_figure(image.transpose(1, 0, 2)[::-1], "spectrogram") if image is not None else "")


def _wave(shards: ShardSet, one: Delivered, row: int, k: int, sound: Sound) -> NDArray[np.float32]:
    """The crop that a spectrogram was made of."""
    spec, drawn = one.spec, one.part.drawn
    fields = shards.fields
    field = spec.field or ("audio" if "audio" in fields else next(n for n in fields if fields[n].kind == "audio"))
    place = int(drawn.start[row, k]), int(drawn.length[row, k]), float(drawn.gain[row, k])
    with open_sound(shards.read(int(one.index[row]), [field])[field]) as file:
        heard: NDArray[np.float32] = file.wave(sound, *place)
    return heard


def wav_uri(heard: NDArray[np.float32], rate: int) -> str:
    """A wave, float32 (samples,) in [-1, 1], as a `data:` address of a WAV file with 16 bits; what is louder is cut."""
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(np.rint(np.clip(heard, -1, 1) * 32767).astype("<i2").tobytes())
    return "data:audio/wav;base64," + base64.b64encode(stream.getvalue()).decode()


def wave_picture(heard: NDArray[np.float32]) -> NDArray[np.uint8]:
    """uint8 (`HEIGHT`, at most `COLUMNS`, 3): of each stretch of time what lies between its least and largest value."""
    columns = min(COLUMNS, len(heard))
    begins = np.arange(columns) * len(heard) // columns
    low, high = np.minimum.reduceat(heard, begins), np.maximum.reduceat(heard, begins)
    levels = np.linspace(1, -1, HEIGHT)[:, None]
    half = 1 / (HEIGHT - 1)
    inside = (levels >= low - half) & (levels <= high + half)
    return np.where(inside[..., None], np.array([11, 110, 153]), 255).astype(np.uint8)


def spectrogram(heard: NDArray[np.float32], rate: int) -> NDArray[np.uint8] | None:
    """uint8 (frames, bands, 3) of a wave; None where it is too short for one."""
    mel = Mel(bins=64)
    if len(heard) < mel.samples(1) or rate / 2 <= mel.low:
        return None
    return coloured(mel.spectrogram(heard, rate, None))


def _upright(shown: ShownSound) -> NDArray[np.uint8]:
    assert shown.spectrogram is not None
    return shown.spectrogram.transpose(1, 0, 2)[::-1]


def _figure(pixels: NDArray[np.uint8], words: str) -> str:
    caption = escape(printable(words, " "))
    picture = f'<img src="{png_uri(np.ascontiguousarray(pixels))}" alt="">'
    return f'<figure class="row">{picture}<figcaption>{caption}</figcaption></figure>'


def write_texts_page(out: Path, texts: Sequence[ShownText], title: str) -> None:
    """A section a text, its lines token by token."""
    sections = []
    for text in texts:
        name, *numbers = text.title.split(" · ")
        html = ""
        for line, pieces in text.lines.items():
            spans = " ".join(map(_token, pieces))
            html += f'<p class="note">{escape(line)}</p><p class="tokens">{spans}</p>'
        sections.append(Section(printable(name), " · ".join(numbers), html))
    write_aside(out, page(title, TEXTS_NOTE, sections))


def _token(piece: Piece) -> str:
    kind = "to-predict" if piece.label else "special" if piece.special else "token"
    below = f"<small>{escape(printable(piece.label))}</small>" if piece.label else ""
    return f'<span class="{kind}">{escape(printable(piece.token))}{below}</span>'
