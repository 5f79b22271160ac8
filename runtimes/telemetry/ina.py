"""INA3221 and INA2xx power monitors of boards, from sysfs: mV times mA by rail, as the board labels them."""

from __future__ import annotations

from edgeseg.runtimes.telemetry.reading import SENSORS, Place, Reading, number

HWMON = "/sys/class/hwmon/hwmon*/"


def read(place: Place, time_s: float) -> Reading | None:
    """Rails with a voltage and a current; a driver of its own power (`power1_input`, uW) is believed as it is.

    Labels of sums (`sum of shunt voltages`) have no voltage of their own and so no power.
    """
    chips = {path.rsplit("/", 1)[0] for path, name in place.files(HWMON + "name").items() if name.startswith("ina")}
    volts, amperes, watts = (_channels(place, kind) for kind in ("in", "curr", "power"))
    power = {}
    for chip in sorted(chips):
        labels = place.files(f"{chip}/*_label")
        for index in sorted({key[1] for values in (volts, amperes, watts) for key in values if key[0] == chip}):
            name = labels.get(f"{chip}/in{index}_label", f"{chip.rsplit('/', 1)[1]} rail {index}")
            if (chip, index) in watts:
                power[name] = watts[chip, index] / 1000
            elif (chip, index) in volts and (chip, index) in amperes:
                power[name] = volts[chip, index] * amperes[chip, index] / 1000
    return Reading(time_s, power_mw=power) if power else None


def _channels(place: Place, kind: str) -> dict[tuple[str, str], float]:
    """(chip, channel) -> the number in its file."""
    found = {}
    for path, text in place.files(f"{HWMON}{kind}[0-9]*_input").items():
        chip, file = path.rsplit("/", 1)
        if (value := number(text)) is not None:
            found[chip, file.removeprefix(kind).removesuffix("_input")] = value
    return found


SENSORS.add("ina", read)
