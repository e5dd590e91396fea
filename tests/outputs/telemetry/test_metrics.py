"""Metrics as Prometheus receives them: over HTTP, read with its own parser."""

from __future__ import annotations

import http.client
import re
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from edge import __version__
from edge.errors import AddressError, BackendError, MissingPackage
from edge.outputs.telemetry.metrics import RunMetrics, serve
from edge.outputs.web import server
from edge.run.status import Status, Transition
from edge.run.summary import Histogram
from tests.outputs.telemetry.test_board import write

Labels = dict[str, str]


class Scrape:
    """The content of one scrape."""

    def __init__(self, url: str):
        with urllib.request.urlopen(url, timeout=30) as answer:
            self.families = list(text_string_to_metric_families(answer.read().decode()))
        self.kinds = {family.name: family.type for family in self.families}
        self.samples = [sample for family in self.families for sample in family.samples]

    def names(self) -> set[str]:
        return {sample.name for sample in self.samples}

    def all(self, name: str) -> list[tuple[Labels, float]]:
        return [(sample.labels, sample.value) for sample in self.samples if sample.name == name]

    def one(self, name: str, **labels: str) -> float:
        (value,) = [value for found, value in self.all(name) if found == labels]
        return value


@pytest.fixture
def status() -> Status:
    """Two sources: a playing, slow camera that was reconnected once, and one still connecting."""
    status = Status("onnxruntime", "system", clock=lambda: 100.0)
    camera = status.add("rtsp://***@gate/1")
    status.change(Transition(camera.name, "playing"))
    status.change(Transition(camera.name, "waiting", "the connection was lost"))
    status.change(Transition(camera.name, "playing", outage=4.0))
    for age, latency in ((15.0, 4.0), (30.0, 7.0), (7000.0, 60.0)):
        camera.tally.add(age, latency, 0.0, 1.0)
    camera.preprocess.add(1.5)
    camera.dropped, camera.stale, camera.last_labelled = 12, 3, 97.5
    status.add("file:///video.mp4")
    status.stage("infer", 3.0)
    status.stage("infer", 4.0)
    return status


@pytest.fixture
def scrape(status: Status, tmp_path: Path) -> Iterator[Callable[..., Scrape]]:
    with ExitStack() as servers:

        def scrape(**options: Any) -> Scrape:
            metrics = RunMetrics(status, **{"sysfs": tmp_path, **options})
            return Scrape(servers.enter_context(serve(":0", metrics)))

        yield scrape


CAMERA = {"source": "rtsp://***@gate/1"}


def test_counters_have_the_values_of_the_status(scrape: Any) -> None:
    samples = scrape()
    names = ("frames", "frames_dropped", "frames_stale", "reconnects")
    assert [samples.one(f"edge_{name}_total", **CAMERA) for name in names] == [3, 12, 3, 1]
    other = {"source": "file:///video.mp4"}
    assert [samples.one(f"edge_{name}_total", **other) for name in names] == [0, 0, 0, 0]
    assert samples.kinds["edge_frames"] == "counter"


def test_frames_are_counted_by_label(status: Status) -> None:
    with serve(":0", RunMetrics(status)) as url:
        for label in ("dog", "cat", "cat"):
            status.sources[0].tally.add(1.0, 1.0, 1.0, 2.0, label)
        samples = Scrape(url)
        assert samples.one("edge_labels_total", **CAMERA, label="cat") == 2
        assert samples.one("edge_labels_total", **CAMERA, label="dog") == 1


def test_a_scrape_has_the_current_values(status: Status) -> None:
    with serve(":0", RunMetrics(status)) as url:
        assert Scrape(url).one("edge_frames_total", **CAMERA) == 3
        status.sources[0].tally.add(1.0, 1.0, 1.0, 2.0)
        assert Scrape(url).one("edge_frames_total", **CAMERA) == 4


def test_a_source_is_in_exactly_one_state(scrape: Any) -> None:
    states = [
        (labels["state"], value)
        for labels, value in scrape().all("edge_source_state")
        if labels["source"] == CAMERA["source"]
    ]
    assert states == [
        ("connecting", 0), ("playing", 1), ("waiting", 0), ("ended", 0), ("failed", 0),
    ]  # fmt: skip


