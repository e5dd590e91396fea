"""A sink that publishes results and states to an MQTT broker and reconnects to it as needed.

<prefix>/<source>/result   each result, a JSON object as on stdout
<prefix>/<source>/state    retained: source, state, reason and since
<prefix>/status            retained: online or offline; offline is also the last will
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
from edge.sources.diagnostics import trusted_file

__all__ = ["QUEUE", "Mqtt", "topic_part"]

QUEUE = 1000  # results that are queued while the broker is away
# Messages in flight: with a round trip of 100 ms this allows 1000 messages per second.
_WINDOW = 100
_MAX_BACKOFF = 30.0  # seconds between two attempts to connect
_MAX_LEVEL = 200  # characters
_CLOSE_TIMEOUT = 0.8  # seconds that `close` waits for the broker


def topic_part(name: str) -> str:
    """A source's name as one topic level: letters, digits, `_` and `.`; `-` replaces the rest.

    Of a long name the first 200 characters: no broker accepts a topic of more than 65,535 bytes.
    """
    return re.sub(r"[^\w.]+", "-", name)[:_MAX_LEVEL].strip("-") or "source"


class Mqtt(Sink):
    """Publishes results and states; its own thread connects and reconnects.

    While the broker is away up to `limit` results are queued; then the oldest ones are dropped.
    Each result is published at least once, in order; one whose acknowledgement was lost is
    published twice. States are published again with each connection, in case the broker lost them.
    """

    def __init__(
        self,
        url: str,
        info: Callable[[str], None],
        warn: Callable[[str], None],
        *,
        limit: int = QUEUE,
    ):
        """info, warn: called on the sink's thread when the broker is connected, or with the reason
        why it is not; the same message is not repeated.

        Raises AddressError for an invalid `url`, MissingPackage without paho-mqtt, and SourceError
        if $SSL_CERT_FILE is needed and cannot be read.
        """
        self._broker = Broker.from_url(url)
        if self._broker.tls:
            trusted_file()  # OpenSSL itself would read a pipe, and wait for ever
        require("paho.mqtt.client")
        self._info, self._warn = info, warn
        self._limit = limit
        self._topic_parts: dict[str, str] = {}
        # The same for each connection: a broker that has not noticed the end of the last connection
        # ends it now, and publishes its will, `offline`, before our `online`.
        self._client_id = f"edge{uuid.uuid4().hex[:16]}"
        status = f"{self._broker.prefix}/status"
        self._offline = Message(status, OFFLINE, retain=True)
        self._condition = threading.Condition()
        # The attributes below are protected by `condition`.
        self._states = {status: Message(status, ONLINE, retain=True)}
        self._unsent_states: dict[str, Message] = {}
        self._queue: deque[Message] = deque()
        self._in_flight: deque[Message] = deque()
        self._dropped = 0
        self._deadline: float | None = None  # set by `close`
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Number of results that were not delivered: the queue was full, or the run ended."""
        return self._dropped

    def write(self, result: Result) -> None:
        message = Message(self._topic(result.frame.source, "result"), as_json(result))
        with self._condition:
            self._queue.append(message)
            self._trim()
            self._condition.notify_all()

    def changed(self, transition: Transition) -> None:
        state = {
            "source": transition.source,
            "state": transition.state,
            "reason": transition.reason,
            "since": utc(time.time()),
        }
        message = Message(self._topic(transition.source, "state"), json.dumps(state), retain=True)
        with self._condition:
            self._states[message.topic] = self._unsent_states[message.topic] = message
            self._condition.notify_all()

    def close(self) -> None:
        """Wait, for less than a second, until the broker has acknowledged all messages."""
        with self._condition:
            self._deadline = time.monotonic() + _CLOSE_TIMEOUT
            self._condition.notify_all()
        self._thread.join(_CLOSE_TIMEOUT + 0.1)
        with self._condition:
            lost = len(self._queue) + sum(not message.retain for message in self._in_flight)
            self._dropped += lost
            self._queue.clear()
            self._in_flight.clear()
        if lost:
            self._warn(f"{self._broker}: the last {lost} results did not reach it")

    def _topic(self, source: str, kind: str) -> str:
        if source not in self._topic_parts:
            part, count = topic_part(source), 1
            while (
                part in self._topic_parts.values()
            ):  # names that differ in replaced characters only
                count += 1
                part = f"{topic_part(source)}-{count}"
            self._topic_parts[source] = part
        return f"{self._broker.prefix}/{self._topic_parts[source]}/{kind}"

    def _trim(self) -> None:
        while len(self._queue) > self._limit:
            self._queue.popleft()
            self._dropped += 1

    def _run(self) -> None:
        """Connect and publish, with a backoff between attempts; `close` causes a last attempt."""
        attempts, last_message, dropped = 0, "", 0

        def report(how: Callable[[str], None], text: str) -> None:
            nonlocal last_message
            if text != last_message:
                last_message = text
                how(f"{self._broker}: {text}")

        def on_connected() -> None:
            nonlocal dropped
            lost, dropped = self._dropped - dropped, self._dropped
            if lost:
                report(self._warn, f"connected; {lost} results were dropped meanwhile")
            else:
                report(self._info, "connected")

        while True:
            is_last, start = self._deadline is not None, time.monotonic()
            try:
                failure = self._publish_until_failure(on_connected)
            except (OSError, ValueError) as error:
                failure = refusal_reason(error)
            if is_last or not failure:
                return
            report(self._warn, f"{failure}; up to {self._limit} results are queued meanwhile")
            attempts = 1 if time.monotonic() - start > _MAX_BACKOFF else attempts + 1
            # Jitter, so that not all devices of a site connect at once when its broker is back.
            backoff = min(_MAX_BACKOFF, 2.0 ** min(attempts, 10)) * random.uniform(0.25, 0.5)
            with self._condition:
                self._condition.wait_for(lambda: self._deadline is not None, backoff)

    def _publish_until_failure(self, on_connected: Callable[[], None]) -> str:
        """Publish until the connection ends. Return why, or "" when `close` ended it."""
        with Link(self._broker, self._client_id, self._condition) as link:
            with self._condition:
                self._unsent_states = self._states.copy()
                self._offline.mid = 0
            try:
                if (message := self._next(link)) is not None:
                    on_connected()
                while message is not None:
                    link.send(message)
                    message = self._next(link)
                if link.failure or self._in_flight:
                    return link.failure
                link.leave()
                with self._condition:
                    self._condition.wait_for(lambda: bool(link.failure), self._time_left())
                return ""
            finally:
                self._requeue(link)

    def _next(self, link: Link) -> Message | None:
        """Wait for the next message to send; None when the connection or the run ends."""
        with self._condition:
            while not link.failure:
                while self._in_flight and self._in_flight[0].mid in link.acknowledged:
                    link.acknowledged.discard(self._in_flight.popleft().mid)
                time_left = self._time_left()
                if time_left == 0 or (self._offline.mid and not self._in_flight):
                    return None
                if link.open and len(self._in_flight) < _WINDOW and (message := self._choose()):
                    self._in_flight.append(message)
                    return message
                self._condition.wait(time_left)
        return None

    def _choose(self) -> Message | None:
        """States go first, since they describe the present; then results; `offline` goes last."""
        if self._unsent_states:
            return self._unsent_states.pop(next(iter(self._unsent_states)))
        if self._queue:
            return self._queue.popleft()
        if self._deadline is not None and not self._offline.mid:
            return self._offline
        return None

    def _time_left(self) -> float | None:
        """Seconds for which `close` still waits; None before it was called."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def _requeue(self, link: Link) -> None:
        """Put unacknowledged results back at the front of the queue, in their order."""
        with self._condition:
            results = (message for message in reversed(self._in_flight) if not message.retain)
            self._queue.extendleft(m for m in results if m.mid not in link.acknowledged)
            self._in_flight.clear()
            self._trim()
