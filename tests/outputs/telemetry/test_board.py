"""Sensors, read from a directory tree like sysfs on a Jetson."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.outputs.telemetry.board import power, temperatures


def write(folder: Path, **files: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(f"{content}\n")
    return folder


@pytest.fixture
def orin(tmp_path: Path) -> Path:
    """An Orin NX: its GPU's sensor sleeps, and channel 3 of its monitor is switched off."""
    zones, monitors = tmp_path / "class" / "thermal", tmp_path / "class" / "hwmon"
    write(zones / "thermal_zone0", type="cpu-thermal", temp=48718)
    asleep = write(zones / "thermal_zone1", type="gpu-thermal")
    (asleep / "temp").mkdir()  # reading it raises OSError, like a sensor that is asleep
    write(zones / "thermal_zone2", type="tj-thermal", temp=-2000)
    write(zones / "cooling_device0", type="pwm-fan", cur_state=1)
    write(monitors / "hwmon0", name="pwmfan", pwm1=90)
    write(
        monitors / "hwmon1",
        name="ina3221",
        in1_label="VDD_IN",
        in1_input=5008,
        curr1_input=1320,
        in2_label="VDD_CPU_GPU_CV",
        in2_input=5000,
        curr2_input=300,
        in3_label="NC",
        in3_input=0,
        curr3_input=0,
        in4_input=6600,
        curr4_input=1620,
        in7_label="sum of shunt voltages",
    )
    return tmp_path


def test_temperatures_of_the_zones_that_can_be_read(orin: Path) -> None:
    assert temperatures(orin) == {"cpu-thermal": 48.718, "tj-thermal": -2.0}


def test_power_of_the_connected_rails(orin: Path) -> None:
    """Without the monitor's sums, which would count twice."""
    assert power(orin) == pytest.approx({"VDD_IN": 6.61056, "VDD_CPU_GPU_CV": 1.5})


def test_a_monitor_that_reports_power_directly_is_used(tmp_path: Path) -> None:
    write(
        tmp_path / "class" / "hwmon" / "hwmon0",
        name="ina238",
        power1_input=12_500_000,
        in1_input=1,
        curr1_input=1,
    )
    assert power(tmp_path) == {"ina238": 12.5}


def test_sensors_of_the_same_name_are_numbered(tmp_path: Path) -> None:
    for number, millidegrees in enumerate((30000, 40000)):
        zone = tmp_path / "class" / "thermal" / f"thermal_zone{number}"
        write(zone, type="acpitz", temp=millidegrees)
    assert temperatures(tmp_path) == {"acpitz": 30.0, "acpitz#2": 40.0}


def test_a_machine_without_sensors_has_no_readings(tmp_path: Path) -> None:
    assert temperatures(tmp_path) == power(tmp_path) == {}


@pytest.mark.parametrize("content", ["", "hot", "²"])
def test_a_reading_that_is_not_a_number_is_left_out(content: str, tmp_path: Path) -> None:
    write(tmp_path / "class" / "thermal" / "thermal_zone0", type="cpu", temp=content)
    assert temperatures(tmp_path) == {}
