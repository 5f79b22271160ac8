"""`manifest.json`: everything an artifact remembers about itself. What is not known is null, never invented."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, Literal

from edgeseg.errors import EdgesegError
from edgeseg.ledger import Ledger
from edgeseg.provenance import MadeBy
from edgeseg.schema import STRICT

SCHEMA = 1

Fact = float | int | bool | str | None
"""What a manifest says of a conversion, under a name."""


QUANTIZATION = "quantization.json"
"""How whole numbers were made (`edgeseg.quantize.document`): among the files, but nothing that is executed."""


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
class Sizes:
    """What a file takes beside its usual size: (height, width) from `least` to `most`, and up to `batch` images at once."""

    __pydantic_config__ = STRICT
    least: tuple[int, int]
    most: tuple[int, int]
    batch: int = 1

    def __post_init__(self) -> None:
        if not all(0 < low <= high for low, high in zip(self.least, self.most, strict=True)) or self.batch < 1:
            raise EdgesegError(f"sizes go from a small (height, width) to a large one, and batches from 1; got {self}")

    def nearest(self, size: tuple[int, int], step: int) -> tuple[int, int]:
        """Of the sizes in steps of `step` the nearest to (height, width)."""
        sides = zip(size, self.least, self.most, strict=True)
        height, width = (min(max(round(side / step) * step, low), high) for side, low, high in sides)
        return height, width

    def __str__(self) -> str:
        span = "-".join(f"{height}x{width}" for height, width in dict.fromkeys((self.least, self.most)))
        return span if self.batch == 1 else f"{span}-batch{self.batch}"


@dataclass(frozen=True)
class InputSpec:
    """The one input: uint8 `[1, H, W, 3]` where `pre` is baked in, else RGB scaled to 0..1, minus mean, over std, as `layout` says.

    shape: the usual one, which is measured and proven first.
    sizes: what else the file takes, in steps of `step` pixels each way; null: nothing.
    colour: BGR where `bgr` is baked in as well. mean, std: in the order RGB, always.
    """

    __pydantic_config__ = STRICT
    name: str
    shape: list[int]
    layout: Literal["NHWC", "NCHW"]
    dtype: Literal["uint8", "float32", "float16"]
    colour: Literal["RGB", "BGR"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    baked: list[str]
    sizes: Sizes | None = None
    step: int = 1


@dataclass(frozen=True)
class OutputSpec:
    """The output: `logits [1, classes, H, W]` (or as `layout` says) or `labels [1, H, W]`; of a promptable artifact what one prompt gives.

    That is `masks`, logits `[1, masks, H, W]`, or with labels baked in the best of them as 0 and 1 `[1, H, W]`.
    """

    __pydantic_config__ = STRICT
    name: str
    kind: Literal["logits", "labels", "masks"]
    shape: list[int]
    dtype: Literal["float32", "float16", "uint8", "int32"]
    layout: Literal["NHWC", "NCHW"] = "NCHW"


@dataclass(frozen=True)
class Decoder:
    """The second network of a promptable artifact; the first one makes its `maps` from the image.

    Its inputs are the maps, `points [P, N, 2]` float32 (x, y in pixels of the artifact's input) and `labels [P, N]`
    float32 (1 object, 0 background, 2 and 3 corners of a box, -1 empty), P and N of any number; its outputs the masks
    `[P, ...]` as `OutputSpec` says and `quality [P, masks]`, the estimated IoU. With `places`, P is 1 and N is that many:
    the rest is labelled -2, not there. With `prompts`, P is at most that: more are asked one part after the other.
    """

    __pydantic_config__ = STRICT
    file: str
    maps: list[str]
    outputs: list[str]
    places: int | None = None
    prompts: int | None = None


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
class Enough:
    """The share of labels, 0..1, that stay in whole numbers with ranges from `count` images: mean, lowest, highest of the draws."""

    __pydantic_config__ = STRICT
    count: int
    kept: float
    low: float
    high: float


@dataclass(frozen=True)
class Calibration:
    """The images an integer artifact was calibrated on.

    classes: class -> its share of their labelled pixels; 0 for one that none of them shows.
    sizes:   of the files, before they were resized to the artifact's.
    doubts:  why nothing that was calibrated on them can be trusted.
    curve:   what fewer of them do; empty where nobody asked.
    """

    __pydantic_config__ = STRICT
    data: str
    files: list[str]
    sha256: str
    count: int
    overlaps_test: bool
    classes: dict[str, float] = field(default_factory=dict)
    sizes: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    curve: list[Enough] = field(default_factory=list)


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
    """The document beside an artifact's files.

    conversion: what its target says of how it was written: `seconds`, and what else that format is asked for.
    """

    __pydantic_config__ = STRICT
    schema: int
    created: str
    edgeseg: MadeBy
    student: StudentCard
    source: Source
    input: InputSpec
    output: OutputSpec
    decoder: Decoder | None
    target: dict[str, Any]
    precision: Precision
    files: list[FileEntry]
    tools: dict[str, str]
    calibration: Calibration | None
    op_tiers: dict[str, str]
    ledger: Ledger | None
    accuracy: Accuracy | None
    conversion: dict[str, Fact] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """What records and evaluations call this artifact: the SHA-256 of its one file, or of the names and hashes of all.

        All, since the first may be a graph without weights (`model.xml`), which two trainings of a student have in common.
        """
        parts = sorted((entry.path, entry.sha256) for entry in self.files if entry.path != QUANTIZATION)
        if len(parts) < 2:
            return "".join(sha256 for _, sha256 in parts)
        return hashlib.sha256("".join(f"{sha256}  {path}\n" for path, sha256 in parts).encode()).hexdigest()
