"""What was measured already: a line of JSON each, written when it ended, so that a killed benchmark goes on."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

from headrace.benchmarks.learning.speed import Speed
from headrace.benchmarks.machine import ROOT, versions
from headrace.models import METHODS
from headrace.train import RunConfig

OURS, PEER, INPUT, SPEED = "headrace", "lightly", "input", "speed"
DECIDING = (
    "shards", "pipeline", "models", "train", "benchmarks/learning/training.py", "benchmarks/peers/lightly_methods.py"
)  # fmt: skip
"""Folders and files whose sources decide about a score, beside what a set holds."""
RECIPES_FOLDER = "train/recipes"
"""Not its own: what a recipe says is in the configuration."""
PLACES = ("data", "out", "loader", "log", "checkpoint")
"""Parts of a configuration that do not."""
TOKENIZER_PLACE = "tokenizer"
"""Nor does this part of a method's: the tokenizer is in the set."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training, or the input itself, judged by every probe."""

    digest: str
    """Of what was trained on what; see `digest_of`."""
    sources: str
    """Digest of the sources that it ran with; see `sources_digest`."""
    commit: str
    """Of the same sources."""
    data: str
    method: str
    """Empty for the input itself."""
    side: str
    """OURS, PEER or INPUT."""
    seed: int
    scores: dict[str, float]
    """Probe to accuracy, 0 to 1."""
    untrained: dict[str, float] | None = None
    """The same of the encoder that OURS began with; None for the others."""


R = TypeVar("R", Trial, Speed)


class Records(Generic[R]):
    """What was measured, in memory and as lines in a file.

    Args:
        path: made where it is missing. Several processes may add to one file. A line that a kill cut short is skipped.
        kind: of each record.
    """

    def __init__(self, path: Path, kind: type[R]) -> None:
        self.path = path
        self._found: dict[str, list[R]] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            try:
                record = kind(**json.loads(line))
            except (ValueError, TypeError):
                continue
            self._found.setdefault(record.digest, []).append(record)

    def find(self, digest: str, sources: str | None) -> R | None:
        """The last record of what has this digest, with these sources; None as `sources` stands for any."""
        fitting = [each for each in self._found.get(digest, ()) if sources in (None, each.sources)]
        return fitting[-1] if fitting else None

    def add(self, record: R) -> None:
        self._found.setdefault(record.digest, []).append(record)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            start = b"" if _ends_a_line(file) else b"\n"
            file.write(start + json.dumps(asdict(record)).encode() + b"\n")


def _ends_a_line(file: BinaryIO) -> bool:
    """Whether nothing, or a whole line, stands at the end of the file."""
    if not file.seek(0, os.SEEK_END):
        return True
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def sources_digest(root: Path = ROOT) -> str:
    """Of the Python files that decide about a score, committed or not."""
    digest = hashlib.sha256()
    for place in DECIDING:
        for path in sorted((root / place).rglob("*.py")) if (root / place).is_dir() else [root / place]:
            if path.is_relative_to(root / RECIPES_FOLDER):
                continue
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def digest_of(config: RunConfig | None, *, data: str, content: str, side: str) -> str:
    """A name for what is measured: two with the same one, and the same sources, have the same scores.

    Args:
        config: of the training; None for the input itself.
        data: name of the set.
        content: digest of its samples.
        side: OURS, PEER, INPUT or SPEED.
    """
    whole = [_settings(config) if config else {}, data, content, side, versions()]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]


def _settings(config: RunConfig) -> dict[str, Any]:
    """What decides about scores, and is not as it is by default: a new setting changes no digest of what is without."""
    given, usual = config.to_dict(), RunConfig(method=config.method, model=METHODS[config.method].config()).to_dict()
    found = _differing(given, usual)
    if isinstance(found.get("model"), dict):
        found["model"].pop(TOKENIZER_PLACE, None)
    return {"method": config.method, **{key: x for key, x in found.items() if key not in PLACES}}


def _differing(given: dict[str, Any], usual: dict[str, Any]) -> dict[str, Any]:
    """The entries of `given` that are not those of `usual`, however deep."""
    found = {}
    for key, value in given.items():
        other = usual.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            if inner := _differing(value, other):
                found[key] = inner
        elif value != other:
            found[key] = value
    return found
