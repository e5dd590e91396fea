"""The report of a build: one HTML file that needs no network and no other file.

Text and tables are in the template `report.html.j2`; the plots are drawn by
`edge.builder.report.plots`. Equal findings give equal bytes.
"""

from __future__ import annotations

import base64
import io
import logging
import math
from pathlib import Path
from typing import Any

from PIL import Image

from edge.builder.report import plots
from edge.builder.report.findings import Findings, ImageFinding
from edge.engine.accuracy import EXACT_DB, NEAR, percent
from edge.engine.heads import CROSSING
from edge.errors import printable, require
from edge.files.storage import write_bytes

__all__ = ["check", "write"]

THUMBNAIL = 160  # pixels of the longer side


def check() -> None:
    """Check that the packages that `write` needs are installed. Raises `MissingPackage`."""
    require("jinja2")
    # Without a home matplotlib says at length that it keeps its fonts in a temporary folder.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    require("matplotlib.figure")


def write(findings: Findings, path: Path) -> None:
    """Write the report atomically: on an error an older report stays as it was.

    Raises `MissingPackage` without jinja2 or matplotlib, and `StorageError`.
    """
    write_bytes(path, _html(findings).encode())


def _html(findings: Findings) -> str:
    jinja2 = require("jinja2")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_on_one_line,
    )
    environment.filters.update(db=_db, percent=_percent, share=percent)
    drawn = {
        "speed": plots.speed(findings.candidates, findings.precision),
        "alone": plots.decibels(
            findings.linears, "sensitivity_db", "SQNR with each Linear alone INT8"
        ),
        "output": plots.decibels(findings.linears, "output_db", "SQNR of each Linear's output"),
        "ranges": plots.ranges(findings.linears, "Activation ranges before and after migration"),
    }
    # Only the output of the plots module, which escapes names, is trusted as markup.
    markup = {name: svg and jinja2.utils.markupsafe.Markup(svg) for name, svg in drawn.items()}
    template = Path(__file__).with_name("report.html.j2").read_text("utf-8")
    text: str = environment.from_string(template).render(
        found=findings,
        embeds=any(one.accuracy.cosine is not None for one in findings.candidates),
        alone=any(one.accuracy.labels is not None for one in findings.candidates),
        near=NEAR,
        crossing=f"{100 * CROSSING:g}",
        state=_state(findings),
        plots=markup,
        shown=[(one, *_thumbnail(one)) for one in findings.review.disagreements],
        mistakes=[(one, *_thumbnail(one)) for one in findings.review.mistakes],
    )
    return text


def _state(findings: Findings) -> str:
    """The colour of the verdict: "good" only for an engine that passed a gate.

    One that is not faster than FP32 is no success: it gets no colour.
    """
    chosen = [one for one in findings.candidates if one.precision == findings.precision]
    if not chosen:
        return ""
    if not chosen[0].passed:
        return "bad"
    speed = chosen[0].speed
    slower = findings.precision != "fp32" and speed is not None and not speed.faster
    return "" if not findings.judged or slower else "good"


def _on_one_line(value: Any) -> Any:
    """Replace control characters and lone surrogates, which UTF-8 cannot encode, in strings."""
    return printable(value) if type(value) is str else value


def _db(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "–"
    if not math.isfinite(value) or value >= EXACT_DB:
        return "exact" if value > 0 else "–"
    return f"{value:.1f}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _thumbnail(one: ImageFinding) -> tuple[str, bool]:
    """The image as a data URI, scaled down to `THUMBNAIL`, and whether it is tiny."""
    image = Image.fromarray(one.pixels)
    tiny = max(image.size) <= THUMBNAIL // 2  # the page enlarges its pixels
    if not tiny:
        image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}", tiny
