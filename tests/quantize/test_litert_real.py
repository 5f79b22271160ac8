"""Integer operators that XNNPACK leaves over, put back into float: the same masks from fewer parts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgeseg.data import Data
from edgeseg.errors import need
from edgeseg.export import LiteRt, litert_file, networks
from edgeseg.export.deployed import Deployed
from edgeseg.export.litert_file import for_delegate, partition
from edgeseg.export.litert_real import in_real_numbers, operator_code
from edgeseg.kernels.litert_plugin import read
from edgeseg.quantize.calibration import choose_images
from edgeseg.quantize.model import quantize_model
from edgeseg.quantize.post_training import apply, calibrate, feeds
from edgeseg.quantize.scheme import Recipe
from edgeseg.students import Semantic
from tests.export.test_export import needs
from tests.quantize.conftest import SIZE, difference, same


@pytest.fixture(scope="module")
def raw(taught: Semantic, tiny_data: Data, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What the converter makes of integer marks, as it is."""
    needs(LiteRt)
    (network,) = networks(taught, SIZE, ("pre",), LiteRt.interface)
    assert isinstance(network, Deployed)
    images = feeds(network, choose_images(tiny_data, None, 6))
    network.whole = apply(network, calibrate(network, "litert", "int8", Recipe(), images))
    folder = tmp_path_factory.mktemp("raw")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(litert_file, "for_delegate", lambda file: file)
        LiteRt(precision="int8").write(network, folder)
    return (folder / "model.tflite").read_bytes()


def operators(file: bytes) -> list[tuple[str, str]]:
    """The operators of a file in order, and the type of what each gives."""
    schema = need("ai_edge_litert.schema_py_generated")
    model = read(file)
    names = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
    types = {number: name for name, number in vars(schema.TensorType).items() if isinstance(number, int)}
    graph = model.subgraphs[0]
    return [
        (names[model.operatorCodes[node.opcodeIndex].builtinCode], types[graph.tensors[node.outputs[0]].type])
        for node in graph.operators
    ]


def run(file: bytes, images: list[Tensor]) -> NDArray[np.float64]:
    """The logits `[N, K, H, W]`."""
    interpreter: Any = need("ai_edge_litert.interpreter").Interpreter(model_content=file, num_threads=1)
    interpreter.allocate_tensors()
    made = []
    for image in images:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image.numpy())
        interpreter.invoke()
        made.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).astype(np.float64))
    return np.concatenate(made).transpose(0, 3, 1, 2)


def test_an_operator_is_put_between_real_numbers(raw: bytes, others: list[Tensor]) -> None:
    before = Counter(operators(raw))
    assert before["HARD_SWISH", "INT8"] == 1
    real = in_real_numbers(raw, {"HARD_SWISH"})
    after = Counter(operators(real))
    assert after - before == Counter(
        {("HARD_SWISH", "FLOAT32"): 1, ("DEQUANTIZE", "FLOAT32"): 1, ("QUANTIZE", "INT8"): 1}
    )
    assert before - after == Counter({("HARD_SWISH", "INT8"): 1})
    wanted, got = run(raw, others), run(real, others)
    assert difference(wanted, got) < 0.02  # a step here and there
    assert same(wanted, got) > 0.98


def test_the_order_is_one_that_can_run(raw: bytes) -> None:
    graph = read(in_real_numbers(raw, {"HARD_SWISH", "AVERAGE_POOL_2D", "MEAN"})).subgraphs[0]
    made = {int(node) for node in graph.inputs}
    produced = {int(each) for node in graph.operators for each in node.outputs}
    for node in graph.operators:
        assert {int(each) for each in node.inputs if each in produced} <= made
        made |= {int(each) for each in node.outputs}
    assert set(map(int, graph.outputs)) <= made


def test_layers_with_whole_constants_stay_as_they_are(raw: bytes, others: list[Tensor]) -> None:
    for kinds in (set[str](), {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"}, {"TANH"}):
        again = in_real_numbers(raw, kinds)
        assert operators(again) == operators(raw)
        assert np.array_equal(run(again, others[:1]), run(raw, others[:1]))


def test_the_delegate_gets_fewer_parts(raw: bytes, others: list[Tensor]) -> None:
    made = for_delegate(raw)
    parts, left, share = partition(made)
    before = partition(raw)
    assert parts < before[0]
    assert share > before[2]
    assert "HARD_SWISH" not in left
    assert same(run(raw, others), run(made, others)) > 0.98
    assert for_delegate(made) == made  # there is nothing more to do


def test_the_number_of_an_operator_is_found_or_added(raw: bytes) -> None:
    schema = need("ai_edge_litert.schema_py_generated")
    model = read(raw)
    count = len(model.operatorCodes)
    there = operator_code(schema, model, "CONV_2D")
    assert model.operatorCodes[there].builtinCode == schema.BuiltinOperator.CONV_2D
    assert (operator_code(schema, model, "TANH"), len(model.operatorCodes)) == (count, count + 1)
    assert (operator_code(schema, model, "TANH"), len(model.operatorCodes)) == (count, count + 1)


def test_an_artifact_in_whole_numbers(taught: Semantic, tiny_data: Data, tmp_path: Path) -> None:
    needs(LiteRt)
    torch.manual_seed(0)
    made = quantize_model(taught, LiteRt(precision="int8"), tiny_data, tmp_path / "out", SIZE, 6)
    manifest = made.manifest
    assert manifest.precision.executed == "int8"
    assert manifest.conversion["partitions"] == 1
    assert manifest.ledger is not None
    assert min(hop.same_label for hop in manifest.ledger.hops) > 0.93
