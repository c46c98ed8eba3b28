"""As a graph of operations, which holds any network: ONNX, and torch's own."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headrace.pipeline import TextSpec
from headrace.tools.exporting.function import example, function_of, names, shown
from headrace.train.encoders import Encoder

ENTRY = "headrace"
"""Key of a graph's metadata under which what it is shown is written."""
LARGEST = 1 << 31
"""Bytes that an ONNX file holds at most."""


def write_onnx(encoder: Encoder, out: Path, description: dict[str, Any]) -> None:
    """A graph with the inputs of `names`, of any number of samples and, of texts, any length, and the output
    "features". Weights of 2 GB and more lie in a file beside it, OUT.data.

    Raises:
        ImportError: if a package is missing.
    """
    _require_onnx("onnx", "onnxscript", "onnxruntime")
    function = function_of(encoder)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program: Any = torch.onnx.export(
            function,
            example(encoder, 2),
            dynamo=True,
            input_names=names(encoder),
            output_names=["features"],
            dynamic_shapes=_free(encoder),
            verbose=False,
        )
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces, with paths of this machine
    program.model.metadata_props[ENTRY] = json.dumps(description)
    weights = sum(x.numel() * x.element_size() for x in function.state_dict().values())
    program.save(out, external_data=weights > 0.9 * LARGEST)


def run_onnx(out: Path, tensors: tuple[Tensor, ...]) -> Tensor:
    """Features as onnxruntime makes them."""
    _require_onnx("onnxruntime")
    import onnxruntime

    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    given = {each.name: x.numpy() for each, x in zip(session.get_inputs(), tensors, strict=True)}
    return torch.from_numpy(session.run(["features"], given)[0])


def write_torch(encoder: Encoder, out: Path, description: dict[str, Any]) -> None:
    """A program that `torch.export.load` reads, likewise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(function_of(encoder), example(encoder, 2), dynamic_shapes=_free(encoder))
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # paths of this machine
        torch.export.save(program, out, extra_files={f"{ENTRY}.json": json.dumps(description)})


def run_torch(out: Path, tensors: tuple[Tensor, ...]) -> Tensor:
    """Features as the program makes them."""
    return torch.export.load(out).module()(*tensors)


def _free(encoder: Encoder) -> tuple[dict[int, Any], ...]:
    """Which dimensions of the arguments may be of any length."""
    batch = torch.export.Dim("batch", min=1)
    spec = shown(encoder)
    if isinstance(spec, TextSpec):
        return ({0: batch, 1: torch.export.Dim("length", min=1, max=spec.length)},) * 3
    return ({0: batch},)


def _require_onnx(*packages: str) -> None:
    import importlib

    for name in packages:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ImportError(f"ONNX needs the package {name}: pip install headrace[onnx] ({error})") from error
