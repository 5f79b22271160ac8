"""LiteRT (TensorFlow Lite) files: what phones and boards execute with XNNPACK."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from edgeseg.errors import need
from edgeseg.export.deployed import PLACES, Interface, Network
from edgeseg.export.known_bad import refuse_known_bad
from edgeseg.export.litert_half import with_half_weights
from edgeseg.export.litert_inline import TFLITE_2_14, without_composites
from edgeseg.export.litert_real import in_real_numbers
from edgeseg.export.target import Target, Written, card, register
from edgeseg.kernels.litert_plugin import DOMAIN, read, written
from edgeseg.manifest import Fact
from edgeseg.runtimes.base import listing


@register("tflite")
@dataclass(frozen=True)
class LiteRt(Target):
    """A LiteRT file of one size: `fp16` stores weights as float16, which XNNPACK widens.

    ops: `graph` has no composites either, which TensorFlow Lite as it still is in many apps does not know (2.14 was tried).
    """

    name: ClassVar[str] = "litert"
    tools: ClassVar[tuple[str, ...]] = ("torch", "litert-torch", "ai-edge-litert")
    modules: ClassVar[tuple[str, ...]] = ("litert_torch", "ai_edge_litert")
    interface: ClassVar[Interface] = Interface(layout="NHWC", places=PLACES)
    one_size: ClassVar[str] = "a file of free sizes converts, and its runtime cannot reshape what XNNPACK took"

    def write(self, network: Network, folder: Path) -> Written:
        """`model.tflite`, with operators of ours as composites: a name and a body, which runs wherever LiteRT does."""
        import torch

        from edgeseg.kernels.litert_composite import convert

        need("litert_torch")
        feeds = network.feeds()
        program = torch.export.export(network.graph, tuple(feeds.values()))
        refuse_known_bad(program, self.name)
        made = described(convert(program, feeds), network)
        if self.precision == "fp16":
            made = with_half_weights(made)
        ours = composites(read(made))
        if self.ops == "graph":
            made = without_composites(made)
        if network.whole is not None:
            made = for_delegate(made)
        (folder / "model.tflite").write_bytes(made)
        return Written(["model.tflite"], ours, counted(read(made)) | partitioned(made))


def for_delegate(file: bytes) -> bytes:
    """A quantized file with as few parts as XNNPACK can execute it in: what it leaves over in whole numbers goes back into float."""
    parts, left, _ = partition(file)
    kinds = {name for name in left if name in REAL}
    if not kinds:
        return file
    other = in_real_numbers(file, kinds)
    return other if partition(other)[0] < parts else file


REAL = {
    "HARD_SWISH",
    "RELU",
    "RELU6",
    "RELU_N1_TO_1",
    "LOGISTIC",
    "TANH",
    "GELU",
    "AVERAGE_POOL_2D",
    "MAX_POOL_2D",
    "MEAN",
}
"""Operators without constants of their own, which may as well compute in float."""


def described(file: bytes, network: Network) -> bytes:
    """The file with the names of the network's outputs, and what it is of, in its own description."""
    schema = need("ai_edge_litert.schema_py_generated")
    model = read(file)
    signature = model.signatureDefs[0]
    for entry in signature.outputs:
        entry.name = network.outputs[int(entry.name.decode().rpartition("_")[2])].encode()  # output_0 and so on
    model.description = json.dumps({"edgeseg": card(network)}).encode()
    return written(schema, model)


def composites(model: Any) -> list[str]:
    """The operators of ours in a model."""
    names = {
        options.name.decode().removeprefix(DOMAIN)
        for graph in model.subgraphs
        for options in (node.builtinOptions2 for node in graph.operators)
        if isinstance(getattr(options, "name", None), bytes) and options.name.decode().startswith(DOMAIN)
    }
    return sorted(names)


def counted(model: Any) -> dict[str, Fact]:
    """How many operators the main graph has, how many of them only turn arrays, whether an old runtime knows them all."""
    numbers = vars(need("ai_edge_litert.schema_py_generated").BuiltinOperator)
    names = {number: name for name, number in numbers.items() if isinstance(number, int)}
    codes = [names.get(code.builtinCode, "?") for code in model.operatorCodes]
    found = Counter(codes[node.opcodeIndex] for node in model.subgraphs[0].operators)
    newest = max(code.builtinCode for code in model.operatorCodes)
    old = newest <= TFLITE_2_14
    return {"operators": found.total(), "transposes": found["TRANSPOSE"], "tflite_runtime_2_14": old}


def partitioned(file: bytes) -> dict[str, Fact]:
    """In how many parts XNNPACK takes the main graph, and the share of its operators that are in them."""
    parts, left, share = partition(file)
    return {"partitions": parts, "delegated": round(share, 4), "not_delegated": listing(dict(left))}


def partition(file: bytes) -> tuple[int, Counter[str], float]:
    """In how many parts XNNPACK takes the main graph, the operators that it leaves over, and the share of those that it takes."""
    interpreter = need("ai_edge_litert.interpreter").Interpreter(model_content=file, num_threads=1)
    interpreter.allocate_tensors()
    nodes = interpreter._get_ops_details()
    parts = [node for node in nodes if node["op_name"] == "DELEGATE"]
    plain = [node for node in nodes if node["op_name"] != "DELEGATE"]
    taken = {index for part in parts for index in _inside(part, plain)}
    left = Counter(node["op_name"] for index, node in enumerate(plain) if index not in taken)
    return len(parts), left, len(taken) / len(plain)


def _inside(part: dict[str, Any], plain: list[dict[str, Any]]) -> set[int]:
    """The operators between the inputs and the outputs of a delegated part."""
    makers = {int(made): index for index, node in enumerate(plain) for made in node["outputs"]}
    edge, found, open_ = set(map(int, part["inputs"])), set(), list(map(int, part["outputs"]))
    while open_:
        index = makers.get(open_.pop())
        if index is None or index in found:
            continue
        found.add(index)
        open_ += [int(tensor) for tensor in plain[index]["inputs"] if int(tensor) not in edge]
    return found
