"""What is known before TensorRT is asked: which operators, types and shapes its parser takes, and where Q and DQ may stand.

The table of operators is that of onnx-tensorrt (`data/tensorrt_support.json` names the version). The rules of types are those of
a strongly typed network, the only kind since TensorRT 11; that uint8 is for what goes in and comes out, and by way of a float
only, is what `NvInferRuntimeBase.h` says of `kUINT8`. What Q and DQ have to be is what `NvInfer.h` says of `IQuantizeLayer` and
`IDequantizeLayer`; where they are fused, NVIDIA's recommendations for their placement.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edgeseg.errors import EdgesegError, need
from edgeseg.export.operators import inlined
from edgeseg.files import read_json
from edgeseg.kernels.onnx_function import DOMAIN, SIGNATURES

SUPPORT = Path(__file__).resolve().parent / "data" / "tensorrt_support.json"

TYPES = {1: "FP32", 2: "UINT8", 3: "INT8", 6: "INT32", 7: "INT64", 9: "BOOL", 10: "FP16", 11: "FP64", 16: "BF16"}
"""ONNX's number of an element type -> TensorRT's word for it, as in the table."""

FLOATS = ("FP32", "FP16", "BF16")
RANK = 8  # Dims::MAX_DIMS
TOPK = 3840

Level = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """One thing to know: an `error` is what TensorRT refuses or gets wrong, a `warning` what it does differently than asked."""

    level: Level
    node: str
    words: str

    def __str__(self) -> str:
        return f"{self.node}: {self.words}"


@dataclass(frozen=True)
class Support:
    """A line of TensorRT: the version its table is of, the operator sets, and what each operator takes."""

    line: str
    tensorrt: str
    source: str
    opsets: tuple[int, int]
    operators: Mapping[str, Mapping[str, Any]]


@cache
def support(line: str) -> Support:
    """The table of a line, e.g. `10`.

    Raises:
        EdgesegError: there is no such line.
    """
    tables = read_json(SUPPORT)
    if line not in tables:
        raise EdgesegError(f"no table of TensorRT {line}; there is {' and '.join(tables)}")
    table = tables[line]
    base = tables[table["base"]]["operators"] if "base" in table else {}
    low, high = table["opsets"]
    return Support(line, table["tensorrt"], table["source"], (low, high), {**base, **table["operators"]})


@dataclass
class Graph:
    """A model as the rules look at it: the type and shape of every value, the constants, who makes and who reads what."""

    model: Any
    types: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, list[int | str]] = field(default_factory=dict)
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    makers: dict[str, Any] = field(default_factory=dict)
    readers: dict[str, list[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        onnx = need("onnx")
        graph = self.model.graph
        for entry in (*graph.value_info, *graph.input, *graph.output):
            self._note(entry.name, entry.type.tensor_type)
        for entry in graph.initializer:
            self._constant(entry.name, entry)
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self._constant(node.output[0], node.attribute[0].t)
            elif node.op_type == "Constant":
                value = onnx.helper.get_attribute_value(node.attribute[0])
                if not isinstance(value, (bytes, str)):
                    self.constants[node.output[0]] = np.asarray(value)
            self.makers.update(dict.fromkeys(node.output, node))
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def _note(self, name: str, kind: Any) -> None:
        if kind.elem_type:
            self.types[name] = TYPES.get(kind.elem_type, need("onnx").TensorProto.DataType.Name(kind.elem_type))
        if kind.HasField("shape"):
            self.shapes[name] = [
                dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in kind.shape.dim
            ]

    def _constant(self, name: str, tensor: Any) -> None:
        self.constants[name] = need("onnx").numpy_helper.to_array(tensor)
        self.types[name] = TYPES.get(tensor.data_type, need("onnx").TensorProto.DataType.Name(tensor.data_type))
        self.shapes[name] = list(tensor.dims)

    def given(self, node: Any, index: int) -> str | None:
        """The name of an input, where it is given."""
        return node.input[index] if len(node.input) > index and node.input[index] else None

    def maker(self, name: str | None, *operators: str) -> Any:
        """The node that makes a value, if it is one of these."""
        node = self.makers.get(name) if name else None
        return node if node is not None and node.op_type in operators else None


def lint(model: Any, line: str = "10", free: Collection[str] = ()) -> list[Finding]:
    """What to know of a ModelProto before a TensorRT of this line reads it: errors first. Bodies are looked into.

    free: names of axes that an optimisation profile bounds; another axis that is not fixed is an error.
    """
    table = support(line)
    names: dict[str, int] = {}
    for function in model.functions:
        names[function.name] = names.get(function.name, 0) + 1
    findings = [
        Finding("warning", name, f"{count} bodies that TensorRT's parser tells apart by name only: load the plugin")
        for name, count in sorted(names.items())
        if count > 1
    ]
    graph = Graph(typed(inlined(model) if model.functions else model))
    opset = {entry.domain: entry.version for entry in model.opset_import}.get("", 0)
    low, high = table.opsets
    if not low <= opset <= high:
        findings.append(Finding("error", "model", f"operator set {opset}, TensorRT {line} reads {low} to {high}"))
    findings += _boundary(graph, free)
    for node in graph.model.graph.node:
        name = node.name or f"{node.op_type} {node.output[0]}"
        findings += (Finding(level, name, words) for level, words in _node(graph, node, table))
    return sorted(dict.fromkeys(findings), key=lambda each: each.level)  # "error" comes before "warning"


def typed(model: Any) -> Any:
    """A copy of the ModelProto with the types and shapes that ONNX infers, and those our plugins give."""
    onnx = need("onnx")
    made = onnx.ModelProto()
    made.CopyFrom(model)
    known = {entry.name for entry in (*made.graph.value_info, *made.graph.output)}
    inputs = {entry.name: entry for entry in (*made.graph.value_info, *made.graph.input)}
    for node in made.graph.node:
        if node.domain != DOMAIN or node.output[0] in known:
            continue
        if node.op_type == "LabelMap":  # int32 there, see csrc/tensorrt.cu
            sides = {attribute.name: attribute.i for attribute in node.attribute}
            shape = [None, sides["height"], sides["width"]]
            made.graph.value_info.append(onnx.helper.make_tensor_value_info(node.output[0], 6, shape))
        elif (like := inputs.get(node.input[2 if node.op_type == "BiWKV" else 0])) is not None:
            entry = made.graph.value_info.add()
            entry.CopyFrom(like)
            entry.name = node.output[0]
    return onnx.shape_inference.infer_shapes(made)


Words = Iterator[tuple[Level, str]]


def _boundary(graph: Graph, free: Collection[str]) -> Iterator[Finding]:
    """The inputs: no axis free but those of the profile, and uint8 is made a float at once."""
    for entry in graph.model.graph.input:
        name = entry.name
        for axis, length in enumerate(graph.shapes.get(name, [])):
            if not isinstance(length, int) and length not in free:
                yield Finding("error", name, f"axis {axis} ({length or 'unnamed'}) is free and in no profile")
        if graph.types.get(name) == "UINT8":
            for node in graph.readers.get(name, []):
                if node.op_type != "Cast":
                    yield Finding("error", name, f"uint8 goes into {node.op_type}; TensorRT takes a Cast to float only")


def _node(graph: Graph, node: Any, table: Support) -> Words:
    """Everything about one node."""
    if node.domain == DOMAIN and node.op_type in SIGNATURES:
        yield from _ours(graph, node)
        return
    entry = table.operators.get(node.op_type)
    if node.domain or entry is None:
        what = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
        yield "error", f"{what} is not in the table of TensorRT {table.tensorrt}"
        return
    if not entry["types"]:
        yield "error", f"{node.op_type} has no importer in TensorRT {table.tensorrt}"
        return
    yield from _types(graph, node, entry)
    yield from _ranks(graph, node)
    for index in entry.get("constant", ()):
        name = graph.given(node, index)
        if name is not None and name not in graph.constants:
            yield "error", f"input {index} of {node.op_type} has to be a constant"
    yield from _one_side(graph, node)
    if node.op_type in RULES:
        yield from RULES[node.op_type](graph, node)


def _ours(graph: Graph, node: Any) -> Words:
    """A plugin: which of its inputs may be half (`roles` in csrc/tensorrt.cu)."""
    kinds = [graph.types.get(name) for name in node.input]
    plain = {"BiWKV": (0, 1), "SelectiveScan": (2, 5), "LabelMap": ()}[node.op_type]
    for index, kind in enumerate(kinds):
        if kind is not None and kind not in (("FP32",) if index in plain else ("FP32", "FP16")):
            yield (
                "error",
                f"input {index} of {node.op_type} is {kind}; its plugin takes FP32{'' if index in plain else ' or FP16'}",
            )


def _types(graph: Graph, node: Any, entry: Mapping[str, Any]) -> Words:
    """The type of what an operator works on, and that strong typing finds one type where there has to be one."""
    kinds = [graph.types.get(name) for name in node.input if name]
    made = [graph.types.get(name) for name in node.output if name]
    for kind in {*kinds[:1], *made[:1]} - {None, *entry["types"]} if node.op_type not in CODED else ():
        yield "error", f"{node.op_type} of {kind}; TensorRT has it for {', '.join(entry['types'])}"
    floats = {kind for kind in kinds if kind in FLOATS}
    if len(floats) > 1 and node.op_type not in MIXED:
        yield "error", f"{node.op_type} mixes {' and '.join(sorted(floats))} in a strongly typed network"
    if "FP64" in kinds or "FP64" in made:
        yield "error", f"{node.op_type} computes in FP64, which TensorRT cuts down to FP32"
    outputs = {entry.name for entry in graph.model.graph.output}
    if made[:1] == ["UINT8"]:
        if node.op_type != "Cast":
            yield "error", f"{node.op_type} gives UINT8; only a Cast may"
        elif kinds[0] not in (None, "FP32", "FP16"):
            yield "error", f"Cast of {kinds[0]} to UINT8; TensorRT has it for FP32 and FP16"
        if node.output[0] not in outputs:
            yield "error", f"{node.output[0]} is UINT8 within the network; it may only come out of it"


CODED = ("QuantizeLinear", "DequantizeLinear", "Shape", "Size", "Constant", "ConstantOfShape", "Where", "NonZero",
         "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "IsNaN", "IsInf", "ArgMax", "ArgMin", "Cast")  # fmt: skip
"""What gives another type than it takes; its own rules look at that, or there is nothing to say."""

MIXED = ("QuantizeLinear", "DequantizeLinear", "Resize", "BatchNormalization", "Loop", "If", "Scan", "Cast")
"""What may be given two types of floats (Resize: its scales; BatchNormalization: since 10.7)."""


def _ranks(graph: Graph, node: Any) -> Words:
    for name in node.output:
        if len(graph.shapes.get(name, ())) > RANK:
            yield "error", f"{name} has {len(graph.shapes[name])} axes, TensorRT at most {RANK}"


def attribute(node: Any, name: str, default: Any = None) -> Any:
    """An attribute of a node; text as text."""
    for entry in node.attribute:
        if entry.name == name:
            value = need("onnx").helper.get_attribute_value(entry)
            return value.decode() if isinstance(value, bytes) else value
    return default


TRANSFORMS = ("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners")
NEAREST = ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
INTERPOLATED = 3  # IResizeLayer: kLINEAR resizes at most the last three axes


def _kept(graph: Graph, node: Any) -> int:
    """How many axes from the first on a Resize leaves as they are, since its sizes begin with the shape of what it resizes."""
    sizes = graph.maker(graph.given(node, 3), "Concat")
    shape = graph.maker(sizes.input[0], "Shape") if sizes is not None else None
    if shape is None or shape.input[0] != node.input[0] or attribute(shape, "start", 0):
        return 0
    return int(attribute(shape, "end", 0))


def _resize(graph: Graph, node: Any) -> Words:
    for name, default, allowed in (
        ("mode", "nearest", ("nearest", "linear")),
        ("coordinate_transformation_mode", "half_pixel", TRANSFORMS),
        ("nearest_mode", "round_prefer_floor", NEAREST),
        ("keep_aspect_ratio_policy", "stretch", ("stretch",)),
        ("antialias", 0, (0,)),
    ):
        if (value := attribute(node, name, default)) not in allowed:
            yield "error", f"Resize with {name} {value}; TensorRT has {', '.join(map(str, allowed))}"
    before, after = (graph.shapes.get(name) for name in (node.input[0], node.output[0]))
    if attribute(node, "mode", "nearest") == "linear" and before and after:
        kept = _kept(graph, node)
        first = next(
            (axis for axis, pair in enumerate(zip(before, after, strict=True)) if axis >= kept and pair[0] != pair[1]),
            len(before),
        )
        if len(before) - first > INTERPOLATED:
            yield (
                "error",
                f"Resize interpolates from axis {first} of {len(before)}; TensorRT the last {INTERPOLATED} only",
            )


def _pool(graph: Graph, node: Any) -> Words:
    if len(attribute(node, "kernel_shape", [])) not in (2, 3):
        yield "error", f"{node.op_type} is in 2D or 3D only"
    if any(step != 1 for step in attribute(node, "dilations", None) or ()):
        yield "error", f"{node.op_type} takes no dilations"
    if any(node.output[1:]):
        yield "error", f"{node.op_type} gives no indices"


def _topk(graph: Graph, node: Any) -> Words:
    count = graph.constants.get(node.input[1])
    if count is not None and int(count.reshape(-1)[0]) >= TOPK:
        yield "error", f"TopK of {int(count.reshape(-1)[0])}; TensorRT stays below {TOPK}"
    if not attribute(node, "sorted", 1):
        yield "error", "TopK has to be sorted"


def _one_output(graph: Graph, node: Any) -> Words:
    if any(node.output[1:]):
        yield "error", f"{node.op_type} has its first output only"


def _grid(graph: Graph, node: Any) -> Words:
    if len(graph.shapes.get(node.input[0], [0] * 4)) != 4:
        yield "error", "GridSample takes four axes"


def _scatter(graph: Graph, node: Any) -> Words:
    if attribute(node, "reduction", "none") != "none":
        yield "error", "ScatterND takes no reduction"


def _free_length(graph: Graph, node: Any) -> Words:
    yield "warning", f"the length of what {node.op_type} gives depends on the data, which costs a copy to the host"


def _scales(graph: Graph, node: Any) -> Words:
    """A Q or a DQ: symmetric, with scales that are positive constants, one or, of a weight, one per channel."""
    scale, zero = graph.constants.get(node.input[1]), graph.given(node, 2)
    if scale is None:
        yield "error", f"the scale of {node.op_type} is not a constant"
    elif not bool((scale > 0).all() and np.isfinite(scale).all()):
        yield "error", f"{node.op_type} has a scale that is not positive"
    if zero is not None:
        value = graph.constants.get(zero)
        if value is None or value.any():
            yield "error", f"{node.op_type} has a zero point other than 0; TensorRT quantises symmetrically"
        elif scale is not None and scale.size != value.size:
            yield "error", f"{node.op_type} has {scale.size} scales and {value.size} zero points"
    if scale is not None and scale.size > 1:
        yield from _channels(graph, node, scale)
    kind = graph.types.get(node.output[0] if node.op_type == "QuantizeLinear" else node.input[0])
    if kind is not None and kind not in ("INT8", "FLOAT8E4M3FN", "INT4", "FLOAT4E2M1"):
        yield "error", f"{node.op_type} with {kind}; TensorRT quantises to INT8, FP8 or INT4"


def _channels(graph: Graph, node: Any, scale: NDArray[Any]) -> Words:
    if node.input[0] not in graph.constants:
        yield "error", f"{node.op_type} of an activation has a scale per channel; TensorRT takes one for all"
        return
    shape, axis = graph.shapes[node.input[0]], attribute(node, "axis", 1)
    if scale.ndim == 1 and (not -len(shape) <= axis < len(shape) or shape[axis] != scale.size):
        yield "error", f"{node.op_type} has {scale.size} scales along axis {axis} of {shape}"


def _quantise(graph: Graph, node: Any) -> Words:
    """A Q: nothing but a DQ takes what it gives."""
    yield from _scales(graph, node)
    takers = {reader.op_type for reader in graph.readers.get(node.output[0], [])} - {"DequantizeLinear"}
    if node.output[0] in {entry.name for entry in graph.model.graph.output}:
        takers.add("the output")
    for taker in sorted(takers):
        yield "error", f"{taker} takes what QuantizeLinear gives; TensorRT wants a DequantizeLinear in between"


def _dequantise(graph: Graph, node: Any) -> Words:
    """A DQ: of a constant, or of what a Q gives, at the same scale."""
    yield from _scales(graph, node)
    if node.input[0] in graph.constants:
        return
    maker = graph.maker(node.input[0], "QuantizeLinear")
    if maker is None:
        yield "error", "DequantizeLinear of what no QuantizeLinear gives"
        return
    before, after = (graph.constants.get(each.input[1]) for each in (maker, node))
    if before is not None and after is not None and not np.array_equal(before, after):
        yield "warning", "DequantizeLinear has another scale than its QuantizeLinear"


PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
MOVES = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Concat", "Identity", "MaxPool")
"""What Q and DQ pass: TensorRT moves them to the other side."""

ACTIVATIONS = ("Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Gelu", "Elu")


def _rounded(graph: Graph, name: str, constants: bool = False) -> Any:
    """The DQ that a value comes from, if it does; of a constant only where that is asked for."""
    maker = graph.maker(name, "DequantizeLinear")
    return maker if maker is not None and (constants or maker.input[0] not in graph.constants) else None


def _one_side(graph: Graph, node: Any) -> Words:
    """An operator without weights: integer on both sides or on none, or else its Q and DQ are layers of their own."""
    if node.op_type in (*PRODUCTS, *MOVES, "QuantizeLinear", "DequantizeLinear"):
        return
    if any(_rounded(graph, name) is not None for name in node.input) and not _is_rounded(graph, node.output[0]):
        yield "warning", f"{node.op_type} takes rounded numbers and gives floats; TensorRT fuses neither"


def _is_rounded(graph: Graph, name: str) -> bool:
    """Whether a value, or what becomes of it in an activation, is only ever taken rounded."""
    readers = graph.readers.get(name, [])
    return bool(readers) and all(
        reader.op_type == "QuantizeLinear" or (reader.op_type in ACTIVATIONS and _is_rounded(graph, reader.output[0]))
        for reader in readers
    )


def _sum(graph: Graph, node: Any) -> Words:
    """A product and the sum that it goes into are one layer, if Q and DQ are on the other summand only."""
    whole = [_rounded(graph, name) for name in node.input]
    for each in whole if None not in whole else ():
        rounding = graph.maker(each.input[0], "QuantizeLinear")
        product = graph.maker(rounding.input[0], *PRODUCTS) if rounding is not None else None
        if product is not None and all(len(graph.readers[name]) == 1 for name in (*rounding.output, *each.output)):
            yield "warning", f"{product.op_type} is rounded before {node.op_type}, so TensorRT does not fuse the two"
            return


def _quantised(graph: Graph, node: Any) -> Words:
    """Where Q and DQ stand around a product: on both sides or on none, a scale per channel on the channels, none on the bias."""
    pair = [_rounded(graph, graph.given(node, index) or "", constants=True) for index in (0, 1)]
    if node.op_type != "MatMul" and _rounded(graph, graph.given(node, 2) or "", constants=True) is not None:
        yield "error", f"the bias of {node.op_type} is quantised; TensorRT wants it as it is"
    if sum(each is not None for each in pair) == 1:
        side = "activation" if pair[0] is None else "weight"
        yield "warning", f"the {side} of {node.op_type} is not quantised, so it runs in floats"
    weight = pair[1]
    if weight is None or np.size(graph.constants.get(weight.input[1], 0)) == 1:
        return
    rank = len(graph.shapes.get(weight.input[0], ())) or 2
    if node.op_type == "Gemm":
        channels = 0 if attribute(node, "transB", 0) else 1
    else:
        channels = {"Conv": 0, "ConvTranspose": 1, "MatMul": rank - 1}[node.op_type]
    if attribute(weight, "axis", 1) % rank != channels:
        yield (
            "error",
            f"the scales of {node.op_type}'s weight are along axis {attribute(weight, 'axis', 1)}, not its channels' {channels}",
        )


RULES: dict[str, Callable[[Graph, Any], Words]] = {
    "Resize": _resize, "AveragePool": _pool, "MaxPool": _pool, "TopK": _topk, "GridSample": _grid, "ScatterND": _scatter,
    "LayerNormalization": _one_output, "NonZero": _free_length, "NonMaxSuppression": _free_length,
    "QuantizeLinear": _quantise, "DequantizeLinear": _dequantise, "Add": _sum,
    "Conv": _quantised, "ConvTranspose": _quantised, "Gemm": _quantised, "MatMul": _quantised,
}  # fmt: skip
"""Operator -> what the words of the table say of it, as a check."""
