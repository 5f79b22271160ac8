"""ExecuTorch programs: what PyTorch's own runtime executes on phones and boards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, get_args

import torch

from edgeseg.errors import EdgesegError, need
from edgeseg.export.deployed import PLACES, Interface, Network
from edgeseg.export.known_bad import refuse_known_bad
from edgeseg.export.target import Target, Written, card, register
from edgeseg.kernels.executorch_runtime import Delegate, lower
from edgeseg.manifest import Fact
from edgeseg.runtimes.base import listing


@register("pte")
@dataclass(frozen=True)
class ExecuTorch(Target):
    """An ExecuTorch program of one size. `fp16` computes in float16 wherever the image is involved.

    delegate: what executes it: `xnnpack` on processors, `coreml` on Apple's devices, `vulkan` on GPUs of phones, `portable` for
              ExecuTorch's own kernels.
    ops:      a program names the kernels that it calls, and does not run where they are missing. So `auto` is `graph`, which
              runs anywhere, and `plugin` is for programs whose host registers our kernels.
    """

    name: ClassVar[str] = "executorch"
    tools: ClassVar[tuple[str, ...]] = ("torch", "executorch", "torchao")
    modules: ClassVar[tuple[str, ...]] = ("executorch",)
    interface: ClassVar[Interface] = Interface(places=PLACES)
    one_size: ClassVar[str] = "XNNPACK refuses the sizes of some networks when they run (error 0x10)"
    delegate: Delegate = "xnnpack"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.delegate not in get_args(Delegate):
            raise EdgesegError(f"delegate is {', '.join(get_args(Delegate))}, got {self.delegate!r}")

    def write(self, network: Network, folder: Path) -> Written:
        """`model.pte`."""
        need("executorch")
        # a program takes its inputs in the order of axes that it was exported with, and does not look whether they have it
        feeds = {name: example.contiguous() for name, example in network.feeds().items()}
        exported = torch.export.export(network.graph, tuple(feeds.values()))
        refuse_known_bad(exported, self.name)
        said = {**card(network), "inputs": list(feeds), "outputs": network.outputs}
        made = lower(exported, self.ops == "plugin", self.delegate, self.precision == "fp16", said)
        (folder / "model.pte").write_bytes(made.code)
        facts: dict[str, Fact] = {
            "delegated": round(made.delegated, 4),
            "partitions": made.parts,
            "not_delegated": listing(dict(made.left)),
            "plugin": made.plugin,
        }
        return Written(["model.pte"], made.operators, facts)
