"""A board that is not there: how its system is made, what it says it is, and that its figures are never taken for measured."""

from __future__ import annotations

import json
import shutil
import sys
import zipfile
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import emulated_board
from edgeseg.cli import main
from edgeseg.cli.measure import record_table
from edgeseg.errors import EdgesegError, MissingTool, ParityFailed
from edgeseg.runtimes import agent
from edgeseg.runtimes.devices import open_device, sysroot
from edgeseg.runtimes.devices.agreement import SAME, agree
from edgeseg.runtimes.devices.emulated import Emulated
from edgeseg.runtimes.devices.remote import RemoteBench
from edgeseg.runtimes.devices.sysroot import BOARDS, Sysroot
from edgeseg.runtimes.measure import measure
from tests.runtimes.here import Here
from tests.runtimes.test_agent import TINY
from tests.runtimes.test_sessions import artifact


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sysroot:
    """A Raspberry Pi 5 that is still to be made."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = sysroot.sysroot("pi5")
    assert made.top == tmp_path / "edgeseg" / "emulated"
    return made


Ran = list[list[str]]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Ran:
    """The command lines of an assembly, which do what apt, dpkg and pip would."""
    done: Ran = []

    def run(argv: Sequence[str], noun: str) -> None:
        done.append(list(argv))
        if "--download-only" in argv:
            cache = Path(next(word for word in argv if word.startswith("-oDir::Cache=")).partition("=")[2])
            for name in ("libc6_2_arm64.deb", "python3.11_3_arm64.deb"):
                (cache / "archives" / name).write_bytes(name.encode())
        elif noun == "dpkg-deb":
            place = Path(argv[3]) / "usr/bin"
            place.mkdir(parents=True, exist_ok=True)
            (place / "python3.11").touch()
        elif noun == "pip":
            with zipfile.ZipFile(Path(argv[argv.index("--dest") + 1]) / "net-1-py3-none-any.whl", "w") as wheel:
                wheel.writestr("net/__init__.py", "")

    monkeypatch.setattr(sysroot, "_run", run)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    return done


def programs(ran: Ran) -> list[str]:
    return ["pip" if "pip" in argv else argv[-1] if "update" in argv else argv[0] for argv in ran]


def test_a_system_is_made_once_and_goes_on_where_it_was(system: Sysroot, ran: Ran) -> None:
    said: list[str] = []
    made = sysroot.assemble(system, said.append)
    assert programs(ran) == ["update", "apt-get", "dpkg-deb", "dpkg-deb", "pip"]
    assert (made.python, set(made.wheels)) == ("3.11", {"net-1-py3-none-any.whl"})
    assert len(made.debs) == 2 and all(len(sha) == 64 for sha in made.debs.values())
    assert (system.site / "net/__init__.py").exists() and system.python().name == "python3.11"
    assert len(said) == 5
    ran.clear()
    assert sysroot.assemble(system, said.append) == made and ran == []
    system.clear()
    assert sysroot.assemble(system, said.append) == made
    assert programs(ran) == ["dpkg-deb", "dpkg-deb"]  # nothing is fetched again
    ran.clear()
    (system.top / "apt/cache/archives/libc6_2_arm64.deb").write_bytes(b"damaged")
    (system.top / "wheels/net-1-py3-none-any.whl").unlink()
    assert sysroot.assemble(system, said.append).debs == made.debs
    assert programs(ran) == ["update", "apt-get", "pip"]
    ran.clear()
    sysroot.assemble(sysroot.sysroot("pi4"), said.append)
    assert programs(ran) == ["dpkg-deb", "dpkg-deb"]  # boards share what was fetched


def test_a_step_that_was_cut_off_is_done_again(system: Sysroot, ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = sysroot._run

    def cut(argv: Sequence[str], noun: str) -> None:
        whole(argv, noun)
        if len(ran) == 4:  # the second package is half unpacked
            raise EdgesegError("cut off")

    monkeypatch.setattr(sysroot, "_run", cut)
    with pytest.raises(EdgesegError, match="cut off"):
        sysroot.assemble(system, print)
    assert not system.root.exists() and not system.made.exists()
    sysroot.assemble(system, print)
    assert programs(ran)[4:] == ["dpkg-deb", "dpkg-deb", "pip"]


def test_apt_and_pip_are_asked_for_another_machine_and_install_nothing(tmp_path: Path) -> None:
    words = sysroot.apt_words(tmp_path, None, "install", "--download-only", "python3")
    assert words[0] == "apt-get" and words[-3:] == ["install", "--download-only", "python3"]
    assert {"-oAPT::Architecture=arm64", f"-oDir::State::status={tmp_path}/status"} <= set(words)
    assert f"-oDir::Etc::sourcelist={tmp_path}/list" in sysroot.apt_words(tmp_path, tmp_path / "list", "update")
    words = sysroot.pip_words(tmp_path, "3.11")
    assert words[:4] == [sys.executable, "-m", "pip", "download"] and "--only-binary=:all:" in words
    assert "cp311" in words and "manylinux2014_aarch64" in words
    assert [word.partition("==")[0] for word in words[-3:]] == ["numpy", "onnxruntime", "ai-edge-litert"]
    assert set(sysroot.RUNTIMES) <= set(agent.RUNTIMES)


def test_versions_are_those_of_this_machine() -> None:
    import numpy as np

    assert sysroot.requirements()[0] == f"numpy=={np.__version__}"


@pytest.mark.parametrize("lost", ["qemu-aarch64-static", "apt-get", "dpkg-deb"])
def test_a_program_that_is_not_there_is_named(
    system: Sysroot, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], lost: str
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None if name == lost else name)
    assert main(["devices", "emulate", "pi5"]) == 5
    assert f"{lost} is not installed" in capfd.readouterr().err


def test_what_a_program_says_is_one_line() -> None:
    script = (
        "import sys; print('W: of no matter\\nE: Unable to locate package\\nE: none', file=sys.stderr); sys.exit(100)"
    )
    with pytest.raises(EdgesegError, match=r"^apt-get ended with exit code 100: E: Unable to locate package; E: none$"):
        sysroot._run([sys.executable, "-c", script], "apt-get")


@pytest.mark.parametrize("name", BOARDS)
def test_a_board_says_what_it_is(tmp_path: Path, name: str) -> None:
    board = BOARDS[name]
    for path, text in sysroot.fakes(board).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert agent.board(tmp_path / "sys") == board.model
    processor = agent.cpu_name(tmp_path / "proc/cpuinfo", tmp_path / "sys")
    assert processor is not None and processor.lower() == board.qemu
    state = agent.state(tmp_path / "sys")
    assert (state["governor"], state["temperature_c"], state["cpu_mhz"]) == (
        "emulated",
        None,
        None,
    )  # nothing is made up
    assert (tmp_path / "sys/devices/system/cpu/possible").read_text() == "0-3\n"


def test_what_is_not_there_is_missing(
    system: Sysroot, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name)
    for address, code, line in (
        ("emulated://pi5", 5, "there is no emulated://pi5 yet; edgeseg devices emulate pi5"),
        ("emulated://pi6", 1, "no emulated board named 'pi6'; did you mean pi"),
    ):
        assert main(["devices", "probe", address]) == code
        assert line in capfd.readouterr().err
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(MissingTool, match="qemu-aarch64-static is not installed"):
        open_device("emulated://pi5")


def test_a_program_of_the_board_runs_under_qemu(system: Sysroot, ran: Ran) -> None:
    sysroot.assemble(system, print)
    with closing(open_device("emulated://pi5")) as device:
        assert isinstance(device, Emulated) and device.provenance == "simulated"
        words = device.command([device.entry.python, "-c", "pass"])
        assert words[:5] == ["qemu-aarch64-static", "-cpu", "cortex-a76", "-L", str(system.root)]
        assert words[-3:] == [f"{system.root}/usr/bin/python3.11", "-c", "pass"]
        assert f"PYTHONPATH={system.site}" in words
        with pytest.raises(EdgesegError, match="no cold starts"):
            device.spawn(cold=True)
        again = device.explain(1, "bad\nimport failed")
        assert "import failed" in str(again) and again.exit_code == 5


@pytest.fixture
def simulated(named: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A device whose times are nobody's."""
    monkeypatch.setattr(Here, "provenance", "simulated")
    return named


