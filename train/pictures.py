"""What a method draws of its work, as files that a report shows."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from headrace.models import Method, Piece
from headrace.train.errors import replacing

SAMPLES = 8
"""Drawn each time; always the same."""
_GAP = 2  # pixels between them
_READINGS = "readings.json"
_FOLDER = re.compile(r"step-(\d{8,})")


def draws(method: Method) -> bool:
    """Whether the method has pictures, or readings of texts, at all."""
    kind = type(method)
    return kind.pictures is not Method.pictures or kind.readings is not Method.readings


def save_pictures(out: Path, step: int, pictures: Mapping[str, Tensor]) -> None:
    """Write `out`/pictures/step-XXXXXXXX/NAME.png for each of `Method.pictures`, the samples side by side.

    Raises:
        ValueError: for a name that makes no file, or a tensor that is not (B, 3, H, W).
    """
    folder = out / "pictures" / f"step-{step:08d}"
    folder.mkdir(parents=True, exist_ok=True)
    for name, images in pictures.items():
        if not re.fullmatch(r"\w[\w -]*", name):
            raise ValueError(f"pictures: a name must be of letters, digits, spaces and dashes, got {name!r}")
        if images.ndim != 4 or images.shape[1] != 3 or not len(images):
            raise ValueError(f"pictures: {name} must be of shape (B, 3, H, W), got {tuple(images.shape)}")
        with replacing(folder / f"{name}.png") as aside:
            Image.fromarray(side_by_side(images)).save(aside, "PNG")


def save_readings(out: Path, step: int, readings: Sequence[Sequence[Piece]]) -> None:
    """Write `out`/pictures/step-XXXXXXXX/readings.json for `Method.readings`: a list for each text, in which a token
    stands as itself, or where the method was to name it as [what stands there, what was shown, what it says]."""
    if not readings:
        return
    told = [[piece.token if piece.said is None else list(piece) for piece in text] for text in readings]
    folder = out / "pictures" / f"step-{step:08d}"
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / _READINGS) as aside:
        aside.write_text(json.dumps(told), encoding="utf-8")


def saved_readings(out: Path) -> dict[int, list[list[Piece]]]:
    """Those of the run `out` by step, in order."""
    found = {int(match[1]): path for path in out.glob("pictures/*") if (match := _FOLDER.fullmatch(path.name))}
    read = {}
    for step in sorted(found):
        if (file := found[step] / _READINGS).exists():
            told = json.loads(file.read_text(encoding="utf-8"))
            read[step] = [[Piece(each) if isinstance(each, str) else Piece(*each) for each in text] for text in told]
    return read


def drawn_pictures(out: Path) -> dict[int, dict[str, Path]]:
    """The files of the run `out` by step and name, both in order."""
    found = {int(match[1]): path for path in out.glob("pictures/*") if (match := _FOLDER.fullmatch(path.name))}
    return {step: {path.stem: path for path in sorted(found[step].glob("*.png"))} for step in sorted(found)}


def side_by_side(images: Tensor) -> np.ndarray:
    """float (B, 3, H, W) in [0, 1] as uint8 (H, W', 3), white between the samples; what is not a number is black."""
    levels = (images.float().nan_to_num(0.0).clamp(0, 1) * 255).round().to(torch.uint8)
    pixels = levels.permute(0, 2, 3, 1).cpu().numpy()  # (B, H, W, 3)
    gap = np.full((pixels.shape[1], _GAP, 3), 255, np.uint8)
    return np.concatenate([part for picture in pixels for part in (picture, gap)][:-1], axis=1)
