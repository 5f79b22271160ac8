"""For TensorRT: an ONNX file that its parser takes. Engines fit one version on one kind of GPU, so `edgeseg build` makes them there.

The network is strongly typed, which is the only kind that TensorRT 11 has and which 10 has too: float16 is in the file or nowhere.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from edgeseg.errors import EdgesegError, need
from edgeseg.export.deployed import Length, Network
from edgeseg.export.onnx_file import in_half, to_onnx
from edgeseg.export.operators import Forms, give_bodies, inlined, used
from edgeseg.export.rewrites import cubic_weights
from edgeseg.export.target import Target, Written, register
from edgeseg.export.tensorrt_lint import Finding, Graph, attribute, lint, typed
from edgeseg.kernels.build import SOURCES
from edgeseg.kernels.onnx_function import DOMAIN
from edgeseg.manifest import Fact

OPSET = 20
"""The newest operator set that both lines read; nothing in our networks gains from a newer one."""

FORMS = Forms(wkv="chunk", label_map="planes")
"""Products with triangles instead of cumulative sums, which TensorRT before 10.8 does slowly."""

UINT8, INT32, FLOAT = 2, 6, 1
"""ONNX's numbers of types."""

Line = Literal["10", "11"]


@register("engine", "trt")
@dataclass(frozen=True)
class TensorRt(Target):
    """An ONNX file for TensorRT.

    `int8` is in the file as Q and DQ with zero in the middle, and float32 is around them; `w8a32` only stores weights in 8 bits.

    line:    10 (JetPack 6 and 7, from 10.3 on) or 11.
    prompts: the most prompts that a promptable artifact's engine answers at once.
    places:  the most points of a prompt, corners of a box included.
    """

    name: ClassVar[str] = "tensorrt"
    tools: ClassVar[tuple[str, ...]] = ("torch", "onnx", "onnxscript", "onnxslim", "onnxruntime")
    modules: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript", "onnxslim", "onnxruntime")
    line: Line = "10"
    prompts: int = 64
    places: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.line not in get_args(Line):
            raise EdgesegError(f"line is {' or '.join(get_args(Line))}, got {self.line!r}")
        if self.prompts < 1 or self.places < 1:
            raise EdgesegError(f"an engine takes 1 prompt of 1 place at least, got {self.prompts} of {self.places}")

    @property
    def at_once(self) -> int | None:
        """As far as the engine's profile goes."""
        return self.prompts

    def write(self, network: Network, folder: Path) -> Written:
        """`model.onnx` and, where it has operators of ours, the sources of their plugins."""
        onnx = need("onnx")
        model = to_onnx(network, OPSET)
        sites = give_bodies(model, FORMS, OPSET)
        onnx.checker.check_model(model, full_check=True)
        cubic_as_products(model)
        if network.whole is not None:
            weights_turned(model)
        floats_first(model)
        if self.precision == "fp16":
            model = in_half(model)
        bytes_last(model)
        model = {"auto": lambda: model, "plugin": lambda: for_plugin(model), "graph": lambda: inlined(model)}[
            self.ops
        ]()
        free = {str(length) for axes in network.dynamic.values() for length in axes.values()}
        findings = lint(model, self.line, free)
        refuse(findings, self.line)
        onnx.save(model, folder / "model.onnx")
        ours = any(node.domain == DOMAIN for node in model.graph.node)
        plugin = copy_plugin(folder) if ours else []
        library = next((name for name in plugin if name.endswith(".so")), None)
        facts: dict[str, Fact] = {
            "opset": OPSET,
            "nodes": len(model.graph.node),
            "lint": len(findings),
            "lint_findings": in_words(findings),
            "plugin_library": library,
            **self.profile(network),
        }
        return Written(["model.onnx", *plugin], used(sites), facts)

    def profile(self, network: Network) -> dict[str, Fact]:
        """The least, likely and largest shapes of the inputs with free axes, as trtexec takes them; null without any."""
        bounds = {"prompts": (1, self.prompts), "places": (min(2, self.places), self.places)}
        feeds = network.feeds()
        facts: dict[str, Fact] = {}
        for index, name in enumerate(("min_shapes", "opt_shapes", "max_shapes")):

            def side(length: Length | None, usual: int, index: int = index) -> int:
                if length is None:
                    return usual
                likely, most = bounds.get(length.name, (usual, length.step * (length.most or 1)))
                return (length.step * length.least, likely, most)[index]

            shapes = {
                each: [side(axes.get(i), usual) for i, usual in enumerate(feeds[each].shape)]
                for each, axes in network.dynamic.items()
            }
            facts[name] = ",".join(f"{each}:{'x'.join(map(str, shape))}" for each, shape in shapes.items()) or None
        return facts


def shapes_of(text: str) -> dict[str, tuple[int, ...]]:
    """`points:1x2x2,labels:1x2`, as a manifest has it, by name."""
    pairs = (part.rsplit(":", 1) for part in text.split(","))
    return {name: tuple(map(int, sides.split("x"))) for name, sides in pairs}


