"""Score a run or an artifact: the same code for both, so that a difference is the artifact's and not the metric's."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeseg import schema
from edgeseg.data.base import Data, Split
from edgeseg.errors import EdgesegError
from edgeseg.files import read_json
from edgeseg.metrics import Evaluation, Meter, PromptEvaluation, pack_confusions
from edgeseg.provenance import made_by, now

if TYPE_CHECKING:
    from edgeseg.artifact import Artifact
    from edgeseg.segment import Segmenter
    from edgeseg.students import Student

SCHEMA = 1
Progress = Callable[[int, int], None]
"""Called with (done, all)."""


class Predictor(Protocol):
    """What `es.load` gives: a student or an artifact."""

    def predict(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 RGB `[H, W, 3]` to labels `[H, W]`."""


def measure_split(predictor: Predictor, split: Split, classes: int, progress: Progress | None = None) -> Meter:
    """Every image of a split, labelled and counted."""
    from edgeseg.data.loader import evaluation

    meter = Meter(classes)
    for done, (image, truth, _) in enumerate(evaluation(split, workers=1), 1):
        meter.add(truth, predictor.predict(image))
        if progress:
            progress(done, len(split))
    return meter


def evaluate(
    path: Path, predictor: Predictor, sha256: str, data: Data, split: str, kind: str, progress: Progress | None = None
) -> Evaluation:
    """Score `path` on a split and store the evaluation beside it (`place`)."""
    meter = measure_split(predictor, data.split(split), len(data.class_names), progress)
    evaluation = Evaluation(
        schema=SCHEMA,
        kind="evaluation",
        created=now(),
        edgeseg=made_by(),
        subject=path.name,
        subject_kind="artifact" if kind == "artifact" else "run",
        sha256=sha256,
        data=data.spec,
        split=split,
        class_names=list(data.class_names),
        score=meter.score(),
        confusions=pack_confusions(np.stack(meter.confusions)),
        provenance="measured",
        reports=split == data.test,
    )
    schema.write(place(path, data.spec, split), evaluation)
    return evaluation


def evaluate_prompts(
    path: Path,
    asked: Segmenter,
    sha256: str,
    data: Data,
    split: str,
    kind: Literal["run", "artifact"],
    clicks: int,
    min_pixels: int,
    progress: Progress | None = None,
) -> PromptEvaluation:
    """Ask for every object of a split and store the evaluation beside `path` (`place`)."""
    from edgeseg.prompt_metrics import measure_prompts

    score, rows = measure_prompts(asked, data.split(split), clicks, min_pixels, progress)
    evaluation = PromptEvaluation(
        schema=SCHEMA,
        kind="prompt_evaluation",
        created=now(),
        edgeseg=made_by(),
        subject=path.name,
        subject_kind=kind,
        sha256=sha256,
        data=data.spec,
        split=split,
        score=score,
        objects=rows,
        provenance="measured",
        reports=split == data.test,
    )
    schema.write(place(path, data.spec, split), evaluation)
    return evaluation


def place(folder: Path, data: str, split: str) -> Path:
    """Where an evaluation is stored: `eval-SPLIT.json`, with something of the data in its name where that is of other data."""
    usual = folder / f"eval-{split}.json"
    if usual.exists() and read_json(usual).get("data") != data:
        return folder / f"eval-{split}-{hashlib.sha256(data.encode()).hexdigest()[:8]}.json"
    return usual


def check_classes(loaded: Student | Artifact, data: Data) -> None:
    """Refuse to score a predictor on classes it was not trained for."""
    from edgeseg.artifact import Artifact

    card = loaded.manifest.student if isinstance(loaded, Artifact) else loaded
    if card.task != data.task:
        raise EdgesegError(f"{card.name} is {card.task}, but {data.spec} is {data.task} data; choose data of its kind")
    own = card.class_names
    if tuple(own) != tuple(data.class_names):
        raise EdgesegError(
            f"{data.spec} has the {len(data.class_names)} classes {', '.join(data.class_names)}; "
            f"this was trained for the {len(own)} classes {', '.join(own)}"
        )
