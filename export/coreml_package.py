"""Core ML packages: what iPhones, iPads and Macs execute, on the Neural Engine where the precision is fp16."""

from __future__ import annotations

import json
import uuid
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from torch import nn

from edgeseg.errors import EdgesegError, need
from edgeseg.export.deployed import PLACES, Deployed, ImageNetwork, Interface, Network
from edgeseg.export.known_bad import refuse_known_bad
from edgeseg.export.target import Target, Written, register
from edgeseg.files import sha256
from edgeseg.manifest import Fact
from edgeseg.quantize.scheme import QUANTIZED
from edgeseg.runtimes.base import listing
from edgeseg.runtimes.coreml_model import ComputeUnits

PACKAGE = "model.mlpackage"
MODEL, WEIGHTS = "com.apple.CoreML/model.mlmodel", "com.apple.CoreML/weights"
"""Where coremltools puts the two items of a package, below `Data`."""

AUTHOR = "com.apple.CoreML"
Deployment = Literal["iOS16", "iOS17", "iOS18", "macOS13", "macOS14", "macOS15"]
"""The oldest system that a package runs on; macOS 13 takes what iOS 16 does, and so on."""

TRANSIENT = "com.github.apple.coremltools.conversion_date"
"""What coremltools notes that differs from day to day."""


@register()
@dataclass(frozen=True)
class CoreMl(Target):
    """A Core ML package of one size: `fp16` computes in float16, which the Neural Engine needs, `fp32` on the CPU or GPU.

    `int8` is float16 around its whole numbers, scales included, for the Neural Engine; `w8a32` only stores weights in 8 bits and
    computes as `fp32` does. What float16 does not bear stays float32 in either.

    deployment:    the oldest system it is for; whole numbers want iOS 17 or macOS 14.
    compute_units: what it may run on where it is opened by edgeseg; an app chooses for itself.
    """

    name: ClassVar[str] = "coreml"
    tools: ClassVar[tuple[str, ...]] = ("torch", "coremltools")
    modules: ClassVar[tuple[str, ...]] = ("coremltools",)
    interface: ClassVar[Interface] = Interface(image="planes", labels="int32", places=PLACES)
    one_size: ClassVar[str] = "its proof off a Mac interprets programs of fixed shapes"
    deployment: Deployment = "iOS17"
    compute_units: ComputeUnits = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        for option, kind in (("deployment", Deployment), ("compute_units", ComputeUnits)):
            if (given := getattr(self, option)) not in get_args(kind):
                raise EdgesegError(f"{option} is {', '.join(get_args(kind))}, got {given!r}")
        if self.precision in QUANTIZED and self.deployment in ("iOS16", "macOS13"):
            raise EdgesegError(f"{self.precision} wants deployment iOS17 or macOS14 at least, got {self.deployment!r}")
        if self.ops == "plugin":
            raise EdgesegError("Core ML packages take no operators of others; use ops auto or graph")

    def write(self, network: Network, folder: Path) -> Written:
        """`model.mlpackage`: standard operators only, float32 inside of those of ours that float16 does not bear."""
        from edgeseg.runtimes.mil_interpreter import quiet

        with quiet():
            need("coremltools")
        program, model = self.converted(network)
        parsed = model.get_spec()
        describe(parsed, network)
        files = write_package(folder / PACKAGE, parsed, Path(model.weights_dir))
        weights = sum((folder / PACKAGE / file).stat().st_size for file in files[2:])
        return Written([f"{PACKAGE}/{file}" for file in files], ours(program), counted(parsed, weights))

    def converted(self, network: Network) -> tuple[torch.export.ExportedProgram, Any]:
        """The network as PyTorch exports it, and as coremltools' model with the network's names."""
        from edgeseg.kernels.coreml_ops import convert, half_outside, scales_in_half

        feeds = {name: given.contiguous() for name, given in network.feeds().items()}
        precision = half_outside() if self.precision in ("fp16", "int8") else None
        for module in (network.graph, Apart(network.graph)):
            program = torch.export.export(module, tuple(feeds.values()))
            refuse_known_bad(program, self.name)
            if shares(program):
                continue
            if precision is not None:
                scales_in_half(program)
            io = {"inputs": _inputs(network, feeds), "outputs": _outputs(network, program)}
            model = convert(program, self.deployment, precision, **io)
            if [each.name for each in model.get_spec().description.output] == network.outputs:
                return program, model
        raise EdgesegError(f"coremltools does not keep the outputs {', '.join(network.outputs)} apart")


class Apart(nn.Module):
    """A network, and each of its outputs made by an operator of its own; coremltools gives a value no more than one name."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *feeds: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What the network gives."""
        made = self.network(*feeds)
        return tuple(each * 1 for each in (made if isinstance(made, tuple) else (made,)))


def shares(program: torch.export.ExportedProgram) -> bool:
    """Whether an output is also another one, or an input."""
    made = program.graph.output_node().args[0]
    return len(set(made)) < len(made) or any(each.op == "placeholder" for each in made)


def _inputs(network: Network, feeds: dict[str, torch.Tensor]) -> list[Any]:
    """Images where `pre` is baked in, else float32; coremltools would take float16 with `fp16`."""
    tools = need("coremltools")
    colour = network.colour if isinstance(network, ImageNetwork) else "RGB"
    return [
        tools.ImageType(name=name, shape=tuple(given.shape), color_layout=tools.colorlayout[colour])
        if name in pictures(network)
        else tools.TensorType(name=name, shape=tuple(given.shape), dtype=np.float32)
        for name, given in feeds.items()
    ]


