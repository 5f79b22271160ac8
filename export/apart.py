"""Exports in processes of their own: a converter that crashes, hangs or clashes with another is a line, not the end of the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from edgeseg import schema
from edgeseg.artifact import Artifact
from edgeseg.errors import EdgesegError, require
from edgeseg.export.target import Target
from edgeseg.files import clear_aside
from edgeseg.manifest import Source
from edgeseg.runtimes.launch import Worker
from edgeseg.schema import STRICT

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
        ask("export", f"the process that exports to {target.name}", progress, job=schema.dump(job))
        artifact = Artifact.open(job.out)
    except EdgesegError as error:
        clear_aside(Path(job.out))  # a process that was killed left its half behind
        return Outcome(target, job.size, None, error)
    return Outcome(target, job.size, artifact, refusal(artifact))


def ask(do: str, noun: str, progress: Progress | None, **request: Any) -> dict[str, Any]:
    """What a fresh process answers to one request; see `worker.py` for what it does."""
    with closing(Worker(PATIENCE_S, "edgeseg.export.worker", noun, EdgesegError)) as worker:
        return worker.ask(do, progress=progress, **request)


@contextmanager
def as_run(name: str, classes: int, size: tuple[int, int], seed: int = 0) -> Iterator[Path]:
    """A student by name as a run for as long as the block lasts: fresh weights, statistics that a fresh network does not have.

    classes: for a semantic one. It shows what converts and how well, not what a trained network does.
    """
    import torch
    from torch import nn

    from edgeseg.runs import save
    from edgeseg.students import create
    from edgeseg.students.student import parameters

    torch.manual_seed(seed)
    student = create(name, classes=classes if "classes" in parameters(name) else None)
    for part in student.modules():
        if isinstance(part, nn.BatchNorm2d) and part.running_mean is not None and part.running_var is not None:
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.8, 1.25)
    with TemporaryDirectory() as folder:
        yield save(student, Path(folder) / name, size=size)
