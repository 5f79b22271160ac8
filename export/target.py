"""A target is a value: a frozen dataclass whose type is the format and whose fields are its options."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from edgeseg import schema
from edgeseg.errors import EdgesegError
from edgeseg.export.deployed import NATURAL, Interface, Network
from edgeseg.manifest import Fact, Sizes
from edgeseg.quantize.scheme import ALSO, QUANTIZED, scheme_for
from edgeseg.registry import Registry
from edgeseg.runtimes.base import Ops
from edgeseg.schema import STRICT


@dataclass(frozen=True)
class Written:
    """What a target wrote: the names of its files, the one that runtimes open first, and the operators of ours in them.

    facts: what there is to say about the conversion, for the manifest, e.g. `transposes`.
    """

    files: list[str]
    operators: list[str] = field(default_factory=list)
    facts: dict[str, Fact] = field(default_factory=dict)


RANGES = "the ranges of its whole numbers are measured in a graph of one"
"""Why what is quantized has no free sizes."""


@dataclass(frozen=True)
class Target:
    """What every deployment format has. `name` is also the runtime that executes the result.

    tools:     distributions whose versions a manifest has; `modules` must be there to write.
    interface: how its files take images, labels and prompts.
    precision: fp32 or fp16 by export; int8 (weights and activations; w8a8 is taken for it) and w8a32 (weights alone) by quantizing.
    ops: how our operators run: `plugin`, `graph` (standard operators), or `auto`: the plugin where it can be had.
    sizes: what the file takes beside the size it is exported at; `one_size` says why a format has none.
    """

    __pydantic_config__ = STRICT
    name: ClassVar[str]
    tools: ClassVar[tuple[str, ...]]
    modules: ClassVar[tuple[str, ...]] = ()
    interface: ClassVar[Interface] = NATURAL
    one_size: ClassVar[str] = ""
    precision: Literal["fp32", "fp16", "int8", "w8a16", "w8a32"] = "fp32"
    ops: Ops = "auto"
    sizes: Sizes | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", ALSO.get(self.precision, self.precision))
        if self.precision not in ("fp32", "fp16", *QUANTIZED):
            raise EdgesegError(
                f"{self.name} exports fp32 or fp16, and quantizes to {', '.join(QUANTIZED)}; got precision {self.precision!r}"
            )
        if self.precision in QUANTIZED:
            scheme_for(self.name, self.precision)
        if self.ops not in get_args(Ops):
            raise EdgesegError(f"ops is {', '.join(get_args(Ops))}, got {self.ops!r}")
        if self.sizes is not None and (why := self.one_size or (self.precision in QUANTIZED and RANGES)):
            raise EdgesegError(
                f"{self.name} {self.precision} has one size: {why}; export each size by itself, got {self.sizes}"
            )

    @property
    def at_once(self) -> int | None:
        """The most prompts that a decoder with free axes answers at once; null: any number."""
        return None

    def write(self, network: Network, folder: Path) -> Written:
        """Write the network into `folder`."""
        raise TypeError(f"{type(self).__name__} does not say how it is written")

    def options(self) -> dict[str, Any]:
        """The target as it stands in a manifest."""
        return {"name": self.name, **dataclasses.asdict(self)}


def card(network: Network) -> dict[str, Any]:
    """What a file says about itself, for formats that have a place for it."""
    student = network.student
    return {
        "student": student.name,
        "class_names": list(student.class_names),
        "palette": [list(colour) for colour in student.palette],
        "mean": list(student.mean),
        "std": list(student.std),
        "licence": student.licence,
        "baked": network.bake,
    }


TARGETS: Registry[type[Target]] = Registry("target")
"""Name or alias -> target."""


def register(*aliases: str) -> Any:
    """Give a target its own name and these others."""

    def add(kind: type[Target]) -> type[Target]:
        for name in (kind.name, *aliases):
            TARGETS.add(name, kind)
        return kind

    return add


def from_options(options: dict[str, Any], where: str) -> Target:
    """The target a manifest describes."""
    given = dict(options)
    kind = TARGETS[str(given.pop("name", None))]
    return schema.parse(kind, given, where)