def test_the_age_of_the_last_frame_is_absent_before_the_first(scrape: Any) -> None:
    assert scrape().all("edge_last_frame_age_seconds") == [(CAMERA, 2.5)]


def test_histograms_are_in_seconds_and_cumulative(scrape: Any) -> None:
    samples = scrape()
    buckets = {
        labels["le"]: value
        for labels, value in samples.all("edge_frame_age_seconds_bucket")
        if labels["source"] == CAMERA["source"]
    }
    assert {bound: buckets[bound] for bound in ("0.01", "0.02", "0.05", "5.0", "10.0")} == {
        "0.01": 0, "0.02": 1, "0.05": 2, "5.0": 2, "10.0": 3,
    }  # fmt: skip
    assert buckets["+Inf"] == samples.one("edge_frame_age_seconds_count", **CAMERA) == 3
    assert samples.one("edge_frame_age_seconds_sum", **CAMERA) == pytest.approx(7.045)
    assert samples.one("edge_frame_latency_seconds_sum", **CAMERA) == pytest.approx(0.071)
    assert samples.one("edge_preprocess_seconds_count", **CAMERA) == 1
    assert samples.one("edge_stage_seconds_sum", stage="infer") == pytest.approx(0.007)
    assert samples.kinds["edge_stage_seconds"] == "histogram"


def test_a_frame_above_all_bounds_is_only_in_the_last_bucket(status: Status, scrape: Any) -> None:
    status.sources[1].tally.add(60_000.0, 1.0, 0.0, 1.0)
    samples = scrape().all("edge_frame_age_seconds_bucket")
    of_the_video = [value for labels, value in samples if labels["source"] == "file:///video.mp4"]
    assert of_the_video == [0] * 13 + [1]


def test_metrics_of_the_process_are_included(scrape: Any) -> None:
    samples = scrape()
    assert samples.one("process_resident_memory_bytes") > 1e6
    assert samples.one("process_open_fds") > 3
    assert samples.one("edge_threads") >= threading.active_count()
    ((labels, value),) = samples.all("edge_build_info")
    assert value == 1
    assert (labels["version"], labels["backend"], labels["frame_path"]) == (
        __version__, "onnxruntime", "system",
    )  # fmt: skip


def test_sensors_of_the_board_are_included_if_it_has_any(scrape: Any, tmp_path: Path) -> None:
    write(tmp_path / "class/thermal/thermal_zone0", type="cpu-thermal", temp=48500)
    monitor = tmp_path / "class/hwmon/hwmon0"
    write(monitor, name="ina3221", in1_label="VDD_IN", in1_input=5000, curr1_input=2000)
    samples = scrape()
    assert samples.one("edge_temperature_celsius", zone="cpu-thermal") == 48.5
    assert samples.one("edge_power_watts", rail="VDD_IN") == 10.0


def test_gpu_memory_is_included_while_the_gpu_works(scrape: Any) -> None:
    samples = scrape(gpu_memory=lambda: (2 << 30, 8 << 30))
    assert samples.one("edge_gpu_memory_used_bytes") == 6 << 30
    assert samples.one("edge_gpu_memory_bytes") == 8 << 30

    def gone() -> tuple[int, int]:
        raise BackendError("the context is lost", "start again")

    assert not [name for name in scrape(gpu_memory=gone).names() if "gpu" in name]


def test_undelivered_mqtt_results_are_included_if_there_is_a_broker(scrape: Any) -> None:
    assert scrape(mqtt_dropped=lambda: 7).one("edge_mqtt_dropped_total") == 7
    assert "edge_mqtt_dropped_total" not in scrape().names()


def test_names_and_units_follow_the_prometheus_conventions(scrape: Any) -> None:
    for family in scrape(mqtt_dropped=lambda: 0, gpu_memory=lambda: (1, 2)).families:
        assert re.fullmatch(r"(edge|process)_[a-z_]+", family.name)
        assert family.documentation
        if family.type == "histogram":
            assert family.name.endswith("_seconds")


