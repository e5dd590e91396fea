"""Servers that go away, networks that fail: it is noticed, and frames come again by themselves."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.chaos.command import Run
from tests.chaos.measure import Fault, lost, truth
from tests.chaos.ordeal import FPS, Keep, Times, suffer, watched
from tests.chaos.proxy import Proxy, Way
from tests.chaos.servers import Cameras

pytestmark = pytest.mark.chaos


def test_servers_are_killed_and_restarted(stamp_reader: Path, times: Times, keep: Keep) -> None:
    """Four of them, each at times of its own: the others' cameras play on meanwhile."""
    fault = Fault("server killed (SIGKILL) and restarted")
    strikes, fps = times(1000, 8) // 4, 15
    with ExitStack() as stack:
        servers = [
            stack.enter_context(Cameras(["--first", number, "--fps", fps])) for number in range(4)
        ]
        urls = {server.url(number): number for number, server in enumerate(servers)}
        run = stack.enter_context(watched(fault, stamp_reader, urls, ["--wait"], fps=fps))

        def hurt(number: int) -> int:
            server, dice = servers[number], random.Random(number)
            url, spans = server.url(number), list[tuple[float, float]]()
            up = time.monotonic()
            for _ in range(strikes):
                time.sleep(dice.uniform(0, 1))
                down = dice.choice([0.1, 0.3, 1.0, 3.0])
                struck, back = suffer(
                    fault, run, url, server.kill, server.start, down=down, camera=number
                )
                spans.append((up, struck))
                up = back
            return lost(run.seen, number, spans, fps)

        with ThreadPoolExecutor(4) as pool:
            fault.lost = sum(pool.map(hurt, range(4)))
    fault.remark = "four cameras of 15 fps, servers gone for 0.1 to 3 s"
    keep(fault)


@pytest.mark.parametrize("reset", [True, False], ids=["RST", "FIN"])
def test_connections_are_cut(reset: bool, stamp_reader: Path, times: Times, keep: Keep) -> None:
    fault = Fault(f"connection cut ({'RST' if reset else 'FIN'})")
    with Cameras() as cameras, Proxy(cameras.port) as proxy:
        url = cameras.url(port=proxy.port)

        def cut() -> float:
            moment = time.monotonic()
            proxy.cut(reset=reset)
            return moment

        with watched(fault, stamp_reader, {url: 0}) as run:
            began = time.monotonic()
            for _ in range(times(100, 2)):
                suffer(fault, run, url, cut, time.monotonic)
            fault.lost = lost(run.seen, 0, [(began, time.monotonic())], FPS)
    keep(fault)


@pytest.mark.parametrize("how", ["server stopped", "network, both ways", "network, to the client"])
def test_a_frozen_camera_is_noticed_and_opened_anew(
    how: str, stamp_reader: Path, times: Times, keep: Keep
) -> None:
    """Its connection stays open, and nothing says that anything is wrong."""
    # Who joins a stream in the middle sees its next whole picture within a second.
    fault = Fault(f"frozen without closing ({how})", damages=True)
    ways: frozenset[Way] = frozenset({"down"} if "client" in how else {"up", "down"})
    with Cameras() as cameras, Proxy(cameras.port) as proxy:
        url = cameras.url(port=proxy.port)

        def freeze() -> float:
            proxy.weather.frozen = ways
            return time.monotonic()

        def thaw() -> float:
            proxy.weather.frozen = frozenset()
            return time.monotonic()

        both = (cameras.freeze, cameras.thaw) if how == "server stopped" else (freeze, thaw)
        with watched(fault, stamp_reader, {url: 0}) as run:
            for _ in range(times(10, 1)):
                suffer(fault, run, url, *both, down=5)
    fault.remark = "the stall timeout of a 30 fps camera is 2 s"
    assert fault.noticed, "rtspsrc itself gives up only after 20 s"
    keep(fault)


