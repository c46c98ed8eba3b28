"""Loads and stores at addresses: the decoder's inner loops pass addresses, since arrays cost more than a block."""

from __future__ import annotations

from llvmlite import ir
from numba import types

from headrace.pipeline.compiled import intrinsic


def _load(result, element):
    """An intrinsic that loads an integer at an address."""

    def load(typingctx, address):
        def codegen(context, builder, signature, arguments):
            number = builder.load(builder.inttoptr(arguments[0], element.as_pointer()), align=1)
            return number if result.bitwidth == element.width else builder.sext(number, ir.IntType(result.bitwidth))

        return result(types.int64), codegen

    return intrinsic(load)


def _store(value, element):
    """An intrinsic that stores the low bits of an integer at an address."""

    def store(typingctx, address, number):
        def codegen(context, builder, signature, arguments):
            narrow = arguments[1] if arguments[1].type == element else builder.trunc(arguments[1], element)
            builder.store(narrow, builder.inttoptr(arguments[0], element.as_pointer()), align=1)
            return context.get_dummy_value()

        return types.void(types.int64, value), codegen

    return intrinsic(store)


load_word = _load(types.uint64, ir.IntType(64))
load_int16 = _load(types.int64, ir.IntType(16))
load_int32 = _load(types.int32, ir.IntType(32))
store_word = _store(types.uint64, ir.IntType(64))
store_int16 = _store(types.int64, ir.IntType(16))


@intrinsic
def load_entry(typingctx, table, place):
    """int64 of the int32 at a place of a table, in one instruction."""

    def codegen(context, builder, signature, arguments):
        entries = builder.inttoptr(arguments[0], ir.IntType(32).as_pointer())
        entry = builder.load(builder.gep(entries, [arguments[1]]), align=4)
        return builder.sext(entry, ir.IntType(64))

    return types.int64(types.int64, types.uint64), codegen


@intrinsic
def swap_bytes(typingctx, word):
    """uint64 with its bytes in the other order."""

    def codegen(context, builder, signature, arguments):
        return builder.bswap(arguments[0])

    return types.uint64(types.uint64), codegen
