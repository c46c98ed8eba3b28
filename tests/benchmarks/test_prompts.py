"""Prompts: what is said carries its language and a name that other languages share."""

from __future__ import annotations

import wave
from pathlib import Path

import pytest

from headrace.benchmarks.errors import SourceMissing
from headrace.benchmarks.prompts import FOLDER, LANGUAGES, prompts


def test_names_are_those_below_the_voice_and_what_holds_nothing_is_left_out(tmp_path: Path) -> None:
    for language in LANGUAGES:
        voice = tmp_path / "debian" / f"asterisk-core-sounds-{language}-wav" / FOLDER / f"{language}_XX_f_Somebody"
        for name, samples in {"digits/7": 1, "empty": 0, "hello": 80, "silence/1": 80}.items():
            (voice / name).parent.mkdir(parents=True, exist_ok=True)
            with wave.open(str(voice / f"{name}.wav"), "wb") as sound:
                sound.setparams((1, 2, 8000, samples, "NONE", ""))
                sound.writeframes(bytes(2 * samples))
        (voice / "hello.txt").touch()
    found = prompts(tmp_path)
    assert [(each.language, each.name) for each in found] == [
        (language, name) for language in LANGUAGES for name in ("digits/7", "hello")
    ]
    assert found[0].path.name == "7.wav"


def test_a_package_without_sounds_is_named(tmp_path: Path) -> None:
    (tmp_path / "debian" / "asterisk-core-sounds-en-wav").mkdir(parents=True)
    with pytest.raises(SourceMissing, match="asterisk-core-sounds-en-wav has no sounds"):
        prompts(tmp_path)
