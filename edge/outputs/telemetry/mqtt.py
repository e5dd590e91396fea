"""Results and states to an MQTT broker, which may come and go.

<prefix>/<source>/result   each result, a JSON object as on stdout
<prefix>/<source>/state    retained: source, state, reason and since
<prefix>/status            retained: online, or offline; the broker says it, too, if we cannot
"""

from __future__ import annotations

import json
import random
import re
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable

from edge.errors import require
from edge.outputs.json_lines import as_json, utc
from edge.outputs.telemetry.broker import OFFLINE, ONLINE, Broker, Link, Message, refusal_reason
from edge.run.interfaces import Result, Sink
from edge.run.status import Transition

__all__ = ["QUEUE", "Mqtt", "topic_part"]

QUEUE = 1000  # results that wait for the broker
# Results that are under way: a broker 100 ms away then takes 1000 a second.
_WINDOW = 100
_PAUSE = 30.0  # seconds between two attempts to connect, at most
_FLUSH = 0.8  # seconds that `close` waits for the broker


def topic_part(name: str) -> str:
    """What a source is called within a topic: its name, of letters, digits, `_`, `.` and `-`."""
    return re.sub(r"[^\w.]+", "-", name).strip("-") or "source"


class Mqtt(Sink):
    """Publishes results and states; a thread of its own connects, and connects again.

    While the broker is away results wait, `limit` of them, then the oldest goes. Each is published
    at least once, in order; one whose acknowledgement was lost comes twice. States are published
    anew with each connection: the broker need not remember.
    """

    def __init__(
        self,
        url: str,
        info: Callable[[str], None],
        warn: Callable[[str], None],
        *,
        limit: int = QUEUE,
    ):
        """say, warn: are told, on the sink's thread, that the broker is there; why not; each once.

        Raises AddressError when `url` is no broker's, MissingPackage without paho-mqtt.
        """
        self._broker = Broker.from_url(url)
        require("paho.mqtt.client")
        self._info, self._warn = info, warn
        self._limit = limit
        self._parts: dict[str, str] = {}
        # The same for each connection: a broker that has not noticed the end of the last one ends
        # it now, and its `offline` comes before our `online`.
        self._client_id = f"edge{uuid.uuid4().hex[:16]}"
        status = f"{self._broker.prefix}/status"
        self._farewell = Message(status, OFFLINE, retain=True)
        self._condition = threading.Condition()
        # What follows is under `condition`.
        self._states = {status: Message(status, ONLINE, retain=True)}
        self._untold: dict[str, Message] = {}
        self._queue: deque[Message] = deque()
        self._flying: deque[Message] = deque()
        self._dropped = 0
        self._deadline: float | None = None  # of `close`, once it was called
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Results that the broker never took: the queue was full, or the run was over."""
        return self._dropped

    def write(self, result: Result) -> None:
        message = Message(self._topic(result.frame.source, "result"), as_json(result))
        with self._condition:
            self._queue.append(message)
            self._trim()
            self._condition.notify_all()

    def changed(self, transition: Transition) -> None:
        said = {
            "source": transition.source,
            "state": transition.state,
            "reason": transition.reason,
            "since": utc(time.time()),
        }
        message = Message(self._topic(transition.source, "state"), json.dumps(said), retain=True)
        with self._condition:
            self._states[message.topic] = self._untold[message.topic] = message
            self._condition.notify_all()

    def close(self) -> None:
        """Wait for the broker to take what is left, but less than a second."""
        with self._condition:
            self._deadline = time.monotonic() + _FLUSH
            self._condition.notify_all()
        self._thread.join(_FLUSH + 0.1)
        with self._condition:
            lost = len(self._queue) + sum(not message.retain for message in self._flying)
            self._dropped += lost
            self._queue.clear()
            self._flying.clear()
        if lost:
            self._warn(f"{self._broker}: the last {lost} results did not reach it")

    def _topic(self, source: str, kind: str) -> str:
        if source not in self._parts:
            part, same = topic_part(source), 1
            while part in self._parts.values():  # names that differ in what no topic may hold
                same += 1
                part = f"{topic_part(source)}-{same}"
            self._parts[source] = part
        return f"{self._broker.prefix}/{self._parts[source]}/{kind}"

    def _trim(self) -> None:
        while len(self._queue) > self._limit:
            self._queue.popleft()
            self._dropped += 1

    def _run(self) -> None:
        """Connect again and again, at growing intervals; once more when `close` wakes it."""
        attempts, told, dropped = 0, "", 0

        def tell(how: Callable[[str], None], text: str) -> None:
            nonlocal told
            if text != told:
                told = text
                how(f"{self._broker}: {text}")

        def connected() -> None:
            nonlocal dropped
            lost, dropped = self._dropped - dropped, self._dropped
            if lost:
                tell(self._warn, f"connected; {lost} results were dropped meanwhile")
            else:
                tell(self._info, "connected")

        while True:
            last, began = self._deadline is not None, time.monotonic()
            try:
                failure = self._converse(connected)
            except (OSError, ValueError) as error:
                failure = refusal_reason(error)
            if last or not failure:
                return
            tell(self._warn, f"{failure}; results wait for it, {self._limit} at most")
            attempts = 1 if time.monotonic() - began > _PAUSE else attempts + 1
            # Not all devices of a site at once, when its broker comes back.
            pause = min(_PAUSE, 2.0 ** min(attempts, 10)) * random.uniform(0.25, 0.5)
            with self._condition:
                self._condition.wait_for(lambda: self._deadline is not None, pause)

    def _converse(self, connected: Callable[[], None]) -> str:
        """Send until the connection ends; why it did, or nothing when `close` ended it."""
        with Link(self._broker, self._client_id, self._condition) as link:
            with self._condition:
                self._untold = self._states.copy()
                self._farewell.mid = 0
            try:
                if (message := self._next(link)) is not None:
                    connected()
                while message is not None:
                    link.send(message)
                    message = self._next(link)
                if link.failure or self._flying:
                    return link.failure
                link.leave()
                with self._condition:
                    self._condition.wait_for(lambda: bool(link.failure), self._patience())
                return ""
            finally:
                self._take_back(link)

    def _next(self, link: Link) -> Message | None:
        """What to send next, once there is something; None at the end, whoever made it."""
        with self._condition:
            while not link.failure:
                while self._flying and self._flying[0].mid in link.acknowledged:
                    link.acknowledged.discard(self._flying.popleft().mid)
                patience = self._patience()
                if patience == 0 or (self._farewell.mid and not self._flying):
                    return None
                if link.open and len(self._flying) < _WINDOW and (message := self._choose()):
                    self._flying.append(message)
                    return message
                self._condition.wait(patience)
        return None

    def _choose(self) -> Message | None:
        """A state before any result: it is about now. The farewell comes last."""
        if self._untold:
            return self._untold.pop(next(iter(self._untold)))
        if self._queue:
            return self._queue.popleft()
        if self._deadline is not None and not self._farewell.mid:
            return self._farewell
        return None

    def _patience(self) -> float | None:
        """Seconds until `close` waits no longer; None before it was called."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def _take_back(self, link: Link) -> None:
        """What the broker has not acknowledged waits for the next connection, the oldest first."""
        with self._condition:
            unsure = (message for message in reversed(self._flying) if not message.retain)
            self._queue.extendleft(m for m in unsure if m.mid not in link.acknowledged)
            self._flying.clear()
            self._trim()
