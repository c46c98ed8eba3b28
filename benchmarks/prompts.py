"""Words and sentences of a telephone exchange, spoken in five languages: 8 kHz, mostly a second or two.

They come with the Debian packages asterisk-core-sounds-LANGUAGE-wav (CC-BY-SA 3.0 and CC-BY 3.0, 18 to 24 MB each),
which `headrace.benchmarks.photographs` fetches and unpacks into its cache folder; nothing is installed.
"""

from __future__ import annotations

import wave
from dataclasses import dataclass
from pathlib import Path

from headrace.benchmarks.errors import SourceMissing
from headrace.benchmarks.photographs import debian_package

LANGUAGES = {"en": "English", "es": "Spanish", "fr": "French", "it": "Italian", "ru": "Russian"}
FOLDER = Path("usr/share/asterisk/sounds")
SILENT = "silence"
"""A folder of nothing but silence."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A recording."""

    path: Path
    """A WAV file of one channel."""
    language: str
    """A key of LANGUAGES."""
    name: str
    """What is said, such as "digits/7"; the same in all languages."""


def prompts(cache: Path | None = None) -> list[Prompt]:
    """By language and name, fetched on first use, without the silent ones and the few whose files are empty.

    Raises:
        SourceMissing: where they cannot be had.
    """
    found = []
    for language in LANGUAGES:
        package = f"asterisk-core-sounds-{language}-wav"
        root = debian_package(package, cache) / FOLDER
        voices = [folder for folder in sorted(root.glob(f"{language}_*")) if folder.is_dir()]
        paths = [(voice, path) for voice in voices for path in sorted(voice.rglob("*.wav"))]
        if not paths:
            raise SourceMissing(f"the Debian package {package} has no sounds in {FOLDER}")
        for voice, path in paths:
            name = path.relative_to(voice).with_suffix("").as_posix()
            if not name.startswith(f"{SILENT}/") and _samples(path):
                found.append(Prompt(path=path, language=language, name=name))
    return found


def _samples(path: Path) -> int:
    with wave.open(str(path)) as sound:
        return sound.getnframes()
