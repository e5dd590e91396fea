"""The console: what is said reaches whoever reads stderr, and nobody else holds a run up."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import IO

from edge.cli.console import Console

EDGE = Path(sys.executable).with_name("edge")
SIZE = 16384  # bytes: a short pipe, of four pages


@contextmanager
def pipe() -> Iterator[IO[bytes]]:
    """The reader's end of a short pipe, which is stderr for as long."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, SIZE)
    os.set_blocking(reader, False)
    with (
        os.fdopen(reader, "rb", buffering=0) as read,
        os.fdopen(writer, "w") as stderr,
        redirect_stderr(stderr),
    ):
        yield read


def soon(done: Callable[[], object]) -> None:
    """Do it on a thread of its own, and fail if it waits."""
    thread = threading.Thread(target=done, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive(), "it waits for a reader"


def hurried() -> Console:
    console = Console()
    console.never_wait()
    return console


def test_what_nobody_reads_is_left_out_and_counted() -> None:
    with pipe() as reader:
        console = hurried()
        soon(lambda: [console.info(f"line {number:04}") for number in range(3000)])
        read = reader.read(SIZE).decode().splitlines()
        assert read[:2] == ["line 0000", "line 0001"]
        left_out = 3000 - len(read)
        console.warn("it is hot")
        console.info("it is cold")
        assert reader.read(SIZE).decode().splitlines() == [
            f"warning: {left_out} messages were dropped: nothing read stderr",
            "warning: it is hot",
            "it is cold",
        ]


def test_a_line_longer_than_a_pipe_is_read_whole_or_not_at_all() -> None:
    with pipe() as reader:
        console, long = hurried(), "ä" * SIZE
        soon(lambda: [console.info(long), console.info("never read")])
        read = reader.read(SIZE)
        soon(lambda: console.info("read"))
        read += reader.read(SIZE)
        soon(lambda: console.info("read"))
        lines = (read + reader.read(SIZE)).decode().splitlines()
        assert lines == [long, "warning: 2 messages were dropped: nothing read stderr", "read"]


def test_a_reader_who_has_gone_ends_nothing() -> None:
    with pipe() as reader:
        console = hurried()
        reader.close()
        console.info("to nobody")


def test_many_threads_say_whole_lines() -> None:
    with pipe() as reader:
        console = hurried()
        threads = [
            threading.Thread(target=lambda letter=letter: console.info(letter * 2000), daemon=True)
            for letter in "abcdefgh"
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive(), "two of them saw the same room"
        lines = reader.read(SIZE).decode().splitlines()
        assert all(len(set(line)) == 1 for line in lines)


def test_a_file_a_terminal_and_nothing_at_all(tmp_path: Path) -> None:
    screen, terminal = pty.openpty()
    with (tmp_path / "log").open("w") as log, os.fdopen(terminal, "w") as tty:
        for stderr in (log, tty, Path(os.devnull).open("w"), io.StringIO(), None):  # noqa: SIM115
            with redirect_stderr(stderr):
                console = hurried()
                console.info("hello")
                console.close()
            if isinstance(stderr, io.StringIO):
                assert stderr.getvalue() == "hello\n"
        assert os.read(screen, 100) == b"hello\r\n"
    os.close(screen)
    assert (tmp_path / "log").read_text() == "hello\n"


def test_a_full_disk_behind_stderr_ends_no_run() -> None:
    with Path("/dev/full").open("w") as full, redirect_stderr(full):
        hurried().info("to a full disk")


def test_a_build_waits_for_its_reader() -> None:
    with pipe() as reader:
        console = Console()
        thread = threading.Thread(target=lambda: console.info("x" * 2 * SIZE), daemon=True)
        thread.start()
        read, deadline = b"", time.monotonic() + 30
        while not read.endswith(b"\n") and time.monotonic() < deadline:
            read += reader.read(SIZE) or b""
        thread.join(30)
        assert len(read) == 2 * SIZE + 1


def test_a_run_goes_on_and_stops_while_nobody_reads_stderr(built_engine: Path) -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, SIZE)
    os.write(writer, b"x" * SIZE)
    command = [EDGE, "run", built_engine, "--backend", "onnxruntime", "--source", "test://ball"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=writer, text=True) as run:
        os.close(writer)
        try:
            assert run.stdout is not None
            lines: list[str] = []
            soon(lambda: lines.extend(run.stdout.readline() for _ in range(5)))
            assert all(line.startswith("{") for line in lines)
            run.terminate()
            assert run.wait(30) == 0
        finally:
            run.kill()
            os.close(reader)
