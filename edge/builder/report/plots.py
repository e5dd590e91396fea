"""The plots of the report: matplotlib's SVG, adapted for embedding in a page.

matplotlib draws with placeholder colours that are then replaced by CSS variables, so that the light
and dark schemes of the page apply to the plots, too. Text stays text; one unit is one CSS pixel on
a small phone.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

from edge.builder.report.findings import CandidateFinding, LinearFinding
from edge.errors import printable, require

__all__ = ["decibels", "ranges", "speed"]

WIDTH = 360  # of the plots with a row per Linear: three in a row on a desktop, one on a phone
# Placeholder colour for matplotlib -> CSS variable of the page.
_COLOURS = {
    "#010203": "var(--ink)",
    "#020304": "var(--muted)",
    "#030405": "var(--line)",
    "#040506": "var(--int8)",
    "#050607": "var(--fp16)",
    "#060708": "var(--good)",
    "#070809": "var(--bad)",
}
INK, MUTED, LINE, INT8, FP16, GOOD, BAD = _COLOURS
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "vit-edge",
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.labelcolor": MUTED,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "xtick.labelcolor": MUTED,
    "xtick.labelsize": 10,
    "ytick.color": LINE,
    "ytick.labelcolor": MUTED,
    "ytick.labelsize": 10,
    "lines.markersize": 6,
}
_LONGEST = 24  # characters of a Linear's name in a plot
# Positions of a point's label: offset (right, up) in pixels, horizontal and vertical alignment.
_PLACES = (
    (9, 0, "left", "center"),
    (-9, 0, "right", "center"),
    (0, 10, "center", "bottom"),
    (0, -10, "center", "top"),
    (9, 14, "left", "center"),
    (-9, 14, "right", "center"),
    (9, -14, "left", "center"),
    (-9, -14, "right", "center"),
)


def speed(candidates: Sequence[CandidateFinding], chosen: str) -> str | None:
    """SVG of agreement with FP32 over the time of one image; None when no time was measured."""
    timed = [one for one in candidates if one.ms is not None]
    if not timed:
        return None
    lowest = min(one.agreement for one in (candidate.accuracy for candidate in timed))
    span = max(100 - lowest, 1.0)  # so that a tenth of a percent does not look large
    with _figure(420, 270, left=56, bottom=44, top=14, right=14) as (axes, finish):
        axes.set_xlim(0, max(one.ms or 0 for one in timed) * 1.18 or 1)
        axes.set_ylim(100 - span * 1.2, 100 + span * 0.2)
        axes.set_yticks([tick for tick in axes.get_yticks() if tick < 100 + span * 0.01])
        axes.set_ylim(100 - span * 1.2, 100 + span * 0.2)
        axes.set_xlabel("ms per image (further left is faster)")
        axes.set_ylabel("agreement with FP32, %")
        points = [
            axes.transData.transform((one.ms, one.accuracy.agreement)).tolist() for one in timed
        ]
        taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in points]
        for one, (x, y) in zip(timed, points, strict=True):
            axes.plot(
                [one.ms],
                [one.accuracy.agreement],
                marker="o" if one.passed else "X",
                color=GOOD if one.passed else BAD,
                markersize=9,
                clip_on=False,
            )
            label = one.precision + (" (chosen)" if one.precision == chosen else "")
            right, up, across, along = _place(x, y, 7.0 * len(label), taken)
            axes.annotate(
                printable(label),
                (one.ms, one.accuracy.agreement),
                (right, up),
                textcoords="offset points",
                ha=across,
                va=along,
                fontsize=12,
                fontweight="bold" if one.precision == chosen else "normal",
                parse_math=False,
            )
        return finish("speed", "Agreement with FP32 against the time of one image")


def decibels(linears: Sequence[LinearFinding], what: str, title: str) -> str | None:
    """SVG with a row per Linear: its field `what`, in dB; None when no Linear has a value."""
    values = [getattr(linear, what) for linear in linears]
    shown = [(row, db) for row, db in enumerate(values) if db is not None and math.isfinite(db)]
    if not shown:
        return None
    with _rows(linears) as (axes, finish):
        for row, db in shown:
            marker, colour = _kind(linears[row])
            axes.plot([db], [row], marker=marker, color=colour)
        low, high = min(db for _, db in shown), max(db for _, db in shown)
        space = max((high - low) * 0.08, 1.0)
        axes.set_xlim(low - space, high + space)
        axes.set_xlabel("dB")
        return finish(what, title)


def ranges(linears: Sequence[LinearFinding], title: str) -> str | None:
    """SVG with a row per Linear: its input's range before and after migration.

    None when all ranges are 0.
    """
    shown = [
        (row, linear)
        for row, linear in enumerate(linears)
        if min(linear.before, linear.after) > 0 and math.isfinite(linear.before + linear.after)
    ]
    if not shown:
        return None
    ticker = require("matplotlib.ticker")
    with _rows(linears) as (axes, finish):
        axes.set_xscale("log")
        for row, linear in shown:
            marker, colour = _kind(linear)
            axes.plot([linear.before, linear.after], [row, row], color=MUTED, linewidth=1)
            axes.plot([linear.before], [row], marker="|", color=MUTED, markeredgewidth=1.6)
            axes.plot([linear.after], [row], marker=marker, color=colour)
        low = min(min(linear.before, linear.after) for _, linear in shown) / 1.3
        high = max(max(linear.before, linear.after) for _, linear in shown) * 1.3
        axes.set_xlim(low, high)
        steps = (1, 2, 5) if high / low < 100 else (1,)
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=steps, numticks=12))
        axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_locator(ticker.NullLocator())
        axes.set_xlabel("largest absolute value")
        return finish("ranges", title)


def _kind(linear: LinearFinding) -> tuple[str, str]:
    """Marker and colour of a Linear, as in the page's legend."""
    return ("D", FP16) if linear.precision == "FP16" else ("o", INT8)


