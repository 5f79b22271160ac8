"""Devices over ssh, against a real sshd on this machine that needs no root."""

from __future__ import annotations

import getpass
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from benchmarks.loopback import CLIENT, SSHD, Server, served
from edgeseg import schema
from edgeseg.cli import main
from edgeseg.errors import EdgesegError, MissingTool
from edgeseg.runtimes import RUNTIMES, agent, statistics
from edgeseg.runtimes import record as records
from edgeseg.runtimes.devices import DEVICES, Entry, channel, make, open_device
from edgeseg.runtimes.devices.ssh import Ssh, ssh, target
from edgeseg.runtimes.launch import Died
from edgeseg.runtimes.measure import measure
from edgeseg.runtimes.telemetry import Here, take
from edgeseg.runtimes.telemetry.there import There, Told
from edgeseg.runtimes.tools.there import _guarded
from edgeseg.runtimes.worker import Marks, unpack
from tests.runtimes.busy import CHIP, busy
from tests.runtimes.here import again, gone, opened, until
from tests.runtimes.phone import put
from tests.runtimes.test_agent import LONG, MS, TINY, null
from tests.runtimes.test_sessions import artifact

pytestmark = pytest.mark.skipif(
    SSHD is None or shutil.which("ssh") is None, reason="needs sshd and ssh: apt-get install openssh-server"
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with ExitStack() as stack:
        try:
            made = stack.enter_context(served(tmp_path_factory.mktemp("sshd")))
        except MissingTool as error:
            pytest.skip(str(error))
        yield made


@pytest.fixture
def device(server: Server, tmp_path: Path) -> Iterator[Ssh]:
    with closing(ssh("board", server.entry(tmp_path))) as made:
        yield made


@pytest.fixture
def board(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a device in the devices file."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    entry = server.entry(tmp_path)
    words = ["devices", "add", "board", entry.url, "--python", entry.python]
    words += ["--folder", str(entry.folder), "--ssh-config", str(entry.ssh_config)]
    assert main(words) == 0
    return "board"


def test_a_bench_over_ssh_leaves_a_record(board: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "record.json"
    words = ["bench", str(null(tmp_path)), "-d", board, "--protocol", "smoke", "-o", str(out)]
    assert main(words) in (0, 6)  # 6: this machine is busy just now
    record = records.read(out)
    assert (record.device.kind, record.device.address) == ("ssh", "board")
    assert record.device.boot_id == open_device("local").probe().boot_id
    assert record.latency == statistics.latency(*record.samples.unpack())
    assert record.sensors is not None and record.sensors.before.flags == take(Here()).flags
    assert "p50" in capfd.readouterr().out


def test_artifacts_take_turns_over_ssh(
    board: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("edgeseg.runtimes.compare.PROCESSES", 1)
    monkeypatch.setattr("edgeseg.runtimes.compare.BURST_S", 0.02)
    artifact = str(null(tmp_path))
    capfd.readouterr()
    assert main(["compare", artifact, artifact, "-d", board, "--pairs", "3", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert (found["device"], found["provenance"]) == ("board", "simulated")
    assert found["ratio"] == pytest.approx(1, rel=0.2)


def test_devices_are_listed_and_asked(board: str, capfd: pytest.CaptureFixture[str]) -> None:
    capfd.readouterr()
    assert main(["devices", "list", "--json"]) == 0
    assert set(json.loads(capfd.readouterr().out)) == {"local", "board"}
    assert main(["devices", "probe", "--json"]) == 0
    said = json.loads(capfd.readouterr().out)
    assert said["board"]["cores"] >= 1 and said["board"]["runtimes"]["numpy"] == np.__version__
    assert said["board"]["boot_id"] == said["local"]["boot_id"]
    assert main(["devices", "probe", "board"]) == 0
    assert "processor" in capfd.readouterr().out


def test_profile_is_of_this_machine_only(board: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", str(null(tmp_path)), "-d", board]) == 1
    assert "profile runs on `local` only; run edgeseg on board itself" in capfd.readouterr().err
    assert main(["profile", str(null(tmp_path)), "-d", "bord"]) == 5
    assert "did you mean board?" in capfd.readouterr().err


def test_a_failure_is_stored_where_the_record_would_be(board: str, tmp_path: Path) -> None:
    out = tmp_path / "record.json"
    artifact = null(tmp_path, fault="segv", fault_at=800)
    assert main(["bench", str(artifact), "-d", board, "-o", str(out)]) == 6
    failure = schema.read(records.Failure, out)
    assert (failure.outcome, failure.device.kind) == ("crashed", "ssh")
    assert failure.samples is not None and failure.samples.count > 50


def test_a_name_or_a_kind_that_is_not_there_is_missing(
    board: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kinds = ", ".join(kind if kind == "local" else f"{kind}://..." for kind in DEVICES)
    for address, line in (("bord", "did you mean board?"), ("serial://7", f"there are {kinds}, board")):
        assert main(["bench", str(null(tmp_path)), "-d", address]) == 5
        assert line in capfd.readouterr().err


@pytest.mark.parametrize(
    ("change", "code", "line"),
    [
        (
            {"user": "nobody-of-that-name"},
            1,
            "ssh-copy-id -F .*client -p PORT nobody-of-that-name@127.0.0.1, and is the user right?",
        ),
        ({"host": "localhost"}, 1, "is not known here; compare its fingerprint once: ssh -F .*client -p PORT -- "),
        ({"host": "no-such-host.invalid"}, 5, "leads to no machine from here"),
        ({"port": "1"}, 5, "cannot be reached"),
        ({"python": "/nowhere/python3"}, 5, "no /nowhere/python3 on board; apt-get install python3"),
        ({"python": "false"}, 5, "ended the connection with exit code 1"),
    ],
)
def test_what_keeps_us_out_is_one_line(
    server: Server, tmp_path: Path, change: dict[str, str], code: int, line: str
) -> None:
    given = {
        "user": getpass.getuser(),
        "host": "127.0.0.1",
        "port": str(server.port),
        "python": sys.executable,
    } | change
    server.know((server.folder / "host.pub").read_text())
    # a wrong user on a host that is known
    entry = Entry(
        f"ssh://{given['user']}@{given['host']}:{given['port']}",
        given["python"],
        str(tmp_path),
        str(server.folder / "client"),
    )
    line = line.replace("?", r"\?").replace("PORT", given["port"])
    with closing(make("board", entry)) as device, pytest.raises(EdgesegError, match=line) as caught:
        device.probe()
    assert caught.value.exit_code == code and "\n" not in str(caught.value)


def test_a_host_that_is_not_the_one_that_was_known_is_refused(server: Server, device: Ssh) -> None:
    other = (server.folder / "user.pub").read_text()
    server.know(other)
    try:
        with pytest.raises(EdgesegError, match="is not the one that is known; find out why") as caught:
            device.probe()
        words = shlex.split(str(caught.value).partition("then ")[2])
        assert words == ["ssh-keygen", "-f", str(server.folder / "known"), "-R", f"[127.0.0.1]:{server.port}"]
        subprocess.run(words, check=True, capture_output=True)  # what it says does what it says
        with pytest.raises(EdgesegError, match="is not known here"):
            device.probe()
    finally:
        server.know((server.folder / "host.pub").read_text())


def test_a_key_is_forgotten_under_the_name_that_it_has() -> None:
    changed = "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @"
    said = f"{changed}\nOffending ED25519 key in /home/me/.ssh/known_hosts:3\nHost key for [10.0.0.7]:2222 has changed"
    for url, words, line in (
        ("ssh://pi@board:2222", changed, "ssh-keygen -R '[board]:2222'"),
        ("ssh://pi@board:22", changed, "ssh-keygen -R board"),
        ("ssh://board", changed, "ssh-keygen -R board"),
        ("ssh://board", said, "ssh-keygen -R '[10.0.0.7]:2222'"),  # as ~/.ssh/config has it
    ):
        with closing(ssh("board", Entry(url))) as device:
            assert str(device.explain(255, words)).endswith(line)


def test_the_user_s_configuration_cannot_skip_the_check(server: Server, tmp_path: Path) -> None:
    careless = tmp_path / "careless"
    careless.write_text("StrictHostKeyChecking no\n" + CLIENT.format(folder=server.folder).replace("known", "nothing"))
    entry = server.entry(tmp_path, ssh_config=str(careless))
    with closing(ssh("board", entry)) as device, pytest.raises(EdgesegError, match="is not known here"):
        device.probe()


def test_words_arrive_as_they_are_and_over_one_connection(device: Ssh) -> None:
    words = ["printf", "%s|", "two words", "$HOME", "it's", "a;b", "*"]
    begin = time.monotonic()
    assert run(device, words) == "two words|$HOME|it's|a;b|*|"
    first_s, begin = time.monotonic() - begin, time.monotonic()
    assert run(device, ["true"]) == ""
    assert time.monotonic() - begin < first_s  # no second handshake


def run(device: Ssh, words: Sequence[str]) -> str:
    # a file, not a pipe, for what is said: the shared connection keeps it open
    return subprocess.run(
        device.command(words), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True
    ).stdout


def test_sensors_are_read_there(device: Ssh, tmp_path: Path) -> None:
    (tmp_path / "it's $HOME").write_text("61234\n")
    there = There(device)
    assert there.files(f"{tmp_path}/it*") == Here().files(f"{tmp_path}/it*") == {f"{tmp_path}/it's $HOME": "61234"}
    assert there.run(["no-such-command-as-this"]) is None


@pytest.mark.parametrize("rail", ["VDD_IN", ""], ids=["ina", "tegrastats"])
def test_sensors_are_read_there_while_it_measures(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rail: str
) -> None:
    board = busy(tmp_path, monkeypatch, rail)
    power = f"p=$(cat '{board.root}/{CHIP}/curr1_input')"
    line = "RAM 3012/15389MB (lfb 20x4MB) VDD_IN ${p}mW/${p}mW"
    board.command("tegrastats", f"echo $$ >'{tmp_path}/pid'; while {power}; do echo \"{line}\"; sleep 0.04; done")
    board.command("python", f"PATH='{board.bin}':$PATH exec '{sys.executable}' \"$@\"")
    entry = server.entry(tmp_path, python=str(board.bin / "python"))
    monkeypatch.setitem(DEVICES._entries, "ssh", lambda address, _: ssh(address, entry))
    monkeypatch.setattr("edgeseg.runtimes.devices.remote.Told", partial(Told, root=str(board.root)))
    two_s = replace(LONG, min_s=2, max_s=2)
    found = measure(null(tmp_path), protocol=two_s, threads=1, device=entry.url, progress=board.work)
    assert found.energy_source == "power VDD_IN"
    assert found.energy_mj == pytest.approx(3000 / found.latency.sustained_fps, rel=0.25)
    assert found.sensors is not None and found.sensors.before.temperatures_c == {"cpu": 40, "soc": 48.7}
    assert 81 in [reading.temperatures_c.get("cpu") for reading in found.sensors.during]
    assert found.sensors.after.temperatures_c["cpu"] == 40 and found.sensors.after.flags == {"throttled": 0}
    assert "the firmware held the board back: throttled" in found.reasons
    assert rail or gone(int((tmp_path / "pid").read_text()))


def test_a_lost_board_keeps_its_samples_and_comes_back(
    server: Server, device: Ssh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = opened(device, null(tmp_path))
    (child,) = psutil.Process(device.channel.hello["pid"]).children()
    device.channel.send("measure", child=0, warmup_count=1, warmup_s=0, max_s=60)
    time.sleep(0.6)
    server.stop()
    with pytest.raises(Died, match="went away") as caught:
        bench.ask("measure", protocol=schema.dump(LONG))
    assert caught.value.outcome == "lost"
    assert gone(child.pid)
    with pytest.raises(MissingTool, match="cannot be reached"):
        again(device)
    server.start()
    again(device)
    assert device.probe().cores >= 1
    bench.close()


def test_a_frozen_connection_is_lost(
    server: Server, device: Ssh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "SILENCE_S", 1.5)  # of this end
    monkeypatch.setattr(channel, "PING_S", 0.3)
    bench = opened(device, null(tmp_path))
    agents = device.channel.hello["pid"]
    sessions = [
        process
        for process in psutil.Process(agents).parents()
        if process.name().startswith("sshd") and process.pid != server.pid
    ]
    os.kill(sessions[0].pid, signal.SIGSTOP)
    try:
        with pytest.raises(Died, match="it is lost") as caught:
            bench.ask("measure", protocol=schema.dump(LONG))
        assert caught.value.samples is not None or caught.value.outcome == "lost"
    finally:
        os.kill(sessions[0].pid, signal.SIGCONT)
    device.close()
    assert gone(agents)


def test_a_tool_over_ssh_ends_with_its_connection(server: Server, device: Ssh, tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    assert _guarded(device, {}, ["printf", "%s|", "two words", "it's"]).text == "two words|it's|"

    def cut_it() -> None:
        if until(lambda: mark.exists() and mark.read_text().strip() != ""):
            server.stop()

    cut = threading.Thread(target=cut_it)
    cut.start()
    with pytest.raises(Died, match="board went away in the middle of") as caught:
        _guarded(device, {}, ["sh", "-c", f"echo $$ >{mark}; exec sleep 60"])
    cut.join()
    assert caught.value.outcome == "lost" and gone(int(mark.read_text()))
    server.start()
    device.close()
    assert _guarded(device, {}, ["true"]).code == 0


def test_eight_boards_measure_at_once(server: Server, tmp_path: Path) -> None:
    """Each its own file, which takes its own time: none is given what is another's."""
    times_ms = range(4, 20, 2)

    def measured(ms: int) -> Marks:
        folder = tmp_path / str(ms)
        with closing(ssh(f"board{ms}", server.entry(folder))) as device, closing(device.spawn()) as bench:
            bench.ask("open", path=str(null(folder, (1, ms * MS))), threads=1, size=None, image=None, e2e=False)
            pids.add(device.channel.hello["pid"])
            start.wait(60)  # for the slowest to be there
            return unpack(bench.ask("measure", protocol=schema.dump(TINY))["steady"])

    pids, start = set[int](), threading.Barrier(len(times_ms))
    with ThreadPoolExecutor(len(times_ms)) as pool:
        found = dict(zip(times_ms, pool.map(measured, times_ms), strict=True))
    assert len(pids) == len(times_ms)
    for ms, marks in found.items():
        least = (marks[:, 1] - marks[:, 0]).min() / MS
        assert len(marks) >= TINY.min_count and ms <= least < ms + 2
    begins, ends = zip(*((marks[0, 0], marks[-1, 1]) for marks in found.values()), strict=True)
    assert max(begins) < min(ends)  # of one clock: they did overlap


@pytest.mark.parametrize("runtime", ["onnxruntime", pytest.param("litert", marks=[pytest.mark.slow, pytest.mark.wide])])
def test_a_real_artifact_over_ssh(board: str, tmp_path: Path, request: pytest.FixtureRequest, runtime: str) -> None:
    if runtime == "litert":
        pytest.importorskip("litert_torch", reason="needs litert_torch, to make the artifact")
        subject = request.getfixturevalue("tiny_artifacts")[runtime]
    else:
        subject = artifact(tmp_path / "net", runtime)
    record = measure(subject, protocol=TINY, threads=1, device=board)
    assert (record.execution.runtime, record.provenance, record.device.kind) == (runtime, "measured", "ssh")
    assert record.execution.version == RUNTIMES[runtime].version() and record.execution.precision == "fp32"
    assert not any(reason.startswith("wrong masks") for reason in record.reasons)  # it drew there what it draws here


def signalled(number: int) -> Callable[[int], None]:
    return lambda pid: os.kill(pid, number)


FAULTS: dict[str, tuple[dict[str, Any], Callable[[int], None] | None, str]] = {
    "segfault": ({"fault": "segv", "fault_at": 300}, None, "crashed"),
    "kill": ({}, signalled(signal.SIGKILL), "killed"),
    "freeze": ({}, signalled(signal.SIGSTOP), "hang"),
    "hang": ({"fault": "hang", "fault_at": 300}, None, "hang"),
    "out of memory": ({"fault": "raise", "fault_at": 300}, None, "out_of_memory"),
}
"""What the null runtime does by itself, what is done to the process that measures, and what that is called."""


@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_happens_samples_are_kept_and_the_next_run_is_clean(
    server: Server, tmp_path: Path, request: pytest.FixtureRequest, change: Any, fault: str
) -> None:
    options, done_to_it, outcome = FAULTS[fault]
    entry = server.entry(tmp_path)
    if fault == "out of memory":  # a real one: the kernel picks it
        group = request.getfixturevalue("little_memory")
        change('raise RuntimeError("the null runtime was told to raise")', 'self._all = b"x" * (1 << 30)')
        script = f'echo $$ >{group}/cgroup.procs; exec {shlex.quote(sys.executable)} "$@"'
        entry = replace(entry, python=str(put(tmp_path, "python", script)))
    with closing(Ssh("board", entry, target(entry.url), patience_s=4 if outcome == "hang" else 30)) as device:
        bench = opened(device, null(tmp_path / "bad", **options))
        (child,) = psutil.Process(device.channel.hello["pid"]).children()
        did: list[None] = []

        def tick(seconds: float) -> None:
            if done_to_it and seconds > 0.7 and not did:
                did.append(done_to_it(child.pid))

        with pytest.raises(Died) as caught:
            bench.ask("measure", protocol=schema.dump(LONG), tick=tick)
        assert caught.value.outcome == outcome
        assert caught.value.samples is not None and 50 < caught.value.samples.count < 1000
        bench.close()
        assert gone(child.pid)
        with closing(opened(device, null(tmp_path / "good"))) as bench:
            assert bench.ask("measure", protocol=schema.dump(TINY))["unchanged"] == 1
        assert not list((tmp_path / "device" / "open").iterdir())


def test_a_killed_host_leaves_nothing_behind(server: Server, device: Ssh, board: str, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "edgeseg", "bench", str(null(tmp_path)), "-d", board, "--protocol", "mlperf-mobile"]
    lock = tmp_path / "device" / "lock"
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as host:
        assert until(lambda: lock.exists() and lock.read_text(), 30)
        keeper = psutil.Process(json.loads(lock.read_text())["pid"])
        assert until(lambda: keeper.children() and list((tmp_path / "device" / "open").glob("*/*.npy")))
        there = [keeper.pid, *(child.pid for child in keeper.children())]
        host.kill()
    assert all(gone(pid) for pid in there)
    with closing(opened(device, null(tmp_path))) as bench:
        assert bench.ask("measure", protocol=schema.dump(TINY))["unchanged"] == 1


@pytest.fixture
def networks() -> Iterator[tuple[list[str], list[str]]]:
    """Two networks with a cable between them: words in front of a command that put it into one, where the board is 10.7.7.2, or the other."""
    if os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("nsenter") is None:
        pytest.skip("needs the right to make networks (root), unshare and nsenter")
    with ExitStack() as stack:
        holders = [
            stack.enter_context(subprocess.Popen(["unshare", "-n", "sleep", "120"], stderr=subprocess.DEVNULL))
            for _ in range(2)
        ]
        for each in holders:
            stack.callback(each.kill)
        host, other = (["nsenter", "-t", str(each.pid), "-n"] for each in holders)
        own = Path("/proc/self/ns/net").readlink()
        if not until(lambda: all(Path(f"/proc/{each.pid}/ns/net").readlink() != own for each in holders)):
            pytest.skip("networks cannot be made here")
        for words in (
            [
                *host,
                *["ip", "link", "add", "cable", "type", "veth", "peer", "name", "end", "netns"],
                str(holders[1].pid),
            ],
            [*host, *["ip", "addr", "add", "10.7.7.1/24", "dev", "cable"]],
            [*host, *["ip", "link", "set", "cable", "up"]],
            [*other, *["ip", "addr", "add", "10.7.7.2/24", "dev", "end"]],
            [*other, *["ip", "link", "set", "end", "up"]],
        ):
            if subprocess.run(words, capture_output=True, check=False).returncode:
                pytest.skip(f"no cable can be made between networks here: {' '.join(words[4:])}")
        yield host, other


def test_a_cut_cable_is_lost_and_mended(
    networks: tuple[list[str], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any
) -> None:
    host, other = networks
    change("SILENCE_S = 10", "SILENCE_S = 2")
    monkeypatch.setattr(agent, "SILENCE_S", 2.0)  # of this end
    monkeypatch.setattr(channel, "PING_S", 0.3)
    plain = Ssh.command
    monkeypatch.setattr(Ssh, "command", lambda self, words: [*host, *plain(self, words)])
    (tmp_path / "sshd").mkdir()
    with served(tmp_path / "sshd", "10.7.7.2", other) as server:
        with closing(ssh("board", server.entry(tmp_path))) as device:
            bench = opened(device, null(tmp_path))
            keeper = psutil.Process(device.channel.hello["pid"])
            there = [keeper.pid, *(child.pid for child in keeper.children())]
            cut: list[Any] = []

            def tick(seconds: float) -> None:
                if seconds > 0.7 and not cut:
                    cut.append(subprocess.run([*host, "ip", "link", "set", "cable", "down"], check=True))

            with pytest.raises(Died) as caught:
                bench.ask("measure", protocol=schema.dump(LONG), tick=tick)
            assert caught.value.outcome == "lost"
            assert caught.value.samples is not None and caught.value.samples.count > 50
            assert all(gone(pid) for pid in there)  # though nobody could tell it
        subprocess.run([*host, "ip", "link", "set", "cable", "up"], check=True)
        with closing(ssh("board", server.entry(tmp_path))) as device, closing(opened(device, null(tmp_path))) as bench:
            assert bench.ask("measure", protocol=schema.dump(TINY))["unchanged"] == 1
