"""LoRA's two products for few tokens of an adapter each, as a step of decoding has them: loops, which LLVM compiles (Numba).

A matrix library takes 6 to 30 us for the smallest product, and to gather what goes in and to spread what comes out take as many calls again. Here a product is
one call, and reads matrices as they lie. The names are Punica's (Chen et al. 2023).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import carray, float32, int64, njit, uint16, uint32
from numba.extending import intrinsic, overload
from numpy.typing import NDArray

OPTIONS: dict[str, Any] = {"fastmath": {"contract", "reassoc", "nsz"}, "error_model": "numpy"}
INFINITE, NOT_A_NUMBER = 0x7F800000, 0x7FC0
"""The bits of the one in float32, of the other in bfloat16."""
TOGETHER = 4
"""Tokens that are multiplied with as many rows of a matrix at once: their sums and what they are made of fill half of AVX-512's registers."""
PADDING = -1
"""Where a group has no whole number of such blocks."""
Compiled = Any
"""By Numba, which has no types for mypy."""


def compiled(*signatures: Any) -> Callable[[Callable[..., Any]], Compiled]:
    """Compiles a function for its kinds of arguments, once a machine: a start after that reads what was made, from beside this file or the user's cache. Where neither can be written, each start compiles for itself."""

    def compile_it(function: Callable[..., Any]) -> Compiled:
        try:
            return njit(list(signatures), cache=True, **OPTIONS)(function)
        except RuntimeError:
            return njit(list(signatures), **OPTIONS)(function)

    return compile_it


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
        bits = _as_bits(number)
        rounded = (bits + uint32(0x7FFF) + ((bits >> uint32(16)) & uint32(1))) >> uint32(16)
        row[at] = uint16(rounded if (bits & uint32(0x7FFFFFFF)) <= uint32(INFINITE) else uint32(NOT_A_NUMBER))

    return same if row.dtype == float32 else narrow


def _for_both(make: Callable[[Any], Any]) -> tuple[Any, Any]:
    return make(float32), make(uint16)


@compiled(*_for_both(lambda kind: numba.void(int64, int64, kind[:, :, ::1], int64[::1], int64[::1], int64[::1], float32[:, ::1])))
def shrink(x_at: int, count: int, down: NDArray[Any], slots: NDArray[np.int64], starts: NDArray[np.int64], tokens: NDArray[np.int64], inner: NDArray[np.float32]) -> None:
    """Makes `inner` (places, width) of `x` (`count` tokens, inputs), which lies at the address `x_at`, and `down` (slots, width, inputs).

    Group g has slot `slots[g]` and the places from `starts[g]` to `starts[g + 1]`, a multiple of TOGETHER, as width is; a place has the token that `tokens` names, or PADDING. Numbers are float32, or the bits of bfloat16.
    """
    _, width, inputs = down.shape
    x = carray(_numbers_at(x_at, down), (count, inputs))
    rows = np.empty((len(tokens), inputs), np.float32)
    for place in range(len(tokens)):
        row, token = rows[place], tokens[place]
        if token == PADDING:
            row[:] = 0
        else:
            given = x[token]
            for k in range(inputs):
                row[k] = _single(given[k])
    for group in range(len(slots)):
        matrix = down[slots[group]]
        for r in range(0, width, TOGETHER):
            m0, m1, m2, m3 = matrix[r], matrix[r + 1], matrix[r + 2], matrix[r + 3]
            for place in range(starts[group], starts[group + 1], TOGETHER):
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


@compiled(*_for_both(lambda kind: numba.void(int64, int64, int64, int64, float32[:, ::1], int64, kind[:, :, ::1], int64, int64[::1], int64[::1], int64[::1])))
def expand(
    y_at: int, count: int, columns: int, outer: int, inner: NDArray[np.float32], first: int, up: NDArray[Any], projections: int, slots: NDArray[np.int64], starts: NDArray[np.int64], tokens: NDArray[np.int64],
) -> None:  # fmt: skip
    """Adds to `y` (`count` tokens, columns), from column `outer` on, what `up` (slots * projections, rank, outputs) makes of the columns of `inner` from `first` on, a projection beside the other."""
    _, rank, outputs = up.shape
    y = carray(_numbers_at(y_at, up), (count, columns))
    made = np.empty((TOGETHER, outputs), np.float32)
    of_a, of_b, of_c, of_d = made[0], made[1], made[2], made[3]
    for group in range(len(slots)):
        for projection in range(projections):
            matrix, begin, column = up[slots[group] * projections + projection], first + projection * rank, outer + projection * outputs
            for place in range(starts[group], starts[group + 1], TOGETHER):
                made[:] = 0
                a, b, c, d = inner[place, begin : begin + rank], inner[place + 1, begin : begin + rank], inner[place + 2, begin : begin + rank], inner[place + 3, begin : begin + rank]
                for r in range(0, rank - rank % TOGETHER, TOGETHER):
                    a0, a1, a2, a3 = a[r], a[r + 1], a[r + 2], a[r + 3]
                    b0, b1, b2, b3 = b[r], b[r + 1], b[r + 2], b[r + 3]
                    c0, c1, c2, c3 = c[r], c[r + 1], c[r + 2], c[r + 3]
                    e0, e1, e2, e3 = d[r], d[r + 1], d[r + 2], d[r + 3]
                    u0, u1, u2, u3 = matrix[r], matrix[r + 1], matrix[r + 2], matrix[r + 3]
                    for j in range(outputs):
                        r0, r1, r2, r3 = _single(u0[j]), _single(u1[j]), _single(u2[j]), _single(u3[j])
                        of_a[j] += a0 * r0 + a1 * r1 + a2 * r2 + a3 * r3
                        of_b[j] += b0 * r0 + b1 * r1 + b2 * r2 + b3 * r3
                        of_c[j] += c0 * r0 + c1 * r1 + c2 * r2 + c3 * r3
                        of_d[j] += e0 * r0 + e1 * r1 + e2 * r2 + e3 * r3
                for r in range(rank - rank % TOGETHER, rank):
                    u0 = matrix[r]
                    for j in range(outputs):
                        r0 = _single(u0[j])
                        of_a[j] += a[r] * r0
                        of_b[j] += b[r] * r0
                        of_c[j] += c[r] * r0
                        of_d[j] += d[r] * r0
                for i in range(TOGETHER):
                    token = tokens[place + i]
                    if token != PADDING:
                        target, line = y[token, column : column + outputs], made[i]
                        for j in range(outputs):
                            _put(_single(target[j]) + line[j], target, j)
