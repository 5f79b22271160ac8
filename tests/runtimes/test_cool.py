"""Cool-down by temperature, on devices whose sensor says what a script tells it to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import pytest

from edgeseg import schema
from edgeseg.artifact import Artifact
from edgeseg.cli import main
from edgeseg.errors import EdgesegError
from edgeseg.runtimes.compare import compare_in_turns
from edgeseg.runtimes.devices.cool import Cool, parse
from edgeseg.runtimes.devices.local import Local
from edgeseg.runtimes.farm import engines
from edgeseg.runtimes.farm.queue import Outcome
from edgeseg.runtimes.launch import Died
from edgeseg.runtimes.measure import measure
from edgeseg.runtimes.record import DeviceState, Failure
from edgeseg.runtimes.tools.measured import measure_by_tool
from tests.runtimes.here import Here
from tests.runtimes.test_agent import TINY, null
from tests.runtimes.test_farm import jobs, sweep

Script: TypeAlias = Callable[..., list[bool]]


@pytest.fixture
def warm(monkeypatch: pytest.MonkeyPatch) -> Script:
    """Have devices say one temperature after the other, and the last for ever; returned is whether they were held each time."""
    monkeypatch.setattr("edgeseg.runtimes.devices.cool.POLL_S", 0.02)

    def script(*degrees: float | None) -> list[bool]:
        held: list[bool] = []
        plain = Here.state

        def state(self: Here) -> DeviceState:
            held.append(self._locked)
            return replace(plain(self), temperature_c=degrees[min(len(held), len(degrees)) - 1])

        monkeypatch.setattr(Here, "state", state)
        return held

    return script


def test_it_begins_when_the_device_is_cool(named: str, tmp_path: Path, warm: Script) -> None:
    held, lines = warm(71.0, 70.5, 60.0, 50.0, 49.5, 48.0), list[str]()
    found = measure(null(tmp_path), protocol=TINY, threads=1, device=named, cool=Cool(50), tell=lines.append)
    assert held[:5] == [False, True, True, True, True]
    assert found.device.before.temperature_c == 48.0  # of when it began
    assert found.sensors is not None and found.sensors.notes[0].startswith("cooled from 70.5 to 49.5 °C in ")
    assert lines == ["here is at 70.5 °C; waiting until it is below 50 °C, at most 600 s"]


def test_one_that_never_cools_is_given_up_with_the_reason(
    named: str, tmp_path: Path, warm: Script, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    warm(70.0)
    monkeypatch.setattr("edgeseg.runtimes.devices.cool.LIMIT_S", 0.2)
    out = tmp_path / "record.json"
    assert main(["bench", str(null(tmp_path)), "-d", named, "--cool", "50", "-o", str(out)]) == 6
    said = " ".join(capfd.readouterr().err.split())
    assert "here is too hot: still 70.0 °C after 0 s, 50 °C is the limit" in said
    assert "waiting until it is below 50 °C" in said
    failure = schema.read(Failure, out)
    assert failure.outcome == "hot" and "70.0 °C" in failure.detail and failure.samples is None


@pytest.mark.parametrize(
    ("degrees", "note"),
    [
        ([None], "not waited for 50 °C: nothing there says how warm it is"),
        ([40.0], "at 40.0 °C before it began, below 50 °C as asked"),
    ],
)
def test_what_need_not_or_cannot_be_waited_for_is_noted(
    named: str, tmp_path: Path, warm: Script, degrees: list[float | None], note: str
) -> None:
    warm(*degrees)
    found = measure(null(tmp_path), protocol=TINY, threads=1, device=named, cool=Cool(50), tell=pytest.fail)
    assert found.sensors is not None and found.sensors.notes[0] == note


def test_artifacts_take_turns_on_a_device_that_is_cool(
    named: str, tmp_path: Path, warm: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeseg.runtimes.compare.PROCESSES", 1)
    a = null(tmp_path)
    held = warm(70.0, 49.0)
    (found,) = compare_in_turns(a, [a], threads=1, pairs=2, burst_s=0.02, device=named, cool=Cool(50))
    assert any(line.startswith("cooled from 70.0 to 49.0 °C") for line in found.why) and held == [True, True]
    warm(70.0)
    with pytest.raises(Died, match=r"still 70\.0 °C") as caught:
        compare_in_turns(a, [a], threads=1, pairs=2, burst_s=0.02, device=named, cool=Cool(50, 0.1))
    assert caught.value.outcome == "hot"


def test_a_tool_waits_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Local.state
    monkeypatch.setattr(Local, "state", lambda self: replace(plain(self), temperature_c=70.0))
    with pytest.raises(Died, match="local is too hot"):
        measure_by_tool("benchmark_app", Artifact.open(null(tmp_path)), 1, cool=Cool(50, 0.0))


def test_a_sweep_hands_it_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def bench(*words: str) -> tuple[int, str]:
        asked.extend(words)
        return 6, "what it said"

    async def one() -> Outcome:
        with engines.local(sweep(["local"], cool=50), tmp_path) as crew:
            return await crew.measure(jobs(1)[0], "local")

    monkeypatch.setattr("edgeseg.runtimes.farm.sweep.edgeseg", bench)
    asyncio.run(one())
    assert asked[asked.index("--cool") + 1] in ("50", "50.0")


def test_a_temperature_and_a_time() -> None:
    assert parse("") is None and parse("50") == Cool(50, 600) and parse("49.5:5m") == Cool(49.5, 300)
    for text in ("warm", "50C", "0", "-3", "50:", "50:soon", "50:0s", ":5m", "nan"):
        with pytest.raises(EdgesegError, match="is no temperature to wait for"):
            parse(text)
