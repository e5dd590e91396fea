"""Web cameras (MJPEG over HTTP): a real server that is killed, restarted, and frozen."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.chaos.command import until
from tests.chaos.measure import Fault, lost
from tests.chaos.ordeal import Keep, Times, suffer, watched
from tests.chaos.servers import Cameras

pytestmark = pytest.mark.chaos
FPS = 15.0


@pytest.mark.parametrize("how", ["killed (SIGKILL) and restarted", "frozen without closing"])
def test_a_web_camera_comes_back_and_the_other_plays_on(
    how: str, stamp_reader: Path, times: Times, keep: Keep
) -> None:
    fault, kill = Fault(f"web camera {how}"), "killed" in how
    options = ["--fps", FPS]
    with Cameras(options, kind="webcams") as hurt, Cameras(options, kind="webcams") as other:
        url = hurt.url(3)
        strike, hint = (hurt.kill, hurt.start) if kill else (hurt.freeze, hurt.thaw)
        with watched(fault, stamp_reader, {url: 3, other.url(4): 4}, fps=FPS) as run:
            # How long it may be silent goes by how often it has sent pictures.
            until(lambda: len(run.seen) > 2 * FPS, "a second of pictures")
            began = time.monotonic()
            for _ in range(times(50, 2) if kill else times(10, 1)):
                struck, returned = suffer(
                    fault, run, url, strike, hint, down=1.0 if kill else 7.0, camera=3
                )
                shown = [one.stamp.ms for one in run.seen if one.stamp and one.stamp.camera == 4]
                meanwhile = [ms for ms in shown if struck * 1e3 < ms < returned * 1e3]
                assert meanwhile, "the other played on"
                time.sleep(0.5)
            fault.lost = lost(run.seen, 4, [(began, time.monotonic())], FPS)
    assert fault.noticed, "the stall timeout of a 15 fps camera is 4 s at most"
    fault.remark = "two web cameras of 15 fps; lost images are those of the unaffected one"
    keep(fault)