def _place(
    x: float, y: float, width: float, taken: list[tuple[float, float, float, float]]
) -> tuple[float, float, str, str]:
    """A position where a label overlaps no point and no other label; its box joins `taken`."""
    for place in _PLACES:
        right, up, across, along = place
        left = x + right - {"left": 0, "center": width / 2, "right": width}[across]
        bottom = y + up - {"bottom": 0, "center": 7, "top": 14}[along]
        box = (left, bottom, left + width, bottom + 14)
        inside = box[0] > 50 and box[2] < 420 and box[1] > 0 and box[3] < 270
        if inside and not any(_overlap(box, other) for other in taken):
            break
    taken.append(box)
    return place


def _overlap(
    one: tuple[float, float, float, float], other: tuple[float, float, float, float]
) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


@contextmanager
def _rows(linears: Sequence[LinearFinding]) -> Iterator[tuple[Any, Callable[[str, str], str]]]:
    """Axes with a row per Linear, the first on top, and the names on the left."""
    names = _short([printable(linear.name) for linear in linears])
    row, size = (14, 9.5) if len(linears) <= 96 else (12, 9)
    left = 12 + max(map(len, names)) * size * 0.6
    height = row * len(linears) + 64
    with _figure(WIDTH, height, left=left, bottom=40, top=24, right=12) as (axes, finish):
        axes.set_ylim(len(linears) - 0.5, -0.5)
        axes.set_yticks(range(len(linears)), names, fontsize=size, parse_math=False)
        axes.tick_params(axis="x", top=True, labeltop=True, length=0)
        axes.tick_params(axis="y", length=0)
        for label, linear in zip(axes.get_yticklabels(), linears, strict=True):
            label.set_color(FP16 if linear.precision == "FP16" else INK)
        axes.locator_params(axis="x", nbins=6)
        yield axes, finish


def _short(names: list[str]) -> list[str]:
    """Names without the parts that all share; long ones are shortened in the middle."""
    parts = [re.split(r"[/.]", name) for name in names]
    fewest = min(map(len, parts))
    first = 0
    while first < fewest - 1 and len({part[first] for part in parts}) == 1:
        first += 1
    last = 0
    while last < fewest - first - 1 and len({part[-1 - last] for part in parts}) == 1:
        last += 1
    return ["/".join(_fitted(part[first : len(part) - last])) for part in parts]


def _fitted(parts: list[str]) -> list[str]:
    """The first part, usually the layer number, and as many of the last parts as fit."""
    head, tail = parts[0], parts[1:]
    if len("/".join(parts)) <= _LONGEST:
        return parts
    while len(tail) > 1 and len("/".join([head, "…", *tail])) > _LONGEST:
        tail = tail[1:]
    name = "/".join([head, "…", *tail])
    return [name if len(name) <= _LONGEST else name[:7] + "…" + name[8 - _LONGEST :]]


@contextmanager
def _figure(
    width: float, height: float, *, left: float, bottom: float, top: float, right: float
) -> Iterator[tuple[Any, Callable[[str, str], str]]]:
    """Axes with margins in pixels, and a function (id, title) -> SVG that finishes the figure."""
    figures, style = require("matplotlib.figure"), require("matplotlib.style")
    # The default style, so that the user's own matplotlibrc does not change reports.
    with style.context(["default", _STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the browser's fonts have the glyphs
        figure = figures.Figure(figsize=(width / 72, height / 72), dpi=72, facecolor="none")
        inner = (width - left - right) / width, (height - bottom - top) / height
        axes = figure.add_axes((left / width, bottom / height, *inner))

        def finish(name: str, title: str) -> str:
            file = io.BytesIO()
            figure.savefig(file, format="svg", metadata={"Date": None})
            return _inline(file.getvalue(), name, title, width, height)

        yield axes, finish


def _inline(svg: bytes, name: str, title: str, width: float, height: float) -> str:
    """SVG for embedding in a page: no namespaces, ids prefixed with `name`, CSS variables."""
    root = ElementTree.fromstring(svg)
    used = set(re.findall(rb'(?:"#|url\(#)([^")]+)', svg))
    for element in root.iter():
        element.tag = element.tag.partition("}")[2]
        element.tail = None
        element.text = element.text if element.tag == "text" else None
        for key, value in list(element.attrib.items()):
            del element.attrib[key]
            key = key.rpartition("}")[2]
            if key == "id":
                if value.encode() not in used:
                    continue
                value = f"{name}-{value}"
            elif key == "href" or "url(#" in value:
                value = value.replace("#", f"#{name}-")
            elif key == "style":
                for placeholder, variable in _COLOURS.items():
                    value = value.replace(placeholder, variable)
                value = re.sub(r"'DejaVu Sans'.*?sans-serif", "var(--font)", value)
            element.set(key, value)
    for parent in list(root.iter()):
        for child in list(parent):
            # A style element would apply to all of the page.
            if child.tag in ("metadata", "style") or (child.tag == "g" and not len(child)):
                parent.remove(child)
    root.attrib = {
        "viewBox": f"0 0 {width:g} {height:g}",
        "width": f"{width:g}",
        "height": f"{height:g}",
        "role": "img",
        "aria-label": title,
    }
    return ElementTree.tostring(root, encoding="unicode")
