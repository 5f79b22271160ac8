"""`manifest.json`: everything an artifact remembers about itself. What is not known is null, never invented."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from edgeseg.ledger import Ledger
from edgeseg.provenance import MadeBy
from edgeseg.schema import STRICT

SCHEMA = 1


@dataclass(frozen=True)
class StudentCard:
    """What the deployed network is. `palette` holds one RGB triple per class."""

    __pydantic_config__ = STRICT
    name: str
    task: str
    class_names: list[str]
    palette: list[tuple[int, int, int]]
    licence: str
    params: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    multiple: int


@dataclass(frozen=True)
class Source:
    """The run an artifact was made from, as it was given, and the SHA-256 of its `model.safetensors`."""

    __pydantic_config__ = STRICT
    run: str | None
    sha256: str | None


@dataclass(frozen=True)
class InputSpec:
    """The one input. `layout` NHWC takes uint8 RGB; NCHW takes RGB scaled to 0..1, minus mean, over std."""

    __pydantic_config__ = STRICT
    name: str
    shape: list[int]
    layout: Literal["NHWC", "NCHW"]
    dtype: Literal["uint8", "float32", "float16"]
    colour: Literal["RGB"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    baked: list[str]


@dataclass(frozen=True)
class OutputSpec:
    """The one output: `logits [1, classes, H, W]` or `labels [1, H, W]`."""

    __pydantic_config__ = STRICT
    name: str
    kind: Literal["logits", "labels"]
    shape: list[int]
    dtype: Literal["float32", "float16", "uint8"]


@dataclass(frozen=True)
class FileEntry:
    """A file of the artifact, relative to its folder."""

    __pydantic_config__ = STRICT
    path: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Precision:
    """What was asked for, and what the runtime said it executed when the artifact was verified."""

    __pydantic_config__ = STRICT
    asked: str
    executed: str | None


@dataclass(frozen=True)
class Calibration:
    """The images an integer artifact was calibrated on."""

    __pydantic_config__ = STRICT
    data: str
    files: list[str]
    sha256: str
    count: int
    overlaps_test: bool


@dataclass(frozen=True)
class Accuracy:
    """The task metric of this very artifact: mIoU in percent on `count` images of `split`."""

    __pydantic_config__ = STRICT
    metric: Literal["miou"]
    value: float
    data: str
    split: str
    count: int


@dataclass(frozen=True)
class Manifest:
    """The document beside an artifact's files."""

    __pydantic_config__ = STRICT
    schema: int
    created: str
    edgeseg: MadeBy
    student: StudentCard
    source: Source
    input: InputSpec
    output: OutputSpec
    target: dict[str, Any]
    precision: Precision
    files: list[FileEntry]
    tools: dict[str, str]
    calibration: Calibration | None
    op_tiers: dict[str, str]
    ledger: Ledger | None
    accuracy: Accuracy | None