def refuse(findings: list[Finding], line: str) -> None:
    """Raise for what TensorRT would not take.

    Raises:
        EdgesegError: with the first few findings.
    """
    errors = [str(finding) for finding in findings if finding.level == "error"]
    if errors:
        more = f" and {len(errors) - 3} more" if len(errors) > 3 else ""
        raise EdgesegError(f"TensorRT {line} does not take this network: {'; '.join(errors[:3])}{more}")


def in_words(findings: list[Finding]) -> str | None:
    """The findings for a manifest; what is said of many nodes is said once."""
    nodes: dict[str, list[str]] = {}
    for finding in findings:
        nodes.setdefault(finding.words, []).append(finding.node)
    more = {words: f" and {len(names) - 1} more" if len(names) > 1 else "" for words, names in nodes.items()}
    return "; ".join(f"{names[0]}{more[words]}: {words}" for words, names in nodes.items()) or None


def weights_turned(model: Any) -> None:
    """Turn the integer weights of a linear layer in the file, so that a DQ stands right before its product; in place.

    w [O,I] -> DequantizeLinear of axis 0 -> Transpose -> MatMul    becomes    w [I,O] -> DequantizeLinear of axis 1 -> MatMul
    """
    onnx, graph = need("onnx"), Graph(model)
    stored = {entry.name: entry for entry in model.graph.initializer}
    for node in [node for node in model.graph.node if node.op_type == "Transpose"]:
        real = graph.maker(node.input[0], "DequantizeLinear")
        weight = stored.get(real.input[0]) if real is not None else None
        if weight is None or len(weight.dims) != 2 or list(attribute(node, "perm", [1, 0])) != [1, 0]:
            continue
        if any(len(graph.readers[name]) > 1 for name in (weight.name, node.input[0])):
            continue  # somebody else takes it as it is
        axis = 1 - attribute(real, "axis", 1) % 2
        turned = np.ascontiguousarray(graph.constants[weight.name].T)
        weight.CopyFrom(onnx.numpy_helper.from_array(turned, weight.name))
        del real.attribute[:]
        real.attribute.append(onnx.helper.make_attribute("axis", axis))
        real.output[0] = node.output[0]
        model.graph.node.remove(node)


def cubic_as_products(model: Any) -> None:
    """Enlarge bicubically by products with constant weights, since TensorRT's parser has no cubic Resize; in place.

    x [B,K,h,w] -> Resize -> [B,K,H,W]    becomes    x -> MatMul by columns [w,W] -> MatMul of rows [H,h] -> [B,K,H,W]
    """
    onnx, graph = need("onnx"), Graph(typed(model))
    for index, node in reversed(list(enumerate(model.graph.node))):
        sides = _cubic(graph, node) if node.op_type == "Resize" else None
        if sides is None:
            continue
        align = attribute(node, "coordinate_transformation_mode", "") == "align_corners"
        rows, columns = (cubic_weights(inner, outer, align).numpy() for inner, outer in sides)
        made, half = node.output[0], f"{node.output[0]}_wide"
        names = f"{made}_rows", f"{made}_columns"
        for name, array in zip(names, (rows, np.ascontiguousarray(columns.T)), strict=True):
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        products = [([node.input[0], names[1]], half), ([names[0], half], made)]
        model.graph.node.remove(node)
        for place, (given, result) in enumerate(products):
            model.graph.node.insert(
                index + place, onnx.helper.make_node("MatMul", given, [result], name=f"{result}_product")
            )


def _cubic(graph: Graph, node: Any) -> list[tuple[int, int]] | None:
    """(inner, outer) of rows and of columns where a Resize is PyTorch's bicubic one of four fixed axes; else None."""
    plain = (
        attribute(node, "mode") == "cubic"
        and attribute(node, "coordinate_transformation_mode", "half_pixel")
        in ("half_pixel", "pytorch_half_pixel", "align_corners")
        and not attribute(node, "antialias", 0)
        and not attribute(node, "exclude_outside", 0)
        and abs(attribute(node, "cubic_coeff_a", -0.75) + 0.75) < 1e-6
    )
    before, after = (graph.shapes.get(name, []) for name in (node.input[0], node.output[0]))
    if not plain or len(before) != 4 or before[:2] != after[:2]:
        return None
    sides = [(inner, outer) for inner, outer in zip(before[2:], after[2:], strict=True)]
    scales = graph.constants.get(graph.given(node, 2) or "", np.array([]))
    ratios = [outer / inner if isinstance(inner, int) and isinstance(outer, int) else 0.0 for inner, outer in sides]
    if 0.0 in ratios or (scales.size and not np.allclose(scales.reshape(-1)[-2:], ratios, rtol=1e-6)):
        return None  # a scale that the lengths are not made of moves the samples
    return [(int(inner), int(outer)) for inner, outer in sides]


