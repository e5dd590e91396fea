"""`edge run` as people type it: what it says of its options before anything is opened."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

CAMERA = "rtsp://joe:s3cret@cam/1"
BROKER = "mqtt://joe:s3cret@host"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--source", CAMERA], "in --source;"),
        ([f"--source={CAMERA}", "--source", CAMERA], "in --source;"),
        (["--source", "test://ball", "--mqtt", BROKER], "in --mqtt;"),
        (
            ["--source", CAMERA, "--record", "rtsp://joe:s3cret@:8554/live"],
            "in --source and --record;",
        ),
    ],
)
def test_a_password_that_is_typed_is_warned_of_once_and_not_repeated(edge_command, words, told):
    done = edge_command("run", "engine", "--dry-run", *words)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("warning: other users can see (by ps) the password") == 1
    assert told in done.stderr
    assert "s3cret" not in done.stderr + done.stdout


@pytest.mark.parametrize("words", [[CAMERA], ["--backend", CAMERA], ["--web", CAMERA]])
def test_a_uri_in_the_wrong_place_is_repeated_without_its_password(edge_command, words):
    done = edge_command("run", "engine", "--source", "test://ball", *words)
    assert done.returncode in (1, 2)
    assert "rtsp://***" in done.stderr
    assert "s3cret" not in done.stderr


def test_a_password_that_is_not_typed_is_not_warned_of(edge_command, monkeypatch, tmp_path):
    monkeypatch.setenv("EDGE_MQTT", BROKER)
    monkeypatch.setenv("PASSWORD", "s3cret")
    (tmp_path / "cameras.toml").write_text(f'[[camera]]\nsource = "{CAMERA}"\n')
    hidden = ["--source", "rtsp://joe:${PASSWORD}@cam/1"]
    for words in (hidden, ["--config", tmp_path / "cameras.toml"]):
        done = edge_command("run", "engine", "--dry-run", *words)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("transport", ["sctp", "tcp ! filesink location=film"])
def test_a_transport_that_there_is_not_is_refused(edge_command, transport):
    words = ["--source", "rtsp://cam/1", "--dry-run", "--transport"]
    done = edge_command("run", "engine", *words, transport)
    assert (done.returncode, done.stdout) == (2, "")
    assert "'udp'" in done.stderr
    assert edge_command("run", "engine", *words, "udp").returncode == 0


def test_an_option_without_effect_on_any_source_is_reported(edge_command):
    words = ["--source", "test://ball", "--loop", "--dry-run"]
    done = edge_command("run", "engine", *words)
    assert done.returncode == 0
    assert "warning: loop has no effect on these sources" in done.stderr
    done = edge_command("run", "engine", *words[:2], "--dry-run")
    assert "warning" not in done.stderr


def test_a_dry_run_prints_the_good_sources_and_names_the_bad_ones(edge_command):
    """All of them at once: nobody mends one fault at a time."""
    bad = ["no.mp4", "test://bal", "/dev/video0?format=mjpeg", "rtsp://${NO_SUCH_VARIABLE}@cam/1"]
    words = [word for uri in ["test://ball", *bad, "rtsp://cam/1"] for word in ("--source", uri)]
    done = edge_command("run", "engine", "--dry-run", *words)
    assert done.returncode == 1
    first, second = done.stdout.splitlines()
    assert "pattern=ball" in first
    assert "rtsp://cam/1" in second
    errors = done.stderr.splitlines()
    told = ["there is no file no.mp4", "did you mean test://ball?", "raw, mjpg, h264", "NO_SUCH_"]
    assert len(errors) == len(told)
    assert all(
        line.startswith("error: ") and said in line for line, said in zip(errors, told, strict=True)
    )


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("test://bal", "did you mean test://ball?"),
        ("test://${WHICH}", "test://*** is not a test pattern"),
        ("/dev/video0?format=mjpeg", "use one of: raw, mjpg, h264"),
    ],
)
def test_a_source_that_never_can_be_is_refused_before_the_engine_is_opened(
    edge_command, monkeypatch, source, said
):
    """Waiting for it, too, would be in vain."""
    monkeypatch.setenv("WHICH", "bal")
    words = ["--wait", "--source", "test://ball", "--source", source]
    done = edge_command("run", "no-such-engine", *words)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert said in line


def test_a_number_out_of_its_range_is_one_line(edge_command):
    done = edge_command("run", "no-such-engine", "--source", "test://ball", "--every", "0")
    told = "error: --every cannot be 0; write a whole number from 1, as in: --every 2\n"
    assert (done.returncode, done.stderr) == (1, told)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--web", "8080x"], "'8080x' is not a listen address; "),
        (["--preview", "no-such-folder/a.png"], "cannot write no-such-folder/a.png "),
        (["--preview", "a.jpg"], "the preview file a.jpg must end in .png; "),
    ],
)
def test_a_word_that_means_nothing_is_refused_before_the_engine_is_opened(
    edge_command, words, said
):
    done = edge_command("run", "no-such-engine", "--source", "test://ball", *words)
    (line,) = done.stderr.splitlines()
    assert (done.returncode, line.startswith(f"error: {said}")) == (1, True), line


def test_all_threads_share_two_heaps_however_many_the_engine_has(built_engine, tmp_path):
    """Even where nobody needs GStreamer to say what this machine is, as on a Jetson."""
    code = f"""
