"""Conversion of YUV to RGB with numpy, by the integer formula of `surface.py`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from edge.preprocess.surface import FORMATS, SHIFT, Colour, Surface, rgb_weights

__all__ = ["Siting", "chroma_siting", "to_rgb", "upright"]

Pixels = npt.NDArray[np.uint8]
_BAND = 16  # rows at a time, so that the working set stays in the CPU's cache


class Siting(NamedTuple):
    """Pixel i takes (4 - f) / 4 of chroma sample `near[i]` and f / 4 of the next: int32 [pixels].

    Beyond the ends, the first or last sample is repeated.
    """

    near: npt.NDArray[np.int32]
    next: npt.NDArray[np.int32]
    f: npt.NDArray[np.int32]


def chroma_siting(pixels: int, reach: int, cosited: bool) -> Siting:
    """The chroma samples that an axis of pixels reads, if one sample covers `reach` pixels, 1 or 2.

    Co-sited samples are at the first pixel of a pair; others are a quarter of a sample further.
    """
    index = np.arange(pixels, dtype=np.int32)
    if reach == 1:
        return Siting(index, index, np.zeros_like(index))
    quarters = 2 * index - (0 if cosited else 1)
    near, last = quarters >> 2, (pixels - 1) >> 1
    return Siting(np.maximum(near, 0), np.minimum(near + 1, last), quarters & 3)


def to_rgb(surface: Surface) -> Pixels:
    """An image or a frame, upright, as RGB uint8 [H, W, 3]; for RGB formats a view, without a copy.

    YUV is converted by the integer formula. Its error: see `rgb_weights`.
    """
    pixels, (transposed, across, down) = _to_rgb(surface), surface.layout.turn
    pixels = pixels[:: -1 if down else 1, :: -1 if across else 1]
    return pixels.transpose(1, 0, 2) if transposed else pixels


def upright(surface: Surface) -> Surface:
    """The surface itself, if it is upright; otherwise an upright copy in RGB."""
    return surface if surface.layout.orientation == 1 else Surface.from_rgb(to_rgb(surface))


def _to_rgb(surface: Surface) -> Pixels:
    """The stored image as RGB uint8 [H, W, 3]."""
    layout, form = surface.layout, FORMATS[surface.layout.format]
    if form.is_rgb:
        plane, step = surface.planes[0], form.samples[0].step
        pixels = np.lib.stride_tricks.as_strided(
            plane, (layout.height, layout.width, step), (plane.strides[0], step, 1), writeable=False
        )
        starts = [sample.start for sample in form.samples]
        return pixels[..., :3] if starts == [0, 1, 2] else pixels[..., 2::-1]
    out = np.empty((layout.height, layout.width, 3), np.uint8)
    if len(form.samples) == 1:
        _grey(_component(surface, 0), layout.colour, out)
    else:
        _yuv(surface, out)
    return out


def _component(surface: Surface, index: int) -> Pixels:
    """The samples of Y, U or V: uint8 [rows, columns], a view."""
    layout, form = surface.layout, FORMATS[surface.layout.format]
    where, start, step = form.samples[index]
    rows, columns = layout.height, layout.width
    if index:
        rows, columns = -(-rows // form.down), -(-columns // form.across)
    return surface.planes[where][:rows, start : start + step * (columns - 1) + 1 : step]


def _grey(luma: Pixels, colour: Colour, out: Pixels) -> None:
    weight, _, _, offset = rgb_weights(colour)[0].tolist()
    # The offset subtracts chroma's zero, 128. Grey has no chroma: remove that part.
    offset += 16 * 128 * int(rgb_weights(colour)[0, 1:3].sum())
    levels = np.arange(256, dtype=np.int64) * weight + offset >> SHIFT
    np.take(np.clip(levels, 0, 255).astype(np.uint8)[:, None].repeat(3, 1), luma, axis=0, out=out)


def _yuv(surface: Surface, out: Pixels) -> None:
    layout, form, colour = surface.layout, FORMATS[surface.layout.format], surface.layout.colour
    weights = rgb_weights(colour)
    luma, *chroma = (_component(surface, index) for index in range(3))
    height, width = layout.height, layout.width
    down = chroma_siting(height, form.down, colour.cosited_down)
    samples = chroma[0].shape[1]
    acc = np.empty((_BAND, width), np.int32)
    term = np.empty_like(acc)
    wide = np.empty((2, _BAND, form.across * samples), np.int32)
    for top in range(0, height, _BAND):
        rows = slice(top, min(top + _BAND, height))
        count = rows.stop - top
        near, after, f = (part[rows] for part in down)
        for plane, full in zip(chroma, wide, strict=True):
            blended = plane[near] * (4 - f)[:, None] + plane[after] * f[:, None]
            if form.across == 1:
                np.multiply(blended, 4, out=full[:count])
            else:
                _across(blended, colour.cosited_across, full[:count])
        u, v = wide[0, :count, :width], wide[1, :count, :width]
        for channel, (y_weight, u_weight, v_weight, offset) in enumerate(weights.tolist()):
            total, part = acc[:count], term[:count]
            np.multiply(luma[rows], np.int32(y_weight), out=total)
            total += np.int32(offset)
            for levels, weight in ((u, u_weight), (v, v_weight)):
                if weight:
                    total += np.multiply(levels, np.int32(weight), out=part)
            total >>= SHIFT
            np.clip(total, 0, 255, out=out[rows, :, channel], casting="unsafe")


def _across(blended: npt.NDArray[np.int32], cosited: bool, out: npt.NDArray[np.int32]) -> None:
    """Chroma in 1/4 levels [rows, samples] -> in 1/16 levels per pixel [rows, 2 * samples]."""
    even, odd = out[:, 0::2], out[:, 1::2]
    if cosited:
        np.multiply(blended, 4, out=even)
        np.add(blended[:, :-1], blended[:, 1:], out=odd[:, :-1])
        odd[:, :-1] *= 2
        odd[:, -1] = even[:, -1]
        return
    np.multiply(blended, 3, out=even)
    odd[:] = even
    even[:, 1:] += blended[:, :-1]
    even[:, 0] += blended[:, 0]
    odd[:, :-1] += blended[:, 1:]
    odd[:, -1] += blended[:, -1]
