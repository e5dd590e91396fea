"""A TCP proxy that does to connections what networks do to them."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeVar

__all__ = ["Proxy", "Weather"]

Way: TypeAlias = Literal["up", "down"]  # to the server, to the client
T = TypeVar("T")
_CHUNK, _ROOM = 1400, 128  # bytes taken at a time, and how many times that may be under way
_NAP = 0.01
_RST = struct.pack("ii", 1, 0)  # SO_LINGER of no time: closing resets


@dataclass
class Weather:
    """What happens to what passes. It may be changed at any time, from any thread.

    delay    seconds that everything is under way
    rate     bytes a second that pass, of each connection and way
    frozen   ways in which nothing passes, though the connections stay open
    corrupt  the share of bytes from the server in which a bit is flipped
    silent   new connections are accepted, and nobody answers
    """

    delay: float = 0.0
    rate: float | None = None
    frozen: frozenset[Way] = frozenset()
    corrupt: float = 0.0
    silent: bool = False
    dice: random.Random = field(default_factory=lambda: random.Random(0))

    def flip(self, data: bytes) -> bytes:
        hurt = bytearray(data)
        for place in range(len(hurt) if self.corrupt else 0):
            if self.dice.random() < self.corrupt:
                hurt[place] ^= 1 << self.dice.randrange(8)
        return bytes(hurt)


class Proxy:
    """Passes connections on to a port of this machine. It works on a thread of its own.

    port     where it listens; the same after `refuse` and `accept`
    taken    how many connections there have been
    """

    def __init__(self, upstream: int):
        self.weather = Weather()
        self.port = self.taken = 0
        self._upstream = upstream
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Proxy:
        self._thread.start()
        self.accept()
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def accept(self) -> None:
        """Listen; at first, and again after `refuse`."""
        self._do(self._listen())

    def refuse(self) -> None:
        """Refuse new connections. Those that are there stay."""
        self._do(self._deafen())

    def cut(self, *, reset: bool) -> None:
        """End all connections: with a RST, or with a FIN, as if all were said."""
        self._do(self._cut(reset))

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _deafen(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _cut(self, reset: bool) -> None:
        for end in [end for end in self._ends if not end.is_closing()]:
            if reset:
                link = end.get_extra_info("socket")
                link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
                end.transport.abort()
            else:
                end.close()

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.taken += 1
        ends, ways = {writer}, set[asyncio.Task[None]]()
        self._ends.add(writer)
        try:
            while self.weather.silent:
                await asyncio.sleep(_NAP)
            answers, upstream = await asyncio.open_connection("127.0.0.1", self._upstream)
            ends.add(upstream)
            self._ends.add(upstream)
            ways.add(asyncio.create_task(self._pass(reader, upstream, "up")))
            ways.add(asyncio.create_task(self._pass(answers, writer, "down")))
            await asyncio.wait(ways, return_when=asyncio.FIRST_EXCEPTION)
        except OSError:  # the server refuses, and so does this
            pass
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for end in ends:
                self._ends.discard(end)
                end.close()
            self._tasks.discard(task)

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way
    ) -> None:
        """Send on what comes; raises ConnectionError when either end has gone."""
        under_way: asyncio.Queue[tuple[float, bytes | None]] = asyncio.Queue(_ROOM)

        async def take() -> None:
            data: bytes | None = b"-"
            while data:
                try:
                    data = await reader.read(_CHUNK)
                except OSError:
                    data = None
                await under_way.put((self._loop.time() + self.weather.delay, data))

        taking = asyncio.create_task(take())
        try:
            while True:
                due, data = await under_way.get()
                await asyncio.sleep(due - self._loop.time())
                while way in self.weather.frozen:
                    await asyncio.sleep(_NAP)
                if data is None:
                    raise ConnectionResetError
                if not data:
                    writer.write_eof()
                    return
                writer.write(self.weather.flip(data) if way == "down" else data)
                await writer.drain()
                if self.weather.rate is not None:
                    await asyncio.sleep(len(data) / self.weather.rate)
        finally:
            taking.cancel()
