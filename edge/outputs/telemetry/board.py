"""How warm a board is and what it draws: Linux's thermal zones and TI's INA power monitors.

Every Jetson has both. A sensor that does not answer, as that of a part that is switched off, is
left out.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["power", "temperatures"]

SYSFS = Path("/sys")

# Those of an INA3221, and the one of other INAs. What it numbers higher is no rail: sums, and the
# voltages across its resistors.
_CHANNELS = (1, 2, 3)
_UNUSED = ("", "NC")


def temperatures(sysfs: Path = SYSFS) -> dict[str, float]:
    """Degrees Celsius by thermal zone, such as `cpu-thermal`."""
    found: dict[str, float] = {}
    for zone in sorted(sysfs.glob("class/thermal/thermal_zone*")):
        name, millidegrees = _text(zone / "type"), _number(zone / "temp")
        if name and millidegrees is not None:
            found[_unused(name, found)] = millidegrees / 1e3
    return found


def power(sysfs: Path = SYSFS) -> dict[str, float]:
    """Watts by rail, such as `VDD_IN`, which is the whole module on most boards."""
    found: dict[str, float] = {}
    for monitor in sorted(sysfs.glob("class/hwmon/hwmon*")):
        chip = _text(monitor / "name") or ""
        if not chip.startswith("ina"):
            continue
        for channel in _CHANNELS:
            label = _text(monitor / f"in{channel}_label")
            watts = _watts(monitor, channel)
            if watts is not None and label not in _UNUSED:
                found[_unused(label or chip, found)] = watts
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


def _unused(name: str, used: dict[str, float]) -> str:
    """`name`, or with a number where two sensors have the same."""
    same, numbered = 1, name
    while numbered in used:
        same += 1
        numbered = f"{name}#{same}"
    return numbered


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text and text.lstrip("-").isdecimal() else None
