"""What a runtime computes in whole numbers, and how: one row for each target and precision."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from edgeseg.errors import EdgesegError
from edgeseg.registry import Registry
from edgeseg.schema import STRICT

Ranges = Literal["auto", "minmax", "percentile", "mse", "entropy"]
"""How the range of an activation is taken from what was seen of it; `auto`: as keeps most labels (`edgeseg.quantize.choice`)."""

Whole = Literal["uint8", "int8", "int16"]

BOUNDS: dict[str, tuple[int, int]] = {"uint8": (0, 255), "int8": (-128, 127), "int16": (-32768, 32767)}
"""Type -> lowest and highest number."""

QUANTIZED = ("int8", "w8a16", "w8a32")
"""Precisions that need a quantizer: weights of 8 bits, and activations of 8, 16 (which no target does here) or as they were."""

ALSO = {"w8a8": "int8"}
"""Another word for a precision -> ours."""


@dataclass(frozen=True)
class Scheme:
    """How a target wants its numbers.

    activations: their type; null leaves them in float and only stores weights in 8 bits.
    symmetric:   zero is in the middle, which TensorRT and Core ML insist on.
    kinds:       the operators (`graph.KINDS`) that the runtime computes in whole numbers, and does not do slower for it.
    fused:       the functions (`graph.FUNCTIONS`) that it applies to a result before that is rounded.
    """

    activations: Whole | None
    symmetric: bool
    kinds: frozenset[str]
    fused: frozenset[str] = frozenset({"relu", "relu6"})


@dataclass(frozen=True)
class Recipe:
    """How a network is quantized.

    ranges:          how activations are clipped; `percentile` leaves out one value in 10,000.
    bias_correction: take the mean error that rounded weights make out of the biases; with `auto` ranges only if that helps.
    equalise:        give the channels between two convolutions the same range first (Nagel et al., arXiv:1906.04721).
    keep:            modules, by the names that `edgeseg info` prints, that stay in float, and what is inside them.
    output:          the layer that makes the logits is quantized too. By default it is not: it costs little, and rounding its
                     results makes ties between classes.
    """

    __pydantic_config__ = STRICT
    ranges: Ranges = "minmax"
    bias_correction: bool = True
    equalise: bool = False
    keep: tuple[str, ...] = ()
    output: bool = False

    @property
    def fixed(self) -> Recipe:
        """The same without a choice: `auto` is `minmax`."""
        return replace(self, ranges="minmax") if self.ranges == "auto" else self


CONVOLUTIONS = frozenset({"conv", "linear"})
ADDING = CONVOLUTIONS | {"add", "mul"}

SCHEMES: Registry[dict[str, Scheme]] = Registry("target that can be quantized for")
"""Target -> precision -> scheme."""

WEIGHTS = Scheme(None, True, CONVOLUTIONS)

# U8 activations: S8 ones are twice as slow on x86 (`VPMADDUBSW`). HardSwish has no kernel for whole numbers.
SCHEMES.add(
    "onnxruntime",
    {"int8": Scheme("uint8", False, ADDING | {"cat", "resize", "max_pool"}), "w8a32": WEIGHTS},
)
# oneDNN applies these to the sums of a convolution, which are of 32 bits.
POST = frozenset({"relu", "relu6", "hardswish", "hardsigmoid", "sigmoid", "silu", "gelu"})
SCHEMES.add(
    "openvino",
    {"int8": Scheme("uint8", False, ADDING | {"cat", "max_pool", "avg_pool", "mean"}, POST), "w8a32": WEIGHTS},
)
# With a float pool between rounded values the converter rounds before the pool, which clips what goes into it.
LITERT = ADDING | {"cat", "mean", "resize", "avg_pool", "max_pool"}
SCHEMES.add("litert", {"int8": Scheme("int8", False, LITERT), "w8a32": WEIGHTS})
SCHEMES.add("executorch", {"int8": Scheme("int8", False, ADDING | {"cat", "mean", "resize"})})
# Fuses a function with the product before it, and Q and DQ with sums and poolings that have them on both sides. Where a
# concatenation is told to be of whole numbers, it copies more than it has to (NVIDIA/TensorRT#4366).
SCHEMES.add("tensorrt", {"int8": Scheme("int8", True, ADDING | {"avg_pool", "max_pool"}, POST), "w8a32": WEIGHTS})
# What coremltools' own quantizer of activations puts in 8 bits, and the functions that it knows to be fused.
SCHEMES.add(
    "coreml",
    {
        "int8": Scheme(
            "int8",
            True,
            CONVOLUTIONS | {"add", "avg_pool", "max_pool"},
            frozenset({"relu", "relu6", "sigmoid", "hardsigmoid"}),
        ),
        "w8a32": WEIGHTS,
    },
)


def scheme_for(target: str, precision: str) -> Scheme:
    """The row of a target and precision.

    Raises:
        EdgesegError: the target cannot do that; the message has what it can.
    """
    if target not in SCHEMES:
        raise EdgesegError(
            f"{target} cannot be quantized for here; it can be exported as fp32 or fp16. There is {', '.join(SCHEMES)}"
        )
    rows = SCHEMES[target]
    if precision not in rows:
        raise EdgesegError(
            f"{target} has no {precision}; it can do {', '.join(rows)}, and fp32 and fp16 by `edgeseg export`"
        )
    return rows[precision]
