"""`edge run` as people type it: what it says of its options before anything is opened."""

from __future__ import annotations

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
    assert done.stderr.count("warning: whoever lists the processes (ps) sees the password") == 1
    assert told in done.stderr
    assert "s3cret" not in done.stderr + done.stdout


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
