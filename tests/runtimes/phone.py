"""Phones for tests: a scripted `adb` that runs commands here, and a real adb and adbd in a network of their own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.runtimes.here import until

PHONE = {
    "ro.product.manufacturer": "Google",
    "ro.product.model": "Pixel 8",
    "ro.product.device": "shiba",
    "ro.product.cpu.abi": "arm64-v8a",
    "ro.build.version.release": "14",
    "ro.build.version.sdk": "34",
    "ro.soc.manufacturer": "Google",
    "ro.soc.model": "Tensor G3",
}

BATTERY = """Current Battery Service state:
  AC powered: false
  USB powered: true
  present: true
  level: 85
  scale: 100
  temperature: 285
"""
THERMAL = """IsStatusOverride: false
Thermal Status: 0
Cached temperatures:
	Temperature{mValue=32.0, mType=3, mName=VIRTUAL-SKIN, mStatus=0}
Current temperatures from HAL:
	Temperature{mValue=39.0, mType=3, mName=VIRTUAL-SKIN, mStatus=0}
	Temperature{mValue=-99.9, mType=0, mName=CPU0, mStatus=0}
Current cooling devices from HAL:
"""

FAKE = """cd '{folder}'
[ "$3" = shell ] || echo "$*" >>log
case $1 in
devices)
  printf '* daemon not running; starting now at tcp:5037\\n* daemon started successfully\\n' >&2
  echo "List of devices attached"; cat states; echo;;
disconnect) sed -i "/^$2\t/d" states;;
connect)
  if [ -e dead ]; then echo "failed to connect to '$2': Connection refused"
  elif grep -q "^$2\t" states; then echo "already connected to $2"
  else printf '%s\\tdevice\\n' "$2" >>states; echo "connected to $2"; fi;;
