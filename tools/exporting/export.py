"""An encoder in the format of another program, which makes the same features of it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from headrace.pipeline import TextSpec
from headrace.tools.errors import UserError
from headrace.tools.exporting.function import example, function_of, names, shown
from headrace.tools.exporting.graphs import run_onnx, run_torch, write_onnx, write_torch
from headrace.tools.exporting.networks import (
    run_safetensors,
    run_timm,
    run_transformers,
    write_safetensors,
    write_timm,
    write_transformers,
)
from headrace.tools.placing import FOLDER_OF_OURS, placed
from headrace.train.encoders import Encoder, describe

TOKENIZER = "tokenizer.json"
SAMPLES = 5
"""Of the batch on which both are compared: not as many as the graph was traced with."""


class Format(NamedTuple):
    """A way to write an encoder."""

    ending: str
    """Of the file's name; "" for a folder."""
    write: Callable[[Encoder, Path, dict[str, Any]], None]
    """Given what the network is shown, as `describe` says it."""
    run: Callable[[Path, tuple[Tensor, ...]], Tensor]
    """What was written, loaded as other programs load it, on the arguments of the encoder's function."""
    tolerance: float
    """Difference to put up with, as a share of the largest feature."""


FORMATS = {
    "timm": Format("", lambda encoder, out, _: write_timm(encoder, out), run_timm, 1e-5),
    "safetensors": Format(
        ".safetensors", lambda encoder, out, _: write_safetensors(encoder, out), run_safetensors, 1e-5
    ),
    "transformers": Format("", lambda encoder, out, _: write_transformers(encoder, out), run_transformers, 1e-5),
    "onnx": Format(".onnx", write_onnx, run_onnx, 1e-4),
    "torch": Format(".pt2", write_torch, run_torch, 1e-5),
}
"""By the name that the command line uses. All but ONNX are the same operations in the same library; onnxruntime has
its own, in float32 as well."""


class Exported(NamedTuple):
    """What was written."""

    out: Path
    features: int
    """D."""
    difference: float
    """Largest difference of a feature from ours."""
    largest: float
    """Largest feature of ours, which the difference is to be seen against."""
    samples: int
    """Of the batch that both made features of."""


@torch.no_grad()
def export(encoder: Encoder, format: str, out: Path, *, overwrite: bool = False) -> Exported:
    """Write an encoder, load it again without Headrace's part of it, compare, and put it in its place.

    Beside it stands what it is shown, see `headrace.train.encoders.describe`: OUT/preprocessing.json, or of a file
    X.onnx X.onnx.preprocessing.json. Of a network that reads texts also tokenizer.json, likewise.

    Args:
        format: a key of `FORMATS`.
        out: a folder, or a file with the format's ending.
        overwrite: whether what is there may be replaced.

    Raises:
        UserError: in one line, if the format cannot hold the encoder, `out` is there or has another ending, or the
            features differ. Nothing is written then.
        ImportError: if the format's package is missing, naming the extra.
    """
    way = FORMATS[format]
    if way.ending and out.suffix != way.ending:
        raise UserError(f"{out}: the name of a {format} file ends in {way.ending}")
    function, batch = function_of(encoder), example(encoder, SAMPLES, seed=1)
    ours = function(*batch)
    description = {**describe(encoder.inputs, encoder.side), "network": encoder.name, "features": encoder.feature_dim}
    description |= {"format": format, "arguments": names(encoder)}
    if isinstance(pooling := getattr(encoder.method, "pooling", None), str):
        description["pooling"] = pooling
    also = [beside(out, way, name) for name in (FOLDER_OF_OURS, TOKENIZER)] if way.ending else []
    with placed(out, overwrite, also) as new:
        way.write(encoder, new, description)
        _describe(encoder, new, way, description)
        theirs = way.run(new, batch)
        difference, largest = float((theirs - ours).abs().max()), float(ours.abs().max())
        if not difference <= way.tolerance * largest:
            raise UserError(
                f"{encoder.name} cannot be exported as {format}: its features differ by {difference:.2g} there, "
                f"where the largest is {largest:.2g}"
            )
    return Exported(out, encoder.feature_dim, difference, largest, SAMPLES)


def beside(out: Path, way: Format, name: str) -> Path:
    """Where something about an export lies: in the folder, or beside the file, with its name before."""
    return out.with_name(f"{out.name}.{name}") if way.ending else out / name


def _describe(encoder: Encoder, new: Path, way: Format, description: dict[str, Any]) -> None:
    """preprocessing.json and tokenizer.json."""
    spec = shown(encoder)
    if isinstance(spec, TextSpec):
        tokenizer = beside(new, way, TOKENIZER)
        if not tokenizer.exists():
            shutil.copyfile(os.fspath(spec.tokenizer), tokenizer)
        description = {**description, "tokenizer": tokenizer.name}
    text = json.dumps(description, indent=2) + "\n"
    beside(new, way, FOLDER_OF_OURS).write_text(text, encoding="utf-8")