class Counting(Histogram):
    """A histogram that counts, and adds a stage, while it is read."""

    def __init__(self, status: Status):
        super().__init__()
        self._status = status

    def up_to(self, bounds: Sequence[float]) -> list[int]:
        self.add(1.0)
        self.count -= 1  # as between the two lines of `add`
        self._status.stage("new", 1.0)
        return super().up_to(bounds)


def test_a_scrape_is_consistent_while_frames_are_counted(status: Status, scrape: Any) -> None:
    status.stages["upload"] = Counting(status)
    samples = scrape().all("edge_stage_seconds_bucket")
    counts = [value for labels, value in samples if labels["stage"] == "upload"]
    assert counts == sorted(counts)
    assert counts[-1] == 1


def test_it_listens_at_its_url_until_the_block_ends(status: Status) -> None:
    before = threading.active_count()
    with serve(":0", RunMetrics(status)) as url:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/metrics", url)
        assert Scrape(url).names()
        port = int(url.split(":")[2].partition("/")[0])
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert threading.active_count() == before


@pytest.mark.parametrize(
    "host", ["", "192.0.2.1", "a..b"], ids=["in use", "another machine", "invalid name"]
)
def test_an_unusable_address_raises_an_address_error(host: str, status: Status) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        address = f"{host}:{port}"
        with (
            pytest.raises(
                AddressError, match=rf"the metrics cannot listen on {host}.*, port {port} "
            ),
            serve(address, RunMetrics(status)),
        ):
            pass


def test_idle_clients_are_limited_and_disconnected(
    status: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_CLIENTS", 5)
    monkeypatch.setattr(server, "CLIENT_TIMEOUT", 1.0)
    before = threading.active_count()
    with serve(":0", RunMetrics(status)) as url, ExitStack() as clients:
        address = ("127.0.0.1", int(url.split(":")[2].partition("/")[0]))
        idle = [
            clients.enter_context(socket.create_connection(address, timeout=60)) for _ in range(50)
        ]
        assert idle[-1].recv(100).startswith(b"HTTP/1.1 503 ")
        assert threading.active_count() <= before + 1 + 5
        assert idle[0].recv(100) == b"", "it was idle for too long"
        deadline = time.monotonic() + 60
        while threading.active_count() > before + 1:
            assert time.monotonic() < deadline, "their threads are still there"
            time.sleep(0.05)
        assert Scrape(url).names()


@pytest.mark.parametrize(
    ("wanted", "kind"),
    [
        ("text/plain", "text/plain; version=0.0.4"),
        ("text/plain; version=abc, */*", "text/plain; version=0.0.4"),
        ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text; version="),
        ("application/openmetrics-text; version=abc", "application/openmetrics-text; version=1"),
        ("application/openmetrics-text; version=9; escaping=x", "application/openmetrics-text; v"),
    ],
)
def test_the_format_is_negotiated(wanted: str, kind: str, status: Status) -> None:
    with serve(":0", RunMetrics(status)) as url:
        request = urllib.request.Request(url, headers={"Accept": wanted})
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.headers["Content-Type"].startswith(kind)
            assert answer.read().endswith(b"# EOF\n") == ("openmetrics" in wanted)


@pytest.mark.parametrize(("host", "status_code"), [("localhost:1", 200), ("evil.example", 421)])
def test_a_site_with_a_name_for_loopback_cannot_read_the_metrics(
    host: str, status_code: int, status: Status
) -> None:
    with serve(":0", RunMetrics(status)) as url:
        connection = http.client.HTTPConnection(url.split("/")[2], timeout=30)
        connection.request("GET", "/metrics", headers={"Host": host})
        reply = connection.getresponse()
        assert (reply.status, b"gate" in reply.read()) == (status_code, status_code == 200)
        connection.close()


def test_without_prometheus_client_the_hint_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client.core", None)
    with pytest.raises(MissingPackage, match=r"run .*'\.\[service\]'"):
        RunMetrics(Status())
