"""LiteRT files: channels last, in one part, in half the bytes, and for old runtimes too."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgeseg as es
from edgeseg.artifact import Artifact
from edgeseg.data import Data
from edgeseg.errors import EdgesegError, need
from edgeseg.export import LiteRt
from edgeseg.runtimes import pixels
from edgeseg.students import Semantic, Student
from tests.export.test_export import SIZE, Small, needs, small  # noqa: F401 (a fixture)
from tests.students.test_registry import families, settled, sizes

OLD = os.environ.get("EDGESEG_TFLITE_PYTHON")
"""A Python with `tflite-runtime==2.14.0` and `numpy<2`, which cannot be had beside ours."""

RUN = """
import sys, numpy as np, tflite_runtime.interpreter as tflite
interpreter = tflite.Interpreter(sys.argv[1], num_threads=1)
interpreter.allocate_tensors()
interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.load(sys.argv[2]))
interpreter.invoke()
np.save(sys.argv[3], interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
"""


@pytest.fixture(autouse=True)
def installed() -> None:
    needs(LiteRt)


def export(student: Student, data: Data | None, out: Path, bake: tuple[str, ...] = (), **options: Any) -> Artifact:
    made = es.export_model(student, LiteRt(**options), out, SIZE, bake, data=data)
    assert made.manifest.ledger is not None
    assert made.manifest.ledger.passed
    return made


def test_nothing_is_turned_and_xnnpack_takes_all(small: Student, tiny_data: Data, tmp_path: Path) -> None:  # noqa: F811
    artifact = export(small, tiny_data, tmp_path / "out")
    facts = artifact.manifest.conversion
    assert (facts["transposes"], facts["partitions"], facts["delegated"]) == (0, 1, 1.0)
    assert facts["tflite_runtime_2_14"] is True
    assert artifact.manifest.input.layout == artifact.manifest.output.layout == "NHWC"
    assert artifact.manifest.input.shape == [1, *SIZE, 3]
    assert artifact.session.run(pixels.prepare(pixels.pattern(*SIZE), artifact.manifest.input)).shape[1] == 10


def test_half_the_bytes(small: Student, tiny_data: Data, tmp_path: Path) -> None:  # noqa: F811
    kinds = {}
    for precision in ("fp32", "fp16"):
        artifact = export(small, tiny_data, tmp_path / precision, precision=precision)
        kinds[precision] = weights(artifact)
    assert kinds["fp16"]["FLOAT16"] > 0
    assert kinds["fp32"]["FLOAT16"] == 0
    # what is too small to be worth an operator stays as it was
    assert kinds["fp16"]["FLOAT32"] < 0.2 * kinds["fp32"]["FLOAT32"]


def weights(artifact: Artifact) -> dict[str, int]:
    """Type -> bytes of constants."""
    from edgeseg.kernels.litert_plugin import read

    schema = need("ai_edge_litert.schema_py_generated")
    model, found = read(artifact.model_file.read_bytes()), {"FLOAT16": 0, "FLOAT32": 0}
    for tensor in model.subgraphs[0].tensors:
        data = model.buffers[tensor.buffer].data
        for name in found:
            if tensor.type == getattr(schema.TensorType, name) and data is not None:
                found[name] += len(data)
    return found


def test_weights_beyond_float16_are_refused(small: Semantic, tmp_path: Path) -> None:  # noqa: F811
    loud = Small(small.classes)
    loud.load_state_dict(small.state_dict())
    loud.head.weight.data[0, 0] = 1e5
    with pytest.raises(EdgesegError, match="has weights beyond float16's 65504; export it as fp32"):
        es.export_model(loud, LiteRt(precision="fp16"), tmp_path / "out", SIZE)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_standard_operators_alone(small: Student, tiny_data: Data, tmp_path: Path, precision: str) -> None:  # noqa: F811
    both = [
        export(small, tiny_data, tmp_path / ops, ("pre", "labels"), ops=ops, precision=precision)
        for ops in ("auto", "graph")
    ]
    assert [each.manifest.conversion["tflite_runtime_2_14"] for each in both] == [False, True]
    assert both[1].manifest.op_tiers == {"label_map": "graph"}
    image = pixels.pattern(*SIZE)
    assert np.array_equal(both[0].predict(image), both[1].predict(image))


@pytest.mark.slow
@pytest.mark.skipif(OLD is None, reason="needs EDGESEG_TFLITE_PYTHON: pip install tflite-runtime==2.14.0 'numpy<2'")
@pytest.mark.parametrize(
    "name", [name for name in families() if name in ("lraspp_mobilenet_v3_small", "rwkv_seg_tiny")]
)
def test_an_old_runtime_draws_the_same(name: str, tmp_path: Path) -> None:
    student = settled(name)
    artifact = es.export_model(student, LiteRt(ops="graph"), tmp_path / "out", sizes(student)[0], ("pre", "labels"))
    assert artifact.manifest.conversion["tflite_runtime_2_14"] is True
    given = pixels.prepare(pixels.pattern(*artifact.size), artifact.manifest.input)
    np.save(tmp_path / "given.npy", given)
    files = (str(artifact.model_file), str(tmp_path / "given.npy"), str(tmp_path / "made.npy"))
    done = subprocess.run([str(OLD), "-c", RUN, *files], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert np.mean(np.load(tmp_path / "made.npy") == artifact.session.run(given)) >= 0.9995
