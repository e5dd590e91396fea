"""Mqtt with a real broker: topics and messages, and what happens when the broker is away."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.errors import MissingPackage
from edge.outputs.json_lines import as_json
from edge.outputs.telemetry import broker as brokers
from edge.outputs.telemetry import mqtt as mqtt_module
from edge.outputs.telemetry.mqtt import Mqtt, topic_part
from edge.preprocess.surface import Surface
from edge.run.interfaces import Result
from edge.run.status import Transition
from edge.sources.frame import Frame
from tests.outputs.telemetry.mosquitto import Listener, Mosquitto, Road, wait_until

ROOT = Path(__file__).parents[3]
RESULT, STATE = "vit-edge/test-ball/result", "vit-edge/test-ball/state"
STATUS = "vit-edge/status"
NOON = 1738324800.0  # 2025-01-31T12:00:00Z

Publish = Callable[..., Mqtt]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path)
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture
def listen() -> Iterator[Callable[..., Listener]]:
    listeners: list[Listener] = []

    def listen(*args: Any) -> Listener:
        listeners.append(Listener(*args))
        return listeners[-1]

    yield listen
    for listener in listeners:
        listener.close()


@pytest.fixture
def listener(broker: Mosquitto, listen: Any) -> Listener:
    return listen(broker)


@pytest.fixture
def road(broker: Mosquitto) -> Iterator[Road]:
    road = Road(broker)
    road.open()
    yield road
    road.close()


@pytest.fixture
def messages() -> list[str]:
    return []


@pytest.fixture
def publish(messages: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Publish]:
    """Makes mqtt_module with a short backoff, and closes them."""
    monkeypatch.setattr(mqtt_module, "_MAX_BACKOFF", 0.4)
    open_sinks: list[Mqtt] = []

    def publish(url: str, **options: Any) -> Mqtt:
        open_sinks.append(Mqtt(url, messages.append, messages.append, **options))
        return open_sinks[-1]

    yield publish
    for sink in open_sinks:
        sink.close()


@pytest.fixture
def result(guess: Any) -> Callable[..., Result]:
    def result(number: int, source: str = "test://ball") -> Result:
        pixels = np.zeros((2, 2, 3), np.uint8)
        frame = Frame(source, number, 0.5, 5.0, "system", Surface.from_rgb(pixels))
        return Result(frame, guess(7), 20.0, 10.0, NOON)

    return result


def threads() -> list[threading.Thread]:
    """The threads of mqtt_module, including paho's."""
    return [thread for thread in threading.enumerate() if "mqtt" in thread.name]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("gate 3", "gate-3"),
        ("rtsp://***@camera:554/live/1", "rtsp-camera-554-live-1"),
        ("a+b#c/d\0e", "a-b-c-d-e"),
        ("/dev/video0", "dev-video0"),
        ("Zürich_1.mp4", "Zürich_1.mp4"),
        ("video\udcff.mp4", "video-.mp4"),
        ("+/#", "source"),
    ],
)
def test_a_source_name_becomes_one_topic_level(name: str, part: str) -> None:
    assert topic_part(name) == part
    part.encode()


def test_a_result_is_published_in_the_format_of_stdout(
    broker: Mosquitto, listen: Any, publish: Publish, result: Any
) -> None:
    listener = listen(broker)
    sink = publish(f"{broker.url}/site/line1")
    sink.write(result(3))
    wait_until(lambda: listener.texts("site/line1/test-ball/result"))
    assert listener.texts("site/line1/test-ball/result") == [as_json(result(3))]
    assert not listener.received[-1].retained


def test_sources_whose_topic_level_would_be_the_same_get_different_topics(
    broker: Mosquitto, listen: Any, publish: Publish, result: Any
) -> None:
    listener, sink = listen(broker), publish(broker.url)
    for source in ("a/b", "a-b", "a+b", "a/b"):
        sink.write(result(0, source))
    wait_until(lambda: len(listener.frames()) == 4)
    topics = [(message.topic, message.content["source"]) for message in listener.received[1:]]
    assert topics == [
        ("vit-edge/a-b/result", "a/b"),
        ("vit-edge/a-b-2/result", "a-b"),
        ("vit-edge/a-b-3/result", "a+b"),
        ("vit-edge/a-b/result", "a/b"),
    ]


def test_names_longer_than_a_topic_can_be_are_published(
    broker: Mosquitto, listen: Any, publish: Publish, result: Any
) -> None:
    listener, sink = listen(broker), publish(f"{broker.url}/{'p' * 900}")
    names = ["ü" * 65_500, "ü" * 65_501, "/" * 70_000]
    for name in names:
        sink.changed(Transition(name, "playing"))
        sink.write(result(0, name))
    wait_until(lambda: len(listener.frames()) == 3)
    assert [
        message.content["source"] for message in listener.received if "result" in message.topic
    ] == names
    assert len({message.topic for message in listener.received}) == 7


