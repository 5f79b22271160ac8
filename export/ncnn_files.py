"""ncnn's two files: what phones and boards execute with layers written by hand for their processors."""

from __future__ import annotations

import re
import signal
import subprocess
import tempfile
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torch.fx import GraphModule

from edgeseg.errors import EdgesegError, need
from edgeseg.export.deployed import PLACES, Interface, Network
from edgeseg.export.known_bad import module_of, refuse_known_bad
from edgeseg.export.ncnn_network import for_pnnx, ours
from edgeseg.export.target import Target, Written, card, register
from edgeseg.manifest import Fact
from edgeseg.runtimes.base import PLUGIN, listing
from edgeseg.runtimes.ncnn_net import BIN, PARAM, Card, Layer, Place, layers, params_line

LIMIT_S = 900.0
"""How long pnnx may take: seconds for the students here, but more than in proportion to what was traced: 14,000 nodes took over 200."""


@register()
@dataclass(frozen=True)
class Ncnn(Target):
    """ncnn's files of one size: `fp16` stores weights as float16, and on processors that have it what layers hand on as well.

    Not where prompts or operators of ours come in: places of pixels, and exponentials and long sums, leave its range, and an
    emulated Cortex-A76 answered with NaN. Sums are always float32 (runtimes/ncnn_net.py).
    """

    name: ClassVar[str] = "ncnn"
    tools: ClassVar[tuple[str, ...]] = ("torch", "pnnx", "ncnn")
    modules: ClassVar[tuple[str, ...]] = ("pnnx", "ncnn")
    interface: ClassVar[Interface] = Interface(image="planes", labels="host", places=PLACES)
    one_size: ClassVar[str] = "pnnx writes the size of every enlargement into the file"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ops == PLUGIN:
            raise EdgesegError("ncnn runs our operators as its own layers and has no plugin; choose ops auto or graph")

    def write(self, network: Network, folder: Path) -> Written:
        """`model.ncnn.param`, whose last line says what it is of, and `model.ncnn.bin`."""
        need("ncnn")
        feeds = network.feeds()
        program = torch.export.export(network.eval(), tuple(feeds.values()))
        refuse_known_bad(program, self.name)
        if self.precision == "fp16":
            refuse_tiny(program)
        made = converted(for_pnnx(program), tuple(feeds.values()), self.precision == "fp16")
        found = layers(made.param)
        refuse_unknown(found, program)
        operators = ours(program)
        bears = self.precision == "fp16" and not operators and all(feed.ndim == 4 for feed in feeds.values())
        line = params_line(described(network, feeds, made, bears))
        (folder / PARAM).write_text(f"{made.param}{line}\n", encoding="ascii")
        (folder / BIN).write_bytes(made.weights)
        return Written([PARAM, BIN], operators, counted(found))


NORMAL = 2.0**-14
"""The least float16 with all its bits: pnnx stores smaller ones as 0."""

LOST = 0.01
"""The share of a layer's weights, by root mean square, that may be lost so."""

DEAD = 2.0**-24
"""Weights below that are 0 in any float16: a layer that training switched off."""


def refuse_tiny(program: torch.export.ExportedProgram) -> None:
    """Raise where float16 as pnnx writes it has no room for a layer's weights, which comes of inputs that are as large.

    Raises:
        EdgesegError: with the first such weight.
    """
    for name, weight in program.state_dict.items():
        if weight.ndim < 2 or not weight.is_floating_point() or weight.abs().max() < DEAD:
            continue
        lost = torch.where(weight.abs() < NORMAL, weight, 0.0).norm() / weight.norm()
        if lost > LOST:
            raise EdgesegError(
                f"pnnx stores float16 weights below {NORMAL:.1e} as 0, which takes {100 * lost:.0f} % of {name} away; export fp32"
            )


@dataclass(frozen=True)
class Converted:
    """What pnnx made: the text of `.param`, the bytes of `.bin`, and its script, which says where each array has its batch."""

    param: str
    weights: bytes
    script: str
    shapes: list[list[int]]