def _outputs(network: Network, program: torch.export.ExportedProgram) -> list[Any]:
    """Named as the network names them: float32, or int32 where they are whole numbers."""
    tools = need("coremltools")
    made = [argument.meta["val"] for argument in program.graph.output_node().args[0]]
    return [
        tools.TensorType(name=name, dtype=np.float32 if value.is_floating_point() else np.int32)
        for name, value in zip(network.outputs, made, strict=True)
    ]


def pictures(network: Network) -> set[str]:
    """The inputs that the package takes as pictures."""
    return {"image"} if "pre" in network.bake and "image" in network.feeds() else set()


def ours(program: torch.export.ExportedProgram) -> list[str]:
    """The operators of ours in a program."""
    called = (str(node.target).split(".") for node in program.graph.nodes if node.op == "call_function")
    return sorted({words[1] for words in called if words[0] == "edgeseg"})


def describe(parsed: Any, network: Network) -> None:
    """Write into a parsed package what it is: its student, its classes, and every input and output in words."""
    about, student = parsed.description, network.student
    about.metadata.userDefined.pop(TRANSIENT, None)
    about.metadata.shortDescription = f"{student.name}, {student.task} segmentation"
    about.metadata.license = student.licence
    card = {
        "student": student.name,
        "class_names": list(student.class_names),
        "palette": [list(colour) for colour in student.palette],
        "mean": list(student.mean),
        "std": list(student.std),
        "baked": network.bake,
    }
    about.metadata.userDefined["edgeseg"] = json.dumps(card)
    for entry in (*about.input, *about.output):
        entry.shortDescription = in_words(entry.name, network)
    if isinstance(network, Deployed) and {"pre", "labels"} <= set(network.bake):
        about.metadata.userDefined.update(preview(network))


def in_words(name: str, network: Network) -> str:
    """What an input or output is, for people."""
    words = {
        "image": f"{network.colour} image"
        if isinstance(network, ImageNetwork) and pictures(network)
        else "RGB, scaled to 0..1, minus mean, over std, [1, 3, H, W]",
        "logits": "logits [1, classes, H, W]",
        "points": "(x, y) in pixels of the input, [1, places, 2]",
        "masks": "best mask as 0 and 1 [1, H, W]" if "labels" in network.bake else "logits [1, masks, H, W]",
        "quality": "estimated IoU [1, masks]",
        "labels": "number of the class of each pixel [1, H, W]"
        if name in network.outputs
        else "1 object, 0 background, 2 and 3 corners of a box, -1 empty, -2 not there, [1, places]",
    }
    return words.get(name, "map between encoder and decoder")


def preview(network: Network) -> dict[str, str]:
    """What Xcode draws a segmentation with.

    The keys are those of https://apple.github.io/coremltools/docs-guides/source/xcode-model-preview-types.html
    """
    student = network.student
    colours = ["#{:02X}{:02X}{:02X}".format(*colour) for colour in student.palette]
    return {
        "com.apple.coreml.model.preview.type": "imageSegmenter",
        "com.apple.coreml.model.preview.params": json.dumps({"labels": list(student.class_names), "colors": colours}),
    }


def write_package(package: Path, parsed: Any, weights: Path) -> list[str]:
    """Write a package whose bytes depend on nothing but its content, whose hash is in its manifest; its files, manifest first.

    coremltools' own way names the items by random numbers.
    """
    inner = package / "Data"
    (inner / MODEL).parent.mkdir(parents=True)
    (inner / MODEL).write_bytes(parsed.SerializeToString(deterministic=True))
    names = [MODEL]
    for file in sorted(weights.glob("*")):  # none where every constant is small
        names.append(f"{WEIGHTS}/{file.name}")
        (inner / WEIGHTS).mkdir(exist_ok=True)
        (inner / names[-1]).write_bytes(file.read_bytes())
    hashes = {name: sha256(inner / name) for name in names}
    items = {MODEL: "CoreML Model Specification"}
    if len(names) > 1:
        items[WEIGHTS] = "CoreML Model Weights"
    keys = {path: identifier(path, hashes) for path in items}
    manifest = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": {
            keys[path]: {"author": AUTHOR, "description": words, "name": Path(path).name, "path": path}
            for path, words in items.items()
        },
        "rootModelIdentifier": keys[MODEL],
    }
    (package / "Manifest.json").write_text(json.dumps(manifest, indent=4, sort_keys=True) + "\n", encoding="utf-8")
    return ["Manifest.json", *(f"Data/{name}" for name in names)]


def identifier(path: str, hashes: dict[str, str]) -> str:
    """The name of an item in a package's manifest: a UUID that stands for the bytes of its files."""
    inside = [hashes[name] for name in sorted(hashes) if name == path or name.startswith(f"{path}/")]
    return str(uuid.uuid5(uuid.NAMESPACE_OID, " ".join(inside))).upper()


def counted(parsed: Any, weights: int) -> dict[str, Fact]:
    """How many operators there are and which, in what the heavy ones compute, and the bytes of the weights."""
    from edgeseg.runtimes import agent, mil_interpreter

    declared = agent.declared(parsed)
    made = Counter(name for name, *_ in declared)
    words = ", ".join(f"{name} {count}" for name, count in sorted(made.items(), key=lambda item: (-item[1], item[0])))
    return {
        "operators": made.total(),
        "which_operators": words,
        "arithmetic": listing(mil_interpreter.counted(declared)),
        "specification": parsed.specificationVersion,
        "weight_bytes": weights,
    }
