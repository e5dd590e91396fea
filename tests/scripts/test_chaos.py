"""docs/chaos.md matches its figures."""

import json

from scripts import chaos


def test_the_page_is_made_from_the_figures():
    assert chaos.PAGE.read_text() == chaos.page(json.loads(chaos.FIGURES.read_text()))


def test_a_fault_is_a_row_with_empty_cells_for_missing_figures():
    seconds = {"p50": 0.5, "p99": 1.25, "max": 2.0}
    nothing = {"p50": None, "p99": None, "max": None}
    truth = {"frames": 100, "wrong": 1, "older": 2, "repeated": 3, "damaged": 4, "old": 6}
    figures = {
        "times": 7,
        "noticed_s": nothing,
        "back_s": seconds,
        "lost": 5,
        "needs": [{"rss_mb": 260.4, "files": 17, "threads": 15}] * 2,
        "truth": truth,
        "remark": "why",
    }
    cells = "| cut | 7 |  | 0.50, 1.25 | 100 | 5 | 1 | 9 | 6 | 260, 17, 15 -> 260, 17, 15 | why |\n"
    assert chaos._row("cut", figures) == cells
    assert chaos._row("cut", {**figures, "truth": None, "lost": None, "needs": []}) == (
        "| cut | 7 |  | 0.50, 1.25 |  |  |  |  |  |  | why |\n"
    )
