"""Scaling of a `Preprocess` to another input size, for `--image-size`."""

from __future__ import annotations

from dataclasses import replace

from edge.preprocess.spec import Preprocess

__all__ = ["resized"]


def resized(preprocess: Preprocess, side: int) -> Preprocess:
    """The same `Preprocess` for an input of `side` x `side` pixels, showing the same image region.

    All sizes are scaled in proportion and rounded down, as with timm's crop_pct: a resize to 256
    before a crop to 224 becomes a resize to 438 before a crop to 384. Raises ValueError if a size
    is not within 1 to 8192.
    """
    height, width = preprocess.height, preprocess.width

    def scaled(size: tuple[int, int]) -> tuple[int, int]:
        return size[0] * side // height, size[1] * side // width

    resize = preprocess.resize
    if resize is not None:
        larger = scaled((resize.height, resize.width))
        longest = None if resize.longest_edge is None else resize.longest_edge * side // height
        resize = replace(resize, height=larger[0], width=larger[1], longest_edge=longest)
    return replace(
        preprocess,
        height=side,
        width=side,
        resize=resize,
        crop=None if preprocess.crop is None else scaled(preprocess.crop),
        pad=None if preprocess.pad is None else scaled(preprocess.pad),
    )
