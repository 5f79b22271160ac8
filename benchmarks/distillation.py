r"""Does a teacher help? Students alone and taught, the same epochs and recipe, several seeds, scored on the test images.

    python -m benchmarks.distillation --data camvid:PATH --work DIR --students pp_mobileseg_tiny,lraspp_mobilenet_v3_large \
        --losses kd cwd kd,cwd --teacher ddrnet23_slim

Every run is a command of `edgeseg`, which the table shows. What is there already is not trained again, so a stopped run goes on. The
teacher looks at every image once (`edgeseg embed`) and its shards teach. Epochs are chosen on the selection split, never on test.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeseg.data import load_data
from edgeseg.errors import EdgesegError
from edgeseg.files import read_json, write_text
from edgeseg.runs import read_card

RECIPE = (
    "precision=bf16", "optimizer.type=adamw", "optimizer.lr=0.0015", "optimizer.weight_decay=0.05", "schedule.type=cosine",
    "warmup_epochs=1", "ema=0.98", "workers=0",
)  # fmt: skip
"""Of teachers and students alike; `ema` is the one for runs as short as these."""

ALONE = "alone"


@dataclass(frozen=True)
class Trained:
    """A run: its student, how it learned, its seed; mIoU on the images that chose the epoch, and on the test images."""

    student: str
    method: str
    seed: int
    held: float
    test: float


@dataclass(frozen=True)
class Bench:
    """What is asked: everything that decides the runs."""

    data: str
    work: Path
    size: str
    epochs: int
    changes: tuple[str, ...] = ()  # of the recipe, on top of `RECIPE`

    def teacher(self, name: str, epochs: int, threads: int) -> Trained:
        """Train the teacher, and keep what it makes of every image."""
        run, shards = self.work / f"teacher-{name}", self.work / f"shards-{name}"
        self._run(run, self.words("train", name, run, epochs, 0, threads))
        if not (shards / "done").exists():
            words = [
                "embed",
                "--teacher",
                str(run),
                "--data",
                self.data,
                "--out",
                str(shards),
                "--threads",
                str(threads),
            ]
            _edgeseg(*words, *_of_split(self.changes))
            write_text(shards / "done", "")
        return self._scored(run, name, "teacher", 0)

    def student(self, name: str, teacher: str, loss: str, seed: int) -> Trained:
        """One student, alone or taught."""
        run = self.place(name, loss, seed)
        if loss == ALONE:
            words = self.words("train", name, run, self.epochs, seed, 1)
        else:
            taught = ["--teacher", str(self.work / f"shards-{teacher}"), "--loss", loss]
            words = [*self.words("distill", name, run, self.epochs, seed, 1), *taught]
        self._run(run, words)
        return self._scored(run, name, loss, seed)

    def place(self, name: str, loss: str, seed: int) -> Path:
        """The folder of a run."""
        return self.work / f"{name}-{loss.replace(',', '+').replace(':', '-').replace('=', '')}-{seed}"

    def words(self, verb: str, name: str, run: Path, epochs: int, seed: int, threads: int) -> list[str]:
        """The command line of a run."""
        changes = [word for change in (*RECIPE, *self.changes, f"seed={seed}") for word in ("--set", change)]
        where = ["--data", self.data, "--out", str(run), "--size", self.size]
        return [verb, name, *where, "--epochs", str(epochs), "--threads", str(threads), *changes]

    def _run(self, run: Path, words: list[str]) -> None:
        if (run / "trained").exists():  # model.json is there after the first epoch
            return
        _edgeseg(*words, *(["--resume"] if (run / "checkpoint.safetensors").exists() else []))
        write_text(run / "trained", "")

    def _scored(self, run: Path, student: str, method: str, seed: int) -> Trained:
        file = run / "test.json"
        if not file.exists():
            write_text(
                file, _edgeseg("eval", str(run), "--data", self.data, "--split", load_data(self.data).test, "--json")
            )
        training = read_card(run).training
        assert training is not None
        made = Trained(student, method, seed, training.select_miou, float(read_json(file)["score"]["miou"]))
        print(
            f"{student} {method} seed {seed}: held {made.held:.2f}, test {made.test:.2f}", file=sys.stderr, flush=True
        )
        return made


def _of_split(changes: Sequence[str]) -> list[str]:
    """What `embed` is told of them: which images are learned from."""
    return [
        word
        for name, _, split in (change.partition("=") for change in changes)
        if name == "split"
        for word in ("--split", split)
    ]


def _edgeseg(*words: str) -> str:
    """What a command prints; it says why where it fails."""
    done = subprocess.run([sys.executable, "-m", "edgeseg", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise EdgesegError(f"edgeseg {shlex.join(words)}: {done.stderr.strip().splitlines()[-1:]}")
    return done.stdout


def gain(taught: Sequence[float], alone: Sequence[float]) -> tuple[float, float, float]:
    """Difference of the means, and its 95 % interval (Welch's t: the two spreads need not be alike)."""
    from scipy.stats import t  # type: ignore[import-untyped]

    ends = [statistics.variance(each) / len(each) for each in (taught, alone)]
    difference, error = statistics.mean(taught) - statistics.mean(alone), sum(ends) ** 0.5
    if error == 0:
        return difference, difference, difference
    degrees = sum(ends) ** 2 / sum(
        end**2 / (len(each) - 1) for end, each in zip(ends, (taught, alone), strict=True) if end
    )
    reach = float(t.ppf(0.975, degrees)) * error
    return difference, difference - reach, difference + reach


def document(asked: Bench, teacher: Trained, made: Sequence[Trained], teacher_epochs: int) -> str:
    """The table as Markdown, with a command for each row."""
    seeds = len({one.seed for one in made})
    lines = [
        "# Students, alone and taught",
        "",
        f"Made by `python -m benchmarks.distillation` on `{asked.data.partition(':')[0]}`: crops of {asked.size}, {asked.epochs} epochs,",
        f"{seeds} seeds; mIoU on the test images at full size, in percent. The teacher, {teacher.student} after {teacher_epochs} epochs of the",
        f"same recipe, has {teacher.test:.2f}. The interval of a difference, in points, is Welch's over seeds.",
        "",
        "| student | loss | mean | spread (standard deviation) | over alone, 95 % | each seed |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    for student, method in dict.fromkeys((one.student, one.method) for one in made):
        mine, alone = (
            [one.test for one in made if (one.student, one.method) == (student, name)] for name in (method, ALONE)
        )
        against = "" if method == ALONE else "{:+.2f} ({:+.2f} to {:+.2f})".format(*gain(mine, alone))
        each = ", ".join(f"{value:.2f}" for value in mine)
        mean, spread = statistics.mean(mine), statistics.stdev(mine)
        lines.append(f"| {student} | {method} | {mean:.2f} | {spread:.2f} | {against} | {each} |")
    lines += ["", "```", *_commands(asked, teacher.student, made, teacher_epochs), "```"]
    return "\n".join(lines) + "\n"


def _commands(asked: Bench, teacher: str, made: Sequence[Trained], teacher_epochs: int) -> Iterator[str]:
    shown = Bench(f"{asked.data.partition(':')[0]}:PATH", Path("runs"), asked.size, asked.epochs)
    recipe = " ".join(f"--set {change}" for change in (*RECIPE, *asked.changes))

    def line(verb: str, name: str, out: str, epochs: int, more: str = "") -> str:
        return f"edgeseg {verb} {name} --data {shown.data} --out {out} --size {shown.size} --epochs {epochs} --threads 1 $R{more}"

    yield f'R="{recipe}"'
    yield line("train", teacher, "runs/teacher", teacher_epochs)
    yield f"edgeseg embed --teacher runs/teacher --data {shown.data} --out shards{''.join(f' {word}' for word in _of_split(asked.changes))}"
    for method in dict.fromkeys(one.method for one in made):
        seed = " --set seed=SEED"
        if method == ALONE:
            yield line("train", "STUDENT", f"runs/{method}", shown.epochs, seed)
        else:
            yield line("distill", "STUDENT", "runs/taught", shown.epochs, f"{seed} --teacher shards --loss {method}")


def main() -> int:
    """Train what is missing, several runs at a time, and write the table after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--work", type=Path, required=True, help="where runs go")
    parser.add_argument("--students", default="pp_mobileseg_tiny,lraspp_mobilenet_v3_large")
    parser.add_argument("--losses", nargs="+", default=["kd", "cwd"], help="each as for `edgeseg distill --loss`")
    parser.add_argument("--teacher", default="ddrnet23_slim")
    parser.add_argument("--teacher-epochs", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--size", default="240x320", help="of the crops")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--ready", action="store_true", help="a table of the runs that are there; none is trained")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, a thread each")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="of the recipe of all runs, e.g. split=trainval"
    )
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    given: Any = parser.parse_args()
    asked = Bench(given.data, given.work, given.size, given.epochs, tuple(given.set))
    teacher = asked.teacher(given.teacher, given.teacher_epochs, given.jobs)
    wanted = [
        (student, loss, seed)
        for student in given.students.split(",")
        for seed in range(given.seeds)
        for loss in (ALONE, *given.losses)
    ]
    if given.ready:
        wanted = [one for one in wanted if (asked.place(*one) / "trained").exists()]
    train: Callable[[tuple[str, str, int]], Trained] = lambda one: asked.student(one[0], given.teacher, *one[1:])
    with ThreadPoolExecutor(given.jobs) as pool:
        made = list(pool.map(train, wanted))
    order = [ALONE, *given.losses]
    made.sort(key=lambda one: (given.students.split(",").index(one.student), order.index(one.method), one.seed))
    write_text(given.out / "distillation.md", document(asked, teacher, made, given.teacher_epochs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
