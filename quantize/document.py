"""What is kept of a quantization: enough to make the integer graph of a run again, anywhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgeseg import schema
from edgeseg.files import read_json
from edgeseg.manifest import QUANTIZATION
from edgeseg.quantize.scheme import Recipe
from edgeseg.schema import STRICT

DOCUMENT = QUANTIZATION
"""The file of an artifact that makes its integer graph again from its run."""


@dataclass(frozen=True)
class Quantization:
    """How a network became one of whole numbers.

    scales: value -> scale and zero; `graph.keys` names the values.
    biases: layer -> what was added to each of its biases, to make up for the mean error of its rounded weights.
    layers: modules whose weights are rounded; the others with weights are in `float_layers`.
    """

    __pydantic_config__ = STRICT
    schema: int
    kind: Literal["quantization"]
    target: str
    precision: str
    recipe: Recipe
    scales: dict[str, tuple[float, int]]
    biases: dict[str, list[float]]
    layers: list[str]
    float_layers: list[str]


def read(folder: Path) -> Quantization | None:
    """The document in an artifact's folder; null for one that was not quantized."""
    file = folder / DOCUMENT
    return schema.parse(Quantization, read_json(file), str(file)) if file.exists() else None
