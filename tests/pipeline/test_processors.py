"""Kernels on other processors than this one: x86-64 without any extension, and 64-bit ARM."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import llvmlite.binding as llvm
import pytest
from llvmlite import ir

from headrace.pipeline import simd
from headrace.shards import ShardSet

ARM = ["aarch64-unknown-linux-gnu", "arm64-apple-darwin"]


def run(*arguments: str | Path, **environment: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "tests.pipeline.processors", *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        check=False,
        env=os.environ | environment,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.timeout(900)
def test_a_processor_without_extensions_makes_the_same_pixels_and_arm_has_code(
    photos: ShardSet, tmp_path: Path
) -> None:
    """All kernels of images, compiled anew: about a minute of a core."""
    usual = run(photos.path)
    generic = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(tmp_path)}
    found = run(photos.path, *ARM, **generic)
    assert found["processor"] == ["generic", ""]
    assert found["made"] == usual["made"]
    assert all(functions > 20 for functions in found["code"].values()), found["code"]


@pytest.mark.parametrize("triple", [*ARM, "x86_64-unknown-linux-gnu"])
def test_the_clock_is_one_that_programs_may_read(triple: str) -> None:
    module = ir.Module()
    function = ir.Function(module, ir.FunctionType(ir.IntType(64), []), "now")
    builder = ir.IRBuilder(function.append_basic_block())
    context: Any = SimpleNamespace(codegen=lambda: SimpleNamespace(magic_tuple=lambda: (triple, "", "")))
    builder.ret(simd.clock(context, builder))
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    code = llvm.parse_assembly(str(module))
    code.triple = triple
    text = llvm.Target.from_triple(triple).create_target_machine().emit_assembly(code).lower()
    assert ("rdtsc" if triple.startswith("x86") else "cntvct_el0") in text
