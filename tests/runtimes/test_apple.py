"""Apple devices: coremltools' own code reads what a stand-in for `devicectl` says; a stand-in for its runner app predicts here.

No Mac was at hand. The list of devices is made up in the form that coremltools 9 reads; the app is our interpreter of packages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import edgeseg as es
from edgeseg import schema
from edgeseg.artifact import Artifact
from edgeseg.cli import main
from edgeseg.runtimes import open_artifact
from edgeseg.runtimes.devices import Entry, make
from edgeseg.runtimes.tools.measured import ToolMeasurement

pytest.importorskip("coremltools", reason="needs the coreml extra: pip install 'edgeseg[coreml]'")

UDID = "00008130-001A2B3C4D5E6F70"
PHONE = f"apple://{UDID}?team=ABCDE12345&units=cpu_and_ne"


def listed(state: str = "connected") -> dict[str, Any]:
    device = {
        "identifier": "6F1B2C3D-0000-0000-0000-000000000000",
        "deviceProperties": {"name": "Anna's iPhone", "osVersionNumber": "18.1", "osBuildUpdate": "22B83"},
        "hardwareProperties": {"deviceType": "iPhone", "udid": UDID},
        "connectionProperties": {"tunnelState": state},
    }
    return {"result": {"devices": [device]}}


@pytest.fixture
def listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The document that `xcrun devicectl list devices` writes."""
    document, tools = tmp_path / "devices.json", tmp_path / "tools"
    document.write_text(json.dumps(listed()))
    tools.mkdir()
    for name in ("devicectl", "xcrun"):
        (tools / name).write_text(f'#!/bin/sh\nwhile [ $# -gt 1 ]; do shift; done\ncp "{document}" "$1"\n')
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=":")
    return document


class App:
    """coremltools' model on a device, by the calls that are made of it."""

    load_duration_in_nano_seconds = 41_000_000

    def __init__(self, package: Path, spoil: int) -> None:
        self._session, self._spoil = open_artifact(Artifact.open(package.parent), threads=1), spoil
        self._output = Artifact.open(package.parent).manifest.output.name
        self.last_predict_duration_in_nano_seconds = 0

    async def load(self) -> None:
        """Nothing to do."""

    async def predict(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        self.last_predict_duration_in_nano_seconds += 100_000
        drawn = np.array(self._session.run(next(iter(feeds.values()))), np.int32)
        drawn.ravel()[: self._spoil] = 1 - drawn.ravel()[: self._spoil].clip(0, 1)
        return {self._output: drawn}

    async def retrieve_compute_plan(self) -> Any:
        raise ValueError("no plan")

    async def unload(self) -> None:
        self._session.close()


@pytest.fixture
def asked(listing: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the app was asked for; `spoil` pixels of what it draws."""
    from coremltools.models.ml_program.experimental import async_wrapper, remote_device

    seen: dict[str, Any] = {"spoil": 0, "stopped": 0}

    async def prepared(self: Any, credentials: Any, folder: Path) -> Any:
        seen["signed"] = credentials
        stop = lambda: seen.update(stopped=seen["stopped"] + 1)
        return SimpleNamespace(session=SimpleNamespace(stop=stop))

    def opened(package: str, weights: str, units: Any, device: Any) -> App:
        assert Path(weights).is_dir()
        seen["units"] = units.name
        return App(Path(package), seen["spoil"])

    monkeypatch.setattr(remote_device.Device, "prepare_for_model_debugging", prepared)
    monkeypatch.setattr(async_wrapper.MLModelAsyncWrapper, "from_spec_or_path", staticmethod(opened))
    return seen


@pytest.fixture(scope="module")
def artifact(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Labels baked in, and arrays for an input."""
    student = es.load(tiny_run)
    assert not isinstance(student, Artifact)
    return es.export_model(student, es.CoreMl(), tmp_path_factory.mktemp("apple") / "out", (64, 96), ("labels",))


def test_a_package_is_measured_and_its_masks_are_compared(
    asked: dict[str, Any], artifact: Artifact, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tool.json"
    assert main(["bench", str(artifact.folder), "-d", PHONE, "-o", str(out)]) == 0
    kept = schema.read(ToolMeasurement, out)
    assert kept.valid and kept.result.samples_ns == [100_000 * (index + 1) for index in range(3, 67)]
    assert (kept.device.name, kept.device.model, kept.device.system) == ("Anna's iPhone", "iphone", "18.1 (22B83)")
    assert (asked["signed"].development_team, asked["units"], asked["stopped"]) == ("ABCDE12345", "CPU_AND_NE", 1)
    assert kept.result.load_ms == 41 and kept.result.placed is None
    assert "rested between predictions" in " ".join(capfd.readouterr().out.split())


def test_fast_but_wrong_is_not_quoted(
    asked: dict[str, Any], artifact: Artifact, capfd: pytest.CaptureFixture[str]
) -> None:
    asked["spoil"] = 64 * 96
    assert main(["bench", str(artifact.folder), "-d", PHONE]) == 6
    assert "wrong masks" in capfd.readouterr().err
    assert asked["stopped"] == 1


def test_what_does_not_go_is_one_line(
    asked: dict[str, Any],
    listing: Path,
    artifact: Artifact,
    tiny_artifacts: dict[str, Artifact],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = str(artifact.folder)

    def says(words: list[str], code: int, line: str) -> None:
        assert main(["bench", *words]) == code
        said = capfd.readouterr().err.strip().splitlines()
        assert line in said[-1], said

    says([folder, "-d", "apple://00008130-FFFF"], 5, f"connected once: {UDID} (Anna's iPhone)")
    says([folder, "-d", f"apple://{UDID}?units=tpu"], 1, "all|cpu_and_ne")
    says([folder, "-d", f"apple://{UDID}?teem=x"], 1, "is no Apple device")
    says([folder, "-d", PHONE, "--tool", "aihub"], 1, "go together")
    says([str(tiny_artifacts["coreml"].folder), "-d", PHONE], 1, "export it without pre")
    says([str(tiny_artifacts["openvino"].folder), "-d", PHONE], 1, "runs a package of coreml")
    listing.write_text(json.dumps(listed("unavailable")))
    says([folder, "-d", PHONE], 5, "Anna's iPhone is unavailable; plug it in")
    listing.write_text("{}")
    says([folder, "-d", PHONE], 1, "No 'result' field")
    monkeypatch.setenv("PATH", "/nowhere")
    with monkeypatch.context() as fresh:
        from coremltools.models.ml_program.experimental import remote_device

        fresh.setattr(remote_device._DeviceCtl, "_validation_done", False)
        says([folder, "-d", PHONE], 5, "needs a Mac with Xcode 15")
    assert main(["compare", folder, folder, "-d", PHONE]) == 1
    assert "runs whole jobs and no commands" in capfd.readouterr().err


def test_no_duration_is_no_figure(
    asked: dict[str, Any], artifact: Artifact, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(self: App, feeds: Mapping[str, Any]) -> dict[str, Any]:
        self.last_predict_duration_in_nano_seconds = None  # type: ignore[assignment]
        return {}

    monkeypatch.setattr(App, "predict", silent)
    assert main(["bench", str(artifact.folder), "-d", PHONE]) == 1
    assert "gave no duration" in capfd.readouterr().err


def test_who_it_is(asked: dict[str, Any]) -> None:
    assert make("phone", Entry(PHONE)).probe().name == "Anna's iPhone"
