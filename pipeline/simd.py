"""Pieces of LLVM code for the kernels that say themselves what goes into which register."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils

i1, i8, i16, i32, i64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))


def vector(count: int, element: Any) -> Any:
    """The type of `count` numbers."""
    return ir.VectorType(element, count)


def numbers(values: Sequence[int]) -> Any:
    """A constant int32 vector, such as a shuffle takes."""
    return ir.Constant(vector(len(values), i32), list(values))


def splat(builder: Any, scalar: Any, count: int) -> Any:
    """A number `count` times."""
    empty = ir.Constant(vector(count, scalar.type), ir.Undefined)
    return builder.shuffle_vector(builder.insert_element(empty, scalar, i32(0)), empty, numbers([0] * count))


def load(builder: Any, address: Any, kind: Any) -> Any:
    """What lies at an address, aligned or not."""
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=1)


def store(builder: Any, value: Any, address: Any) -> None:
    """Puts a value at an address, aligned or not."""
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=1)


def join(builder: Any, vectors: Sequence[Any]) -> Any:
    """One vector of several (a power of two) of the same kind."""
    while len(vectors) > 1:
        places = numbers(range(2 * vectors[0].type.count))
        vectors = [builder.shuffle_vector(a, b, places) for a, b in zip(vectors[::2], vectors[1::2], strict=True)]
    return vectors[0]


def multiply_pairs(context: Any, builder: Any, levels: Any, weights: Any) -> Any:
    """int32 (8,): sums of the products of neighbours of two int16 (16,)."""
    sums, sixteen = vector(8, i32), vector(16, i16)
    if "+avx2" in context.codegen().magic_tuple()[2]:  # one instruction, which LLVM does not find by itself
        kind = ir.FunctionType(sums, [sixteen, sixteen])
        instruction = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx2.pmadd.wd")
        return builder.call(instruction, [levels, weights])
    products = []
    for odd in (0, 1):
        chosen = numbers(range(odd, 16, 2))
        parts = (builder.shuffle_vector(each, each, chosen) for each in (levels, weights))
        products.append(builder.mul(*(builder.sext(part, sums) for part in parts)))
    return builder.add(*products)


def clock(context: Any, builder: Any) -> Any:
    """int64: a counter that runs at one speed on all cores; of what unit is the processor's matter."""
    triple = context.codegen().magic_tuple()[0]
    if triple.startswith(("aarch64", "arm64")):
        # Of `llvm.readcyclecounter` LLVM 15, numba 0.61's, makes a counter that systems let no program read (SIGILL).
        kind = ir.FunctionType(i64, [ir.MetaDataType()])
        read = cgutils.get_or_insert_function(builder.module, kind, "llvm.read_volatile_register.i64")
        return builder.call(read, [builder.module.add_metadata(["cntvct_el0"])])
    kind = ir.FunctionType(i64, [])
    return builder.call(builder.module.declare_intrinsic("llvm.readcyclecounter", fnty=kind), [])
