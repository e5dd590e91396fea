"""Surfaces of noise for the tests, in every format, and what they are by the book."""

import numpy as np

from edge.preprocess.surface import FORMATS, Colour, Layout, Surface

# Every matrix, range and siting.
COLOURS = [
    Colour(matrix, full, across, down)
    for matrix in ("bt601", "bt709", "bt2020")
    for full in (False, True)
    for across, down in ((True, False), (False, False), (True, True))
]
USUAL = Colour()
LUMA = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}


def noise(
    form: str, width: int, height: int, colour: Colour = USUAL, padding: int = 0, seed: int = 0
) -> Surface:
    """A surface whose rows are `padding` bytes longer than they need be, plus 3 for each plane."""
    rng = np.random.default_rng(seed)
    planes = []
    for index in range(FORMATS[form].planes):
        rows, columns = FORMATS[form].plane_size(index, width, height)
        pitch = columns + (padding + 3 * index if padding else 0)
        # The last row is as short as it may be: who reads on past it reads foreign memory.
        memory = rng.integers(0, 256, (rows - 1) * pitch + columns, np.uint8)
        planes.append(
            np.lib.stride_tricks.as_strided(memory, (rows, columns), (pitch, 1), writeable=False)
        )
    return Surface(Layout(form, width, height, colour), tuple(planes))


def by_the_book(surface: Surface) -> np.ndarray:
    """YUV to RGB in float64 as the standards write it: float64 [H, W, 3], clipped to 0..255."""
    layout, form, colour = surface.layout, FORMATS[surface.layout.format], surface.layout.colour
    width, height = layout.width, layout.height

    def samples(index, columns, rows):
        where, start, step = form.samples[index]
        return surface.planes[where][:rows, start : start + step * (columns - 1) + 1 : step]

    luma = samples(0, width, height).astype(np.float64)
    chroma = [np.full((height, width), 128.0)] * 2
    if len(form.samples) == 3:
        columns, rows = -(-width // form.across), -(-height // form.down)
        x = positions(width, form.across, colour.cosited_across, columns)
        y = positions(height, form.down, colour.cosited_down, rows)
        chroma = [bilinear(samples(index, columns, rows).astype(float), x, y) for index in (1, 2)]
    red, blue = LUMA[colour.matrix]
    green = 1 - red - blue
    u, v = (plane - 128 for plane in chroma)
    if not colour.full_range:
        luma, u, v = (luma - 16) * 255 / 219, u * 255 / 224, v * 255 / 224
    rgb = [
        luma + 2 * (1 - red) * v,
        luma - 2 * blue * (1 - blue) / green * u - 2 * red * (1 - red) / green * v,
        luma + 2 * (1 - blue) * u,
    ]
    return np.clip(np.stack(rgb, axis=-1), 0, 255)


def positions(pixels, reach, cosited, samples):
    """Where the pixels of an axis lie among its chroma samples."""
    offset = 0 if cosited or reach == 1 else (reach - 1) / 2
    return np.clip((np.arange(pixels) - offset) / reach, 0, samples - 1)


def bilinear(plane, x, y):
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    right = np.minimum(left + 1, plane.shape[1] - 1)
    below = np.minimum(top + 1, plane.shape[0] - 1)
    x, y = x - left, (y - top)[:, None]
    upper = plane[top][:, left] * (1 - x) + plane[top][:, right] * x
    lower = plane[below][:, left] * (1 - x) + plane[below][:, right] * x
    return upper * (1 - y) + lower * y
