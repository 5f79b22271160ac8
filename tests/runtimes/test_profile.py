"""Where the time of a frame goes: what each runtime tells of its operators."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeseg.artifact import Artifact
from edgeseg.errors import EdgesegError, MissingTool
from edgeseg.runtimes import RUNTIMES
from edgeseg.runtimes.base import profiled
from edgeseg.runtimes.null import Null, null_artifact
from edgeseg.runtimes.onnxruntime_session import _operator
from edgeseg.runtimes.profile import Profile, by_kind, profile
from edgeseg.runtimes.record import Operator

CONVOLUTIONS = {"onnxruntime": "Conv", "openvino": "Convolution", "litert": "Convolution"}
"""Runtimes that tell, and how each calls what carries the arithmetic of the tiny student."""


@pytest.fixture(params=CONVOLUTIONS)
def told(request: pytest.FixtureRequest, tiny_artifacts: dict[str, Artifact]) -> tuple[str, Profile]:
    """The profile of the tiny student in a runtime."""
    name: str = request.param
    try:
        RUNTIMES[name].version()
    except MissingTool as error:
        pytest.skip(f"needs {name}: {error}")
    return name, profile(tiny_artifacts[name], runs=3)


def test_every_operator_has_a_name_a_place_and_a_time(told: tuple[str, Profile]) -> None:
    name, found = told
    assert found.execution.runtime == name and found.provenance == "measured"
    assert len(found.operators) > 20
    assert all(each.name and each.kind and each.where and each.ms >= 0 and each.calls == 3 for each in found.operators)
    assert found.total_ms == pytest.approx(sum(each.ms for each in found.operators))
    assert 0.1 < found.total_ms / found.p50_ms < 10  # the same work; by how much it differs is the machine's affair
    dearest = [kind for kind in found.kinds if kind.kind.startswith(CONVOLUTIONS[name])]
    assert sum(kind.count for kind in dearest) > 20
    assert {kind.precision for kind in dearest} == {"fp32"}
    assert sum(kind.share for kind in found.kinds) == pytest.approx(1)


def test_kinds_are_sums_and_the_dearest_comes_first() -> None:
    def one(kind: str, ms: float, where: str = "CPU") -> Operator:
        return Operator("x", kind, where, "fp32", ms, 1, None)

    found = by_kind([one("Add", 1.0), one("Conv", 3.0), one("Add", 1.0), one("Conv", 5.0, "GPU")])
    assert [(kind.kind, kind.where, kind.count, kind.ms, kind.share) for kind in found] == [
        ("Conv", "GPU", 1, 5.0, 0.5),
        ("Conv", "CPU", 1, 3.0, 0.3),
        ("Add", "CPU", 2, 2.0, 0.2),
    ]


def test_a_kernel_of_onnx_runtime_is_the_mean_of_its_runs() -> None:
    told = {
        "op_name": "QLinearConv",
        "provider": "CPUExecutionProvider",
        "output_size": "1024",
        "output_type_shape": [{"uint8": [1, 16, 8, 8]}],
    }
    events = [{"dur": us, "args": told} for us in (100, 200, 600)]
    assert _operator("conv", events, 3) == Operator("conv", "QLinearConv", "CPU", "int8", 0.3, 3, 1024)
    assert _operator("conv", events, 1).ms == 0.9  # three times in one frame


def test_the_null_runtime_is_one_operator_and_no_measurement(tmp_path: Path) -> None:
    found = profile(null_artifact(tmp_path / "null", Null(steps=((1, 2_000_000),))), runs=4)
    assert found.operators == [Operator("null", "Null", "null", "fp32", 2.0, 4, 3 * 32 * 48 * 4)]
    assert found.provenance == "simulated"


def test_what_cannot_be_profiled_is_one_line(tmp_path: Path, tiny_run: Path) -> None:
    with pytest.raises(EdgesegError, match="export it"):
        profile(tiny_run)
    with pytest.raises(EdgesegError, match="at least 1 run"):
        profile(null_artifact(tmp_path / "null", Null()), runs=0)
    with pytest.raises(EdgesegError, match="does not tell edgeseg how long each operator takes"):
        profiled(object())
