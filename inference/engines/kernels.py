"""LoRA's two products for tokens of many adapters: loops, which LLVM compiles (Numba), on the threads that torch has.

A matrix library takes 6 to 30 us for the smallest product, and to gather what goes in and to spread what comes out take as many calls again. Here all products of a
layer's module are one call, and matrices are read as they lie. Source: Punica (Chen et al. 2023), whose names the two products have.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import carray, cfunc, float32, int64, njit, uint16, uint32
from numba.extending import intrinsic, overload
from numpy.typing import NDArray

OPTIONS: dict[str, Any] = {"fastmath": {"contract", "reassoc", "nsz"}, "error_model": "numpy"}
INFINITE, NOT_A_NUMBER = 0x7F800000, 0x7FC0
"""The bits of the one in float32, of the other in bfloat16."""
TOGETHER = 4
"""Tokens of a block: they are multiplied with as many rows of a matrix at once, whose sums and what they are made of fill half of AVX-512's registers."""
LINE = 16
"""Numbers of float32 in a line of the cache."""
ROWS = 16
"""Of a matrix that one token is multiplied with at once: as many sums as TOGETHER makes of a block."""
PADDING = -1
"""In a block that is not full."""
BLOCKS = 8
"""That a thread takes at a time, at most."""
ALONE = 4
"""Blocks up to which one thread does it all: to hand some over would take as long. Of eight, in the engine, two took 91 us and one 101."""
Compiled = Any
"""By Numba, which has no types for mypy."""


TAKEN, Y_AT, X_AT, TOKENS, SLOT_AT, TOKEN_AT, BLOCK_COUNT, EACH, COLUMNS, DOWN_AT, SLOTS, WIDTH, INPUTS, UPS, FIRST_UP = range(15)
"""Where a job, an array of int64, names what is multiplied; addresses end with `_AT`, and numbers lie behind one another: how many parts threads have taken, 0 at first; y (tokens, columns); x (tokens, inputs); their tokens; the slot of each block (blocks); the token at each place (blocks * TOGETHER), or
PADDING; the blocks; how many of them a thread takes at a time; the columns; `down` (slots, width, inputs), whose width is a multiple of TOGETHER; how many kinds of `up` there are, and the first of these."""
UP_AT, COUNT, RANK, OUTPUTS, INNER, OUTER, UP_FIELDS = range(7)
"""Of each kind, one behind the other: `up` (slots * count, rank, outputs); count, rank and outputs; the first column of what `down` makes; the first column of y."""
LONGEST = FIRST_UP + 64 * UP_FIELDS
"""Of a job, as Numba wants to know; nothing reads as far."""


def compiled(compile_it: Callable[..., Any], *signatures: Any) -> Callable[[Callable[..., Any]], Compiled]:
    """Compiles a function, once a machine: a start after that reads what was made, from beside this file or the user's cache. Where neither can be written, each start compiles for itself."""

    def decorate(function: Callable[..., Any]) -> Compiled:
        try:
            return compile_it(*signatures, cache=True, **OPTIONS)(function)
        except RuntimeError:
            return compile_it(*signatures, **OPTIONS)(function)

    return decorate


@intrinsic  # type: ignore[untyped-decorator]
def _as_float(context: Any, bits: Any) -> Any:
    """The float32 of 32 bits."""
    return float32(uint32), lambda _context, builder, _signature, given: builder.bitcast(given[0], ir.FloatType())


@intrinsic  # type: ignore[untyped-decorator]
def _as_bits(context: Any, number: Any) -> Any:
    """The 32 bits of a float32."""
    return uint32(float32), lambda _context, builder, _signature, given: builder.bitcast(given[0], ir.IntType(32))


@intrinsic  # type: ignore[untyped-decorator]
def _numbers_at(context: Any, address: Any, like: Any) -> Any:
    """A pointer to numbers of the kind that the array `like` has."""
    kind = numba.types.CPointer(like.dtype)
    return kind(address, like), lambda context, builder, _signature, given: builder.inttoptr(given[0], context.get_value_type(kind))


