"""`make setup` and the programs for `make test`: scripts/setup.sh itself, with fake programs.

The copy runs in a folder of its own that stands for /, with pip, dpkg and apt-get that log their
arguments and install nothing.
"""

from __future__ import annotations

import os
import pty
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ONLY_FOR_TESTS = ("mosquitto", "openssl", "faketime", "strace", "chromium")


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@dataclass
class Machine:
    """A machine on which setup.sh runs."""

    folder: Path
    installed: list[str] = field(default_factory=lambda: ["*"])  # shell patterns of packages
    driver: bool = False
    pycuda_builds: bool = True
    os_id: str = "debian"

    def write(self) -> None:
        script = self.folder / "scripts/setup.sh"
        program(script, "")
        script.write_bytes((ROOT / "scripts/setup.sh").read_bytes())
        (self.folder / "constraints.txt").write_text("torch==2\n")
        (self.folder / "etc").mkdir(exist_ok=True)
        (self.folder / "etc/os-release").write_text(f"ID={self.os_id}\n")
        (self.folder / "usr/sbin").mkdir(parents=True, exist_ok=True)
        self.log.write_text("")
        patterns = "|".join(self.installed) or "nothing"
        fakes = {
            "bin/dpkg-query": f'case "$4" in {patterns}) printf installed ;; esac',
            # A service is started unless policy-rc.d forbids it, as invoke-rc.d asks it.
            "bin/apt-get": f"""case "$*" in
  *assume-no*) echo 'Need to get 12.3 MB of archives.'; exit 1 ;;
  *mosquitto*) {self.folder}/usr/sbin/policy-rc.d || echo not started >>{self.log} ;;
esac
echo "apt-get $*" >>{self.log}""",
            "bin/deb-systemd-helper": f'echo "deb-systemd-helper $*" >>{self.log}',
            "bin/update-rc.d": f'echo "update-rc.d $*" >>{self.log}',
            "bin/id": "echo 0",
            "bin/python": f'case "$*" in *libcuda*) exit {0 if self.driver else 1} ;; esac',
            ".venv/bin/python": f"""case "$*" in
  *pip*torch==2*) echo 'Downloading torch-2 (190 MB)'; sleep "${{PIP_SECONDS:-0}}" ;;
esac
case "$*" in *pip*) echo "$*" >>{self.log} ;; *) exit 0 ;; esac
[ -z "$PIP_FAILS" ] || {{ echo 'ERROR: no such wheel'; exit 1; }}""",
            "scripts/build_pycuda.sh": f'echo "build_pycuda $*" >>{self.log}; '
            f"exit {0 if self.pycuda_builds else 1}",
        }
        for name, text in fakes.items():
            program(self.folder / name, text)

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def environ(self) -> dict[str, str]:
        return {
            **{name: value for name, value in os.environ.items() if name != "CI"},
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "VENV": ".venv",
            "SYSTEM_PYTHON": str(self.folder / "bin/python"),
            "SETUP_ROOT": str(self.folder),
        }

    def setup(self, *words: str, status: int = 0, **environ: str) -> str:
        """Run setup.sh; returns its stderr."""
        self.write()
        done = subprocess.run(
            [self.folder / "scripts/setup.sh", *words],
            env={**self.environ, **environ},
            capture_output=True,
            text=True,
        )
        assert done.returncode == status, done.stderr
        assert done.stdout == ""
        return done.stderr


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_pc_without_a_driver_gets_no_pycuda(machine):
    machine.setup()
    assert "build_pycuda" not in machine.log.read_text()


def test_a_pc_with_a_driver_gets_pycuda(machine):
    machine.driver = True
    machine.setup()
    assert "build_pycuda --install" in machine.log.read_text()


def test_a_failed_build_of_pycuda_is_reported_and_setup_goes_on(machine):
    machine.driver, machine.pycuda_builds = True, False
    output = machine.setup()
    assert "PyCUDA cannot be built" in output
    assert "setup: done" in output


