"""Boards of a lab: a place is acquired before anything runs there, and released after; against labgrid's own coordinator."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.loopback import SSHD, Server
from edgeseg import schema
from edgeseg.cli import main
from edgeseg.errors import EdgesegError, MissingTool
from edgeseg.runtimes import record as records
from edgeseg.runtimes.devices import Entry, labgrid, make
from edgeseg.runtimes.devices.labgrid import where
from edgeseg.runtimes.devices.tokens import Token, token_path
from edgeseg.runtimes.launch import Died
from tests.runtimes.here import until
from tests.runtimes.test_agent import null
from tests.runtimes.test_ssh import server  # noqa: F401 (a fixture)

SHOWN = """Place 'pi5':
  tags: board=pi5
  matches:
    exp/board-1/*
  acquired: vm/root
  acquired resources:
    exp/board-1/NetworkService/NetworkService
  created: 2026-11-30 06:44:57.238027
  changed: 2026-11-30 06:44:58.586183
Acquired resource 'NetworkPowerPort' (exp/board-1/NetworkPowerPort/NetworkPowerPort):
  {'acquired': 'pi5', 'avail': True, 'cls': 'NetworkPowerPort', 'params': {}}
Acquired resource 'NetworkService' (exp/board-1/NetworkService/NetworkService):
  {'acquired': 'pi5',
   'avail': True,
   'cls': 'NetworkService',
   'params': {'address': '10.0.0.7',
              'extra': {'proxy': 'lab-host', 'proxy_required': False},
              'port': 2222,
              'username': 'pi'}}
"""
"""What labgrid-client 26.0.1 printed for such a place; the power port, address and names were put in by hand."""


def test_a_place_says_where_its_board_is() -> None:
    assert where(SHOWN, "labgrid://pi5") == ["-p", "2222", "--", "pi@10.0.0.7"]
    behind = SHOWN.replace("'proxy_required': False", "'proxy_required': True")
    assert where(behind, "labgrid://pi5") == ["-J", "lab-host", "-p", "2222", "--", "pi@10.0.0.7"]
    assert where(SHOWN.replace("10.0.0.7", "fe80::7"), "labgrid://pi5")[-1] == "pi@fe80::7"


@pytest.mark.parametrize(
    ("words", "others", "kind", "line"),
    [
        ("'NetworkService',\n", "'Other',\n", EdgesegError, "must have one NetworkService"),
        ("NetworkPowerPort'", "NetworkService'", EdgesegError, "has NetworkService, NetworkService"),
        ("'avail': True,\n", "'avail': False,\n", MissingTool, "the exporter of labgrid://pi5 is not there"),
        ("'pi'", "'-oProxyCommand=x'", EdgesegError, "has what no user"),
        ("Acquired resource", "Matching resource", EdgesegError, "it has no resource"),
    ],
)
def test_a_place_without_a_board_is_one_line(words: str, others: str, kind: type[EdgesegError], line: str) -> None:
    assert words in SHOWN
    with pytest.raises(kind, match=line):
        where(SHOWN.replace(words, others), "labgrid://pi5")


@pytest.mark.parametrize(
    "url", ["labgrid://", "labgrid://a b", "labgrid://-x", "labgrid://host/place", "labgrid://h:1/*"]
)
def test_an_address_that_is_none_is_one_line(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labgrid, "client", lambda: "labgrid-client")
    with pytest.raises(EdgesegError, match="write labgrid://PLACE"):
        make("lab", Entry(url))


def test_without_labgrid_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python3"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingTool, match=r"pip install 'edgeseg\[labgrid\]'"):
        make("lab", Entry("labgrid://pi5"))


# -- a real coordinator ------------------------------------------------------------------------------------------------

BIN = str(Path(sys.executable).parent)
COORDINATOR = shutil.which("labgrid-coordinator", path=os.pathsep.join([BIN, os.environ["PATH"]]))
real = pytest.mark.skipif(
    COORDINATOR is None or SSHD is None or shutil.which("ssh") is None,
    reason="needs labgrid (the extra of that name), sshd and ssh",
)


@dataclass
class Lab:
    """A coordinator, and its place `board`, which is the sshd of the tests."""

    address: str

    def say(self, *words: str, user: str = "") -> subprocess.CompletedProcess[str]:
        environment = os.environ | ({"LG_USERNAME": user} if user else {})
        command = [labgrid.client(), "-x", self.address, *words]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=60)

    @property
    def owner(self) -> str:
        shown = self.say("-p", "board", "show").stdout
        return next(line.split(": ")[1] for line in shown.splitlines() if line.startswith("  acquired:"))


@pytest.fixture(scope="module")
def lab(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:  # noqa: F811
    assert COORDINATOR is not None
    folder = tmp_path_factory.mktemp("lab")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        made = Lab(f"127.0.0.1:{free.getsockname()[1]}")
    resource = {"address": "127.0.0.1", "username": getpass.getuser(), "port": server.port}
    (folder / "resources.yaml").write_text(f"desk: {{NetworkService: {resource}}}\n")
    exporter = str(Path(COORDINATOR).with_name("labgrid-exporter"))
    quiet: dict[str, Any] = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    processes = [subprocess.Popen([COORDINATOR, "-l", made.address], **quiet)]
    try:
        assert until(lambda: made.say("places").returncode == 0)
        processes.append(subprocess.Popen([exporter, "-c", made.address, "-n", "exp", "resources.yaml"], **quiet))
        assert until(lambda: "desk" in made.say("resources").stdout)
        for words in (("create",), ("add-match", "exp/desk/*")):
            assert made.say("-p", "board", *words).returncode == 0
        yield made
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.fixture
def entry(lab: Lab, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Entry:  # noqa: F811
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    known = server.entry(tmp_path)
    return Entry(f"labgrid://{lab.address}/board", known.python, known.folder, known.ssh_config)


@real
def test_a_bench_has_the_place_for_itself(lab: Lab, entry: Entry, tmp_path: Path) -> None:
    out = tmp_path / "record.json"
    words = ["devices", "add", "board", entry.url, "--no-probe", "--python", entry.python]
    assert main([*words, "--folder", str(entry.folder), "--ssh-config", str(entry.ssh_config)]) == 0
    bench = ["bench", str(null(tmp_path)), "-d", "board", "--protocol", "smoke", "-o", str(out)]
    assert main(bench) in (0, 6)  # 6: this machine is busy just now
    record = records.read(out)
    assert (record.device.kind, record.device.address) == ("labgrid", "board")
    assert lab.owner == "None"
    assert not token_path("acquired", entry.url).exists()


@real
def test_of_two_users_one_waits(lab: Lab, entry: Entry, tmp_path: Path) -> None:
    with closing(make("board", entry)) as device:
        assert lab.owner == "None"  # nothing is asked yet
        device.probe()
        assert lab.owner.endswith(f"/{getpass.getuser()}")
        assert lab.say("-p", "board", "acquire", user="bob").returncode == 1
        with closing(make("board", entry)) as second, pytest.raises(Died, match="in use by process") as caught:
            second.probe()
        assert caught.value.outcome == "busy"
        assert lab.owner.endswith(f"/{getpass.getuser()}")
    assert lab.say("-p", "board", "acquire", user="bob").returncode == 0
    try:
        with closing(make("board", entry)) as device, pytest.raises(Died, match=r"is not free: .*/bob") as caught:
            device.probe()
        assert caught.value.outcome == "busy"
        assert lab.owner.endswith("/bob")
    finally:
        lab.say("-p", "board", "release", user="bob")


@real
def test_what_a_user_has_acquired_stays_so_and_what_a_killed_run_has_left_does_not(lab: Lab, entry: Entry) -> None:
    assert lab.say("-p", "board", "acquire").returncode == 0
    with closing(make("board", entry)) as device:
        device.probe()
    assert lab.owner != "None"
    path = token_path("acquired", entry.url)
    schema.write(path, Token(entry.url, "2026-01-01T00:00:00Z", 1, -99.0, {}))  # process 1 began at another time
    with closing(make("board", entry)) as device:
        device.probe()
    assert lab.owner == "None"
    assert not path.exists()


@real
@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("labgrid://LAB/nowhere", "no place nowhere"),
        ("labgrid://127.0.0.1:1/board", "no labgrid-coordinator answers at"),
    ],
)
def test_what_is_not_there_is_one_line(lab: Lab, entry: Entry, url: str, line: str, tmp_path: Path) -> None:
    lost = Entry(url.replace("LAB", lab.address), entry.python)
    with closing(make("board", lost)) as device, pytest.raises(MissingTool, match=line) as caught:
        device.probe()
    assert "\n" not in str(caught.value)
    assert not token_path("acquired", lost.url).exists()
