"""Phones: what adb is asked and what its answers mean, against a scripted adb, and all the way against a real adb and adbd."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from edgeseg import schema
from edgeseg.cli import main
from edgeseg.errors import EdgesegError, MissingTool
from edgeseg.files import sha256
from edgeseg.runtimes import record as records
from edgeseg.runtimes import statistics
from edgeseg.runtimes.devices import Entry, adb, open_device, shell
from edgeseg.runtimes.devices.adb import Adb, processor
from edgeseg.runtimes.launch import Died
from edgeseg.runtimes.telemetry import Reading
from edgeseg.runtimes.telemetry.there import There
from edgeseg.runtimes.tools.there import _guarded
from tests.runtimes.here import again, gone, opened, until
from tests.runtimes.phone import SERIAL as REAL
from tests.runtimes.phone import FakeAdb, RealPhone, put, real_phone
from tests.runtimes.test_agent import LONG, null


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeAdb:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    return FakeAdb(tmp_path, monkeypatch)


def phone(folder: Path, url: str = "adb://SERIAL", **other: Any) -> Adb:
    """A phone that keeps its files in `folder`."""
    given: dict[str, Any] = {"python": "no-python-here"} | other
    return Adb("phone", Entry(url, folder=str(folder / "device"), **given))


def test_words_become_one_string_for_the_phone_s_shell(fake: FakeAdb, tmp_path: Path) -> None:
    words = ["printf", "%s|", "two words", "$HOME", "it's", "a;b", "*", ""]
    device = phone(tmp_path)
    assert device.command(words) == ["adb", "-s", "SERIAL", "shell", "-T", shlex.join(words)]
    assert shell.run(device, words).text == "two words|$HOME|it's|a;b|*||"


def test_one_phone_needs_no_name(fake: FakeAdb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert phone(tmp_path, "adb://").command(["true"])[:3] == ["adb", "-s", "SERIAL"]
    fake.attach(A="device", B="unauthorized")
    with pytest.raises(MissingTool, match="2 devices are attached, A, B: which one"):
        phone(tmp_path, "adb://").reach()
    monkeypatch.setenv("ANDROID_SERIAL", "A")  # as for adb itself
    assert phone(tmp_path, "adb://").url == "adb://A"
    monkeypatch.delenv("ANDROID_SERIAL")
    fake.attach()
    with pytest.raises(MissingTool, match="no phone is attached; switch on USB debugging"):
        phone(tmp_path, "adb://").reach()


@pytest.mark.parametrize(
    ("state", "line"),
    [
        ("unauthorized", "unlock it, allow USB debugging"),
        ("authorizing", "unlock it and allow"),
        ("offline", "pull its cable and plug it in again"),
        ("no permissions (user in plugdev group; are your udev rules wrong?); see [page]", "udev rules"),
        ("recovery", "is in recovery, where no Android runs; restart it: adb -s SERIAL reboot"),
        ("a state of the future", "adb says that SERIAL is a"),
        (None, r"SERIAL is not attached \(there are: OTHER\)"),
    ],
)
def test_a_phone_that_is_not_ready_is_one_line_and_code_5(
    fake: FakeAdb, state: str | None, line: str, capfd: pytest.CaptureFixture[str]
) -> None:
    fake.attach(OTHER="device", **({"SERIAL": state} if state else {}))
    assert main(["devices", "probe", "adb://SERIAL"]) == 5
    said = capfd.readouterr().err
    assert re.search(line, said) and said.count("\n") == 1


def test_without_adb_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingTool, match="adb is not installed; apt-get install adb"):
        open_device("adb://SERIAL")


@pytest.mark.parametrize("url", ["adb://-s", "adb://a b", "adb://a;b", "adb://a/b", "adb://$(x)"])
def test_what_no_serial_number_is_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(EdgesegError, match="is no address of a phone"):
        phone(tmp_path, url)


def test_a_phone_on_the_network_is_connected_and_made_anew_when_offline(fake: FakeAdb, tmp_path: Path) -> None:
    name = "127.0.0.1:5555"
    for states in ({}, {name: "offline"}):
        fake.attach(**states)
        (fake.folder / "log").unlink(missing_ok=True)
        phone(tmp_path, f"adb://{name}").reach()
        assert fake.log == ["devices", f"disconnect {name}", f"connect {name}", "devices"]
    fake.attach()
    (fake.folder / "dead").touch()
    with pytest.raises(MissingTool, match=r"cannot be reached: failed to connect .* Connection refused"):
        phone(tmp_path, f"adb://{name}").reach()


def test_a_phone_says_what_it_is(fake: FakeAdb, capfd: pytest.CaptureFixture[str]) -> None:
    parts = r"CPU part\t: 0xd0b\nprocessor\t: 1\nCPU part\t: 0xd05\n"
    put(fake.phone, "grep", f'case $1 in CPU*) printf "{parts}";; *) exec {shutil.which("grep")} "$@";; esac')
    assert main(["devices", "add", "phone", "adb://SERIAL", "--python", "no-python-here"]) == 0
    capfd.readouterr()
    assert main(["devices", "probe", "phone", "--json"]) == 0
    said = json.loads(capfd.readouterr().out)["phone"]
    assert (said["name"], said["model"], said["python"], said["runtimes"]) == ("shiba", "Google Pixel 8", None, {})
    assert said["system"].startswith("Android 14 (API 34), Linux ") and said["system"].endswith(" arm64-v8a")
    assert said["cpu"] == "Google Tensor G3 (Cortex-A55, Cortex-A76)"
    assert said["cores"] == len(list(Path("/sys/devices/system/cpu").glob("cpu[0-9]*"))) and said["memory_bytes"] > 1e8
    assert said["state"]["temperature_c"] == 39.0  # the present one, not the cached; and no dead sensor's
    flags = said["sensors"]["flags"]
    assert flags == flags | {"thermal_status": 0, "battery_percent": 85, "charging": True}
    assert main(["devices", "probe", "phone"]) == 0
    out = capfd.readouterr().out
    assert "none: for runtimes' own" in out and "battery_percent 85" in out


def test_a_processor_is_its_chip_and_its_cores() -> None:
    chip = {"ro.soc.manufacturer": "Google", "ro.soc.model": "Tensor G3"}
    assert processor(chip | {"parts": "Cortex-A510, Cortex-X3"}) == "Google Tensor G3 (Cortex-A510, Cortex-X3)"
    assert processor({"ro.board.platform": "msm8998", "parts": ""}) == "msm8998"
    assert processor({"parts": ""}) is None


def test_a_service_that_is_not_there_is_no_reading(fake: FakeAdb, tmp_path: Path) -> None:
    place = There(phone(tmp_path))
    assert (place.run(["dumpsys", "nosuch"]) or "").startswith("Can't find service")
    for name in ("battery", "thermalservice"):
        (fake.phone / f"{name}.txt").unlink()
    assert phone(tmp_path).state().temperature_c != 39.0


def test_a_battery_is_not_the_chip(fake: FakeAdb, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(android: dict[str, float], linux: dict[str, float]) -> float | None:
        readings = {"android": Reading(0.0, android), "linux": Reading(0.0, linux)}
        monkeypatch.setattr(adb, "take", lambda place, names: readings[names[0]])
        return phone(tmp_path).state().temperature_c

    assert said({"battery": 30.0, "AP": 39.0}, {"zone": 55.0}) == 39.0
    assert said({"battery": 30.0}, {"zone": 55.0}) == 55.0
    assert said({"battery": 30.0}, {}) == 30.0


def test_a_phone_without_python_is_told_what_measures_there(
    fake: FakeAdb, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["devices", "add", "phone", "adb://SERIAL", "--python", "no-python-here"]) == 0
    assert main(["bench", str(null(tmp_path)), "-d", "phone"]) == 5
    assert "--tool benchmark_model" in capfd.readouterr().err


def test_an_end_that_nobody_said_is_no_end(fake: FakeAdb, tmp_path: Path) -> None:
    device = phone(tmp_path)
    with pytest.raises(Died, match="phone went away in the middle of") as caught:
        shell.run(device, ["sh", "-c", "echo some; kill -9 $PPID"])
    assert caught.value.outcome == "lost"
    put(fake.folder / "bin", "adb", 'case $1 in devices) printf "List\\nSERIAL\\tdevice\\n";; esac')
    with pytest.raises(MissingTool, match="adb ended with exit code 0 on phone"):
        shell.run(device, ["true"])


# -- a real adb and adbd -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def switched_on(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealPhone]:
    with real_phone(tmp_path_factory.mktemp("phone")) as made:
        yield made


@pytest.fixture
def real(switched_on: RealPhone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RealPhone:
    monkeypatch.setenv("PATH", str(switched_on.adb.parent), prepend=os.pathsep)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)
    return switched_on


def test_real_words_codes_and_signals(real: RealPhone, tmp_path: Path) -> None:
    device = phone(tmp_path, f"adb://{REAL}")
    words = ["printf", "%s|", "two words", "$HOME", "it's", "a;b", "*"]
    assert shell.run(device, words).text == "two words|$HOME|it's|a;b|*|"
    assert "MIRBSD KSH" in shell.run(device, ["sh", "-c", "echo $KSH_VERSION"]).text
    assert shell.run(device, ["sh", "-c", "echo dead >&2; exit 3"]).ending == "ended with exit code 3: dead"
    assert shell.run(device, ["sh", "-c", "kill -SEGV $$"]).ending.startswith("was ended by SIGSEGV")
    assert shell.run(device, ["no-such-command"]).code == 127


def test_real_files_go_there_once_and_come_back_whole(real: RealPhone, tmp_path: Path) -> None:
    device = phone(tmp_path, f"adb://{REAL}")
    file = tmp_path / "model"
    file.write_bytes(bytes(range(256)) * 4096 + b"\r\n\n")
    sha = sha256(file)
    shell.push(device, {sha: file})
    there = Path(device.folder) / "files" / sha
    inode = there.stat().st_ino
    shell.push(device, {sha: file})
    assert there.stat().st_ino == inode and hashlib.sha256(shell.pull(device, str(there))).hexdigest() == sha
    there.write_bytes(b"damaged")
    shell.push(device, {sha: file})
    assert sha256(there) == sha
    with pytest.raises(EdgesegError, match=r"did not arrive whole .* another SHA-256"):
        shell.push(device, {"0" * 64: file})
    assert [path.name for path in there.parent.iterdir()] == [sha]


def test_real_phone_is_probed(real: RealPhone, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "add", "phone", "adb://", "--python", sys.executable]) == 0
    capfd.readouterr()
    assert main(["devices", "probe", "phone", "--json"]) == 0
    said = json.loads(capfd.readouterr().out)["phone"]
    assert (said["model"], said["executable"]) == ("Google Pixel 8", sys.executable)
    assert said["runtimes"]["numpy"] == np.__version__
    assert said["boot_id"] == open_device("local").probe().boot_id
    assert (There(open_device("phone")).run(["dumpsys", "nosuch"]) or "").startswith("Can't find service")


def test_real_bench_leaves_a_record(real: RealPhone, tmp_path: Path) -> None:
    folder, out = tmp_path / "device", tmp_path / "record.json"
    assert main(["devices", "add", "phone", f"adb://{REAL}", "--python", sys.executable, "--folder", str(folder)]) == 0
    assert main(["bench", str(null(tmp_path)), "-d", "phone", "--protocol", "smoke", "-o", str(out)]) in (0, 6)
    record = records.read(out)
    assert (record.device.kind, record.device.address, record.device.name) == ("adb", "phone", "shiba")
    assert record.latency == statistics.latency(*record.samples.unpack())
    assert record.sensors is not None and record.sensors.before.flags["battery_percent"] == 85


def test_real_adbd_that_dies_is_lost_and_comes_back(
    real: RealPhone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(phone(tmp_path, f"adb://{REAL}", python=sys.executable)) as device:
        bench = opened(device, null(tmp_path))
        keeper = device.channel.hello["pid"]
        (child,) = psutil.Process(keeper).children()
        threading.Timer(1.0, real.stop).start()
        with pytest.raises(Died, match="went away") as caught:
            bench.ask("measure", protocol=schema.dump(LONG))
        assert caught.value.outcome == "lost"  # though the client ends with 0 and says nothing
        assert caught.value.samples is not None and caught.value.samples.count > 20
        assert gone(keeper) and gone(child.pid)  # nothing goes on measuring beside the next one
        with pytest.raises(MissingTool, match=r"127\.0\.0\.1:5701 (cannot be reached|is offline)"):
            again(device)
        real.start()
        again(device)
        assert device.probe().model == "Google Pixel 8"


def test_real_phone_that_is_offline_is_reached_again(real: RealPhone, tmp_path: Path) -> None:
    device = phone(tmp_path, f"adb://{REAL}")
    device.reach()
    real.stop()
    assert until(lambda: device._state() != "device")
    real.start()
    device.reach()
    assert shell.run(device, ["echo", "back"]).text == "back\n"


def test_real_tool_ends_with_its_connection(real: RealPhone, tmp_path: Path) -> None:
    device = phone(tmp_path, f"adb://{REAL}")
    mark = tmp_path / "pid"
    put(real.phone, "endless", f"echo $$ >{mark}; exec sleep 60")

    def kill() -> None:
        until(lambda: mark.exists() and mark.read_text().strip())
        with pytest.raises(Died, match=r"phone is in use by .*@.*; wait"):
            _guarded(device, {}, ["true"])
        real.stop()

    other = threading.Thread(target=kill)
    other.start()
    with pytest.raises(Died, match="went away in the middle of running endless") as caught:
        _guarded(device, {}, ["endless"])
    other.join()
    assert caught.value.outcome == "lost" and gone(int(mark.read_text()))
    real.start()
    assert _guarded(device, {}, ["true"]).code == 0  # nobody has it any more
