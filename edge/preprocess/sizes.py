"""The same preparation for pictures of another size: what `--image-size` does to a `Preprocess`."""

from __future__ import annotations

from dataclasses import replace

from edge.preprocess.spec import Preprocess

__all__ = ["resized"]


def resized(preprocess: Preprocess, side: int) -> Preprocess:
    """Prepare pictures of `side` x `side` pixels, of which the network sees the same part.

    Every size grows in proportion and is rounded down, as timm's crop_pct does: a resize to 256
    before a crop to 224 becomes one to 438 before a crop to 384. Raises ValueError for a size that
    is not within 1 to 8192.
    """
    height, width = preprocess.height, preprocess.width

    def grown(size: tuple[int, int]) -> tuple[int, int]:
        return size[0] * side // height, size[1] * side // width

    resize = preprocess.resize
    if resize is not None:
        larger = grown((resize.height, resize.width))
        longest = None if resize.longest_edge is None else resize.longest_edge * side // height
        resize = replace(resize, height=larger[0], width=larger[1], longest_edge=longest)
    return replace(
        preprocess,
        height=side,
        width=side,
        resize=resize,
        crop=None if preprocess.crop is None else grown(preprocess.crop),
        pad=None if preprocess.pad is None else grown(preprocess.pad),
    )
