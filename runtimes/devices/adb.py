"""An Android phone behind the user's own `adb`. It has no Python of its own: what it is it says in a shell."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from edgeseg.errors import EdgesegError, MissingTool
from edgeseg.runtimes.agent import ARM_PARTS
from edgeseg.runtimes.devices import shell
from edgeseg.runtimes.devices.base import DEVICES, Facts
from edgeseg.runtimes.devices.book import Entry
from edgeseg.runtimes.devices.channel import PATIENCE_S
from edgeseg.runtimes.devices.remote import Remote
from edgeseg.runtimes.record import DeviceState
from edgeseg.runtimes.telemetry import take
from edgeseg.runtimes.telemetry.there import There

INSTALL = "apt-get install adb, or Google's platform-tools on the PATH"

ADB_S = 30.0
"""For adb itself, which may have to start its server."""

SETTLE_S = 5.0
"""How long a connection that was just made may say `offline` or `authorizing`."""

SOCKET = re.compile(r"[^\s:]+:\d+|\[[0-9a-fA-F:]+\]:\d+")
"""A phone on the network, which adb can be told to connect to again."""

NOT_STARTED = "{serial} is in {state}, where no Android runs; restart it: adb -s {serial} reboot"

STATES = {
    "unauthorized": "{serial} does not know this computer yet: unlock it, allow USB debugging in its dialog, then try again",
    "authorizing": "{serial} is asking whether to allow this computer: unlock it and allow USB debugging",
    "connecting": "{serial} is still connecting; try again",
    "offline": "{serial} is offline: pull its cable and plug it in again, or switch its USB debugging off and on",
    "no permissions": "this user may not open the USB device of {serial}: apt-get install "
    "android-sdk-platform-tools-common for its udev rules, join the group plugdev, then adb kill-server and plug it in again",
    **dict.fromkeys(("bootloader", "host", "recovery", "rescue", "sideload"), NOT_STARTED),
}
"""What `adb devices` says of a phone that nothing runs on -> what to do."""

ATTACH = "switch on USB debugging in its developer options, plug it in, and look at adb devices"

PROPERTIES = (
    *("ro.product.manufacturer", "ro.product.model", "ro.product.device", "ro.product.cpu.abi"),
    *("ro.build.version.release", "ro.build.version.sdk"),
    *("ro.soc.manufacturer", "ro.soc.model", "ro.board.platform"),
)

ASK = r"""
python=$1; shift
for name; do echo "$name=$(getprop "$name")"; done
echo "kernel=$(uname -s) $(uname -r)"
echo "cores=$(ls -d /sys/devices/system/cpu/cpu[0-9]* | wc -l)"
echo "memory=$(grep MemTotal /proc/meminfo)"
echo "boot=$(cat /proc/sys/kernel/random/boot_id)"
grep 'CPU part' /proc/cpuinfo
command -v "$python" >/dev/null && echo "python=$python"
true
"""
"""A phone in its own words; what it may not be asked stays empty."""


class Adb(Remote):
    """`adb://SERIAL`, `adb://HOST:PORT`, or `adb://` for the one that is attached."""

    kind: ClassVar[str] = "adb"
    # the one place that the user of its shell may write to and run from
    home: ClassVar[str] = "/data/local/tmp/edgeseg"
    lock_file: ClassVar[str] = f"{home}/lock"

    def __init__(self, address: str, entry: Entry, patience_s: float = PATIENCE_S) -> None:
        super().__init__(address, entry, patience_s)
        self._serial = serial(entry.url) or os.environ.get("ANDROID_SERIAL") or None
        self._said: dict[str, str] = {}

    @property
    def url(self) -> str:
        """With its serial number, whatever was written."""
        return f"adb://{self._attached()}"

    def command(self, words: Sequence[str]) -> list[str]:
        """adb, and what the phone's shell takes for these words: it gets them as one string."""
        return ["adb", "-s", self._attached(), "shell", "-T", shlex.join(words)]

    def reach(self) -> None:
        """See that it is there and lets us in. A connection over the network is made, or made anew where it is offline."""
        name, state = self._attached(), self._state()
        said = ""
        if state in (None, "offline") and SOCKET.fullmatch(name):
            adb("disconnect", name)  # `connect` alone finds it connected, and leaves it offline
            said = " ".join(adb("connect", name).split())
            deadline = time.monotonic() + SETTLE_S
            while (state := self._state()) in ("offline", "authorizing", "connecting") and time.monotonic() < deadline:
                time.sleep(0.1)
        if state != "device":
            raise self._trouble(state, said)

    def _attached(self) -> str:
        """Its serial number: the only one there is, where the address has none."""
        if self._serial is None:
            found = list(attached())
            if len(found) > 1:
                raise MissingTool(f"{len(found)} devices are attached, {', '.join(found)}: which one? adb://{found[0]}")
            if not found:
                raise MissingTool(f"no phone is attached; {ATTACH}")
            self._serial = found[0]
        return self._serial

    def _state(self) -> str | None:
        return attached().get(self._attached())

    def _trouble(self, state: str | None, said: str = "") -> MissingTool:
        """Why nothing runs on a phone in that state; null for one that is not there."""
        name = self._attached()
        if state is None and SOCKET.fullmatch(name):
            return MissingTool(f"{name} cannot be reached: {said or 'adb has lost it'}; is its wireless debugging on?")
        if state is None:
            others = ", ".join(attached()) or "none"
            return MissingTool(f"{name} is not attached (there are: {others}); {ATTACH}")
        line = STATES.get(state, "adb says that {serial} is {state}; look at adb devices")
        return MissingTool(line.format(serial=name, state=state))

    def explain(self, code: int, words: str) -> EdgesegError:
        """What adb, or the shell there, meant; adb ends with 0 too when the other end dies."""
        state = self._state()
        if state != "device":
            return self._trouble(state)
        if code in (126, 127):
            return MissingTool(
                f"no {self.entry.python} on {self.address}, as on any phone: have the runtime's own benchmark measure with "
                "--tool, e.g. --tool benchmark_model, or name a Python there with --python"
            )
        last = words.splitlines()[-1].strip() if words else "it said nothing"
        return MissingTool(f"adb ended with exit code {code} on {self.address}: {last}")

    def probe(self) -> Facts:
        """Who it is, and what its Python has, where there is one."""
        said = self._ask()
        maker, model = said.get("ro.product.manufacturer", ""), said.get("ro.product.model", "")
        release, api = said.get("ro.build.version.release"), said.get("ro.build.version.sdk")
        system = [f"Android {release} (API {api})"] if release else []
        facts = Facts(
            name=said.get("ro.product.device") or model or "phone",
            model=model if model.lower().startswith(maker.lower()) else f"{maker} {model}",
            cpu=processor(said),
            cores=int(said.get("cores", "0")),
            memory_bytes=1024 * int(re.sub(r"\D", "", said.get("memory", "")) or 0),
            system=", ".join([*system, " ".join(said[key] for key in ("kernel", "ro.product.cpu.abi") if key in said)]),
            boot_id=said.get("boot"),
            python=None,
            executable=None,
            runtimes={},
        )
        if "python" not in said:
            return facts
        told = super().probe()
        return replace(facts, python=told.python, executable=told.executable, runtimes=told.runtimes)

    def _ask(self) -> Mapping[str, str]:
        if not self._said:
            done = shell.run(self, ["sh", "-c", ASK, "sh", self.entry.python, *PROPERTIES], what="saying what it is")
            pairs = (re.split(r"\s*[=:]\s*", line, maxsplit=1) for line in done.text.splitlines())
            parts: list[str] = []
            for name, value in (pair for pair in pairs if len(pair) == 2):
                if name == "CPU part":
                    parts.append(value.strip())
                elif value.strip():
                    self._said[name] = value.strip()
            self._said["parts"] = ", ".join(sorted({ARM_PARTS.get(part, f"Arm part {part}") for part in parts}))
        return self._said

    def sensed(self) -> There:
        """It, as sensors see it: most have no agent."""
        return There(self)

    def state(self) -> DeviceState:
        """Clocks and governor from sysfs, temperature from its thermal service, from sysfs where that knows the battery alone."""
        self.reach()
        place = self.sensed()
        thermal, linux = take(place, ["android"]), take(place, ["linux"])
        load = re.match(r"\d+\.\d+", place.files("/proc/loadavg").get("/proc/loadavg", ""))
        policies = place.files("/sys/devices/system/cpu/cpufreq/policy*/scaling_cur_freq")
        governor = linux.flags.get("cpu0 governor")
        chips = {name: degrees for name, degrees in thermal.temperatures_c.items() if name != "battery"}
        return DeviceState(
            load_1min=float(load[0]) if load else None,
            cpu_mhz=linux.clocks_mhz.get("cpu0"),
            temperature_c=max((chips or linux.temperatures_c or thermal.temperatures_c).values(), default=None),
            governor=str(governor) if governor else None,
            clusters_mhz=[int(khz) / 1000 for _, khz in sorted(policies.items()) if khz.isdigit()],
        )