def floats_first(model: Any) -> None:
    """Make a uint8 input a float before anything else, for TensorRT takes it no other way; in place.

    image [1,H,W,3] uint8 -> Transpose -> Cast -> ...    becomes    image -> Cast -> Transpose -> ...
    """
    helper, graph = need("onnx").helper, model.graph
    for entry in graph.input:
        if entry.type.tensor_type.elem_type != UINT8:
            continue
        name = f"{entry.name}_float"
        floats = _follow(graph, entry.name)
        _rename(graph.node, entry.name, name)
        graph.node.insert(0, helper.make_node("Cast", [entry.name], [name], name=f"{name}_cast", to=FLOAT))
        for node in [node for node in graph.node if node.op_type == "Cast" and node.input[0] in {*floats, name}]:
            if node.attribute[0].i == FLOAT and node.output[0] not in {each.name for each in graph.output}:
                _rename(graph.node, node.output[0], node.input[0])
                graph.node.remove(node)
    _forget(graph, UINT8)


def _follow(graph: Any, name: str) -> set[str]:
    """The values that are a uint8 input, moved only."""
    reached = {name}
    for node in graph.node:  # they are in order
        if node.op_type in ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity") and node.input[0] in reached:
            reached.update(node.output)
    return reached - {name}


def bytes_last(model: Any) -> None:
    """Let labels become uint8 by way of a float, where they leave the network and nowhere else; in place.

    LabelMap -> labels    becomes    LabelMap -> int32 -> Cast -> float -> Cast -> labels    and so for any Cast to uint8.
    """
    helper, graph = need("onnx").helper, model.graph
    for function in model.functions:
        for node in function.node:
            if node.op_type == "Cast" and node.attribute[0].i == UINT8:
                node.attribute[0].i = INT32  # as the plugin gives it
    outputs = {entry.name for entry in graph.output}
    for index, node in reversed(list(enumerate(graph.node))):
        ours = node.op_type == "LabelMap" and node.domain == DOMAIN
        if not ours and not (node.op_type == "Cast" and node.attribute[0].i == UINT8):
            continue
        made, wide, real = node.output[0], f"{node.output[0]}_wide", f"{node.output[0]}_float"
        if ours:
            node.output[0] = wide
            graph.node.insert(index + 1, helper.make_node("Cast", [wide], [real], name=f"{real}_cast", to=FLOAT))
            graph.node.insert(index + 2, helper.make_node("Cast", [real], [made], name=f"{made}_cast", to=UINT8))
        else:
            graph.node.insert(index, helper.make_node("Cast", [node.input[0]], [real], name=f"{real}_cast", to=FLOAT))
            node.input[0] = real
        if made not in outputs:
            raise EdgesegError(f"{made} is uint8 within the network; TensorRT has uint8 only where it ends")
    _forget(graph, UINT8)


def _rename(nodes: Any, old: str, new: str) -> None:
    for node in nodes:
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = new


def _forget(graph: Any, kind: int) -> None:
    """Remove what was noted of values of a type that they no longer have."""
    kept = [entry for entry in graph.value_info if entry.type.tensor_type.elem_type != kind]
    del graph.value_info[:]
    graph.value_info.extend(kept)


def for_plugin(model: Any) -> Any:
    """The ModelProto without bodies, its nodes naming our plugins as every parser since 10.0 reads it."""
    helper, made = need("onnx").helper, need("onnx").ModelProto()
    made.CopyFrom(model)
    del made.functions[:]
    for node in made.graph.node:
        if node.domain == DOMAIN:
            node.overload = ""
            node.attribute.append(helper.make_attribute("plugin_namespace", DOMAIN))  # from the domain only since 10.10
    return made


def fitted(model: Any, plugin: bool) -> Any:
    """The ModelProto as any TensorRT since 10.0 reads it: nodes without bodies where the plugin is loaded, else standard operators."""
    if not model.functions:
        return model
    return for_plugin(model) if plugin else inlined(model)


def copy_plugin(folder: Path) -> list[str]:
    """Put the sources of the plugins into `folder/plugin`, and their library if it can be built here; the names.

    The library is for this machine's processor and for the GPUs of `tensorrt_plugin.ARCHES`; devices build their own.
    """
    from edgeseg.kernels import tensorrt_plugin

    place = folder / "plugin"
    place.mkdir()
    names = [shutil.copy2(SOURCES / name, place) for name in sources("tensorrt.cu")]
    with suppress(EdgesegError):  # no nvcc or no headers here: the manifest says null
        names.append(shutil.copy2(tensorrt_plugin.plugin(), place / "libedgeseg_tensorrt.so"))
    return [f"plugin/{Path(name).name}" for name in names]


def sources(name: str) -> list[str]:
    """A file of `csrc` and those that it includes."""
    found = [name]
    for each in found:  # grows on the way
        text = (SOURCES / each).read_text(encoding="utf-8")
        found += [other for other in re.findall(r'#include "([^"]+)"', text) if other not in found]
    return found


def profile_of(facts: Mapping[str, Fact], prefix: str = "") -> dict[str, tuple[tuple[int, ...], ...]]:
    """Input -> its least, likely and largest shape, from a manifest's facts; empty where all axes are fixed."""
    texts = [facts.get(f"{prefix}{name}") for name in ("min_shapes", "opt_shapes", "max_shapes")]
    if not all(texts):
        return {}
    least, likely, most = (shapes_of(str(text)) for text in texts)
    return {name: (least[name], likely[name], most[name]) for name in least}
