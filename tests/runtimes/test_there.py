"""Devices with nothing but a shell: tools that were put there, and settings that are changed and put back. Here the device is this machine."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from edgeseg import schema
from edgeseg.artifact import Artifact
from edgeseg.cli import main
from edgeseg.errors import EdgesegError, MissingTool
from edgeseg.runtimes.compare import compare_records
from edgeseg.runtimes.devices import DEVICES, prepare, shell
from edgeseg.runtimes.devices.prepare import SETTINGS, Setting, prepared, put_back
from edgeseg.runtimes.devices.tokens import Token
from edgeseg.runtimes.launch import Died
from edgeseg.runtimes.measure import measure
from edgeseg.runtimes.null import Null, null_artifact
from edgeseg.runtimes.tools import TOOLS
from edgeseg.runtimes.tools.measured import ToolMeasurement
from edgeseg.runtimes.tools.there import _guarded, measure_there, see_free
from tests.runtimes.here import Here, here, until
from tests.runtimes.phone import furnish, put
from tests.runtimes.test_agent import TINY, null
from tests.runtimes.test_tools import GOLDEN

SHELLS = [name for name in ("dash", "bash", "mksh", "busybox") if shutil.which(name)]


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    """A phone's commands come first on its path; `here://` is its address."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    furnish(tmp_path / "phone")
    monkeypatch.setenv("PATH", str(tmp_path / "phone"), prepend=os.pathsep)
    monkeypatch.setitem(DEVICES._entries, "here", lambda address, entry: here(tmp_path))
    return here(tmp_path)


def subject(folder: Path, name: str) -> Artifact:
    """An artifact that is of the tool's runtime as far as the tool knows."""
    artifact = Artifact.open(null_artifact(folder / "null", Null()))
    changed = replace(artifact.manifest, target={"name": TOOLS[name].runtime})
    return replace(artifact, manifest=changed)


@pytest.mark.parametrize("name", TOOLS)
def test_every_tool_is_run_and_read_there(name: str, device: Here, tmp_path: Path) -> None:
    written = {
        "trtexec": {"trtexec-times.json": "times.json"},
        "litert-benchmark": {"litert-benchmark.json": "result.json"},
    }
    copies = [f"cp '{GOLDEN / name / own}' {other}" for other, own in written.get(name, {}).items()]
    says = [f"echo \"$*\" >>'{tmp_path}/argv'", f"cat '{GOLDEN / name / 'output.txt'}'", "[ $1 != --help ] || exit 0"]
    put(tmp_path / "phone", name, "\n".join([*says, f"cp -r . '{tmp_path}/kept'", *copies]))
    artifact = subject(tmp_path, name)
    model = artifact.manifest.files[0].path
    if name == "trtexec":
        with pytest.raises(MissingTool, match=r"has no .*\.engine; build it on the device"):
            measure_there(device, name, artifact, threads=2)
        (tmp_path / "argv").unlink()
        model = str(Path(model).with_suffix(".engine"))
        (artifact.folder / model).write_bytes(b"built for this device")
    found = measure_there(device, name, artifact, threads=2)
    assert found.tool == name and found.figures.mean_ms is not None
    assert (found.source == "samples") == (name in ("trtexec", "executor_runner"))
    *asked, line = (tmp_path / "argv").read_text().splitlines()
    assert asked == ["--help"] * (TOOLS[name].stated is not None)
    assert (tmp_path / "kept" / model).read_bytes() == (artifact.folder / model).read_bytes()
    assert model in line
    assert [path.name for path in Path(device.folder).glob("tool*")] == []  # nothing is left there
    assert all(not Path(word.rpartition("=")[2]).is_absolute() for word in line.split())  # nothing of this machine


