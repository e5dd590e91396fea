"""Signals at any time, and the end of the process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.test_cli import fails


def test_ctrl_c_while_the_command_loads_is_silent():
    """From its first import on; before that it is Python's own start."""
    code = """
import os, signal, threading
from edge.__main__ import main
threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT)).start()
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.returncode == -signal.SIGINT
    assert done.stderr == ""


def test_ctrl_c_before_a_command_begins_is_one_line():
    code = """
from edge import __main__
from edge.cli import commands
def interrupted(): raise KeyboardInterrupt
commands.app = interrupted
__main__.main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    fails(done, "stopped; no incomplete files are left", code=130)


def test_what_hangs_after_the_end_of_a_command_is_shown_and_does_not_hold_it():
    code = """
import threading
from edge import __main__
from edge.cli import commands
def stuck(): threading.Event().wait()
commands.app = threading.Thread(target=stuck).start
__main__.EXIT_SECONDS = 0.5
__main__.main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "in stuck" in done.stderr


@pytest.mark.parametrize("code", [0, 3])
def test_a_native_library_that_hangs_while_it_is_unloaded_does_not_hold_it(code):
    """Python's own exit handlers have run before, and what was printed is complete."""
    script = f"""
import atexit, ctypes, sys
from edge import __main__
from edge.cli import commands
libc = ctypes.CDLL(None)
def app():
    atexit.register(print, 'an exit handler', end='')
    libc.__cxa_atexit(ctypes.cast(libc.pause, ctypes.c_void_p), None, None)
    sys.exit({code})
commands.app = app
__main__.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=20
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, "an exit handler", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_module_that_is_being_loaded_is_not_interrupted(tmp_path, number):
    """Native ones of onnx and torch abort the process when something is raised in them."""
    loading = f"import os; os.kill(os.getpid(), {int(number)}); print('whole', flush=True)"
    (tmp_path / "loading.py").write_text(loading)
    code = """
import time
from edge.__main__ import stop_on_signals
stop_on_signals()
try:
    import loading
    time.sleep(20)
except KeyboardInterrupt:
    print("stopped")
"""
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{code}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=15)
    assert (done.stdout, done.stderr) == ("whole\nstopped\n", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_does_not_wait_for_a_module(tmp_path, number):
    """To load torch takes seconds."""
    (tmp_path / "loading.py").write_text("import time; print(end='.', flush=True); time.sleep(20)")
    code = "from edge.__main__ import stop_on_signals; stop_on_signals(); import loading"
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout.read(1) == "."
        process.send_signal(number)
        process.send_signal(number)  # an echo, as of a key that bounces
        assert "press Ctrl-C again to quit now" in process.stderr.readline()
        process.send_signal(number)
        assert process.wait(15) == -number
        assert process.stderr.read() == "stopped\n"


def test_a_signal_in_a_finaliser_is_not_lost():
    """Python only prints what a finaliser raises, and goes on."""
    code = """
import os, signal, time
from edge.__main__ import stop_on_signals
class Thing:
    def __del__(self): os.kill(os.getpid(), signal.SIGINT); print("whole", flush=True)
stop_on_signals()
try:
    Thing()
    time.sleep(20)
except KeyboardInterrupt:
    print("stopped")
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=15)
    assert (done.stdout, done.stderr) == ("whole\nstopped\n", "")
