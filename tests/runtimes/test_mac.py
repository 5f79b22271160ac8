"""A Mac that is reached over ssh, as far as one can be had of this machine: its agent, with our interpreter in place of Core ML."""

from __future__ import annotations

import ctypes
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

import edgeseg as es
from edgeseg import schema
from edgeseg.artifact import Artifact
from edgeseg.cli import main
from edgeseg.export import CoreMl
from edgeseg.runtimes import agent
from edgeseg.runtimes.devices.base import Facts
from edgeseg.runtimes.measure import measure
from edgeseg.runtimes.record import Protocol
from tests.runtimes.here import Here, opened

SIZE = (32, 32)
FEW = Protocol("few", min_s=0.1, min_count=12, max_s=60, warmup_count=1, warmup_s=0)  # an interpreter takes its time
SYSTEM = '"system": f"{platform.system()} {platform.release()} {platform.machine()}"'
ANSWERS = {
    ("sysctl", "-n", "kern.bootsessionuuid"): "8A5D3C2E-0000-4000-8000-000000000001",
    ("sysctl", "-n", "hw.model"): "Mac14,2",
    ("sysctl", "-n", "machdep.cpu.brand_string"): "Apple M2",
    ("sysctl", "-n", "hw.memsize"): str(8 << 30),
}


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    pytest.importorskip("coremltools", reason="needs the extra coreml")
    torch.manual_seed(0)
    student = es.create("lraspp_mobilenet_v3_small", classes=4)
    target = CoreMl(precision="fp16", compute_units="cpu_and_ne")
    return es.export_model(student, target, tmp_path_factory.mktemp("mac") / "out", SIZE, ("pre", "labels"))


@pytest.fixture
def mac(change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices of this machine are Macs."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    change(SYSTEM, '"system": "Darwin 24.1.0 arm64"')
    change(
        "self._tools.models.MLModel(self._package, compute_units=self._units)",
        'importlib.import_module("tests.runtimes.mac").Model(self._package, self._units)',
    )


@pytest.mark.slow
def test_core_ml_is_measured_on_a_mac_that_is_reached_from_elsewhere(mac: None, artifact: Artifact, named: str) -> None:
    record = measure(artifact, protocol=FEW, threads=1, device=named)
    assert record.provenance == "measured"  # here the interpreter would be what is measured
    assert record.execution.runtime == "coreml" and record.execution.precision == "fp16"
    assert record.execution.settings["compute_units"] == "cpu_and_ne"
    assert record.execution.settings["ops"] == "graph"
    assert record.execution.placed is None  # no plan without a Mac
    assert not any("wrong masks" in reason for reason in record.reasons)


@pytest.mark.slow
def test_what_a_mac_draws_wrong_is_seen(mac: None, change: Any, artifact: Artifact, named: str) -> None:
    change("np.int32 if whole else np.float32).reshape(shape)", "np.int32).reshape(shape)[:, ::-1, ::-1]")
    record = measure(artifact, protocol=FEW, threads=1, device=named)
    assert not record.valid
    assert any("wrong masks" in reason for reason in record.reasons)


@pytest.mark.slow
def test_a_mac_is_verified_against_the_interpreter(
    mac: None, artifact: Artifact, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(artifact.folder), "-d", named]) == 0
    assert "coreml" in capsys.readouterr().out


def test_a_process_of_macos_is_not_only_forked(mac: None, artifact: Artifact, device: Here) -> None:
    with closing(opened(device, artifact.folder)):
        (child,) = psutil.Process(device.channel.hello["pid"]).children()
        assert child.cmdline()[1] == agent.AGENT


def test_macos_says_who_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(agent, "words_of", lambda *command: ANSWERS.get(command))
    monkeypatch.setattr(agent, "text", lambda path: None)
    monkeypatch.setattr(agent, "busy_s", lambda: 0.0)
    facts = schema.parse(Facts, agent.facts(tmp_path), "the facts")
    assert (facts.model, facts.cpu, facts.boot_id) == (
        "Mac14,2",
        "Apple M2",
        ANSWERS["sysctl", "-n", "kern.bootsessionuuid"],
    )
    monkeypatch.delattr("os.sysconf")
    assert agent.memory_bytes() == 8 << 30


class Kernel:
    """`host_statistics` of macOS: 1000 ticks of user, 200 of system, 9000 idle and 50 of low priority."""

    failed = 0
    freed = 0

    def mach_host_self(self) -> int:
        return 7

    def host_statistics(self, host: int, flavour: int, ticks: Any, count: Any) -> int:
        assert (host, flavour, len(ticks), count._obj.value) == (7, 3, 4, 4)
        ticks[:] = (1000, 200, 9000, 50)
        return self.failed

    def mach_port_deallocate(self, task: Any, port: int) -> int:
        self.freed += 1
        return 0


def test_the_processor_time_of_macos_is_read_from_its_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: kernel)
    monkeypatch.setattr(agent, "own_task", lambda kernel: 1)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert agent.busy_s() == 12.5
    kernel.failed = 5
    assert agent.busy_s() is None
    assert kernel.freed == 2


def test_a_command_that_is_not_there_says_nothing() -> None:
    assert agent.words_of("no-such-command-of-any-system") is None
    assert agent.words_of(sys.executable, "-c", "print('  8  ')") == "8"
    assert agent.sysctl("hw.model") is None or sys.platform == "darwin"


def test_a_process_of_macos_is_known_by_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {("ps", "-p", "77", "-o", "command="): "python3 -c exec(compile(x, 'agent.py', 'exec'))"}
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(agent, "text", lambda path: None)
    monkeypatch.setattr(agent, "words_of", lambda *command: said.get(command))
    assert agent.is_agent(77)
    assert not agent.is_agent(78)
