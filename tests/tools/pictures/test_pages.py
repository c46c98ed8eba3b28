"""Pages of sounds and texts: what is heard, seen and read there is what the loader delivered."""

from __future__ import annotations

import base64
import io
import os
import re
import wave
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from headrace.pipeline import PackedTextSpec, RandomMask, Sound, SoundSpec, TokenMask
from headrace.pipeline.sounds.mel import Mel
from headrace.shards import Field, ShardSet, open_shards, write_shards
from headrace.tools.cli import USAGE, main
from headrace.tools.errors import UserError
from headrace.tools.pictures.delivered import delivered
from headrace.tools.pictures.masks import masked
from headrace.tools.pictures.show import show
from headrace.tools.pictures.show_sounds import coloured
from tests import texts

MEL = Mel(bins=32)
SPEC = SoundSpec(
    [Sound(samples=MEL.samples(32), gain=(-3, 3), mel=MEL), Sound(samples=2000)], [RandomMask(grid=(4, 4), ratio=0.5)]
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))


def heard(page: str) -> Iterator[np.ndarray]:
    """The waves of a page's players, -1 to 1."""
    for found in re.findall(r'<audio controls preload="none" src="data:audio/wav;base64,([^"]*)">', page):
        with wave.open(io.BytesIO(base64.b64decode(found))) as file:
            assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 16_000)
            yield np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32767


def pictures(page: str) -> list[np.ndarray]:
    found = re.findall(r'src="data:image/png;base64,([^"]*)"', page)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(each)))) for each in found]


@pytest.mark.peer("soundfile")
def test_sounds_play_as_they_are_delivered(sounds_webdataset: ShardSet, tmp_path: Path) -> None:
    out = tmp_path / "sounds.html"
    assert show("sounds", sounds_webdataset.path, SPEC, out, count=3, seed=2) == [out]
    page = out.read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    one = delivered(sounds_webdataset, SPEC, count=3, seed=2)["sound"]
    waves, images = list(heard(page)), pictures(page)
    assert len(waves) == 3 * 2
    assert len(images) == 3 * (2 + 2 + 1)
    for row, title in enumerate(one.titles):
        assert title in page
        of_mel, own = waves[2 * row : 2 * row + 2]
        delivered_wave = one.part.waves[0][row].numpy()
        assert np.allclose(own, np.clip(delivered_wave, -1, 1), atol=1e-4)
        # The crop behind a spectrogram has that spectrogram, but for rounding to 16 bits.
        length = int(one.part.drawn.length[row, 0])
        again = MEL.spectrogram(of_mel.astype(np.float32), 16_000, length)
        loud = one.part.mels[0][row, 0].numpy() > -6
        assert np.abs(again - one.part.mels[0][row, 0].numpy())[loud].max(initial=0) < 0.2
        first_wave, first_mel, _, second_mel, behind = images[5 * row : 5 * row + 5]
        assert first_wave.shape == (96, 720, 3)
        image = coloured(one.part.mels[0][row, 0].numpy())
        assert np.array_equal(first_mel, image.transpose(1, 0, 2)[::-1])
        mask = type(one.part.masks[0])(*(part[row : row + 1] for part in one.part.masks[0]))
        assert np.array_equal(behind, masked(image, SPEC.masks[0], mask).transpose(1, 0, 2)[::-1])
        assert second_mel.shape[0] == 64


def test_a_waves_picture_reaches_from_its_least_to_its_largest_value() -> None:
    from headrace.tools.pictures.pages import HEIGHT, wave_picture

    quiet = np.zeros(5000, np.float32)
    quiet[1000] = 1.0
    ink = (wave_picture(quiet) != 255).any(axis=2)
    assert ink.sum(axis=0).max() == HEIGHT // 2 + 1
    assert (ink.sum(axis=0) > 2).sum() == 1
    assert wave_picture(np.ones(3, np.float32)).shape == (HEIGHT, 3, 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts")
    samples = ({"__key__": f"text_{n}", "text": f"{text} <b>"} for n, text in enumerate(texts.paragraphs()[:30]))
    write_shards(path / "set", samples, {"text": Field(kind="text")})
    texts.wordpiece(path / "bert.json")
    return path


@pytest.mark.peer("tokenizers")
@pytest.mark.parametrize("packed", [False, True])
def test_texts_are_read_as_they_are_delivered(folder: Path, tmp_path: Path, packed: bool) -> None:
    from tokenizers import Tokenizer

    out = tmp_path / "texts.html"
    arguments = ["show", "texts", str(folder / "set"), "--tokenizer", str(folder / "bert.json"), "--length", "40"]
    arguments += ["--samples", "3", *(["--packed"] if packed else [])]
    assert main([*arguments, "--out", str(out)]) == 0
    page = out.read_text(encoding="utf-8")
    name = Tokenizer.from_file(str(folder / "bert.json")).id_to_token
    from headrace.tools.pictures.show_texts import text_spec

    spec = text_spec(folder / "bert.json", "tokens", length=40, packed=packed)
    with open_shards(folder / "set") as shards:
        part = delivered(shards, spec, count=3)["text"].part
    lines = re.findall(r'<p class="tokens">(.*?)</p>', page)
    assert len(lines) == 3
    for row, line in enumerate(lines):
        found = re.findall(r'<span class="([\w-]+)">([^<]*)(?:<small>([^<]*)</small>)?</span>', line)
        between = [place for place, (_, token, _) in enumerate(found) if token == "║"]
        assert len(between) == (int(part.documents[row, -1]) if packed else 0)
        found = [each for each in found if each[1] != "║"]
        length = int(part.lengths[row])
        masks = part.masks[0]
        assert [unescape(token) for _, token, _ in found] == [
            name(token) for token in masks.tokens[row, :length].tolist()
        ]
        labels = ["" if label == -100 else name(label) for label in masks.labels[row, :length].tolist()]
        assert [unescape(label) for _, _, label in found] == labels
        assert [kind == "to-predict" for kind, _, _ in found] == [bool(label) for label in labels]
    sheet = tmp_path / "texts.png"
    assert main([*arguments, "--out", str(sheet)]) == 0
    assert Image.open(sheet).size[0] > 1000


@pytest.mark.peer("tokenizers")
def test_packed_texts_are_printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["show", "texts", str(folder / "set"), "--tokenizer", str(folder / "bert.json"), "--packed"]
    assert main([*arguments, "--samples", "2", "--length", "64"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"documents, the first from its token \d+ · \d+ to predict", " ".join(printed.split()))
    assert " ║ [CLS]" in " ".join(printed.split())


def test_only_sounds_and_texts_have_pages(folder: Path, tmp_path: Path, sounds_webdataset: ShardSet) -> None:
    with pytest.raises(UserError, match=r"the name of a picture ends in one of \.png"):
        show("masks", sounds_webdataset.path, SPEC, tmp_path / "x.html")
    with pytest.raises(UserError, match="at least one sample"):
        show("sounds", sounds_webdataset.path, SPEC, tmp_path / "x.html", count=0)
    assert main(["show", "texts", str(folder / "set"), "--method", "bert", "--packed"]) == USAGE
    assert not os.path.exists(tmp_path / "x.html")


def test_a_packed_specification_is_its_own(folder: Path) -> None:
    spec = PackedTextSpec(tokenizer=folder / "bert.json", length=16, masks=(TokenMask(),))
    assert spec.plain().length == 16
    assert spec.plain().masks == ()
