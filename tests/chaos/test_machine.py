"""What happens to the machine itself: a kill, a stop at a bad moment, a clock that jumps."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.chaos.command import Run, until
from tests.chaos.measure import Fault, lost, truth
from tests.chaos.ordeal import FPS, Keep, Times, watched
from tests.chaos.proxy import Proxy
from tests.chaos.servers import Cameras

pytestmark = pytest.mark.chaos
HOUR, YEAR = 3600, 365 * 86400
OFFSETS = {"+1h": HOUR, "-1h": -HOUR, "+20y": 20 * YEAR, "-5y": -5 * YEAR, "+0": 0}


def test_the_command_is_killed_and_restarted(
    stamp_reader: Path, tmp_path: Path, times: Times, keep: Keep
) -> None:
    """It leaves nothing behind that would stop the next one."""
    fault, summary = Fault("edge killed (SIGKILL) and restarted"), tmp_path / "summary.json"
    with Cameras() as cameras:
        words = ["--source", cameras.url(), "--summary", summary]
        for _ in range(times(20, 2)):
            with Run(stamp_reader, words) as run:
                run.await_picture(time.monotonic())
                run.stop(signal.SIGKILL)
            assert run.exit == -signal.SIGKILL
            assert not summary.exists(), "nothing half-written"
        began = time.monotonic()
        with Run(stamp_reader, words) as run:
            fault.remark = f"labels again {run.await_picture(began) - began:.1f} s after its start"
        fault.exit, fault.truth = run.exit, truth(run.seen, {cameras.url(): 0}, FPS)
    assert json.loads(summary.read_text())["frames"] == len(run.seen)
    keep(fault)


@pytest.mark.parametrize("when", ["playing", "frozen", "waiting", "connecting"])
def test_it_stops_soon_whatever_its_camera_does(when: str, stamp_reader: Path, keep: Keep) -> None:
    fault = Fault(f"SIGTERM while {when}")
    with Cameras() as cameras, Proxy(cameras.port) as proxy:
        proxy.weather.silent = when == "connecting"
        with Run(stamp_reader, ["--source", cameras.url(port=proxy.port), "--wait"]) as run:
            if when == "connecting":
                until(lambda: proxy.taken > 1, "it does not connect")
            else:
                run.await_picture(time.monotonic())
            if when == "frozen":
                proxy.weather.frozen = frozenset({"down"})
                time.sleep(0.5)
            elif when == "waiting":
                struck = cameras.kill()
                run.await_words(struck, "trying again")
            took = run.stop()
        fault.remark = f"ended after {took:.1f} s"
    keep(fault)
    assert run.exit == (130 if when == "connecting" else 0), "130: it has labelled nothing"
    assert took < 10, "on a busy machine; alone it takes less than 2 s"


def test_the_wall_clock_jumps_both_ways(
    stamp_reader: Path, tmp_path: Path, times: Times, keep: Keep
) -> None:
    """By an hour, and by years: ages, waits and rates go by the clock that never jumps."""
    fault = Fault("wall clock jumps, to and fro")
    offset = tmp_path / "offset"
    offset.write_text("+0")
    env = {
        "LD_PRELOAD": "libfaketimeMT.so.1",
        "LD_LIBRARY_PATH": _faketime_folder(),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_CACHE_DURATION": "1",  # seconds until it looks into the file again
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    with Cameras() as cameras, watched(fault, stamp_reader, {cameras.url(): 0}, env=env) as run:
        began = time.monotonic()
        for jump in times(10, 1) * list(OFFSETS):
            offset.write_text(jump)
            jumped = time.monotonic()
            assert abs(_clock(env) - time.time() - OFFSETS[jump]) < HOUR / 2, "it did not jump"
            time.sleep(1.5)
            fault.back.append(run.await_picture(jumped) - jumped)
        assert run.said_after(began, "trying again") is None
        fault.lost = lost(run.seen, 0, [(began, time.monotonic())], FPS)
    assert max(one.age_ms for one in run.seen) < 60e3, "no age has a jump in it"
    keep(fault)


def _clock(env: dict[str, str]) -> float:
    """The wall clock's seconds, as a process with this environment sees it."""
    command = [sys.executable, "-c", "import time; print(time.time())"]
    environment = {**os.environ, **env}
    return float(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)


def _faketime_folder() -> str:
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    assert found, "there is no libfaketime: scripts/setup.sh --tests installs it"
    return str(found[0].parent)
