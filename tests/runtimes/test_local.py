"""This machine, machines made of files, and addresses of others."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeseg.cli import main
from edgeseg.errors import EdgesegError
from edgeseg.runtimes import agent
from edgeseg.runtimes.devices import DEVICES, described, open_device
from edgeseg.runtimes.devices.prepare import SETTINGS, prepared
from edgeseg.runtimes.devices.ssh import target
from edgeseg.runtimes.launch import Died
from edgeseg.runtimes.measure import Failed, measure
from tests.runtimes.here import here
from tests.runtimes.test_agent import TINY, null

BOARD = {
    "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1800000\n",
    "devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
    "devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "1800000\n",
    "devices/system/cpu/cpufreq/policy4/scaling_cur_freq": "2400000\n",
    "class/thermal/thermal_zone0/temp": "61234\n",
    "class/thermal/thermal_zone1/temp": "-274000\n",
    "firmware/devicetree/base/model": "Raspberry Pi 5 Model B\0",
}
CPUINFO = "processor\t: 0\nCPU part\t: 0xd05\n\nprocessor\t: 1\nCPU part\t: 0xd0b\nModel : Raspberry Pi 5\n"


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """What a board of two kinds of cores has in /sys."""
    for name, text in BOARD.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_board_with_sensors_is_read(board: Path) -> None:
    state = agent.state(board)
    assert (state["cpu_mhz"], state["temperature_c"], state["governor"]) == (1800, 61.234, "performance")
    assert state["clusters_mhz"] == [1800, 2400]
    assert agent.facts(board)["model"] == "Raspberry Pi 5 Model B"
    assert agent.cpu_name(board / "no cpuinfo", board) == "Raspberry Pi 5 Model B"


@pytest.mark.parametrize(
    ("said", "name"),
    [
        (CPUINFO, "Cortex-A55, Cortex-A76"),
        ("CPU part : 0xfff\n", "Arm part 0xfff"),
        ("model name : Some Processor\n", "Some Processor"),
    ],
)
def test_a_processor_has_a_name(tmp_path: Path, said: str, name: str) -> None:
    (tmp_path / "cpuinfo").write_text(said)
    assert agent.cpu_name(tmp_path / "cpuinfo", tmp_path) == name


def test_what_a_machine_does_not_say_is_null(tmp_path: Path) -> None:
    state = agent.state(tmp_path)
    assert (state["cpu_mhz"], state["temperature_c"], state["governor"]) == (None, None, None)


def test_this_machine_has_a_name_cores_and_memory() -> None:
    here = open_device("local")
    state = here.state()
    device = described(here, state, state)
    assert device.kind == device.address == "local" and device.name and device.system
    assert device.cores >= 1 and device.memory_bytes > 1 << 28
    assert here.probe().runtimes["numpy"]
    assert here.command(["uname", "-m"]) == ["uname", "-m"]


@pytest.mark.parametrize(
    "url",
    [
        "ssh://",
        "ssh://user:secret@host",
        "ssh://host/path",
        "ssh://host:port",
        "ssh://-oProxyCommand=x",
        "ssh://a b",
        "ssh://a;b",
        "http://host",
    ],
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(EdgesegError, match=r"address of a device|no host has"):
        target(url)


def test_addresses_as_words() -> None:
    assert target("ssh://pi@raspberrypi.local") == ["--", "pi@raspberrypi.local"]
    assert target("ssh://Jetson") == ["--", "Jetson"]  # as ~/.ssh/config may have it
    assert target("ssh://root@[fe80::1]:22") == ["-p", "22", "--", "root@fe80::1"]
    assert target("ssh://board:2222/") == ["-p", "2222", "--", "board"]
    assert set(DEVICES) >= {"local", "ssh"}


@pytest.mark.parametrize("name", ["local", "ssh://host"])
def test_a_name_is_no_address(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "add", name, "ssh://host"]) == 1
    assert "is an address" in capfd.readouterr().err


def test_two_do_not_measure_here_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESEG_LOCK", str(tmp_path / "lock"))
    monkeypatch.setattr("edgeseg.runtimes.devices.local.locked.__defaults__", (0.4,))
    first, second = open_device("local"), open_device("local")
    with first.held():
        for _ in range(2):
            with pytest.raises(Died, match=r"local is in use by .+@.+; wait") as caught, second.held():
                pass
            assert caught.value.outcome == "busy"
        with pytest.raises(Failed) as failed:
            measure(null(tmp_path), protocol=TINY, threads=1)
        assert failed.value.failure.outcome == "busy"
        for said in ("", "[1]"):  # as of one that is about to say who it is, and of a file that is nobody's
            (tmp_path / "lock").write_text(said)
            with pytest.raises(Died, match="in use by somebody"), second.held():
                pass
    with second.held():
        pass


def test_an_agent_here_and_this_process_have_one_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody measures this machine over ssh, and sits at it as well. Neither ends the other."""
    monkeypatch.setenv("EDGESEG_LOCK", str(tmp_path / "device" / "lock"))
    monkeypatch.setattr("edgeseg.runtimes.devices.local.locked.__defaults__", (0.0,))
    monkeypatch.setattr(agent, "SILENCE_S", 0.2)  # of this end
    with closing(here(tmp_path)) as device:
        with device.held(), pytest.raises(Died, match="local is in use by"), open_device("local").held():
            pass
        with open_device("local").held(), pytest.raises(Died, match="here is in use by"):
            device.lock(wait_s=1.0)
        device.lock(wait_s=0.5)


def test_a_lock_that_cannot_be_opened_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGESEG_LOCK", str(tmp_path / "nowhere" / "lock"))
    line = r"cannot open the lock .*nowhere.*; name another file with EDGESEG_LOCK"
    with pytest.raises(EdgesegError, match=line), open_device("local").held():
        pass


@pytest.mark.parametrize(
    ("name", "more", "line"),
    [
        ("a b", [], "'a b' is no name for a device; write one word"),
        ("", [], "'' is no name for a device"),
        ("pi", ["--ssh-config", "/nowhere/config"], "--ssh-config /nowhere/config is no file"),
    ],
)
def test_a_device_that_could_not_be_used_is_not_kept(
    name: str, more: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert main(["devices", "add", name, "ssh://host", "--no-probe", *more]) == 1
    assert line in capfd.readouterr().err
    assert not (tmp_path / "edgeseg").exists()


def test_a_machine_without_clocks_to_set_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    real = SETTINGS["governor"]
    bare = replace(real, read=real.read.replace("/sys/devices/system/cpu", str(tmp_path / "cpu")))
    monkeypatch.setitem(SETTINGS._entries, "governor", bare)
    line = "local has no governor that can be read and so put back: its kernel has no cpufreq"
    with pytest.raises(EdgesegError, match=line), prepared(open_device("local"), {"governor": "performance"}):
        pass


def test_a_wrong_protocol_is_refused_before_anything_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(null(tmp_path)), "--protocol", "quickk"]) == 1
    said = capfd.readouterr()
    assert "did you mean quick?" in said.err and "measuring" not in said.err + said.out
