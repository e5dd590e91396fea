"""All faults of tests/chaos in full: what a run survived, how fast, and what was lost.

    .venv/bin/python -m scripts.chaos            all faults, an hour on two cores
    .venv/bin/python -m scripts.chaos -k frozen  only these; their old figures are replaced
    .venv/bin/python -m scripts.chaos --page     only docs/chaos.md, from existing figures

The figures are in docs/measurements/chaos.json. Other arguments are passed to pytest.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

from scripts.bench.figures import commit, machine, versions

ROOT = Path(__file__).resolve().parents[1]
FIGURES, PAGE = ROOT / "docs" / "measurements" / "chaos.json", ROOT / "docs" / "chaos.md"

KEPT = ("heap", "soak")  # measured by scripts.bench.heap and scripts.soak

HEAD = """\
# What a run survives

`make chaos` makes real servers and networks on this machine fail and watches the real `edge run`.
Each image shows which camera took it and when, and the engine reads that. So the test detects a
label of another camera's image, of an older image, or of one that is stale. `make test-slow` runs
the same faults, fewer times. `.venv/bin/python -m scripts.chaos` wrote this page from
[measurements/chaos.json](measurements/chaos.json), {date}, {cpu}, {cores} cores shared by the
cameras, their servers and the run.

* **noticed**: seconds from the fault until stderr reports it: p50, largest. Of a camera that comes
  and goes all the time not every fault is reported
* **recovered**: seconds from the server's return until the label of an image taken after it: p50,
  p99
* **lost**: images taken while the server was there and not labelled, including those taken while
  nothing could pass
* **wrong**: labels of another camera's image
* **damaged**: labels of what a decoder made of damaged data: of no image that the camera took, or
  of one that already had its label
* **too old**: labels of images that were stale by more than 30 ms: older than two frame intervals
  and the time that labelling took. With damaged data a decoder shows old images again
* **resources**: memory in MB, open files and threads of the process, before and after

| fault | times | noticed | recovered | labels | lost | wrong | damaged | too old | resources | |
|---|---|---|---|---|---|---|---|---|---|---|
"""


FOOT = """
## Memory

Four cameras that came and went {restarts} times at once took a run from {before} to {grown} MB.
glibc gives new threads heaps of their own, each opening of a camera starts many threads, and one
live block in a heap keeps the complete heap. Now all threads share two heaps, and the memory of a
closed pipeline is returned to the system: {first} MB before, {last} MB after
([measurements/heap.json](measurements/heap.json), `.venv/bin/python -m scripts.bench.heap`, beside
other work).

`.venv/bin/python -m scripts.soak --frames {frames}` reads frames of sources that leave, fail and
raise, and are opened {openings} times: {slope:+.2f} bytes per frame, 95 % of {low:.2f} to
{high:.2f}. That is {whole:.2f} MB in total, most of it early: heaps that settle, and no leak.
`tests/run/test_leaks.py` counts, block by block, what thirty openings allocated and never freed;
nothing is left by each of them. Open files and threads: {more_files:+.0f} and {more_threads:+.0f}
([measurements/soak.json](measurements/soak.json)). `make soak` reads 200,000 frames.

![Memory, open files and threads over the frames of the soak](measurements/soak.png)
"""


def page(kept: dict[str, Any]) -> str:
    """The text of docs/chaos.md, from docs/measurements/chaos.json."""
    rows = "".join(_row(name, figures) for name, figures in kept["faults"].items())
    return HEAD.format(date=kept["date"], **kept["machine"]) + rows + _memory()


def _memory() -> str:
    heap, soak = (json.loads((FIGURES.parent / f"{name}.json").read_text()) for name in KEPT)
    now, old, grows = heap["runs"]["as it is"], heap["runs"]["neither"], soak["bytes_per_frame"]
    return FOOT.format(
        restarts=heap["restarts"],
        before=round(old["first_mb"]),
        grown=round(old["last_mb"]),
        first=round(now["first_mb"]),
        last=round(now["last_mb"]),
        openings=sum(soak["openings"].values()),
        whole=grows["slope"] * soak["frames"] / 1e6,
        **grows,
        **{key: soak[key] for key in ("frames", "more_files", "more_threads")},
    )


def _row(name: str, figures: dict[str, Any]) -> str:
    truth = figures["truth"] or {}
    damaged = sum(truth[kind] for kind in ("older", "repeated", "damaged")) if truth else None
    cells = [
        name,
        figures["times"],
        _pair(figures["noticed_s"], "max"),
        _pair(figures["back_s"], "p99"),
        truth.get("frames"),
        figures["lost"],
        truth.get("wrong"),
        damaged,
        truth.get("old"),
        " -> ".join("{rss_mb:.0f}, {files}, {threads}".format(**one) for one in figures["needs"]),
        figures["remark"],
    ]
    return "| " + " | ".join("" if cell is None else str(cell) for cell in cells) + " |\n"


def _pair(seconds: dict[str, float | None], second: str) -> str:
    first, last = seconds["p50"], seconds[second]
    return "" if first is None or last is None else f"{first:.2f}, {last:.2f}"


def measure(words: list[str]) -> int:
    """Run the faults that pytest's arguments `words` select, or all. Returns pytest's exit code."""
    here = commit()  # before this run changes files
    old = json.loads(FIGURES.read_text())["faults"] if words and FIGURES.exists() else {}
    kept = {
        "command": "make chaos",
        "date": date.today().isoformat(),
        "machine": machine(),
        "versions": versions("numpy", "onnxruntime"),
        "faults": old,
    }
    FIGURES.write_text(json.dumps(kept, indent=1) + "\n")
    command = [sys.executable, "-m", "pytest", "-m", "chaos", "-n", "0", "tests/chaos", *words]
    env = {**os.environ, "EDGE_CHAOS": "whole", "EDGE_CHAOS_OUT": str(FIGURES)}
    code = subprocess.run(command, cwd=ROOT, env=env).returncode
    kept = json.loads(FIGURES.read_text())
    for figures in kept["faults"].values():
        figures.setdefault("commit", here)
    FIGURES.write_text(json.dumps(kept, indent=1) + "\n")
    return code


def main() -> None:
    words = sys.argv[1:]
    code = 0 if words == ["--page"] else measure(words)
    PAGE.write_text(page(json.loads(FIGURES.read_text())))
    sys.exit(code)


if __name__ == "__main__":
    main()
