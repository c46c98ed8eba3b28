"""A program: what the kernels make of a set, and whether their code is also to be had for other processors.

Prints JSON: the processor that numba compiled for, digests of batches and of JPEGs, and, for each target that is named
behind the set, the number of functions whose code was made for it.
"""

import hashlib
import json
import re
import sys
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from numba.core.codegen import CPUCodeLibrary
from numba.core.registry import cpu_target

from headrace.pipeline import Loader, Normalize, RandomMask, View, ViewSpec
from headrace.pipeline.jpeg import decode_whole, transcode
from headrace.shards import ShardSet, open_shards

EVERYTHING: dict[str, Any] = {
    "jitter": 0.8,
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.4,
    "hue": 0.1,
    "project": 0.3,
    "drop_channels": 0.3,
    "grayscale": 0.3,
    "blur": 0.5,
    "solarize": 0.3,
    "erase": 0.5,
    "turns": (0, 1, 2, 3),
}
SPEC = ViewSpec(
    [
        View(size=48, **EVERYTHING),
        View(size=33, scale=(0.3, 1.0), interpolation="bicubic", normalize=Normalize.lab()),
        View(size=20, normalize=Normalize(per_view=True)),
    ],
    masks=[RandomMask(grid=(4, 4))] * 3,
)


def batches(shards: ShardSet, dtype: str) -> list[str]:
    """A digest of each view of two batches."""
    digests = [hashlib.sha256() for _ in SPEC.views]
    with Loader(shards, SPEC, 16, seed=3, threads=2, dtype=dtype) as loader:
        for batch, _ in zip(loader, range(2), strict=False):
            for digest, view in zip(digests, batch.views, strict=True):
                digest.update(view.contiguous().numpy().tobytes())
    return [digest.hexdigest() for digest in digests]


def jpegs(shards: ShardSet) -> str:
    """A digest of what becomes of the set's first JPEGs when they are decoded whole and encoded anew."""
    digest = hashlib.sha256()
    spans = shards.spans("image", np.arange(8))
    for i in range(8):
        data, size = shards.read(i)["image"], (int(spans.height[i]), int(spans.width[i]))
        for made in (
            decode_whole(data, *size),
            transcode(data, *size, 80),
        ):
            digest.update(made if isinstance(made, bytes) else b"" if made is None else made.tobytes())
    return digest.hexdigest()


def note_code() -> list[str]:
    """Grows by LLVM's code of each function that numba compiles from now on, as it is before this machine's is made."""
    noted: list[str] = []
    optimize = CPUCodeLibrary._optimize_final_module

    def noting(library: Any) -> None:
        optimize(library)
        noted.append(str(library._final_module))

    CPUCodeLibrary._optimize_final_module = noting
    return noted


COUNTED_DOWN = re.compile(r"(?:tail )?call (i\d+) @llvm\.x86\.atomic\.\w+\.cc\.[\w.]+\([^)]*\)")
"""What LLVM, when it makes this machine's code of a function, puts in the place of numba's counting of references, and
so comes with it into those that call it. No kernel asks for it."""


def code_for(triple: str, functions: list[str]) -> int:
    """How many of these functions have code for another processor, too: all, or LLVM ends this process."""
    machine = llvm.Target.from_triple(triple).create_target_machine(opt=1)
    made = 0
    for text in functions:
        code = llvm.parse_assembly(COUNTED_DOWN.sub(r"add \1 0, 0", text))
        code.triple, code.data_layout = triple, str(machine.target_data)
        made += bool(machine.emit_object(code))
    return made


def main() -> None:
    path, *triples = sys.argv[1:]
    functions = note_code()
    with open_shards(path) as shards:
        found = {dtype: batches(shards, dtype) for dtype in ("uint8", "float32")} | {"jpegs": jpegs(shards)}
    _, name, features = cpu_target.target_context.codegen().magic_tuple()
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    code = {triple: code_for(triple, functions) for triple in triples}
    print(json.dumps({"processor": [name, features], "made": found, "code": code}))


if __name__ == "__main__":
    main()
