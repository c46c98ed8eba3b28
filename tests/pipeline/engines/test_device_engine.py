"""Engine `cuda` by Triton's interpreter on the CPU against `native`, and its kernel compiled for GPUs."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headrace.pipeline import Loader
from headrace.shards import Field, ShardSet, open_shards, write_shards
from tests.pipeline.engines.interpreted import BATCH, FLOATS, LOADED, SPECS, drawn

pytestmark = pytest.mark.peer("triton")

FUSED = {"odd side", "colours", "grey before colours"}
"""Specifications with colours: the interpreter rounds fused multiplications twice."""
BLURRED = {"blur", "all", "two sizes"}


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ShardSet]:
    """Pictures that the compiled decoder takes and that it leaves to a library, and stored pixels."""
    pattern = np.random.default_rng(0).integers(0, 256, (14, 18, 3), np.uint8)
    image = Image.fromarray(pattern).resize((54, 40), Image.Resampling.BICUBIC)
    tall = image.rotate(90, expand=True)
    pictures: list[bytes | np.ndarray] = [
        encoded(image, "JPEG", quality=95),
        encoded(tall, "JPEG", quality=90),
        encoded(image, "JPEG", progressive=True),
        encoded(tall, "PNG"),
        np.asarray(image),
        encoded(image.convert("L"), "JPEG"),
    ]
    path = tmp_path_factory.mktemp("device") / "mixed"
    samples = ({"__key__": str(number), "image": picture} for number, picture in enumerate(pictures))
    write_shards(path, samples, {"image": Field(kind="image", encoding="mixed")})
    with open_shards(path) as shards:
        yield shards


@pytest.fixture(scope="module")
def interpreted(mixed: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """What the interpreter drew."""
    out = tmp_path_factory.mktemp("interpreted") / "views.npz"
    script = Path(__file__).with_name("interpreted.py")
    command = [sys.executable, str(script), str(mixed.path), str(out)]
    made = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, encoding="utf-8")
    assert made.returncode == 0, made.stderr
    with np.load(out) as found:
        return dict(found)


@pytest.mark.parametrize("name", SPECS)
def test_levels_are_the_native_engines(name: str, mixed: ShardSet, interpreted: dict[str, np.ndarray]) -> None:
    """Bit for bit; with colours, a level in a thousand is another by one, which operations behind may enlarge; where
    there is a blur, which native calculates in 16 bits, two in a hundred; and solarising may turn it round."""
    for number, ours in enumerate(drawn("native", mixed, SPECS[name])):
        theirs = interpreted[f"{name}/{number}"]
        if name not in FUSED | BLURRED:
            np.testing.assert_array_equal(theirs, ours)
            continue
        difference = np.abs(theirs.astype(int) - ours.astype(int))
        assert difference.mean() < (0.02 if name in BLURRED else 1e-3)
        assert np.mean(difference > 1) < 1e-3


def test_what_is_too_large_for_a_slot_is_cropped_on_the_host(interpreted: dict[str, np.ndarray]) -> None:
    for number in range(2):
        np.testing.assert_array_equal(interpreted[f"cropped here/{number}"], interpreted[f"all/{number}"])


@pytest.mark.parametrize("name", FLOATS)
def test_floats_are_the_native_engines(name: str, mixed: ShardSet, interpreted: dict[str, np.ndarray]) -> None:
    (ours,) = drawn("native", mixed, FLOATS[name], "float32")
    np.testing.assert_allclose(interpreted[f"{name}/0"], ours, rtol=1e-5, atol=2e-4)


@pytest.mark.parametrize("dtype", ["uint8", "bfloat16"])
def test_the_loader_delivers_each_type(dtype: str, mixed: ShardSet, interpreted: dict[str, np.ndarray]) -> None:
    with Loader(mixed, LOADED, BATCH, seed=5, dtype="uint8" if dtype == "uint8" else "float32") as loader:
        batch = next(iter(loader))
    np.testing.assert_array_equal(interpreted[f"index {dtype}"], batch.index.numpy())
    step = {"uint8": 1.0, "bfloat16": 0.03}[dtype]  # a level, and beside it half a step of bfloat16 at 2.6
    for number, view in enumerate(batch.views):
        difference = np.abs(interpreted[f"loaded {dtype}/{number}"] - view.permute(0, 2, 3, 1).float().numpy())
        assert np.mean(difference > step * 1.001) < 2e-3


def test_it_says_that_it_needs_a_gpu(mixed: ShardSet) -> None:
    with pytest.raises(ValueError, match="engine 'cuda' draws on a CUDA device, got 'cpu'"):
        Loader(mixed, SPECS["crop"], 2, engine="cuda")


def test_only_it_delivers_half_precision(mixed: ShardSet) -> None:
    with pytest.raises(
        ValueError, match=r"engine 'native' delivers uint8 or float32, not bfloat16; engine 'cuda' does"
    ):
        Loader(mixed, SPECS["crop"], 2, dtype="bfloat16")


@pytest.mark.parametrize("capability", [75, 80, 90])
def test_the_kernel_compiles_for_gpus(capability: int, compiled: dict[int, dict[str, int]]) -> None:
    """Without a GPU, for Turing, Ampere and Hopper, by Triton's own assembler: no registers spilled to memory."""
    found = compiled[capability]
    assert found["size"] > 10_000
    assert found["stack"] == 0
    assert found["registers"] <= 255


@pytest.fixture(scope="module")
def compiled() -> dict[int, dict[str, int]]:
    """Of the machine code for SimCLR's view at 224 in bfloat16: bytes, registers and bytes of the stack of a thread."""
    import json

    made = subprocess.run([sys.executable, "-c", COMPILING], capture_output=True, encoding="utf-8")
    assert made.returncode == 0, made.stderr
    return {int(key): value for key, value in json.loads(made.stdout).items()}


COMPILING = """
import json, re, subprocess, tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from headrace.pipeline.engines import device_kernel as k

types = {"records": "*i32", "constants": "*fp32", "noise": "*fp32", "levels": "*u8", "weights": "*i32",
         "blurred": "*i16", "out": "*bf16", "pitch": "i32", "threshold": "i32"}
fixed = {"OPERATIONS": sum(k.CODES[name] * 10**i for i, name in enumerate(("jitter", "grayscale", "blur", "solarize"))),
         "TAPS": 23, "BICUBIC": False, "SPACE": k.RGB, "SIZE": 224, "SIDE": 256, "BLOCK": 1024}
names = [*types, *fixed]
found = {}
tools = Path(triton.__file__).parent / "backends/nvidia/bin"
for capability in (75, 80, 90):
    source = ASTSource(k.draw_views, types | dict.fromkeys(fixed, "constexpr"),
                       {(names.index(name),): value for name, value in fixed.items()})
    code = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 8}).asm["cubin"]
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        command = [tools / "cuobjdump", "-res-usage", file.name]
        told = subprocess.run(command, capture_output=True, encoding="utf-8").stdout
    registers, stack = re.search(r"REG:(\\d+) STACK:(\\d+)", told).groups()
    found[capability] = {"size": len(code), "registers": int(registers), "stack": int(stack)}
print(json.dumps(found))
"""
