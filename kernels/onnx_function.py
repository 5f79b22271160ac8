"""The operators in ONNX: their schemas, how PyTorch's exporter writes them, and how bodies of standard operators are built.

A node `edgeseg::BiWKV` carries its meaning along as a function of the model: a runtime with our kernel runs that, any other
one runs the body.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from edgeseg.errors import need

DOMAIN, VERSION = "edgeseg", 1

SIGNATURES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "BiWKV": (("decay", "bonus", "key", "value"), ("causal",)),
    "SelectiveScan": (("u", "delta", "A", "B", "C", "D"), ()),
    "LabelMap": (("logits",), ("height", "width", "align_corners")),
}
"""Operator -> its inputs and its integer attributes; each has one output."""

OUTPUT = "out"


@cache
def register_schemas() -> None:
    """Tell ONNX's checker and shape inference about the operators; it forgets at the end of the process."""
    defs = need("onnx").defs
    schema = defs.OpSchema
    floats = ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"]
    for name, (inputs, attributes) in SIGNATURES.items():
        bytes_out = name == "LabelMap"
        defs.register_schema(
            schema(
                name,
                DOMAIN,
                VERSION,
                inputs=[schema.FormalParameter(each, "R" if each in ("decay", "bonus") else "T") for each in inputs],
                outputs=[schema.FormalParameter(OUTPUT, "U" if bytes_out else "T")],
                attributes=[schema.Attribute(each, schema.AttrType.INT, "") for each in attributes],
                type_constraints=[
                    ("T", floats, ""),
                    *([("R", floats, "")] if "decay" in inputs else []),
                    *([("U", ["tensor(uint8)"], "")] if bytes_out else []),
                ],
            )
        )


def translations() -> dict[Any, Any]:
    """For `torch.onnx.export`: each operator of PyTorch -> what writes its node."""
    from edgeseg.kernels.label_map import torch_op as label_map
    from edgeseg.kernels.selective_scan import torch_op as selective_scan
    from edgeseg.kernels.wkv import torch_op as wkv

    register_schemas()
    ops = need("onnxscript").values.Opset(DOMAIN, VERSION)

    def write_wkv(decay: Any, bonus: Any, key: Any, value: Any, causal: bool) -> Any:
        return ops.BiWKV(decay, bonus, key, value, causal=int(causal))

    def write_scan(u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any) -> Any:
        return ops.SelectiveScan(u, delta, A, B, C, D)

    def write_label_map(logits: Any, height: int, width: int, align_corners: bool) -> Any:
        return ops.LabelMap(logits, height=height, width=width, align_corners=int(align_corners))

    return {
        wkv.wkv._opoverload: write_wkv,
        selective_scan.selective_scan._opoverload: write_scan,
        label_map.label_map._opoverload: write_label_map,
    }


class Body:
    """A function of standard operators under construction: call it with an operator, names of inputs, and attributes.

    body = Body("Twice", ["x"])
    body.result(body("Add", "x", "x"))
    """

    def __init__(self, operator: str, opset: int) -> None:
        self._helper = need("onnx").helper
        self._operator, self._opset = operator, opset
        self._nodes: list[Any] = []
        self._constants: dict[bytes, str] = {}

    def __call__(self, operator: str, *inputs: str, count: int = 0, **attributes: Any) -> Any:
        """The name of the new value; with `count` a list of so many."""
        names = [f"v{len(self._nodes)}" if not count else f"v{len(self._nodes)}_{index}" for index in range(count or 1)]
        self._nodes.append(self._helper.make_node(operator, list(inputs), names, **attributes))
        return names if count else names[0]

    def floats(self, values: ArrayLike) -> str:
        """A float32 constant."""
        return self._constant(np.asarray(values, np.float32))

    def ints(self, *values: int) -> str:
        """An int64 constant of one axis."""
        return self._constant(np.asarray(values, np.int64))

    def _constant(self, array: Any) -> str:
        key = array.tobytes() + str((array.dtype, array.shape)).encode()
        if key not in self._constants:
            self._constants[key] = self("Constant", value=need("onnx").numpy_helper.from_array(array))
        return self._constants[key]

    def result(self, value: str) -> Any:
        """The FunctionProto whose output is `value`."""
        inputs, attributes = SIGNATURES[self._operator]
        self._nodes.append(self._helper.make_node("Identity", [value], [OUTPUT]))
        opset = self._helper.make_opsetid("", self._opset)
        return self._helper.make_function(
            DOMAIN, self._operator, list(inputs), [OUTPUT], self._nodes, [opset], attributes=list(attributes)
        )


def single(
    operator: str,
    feeds: Mapping[str, Any],
    attributes: Mapping[str, int],
    opset: int,
    constant: Sequence[str] = (),
    island: bool = False,
) -> Any:
    """A model of one node with the shapes and types of `feeds`; those named in `constant` are part of the model.

    island: the node computes in float32 whatever comes and goes, as in a network of half precision.
    """
    onnx = need("onnx")
    helper, type_of = onnx.helper, onnx.helper.np_dtype_to_tensor_dtype
    register_schemas()
    kind = type_of(feeds[SIGNATURES[operator][0][-1] if operator == "BiWKV" else SIGNATURES[operator][0][0]].dtype)
    float32, cast = onnx.TensorProto.FLOAT, []
    inputs = list(feeds)
    if island:
        inputs = [f"{name}_whole" for name in feeds]
        cast = [helper.make_node("Cast", [n], [w], to=float32) for n, w in zip(feeds, inputs, strict=True)]
    made = OUTPUT if not island or operator == "LabelMap" else "whole"
    nodes = [*cast, helper.make_node(operator, inputs, [made], domain=DOMAIN, **attributes)]
    if made != OUTPUT:
        nodes.append(helper.make_node("Cast", [made], [OUTPUT], to=kind))
    given = [helper.make_tensor_value_info(k, type_of(v.dtype), v.shape) for k, v in feeds.items() if k not in constant]
    out = helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.UINT8 if operator == "LabelMap" else kind, None)
    fixed = [onnx.numpy_helper.from_array(feeds[name], name) for name in constant]
    graph = helper.make_graph(nodes, "single", given, [out], fixed)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, VERSION)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)
