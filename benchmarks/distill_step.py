"""A step of `edgeseg distill` against the teacher's forward pass and a step of `edgeseg train` on the same batch.

What lies between the two is the distillation loss: it may take a twentieth of both together.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.ratio import Finding, Logs, burst, finding, fresh, in_turns
from benchmarks.train_step import Work

TEACHER, STUDENT = "ddrnet39", "ddrnet23_slim"
LIMIT = 1.05
PAIRS = 8


def contest(loss: str, work: Work, pairs: int) -> Logs:
    """Log-ratios of steps in this process."""
    from edgeseg.data import load_data
    from edgeseg.runs import read_card, save
    from edgeseg.train.loop import Trainer, build_student, keep_freed_memory
    from edgeseg.train.teacher import Teacher
    from edgeseg.train.teaching import PIECES, Teaching

    data = load_data(work.data)
    with tempfile.TemporaryDirectory() as folder:
        save(build_student(TEACHER, data).eval(), Path(folder) / "teacher")
        teaching = Teaching(f"{folder}/teacher", read_card(Path(folder) / "teacher").sha256, (PIECES[loss](),))
        taught = Trainer(STUDENT, data, Path(folder), replace(work.recipe(), teaching=teaching))
        alone = Trainer(STUDENT, data, Path(folder), work.recipe())
        teacher = Teacher(teaching, data.class_names)
    images, labels = next(taught.batches.epoch(0))
    size = (work.size[0] // 8, work.size[1] // 8)

    def apart() -> None:
        with alone.fabric.autocast():
            teacher.logits(images, size)
        alone.step(images, labels)

    keep_freed_memory()
    return in_turns(burst(lambda: taught.step(images, labels)), burst(apart), pairs)


LOSSES = ("kd", "cwd", "bpkd")


def findings(
    work: Work = Work("bf16", batch=4, images=4),  # noqa: B008 (frozen)
    losses: Sequence[str] = LOSSES,
    pairs: int = PAIRS,
) -> list[Finding]:
    """Every loss, in a fresh process."""
    shape = f"{work.precision} {work.batch}x{work.size[0]}x{work.size[1]}"
    return [
        finding(
            f"distillation step, {TEACHER} to {STUDENT} {shape}, {loss}", [fresh(contest, loss, work, pairs)], LIMIT
        )
        for loss in losses
    ]