@intrinsic  # type: ignore[untyped-decorator]
def _take(context: Any, numbers: Any) -> Any:
    """The first of `numbers`, to which it adds one, as no other thread does meanwhile."""

    def add(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        first = context.make_array(signature.args[0])(context, builder, given[0]).data
        return builder.atomic_rmw("add", first, ir.Constant(ir.IntType(64), 1), "monotonic")

    return int64(numbers), add


@intrinsic  # type: ignore[untyped-decorator]
def _wide(context: Any) -> Any:
    """Loops of the function that calls it use registers of 512 bits, where there are some: LLVM takes those of 256 on Intel's processors, whose clock the wide ones once slowed."""

    def mark(context: Any, builder: Any, _signature: Any, _given: Any) -> Any:
        set.add(builder.function.attributes, '"prefer-vector-width"="512"')  # its own `add` allows those alone that llvmlite has in its list
        return context.get_dummy_value()

    return numba.types.void(), mark


def _single(number: Any) -> Any:
    """A float32, as it is or of the bits of a bfloat16."""


@overload(_single)  # type: ignore[untyped-decorator]
def _single_of(number: Any) -> Callable[..., Any]:
    def same(number: Any) -> Any:
        return number

    def widen(number: Any) -> Any:
        return _as_float(uint32(number) << uint32(16))

    return same if number == float32 else widen


def _put(number: Any, row: Any, at: Any) -> None:
    """Writes a float32 where numbers are as `_single` takes them; to bfloat16 it is rounded to even."""


@overload(_put)  # type: ignore[untyped-decorator]
def _put_into(number: Any, row: Any, at: Any) -> Callable[..., None]:
    def same(number: Any, row: Any, at: Any) -> None:
        row[at] = number

    def narrow(number: Any, row: Any, at: Any) -> None:
        bits = _as_bits(number)  # Numba's sums are of 64 bits, where nothing says otherwise, which halves what a register holds
        odd = uint32(uint32(bits >> uint32(16)) & uint32(1))
        rounded = uint32(uint32(uint32(bits + uint32(0x7FFF)) + odd) >> uint32(16))
        row[at] = uint16(rounded if uint32(bits & uint32(0x7FFFFFFF)) <= uint32(INFINITE) else uint32(NOT_A_NUMBER))

    return same if row.dtype == float32 else narrow


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _space(rows: int, columns: int) -> NDArray[np.float32]:
    """An array (rows, columns) that begins where a line of the cache does: what is read and written 64 bytes at a time would reach over two."""
    numbers = np.empty(rows * columns + LINE, np.float32)
    skipped = -(numbers.ctypes.data // 4) % LINE
    return numbers[skipped : skipped + rows * columns].reshape((rows, columns))


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _shrink(rows: NDArray[np.float32], count: int, matrix: NDArray[Any], inner: NDArray[np.float32]) -> None:
    """Makes the first `count` rows of `inner` (places, width) of those of `rows` (places, inputs) and `matrix` (width, inputs)."""
    _wide()
    width, inputs = matrix.shape
    for r in range(0, width, TOGETHER):
        m0, m1, m2, m3 = matrix[r], matrix[r + 1], matrix[r + 2], matrix[r + 3]
        for place in range(0, count, TOGETHER):
            a, b, c, d = rows[place], rows[place + 1], rows[place + 2], rows[place + 3]
            a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = c0 = c1 = c2 = c3 = d0 = d1 = d2 = d3 = np.float32(0)
            for k in range(inputs):
                n0, n1, n2, n3 = _single(m0[k]), _single(m1[k]), _single(m2[k]), _single(m3[k])
                a0 += a[k] * n0
                a1 += a[k] * n1
                a2 += a[k] * n2
                a3 += a[k] * n3
                b0 += b[k] * n0
                b1 += b[k] * n1
                b2 += b[k] * n2
                b3 += b[k] * n3
                c0 += c[k] * n0
                c1 += c[k] * n1
                c2 += c[k] * n2
                c3 += c[k] * n3
                d0 += d[k] * n0
                d1 += d[k] * n1
                d2 += d[k] * n2
                d3 += d[k] * n3
            inner[place, r], inner[place, r + 1], inner[place, r + 2], inner[place, r + 3] = a0, a1, a2, a3
            inner[place + 1, r], inner[place + 1, r + 1], inner[place + 1, r + 2], inner[place + 1, r + 3] = b0, b1, b2, b3
            inner[place + 2, r], inner[place + 2, r + 1], inner[place + 2, r + 2], inner[place + 2, r + 3] = c0, c1, c2, c3
            inner[place + 3, r], inner[place + 3, r + 1], inner[place + 3, r + 2], inner[place + 3, r + 3] = d0, d1, d2, d3


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _shrink_one(row: NDArray[np.float32], matrix: NDArray[Any], inner: NDArray[np.float32]) -> None:
    """As `_shrink` for one token alone: makes `inner` (width) of `row` (inputs). It adds in the same order."""
    _wide()
    width, inputs = matrix.shape
    for r in range(0, width, ROWS):
        m0, m1, m2, m3 = matrix[r], matrix[r + 1], matrix[r + 2], matrix[r + 3]
        m4, m5, m6, m7 = matrix[r + 4], matrix[r + 5], matrix[r + 6], matrix[r + 7]
        m8, m9, m10, m11 = matrix[r + 8], matrix[r + 9], matrix[r + 10], matrix[r + 11]
        m12, m13, m14, m15 = matrix[r + 12], matrix[r + 13], matrix[r + 14], matrix[r + 15]
        s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = s8 = s9 = s10 = s11 = s12 = s13 = s14 = s15 = np.float32(0)
        for k in range(inputs):
            x = row[k]
            s0 += x * _single(m0[k])
            s1 += x * _single(m1[k])
            s2 += x * _single(m2[k])
            s3 += x * _single(m3[k])
            s4 += x * _single(m4[k])
            s5 += x * _single(m5[k])
            s6 += x * _single(m6[k])
            s7 += x * _single(m7[k])
            s8 += x * _single(m8[k])
            s9 += x * _single(m9[k])
            s10 += x * _single(m10[k])
            s11 += x * _single(m11[k])
            s12 += x * _single(m12[k])
            s13 += x * _single(m13[k])
            s14 += x * _single(m14[k])
            s15 += x * _single(m15[k])
        inner[r], inner[r + 1], inner[r + 2], inner[r + 3] = s0, s1, s2, s3
        inner[r + 4], inner[r + 5], inner[r + 6], inner[r + 7] = s4, s5, s6, s7
        inner[r + 8], inner[r + 9], inner[r + 10], inner[r + 11] = s8, s9, s10, s11
        inner[r + 12], inner[r + 13], inner[r + 14], inner[r + 15] = s12, s13, s14, s15


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _expand_one(target: NDArray[Any], inner: NDArray[np.float32], matrix: NDArray[Any]) -> None:
    """As `_expand` for one token alone: adds to `target` (outputs) what `matrix` (rank, outputs) makes of `inner` (rank)."""
    _wide()
    rank, outputs = matrix.shape
    made = _space(1, outputs)[0]
    made[:] = 0
    for r in range(0, rank, TOGETHER):
        a0, a1, a2, a3 = inner[r], inner[r + 1], inner[r + 2], inner[r + 3]
        u0, u1, u2, u3 = matrix[r], matrix[r + 1], matrix[r + 2], matrix[r + 3]
        for j in range(outputs):
            made[j] += a0 * _single(u0[j]) + a1 * _single(u1[j]) + a2 * _single(u2[j]) + a3 * _single(u3[j])
    for j in range(outputs):
        _put(_single(target[j]) + made[j], target, j)


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _expand(y: NDArray[Any], column: int, tokens: NDArray[np.int64], inner: NDArray[np.float32], first: int, matrix: NDArray[Any]) -> None:
    """Adds to the rows `tokens` of `y` (tokens, columns), from `column` on, what `matrix` (rank, outputs) makes of the columns of `inner` (places, width) from `first` on."""
    _wide()
    rank, outputs = matrix.shape
    made = _space(TOGETHER, outputs)
    of_a, of_b, of_c, of_d = made[0], made[1], made[2], made[3]
    for place in range(0, len(tokens), TOGETHER):
        made[:] = 0
        a, b, c, d = inner[place, first : first + rank], inner[place + 1, first : first + rank], inner[place + 2, first : first + rank], inner[place + 3, first : first + rank]
        for r in range(0, rank - rank % TOGETHER, TOGETHER):
            a0, a1, a2, a3 = a[r], a[r + 1], a[r + 2], a[r + 3]
            b0, b1, b2, b3 = b[r], b[r + 1], b[r + 2], b[r + 3]
            c0, c1, c2, c3 = c[r], c[r + 1], c[r + 2], c[r + 3]
            d0, d1, d2, d3 = d[r], d[r + 1], d[r + 2], d[r + 3]
            u0, u1, u2, u3 = matrix[r], matrix[r + 1], matrix[r + 2], matrix[r + 3]
            for j in range(outputs):
                n0, n1, n2, n3 = _single(u0[j]), _single(u1[j]), _single(u2[j]), _single(u3[j])
                of_a[j] += a0 * n0 + a1 * n1 + a2 * n2 + a3 * n3
                of_b[j] += b0 * n0 + b1 * n1 + b2 * n2 + b3 * n3
                of_c[j] += c0 * n0 + c1 * n1 + c2 * n2 + c3 * n3
                of_d[j] += d0 * n0 + d1 * n1 + d2 * n2 + d3 * n3
        for r in range(rank - rank % TOGETHER, rank):
            u0 = matrix[r]
            for j in range(outputs):
                n0 = _single(u0[j])
                of_a[j] += a[r] * n0
                of_b[j] += b[r] * n0
                of_c[j] += c[r] * n0
                of_d[j] += d[r] * n0
        for i in range(TOGETHER):
            token = tokens[place + i]
            if token != PADDING:
                target, line = y[token, column : column + outputs], made[i]
                for j in range(outputs):
                    _put(_single(target[j]) + line[j], target, j)


@njit(**OPTIONS)  # type: ignore[untyped-decorator]
def _work(job: NDArray[np.int64], like: NDArray[Any]) -> None:
    """A thread's share of a job, whose numbers are of the kind that `like` has."""
    _wide()
    inputs, width, blocks, each = job[INPUTS], job[WIDTH], job[BLOCK_COUNT], job[EACH]
    y = carray(_numbers_at(job[Y_AT], like), (job[TOKENS], job[COLUMNS]))
    x = carray(_numbers_at(job[X_AT], like), (job[TOKENS], inputs))
    down = carray(_numbers_at(job[DOWN_AT], like), (job[SLOTS], width, inputs))
    slots, tokens = carray(_numbers_at(job[SLOT_AT], job), (blocks,)), carray(_numbers_at(job[TOKEN_AT], job), (blocks * TOGETHER,))
    rows, inner = _space(BLOCKS * TOGETHER, inputs), _space(BLOCKS * TOGETHER, width)
    while True:
        block = _take(job) * each
        if block >= blocks:
            return
        end = min(block + each, blocks)
        while block < end:
            slot, after = slots[block], block + 1
            while after < end and slots[after] == slot:
                after += 1
            those = tokens[block * TOGETHER : after * TOGETHER]
            for place in range(len(those)):
                row = rows[place]
                if those[place] == PADDING:
                    row[:] = 0
                else:
                    given = x[those[place]]
                    for k in range(inputs):
                        row[k] = _single(given[k])
            alone = those[1] == PADDING and width % ROWS == 0
            if alone:
                _shrink_one(rows[0], down[slot], inner[0])
            else:
                _shrink(rows, len(those), down[slot], inner)
            for up in range(job[UPS]):
                about = job[FIRST_UP + up * UP_FIELDS : FIRST_UP + (up + 1) * UP_FIELDS]
                count, outputs = about[COUNT], about[OUTPUTS]
                matrices = carray(_numbers_at(about[UP_AT], like), (job[SLOTS] * count, about[RANK], outputs))
                for i in range(count):
                    column, first = about[OUTER] + i * outputs, about[INNER] + i * about[RANK]
                    if alone and about[RANK] % TOGETHER == 0:
                        _expand_one(y[those[0], column : column + outputs], inner[0, first : first + about[RANK]], matrices[slot * count + i])
                    else:
                        _expand(y, column, those, inner, first, matrices[slot * count + i])
            block = after


@compiled(cfunc, numba.void(numba.types.voidptr))
def _in_float32(job: Any) -> None:
    _work(carray(job, (LONGEST,), np.int64), np.empty(0, np.float32))


@compiled(cfunc, numba.void(numba.types.voidptr))
def _in_bfloat16(job: Any) -> None:
    _work(carray(job, (LONGEST,), np.int64), np.empty(0, np.uint16))


def multiplier(job: NDArray[np.int64], kind: torch.dtype) -> Callable[[int], None]:
    """Adds to y what the adapters make of x, as `job`, which lives as long, says whenever it is called, on so many threads; numbers are of `kind`: float32 or bfloat16."""
    work, at, parallel = _in_bfloat16 if kind == torch.bfloat16 else _in_float32, job.ctypes.data, _openmp()
    alone, shared = work.ctypes, work.address

    def multiply(threads: int) -> None:
        if threads > 1 and parallel is not None:
            parallel(shared, at, threads, 0)
        else:
            alone(at)

    return multiply


@cache
def _openmp() -> Any:
    """`GOMP_parallel` of the OpenMP that torch's own products run on, so that it is the same threads: a function is called in each of so many with one argument (libgomp's ABI, which GCC's programs use). None where torch has another OpenMP."""
    for library in (Path(torch.__file__).parent / "lib").glob("libgomp*"):
        found = ctypes.CDLL(str(library)).GOMP_parallel
        found.argtypes, found.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
        return found
    return None
