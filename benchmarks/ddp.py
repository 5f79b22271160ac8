"""`edgeseg train` as two processes of one thread each, begun by torchrun, against one process of two threads: the same images a step.

Both sides are whole trainings: loader, norms and gradients summed between processes, averaged weights. Each waits for its turn
after so many steps, and its clock runs until the last of its processes is there.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path

import edgeseg
from benchmarks.ratio import Finding, Logs, finding, in_turns
from benchmarks.train_step import Work
from edgeseg.errors import EdgesegError, ParityFailed

LIMIT = 1 / 0.9
"""At least 0.9 times as many images a second."""

PROCESSES = 2
STEPS, PAIRS, ROUNDS = 2, 10, 2

SAME_LOSS = 1e-4
"""Relative, of the first step: sums in another order."""

WORKS = tuple(
    Work("fp32", student, size=(240, 320))
    for student in ("ddrnet23_slim", "lraspp_mobilenet_v3_large", "pp_mobileseg_tiny")
)
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={PROCESSES}")


def train(work: Work, steps: int) -> None:
    """Train, `steps` steps for each line on stdin; on stdout for each the seconds that they took and the first loss of all."""
    import torch
    from torch import nn

    from edgeseg.data import load_data
    from edgeseg.losses import CrossEntropy
    from edgeseg.students.pp_mobileseg import DropPath
    from edgeseg.train.loop import Event, Trainer

    torch.set_num_threads(PROCESSES // int(os.environ.get("WORLD_SIZE", "1")))
    # OHEM looks at the pixels of one process, so that the losses would differ by nature
    recipe = replace(work.recipe(), loss=CrossEntropy(), evaluate=100_000, checkpoint=100_000)
    begun = 0.0
    losses: list[float] = []

    def turn(event: Event | None = None) -> None:
        nonlocal begun
        if event is not None:
            losses.append(event.loss)
            if event.step % steps:
                return
        trainer.fabric.barrier()
        if event is not None and trainer.fabric.is_global_zero:
            print(json.dumps([time.perf_counter() - begun, losses[0]]), flush=True)
        line = sys.stdin.readline() if trainer.fabric.is_global_zero else ""
        if not trainer.fabric.broadcast(line):
            sys.exit(0)
        begun = time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(work.student, load_data(work.data), Path(folder), recipe, notify=turn, check=False)
        for part in trainer.student.modules():
            if isinstance(part, (nn.Dropout2d, DropPath)):
                # what is left out is drawn otherwise in every process
                part.forward = lambda x: x  # type: ignore[method-assign]
        turn()
        trainer.run(resume=False)


class Side:
    """A training that waits for its turns."""

    def __init__(self, work: Work, steps: int, how: tuple[str, ...], stack: ExitStack) -> None:
        words = [sys.executable, *how, "-m", "benchmarks.ddp", json.dumps(asdict(work)), str(steps)]
        top = str(Path(edgeseg.__file__).parent.parent)
        kept = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
        self._process = stack.enter_context(
            subprocess.Popen(words, cwd=top, env=kept, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        )
        self.loss = 0.0

    def __call__(self) -> float:
        """Seconds of its next steps."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        if not (line := self._process.stdout.readline()):
            raise EdgesegError(f"ddp: a training ended with exit code {self._process.wait()}")
        seconds, self.loss = json.loads(line)
        return float(seconds)


def contest(work: Work, steps: int, pairs: int) -> Logs:
    """Log-ratios of bursts of steps, both sides begun anew."""
    work = replace(work, images=work.batch * steps * (pairs + 2))  # within the first epoch
    with ExitStack() as stack:
        two, one = (Side(work, steps, how, stack) for how in (TORCHRUN, ()))
        logs = in_turns(two, one, pairs)
        if not math.isclose(two.loss, one.loss, rel_tol=SAME_LOSS):
            raise ParityFailed(f"ddp: the first loss is {two.loss}, of one process {one.loss}; no speed to compare")
    return logs


def findings(
    works: tuple[Work, ...] = WORKS, steps: int = STEPS, pairs: int = PAIRS, rounds: int = ROUNDS
) -> list[Finding]:
    """The time of two processes over that of one, for every kind of work."""
    return [
        finding(
            f"{PROCESSES} processes / 1 of {PROCESSES} threads, training {work.student} {work.precision} "
            f"{work.batch}x{work.size[0]}x{work.size[1]}",
            [contest(work, steps, pairs) for _ in range(rounds)],
            LIMIT,
        )
        for work in works
    ]


if __name__ == "__main__":
    train(Work(**json.loads(sys.argv[1])), int(sys.argv[2]))
