"""A promptable artifact under the clock: what an image costs once, and what each prompt about it costs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import edgeseg as es
from edgeseg.artifact import Artifact
from edgeseg.cli.measure import record_table
from edgeseg.export import OnnxRuntime
from edgeseg.report import charts
from edgeseg.runtimes.measure import measure
from edgeseg.runtimes.protocol import parse
from edgeseg.runtimes.record import HALVES, Record
from tests.export.test_broken import Asked
from tests.runtimes.test_agent import TINY


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime")
    torch.manual_seed(0)
    return es.export_model(Asked().eval(), OnnxRuntime(), tmp_path_factory.mktemp("asked") / "out", (64, 64))


def check(record: Record) -> None:
    """The halves are of the very samples, one after the other."""
    assert record.halves is not None and tuple(half.name for half in record.halves) == HALVES
    starts, durations = record.samples.unpack()
    parts = [half.samples.unpack() for half in record.halves]
    assert np.array_equal(parts[0][0], starts)
    assert np.array_equal(parts[1][0], starts + parts[0][1] - parts[0][1][0])  # the first start of any series is 0
    assert np.array_equal(parts[0][1] + parts[1][1], durations)
    assert charts.steps(record) == record.halves


def test_an_image_and_a_prompt_are_timed_apart(artifact: Artifact) -> None:
    record = measure(artifact, protocol=TINY, threads=1)
    check(record)
    assert {"  encoder", "  prompt"} <= {str(cell) for cell in record_table(record).columns[0]._cells}


def test_on_a_device_too(artifact: Artifact, named: str) -> None:
    check(measure(artifact, protocol=TINY, threads=1, device=named))


def test_frames_of_a_camera_are_whole_answers(artifact: Artifact, named: str) -> None:
    for device in ("local", named):
        protocol = replace(parse("camera:100"), min_s=0.2, min_count=4, max_s=2.0)
        assert measure(artifact, protocol=protocol, threads=1, device=device).halves is None