@pytest.mark.parametrize(
    ("script", "kind", "line"),
    [
        (None, MissingTool, "benchncnn is not on here; put benchncnn there, for Android with adb push"),
        ("exit 126", MissingTool, r"cannot be run on here: .*chmod \+x it there"),
        ("echo dead >&2; exit 3", EdgesegError, "benchncnn on here ended with exit code 3: dead"),
        ("kill -ILL $$", EdgesegError, "benchncnn on here was ended by SIGILL"),
        ("echo nonsense", EdgesegError, "its output has no line for"),
    ],
)
def test_a_tool_that_goes_wrong_there_is_one_line(
    script: str | None, kind: type[EdgesegError], line: str, device: Here, tmp_path: Path
) -> None:
    if script:
        put(tmp_path / "phone", "benchncnn", script)
    with pytest.raises(kind, match=line) as caught:
        measure_there(device, "benchncnn", subject(tmp_path, "benchncnn"), threads=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", SHELLS)
def test_a_tool_and_the_agent_keep_each_other_away(name: str, device: Here, tmp_path: Path) -> None:
    if name != "busybox":
        (tmp_path / "phone" / "sh").symlink_to(shutil.which(name) or "")
    with closing(here(tmp_path)) as other:
        other.lock()
        with pytest.raises(Died, match=r"here is in use by .*@.*; wait") as caught:
            _guarded(device, {}, ["true"])
        assert caught.value.outcome == "busy"
        other.unlock()
        code = f"import fcntl; fcntl.flock(open({device.lock_path!r}), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        busy = _guarded(device, {}, [sys.executable, "-c", code])
        assert busy.code == 1 and "BlockingIOError" in busy.errors
        other.lock(wait_s=0)


def test_a_tool_ends_with_whoever_started_it(device: Here, tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    code = (
        "from pathlib import Path; from tests.runtimes.here import here; from edgeseg.runtimes.tools.there import _guarded; "
        f"_guarded(here(Path({str(tmp_path)!r})), {{}}, ['sh', '-c', 'echo $$ >{mark}; exec sleep 60'])"
    )
    with subprocess.Popen([sys.executable, "-c", code], start_new_session=True) as process:
        assert until(lambda: mark.exists() and mark.read_text().strip())
        process.kill()
    assert until(lambda: not Path(f"/proc/{mark.read_text().strip()}").exists())
    assert _guarded(device, {}, ["true"]).code == 0


def test_no_flock_is_a_warning(device: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "phone", "benchncnn", f"cat '{GOLDEN / 'benchncnn' / 'output.txt'}'")
    for name in ("sh", "mkdir", "dirname", "ln", "cp", "rm", "cat", "mv", "sha256sum"):
        (tmp_path / "phone" / name).symlink_to(shutil.which(name) or "")
    monkeypatch.setenv("PATH", str(tmp_path / "phone"))
    found = measure_there(device, "benchncnn", subject(tmp_path, "benchncnn"), threads=1)
    assert found.warnings == ["here has no flock, which keeps another measurement away"]


def test_the_command_line_says_which_tool_measured_where(
    device: Here, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = put(tmp_path / "elsewhere", "arm64_benchncnn", f"cat '{GOLDEN / 'benchncnn' / 'output.txt'}'")
    monkeypatch.setattr("edgeseg.runtimes.tools.here.fitting", lambda name, artifact: TOOLS[name])
    monkeypatch.setattr("edgeseg.runtimes.tools.there.fitting", lambda name, artifact: TOOLS[name])
    folder, out = null_artifact(tmp_path / "null", Null()), tmp_path / "found.json"
    words = [
        "bench",
        str(folder),
        "-d",
        "here://",
        "--tool",
        "benchncnn",
        "--tool-path",
        str(elsewhere),
        "-o",
        str(out),
    ]
    threads = ["--threads", "2"]
    assert main([*words, *threads]) == 0
    assert "41.87" in capfd.readouterr().out
    found = schema.read(ToolMeasurement, out)
    assert (found.result.tool, found.device.kind, found.valid) == ("benchncnn", "here", True)
    assert found.sensors.before.flags["battery_percent"] == 85
    assert main(words) == 6 and "ran on 2 threads, 1 were asked for" in capfd.readouterr().err
    (tmp_path / "phone" / "thermalservice.txt").write_text("Thermal Status: 3\n")
    assert main([*words, *threads]) == 6 and "thermal status 3" in capfd.readouterr().err
    local = [word for word in words if word not in ("-d", "here://")]
    assert main([*local, *threads]) == 6  # the same sensors are on this path
    assert main(["bench", str(folder), "--tool-path", str(elsewhere)]) == 1
    assert "give that too" in capfd.readouterr().err
    monkeypatch.setattr(Here, "provenance", "simulated")
    assert main(words) == 1 and "is emulated" in capfd.readouterr().err


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def knob(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A setting that is a file."""
    file = tmp_path / "knob"
    file.write_text("before\n")
    setting = Setting(read=f'cat "{file}"', write=f'echo "$1" >"{file}"', usual="fast")
    monkeypatch.setitem(SETTINGS._entries, "knob", setting)
    return file


def test_a_setting_is_put_back(device: Here, knob: Path) -> None:
    with prepared(device, {"knob": "fast"}):
        assert knob.read_text() == "fast\n"
        with (
            pytest.raises(EdgesegError, match="is prepared by another run just now"),
            prepared(device, {"knob": "slow"}),
        ):
            pytest.fail("it was begun")
        with pytest.raises(EdgesegError, match="is prepared for process"):
            put_back(device)
    assert knob.read_text() == "before\n" and put_back(device) == []
    with pytest.raises(RuntimeError), prepared(device, {"knob": "fast"}):
        raise RuntimeError
    assert knob.read_text() == "before\n"


def test_what_a_kill_has_left_is_put_back_next_time(
    device: Here, knob: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def killed() -> None:
        child = os.fork()
        if not child:
            with prepared(device, {"knob": "fast"}):
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        assert knob.read_text() == "fast\n"

    killed()
    record = measure(null(tmp_path), protocol=TINY, threads=1, device="here://")
    assert knob.read_text() == "before\n"
    assert record.sensors is not None and record.sensors.notes[0].startswith("knob was put back, which a run of 20")
    killed()
    assert main(["devices", "restore", "here://"]) == 0
    assert knob.read_text() == "before\n" and "knob was put back" in capfd.readouterr().out
    assert main(["devices", "restore", "here://"]) == 0
    assert "nothing was left changed on here://" in capfd.readouterr().out


def test_what_cannot_be_read_or_set_changes_nothing(device: Here, knob: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SETTINGS._entries, "absent", Setting(read="exit 1", write="exit 1", usual="on"))
    with (
        pytest.raises(EdgesegError, match="here has no absent that can be read"),
        prepared(device, {"knob": "x", "absent": "on"}),
    ):
        pytest.fail("it was begun")
    stubborn = Setting(read="echo stubborn", write="true", usual="on")
    monkeypatch.setitem(SETTINGS._entries, "stubborn", stubborn)
    line = "does not take stubborn: on was set and it is stubborn"
    with pytest.raises(EdgesegError, match=line), prepared(device, {"knob": "x", "stubborn": "on"}):
        pytest.fail("it was begun")
    assert knob.read_text() == "before\n" and put_back(device) == []


def test_what_cannot_be_put_back_stays_written_down(device: Here, knob: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose() -> None:
        monkeypatch.setattr(device, "before", ["false"])
        raise EdgesegError("the first trouble")

    line = r"the first trouble; .*knob on here not put back.*devices restore here"
    with pytest.raises(EdgesegError, match=line), prepared(device, {"knob": "fast"}):
        lose()
    monkeypatch.setattr(Token, "alive", property(lambda token: False))
    monkeypatch.setattr(device, "before", [])
    assert put_back(device) and knob.read_text() == "before\n"


def test_a_record_says_what_was_prepared_and_two_alike_compare(device: Here, tmp_path: Path) -> None:
    artifact = null(tmp_path)
    asked = prepare.parse("fixed-performance")
    a, b = (measure(artifact, protocol=TINY, threads=1, device="here://", prepare=asked) for _ in range(2))
    plain = measure(artifact, protocol=TINY, threads=1, device="here://")
    assert (a.device.prepared, a.valid, plain.device.prepared) == ({"fixed-performance": "true"}, False, {})
    assert "to compare, not to quote" in a.reasons[0]
    told = [line.split()[-1] for line in (tmp_path / "phone" / "cmd.log").read_text().splitlines()]
    assert told == ["true", "false"] * 2
    a, b = (replace(each, reasons=each.reasons[:1]) for each in (a, b))  # this machine may be busy
    assert compare_records(a, b).ratio is not None
    assert "prepared differs" in compare_records(a, plain).why[0]


def test_a_phone_that_does_not_take_the_mode_is_left_as_it_was(device: Here, tmp_path: Path) -> None:
    (tmp_path / "phone" / "refuses").touch()
    line = r"does not take fixed-performance; .*Failed to set"
    with pytest.raises(EdgesegError, match=line), prepared(device, {"fixed-performance": "true"}):
        pytest.fail("it was begun")
    assert put_back(device) == []


def test_governors_are_set_on_each_group_of_cores(
    device: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, made = SETTINGS["governor"], "/sys/devices/system/cpu/cpufreq"
    places = [tmp_path / "cpufreq" / f"policy{number}" / "scaling_governor" for number in (0, 4)]
    for place, governor in zip(places, ("schedutil", "powersave"), strict=True):
        place.parent.mkdir(parents=True)
        place.write_text(f"{governor}\n")
    there = {key: getattr(real, key).replace(made, str(tmp_path / "cpufreq")) for key in ("read", "write")}
    monkeypatch.setitem(SETTINGS._entries, "governor", replace(real, **there))
    put(tmp_path / "phone", "sudo", 'shift; exec "$@"')
    with prepared(device, prepare.parse("governor")):
        assert [place.read_text() for place in places] == ["performance\n"] * 2
    assert [place.read_text() for place in places] == ["schedutil\n", "powersave\n"]


def test_a_jetson_s_mode_and_clocks(device: Here, tmp_path: Path) -> None:
    put(tmp_path / "phone", "sudo", 'shift; exec "$@"')
    mode, clocks = tmp_path / "mode", tmp_path / "clocks"
    mode.write_text("2\n")
    clocks.write_text("/sys/one:100\n/sys/two:200\n")
    put(
        tmp_path / "phone",
        "nvpmodel",
        f'case $1 in -q) echo "NV Power Mode: MODE"; cat "{mode}";; -m) echo "$2" >"{mode}";; esac',
    )
    put(
        tmp_path / "phone",
        "jetson_clocks",
        f'case $1 in --store) cp "{clocks}" "$2";; --restore) cp "$2" "{clocks}";; *) echo highest >"{clocks}";; esac',
    )
    with prepared(device, prepare.parse("nvpmodel=0,jetson-clocks")):
        assert (mode.read_text(), clocks.read_text()) == ("0\n", "highest\n")
    assert (mode.read_text(), clocks.read_text().strip()) == ("2\n", "/sys/one:100\n/sys/two:200")


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_can_be_asked_for(name: str) -> None:
    usual = SETTINGS[name].usual
    assert prepare.parse(f"{name}=7") == {name: "7"}
    if usual is None:
        with pytest.raises(EdgesegError, match=f"{name} needs a value"):
            prepare.parse(name)
    else:
        assert prepare.parse(name) == {name: usual}
    with pytest.raises(EdgesegError, match="did you mean"):
        prepare.parse(f"{name[:-1]}=7")


def test_files_that_come_back_are_what_they_were(device: Here, tmp_path: Path) -> None:
    file = tmp_path / "it's a file"
    for data in (b"", b"\n\n", bytes(range(256))):
        file.write_bytes(data)
        assert shell.pull(device, str(file)) == data
    with pytest.raises(EdgesegError, match="cannot be read on here"):
        shell.pull(device, str(tmp_path / "nothing"))


def test_a_clock_that_is_set_ends_no_run(device: Here, knob: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """psutil tells when a process began by the system's clock, which a time server sets."""
    began, boot = psutil.Process.create_time, psutil.boot_time()
    with prepared(device, {"knob": "fast"}):
        monkeypatch.setattr(psutil, "boot_time", lambda: boot + 60)
        monkeypatch.setattr(psutil.Process, "create_time", lambda self: began(self) + 60)
        with pytest.raises(EdgesegError, match="is prepared for process"):
            put_back(device)
        assert knob.read_text() == "fast\n"
    assert knob.read_text() == "before\n"


def test_a_tool_s_device_is_changed_only_if_nobody_measures_there(device: Here, tmp_path: Path) -> None:
    with closing(here(tmp_path)) as other:
        with other.held(), pytest.raises(Died, match="is in use by"):
            see_free(device)
        see_free(device)
