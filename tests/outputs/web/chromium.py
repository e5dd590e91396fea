"""A headless Chromium, controlled through the DevTools protocol over a pipe."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--no-first-run")
NAVIGATED = -32000  # of the DevTools protocol: "Inspected target navigated or closed"
PATIENCE = 60.0  # seconds: the machine may be busy with other tests
FOUND = shutil.which("chromium") or shutil.which("google-chrome")

needs_chromium = pytest.mark.skipif(FOUND is None, reason="no Chromium: sudo apt install chromium")


class Left(AssertionError):
    """The page was navigated away during a command."""


class Browser:
    """One page. `errors` holds its exceptions and violations of its security policy."""

    def __init__(self, folder: Path):
        self.errors: list[str] = []
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        # Chromium takes its commands from descriptor 3 and answers on 4.
        script = f'exec "$@" 3<&{to_read} 4>&{to_write} 2>/dev/null'
        command = ["bash", "-c", script, "-", str(FOUND), *FLAGS, f"--user-data-dir={folder}"]
        self._process = subprocess.Popen(command, pass_fds=(to_read, to_write))
        os.close(to_read)
        os.close(to_write)
        self._number = 0
        self._text = b""
        self._session: dict[str, str] = {}
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        found = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": found["sessionId"]}
        for domain in ("Runtime", "Log", "Page"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._read)
        os.close(self._write)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters, **self._session}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if answer.get("error", {}).get("code") == NAVIGATED:
                    raise Left(answer)
                assert "error" not in answer, answer
                return answer["result"]
            if answer.get("method") == "Runtime.exceptionThrown":
                self.errors.append(str(answer["params"]["exceptionDetails"]))
            elif answer.get("method") == "Log.entryAdded":
                entry = answer["params"]["entry"]
                # What comes from the network is of a server that is away.
                if entry["level"] == "error" and entry["source"] != "network":
                    self.errors.append(entry["text"])

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE
        while b"\0" not in self._text:
            ready, _, _ = select.select([self._read], [], [], deadline - time.monotonic())
            assert ready, "Chromium does not answer"
            part = os.read(self._read, 1 << 20)
            assert part, "Chromium has ended"
            self._text += part
        message, _, self._text = self._text.partition(b"\0")
        return json.loads(message)

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def evaluate(self, script: str) -> Any:
        """What a JavaScript expression gives."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, script: str) -> None:
        """Wait for an expression to be true; while the page loads it may fail."""
        tried = f"(() => {{ try {{ return Boolean({script}) }} catch {{ return false }} }})()"
        deadline = time.monotonic() + PATIENCE
        while not self._is(tried):
            assert time.monotonic() < deadline, (script, self.text(), self.errors)
            time.sleep(0.1)

    def _is(self, tried: str) -> bool:
        try:
            return bool(self.evaluate(tried))
        except Left:
            return False

    def text(self) -> str:
        """What a reader sees."""
        return str(self.evaluate("document.body ? document.body.innerText : ''"))

    def look_like(
        self, width: int, height: int, *, phone: bool = False, dark: bool = False
    ) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=phone,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self) -> bytes:
        """PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
