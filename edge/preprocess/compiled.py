"""Preprocessing in one pass of machine code, compiled by numba.

Each source row is converted to RGB and its columns are resampled; then the rows are resampled. The
arithmetic is that of `colour.py`, Pillow and `preprocess.cu`; a test compares them to the byte.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from numba import njit

from edge.preprocess.colour import chroma_siting
from edge.preprocess.resample import PRECISION, Taps
from edge.preprocess.surface import FORMATS, SHIFT, Layout, Surface, rgb_weights

__all__ = ["CACHED", "NOT_CACHED", "Workspace"]

NOT_CACHED = "compiled at each start, as its cache cannot be written: set NUMBA_CACHE_DIR=FOLDER"
CACHED = True  # whether the next process finds the machine code that this one compiles

Bytes: TypeAlias = npt.NDArray[np.uint8]
Ints: TypeAlias = npt.NDArray[np.int32]
_HALF = np.int32(1 << (PRECISION - 1))


class Workspace:
    """Tables and scratch memory for images of one layout, allocated once.

    Use it on one thread at a time. columns, rows: the resampling tables of both axes.
    """

    def __init__(self, layout: Layout, columns: Taps, rows: Taps):
        form, colour = FORMATS[layout.format], layout.colour
        self._form = form
        self._packed = form.is_rgb
        self._columns, self._rows = columns, rows
        first, last = rows.span
        needed = np.zeros(last - first, np.bool_)
        for start, count in zip(rows.first - first, rows.count, strict=True):
            needed[start : start + count] = True
        self._needed = np.flatnonzero(needed)
        self._first = first
        self._middle = np.empty((last - first, 3 * len(columns.first)), np.uint8)
        self._sums = np.empty(3 * len(columns.first), np.int32)
        if not self._packed:
            self._cosited = colour.cosited_across
            self._down = chroma_siting(layout.height, form.down, colour.cosited_down)
            samples = -(-layout.width // form.across)
            self._chroma = np.empty((3, samples), np.int32)  # U, V, and the next row of either
            width = samples * form.across  # one pixel more than a row of odd width
            self._full = np.zeros((3, width), np.int32)
            self._row = np.empty((3, width), np.uint8)
            self._weights = rgb_weights(colour)

    def run(
        self,
        surface: Surface,
        table: npt.NDArray[np.float32],
        order: npt.NDArray[np.intp],
        out: npt.NDArray[np.float32],
    ) -> None:
        """Fill `out`, float32 [3, rows, columns], with `table[c][byte of RGB channel order[c]]`.

        table: float32 [3, 256]. order: intp [3].
        """
        planes = [
            np.lib.stride_tricks.as_strided(
                plane,
                ((plane.shape[0] - 1) * plane.strides[0] + plane.shape[1],),
                (1,),
                writeable=False,
            )
            for plane in surface.planes
        ]
        pitches = [plane.strides[0] for plane in surface.planes]
        columns, rows = self._columns, self._rows
        samples = self._form.samples
        if self._packed:
            order = np.array([samples[k].start for k in order])
            _packed_rows(
                planes[0], pitches[0], samples[0].step, self._first, self._needed,
                columns.first, columns.count, columns.weights, self._middle,
            )  # fmt: skip
        else:
            y, u, v = samples if len(samples) == 3 else (samples[0],) * 3
            _yuv_rows(
                (planes[y.plane], planes[u.plane], planes[v.plane]),
                (pitches[y.plane], pitches[u.plane], pitches[v.plane]),
                (y.start, u.start, v.start), (y.step, u.step, v.step),
                surface.layout.width, len(samples) == 3,
                self._cosited, self._down, self._weights, self._chroma, self._full,
                self._row, self._first, self._needed,
                columns.first, columns.count, columns.weights, self._middle,
            )  # fmt: skip
        _vertical(
            self._middle, rows.first - self._first, rows.count, rows.weights,
            self._sums, table, order, out,
        )  # fmt: skip


def _compiled(function: Callable[..., Any]) -> Any:
    """Compile a function at its first call, and keep the machine code for the next process.

    numba refuses to compile when no folder for its cache can be written, as for a service without a
    home (numba/numba#4032), and its call fails when the disk is full. Here it then compiles again
    in each process, and `CACHED` is False.
    """
    global CACHED
    try:
        compiled = njit(nogil=True, cache=True)(function)
    except RuntimeError:
        CACHED = False
        return njit(nogil=True)(function)
    save = compiled._cache.save_overload

    def save_if_possible(*arguments: Any) -> None:
        global CACHED
        try:
            save(*arguments)
        except OSError:
            CACHED = False

    compiled._cache.save_overload = save_if_possible
    return compiled


# Unsigned indices: for signed ones numba checks at every access whether they count from the end.
_U: Any = np.uintp


@_compiled
def _byte(total):  # type: ignore[no-untyped-def]
    return min(max(np.int32(total), np.int32(0)), np.int32(255))


@njit(nogil=True, inline="always")  # type: ignore[untyped-decorator]
def _resample_two(source, base, apart, step, first, count, weights, out, other):  # type: ignore[no-untyped-def]
    """Two rows of packed pixels, `apart` bytes from each other: each weight is read once."""
    for i in range(first.shape[0]):
        a = b = c = d = e = f = _HALF
        at = base + step * _U(first[i])
        for j in range(count[i]):
            weight, also = weights[i, j], at + apart
            a += np.int32(source[at]) * weight
            b += np.int32(source[at + _U(1)]) * weight
            c += np.int32(source[at + _U(2)]) * weight
            d += np.int32(source[also]) * weight
            e += np.int32(source[also + _U(1)]) * weight
            f += np.int32(source[also + _U(2)]) * weight
            at += step
        out[3 * i] = _byte(a >> PRECISION)
        out[3 * i + 1] = _byte(b >> PRECISION)
        out[3 * i + 2] = _byte(c >> PRECISION)
        other[3 * i] = _byte(d >> PRECISION)
        other[3 * i + 1] = _byte(e >> PRECISION)
        other[3 * i + 2] = _byte(f >> PRECISION)


@_compiled
def _packed_rows(source, pitch, step, top, needed, first, count, weights, out):  # type: ignore[no-untyped-def]
    for k in range(0, needed.shape[0], 2):
        row, after = (
            needed[k],
            needed[min(k + 1, needed.shape[0] - 1)],
        )  # an odd last row is paired with itself
        base, apart = _U((top + row) * pitch), _U((after - row) * pitch)
        # A constant step for each loop is nearly twice as fast.
        if step == 3:
            _resample_two(source, base, apart, _U(3), first, count, weights, out[row], out[after])
        else:
            _resample_two(source, base, apart, _U(4), first, count, weights, out[row], out[after])


@_compiled
def _unpack(plane, start, step, out):  # type: ignore[no-untyped-def]
    """Every `step`th byte of a row. A loop for each step lets the compiler vectorise it."""
    n = out.shape[0]
    if step == 1:
        row = plane[start : start + n]
        for x in range(n):
            out[x] = row[x]
    elif step == 2:
        row = plane[start : start + 2 * n - 1]
        for x in range(n):
            out[x] = row[2 * x]
    else:
        row = plane[start : start + 4 * n - 3]
        for x in range(n):
            out[x] = row[4 * x]


@_compiled
def _across(samples, cosited, out):  # type: ignore[no-untyped-def]
    """Chroma samples in 1/4 levels -> one value in 1/16 levels for each pixel of a row."""
    n = samples.shape[0]
    if out.shape[0] == n:  # not subsampled
        for j in range(n):
            out[j] = 4 * samples[j]
        return
    if cosited:
        for j in range(n - 1):
            out[2 * j] = 4 * samples[j]
            out[2 * j + 1] = 2 * (samples[j] + samples[j + 1])
        out[2 * n - 2] = 4 * samples[n - 1]
    else:
        out[0] = 4 * samples[0]
        for j in range(n - 1):
            out[2 * j + 1] = 3 * samples[j] + samples[j + 1]
            out[2 * j + 2] = samples[j] + 3 * samples[j + 1]
    out[2 * n - 1] = 4 * samples[n - 1]


@_compiled
def _yuv_rows(  # type: ignore[no-untyped-def]
    planes, pitches, starts, steps, pixels, colour, cosited, down, matrix, chroma, full, rgb,
    top, needed, first, count, weights, out,
):  # fmt: skip
    near_y, next_y, f_y = down
    columns = full.shape[1]
    luma, u_full, v_full = full[0], full[1], full[2]
    after = chroma[2]
    for row in needed:
        r = top + row
        _unpack(planes[0], r * pitches[0] + starts[0], steps[0], luma[:pixels])
        if colour:
            f = f_y[r]
            for k in range(2):
                plane, pitch, start, step = (
                    planes[1 + k],
                    pitches[1 + k],
                    starts[1 + k],
                    steps[1 + k],
                )
                blended, wide = chroma[k], full[1 + k]
                _unpack(plane, near_y[r] * pitch + start, step, blended)
                _unpack(plane, next_y[r] * pitch + start, step, after)
                for x in range(blended.shape[0]):
                    blended[x] = blended[x] * (4 - f) + after[x] * f
                _across(blended, cosited, wide)
        else:
            u_full[:] = 16 * 128
            v_full[:] = 16 * 128
        for c in range(3):
            y, u, v, offset = matrix[c, 0], matrix[c, 1], matrix[c, 2], matrix[c, 3]
            plane = rgb[c]
            for x in range(columns):
                total = np.int32(luma[x] * y + u_full[x] * u + v_full[x] * v + offset)
                plane[x] = _byte(total >> SHIFT)
        _resample_planes(rgb, first, count, weights, out[row])


@_compiled
def _resample_planes(rgb, first, count, weights, out):  # type: ignore[no-untyped-def]
    """One row of three planes."""
    red, green, blue = rgb[0], rgb[1], rgb[2]
    for i in range(first.shape[0]):
        a = b = c = _HALF
        at = _U(first[i])
        for j in range(count[i]):
            weight = weights[i, j]
            a += np.int32(red[at]) * weight
            b += np.int32(green[at]) * weight
            c += np.int32(blue[at]) * weight
            at += _U(1)
        out[3 * i] = _byte(a >> PRECISION)
        out[3 * i + 1] = _byte(b >> PRECISION)
        out[3 * i + 2] = _byte(c >> PRECISION)


@_compiled
def _vertical(middle, first, count, weights, sums, table, order, out):  # type: ignore[no-untyped-def]
    columns = out.shape[2]
    for i in range(first.shape[0]):
        sums[:] = _HALF
        for j in range(count[i]):
            weight = weights[i, j]
            row = middle[first[i] + j]
            for x in range(sums.shape[0]):
                sums[x] += np.int32(row[x]) * weight
        for c in range(3):
            values, channel = table[c], order[c]
            for x in range(columns):
                out[c, i, x] = values[_byte(sums[3 * x + channel] >> PRECISION)]