def test_times_of_an_emulated_board_are_simulated(simulated: str, tmp_path: Path) -> None:
    subject = artifact(tmp_path / "net", "onnxruntime")
    found = measure(subject, protocol=TINY, threads=1, device=simulated)
    assert found.provenance == "simulated"
    assert next(iter(record_table(found).columns[0].cells)) == "simulated"
    assert next(iter(record_table(replace(found, provenance="measured")).columns[0].cells)) == "executed by"


def test_a_device_that_draws_the_same_passes_and_another_does_not(
    named: str, tmp_path: Path, change: Callable[[str, str], None], capfd: pytest.CaptureFixture[str]
) -> None:
    folder = artifact(tmp_path / "net", "onnxruntime", baked=True).folder
    assert main(["verify", str(folder), "-d", named, "--count", "3", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert (found["shares"], found["limit"], found["passed"]) == ([1.0] * 3, SAME["fp32"], True)
    change("label_map = output[0]\n", "label_map = output[0] * (np_zero := 0)\n")
    assert main(["verify", str(folder), "-d", named, "--count", "3"]) == 2
    assert "draws other masks" in capfd.readouterr().err
    for words, line in ((["local"], "is this machine"), ([named, "--bisect"], "leave --against and --bisect out")):
        assert main(["verify", str(folder), "-d", *words]) == 1
        assert line in capfd.readouterr().err


def test_the_table_of_an_emulated_board(
    tmp_path: Path, named: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The board stood in for by a device of this machine, and one that draws others in the end."""
    monkeypatch.setattr(emulated_board, "board_over_ssh", lambda folder: nullcontext(named))
    folder, out = artifact(tmp_path / "net", "onnxruntime", baked=True).folder, tmp_path / "table.md"
    words = [str(folder), "--count", "3", "--out", str(out)]
    assert emulated_board.main(words) == 0
    row = next(line for line in out.read_text().splitlines() if line.startswith("| conv |"))
    assert "| fp32 | 2,880 | 0 | 100.0000% | 99.99% | met |" in row and ", images: 3." in out.read_text()
    draw = RemoteBench.draw
    monkeypatch.setattr(RemoteBench, "draw", lambda self, given: draw(self, given) + 1)
    assert emulated_board.main(words) == ParityFailed.exit_code
    assert "| 2,880 | 0.0000% | 99.99% | missed |" in out.read_text()
    assert "draws other masks" in capfd.readouterr().err
    assert emulated_board.main([str(tmp_path)]) == 1


@pytest.mark.slow
@pytest.mark.wide
def test_an_emulated_board_behind_ssh_draws_the_same(
    pi5: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = artifact(tmp_path / "net", "onnxruntime", baked=True).folder
    assert emulated_board.main([str(folder)]) == 0
    assert "100.0000%" in capfd.readouterr().out


@pytest.fixture(scope="session")
def pi5(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Raspberry Pi 5, from the user's cache or made now."""
    system = sysroot.sysroot("pi5")
    try:
        sysroot.assemble(system, print)
    except EdgesegError as error:
        pytest.skip(f"an emulated board cannot be made here: {error}")
    return "emulated://pi5"


@pytest.mark.slow
@pytest.mark.wide
@pytest.mark.parametrize("target", sysroot.RUNTIMES)
def test_an_emulated_board_draws_what_this_machine_draws(
    pi5: str, tmp_path: Path, tiny_artifacts: dict[str, Any], target: str
) -> None:
    pytest.importorskip({"litert": "ai_edge_litert"}.get(target, target), reason=f"needs {target} here as well")
    made = tiny_artifacts[target]
    from edgeseg.data import load_data
    from edgeseg.parity import choose

    where, pictures = choose(load_data("synthetic"), None, 4, made.size)
    found = agree(made, pi5, where, [one.image for one in pictures])
    assert found.passed, found
    assert (found.model, found.cpu) == (BOARDS["pi5"].model, "Cortex-A76")
    slow = replace(TINY, min_s=0, max_s=300)  # a frame takes a second and more
    record = measure(made, protocol=slow, threads=1, device=pi5)
    assert record.provenance == "simulated" and not any(reason.startswith("wrong masks") for reason in record.reasons)
