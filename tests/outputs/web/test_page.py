"""The live page in a real browser: on a desk, on a phone, under attack and after an outage."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from edge.outputs.web import stills
from edge.outputs.web.live import LivePage
from edge.preprocess.surface import Surface
from edge.run.interfaces import Result
from edge.run.status import Status, Transition
from edge.sources.frame import Frame
from tests.outputs.web.chromium import Browser, needs_chromium

pytestmark = [needs_chromium, pytest.mark.heavy]

ATTACK = "<img src=x onerror=window.hacked=1><script>window.hacked=1</script>"
# The lowest WCAG 2 contrast of all visible texts with their background, and that text.
CONTRAST = """(() => {
  const light = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((level) => level / 255).map(
      (level) => level <= 0.04045 ? level / 12.92 : ((level + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const colour = getComputedStyle(node).backgroundColor;
      if (colour !== "rgba(0, 0, 0, 0)") return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const texts = [...document.body.querySelectorAll("*")].filter((node) => node.checkVisibility() &&
    [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim()));
  return texts.map((node) => {
    const style = getComputedStyle(node);
    const ink = light(node instanceof SVGElement ? style.fill : style.color);
    const [low, high] = [ink, light(behind(node))].sort((a, b) => a - b);
    return [(high + 0.05) / (low + 0.05), node.textContent];
  }).sort((a, b) => a[0] - b[0])[0];
})()"""


class OneLabel:
    """A prediction of one label, among some classes."""

    def __init__(self, label: str, confidence: float = 0.75, classes: int = 3):
        others = [(1, "something else", 0.2), (2, "a third", 0.05)]
        self._top = [(0, label, confidence), *others[: classes - 1]]

    def top(self, k: int) -> list[tuple[int, str, float]]:
        return self._top[:k]


class Run:
    """Cameras that play, on a thread.

    labels: prediction of each. quiet: those without frames. size: of frames, (width, height)
    """

    def __init__(self, *sources: str, address: str = ":0", size: tuple[int, int] = (320, 180)):
        self.status = Status("onnxruntime", "system memory")
        self.labels = {source: OneLabel(f"label of {source}") for source in sources}
        self.quiet: set[str] = set()
        self._pixels = np.full((size[1], size[0], 3), 90, np.uint8)
        self.web = LivePage(address, self.status, engine="vit, INT8")
        for source in sources:
            self.status.add(source)
            self.change(source, "playing")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._play)
        self._thread.start()

    def change(
        self, source: str, state: str, reason: str = "", outage: float | None = None
    ) -> None:
        transition = Transition(source, state, reason, outage)
        self.status.change(transition)
        self.web.changed(transition)

    def _play(self) -> None:
        while not self._ended.wait(0.03):
            for source, prediction in self.labels.items():
                if source in self.quiet:
                    continue
                now = self.status.clock()
                for tally in (self.status.total, self.status.add(source).tally):
                    tally.add(20.0, 10.0, now, now)
                self.web.write(self.result(source, prediction))

    def result(self, source: str, prediction: OneLabel) -> Result:
        surface = Surface.from_rgb(self._pixels)
        frame = Frame(source, 0, None, self.status.clock(), "system", surface)
        return Result(frame, prediction, 20.0, 10.0, 0.0)

    def close(self) -> None:
        """Stop the cameras; can be called twice."""
        self._ended.set()
        self._thread.join()
        self.web.close()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    chromium.errors.clear()
    chromium.look_like(1280, 900)
    yield chromium
    chromium.open("about:blank")
    assert chromium.errors == []


@pytest.fixture
def play() -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def start(*sources: str, **options: Any) -> Run:
        runs.append(Run(*sources, **options))
        return runs[-1]

    yield start
    for run in runs:
        run.close()


@pytest.fixture
def cameras(play: Callable[..., Run]) -> Run:
    return play("front", "back")


def card(number: int) -> str:
    return f"document.querySelectorAll('article')[{number}]"


def unfold(browser: Browser, number: int, fold: str) -> None:
    """Open a fold of a card: charts or log."""
    browser.until(f"{card(number)}?.querySelector('.{fold} summary')")
    browser.evaluate(f"{card(number)}.querySelector('.{fold} summary').click()")


def test_every_camera_is_shown_with_its_image_and_label(browser, cameras):
    browser.open(cameras.web.url)
    for number, source in enumerate(cameras.labels):
        browser.until(f"{card(number)}?.querySelector('img').naturalWidth === 320")
        browser.until(f"!{card(number)}.querySelector('img').hidden")
        text = browser.evaluate(f"{card(number)}.innerText")
        for expected in (source, "playing", f"label of {source}", "75.0 %"):
            assert expected in text
        alternative = browser.evaluate(f"{card(number)}.querySelector('img').alt")
        assert alternative == f"label of {source}, 75.0 %"
    assert "2 of 2" in browser.text()
    assert "vit, INT8, onnxruntime, system memory" in browser.text()
    assert browser.evaluate("document.title") == "2/2 playing, vit-edge"


def test_a_new_label_is_shown(browser, cameras):
    browser.open(cameras.web.url)
    browser.until("document.body.innerText.includes('label of front')")
    cameras.labels["front"] = OneLabel("a fox", 0.5)
    browser.until(f"{card(0)}.innerText.includes('a fox')")
    browser.until(f"{card(0)}.innerText.includes('50.0 %')")
    assert "label of back" in browser.text()


def test_an_outage_is_shown_with_its_reason_and_its_end(browser, cameras):
    browser.open(cameras.web.url)
    browser.until(f"{card(1)} && !{card(1)}.querySelector('img').hidden")
    unfold(browser, 1, "charts")
    cameras.quiet.add("back")
    cameras.change("back", "waiting", "the camera hung up")
    browser.until(f"{card(1)}.innerText.includes('the camera hung up')")
    browser.until(f"{card(1)}.querySelector('.state').innerText.startsWith('waiting for')")
    browser.until(f"{card(1)}.innerText.includes('last image')")
    assert browser.evaluate("document.getElementById('spoken').textContent") == (
        "back: waiting, the camera hung up"
    )
    assert browser.evaluate(f"{card(0)}.querySelector('.state').innerText") == "playing"
    browser.until(f"{card(1)}.querySelector('.sure rect') !== null")  # grey: no frames
    cameras.quiet.clear()
    cameras.change("back", "playing", outage=125.0)
    browser.until(f"{card(1)}.querySelector('.state').innerText === 'playing'")
    browser.until(f"!{card(1)}.innerText.includes('last image')")
    unfold(browser, 1, "log")
    browser.until(f"{card(1)}.innerText.includes('playing, reconnected after 2 min')")
    events = "document.getElementById('events').innerText"
    browser.until(f"{events}.includes('back playing, reconnected after 2 min')")
    assert "back waiting: the camera hung up" in browser.evaluate(events)


def test_a_page_that_is_first_opened_during_an_outage_shows_the_last_image(browser, cameras):
    while cameras.status.add("back").tally.frames < 10:
        time.sleep(0.01)
    cameras.quiet.add("back")
    cameras.change("back", "waiting", "the camera hung up")
    browser.open(cameras.web.url)
    browser.until(f"{card(1)} && !{card(1)}.querySelector('img').hidden")
    browser.until(f"{card(1)}.innerText.includes('last image')")
    assert "label of back" in browser.evaluate(f"{card(1)}.innerText")


def test_an_old_image_keeps_its_own_label(browser, cameras, monkeypatch):
    """Without a viewer images are rarer than labels."""
    monkeypatch.setattr(stills, "UNSEEN_INTERVAL", 1000.0)
    while cameras.status.add("back").tally.frames < 10:
        time.sleep(0.01)
    cameras.labels["back"] = OneLabel("a later label")
    time.sleep(1.5)
    cameras.quiet.add("back")
    cameras.change("back", "waiting", "the camera hung up")
    browser.open(cameras.web.url)
    browser.until(f"{card(1)}?.innerText.includes('last image')")
    text = browser.evaluate(f"{card(1)}.querySelector('.classes').innerText")
    assert "label of back" in text


def test_a_rule_that_fires_is_listed_with_its_camera_and_label(browser, cameras):
    browser.open(cameras.web.url)
    cameras.web.fired(cameras.result("back", OneLabel("<b>fox</b>", 0.9)), ("label=fox", "any"))
    events = "document.getElementById('events').innerText"
    browser.until(f"{events}.includes('back <b>fox</b>, 90%: label=fox; any')")


@pytest.mark.parametrize(("cameras", "width"), [(1, 1300), (2, 900), (3, 640), (4, 640), (9, 320)])
def test_all_images_fit_a_screen_on_a_wall_and_are_large(browser, play, cameras, width):
    """Of 1920x1080, without scrolling."""
    run = play(*(f"camera {number}" for number in range(cameras)))
    browser.look_like(1920, 1080)
    browser.open(run.web.url)
    last = card(cameras - 1)
    browser.until(f"{last} && !{last}.querySelector('img').hidden")
    for number in range(cameras):
        browser.until(f"{card(number)}.querySelector('img').clientWidth >= {width}")
    assert browser.evaluate("document.documentElement.scrollHeight <= innerHeight")


def test_an_image_of_another_shape_has_no_bars(browser, play):
    run = play("camera", size=(240, 320))
    browser.open(run.web.url)
    browser.until(f"{card(0)} && !{card(0)}.querySelector('img').hidden")
    shape = f"{card(0)}.querySelector('.view').getBoundingClientRect()"
    browser.until(f"Math.abs({shape}.width / {shape}.height - 0.75) < 0.01")


def test_two_classes_have_two_rows_and_each_label_its_colour(browser, cameras):
    cameras.labels["front"] = OneLabel("cat", 0.75, classes=2)
    browser.open(cameras.web.url)
    browser.until(f"{card(0)}?.querySelectorAll('.classes li').length === 2")
    browser.until("document.querySelectorAll('article:not(.old)').length === 2")
    colour = "getComputedStyle({}.querySelector('.classes i'), '::before').backgroundColor"
    before = browser.evaluate(colour.format(card(0)))
    assert before != browser.evaluate(colour.format(card(1)))
    browser.until(f"{card(0)}.querySelectorAll('.labels rect').length > 2")
    label = f"{card(0)}.querySelector('.labels').getAttribute('aria-label')"
    assert browser.evaluate(label) == "Labels of the last minute: cat 100 %"
    cameras.labels["front"] = OneLabel("dog", 0.75, classes=2)
    browser.until(f"{colour.format(card(0))} !== '{before}'")
    browser.until(f"{label}.includes('dog')")


def test_a_long_name_and_its_state_stay_on_one_line(browser, play):
    long = "rtsp://10.0.0.5/" + "path/" * 40
    run = play(long, "b")
    browser.open(run.web.url)
    browser.until(f"{card(1)}?.querySelector('.state').innerText === 'playing'")
    heights = "[...document.querySelectorAll('.name')].map((name) => name.clientHeight)"
    assert browser.evaluate(f"new Set({heights}).size") == 1
    assert browser.evaluate(f"{card(0)}.querySelector('h2').title") == long


def test_the_charts_grow_and_have_text_alternatives(browser, cameras):
    browser.open(cameras.web.url)
    unfold(browser, 0, "charts")
    line = f"{card(0)}.querySelector('.sure path').getAttribute('d')"
    browser.until(f"{card(0)}?.querySelector('.sure path') && {line}.split('L').length > 3")
    before = browser.evaluate(f"{line}.split('L').length")
    browser.until(f"{line}.split('L').length > {before}")
    heights = browser.evaluate(f"new Set({line}.match(/ [\\d.]+/g)).size")
    assert heights == 1, "the confidence is constant"
    words = f"{card(0)}.querySelector('.%s svg').getAttribute('aria-label')"
    assert browser.evaluate(words % "sure").startswith("Confidence: 75.0 % latest")
    assert browser.evaluate(words % "time").startswith("Age 20 ms, latency 10 ms latest")
    assert browser.evaluate(f"{card(0)}.querySelectorAll('.time path').length") == 2


def test_a_camera_that_is_added_while_it_runs_appears(browser, cameras):
    browser.open(cameras.web.url)
    browser.until(f"{card(1)} !== undefined")
    cameras.status.add("new")
    browser.until(f"{card(2)}?.innerText.includes('connecting')")
    assert "no image yet" in browser.evaluate(f"{card(2)}.innerText")


def test_html_in_labels_names_and_reasons_is_shown_as_text(browser, play):
    run = play(ATTACK)
    run.labels[ATTACK] = OneLabel(ATTACK)
    run.change(ATTACK, "waiting", ATTACK)
    browser.open(run.web.url)
    browser.until(f"{card(0)} && !{card(0)}.querySelector('img').hidden")
    browser.evaluate(f"{card(0)}.querySelector('summary').click()")
    text = browser.text()
    assert text.count(ATTACK) >= 4, "the name, the reason, the label and the change of state"
    assert browser.evaluate("document.querySelectorAll('img').length") == 1
    assert browser.evaluate("document.querySelectorAll('article script').length") == 0
    assert browser.evaluate("window.hacked === undefined")


def test_the_security_policy_blocks_injected_scripts(browser, cameras):
    browser.open(cameras.web.url)
    browser.until(f"{card(0)} !== undefined")
    browser.evaluate(f"{card(0)}.innerHTML = '<img src=x onerror=window.hacked=1>'")
    browser.evaluate(
        f"{card(0)}.append(Object.assign(document.createElement('script'),"
        "{textContent: 'window.hacked=1'}))"
    )
    browser.until("document.querySelector('article img').complete")
    assert browser.evaluate("window.hacked === undefined")
    browser.errors.clear()  # the reports of the policy


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_the_page_fits_the_width_of_the_screen(browser, play, width):
    long = "w" * 200
    run = play("rtsp://a-very-long-name.of.a.camera.example:8554/" + "path/" * 20, long)
    run.labels[long] = OneLabel("x" * 100)
    run.change(long, "failed", "y" * 300)
    browser.look_like(width, 844, phone=width < 500)
    browser.open(run.web.url)
    browser.until(f"{card(0)} && !{card(0)}.querySelector('img').hidden")
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert browser.evaluate("innerWidth") == width, "a phone would zoom out for wider content"


@pytest.mark.parametrize("dark", [False, True])
def test_every_text_has_enough_contrast(browser, cameras, dark):
    browser.look_like(1280, 900, dark=dark)
    for number, state in enumerate(("waiting", "failed", "ended", "connecting")):
        cameras.change(f"camera {number}", state, "a reason")
    browser.open(cameras.web.url)
    browser.until("document.querySelectorAll('article').length === 6")
    browser.until(f"!{card(0)}.querySelector('img').hidden")
    contrast, text = browser.evaluate(CONTRAST)
    assert contrast >= 4.5, text


def test_the_page_reports_a_lost_connection_and_continues_with_the_next_run(browser, play):
    first = play("front", "gone")
    first.labels["front"] = OneLabel("an old label", 0.5)
    browser.open(first.web.url)
    unfold(browser, 0, "charts")
    browser.until(f"{card(0)}.querySelector('.sure path').getAttribute('d').includes('L')")
    browser.until(f"{card(1)}.innerText.includes('label of gone')")
    first.close()
    browser.until("document.body.innerText.includes('Connection lost')")
    assert browser.evaluate("document.getElementById('lost').getAttribute('role')") == "alert"
    play("front", address=f":{urlsplit(first.web.url).port}")
    browser.until("!document.body.innerText.includes('Connection lost')")
    browser.until("document.body.innerText.includes('label of front')")
    assert "gone" not in browser.text()
    path = browser.evaluate(f"{card(0)}.querySelector('.sure path').getAttribute('d')")
    assert len(set(re.findall(r" [\d.]+", path))) == 1, "the chart shows the new run only"


def test_the_token_is_removed_from_the_url_and_a_new_run_needs_its_own(browser, play):
    first = play("front", address="0.0.0.0:0")
    port = urlsplit(first.web.url).port
    here = f"http://127.0.0.1:{port}/"
    browser.open(f"{here}?{urlsplit(first.web.url).query}")
    browser.until(f"{card(0)}.innerText.includes('label of front')")
    assert browser.evaluate("location.href") == here
    assert browser.evaluate("document.cookie") == "", "scripts cannot read the cookie"
    browser.open(here)
    browser.until(f"{card(0)}.innerText.includes('label of front')")
    first.close()
    second = play("front", address=f"0.0.0.0:{port}")
    browser.until("document.body.innerText.includes('token is no longer valid')")
    browser.open(here)
    browser.until("document.body.innerText.includes('This page needs a token')")
    token = urlsplit(second.web.url).query.removeprefix("token=")
    browser.evaluate(f"document.querySelector('input').value = '{token}'")
    browser.evaluate("document.querySelector('button').click()")
    browser.until(f"{card(0)}.innerText.includes('label of front')")
    assert browser.evaluate("location.href") == here