def processor(said: Mapping[str, str]) -> str | None:
    """`Google Tensor G3 (Cortex-A510, Cortex-X3)`, as far as it says."""
    soc = " ".join(said[key] for key in ("ro.soc.manufacturer", "ro.soc.model") if key in said)
    chip = soc or said.get("ro.board.platform", "")
    parts = said.get("parts", "")
    return (f"{chip} ({parts})" if chip and parts else chip or parts) or None


def attached() -> dict[str, str]:
    """What adb knows: serial -> state.

    Raises:
        MissingTool: adb is not here, or does not work.
    """
    lines = (re.fullmatch(r"(\S+)\s+(no permissions|\S+).*", line) for line in adb("devices").splitlines())
    return {line[1]: line[2] for line in lines if line and line[1] not in ("List", "*")}


def adb(*words: str) -> str:
    """What adb prints; its server is started where none runs."""
    try:
        done = subprocess.run(
            ["adb", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=ADB_S,
            check=False,
        )
    except FileNotFoundError:
        raise MissingTool(f"adb is not installed; {INSTALL}") from None
    except subprocess.TimeoutExpired:
        raise MissingTool(f"adb {words[0]} did not end within {ADB_S:.0f} s; adb kill-server, then try again") from None
    if done.returncode and words[0] == "devices":
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise MissingTool(f"adb does not work: {''.join(last) or f'exit code {done.returncode}'}")
    return (done.stdout or done.stderr).strip()


def serial(url: str) -> str | None:
    """The serial number in `adb://SERIAL`; null in `adb://`.

    Raises:
        EdgesegError: it is no address of a phone.
    """
    scheme, _, name = url.partition("://")
    if scheme != "adb" or name.startswith("-") or not re.fullmatch(r"[\w.:%@\[\]-]*", name):
        raise EdgesegError(f"{url!r} is no address of a phone; write adb://SERIAL as adb devices shows it, or adb://")
    return name or None


def make(address: str, entry: Entry) -> Adb:
    """A phone.

    Raises:
        MissingTool: there is no adb here.
    """
    if shutil.which("adb") is None:
        raise MissingTool(f"adb is not installed; {INSTALL}")
    return Adb(address, entry)


DEVICES.add("adb", make)
