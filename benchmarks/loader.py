"""Loading a batch against training on it, as training does both: one worker, images decoded once into memory.

A pair is a whole epoch of the loader, drained as fast as it comes, and one step. Whole epochs, because between two
batches the worker goes on working: a batch that was made during a step would seem to take no time.
"""

from __future__ import annotations

from itertools import count

from benchmarks.ratio import Finding, burst, finding, in_turns
from benchmarks.train_step import Work
from edgeseg.errors import ParityFailed

LIMIT = 1 / 1.5
"""The loader alone is to be at least 1.5 times as fast as the steps."""

PAIRS = 10
WORK = Work(images=64)


def findings(work: Work = WORK, pairs: int = PAIRS) -> list[Finding]:
    """The time to load a batch over that of a step."""
    import torch

    from edgeseg.data.loader import Batches
    from edgeseg.train.loop import keep_freed_memory

    keep_freed_memory()  # as `Trainer.run` does
    trainer, recipe = work.trainer(), work.recipe()
    images, labels = next(trainer.batches.epoch(0))
    alone = Batches(
        trainer.data.split(trainer.fit_split), recipe.augment_for(work.size), work.batch, recipe.seed, workers=0
    )
    if not all(map(torch.equal, (images, labels), next(alone.epoch(0)))):
        raise ParityFailed("loader: a worker's batch is not the one that is made without it; no speed to compare")
    numbers = count(1)
    epoch = burst(lambda: sum(1 for _ in trainer.batches.epoch(next(numbers))))
    logs = in_turns(lambda: epoch() / len(trainer.batches), burst(lambda: trainer.step(images, labels)), pairs)
    return [finding(f"loading a batch / step, {work.student} {work.precision}, 1 worker", [logs], LIMIT)]