def test_what_was_held_back_is_not_called_current(
    stamp_reader: Path, times: Times, keep: Keep
) -> None:
    """Too short for the watchdog: all that was under way comes at once."""
    fault = Fault("frozen for 0.2 to 1.8 s, then all at once")
    with Cameras() as cameras, Proxy(cameras.port) as proxy:
        dice, url = random.Random(0), cameras.url(port=proxy.port)
        with watched(fault, stamp_reader, {url: 0}) as run:
            began = time.monotonic()
            for _ in range(times(50, 4)):
                proxy.weather.frozen = frozenset({"down"})
                time.sleep(dice.uniform(0.2, 1.8))
                thawed = time.monotonic()
                proxy.weather.frozen = frozenset()
                fault.back.append(run.await_picture(thawed) - thawed)
                time.sleep(1)
            fault.lost = lost(run.seen, 0, [(began, time.monotonic())], FPS)
    keep(fault)


def test_a_network_too_slow_for_the_camera(stamp_reader: Path, times: Times, keep: Keep) -> None:
    """Half of what the camera sends passes, and a queue grows on the way."""
    fault = Fault("bandwidth half of the camera's", slack=0.5)
    with Cameras(["--size", 640, 480]) as cameras, Proxy(cameras.port) as proxy:
        url = cameras.url(port=proxy.port)
        with watched(fault, stamp_reader, {url: 0}) as run:
            began = time.monotonic()
            proxy.weather.rate = 8_000
            time.sleep(times(60, 6))
            fault.noticed.append(run.await_words(began, "too late; ") - began)
            proxy.weather.rate = None
            mended = time.monotonic()
            fault.back.append(run.await_picture(mended) - mended)
            fault.lost = lost(run.seen, 0, [(began, mended)], FPS)
    fault.remark = "reconnected whenever it is a second behind; a keyframe alone takes 0.3 s"
    keep(fault)


@pytest.mark.parametrize("how", ["refused", "never answered"])
def test_new_connections_that_come_to_nothing(
    how: str, stamp_reader: Path, times: Times, keep: Keep
) -> None:
    """However long it lasts, the pauses between tries stay short."""
    seconds = times(60, 5)
    fault = Fault(f"connections {how} for a time")
    with Cameras() as cameras, Proxy(cameras.port) as proxy:
        url = cameras.url(port=proxy.port)

        def strike() -> float:
            moment = time.monotonic()
            if how == "refused":
                proxy.refuse()
            else:
                proxy.weather.silent = True
            proxy.cut(reset=True)
            return moment

        def hint() -> float:
            if how == "refused":
                proxy.accept()
            else:
                proxy.weather.silent = False
                proxy.cut(reset=True)  # what was said to a machine that was off is lost
            return time.monotonic()

        with watched(fault, stamp_reader, {url: 0}) as run:
            for _ in range(times(2, 1)):
                suffer(fault, run, url, strike, hint, down=seconds)
    fault.remark = f"for {seconds} s each"
    keep(fault)


def test_a_camera_that_never_comes_does_not_stop_the_others(
    stamp_reader: Path, times: Times, keep: Keep
) -> None:
    fault = Fault("a camera that never comes, beside one that does")
    with Cameras() as cameras, Proxy(cameras.port) as nobody:
        nobody.weather.silent = True
        missing = ["--source", cameras.url(5, port=nobody.port)]
        with watched(fault, stamp_reader, {cameras.url(): 0}, missing) as run:
            began = time.monotonic()
            fault.noticed.append(run.await_words(began - 60, missing[1], "trying again") - began)
            time.sleep(times(30, 1))
            fault.lost = lost(run.seen, 0, [(began, time.monotonic())], FPS)
    keep(fault)


def test_wrong_credentials_then_right_ones(stamp_reader: Path, keep: Keep) -> None:
    """The camera is told the password that edge has; nobody else is."""
    fault = Fault("password refused, then accepted")
    secret = "pa55word"
    with Cameras(["--user", "me:another"]) as cameras:
        url, hidden = cameras.url(user=f"me:{secret}@"), cameras.url(user="***@")
        began = time.monotonic()
        with Run(stamp_reader, ["--source", url, "--wait"]) as run:
            fault.noticed.append(run.await_words(began, hidden, "trying again") - began)
            cameras.kill()
            cameras.options = ["--user", f"me:{secret}"]
            returned = cameras.start()
            fault.remark = (
                f"labels {run.await_picture(returned) - returned:.1f} s after it was accepted"
            )
        fault.exit, fault.truth = run.exit, truth(run.seen, {hidden: 0}, FPS)
    assert secret not in run.text()
    keep(fault)