def test_later_subscribers_receive_the_retained_state_of_each_source(
    broker: Mosquitto, listen: Any, publish: Publish
) -> None:
    before = datetime.now(timezone.utc)
    early, sink = listen(broker), publish(broker.url)
    sink.changed(Transition("test://ball", "playing"))
    sink.changed(Transition("test://ball", "waiting", "no frame for 10 s"))
    wait_until(lambda: "waiting" in (early.last(STATE) or ""))
    late = listen(broker)
    wait_until(lambda: late.texts(STATE) and late.texts(STATUS))
    (state,) = [message for message in late.received if message.topic == STATE]
    assert state.retained
    since = datetime.fromisoformat(state.content.pop("since").replace("Z", "+00:00"))
    assert abs((since - before).total_seconds()) < 60
    content = json.loads(state.text)
    del content["since"]
    assert content == {"source": "test://ball", "state": "waiting", "reason": "no frame for 10 s"}


def test_the_status_is_online_until_the_sink_is_closed(
    broker: Mosquitto, listen: Any, publish: Publish
) -> None:
    sink, listener = publish(broker.url), listen(broker)
    wait_until(lambda: listener.texts(STATUS) == ["online"])
    sink.close()
    wait_until(lambda: listener.texts(STATUS) == ["online", "offline"])
    late = listen(broker)
    wait_until(lambda: late.texts(STATUS))
    assert late.received[0].retained
    assert late.last(STATUS) == "offline"


def test_close_delivers_all_queued_results(
    broker: Mosquitto, listen: Any, publish: Publish, result: Any
) -> None:
    listener, sink = listen(broker), publish(broker.url)
    for number in range(300):
        sink.write(result(number))
    sink.close()
    assert sink.dropped == 0
    wait_until(lambda: listener.last(STATUS) == "offline")
    assert listener.frames() == list(range(300)), "all, and before the offline message"


def test_results_are_queued_until_the_broker_is_there(
    road: Road, listener: Listener, publish: Publish, result: Any, messages: list[str]
) -> None:
    road.close()
    sink = publish(road.url)
    for number in range(5):
        sink.write(result(number))
    wait_until(lambda: messages)
    time.sleep(1)
    refused = "cannot be reached (Connection refused); up to 1000 results are queued meanwhile"
    address = f"MQTT broker 127.0.0.1:{road.port}"
    assert messages == [f"{address}: {refused}"], "several attempts, one message"
    road.open()
    wait_until(lambda: listener.frames() == [0, 1, 2, 3, 4])
    assert messages[1:] == [f"{address}: connected"]
    assert sink.dropped == 0


def test_a_restarted_broker_without_memory_receives_all_states_again(
    broker: Mosquitto, listen: Any, publish: Publish, messages: list[str]
) -> None:
    sink = publish(broker.url)
    sink.changed(Transition("test://ball", "playing"))
    wait_until(lambda: messages)
    broker.kill()
    wait_until(lambda: len(messages) > 1)
    assert "the connection was lost" in messages[1]
    broker.start()
    wait_until(lambda: messages[-1].endswith("connected"))
    listener = listen(broker)
    wait_until(lambda: listener.texts(STATE))
    assert listener.last(STATUS) == "online"
    assert '"playing"' in (listener.last(STATE) or "")


def test_an_outage_drops_only_the_oldest_results_and_counts_them(
    road: Road, listener: Listener, publish: Publish, result: Any, messages: list[str]
) -> None:
    sink = publish(road.url, limit=20)
    wait_until(lambda: messages)
    road.close()
    wait_until(lambda: len(messages) > 1)
    for number in range(50):
        sink.write(result(number))
    assert sink.dropped == 30
    road.open()
    wait_until(lambda: listener.frames() == list(range(30, 50)))
    wait_until(lambda: messages[-1].endswith("connected; 30 results were dropped meanwhile"))
    assert sink.dropped == 30


def test_a_state_from_before_an_outage_never_overwrites_a_newer_one(
    road: Road, listener: Listener, publish: Publish, messages: list[str]
) -> None:
    sink = publish(road.url)
    sink.changed(Transition("test://ball", "playing"))
    wait_until(lambda: listener.texts(STATE))
    road.block()  # from now on nothing is acknowledged
    sink.changed(Transition("test://ball", "waiting"))
    time.sleep(0.2)
    road.close()
    wait_until(lambda: len(messages) > 1)
    sink.changed(Transition("test://ball", "failed"))
    road.open()
    wait_until(lambda: '"failed"' in (listener.last(STATE) or ""))
    sink.close()
    wait_until(lambda: listener.last(STATUS) == "offline")
    assert ["waiting" in text for text in listener.texts(STATE)] == [False, False]


