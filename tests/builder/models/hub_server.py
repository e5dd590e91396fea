"""A Hub on loopback, with as much of its API as a download needs."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

SHA = "a1" * 20


@dataclass
class Hub:
    """models: id -> folder; ids that are refused: id -> (status, error code of the real one)."""

    models: dict[str, Path]
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)
    sent: list[str] = field(default_factory=list)  # files whose bytes were asked for
    address: str = ""


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            words = unquote(urlsplit(self.path).path).strip("/").removeprefix("api/models/")
            owner, model, *more = words.split("/")
            name, rest = f"{owner}/{model}", "/".join(more)
            if name not in hub.models:
                status, code = hub.refused.get(name, (401, "RepoNotFound"))
                return self.info(status, b"{}", {"X-Error-Code": code, "X-Request-Id": "Root=1-69"})
            folder = hub.models[name]
            files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
            if rest.startswith("resolve/"):
                path = folder / rest.split("/", 2)[2]
                if not path.is_file():
                    return self.info(404, b"{}", {"X-Error-Code": "EntryNotFound"})
                if self.command == "GET":
                    hub.sent.append(str(path.relative_to(folder)))
                seal = f'"{path.relative_to(folder)}"'.replace("/", "-")
                return self.info(200, path.read_bytes(), {"X-Repo-Commit": SHA, "ETag": seal})
            if rest.startswith("tree/"):
                tree = [
                    {"type": "file", "path": str(path.relative_to(folder)), "oid": "b2" * 20}
                    | {"size": path.stat().st_size}
                    for path in files
                ]
                return self.info(200, json.dumps(tree).encode(), {})
            about = {"id": name, "modelId": name, "sha": SHA, "siblings": []}
            return self.info(200, json.dumps(about).encode(), {})

        do_HEAD = do_GET

        def info(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        hub.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
