"""ONNX files: what ONNX Runtime executes, and the way to every runtime that reads them."""

from __future__ import annotations

import json
import logging
import re
import warnings
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar

import torch

from edgeseg.errors import EdgesegError, need
from edgeseg.export.deployed import Network
from edgeseg.export.operators import Forms, give_bodies, used
from edgeseg.export.target import Target, Written, card, register
from edgeseg.kernels.onnx_function import SIGNATURES, translations

FORMS = Forms(wkv="closed", label_map="at_once")
"""What ONNX Runtime does fastest on a processor: cumulative sums, and enlarging with the classes innermost."""


@register("onnx")
@dataclass(frozen=True)
class OnnxRuntime(Target):
    """An ONNX file for ONNX Runtime. `opset` is the version of the operator set, 18 to 23."""

    name: ClassVar[str] = "onnxruntime"
    tools: ClassVar[tuple[str, ...]] = ("torch", "onnx", "onnxscript", "onnxslim", "onnxruntime")
    modules: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript", "onnxslim", "onnxruntime")
    opset: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 18 <= self.opset <= 23:
            raise EdgesegError(f"opset {self.opset} is not within 18..23, what PyTorch writes and ONNX Runtime reads")

    def write(self, network: Network, folder: Path) -> Written:
        """`model.onnx`."""
        need("onnxruntime")
        model = to_onnx(network, self.opset)
        sites = give_bodies(model, FORMS, self.opset)
        need("onnx").checker.check_model(model, full_check=True)
        if self.precision == "fp16":
            model = in_half(model)
        need("onnx").save(model, folder / "model.onnx")
        return Written(["model.onnx"], used(sites))


def to_onnx(network: Network, opset: int) -> Any:
    """The network as a simplified ONNX ModelProto that carries its own description; our nodes are still without bodies."""
    onnx, onnxslim = need("onnx"), need("onnxslim")
    program = _quiet_export(network, opset)
    model = onnxslim.slim(program.model_proto)
    got = {entry.domain: entry.version for entry in model.opset_import}.get("", 0)
    if got != opset:  # the exporter logs a failed down-conversion and writes another version without raising
        raise EdgesegError(f"PyTorch wrote operator set {got} instead of {opset}; choose opset {got}")
    onnx.helper.set_model_props(model, {"edgeseg": json.dumps(card(network))})
    model.producer_name = "edgeseg"
    return model


def in_half(model: Any) -> Any:
    """The ModelProto with weights and arithmetic in float16; what goes in and comes out, and our operators, stay float32."""
    need("onnxruntime")
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    kept = [*DEFAULT_OP_BLOCK_LIST, *SIGNATURES]  # their sums need float32
    return convert_float_to_float16(model, keep_io_types=True, op_block_list=kept)


def _quiet_export(network: Network, opset: int) -> Any:
    """Run PyTorch's exporter without its remarks about packages and deprecations that are not the user's to mend."""
    need("onnxscript")
    feeds = network.feeds()
    if (
        network.sizes is not None and network.sizes.batch > 1
    ):  # PyTorch takes an axis of length 1 for one that is always 1
        feeds = {name: value.expand(2, *value.shape[1:]).contiguous() for name, value in feeds.items()}
    lengths = {length for axes in network.dynamic.values() for length in axes.values()}
    dims = {one: one.step * torch.export.Dim(one.name, min=one.least, max=one.most) for one in lengths}
    free = tuple({axis: dims[length] for axis, length in network.dynamic.get(name, {}).items()} for name in feeds)
    taken = next(iter(signature(network.forward).parameters.values()))
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.onnx.export(
                network.graph,
                tuple(feeds.values()),
                dynamo=True,
                opset_version=opset,
                input_names=list(feeds),
                output_names=network.outputs,
                custom_translation_table=translations(),
                dynamic_shapes={taken.name: free if taken.kind is taken.VAR_POSITIONAL else free[0]}
                if network.dynamic
                else None,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise EdgesegError(f"ONNX has no form for the network: {_deepest(error)}") from error
    finally:
        logger.setLevel(level)


def _deepest(error: BaseException) -> str:
    """The first line of what was wrong at first, and the operator that it was about; what PyTorch says above are general hints."""
    about = ""
    while error.__cause__ is not None:
        error = error.__cause__
        node = re.search(r"call_function\[target=([^\]]+)\]", str(error))
        about = f" ({node[1]})" if node else about
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"{line}{'' if about.strip(' ()') in line else about}"
