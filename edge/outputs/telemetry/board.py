"""Temperature and power sensors of a board: Linux thermal zones and TI's INA power monitors.

Every Jetson has both. A sensor that cannot be read, such as one of a part that is switched off, is
left out.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["power", "temperatures"]

SYSFS = Path("/sys")

# The channels of an INA3221; other INAs have channel 1 only. Higher numbers are not rails but sums
# and shunt voltages.
_CHANNELS = (1, 2, 3)
_UNUSED = ("", "NC")


def temperatures(sysfs: Path = SYSFS) -> dict[str, float]:
    """Degrees Celsius by thermal zone, such as `cpu-thermal`."""
    found: dict[str, float] = {}
    for zone in sorted(sysfs.glob("class/thermal/thermal_zone*")):
        name, millidegrees = _text(zone / "type"), _number(zone / "temp")
        if name and millidegrees is not None:
            found[_unique(name, found)] = millidegrees / 1e3
    return found


def power(sysfs: Path = SYSFS) -> dict[str, float]:
    """Watts by rail, such as `VDD_IN`, which on most boards is the complete module."""
    found: dict[str, float] = {}
    for monitor in sorted(sysfs.glob("class/hwmon/hwmon*")):
        chip = _text(monitor / "name") or ""
        if not chip.startswith("ina"):
            continue
        for channel in _CHANNELS:
            label = _text(monitor / f"in{channel}_label")
            watts = _watts(monitor, channel)
            if watts is not None and label not in _UNUSED:
                found[_unique(label or chip, found)] = watts
    return found


def _watts(monitor: Path, channel: int) -> float | None:
    microwatts = _number(monitor / f"power{channel}_input")
    if microwatts is not None:
        return microwatts / 1e6
    millivolts = _number(monitor / f"in{channel}_input")
    milliamperes = _number(monitor / f"curr{channel}_input")
    if millivolts is None or milliamperes is None:
        return None
    return millivolts * milliamperes / 1e6


def _unique(name: str, used: dict[str, float]) -> str:
    """`name`, with a number appended if another sensor has the same name."""
    count, candidate = 1, name
    while candidate in used:
        count += 1
        candidate = f"{name}#{count}"
    return candidate


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text and text.lstrip("-").isdecimal() else None
