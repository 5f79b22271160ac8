"""Exports in processes of their own: a converter that crashes, hangs or clashes with another is a line, not the end of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from edgeseg import schema
from edgeseg.artifact import Artifact
from edgeseg.errors import EdgesegError, ParityFailed, require
from edgeseg.export.target import Target
from edgeseg.files import clear_aside
from edgeseg.manifest import Calibration, Source
from edgeseg.quantize.document import Quantization
from edgeseg.runtimes.launch import Worker
from edgeseg.schema import STRICT

if TYPE_CHECKING:
    from torch import Tensor

    from edgeseg.students import Semantic, Student

PATIENCE_S = 1800.0
"""How long a converter may say nothing: the slowest that was seen took 5 minutes for one network on two cores."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Job:
    """One export: of a run, to a target with all its options, at a size (height, width), proven on `data`.

    trust: modules that somebody's own network is in, for the process that loads it.
    """

    __pydantic_config__ = STRICT
    run: str
    target: dict[str, Any]
    out: str
    size: tuple[int, int]
    bake: list[str]
    data: str | None
    source: Source
    trust: list[str] = field(default_factory=list)
    quantization: Quantization | None = None
    calibration: Calibration | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of one export: the artifact, or the error that it ended with; both where it is there but failed its proof."""

    target: Target
    size: tuple[int, int]
    artifact: Artifact | None
    error: EdgesegError | None


def export_apart(job: Job, target: Target, progress: Progress | None = None) -> Outcome:
    """Do a job in a fresh process; whatever goes wrong there is part of the outcome."""
    from edgeseg.parity import refusal

    try:
        require(*target.modules)
        answer = ask("export", f"the process that exports to {target.name}", progress, job=schema.dump(job))
        artifact = Artifact.open(answer["folder"])
    except EdgesegError as error:
        clear_aside(Path(job.out))  # a process that was killed left its half behind
        return Outcome(target, job.size, None, error)
    wrong = refusal(artifact)
    if wrong is not None and artifact.folder != Path(job.out):
        wrong = ParityFailed(f"{wrong}; {job.out}, which passed, is as it was")
    return Outcome(target, job.size, artifact, wrong)


def ask(do: str, noun: str, progress: Progress | None, **request: Any) -> dict[str, Any]:
    """What a fresh process answers to one request; see `worker.py` for what it does."""
    with closing(Worker(PATIENCE_S, "edgeseg.export.worker", noun, EdgesegError)) as worker:
        return worker.ask(do, progress=progress, **request)


@contextmanager
def as_run(name: str, classes: int, size: tuple[int, int], seed: int = 0) -> Iterator[Path]:
    """A student by name as a run for as long as the block lasts (`fresh`)."""
    with TemporaryDirectory() as folder:
        yield fresh(name, classes, size, Path(folder) / name, seed)


def fresh(name: str, classes: int, size: tuple[int, int], folder: Path, seed: int = 0) -> Path:
    """A student by name as a run: fresh weights, acquainted with generated scenes. One that is there is taken as it is.

    classes: for a semantic one. It shows what converts and how well, not what a trained network does.

    Raises:
        EdgesegError: something else is there.
    """
    import torch

    from edgeseg.runs import CARD, read_card, save
    from edgeseg.students import create
    from edgeseg.students.student import parameters

    torch.manual_seed(seed)
    student = create(name, classes=classes if "classes" in parameters(name) else None)
    if folder.exists() and any(folder.iterdir()):
        card = read_card(folder) if (folder / CARD).exists() else None
        if card is None or card.training or (card.name, card.classes) != (student.name, student.classes):
            raise EdgesegError(
                f"{folder} is where the fresh {name} would be kept, and holds something else; name another --out"
            )
        return folder
    acquaint(student)
    return save(student, folder, size=size)


SCENES, SCENE = 16, (192, 256)
"""How many generated scenes an untrained student is acquainted with, and their size (height, width)."""

CERTAINTY, RIDGE = 8.0, 1e-2
"""By how much the right class is to lead, and the pull towards weights of 0 as a share of the features' mean square."""


def acquaint(student: Student) -> None:
    """Give an untrained student statistics that are not all 0 and 1, and a semantic one a last layer fitted to generated scenes.

    What a fresh network draws is a matter of rounding nearly everywhere, so that no two precisions could ever agree on it.
    """
    import numpy as np
    import torch
    from torch import nn

    from edgeseg.data import load_data
    from edgeseg.students import Semantic

    scenes = load_data(f"synthetic:size={SCENE[0]}x{SCENE[1]}").split("train")
    pairs = [scenes[index] for index in range(SCENES)]
    images = student.normalise(torch.from_numpy(np.stack([image for image, _ in pairs])).permute(0, 3, 1, 2))
    for part in student.modules():
        if isinstance(part, nn.BatchNorm2d) and part.running_mean is not None and part.running_var is not None:
            # not those of the scenes: a deep network of random weights is chaotic with them, which a trained one is not
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.8, 1.25)
    student.eval()
    if isinstance(student, Semantic):
        with torch.no_grad():
            _fit_last_layer(student, images, torch.from_numpy(np.stack([labels for _, labels in pairs])).long())


def _fit_last_layer(student: Semantic, images: Tensor, labels: Tensor) -> None:
    """Ridge regression of the margins on what the last convolution with an output for every class sees."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    seen: list[tuple[nn.Conv2d, Tensor, Tensor]] = []
    hooks = [
        part.register_forward_hook(lambda module, given, made: seen.append((module, given[0], made)))
        for part in student.modules()
        if isinstance(part, nn.Conv2d) and part.out_channels == student.classes
    ]
    logits = student.low_logits(images)
    for hook in hooks:
        hook.remove()
    if not seen:
        return
    layer, given, made = seen[-1]
    assert not isinstance(layer.padding, str)
    truth = F.interpolate(labels[:, None].float(), made.shape[-2:]).long()[:, 0] % student.classes
    wanted = CERTAINTY * F.one_hot(truth, student.classes).double().flatten(0, 2)
    if logits.shape == made.shape:
        wanted -= (logits - made).permute(0, 2, 3, 1).double().flatten(0, 2)  # what others add to it
    patches = F.unfold(given, layer.kernel_size, layer.dilation, layer.padding, layer.stride).double()
    features = patches.transpose(1, 2).flatten(0, 1)
    features = torch.cat([features, torch.ones(len(features), 1, dtype=torch.float64)], 1)
    gram = features.T @ features
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    weights = torch.linalg.solve(gram, features.T @ wanted)
    layer.weight.copy_(weights[:-1].T.reshape(layer.weight.shape))
    if layer.bias is not None:
        layer.bias.copy_(weights[-1])
