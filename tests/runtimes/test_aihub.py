"""AI Hub: a job's figures and masks. Its service needs an account, so a stand-in answers, in the words of qai-hub 0.56.0.

`golden/aihub_profile.json` was made by that client's own function from a made-up message of its protocol: 100 durations of 15.65 to 16.54 ms.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgeseg import schema
from edgeseg.artifact import Artifact
from edgeseg.cli import main
from edgeseg.errors import EdgesegError, MissingTool
from edgeseg.runtimes import open_artifact
from edgeseg.runtimes.devices import Entry, make
from edgeseg.runtimes.devices.aihub import read
from edgeseg.runtimes.tools.measured import ToolMeasurement

PROFILE: dict[str, Any] = json.loads((Path(__file__).parent.parent / "golden" / "aihub_profile.json").read_text())
PHONE = "aihub://Samsung Galaxy S25"


class Hub(ModuleType):
    """What edgeseg uses of `qai_hub`: jobs run here."""

    __version__ = "0.56.0"

    class Error(Exception):
        """As there, the base of its errors."""

    @dataclass
    class Device:
        """As there."""

        name: str = ""
        os: str = ""
        attributes: str | list[str] = field(default_factory=list)

    def __init__(self) -> None:
        super().__init__("qai_hub")
        self.asked: dict[str, Any] = {}
        self.spoil, self.message, self.profile = 0, "", PROFILE

    def get_devices(self, name: str = "", os: str = "", attributes: Any = None) -> list[Device]:
        known = self.Device(
            "Samsung Galaxy S25", "15", ["vendor:samsung", "os:android", "chipset:qualcomm-snapdragon-8-elite"]
        )
        return [known] if name == known.name else []

    def submit_inference_job(
        self,
        model: str,
        device: Device,
        inputs: Any = None,
        name: str | None = None,
        options: str = "",
        profile: bool = True,
    ) -> Any:
        self.asked = {"device": device.name, "options": options, "profile": profile}
        session = open_artifact(Artifact.open(Path(model).parent), threads=1)
        ((given,),) = inputs.values()
        output = np.array(session.run(given))
        session.close()
        output.ravel()[: self.spoil] = 0
        return SimpleNamespace(
            url="https://hub/jobs/j1",
            wait=lambda: SimpleNamespace(success=not self.message, message=self.message, code="FAILED"),
            download_output_data=lambda: {"output_0": [output]},
            download_profile=lambda: self.profile,
        )


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub()
    monkeypatch.setitem(sys.modules, "qai_hub", made)
    return made


@pytest.fixture
def artifact(tiny_artifacts: dict[str, Artifact]) -> Artifact:
    return tiny_artifacts["onnxruntime"]


def test_figures_are_computed_from_every_duration() -> None:
    found = read(PROFILE, "0.56.0")
    times = PROFILE["execution_summary"]["all_inference_times"]
    assert found.samples_ns == [1000 * value for value in times]
    assert found.figures.count == 100
    assert found.figures.p50_ms == pytest.approx(np.median(times) / 1000)
    assert found.placed == {"NPU": 5, "CPU": 1}
    assert (found.load_ms, found.peak_memory_bytes) == (120.0, 52_000_000)
    assert found.operators is not None and found.operators[5].where == "CPU"
    with pytest.raises(EdgesegError, match="no durations"):
        read({"execution_summary": {}, "execution_detail": []}, "0.56.0")


def test_a_job_measures_and_its_masks_are_compared(
    hub: Hub, artifact: Artifact, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tool.json"
    assert main(["bench", str(artifact.folder), "-d", f"{PHONE}?unit=npu", "-o", str(out)]) == 0
    assert hub.asked == {"device": "Samsung Galaxy S25", "options": "--compute_unit npu", "profile": True}
    kept = schema.read(ToolMeasurement, out)
    assert kept.valid and kept.result.source == "samples"
    assert (kept.device.name, kept.device.cpu) == ("Samsung Galaxy S25", "qualcomm-snapdragon-8-elite")
    said = capfd.readouterr().out
    assert "NPU 5, CPU 1" in said and "https://hub/jobs/j1" in said


def test_fast_but_wrong_is_not_quoted(hub: Hub, artifact: Artifact, capfd: pytest.CaptureFixture[str]) -> None:
    hub.spoil = 64 * 96
    assert main(["bench", str(artifact.folder), "-d", PHONE]) == 6
    assert "wrong masks" in capfd.readouterr().err


def test_what_does_not_go_is_one_line(hub: Hub, artifact: Artifact, capfd: pytest.CaptureFixture[str]) -> None:
    folder = str(artifact.folder)
    for words, code, line in (
        (["-d", "aihub://Nokia 3310"], 5, "AI Hub has no device 'Nokia 3310'"),
        (["-d", "aihub://Phone?unit=tpu"], 1, "unit=all|npu|gpu|cpu"),
        (["-d", "aihub://"], 1, "is no device of AI Hub"),
        (["-d", PHONE, "--tool", "trtexec"], 1, "go together"),
        (["--tool", "aihub"], 1, "go together"),
        (["-d", PHONE, "--prepare", "governor=performance"], 1, "nothing can be set"),
    ):
        assert main(["bench", folder, *words]) == code
        said = capfd.readouterr().err.strip().splitlines()
        assert line in said[-1], said
    assert main(["compare", folder, folder, "-d", PHONE]) == 1
    assert "runs whole jobs and no commands" in capfd.readouterr().err
    hub.message = "Unsupported operator"
    assert main(["bench", folder, "-d", PHONE]) == 1
    assert "job failed on Samsung Galaxy S25: Unsupported operator (https://hub/jobs/j1)" in capfd.readouterr().err


def test_another_target_is_refused(
    hub: Hub, tiny_artifacts: dict[str, Artifact], capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", str(tiny_artifacts["openvino"].folder), "-d", PHONE]) == 1
    assert "AI Hub runs a file of litert or onnxruntime" in capfd.readouterr().err


def test_no_account_and_no_client_say_what_to_do(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: Any) -> None:
        raise hub.Error(
            "Failed to load client configuration file.\n┌──┐\n| client.ini not found. Please request access |\n└──┘"
        )

    monkeypatch.setattr(hub, "get_devices", refuse)
    with pytest.raises(
        MissingTool, match=r"^AI Hub: Failed to load client configuration file\. client\.ini not found"
    ) as caught:
        make("phone", Entry(PHONE)).probe()
    assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "qai_hub", None)
    with pytest.raises(MissingTool, match=r"edgeseg\[aihub\]"):
        make("phone", Entry(PHONE)).probe()