import ctypes, sys
from edge.__main__ import main
libc = ctypes.CDLL(None)
libc.fopen.restype, libc.fclose.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
try:
    main()
finally:
    file = libc.fopen(b"{tmp_path}/heaps", b"w")
    libc.malloc_info(0, file)
    libc.fclose(file)
"""
    words = ["--backend", "onnxruntime", "--threads", "24", "--source", "test://ball"]
    command = [sys.executable, "-c", code, "run", built_engine, *words, "--frames", "3"]
    env = os.environ | {"EDGE_PLATFORM": "pc"}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "heaps").read_text().count("<heap nr=") == 2


def test_a_camera_that_is_off_ends_the_run_and_is_not_said_to_be_tried_again(
    edge_command, built_engine
):
    done = edge_command(
        *("run", built_engine, "--backend", "onnxruntime", "--source", "rtsp://127.0.0.1:1/x")
    )
    _, *said = done.stderr.splitlines()
    assert (done.returncode, len(said)) == (1, 1)
    assert said[0].startswith("error: the camera at 127.0.0.1:1 cannot be reached")
    assert said[0].endswith("; to keep trying add --wait")


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def stopped_while_starting(request):
    """Start `edge run`, wait until it has begun something, stop it: its exit code and stderr."""

    def play(begun, *words):
        command = [sys.executable, "-m", "edge", "run", *map(str, words)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            begun(process)
            process.send_signal(request.param)
            _, stderr = process.communicate(timeout=60)
        finally:
            process.kill()
        return process.returncode, stderr.splitlines()

    return play


def test_stopped_while_its_engine_is_opened_it_says_so_in_one_line(
    stopped_while_starting, built_engine, tmp_path
):
    """Its graph takes a minute to read: 64 GB of zeros, which are not on the disk."""
    engine = shutil.copytree(built_engine, tmp_path / "engine")
    graph, passport = engine / "model.onnx", engine / "passport.json"
    os.truncate(graph, 64 << 30)
    data = json.loads(passport.read_text())
    data["files"]["model.onnx"]["bytes"] = 64 << 30
    passport.write_text(json.dumps(data))

    def reads(process):
        files = Path(f"/proc/{process.pid}/fd")
        while process.poll() is None:
            for file in files.iterdir():
                with suppress(OSError):
                    if file.readlink() == graph:
                        return
            time.sleep(0.01)

    code, said = stopped_while_starting(
        reads, engine, *("--backend", "onnxruntime", "--source", "test://ball")
    )
    assert code == 130
    assert said == ["error: stopped"]


def test_stopped_before_its_first_frame_it_says_no_more(stopped_while_starting, built_engine):
    """The camera takes the connection, and does not answer."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        url = f"rtsp://127.0.0.1:{server.getsockname()[1]}/1"
        taken = []
        code, said = stopped_while_starting(
            # The first connection only knocks.
            lambda _: taken.extend(server.accept() for _ in range(2)),
            *(built_engine, "--backend", "onnxruntime", "--source", url),
        )
        for connection, _ in taken:
            connection.close()
    assert code == 130
    assert said[1:] == ["error: stopped"]


@pytest.mark.parametrize("before", [[], ["nohup"]])
def test_a_terminal_that_closes_ends_a_run_as_ctrl_c_does(built_engine, tmp_path, before):
    """With all that is written at its end. What `nohup` runs goes on."""
    summary = tmp_path / "summary.json"
    words = ["--backend", "onnxruntime", "--source", "test://ball", "--summary", summary]
    command = [*before, sys.executable, "-m", "edge", "run", built_engine, *words]
    with subprocess.Popen(
        [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline()
        process.send_signal(signal.SIGHUP)
        if before:
            assert [process.stdout.readline() for _ in range(60)][-1]
            process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert " dropped, " in said.splitlines()[-1]
    assert json.loads(summary.read_text())["frames"] > (60 if before else 0)