-s)
  [ $# = 5 ] && [ "$3 $4" = "shell -T" ] || {{ echo "what is $*?" >&2; exit 99; }}
  grep -q "^$2\tdevice$" states || {{ echo "adb: device '$2' is no good" >&2; exit 1; }}
  PATH=$PWD/phone:$PATH exec sh -c "$5";;
esac"""
"""`adb` whose devices are in a file; their shell is this machine's, whose commands come after those of a phone."""


def put(folder: Path, name: str, script: str) -> Path:
    """A program of a phone, or a stand-in for one."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def furnish(folder: Path) -> None:
    """What a phone has on its path and no other machine."""
    lines = [f"{name}) echo '{value}';;" for name, value in PHONE.items()]
    put(folder, "getprop", "\n".join(["case $1 in", *lines, "*) echo;;", "esac"]))
    services = {"battery": BATTERY, "thermalservice": THERMAL}
    for name, text in services.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    put(folder, "dumpsys", f'cat "{folder}/$1.txt" 2>/dev/null || echo "Can\'t find service: $1"')
    put(
        folder,
        "cmd",
        f'echo "$*" >>"{folder}/cmd.log"; [ ! -e "{folder}/refuses" ] || {{ echo "Failed to set FIXED_PERFORMANCE mode"; exit 255; }}',
    )


class FakeAdb:
    """The scripted adb, first on the path."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.phone = folder / "adb", folder / "adb" / "phone"
        furnish(self.phone)
        script = put(self.folder / "bin", "adb", FAKE.format(folder=self.folder))
        monkeypatch.setenv("PATH", str(script.parent), prepend=os.pathsep)
        monkeypatch.delenv("ANDROID_SERIAL", raising=False)
        self.attach(SERIAL="device")

    def attach(self, **states: str) -> None:
        """Let these be attached, and no others."""
        lines = [f"{name}\t{state}\n" for name, state in states.items()]
        (self.folder / "states").write_text("".join(lines), encoding="utf-8")

    @property
    def log(self) -> list[str]:
        """What adb was asked, but for the commands that it was to run."""
        return (self.folder / "log").read_text(encoding="utf-8").splitlines()


ROOT = Path(__file__).parent.parent.parent / ".adbd"
TOOLS = ROOT / "usr" / "lib" / "android-sdk" / "platform-tools"
SERIAL = "127.0.0.1:5701"  # adb looks for emulators below 5600 by itself

SETUP = """ip link set lo up && mount --make-rprivate / && mount --bind {root}/bin/mksh "$(readlink -f /bin/sh)" && echo ready
exec sleep infinity"""


class RealPhone:
    """adbd with a phone's shell and commands; `adb` on the path reaches it and nothing else."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.phone = folder, folder / "phone"
        furnish(self.phone)
        done = subprocess.run([ROOT / "bin" / "toybox"], capture_output=True, text=True, check=True)
        for name in done.stdout.split():
            (self.phone / name).symlink_to(ROOT / "bin" / "toybox")
        (self.phone / "sh").unlink(missing_ok=True)
        (self.phone / "sh").symlink_to(ROOT / "bin" / "mksh")
        (folder / "home").mkdir()
        library = ROOT / "usr" / "lib" / f"{os.uname().machine}-linux-gnu"
        self._environment = {
            "TMPDIR": str(folder),
            "HOME": str(folder / "home"),
            "LD_LIBRARY_PATH": f"{library}/android:{library}",
            "ANDROID_ADB_SERVER_PORT": "5137",
        }
        self._network = subprocess.Popen(
            ["unshare", "-Urnm", "sh", "-c", SETUP.format(root=ROOT)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self._network.stdout is not None
        said = self._network.stdout.readline().strip()
        if said != "ready":
            pytest.skip(f"no network namespace with an adbd in it here: {said}")
        self._enter = ["nsenter", "--preserve-credentials", "-U", "-n", "-m", "-t", str(self._network.pid)]
        self._adbd: subprocess.Popen[bytes] | None = None
        words = " ".join([*(f"{name}='{value}'" for name, value in self._environment.items()), *self._enter])
        self.adb = put(folder / "bin", "adb", f'exec env {words} {TOOLS}/adb "$@"')

    def start(self) -> None:
        """Switch it on."""
        environment = self._environment | {"ADBD_PORT": SERIAL.rpartition(":")[2], "PATH": str(self.phone)}
        with (self.folder / "adbd.log").open("ab") as log:
            words = [shutil.which("nsenter") or "", *self._enter[1:], f"{TOOLS}/adbd"]
            self._adbd = subprocess.Popen(words, env=environment, stdout=log, stderr=log)
        assert until(lambda: b"adbd started" in (self.folder / "adbd.log").read_bytes())
        (self.folder / "adbd.log").write_bytes(b"")

    def stop(self) -> None:
        """Kill adbd alone, as when it crashes: what it had started goes on, or does not."""
        assert self._adbd is not None
        self._adbd.kill()
        self._adbd.wait()

    def close(self) -> None:
        """End everything in its network."""
        with suppress(subprocess.TimeoutExpired):
            subprocess.run([self.adb, "kill-server"], capture_output=True, check=False, timeout=10)
        if self._adbd:
            with suppress(psutil.NoSuchProcess):
                for child in psutil.Process(self._adbd.pid).children(recursive=True):
                    child.send_signal(signal.SIGKILL)
            self.stop()
        self._network.kill()
        self._network.communicate()


@contextmanager
def real_phone(folder: Path) -> Iterator[RealPhone]:
    """One that is switched on.

    Skips where there is no adbd, or no namespaces.
    """
    if not (TOOLS / "adbd").exists():
        pytest.skip("needs a real adb and adbd: bash .ci/adbd unpacks Debian's")
    missing = [name for name in ("unshare", "nsenter", "ip") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: apt-get install util-linux iproute2")
    phone = RealPhone(folder)
    try:
        phone.start()
        yield phone
    finally:
        phone.close()