def converted(module: GraphModule, inputs: tuple[Tensor, ...], half: bool) -> Converted:
    """Trace a module and turn it into ncnn's files.

    Raises:
        EdgesegError: pnnx failed, or said nothing for too long.
    """
    with tempfile.TemporaryDirectory() as name, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracer, about sizes that are constants here, and about itself
        folder = Path(name)
        outputs = module(*inputs)
        torch.jit.trace(module, inputs, check_trace=False).save(str(folder / "model.pt"))
        shapes = ",".join(f"[{','.join(map(str, each.shape))}]f32" for each in inputs)
        run_pnnx(folder, "model.pt", f"inputshape={shapes}", f"fp16={int(half)}")
        return Converted(
            (folder / PARAM).read_text(encoding="ascii"),
            (folder / BIN).read_bytes(),
            (folder / "model_ncnn.py").read_text(encoding="utf-8"),
            [list(each.shape) for each in ((outputs,) if isinstance(outputs, Tensor) else outputs)],
        )


def run_pnnx(folder: Path, *arguments: str) -> None:
    """Run the program in a folder, which it fills with more than is asked for.

    Raises:
        EdgesegError: with its last words.
    """
    command = [str(need("pnnx").EXEC_PATH), *arguments]
    try:
        done = subprocess.run(
            command, cwd=folder, timeout=LIMIT_S, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
    except subprocess.TimeoutExpired:
        raise EdgesegError(f"pnnx was stopped after {LIMIT_S:.0f} s; export a smaller size") from None
    if done.returncode or not (folder / PARAM).exists():
        words = [line.strip() for line in done.stdout.decode("utf-8", "replace").splitlines() if line.strip()]
        last = words[-1][:300] if words else "it said nothing"
        code = done.returncode
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        raise EdgesegError(f"pnnx cannot convert the network: it {how}; its last words: {last}")


def refuse_unknown(found: list[Layer], program: torch.export.ExportedProgram) -> None:
    """Raise for the first layer that ncnn does not have: pnnx writes what it cannot convert under PyTorch's name.

    Raises:
        EdgesegError: with the operator and the module of the network that it probably comes from.
    """
    has = need("ncnn").layer_to_index
    unknown = [layer for layer in found if has(layer.kind) < 0]
    for layer in sorted(
        unknown, key=lambda layer: layer.kind.startswith("pnnx.")
    ):  # what has no name of its own comes last
        word = re.split(r"::|\.", layer.kind)[-1]
        places = [module_of(node) for node in program.graph.nodes if f".{word}." in f".{node.target}."]
        where = places[0] if places else f"layer {layer.name} {layer.options}".strip()[:200]
        raise EdgesegError(f"ncnn has no layer for {layer.kind} in {where}; do without this operator")


def described(network: Network, feeds: dict[str, Tensor], made: Converted, bears: bool) -> Card:
    """What a runtime has to know of the files, and what they are of."""
    inputs = {
        name: Place(f"in{index}", list(feed.shape), batch_axis(made.script, f"in{index}"))
        for index, (name, feed) in enumerate(feeds.items())
    }
    outputs = {
        name: Place(f"out{index}", shape, batch_axis(made.script, f"out{index}"))
        for index, (name, shape) in enumerate(zip(network.outputs, made.shapes, strict=True))
    }
    return Card(inputs, outputs, bears, card(network))


def batch_axis(script: str, blob: str) -> int | None:
    """Which axis of an array pnnx took for the batch, which ncnn keeps apart; null: none.

    Read from the script that pnnx writes beside the files:  ex.input("in0", ncnn.Mat(in0.numpy(), batch_index=0).clone())
    """
    found = re.search(rf"\b{blob}\.numpy\((?:batch_index=|\), batch_index=)(\d+)\)", script)
    if found:
        return int(found[1])
    if f"{blob}.numpy()" not in script:
        raise EdgesegError(
            f"pnnx {need('pnnx').__version__} does not say what {blob} is; install the version of the README"
        )
    return None


def counted(found: list[Layer]) -> dict[str, Fact]:
    """How many layers of which kind, and how many only turn arrays."""
    kinds = Counter(layer.kind for layer in found)
    return {"layers": kinds.total(), "transposes": kinds["Permute"], "layer_kinds": listing(kinds)}
