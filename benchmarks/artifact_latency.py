"""An exported artifact in edgeseg's runtime against a plain `torch.onnx.export` in a default session, on the same threads.

- `logits`: float32 in, logits out, on both sides.
- `labels`: uint8 RGB in, uint8 labels out. The artifact has both baked in; by hand, numpy normalises and takes the argmax.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.ratio import Finding, Logs, burst, finding, in_turns
from edgeseg.artifact import Artifact
from edgeseg.errors import ParityFailed, need
from edgeseg.quantize.precision import PRECISIONS
from edgeseg.runtimes import open_artifact, pixels

if TYPE_CHECKING:
    from edgeseg.students import Student

STUDENTS = ("ddrnet23_slim", "lraspp_mobilenet_v3_large")
CLASSES = 11
SIZE = (360, 480)
THREADS = (1, 2)
LIMIT = 1.0
ROUNDS, PAIRS, CALLS = 3, 6, 3

Run = Callable[[], NDArray[Any]]
"""One inference; `logits [1, K, H, W]` or `labels [1, H, W]`."""


@dataclass(frozen=True)
class Made:
    """One student, exported in every way that is compared."""

    plain: Path
    logits: Artifact
    labels: Artifact


def make(name: str, size: tuple[int, int], folder: Path) -> Made:
    """Export a student with random weights.

    Raises:
        ParityFailed: an artifact did not pass its own proof.
    """
    from edgeseg.export import OnnxRuntime, export_model

    student = lively(name)
    logits = export_model(student, OnnxRuntime(), folder / "logits", size)
    labels = export_model(student, OnnxRuntime(), folder / "labels", size, bake=("pre", "labels"))
    for artifact in (logits, labels):
        if artifact.manifest.ledger is None or not artifact.manifest.ledger.passed:
            raise ParityFailed(f"artifact_latency: {name} failed its proof after export; no speed to compare")
    return Made(plain_export(student, size, folder / "plain.onnx"), logits, labels)


def lively(name: str, classes: int = CLASSES) -> Student:
    """A student whose BatchNorm has seen an image: with the statistics it is born with, all signals fade."""
    import torch

    from edgeseg.students import create

    torch.manual_seed(0)
    student = create(name, classes=classes).train()
    image = torch.from_numpy(pixels.pattern(128, 128)).permute(2, 0, 1)
    batch = student.normalise(torch.stack([image, image.flip(2)]))
    with torch.no_grad():
        for _ in range(20):
            student(batch)
    return student.eval()


def plain_export(student: Student, size: tuple[int, int], file: Path) -> Path:
    """What everybody writes."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's remarks about its own dependencies
        example = (torch.zeros(1, 3, *size),)
        torch.onnx.export(
            student, example, file, dynamo=True, input_names=["image"], output_names=["logits"], verbose=False
        )
    return file


@contextmanager
def contests(made: Made, threads: int) -> Iterator[dict[str, tuple[Run, Run]]]:
    """Name -> our way and the plain one, all sessions opened anew."""
    ort = need("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    plain = ort.InferenceSession(made.plain, options, providers=["CPUExecutionProvider"])
    logits, labels = open_artifact(made.logits, threads), open_artifact(made.labels, threads)
    picture = pixels.pattern(*pixels.size(labels.input))
    normal, batch = pixels.prepare(picture, logits.input), pixels.prepare(picture, labels.input)

    def plain_logits(image: NDArray[Any]) -> NDArray[Any]:
        result: NDArray[Any] = plain.run(None, {"image": image})[0]
        return result

    def plain_labels() -> NDArray[Any]:
        return pixels.labels(plain_logits(pixels.prepare(picture, logits.input)))[None]

    yield {
        "logits": (lambda: logits.run(normal), lambda: plain_logits(normal)),
        "labels": (lambda: labels.run(batch), plain_labels),
    }
    logits.close()
    labels.close()


def agree(name: str, ours: Run, plain: Run) -> None:
    """Nothing when both draw the same label map.

    Raises:
        ParityFailed: they do not, so there is no speed to compare.
    """
    same = float(np.mean(pixels.labels(ours()) == pixels.labels(plain())))
    if not same >= PRECISIONS["fp32"].same_label:
        raise ParityFailed(f"artifact_latency: {name}: {same:.2%} of the labels are the same; no speed to compare")


def findings(
    students: Sequence[str] = STUDENTS,
    size: tuple[int, int] = SIZE,
    threads: Sequence[int] = THREADS,
    rounds: int = ROUNDS,
    pairs: int = PAIRS,
    calls: int = CALLS,
) -> list[Finding]:
    """Our time over the plain one, for every student, variant and number of threads."""
    logs: dict[str, list[Logs]] = {}
    with tempfile.TemporaryDirectory() as folder:
        made = {student: make(student, size, Path(folder) / student) for student in students}
        for turn in range(rounds):
            for student in students:
                for count in threads:
                    with contests(made[student], count) as runs:
                        for kind, (ours, plain) in runs.items():
                            name = f"artifact / plain export, {student} {size[0]}x{size[1]}, {kind}, threads {count}"
                            agree(name, ours, plain)
                            row = in_turns(burst(ours, calls), burst(plain, calls), pairs, seed=turn)
                            logs.setdefault(name, []).append(row)
    return [finding(name, rows, LIMIT) for name, rows in logs.items()]
