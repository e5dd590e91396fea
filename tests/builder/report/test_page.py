import base64
import io
import os
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from edge.builder.report import page, plots
from edge.builder.report.findings import (
    CandidateFinding,
    Findings,
    ImageFinding,
    LinearFinding,
    Review,
    Step,
)
from edge.engine.accuracy import EXACT_DB, Accuracy
from edge.engine.timing import Speed
from edge.errors import MissingPackage, StorageError

SAME, TWICE = Speed(1.0, 1.0, 1.0), Speed(1.9, 2.0, 2.1)
HOSTILE = "<img src=x onerror=alert(1)>\"'&$x^$\n\x1b[31m\udc80"
VOID = {"meta", "img", "br", "link", "wbr"}
# Attributes that make a browser fetch something.
FETCHING = {"src", "href", "xlink:href", "srcset", "data", "action", "poster", "background"}


class Reader(HTMLParser):
    """The page as (tag, attributes) and texts; raises when tags are not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts, self.rows = [], [], [], {}
        self.table = None
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.table = self.rows.setdefault(dict(attributes)["id"], [])
        elif tag == "tr":
            self.table.append([])
        elif tag in ("td", "th"):
            self.table[-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
        if {"td", "th"} & set(self.open):
            self.table[-1][-1] += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def accuracy(agreement, sqnr=30.0):
    return Accuracy(100, agreement, sqnr, 0.25, 97.5, 98.25)


def linear(number, precision="INT8"):
    return LinearFinding(
        f"/vit/layer.{number}/dense/MatMul",
        precision,
        f"reason {number}",
        30.0 + number,
        40.0 - number / 2,
        100.0 + number,
        10.0,
        0.5,
        "entropy",
    )


def disagreement(number, size=(8, 8), sure=0.5):
    pixels = np.random.default_rng(number).integers(0, 255, (*size, 3), np.uint8)
    answers = (f"cat {number}", sure), ("dog", 0.625)
    return ImageFinding(f"image-{number}.png", pixels, *answers, truth=f"fox {number}")


@pytest.fixture
def findings():
    return Findings(
        name="demo-int8",
        checkpoint="scripts/demo/vit",
        architecture="ViTForImageClassification",
        precision="int8",
        verdict="INT8 is twice as fast and passed.",
        backend="onnxruntime CPU",
        machine="a CPU, 2 cores, load 0.1",
        date="2026-12-01 10:00 UTC",
        calibration="128 images of photos",
        images=100,
        heldout="every fifth image of photos",
        gate="99 % agreement",
        judged=True,
        candidates=[
            CandidateFinding(
                "fp32", accuracy(100.0, EXACT_DB), 17.5, 4.0, SAME, True, "the reference"
            ),
            CandidateFinding("fp16", accuracy(100.0), 8.8, 4.0, SAME, True, "smaller"),
            CandidateFinding(
                "int8", accuracy(99.0), 5.1, 2.0, TWICE, True, "1 of 16 Linears kept FP16"
            ),
        ],
        linears=[linear(number, "FP16" if number == 3 else "INT8") for number in range(16)],
        fp32_nodes={"/vit/norm": "overflows"},
        review=Review([disagreement(0)], 1, [disagreement(1)], 3),
        next_steps=[Step("edge run engines/demo-int8", "label a camera")],
    )


@pytest.fixture
def read(tmp_path):
    def written(findings):
        page.write(findings, tmp_path / "report.html")
        return Reader((tmp_path / "report.html").read_text("utf-8"))

    return written


def test_the_page_shows_the_engine_and_its_verdict(findings, read):
    found = read(findings)
    for words in ("demo-int8", "scripts/demo/vit", "ViTForImageClassification", "99 % agreement"):
        assert words in found.text
    assert "INT8 is twice as fast and passed." in found.text
    assert "compiled later on a board are not in this report; see edge inspect" in found.text
    assert ("p", {"class": "verdict good"}) in found.tags


@pytest.mark.parametrize(
    ("judged", "passed", "speed", "state"),
    [
        (True, True, TWICE, " good"),
        (True, False, TWICE, " bad"),
        (True, True, SAME, " "),
        (True, True, Speed(0.7, 0.8, 0.9), " "),
        (False, True, TWICE, " "),
    ],
)
def test_only_a_faster_engine_that_passed_the_gate_is_green(
    findings, read, judged, passed, speed, state
):
    fp32, fp16, int8 = findings.candidates
    candidates = [fp32, fp16, replace(int8, passed=passed, speed=speed)]
    found = read(replace(findings, judged=judged, gate="none", candidates=candidates))
    assert ("p", {"class": f"verdict{state}"}) in found.tags
    assert ("unjudged" in found.text) == (not judged)
    assert ("✓ passed" in found.text) == judged


def test_the_page_shows_the_coverage_of_all_products(findings, read):
    coverage = "INT8 coverage of all matrix products: 12 of 12 qkv, 0 of 1 convolution."
    assert coverage in read(replace(findings, quantised="12 of 12 qkv, 0 of 1 convolution")).text
    assert "coverage of all" not in read(findings).text


def test_every_candidate_is_a_row(findings, read):
    header, fp32, _, int8 = read(findings).rows["candidates"]
    assert len(header) == 12
    assert fp32[0] == "fp32" and fp32[5] == "exact" and fp32[9] == "1.00× (1.00 to 1.00)"
    assert int8 == [
        "int8 (chosen)",
        "99.00 %",
        "94.6 to 99.8 %",
        "97.50 %",
        "98.25 %",
        "30.0",
        "0.25",
        "5.1",
        "2.00",
        "2.00× (1.90 to 2.10)",
        "✓ passed",
        "1 of 16 Linears kept FP16",
    ]


def test_independent_labels_have_a_column(findings, read):
    assert "labels" not in read(findings).rows["candidates"][0]
    candidates = [
        replace(one, accuracy=replace(one.accuracy, labels=99.5)) for one in findings.candidates
    ]
    page = read(replace(findings, candidates=candidates))
    head, row, *_ = page.rows["candidates"]
    assert dict(zip(head, row, strict=True))["labels"] == "99.50 %"
    assert "yes or no (above or below 50 %, or probabilities at most 10 points apart)" in page.text


@pytest.mark.parametrize(
    ("count", "small"),
    [(1, "INT8"), (16, "INT8"), (8, "FP8"), pytest.param(192, "INT8", marks=pytest.mark.slow)],
)
def test_every_linear_is_a_row_of_the_table_and_a_point_of_each_plot(findings, read, count, small):
    linears = [linear(number, "FP16" if number == 0 else small) for number in range(count)]
    found = read(replace(findings, linears=linears))
    rows = found.rows["linears"][1:]
    assert [row[0] for row in rows] == [one.name for one in linears]
    assert rows[0] == [
        "/vit/layer.0/dense/MatMul",
        "FP16",
        "reason 0",
        "30.0",
        "40.0",
        "100 → 10",
        "0.50",
        "entropy",
    ]
    assert f"{count - 1} of {count} Linears {small}, 1 kept FP16" in found.text
    for drawn in (plots.decibels(linears, "sensitivity_db", ""), plots.ranges(linears, "")):
        fills = [one.get("style", "") for one in ElementTree.fromstring(drawn).iter("use")]
        assert sum("fill: var(--int8)" in style for style in fills) == count - 1
        assert sum("fill: var(--fp16)" in style for style in fills) == 1


def test_row_names_of_a_plot_omit_the_parts_that_all_share(findings):
    linears = [
        replace(linear(0), name=f"/vit/encoder/layer.{number}/attention/attention/query/MatMul")
        for number in range(12)
    ]
    linears[5] = replace(linears[5], name="/vit/encoder/layer.5/output/dense/MatMul")
    drawn = ElementTree.fromstring(plots.decibels(linears, "sensitivity_db", ""))
    names = [text.text for text in drawn.iter("text")]
    assert {"11/…/attention/query", "5/output/dense"} <= set(names)


def test_nothing_is_fetched_and_nothing_runs(findings, read):
    found = read(findings)
    names = {tag for tag, _ in found.tags}
    assert not names & {"script", "link", "iframe", "object", "embed", "base", "form"}
    for tag, attributes in found.tags:
        assert not [key for key in attributes if key.startswith("on")]
        for key in FETCHING & set(attributes):
            assert attributes[key].startswith(("data:image/png;base64,", "#")), tag
        assert "//" not in attributes.get("style", "")
    style = found.texts[next(i for i, text in enumerate(found.texts) if ":root" in text)]
    assert "@import" not in style and "url(" not in style


def test_ids_are_unique_and_every_reference_resolves(findings, tmp_path, read):
    ids = [attributes["id"] for _, attributes in read(findings).tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    text = (tmp_path / "report.html").read_text("utf-8")
    wanted = {part.split('"')[0] for part in text.split('href="#')[1:]}
    wanted |= {part.split(")")[0] for part in text.split("url(#")[1:]}
    assert wanted and wanted <= set(ids)


def test_text_from_outside_is_escaped(findings, tmp_path, read):
    hostile = replace(
        findings,
        name=HOSTILE,
        checkpoint=HOSTILE,
        architecture=HOSTILE,
        verdict=HOSTILE,
        backend=HOSTILE,
        gate=HOSTILE,
        precision=HOSTILE,
        candidates=[replace(findings.candidates[0], precision=HOSTILE, note=HOSTILE)],
        linears=[replace(linear(0), name=HOSTILE, why=HOSTILE, method=HOSTILE)],
        fp32_nodes={HOSTILE: HOSTILE},
        date=HOSTILE,
        calibration=HOSTILE,
        heldout=HOSTILE,
        next_steps=[Step(HOSTILE, HOSTILE)],
        review=Review(
            [
                replace(
                    disagreement(0),
                    image=HOSTILE,
                    fp32=(HOSTILE, 0.5),
                    engine=(HOSTILE, 0.5),
                    truth=HOSTILE,
                )
            ],
            1,
            [],
            0,
        ),
    )
    found = read(hostile)
    assert [image["src"][:10] for image in found.all("img")] == ["data:image"]
    assert "\x1b" not in found.text
    assert found.text.count("<img src=x onerror=alert(1)>\"'&$x^$ [31m") >= 22


def test_colours_come_from_the_page_in_both_schemes(findings, tmp_path, read):
    read(findings)
    text = (tmp_path / "report.html").read_text("utf-8")
    assert "@media (prefers-color-scheme: dark)" in text
    body = text.partition("<body>")[2]
    assert "#0" not in body and "rgb(" not in body  # none that only one scheme can show
    named = {part.split(")")[0] for part in body.split("var(--")[1:]}
    style = text.partition("</style>")[0]
    assert named and all(f"--{name}:" in style for name in named)


def test_missing_times_are_reported_as_not_measured(findings, read):
    untimed = [replace(one, ms=None, speed=None) for one in findings.candidates]
    found = read(replace(findings, candidates=untimed))
    assert "were not measured, so there is no plot" in found.text
    assert [row[8:10] for row in found.rows["candidates"][1:]] == [["–", "–"]] * 3
    assert plots.speed(untimed, "int8") is None
    some = [untimed[0], *findings.candidates[1:]]
    assert "fp32" not in plots.speed(some, "int8") and "fp16" in plots.speed(some, "int8")


def test_missing_decibels_are_reported_as_not_measured(findings, read):
    linears = [replace(linear(0), sensitivity_db=None, output_db=float("inf"), strength=None)]
    found = read(replace(findings, linears=linears))
    assert found.rows["linears"][1][3:7] == ["–", "exact", "100 → 10", "–"]
    assert "The sensitivity of the Linears was not measured." in found.text
    assert len(found.all("figure")) == 2 + 1 + 1, "speed and ranges; two images"


def test_empty_findings_are_reported(findings, read):
    found = read(
        replace(findings, candidates=[], linears=[], fp32_nodes={}, review=Review()),
    )
    assert "No candidate was evaluated." in found.text
    assert "No Linear was considered for INT8." in found.text
    assert "Nodes kept FP32 in FP16 graphs none" in found.text
    assert "FP32 and the engine agree on all 100 images." in found.text
    assert found.all("img") == []


def test_the_page_says_what_it_was_built_from_when_and_what_comes_next(findings, read):
    text = read(findings).text
    assert "held-out images 100: every fifth image of photos" in text
    assert "calibration 128 images of photos" in text
    assert "built 2026-12-01 10:00 UTC" in text
    assert "Next edge run engines/demo-int8 label a camera" in text


def test_mistakes_of_fp32_are_shown_with_the_truth(findings, read):
    found = read(findings)
    assert "Mistakes of FP32 3 of 100 images" in found.text
    assert "the first 1 are shown, 2 are not" in found.text
    assert "truth fox 1 FP32 cat 1 50.0 % engine dog 62.5 % image-1.png" in found.text
    none = read(replace(findings, review=Review(wrong=0)))
    assert "FP32 names the right class of all 100 images." in none.text
    assert "Mistakes" not in read(replace(findings, review=Review())).text


def test_disagreements_are_pictures_with_both_answers(findings, read):
    sizes = [(8, 8), (300, 200), (1, 2000)]
    shown = [disagreement(n, size, sure=0.9 - n / 10) for n, size in enumerate(sizes)]
    found = read(replace(findings, review=Review(shown, 3)))
    images = found.all("img")
    uris = [image["src"].removeprefix("data:image/png;base64,") for image in images]
    pictures = [Image.open(io.BytesIO(base64.b64decode(uri))) for uri in uris]
    assert [picture.size for picture in pictures] == [(8, 8), (107, 160), (160, 1)]
    assert np.array_equal(np.asarray(pictures[0]), shown[0].pixels)
    assert [image.get("class") for image in images] == ["tiny", None, None]
    assert "FP32 cat 0 90.0 % engine dog 62.5 % image-0.png" in found.text


def test_disagreements_that_are_not_shown_are_counted(findings, read):
    some = [disagreement(number) for number in range(24)]
    found = read(replace(findings, review=Review(some, 30)))
    assert len(found.all("img")) == 24
    assert "30 of 100 images" in found.text
    assert "the first 24 are shown, 6 are not" in found.text


def test_labels_of_coinciding_points_do_not_overlap(findings):
    drawn = ElementTree.fromstring(plots.speed(findings.candidates, "int8"))
    where = {
        text.text: (float(text.get("x", 0)), float(text.get("y", 0)))
        for text in drawn.iter("text")
        if text.text in ("fp32", "fp16", "int8 (chosen)")
    }
    assert len(where) == 3 and len(set(where.values())) == 3


def test_equal_findings_give_equal_bytes_in_every_process_and_style(findings, tmp_path):
    page.write(findings, tmp_path / "a.html")
    page.write(findings, tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    code = (
        "import sys; from edge.builder.report import plots;"
        "from edge.builder.report.findings import LinearFinding;"
        "one = LinearFinding('a', 'INT8', '', 30.0, None, 9.0, 3.0, None, 'mse');"
        "sys.stdout.write(plots.ranges([one], 'A') + plots.decibels([one], 'sensitivity_db', 'A'))"
    )
    (tmp_path / "matplotlibrc").write_text("font.size: 30\nlines.markeredgewidth: 5\n")
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, **own},
            capture_output=True,
            check=True,
        ).stdout
        for seed, own in (("1", {}), ("2", {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc")}))
    ]
    assert outputs[0] == outputs[1] != b""


def test_a_page_that_cannot_be_made_leaves_the_old_one(findings, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "disk full")))
    with pytest.raises(StorageError):
        page.write(findings, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_a_missing_package_is_named_with_a_hint(findings, tmp_path, monkeypatch, package):
    for name in list(sys.modules):
        if name.partition(".")[0] == package:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackage, match=r"\[build\]"):
        page.write(findings, tmp_path / "report.html")