@pytest.mark.parametrize("driver", [False, True])
def test_steps_are_numbered_to_the_last_one_and_have_sizes(machine, driver):
    machine.driver, machine.installed = driver, ["python*"]
    output = machine.setup()
    steps = 6 if driver else 5
    assert [f"[{n}/{steps}]" in output for n in range(1, 8)] == [True] * steps + [False] * (
        7 - steps
    )
    assert "downloading 12.3 MB" in output
    assert "torch==2: 200 MB" in output


def test_without_a_terminal_there_is_no_progress_line(machine):
    output = machine.setup(PIP_SECONDS="1.2")
    assert "Downloading" not in output
    assert "\r" not in output
    assert len(output.splitlines()) == 6


@pytest.mark.parametrize("ci", [False, True])
def test_on_a_terminal_a_line_shows_what_pip_does_but_not_in_ci(machine, ci):
    machine.write()
    main, terminal = pty.openpty()
    environ = machine.environ | {"PIP_SECONDS": "1.3"} | ({"CI": "true"} if ci else {})
    done = subprocess.run([machine.folder / "scripts/setup.sh"], env=environ, stderr=terminal)
    output = os.read(main, 65536).decode()
    os.close(main)
    os.close(terminal)
    assert done.returncode == 0, output
    assert ("1 s: Downloading torch-2 (190 MB)" in output) is not ci


def test_a_failure_of_pip_is_shown_with_its_messages(machine):
    output = machine.setup(status=1, PIP_FAILS="yes")
    assert "ERROR: no such wheel" in output
    assert "error: pip failed" in output
    assert "setup: done" not in output


def test_a_board_gets_neither_torch_nor_timm(machine):
    (machine.folder / "etc").mkdir()
    (machine.folder / "etc/nv_tegra_release").touch()
    output = machine.setup()
    assert "[3/3]" in output
    assert "torch" not in machine.log.read_text()
    assert ".[device,fast,cuda,service]" in machine.log.read_text()


def test_setup_installs_no_program_that_only_tests_need(machine):
    machine.installed = []
    machine.setup()
    (line,) = (line for line in machine.log.read_text().splitlines() if "install -y" in line)
    assert "gstreamer1.0-plugins-base" in line
    assert not [name for name in ONLY_FOR_TESTS if name in line]


@pytest.mark.parametrize("os_id", ["debian", "ubuntu"])
def test_tests_get_their_programs_and_no_python_packages(machine, os_id):
    machine.os_id, machine.installed = os_id, []
    machine.setup("--tests")
    log = machine.log.read_text()
    (line,) = (line for line in log.splitlines() if "install -y" in line)
    # Ubuntu's chromium is a snap.
    expected = ONLY_FOR_TESTS if os_id == "debian" else ONLY_FOR_TESTS[:4]
    assert line.split()[-len(expected) :] == list(expected)
    assert "pip" not in log


def test_a_new_broker_is_neither_started_nor_enabled(machine):
    machine.installed = []
    machine.setup("--tests")
    log = machine.log.read_text()
    assert "not started" in log
    assert "deb-systemd-helper disable mosquitto.service" in log
    assert "update-rc.d mosquitto disable" in log
    assert not list((machine.folder / "usr/sbin").iterdir())


def test_a_policy_of_the_machine_is_put_back(machine):
    machine.installed = []
    policy = machine.folder / "usr/sbin/policy-rc.d"
    program(policy, "exit 0")
    machine.setup("--tests")
    assert "not started" in machine.log.read_text()
    assert policy.read_text() == "#!/bin/sh\nexit 0\n"
    assert [path.name for path in policy.parent.iterdir()] == ["policy-rc.d"]


def test_a_broker_that_was_installed_before_stays_as_it_was(machine):
    machine.installed = ["mosquitto"]
    machine.setup("--tests")
    assert "mosquitto" not in machine.log.read_text()


def test_a_board_needs_no_programs_for_tests(machine):
    machine.installed = []
    (machine.folder / "etc").mkdir()
    (machine.folder / "etc/nv_tegra_release").touch()
    machine.setup("--tests")
    assert machine.log.read_text() == ""


def test_an_unknown_option_is_exit_code_2_with_the_usage(machine):
    assert "setup.sh --tests" in machine.setup("--frob", status=2)
    assert machine.log.read_text() == ""