def test_unacknowledged_results_are_sent_again(
    road: Road, listener: Listener, publish: Publish, result: Any, messages: list[str]
) -> None:
    sink = publish(road.url)
    sink.write(result(0))
    wait_until(lambda: listener.frames() == [0])
    road.block()
    for number in range(1, 200):
        sink.write(result(number))
    time.sleep(0.2)
    road.close()
    road.open()
    wait_until(lambda: listener.frames()[-1] == 199)
    assert listener.frames() == list(range(200))
    assert sink.dropped == 0


def test_a_broker_that_hangs_blocks_neither_the_run_nor_its_end(
    road: Road, publish: Publish, result: Any, messages: list[str]
) -> None:
    sink = publish(road.url, limit=50)
    wait_until(lambda: messages)
    road.block()
    began = time.monotonic()
    for number in range(2000):
        sink.write(result(number))
    assert time.monotonic() - began < 20, "2,000 writes: 0.4 s on an idle machine"
    assert sink.dropped >= 2000 - 50 - 100, (
        "no more than the limit are queued, besides those in flight"
    )
    began = time.monotonic()
    sink.close()
    assert time.monotonic() - began < 5, "0.9 s on an idle machine"
    assert sink.dropped == 2000
    assert messages[-1].endswith("results did not reach it")
    wait_until(lambda: not threads())


def trickle(server: socket.socket) -> None:
    """Answer the first client with an endless TLS record, a byte at a time."""
    with suppress(OSError):
        connection, _ = server.accept()
        connection.sendall(b"\x16\x03\x03\x40\x00")
        while True:
            connection.sendall(b"\0")
            time.sleep(0.1)


@pytest.mark.parametrize("scheme", ["mqtt", "mqtts"])
@pytest.mark.parametrize("broker_is", ["silent", "slow", "not there"])
def test_the_run_ends_without_a_working_broker(
    broker_is: str, scheme: str, publish: Publish, result: Any, messages: list[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if broker_is == "not there":
            server.close()
        elif broker_is == "slow":
            threading.Thread(target=trickle, args=(server,), daemon=True).start()
        sink = publish(f"{scheme}://127.0.0.1:{port}")
        sink.write(result(0))
        began = time.monotonic()
        sink.close()
        assert time.monotonic() - began < 5
    assert sink.dropped == 1
    assert messages[-1] == f"MQTT broker 127.0.0.1:{port}: the last 1 results did not reach it"
    wait_until(lambda: not threads())


def test_the_process_exits_while_a_broker_does_not_answer_tls() -> None:
    code = """
import sys, time
from edge.outputs.telemetry import broker, mqtt
broker._CONNECT = 600.0
sink = mqtt.Mqtt(sys.argv[1], print, print)
time.sleep(0.5)
sink.close()
"""
    with socket.create_server(("127.0.0.1", 0)) as server:
        command = [sys.executable, "-c", code, f"mqtts://127.0.0.1:{server.getsockname()[1]}"]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, timeout=60, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_run_ends_during_an_attempt_to_connect(
    publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(brokers, "_CONNECT", 60.0)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, ExitStack() as waiting:
        for _ in range(2):  # they fill the backlog, so a third connection hangs
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        sink = publish(f"mqtt://127.0.0.1:{full.getsockname()[1]}")
        time.sleep(0.2)
        began = time.monotonic()
        sink.close()
        assert time.monotonic() - began < 20


def test_a_server_that_never_answers_is_disconnected(
    publish: Publish, messages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(brokers, "KEEPALIVE", 1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        publish(f"mqtt://127.0.0.1:{server.getsockname()[1]}")
        wait_until(lambda: messages)
    assert "the connection was lost" in messages[0]


def test_a_killed_run_is_offline_by_its_last_will(broker: Mosquitto, listen: Any) -> None:
    code = """
import sys, time
from edge.outputs.telemetry.mqtt import Mqtt
sink = Mqtt(sys.argv[1], print, print)
time.sleep(600)
"""
    run = subprocess.Popen(
        [sys.executable, "-c", code, broker.url], env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    try:
        listener = listen(broker)
        wait_until(lambda: listener.last(STATUS) == "online")
    finally:
        run.kill()
        run.wait()
    wait_until(lambda: listener.last(STATUS) == "offline")
    late = listen(broker)
    wait_until(lambda: late.last(STATUS) == "offline")
    assert late.received[0].retained


def test_many_outages_leak_no_threads_or_descriptors(
    road: Road, listener: Listener, publish: Publish, messages: list[str]
) -> None:
    publish(road.url)

    def outage() -> tuple[int, int]:
        before = len(messages)
        road.close()
        wait_until(lambda: len(messages) > before)
        road.open()
        wait_until(lambda: messages[-1].endswith("connected"))
        return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))

    threads, files = zip(*(outage() for _ in range(20)), strict=True)
    assert max(threads[-3:]) <= max(threads[:3])
    assert max(files[-3:]) <= max(files[:3])


def test_without_paho_the_hint_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paho.mqtt.client", None)
    with pytest.raises(MissingPackage, match=r"run .*'\.\[service\]'"):
        Mqtt("mqtt://127.0.0.1:1", print, print)
