"""Prove an artifact: run the trained student and what was made of it on the same images, and keep the ledger."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgeseg.artifact import Artifact
from edgeseg.data import Data, load_data
from edgeseg.errors import EdgesegError
from edgeseg.export.deployed import Deployed
from edgeseg.ledger import Hop, Ledger
from edgeseg.metrics import boundary_f, confusion, iou
from edgeseg.pictures import save_picture
from edgeseg.quantize.precision import MIN_PIXELS, PRECISIONS
from edgeseg.runtimes import pixels
from edgeseg.students import Student

IMAGES = 8
"""Images that an export is verified on, spread over the split."""

EVIDENCE = 3
"""Images whose masks are kept for people to look at."""

Array = NDArray[Any]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Picture:
    """An image to compare on, at the artifact's size: RGB `[H, W, 3]` and, where known, its true labels."""

    name: str
    image: NDArray[np.uint8]
    truth: NDArray[np.uint8] | None


@dataclass
class Comparison:
    """Adds up how one hop's outputs differ from those before it, image by image."""

    classes: int
    images: int = 0
    squares: float = 0.0
    energy: float = 0.0
    largest: float = 0.0
    logits: bool = True
    nonfinite: int = 0
    boundaries: list[float] = field(default_factory=list)
    matrix: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.matrix = np.zeros((self.classes, self.classes), np.int64)

    def add(self, before: Array, after: Array) -> None:
        """Count one image; outputs are `logits [1, K, H, W]` or `labels [1, H, W]`, labels win where one of them is."""
        self.images += 1
        self.nonfinite += sum(int(part.size - np.isfinite(part).sum()) for part in (before, after))  # labels hide NaN
        if before.ndim == after.ndim == 4:
            with np.errstate(invalid="ignore"):  # infinity minus infinity: counted above
                difference = after.astype(np.float64) - before
            self.squares += float(np.square(difference).sum())
            self.energy += float(np.square(before, dtype=np.float64).sum())
            self.largest = max(self.largest, float(np.abs(difference).max()))
        else:
            self.logits = False
        first, second = pixels.labels(before), pixels.labels(after)
        self.matrix += confusion(first, second, self.classes)
        self.boundaries.append(float(np.nanmean(boundary_f(first, second, self.classes))) / 100)

    def hop(self, name: str, precision: str, class_names: Sequence[str]) -> Hop:
        """The ledger's row, held to the tolerances of `precision`; NaN anywhere fails."""
        limit = PRECISIONS[precision]
        total = self.matrix.sum()
        same = float(np.trace(self.matrix) / total)
        each = iou(self.matrix) / 100
        judged = np.where(self.matrix.sum(0) + self.matrix.sum(1) >= MIN_PIXELS, each, np.nan)
        worst = int(np.nanargmin(judged)) if np.isfinite(judged).any() else None
        worst_iou = float(judged[worst]) if worst is not None else 1.0
        boundary = float(np.mean(self.boundaries))
        finite = self.nonfinite == 0
        rms = float(np.sqrt(self.squares / max(self.energy, 1e-30))) if self.logits and finite else None
        checks = (
            (self.nonfinite == 0, f"{self.nonfinite} values are NaN or infinite"),
            (
                not self.logits or (rms is not None and rms <= limit.relative_rms),
                f"logits differ by {rms} relative RMS, above {limit.relative_rms}",
            ),
            (
                same >= limit.same_label,
                f"only {100 * same:.3f} % of the pixels keep their label, below {100 * limit.same_label} %",
            ),
            (boundary >= limit.boundary_f, f"boundary F is {boundary:.4f}, below {limit.boundary_f}"),
            (
                worst_iou >= limit.worst_class_iou,
                f"class {class_names[worst or 0]} overlaps by {worst_iou:.4f} IoU, below {limit.worst_class_iou}",
            ),
        )
        reasons = [text for passed, text in checks if not passed]
        return Hop(
            name=name,
            precision=precision,
            images=self.images,
            relative_rms=rms,
            max_error=self.largest if self.logits and finite else None,
            same_label=same,
            boundary_f=boundary,
            worst_class=None if worst is None else class_names[worst],
            worst_class_iou=worst_iou,
            nonfinite=self.nonfinite,
            passed=not reasons,
            reasons=reasons,
        )


def verify_with(
    artifact: Artifact,
    against: Student,
    data: Data | None = None,
    split: str | None = None,
    count: int = IMAGES,
    progress: Progress | None = None,
) -> Artifact:
    """Verify on `count` images of `data` (its selection split by default), or on generated scenes."""
    where, pictures = choose(data or load_data("synthetic"), split, count, artifact.size)
    return verify_on(artifact, against, where, pictures, progress)


