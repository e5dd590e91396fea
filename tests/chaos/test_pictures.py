"""Pictures that change, break, come seldom or from many: each is told as what it is."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import pytest

from tests.chaos.command import until
from tests.chaos.measure import Fault, lost, percentiles
from tests.chaos.ordeal import FPS, Keep, Times, watched
from tests.chaos.proxy import Proxy
from tests.chaos.servers import Cameras

pytestmark = pytest.mark.chaos


def test_another_size_in_mid_stream(stamp_reader: Path, times: Times, keep: Keep) -> None:
    fault = Fault("resolution changed in mid-stream")
    with Cameras() as cameras, watched(fault, stamp_reader, {cameras.url(): 0}) as run:
        began = time.monotonic()
        for turn in range(times(50, 4)):
            size = ("640 480", "320 240", "640 400")[turn % 3]
            changed = cameras.tell(f"size {size}")
            said = run.await_words(changed, size.replace(" ", "x"))
            fault.noticed.append(said - changed)
            fault.back.append(run.await_picture(changed) - changed)
        fault.lost = lost(run.seen, 0, [(began, time.monotonic())], FPS)
    keep(fault)


def test_another_size_after_a_restart(stamp_reader: Path, times: Times, keep: Keep) -> None:
    fault = Fault("another resolution after a restart")
    with Cameras() as cameras, watched(fault, stamp_reader, {cameras.url(): 0}) as run:
        for turn in range(times(10, 1)):
            cameras.kill()
            size = ((640, 400), (320, 240))[turn % 2]
            cameras.options = ["--size", *size]
            returned = cameras.start()
            fault.back.append(run.await_picture(returned) - returned)
            run.await_words(returned, "{}x{}".format(*size))
    keep(fault)


def test_coded_pictures_with_random_bytes(stamp_reader: Path, times: Times, keep: Keep) -> None:
    """What can be decoded is labelled, and after it all is as before."""
    fault = Fault("corrupted H.264", damages=True, slack=0.5)
    with Cameras() as cameras, watched(fault, stamp_reader, {cameras.url(): 0}) as run:
        fault.lost = 0
        for _ in range(times(10, 1)):
            began = time.monotonic()
            for share in (0.001, 0.01, 0.2):
                cameras.tell(f"break {share}")
                time.sleep(1.5)
            mended = cameras.tell("break 0")
            fault.back.append(run.await_picture(mended) - mended)
            fault.lost += lost(run.seen, 0, [(began, mended)], FPS)
    fault.remark = "1 byte in 1000, in 100, in 5"
    keep(fault)


def test_bits_that_flip_in_the_connection(stamp_reader: Path, times: Times, keep: Keep) -> None:
    """Then RTSP itself is wrong, too: an answer that is waited for may never be one."""
    fault = Fault("corrupted TCP", damages=True)
    with Cameras() as cameras, Proxy(cameras.port) as proxy:
        url = cameras.url(port=proxy.port)
        with watched(fault, stamp_reader, {url: 0}) as run:
            fault.lost, waits = 0, list[float]()
            for _ in range(times(20, 2)):
                began = time.monotonic()
                proxy.weather.corrupt = 0.002
                time.sleep(3)
                proxy.weather.corrupt = 0.0
                mended = time.monotonic()
                waits.append(run.await_picture(mended, patience=60) - mended)
                fault.lost += lost(run.seen, 0, [(began, mended)], FPS)
    fault.remark = "one byte in 500; again after {p50} s, at most {max} s".format(
        **percentiles(waits)
    )
    keep(fault)


@pytest.mark.parametrize(
    "network",
    [
        "drop-probability=0.03",
        "delay-probability=1 min-delay=20 max-delay=60 allow-reordering=false",
        "delay-probability=0.3 min-delay=5 max-delay=30 allow-reordering=true",
    ],
    ids=["loss", "delay", "reordering"],
)
def test_packets_that_are_lost_or_late(
    network: str, request: pytest.FixtureRequest, stamp_reader: Path, times: Times, keep: Keep
) -> None:
    kind = request.node.callspec.id
    # What comes later than rtspsrc waits for it, 50 ms, is lost: on a busy machine some does.
    fault = Fault(f"UDP packets: {kind}", damages=kind != "delay", slack=0.06)
    with (
        Cameras(["--netsim", network]) as cameras,
        watched(fault, stamp_reader, {cameras.url(): 0}, ["--transport", "udp"]) as run,
    ):
        began = time.monotonic()
        time.sleep(times(60, 4))
        fault.lost = lost(run.seen, 0, [(began, time.monotonic())], FPS)
    fault.remark = network
    keep(fault)


def test_a_camera_of_few_frames_is_not_taken_for_dead(
    stamp_reader: Path, times: Times, keep: Keep
) -> None:
    """It is, until two frames came in one go: then it is known how seldom they come."""
    interval, stall = times(60, 3), times(10, 1)
    fault = Fault("a camera of one frame a minute")
    with Cameras(["--fps", 1 / interval]) as slow, Cameras(["--first", 1]) as fast:
        urls, words = {slow.url(0): 0, fast.url(1): 1}, ["--stall", stall]
        fps = {slow.url(0): 1 / interval, fast.url(1): FPS}
        patience = 3 * interval
        with watched(fault, stamp_reader, urls, words, fps=fps, patience=patience) as run:
            began = time.monotonic()

            def known() -> bool:
                """Two of its pictures came over one connection."""
                last = [one for one in run.seen if one.source == slow.url(0)][-2:]
                waited = last[-1].at - last[0].at if last else 0.0
                closed = run.said_after(last[0].at, slow.url(0), "trying again") if last else None
                return waited > 0.9 * interval and closed is None

            fault.remark = f"known after {until(known, run.text(), 10 * interval):.0f} s"
            settled = time.monotonic()
            time.sleep(2 * interval + 1)
            assert run.said_after(settled, slow.url(0), "trying again") is None
            fault.lost = lost(run.seen, 1, [(began, time.monotonic())], FPS)
            assert sum(one.source == slow.url(0) and one.at > settled for one in run.seen) > 1
    keep(fault)


def test_a_camera_whose_clock_runs_off(stamp_reader: Path, times: Times, keep: Keep) -> None:
    """It stamps thirtieths of a second on pictures that it takes more slowly, for ever."""
    fault = Fault("a camera's clock a thirtieth too slow")
    with (
        Cameras(["--clock", 29 / 30]) as cameras,
        watched(fault, stamp_reader, {cameras.url(): 0}) as run,
    ):
        began = time.monotonic()
        time.sleep(times(120, 8))
        fault.lost = lost(run.seen, 0, [(began, time.monotonic())], FPS)
        assert run.said_after(began, "too late") is None
    assert fault.lost < FPS * (time.monotonic() - began) / 2
    keep(fault)


@pytest.mark.parametrize("words", [[], ["--max-fps", 15]], ids=["all", "15 a second"])
def test_a_camera_whose_clock_is_set_back(
    words: list[object],
    request: pytest.FixtureRequest,
    stamp_reader: Path,
    times: Times,
    keep: Keep,
) -> None:
    """To before the stream began: its pictures bear one time for ever, until it is opened anew."""
    fault = Fault(f"a camera's clock set back, {request.node.callspec.id}")
    fps = 15 if words else FPS
    with (
        Cameras() as cameras,
        watched(fault, stamp_reader, {cameras.url(): 0}, words, fps=fps) as run,
    ):
        fault.lost = 0
        for _ in range(times(4, 1)):
            time.sleep(1)
            back = cameras.tell("set -5")
            fault.noticed.append(run.await_words(back, "are frozen; ") - back)
            anew = time.monotonic()
            fault.back.append(run.await_picture(anew) - anew)
            fault.lost += lost(run.seen, 0, [(back, anew)], fps)
            assert lost(run.seen, 0, [(back, back + 4)], fps) < fps, "they are labelled until then"
    keep(fault)


def test_who_joins_gets_old_pictures_first(stamp_reader: Path, times: Times, keep: Keep) -> None:
    """As of servers that begin with the latest keyframe: what came at once is not current."""
    fault = Fault("2 s of old pictures at each connection")
    with (
        Cameras(["--cached", 2]) as cameras,
        watched(fault, stamp_reader, {cameras.url(): 0}) as run,
    ):
        for _ in range(times(20, 1)):
            cameras.kill()
            run.await_picture(cameras.start())
    fault.remark = f"{times(20, 1)} connections"
    keep(fault)


def test_sixteen_cameras_at_once(stamp_reader: Path, times: Times, keep: Keep) -> None:
    fault, fps = Fault("16 cameras at once"), 5
    with Cameras(["--cameras", 16, "--fps", fps]) as cameras:
        urls = {cameras.url(number): number for number in range(16)}
        with watched(fault, stamp_reader, urls, fps=fps) as run:
            began = time.monotonic()
            time.sleep(times(60, 5))
            spans = [(began, time.monotonic())]
            missing = [lost(run.seen, number, spans, fps) for number in range(16)]
    fault.lost = sum(missing)
    counts = Counter(one.source for one in run.seen if one.at > began)
    fault.remark = f"{min(counts.values())} to {max(counts.values())} frames of each"
    assert set(counts) == set(urls)
    assert min(counts.values()) > max(counts.values()) / 2, "each gets its turn"
    keep(fault)