def verify_on(
    artifact: Artifact, against: Student, where: str, pictures: Sequence[Picture], progress: Progress | None = None
) -> Artifact:
    """The artifact with its ledger and evidence renewed; `where` names the images in the ledger.

    Three rows: the student against its folded graph in torch, the graph against what the runtime gives, and the student
    against the runtime, which is what the other two add up to. A runtime that executes in another precision than asked
    for is held to the coarser of the two (weights rounded to float16 stay rounded, computed in float32 or not); the
    manifest says so.
    """
    manifest = artifact.manifest
    check_pair(artifact, against)
    deployed = Deployed(against, artifact.size, manifest.input.baked)
    rows = [Comparison(against.classes) for _ in range(3)]
    kept = set(np.linspace(0, len(pictures) - 1, min(EVIDENCE, len(pictures))).astype(int).tolist())
    evidence: list[tuple[Picture, NDArray[np.uint8], NDArray[np.uint8]]] = []
    for index, one in enumerate(pictures):
        trained, graph = run_torch(against, deployed, one.image)
        device = artifact.session.run(pixels.prepare(one.image, manifest.input))
        for row, before, after in zip(rows, (trained, graph, trained), (graph, device, device), strict=True):
            row.add(before, after)
        if index in kept:
            evidence.append((one, pixels.labels(trained), pixels.labels(device)))
        if progress:
            progress(index + 1, len(pictures))
    executed = artifact.session.execution.precision
    precision = coarser(manifest.precision.asked, executed)
    names, runtime = against.class_names, str(manifest.target["name"])
    hops = [
        rows[0].hop("student -> graph", "fp32", names),
        rows[1].hop(f"graph -> {runtime}", precision, names),
        rows[2].hop(f"student -> {runtime}", precision, names),
    ]
    keep_evidence(artifact.folder / "evidence", evidence)
    return artifact.rewrite(
        replace(manifest, ledger=Ledger(where, hops), precision=replace(manifest.precision, executed=executed))
    )


def coarser(asked: str, executed: str | None) -> str:
    """The precision with the wider tolerance; one that was not read back counts as the one asked for."""
    if executed is None or executed not in PRECISIONS:
        return asked
    return max(asked, executed, key=lambda name: PRECISIONS[name].relative_rms)


def check_pair(artifact: Artifact, student: Student) -> None:
    """Refuse to compare an artifact with a student it was not made from."""
    card = artifact.manifest.student
    if (card.name, card.class_names) != (student.name, list(student.class_names)):
        raise EdgesegError(
            f"{artifact.folder} is a {card.name} with {len(card.class_names)} classes, not the {student.name} with "
            f"{student.classes} classes it is to be verified against"
        )


@torch.inference_mode()
def run_torch(student: Student, deployed: Deployed, image: NDArray[np.uint8]) -> tuple[Array, Array]:
    """The logits of the trained student, and what the folded graph makes of the same image, both in torch."""
    spec = deployed.input_spec()
    normal = replace(spec, shape=[1, 3, *deployed.size], layout="NCHW", dtype="float32")
    trained: Array = student.eval()(torch.from_numpy(pixels.prepare(image, normal))).numpy()
    graph: Array = deployed(torch.from_numpy(pixels.prepare(image, spec))).numpy()
    return trained, graph


def choose(data: Data, split: str | None, count: int, size: tuple[int, int]) -> tuple[str, list[Picture]]:
    """`count` images spread over a split, resized to (height, width), and a name for them."""
    name = split or data.select
    part = data.split(name)
    if not len(part):
        raise EdgesegError(f"{data.spec}[{name}] has no images to compare on")
    chosen = np.linspace(0, len(part) - 1, min(count, len(part))).astype(int)
    return f"{data.spec}[{name}]", [picture(part.names[i], *part[i], size) for i in chosen]


def picture(name: str, image: NDArray[np.uint8], truth: NDArray[np.uint8], size: tuple[int, int]) -> Picture:
    """The pair at another size: the image as the runtimes see it, the labels by nearest neighbour."""
    if truth.shape == size:
        return Picture(name, image, truth)
    import cv2

    resized = np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR), np.uint8)
    return Picture(name, resized, pixels.enlarge(truth, *size))


def keep_evidence(folder: Path, evidence: Sequence[tuple[Picture, NDArray[np.uint8], NDArray[np.uint8]]]) -> None:
    """Write images, masks and truth as the report reads them."""
    for index, (one, reference, made) in enumerate(evidence, 1):
        save_picture(folder / f"{index:02d}-image.jpg", one.image)
        save_picture(folder / f"{index:02d}-reference.png", reference)
        save_picture(folder / f"{index:02d}-artifact.png", made)
        if one.truth is not None:
            save_picture(folder / f"{index:02d}-truth.png", one.truth)


def bad_hops(ledger: Ledger) -> Iterator[str]:
    """One line per reason a hop failed for."""
    for hop in ledger.hops:
        yield from (f"{hop.name}: {reason}" for reason in hop.reasons)
