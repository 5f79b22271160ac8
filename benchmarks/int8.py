"""What whole numbers bring and cost: every run on every target, searched, and scored on the test images.

    python -m benchmarks.int8 runs/cam runs/lraspp --data camvid:PATH --work out/int8 --out benchmarks/results

A search makes the artifacts in float, half precision and whole numbers, and with blocks back in float where that is needed
(`edgeseg.quantize.search`). Images that a search chooses by are never those that this table scores. Searches go on where they
were stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from edgeseg.artifact import Artifact
from edgeseg.data import Data, load_data
from edgeseg.drops import Drop, paired_drop
from edgeseg.errors import EdgesegError
from edgeseg.evaluate import evaluate
from edgeseg.files import write_text
from edgeseg.manifest import Source
from edgeseg.metrics import Evaluation
from edgeseg.quantize.findings import Search, Trial, called
from edgeseg.runs import load_run, read_card

HEADS = (
    "student", "target", "float mIoU", "int8: mIoU lost", "int8: time / float's", "half: time / float's", "MB float, int8",
    "answer", "its mIoU lost", "its time / float's",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One search, and what its artifacts lose on the test images."""

    search: Search
    miou: float
    whole: Trial
    whole_drop: Drop | None
    half: Trial | None
    answer: Trial | None
    answer_drop: Drop | None


def rows(
    runs: Sequence[Path], targets: Sequence[str], data: Data, work: Path, threads: int, images: int
) -> Iterator[Row]:
    """Search and score, one after the other."""
    from edgeseg.export import TARGETS
    from edgeseg.quantize.calibration import choose_images
    from edgeseg.quantize.search import Plan, search

    for run in runs:
        card, student = read_card(run), load_run(run)
        chosen = choose_images(data, None, images, look=student.look)
        assert card.size is not None
        reference = evaluate(run, student, card.sha256, data, data.test, "run")
        for name in targets:
            target = TARGETS[name](precision="int8")
            plan = Plan(
                folder=run,
                source=Source(str(run), card.sha256),
                student=student,
                target=target,
                size=card.size,
                bake=["pre", "labels"],
                chosen=chosen,
                data=data,
                split=data.select,
                out=work / run.name / f"{target.name}-int8",
                threads=threads,
            )
            say = partial(print, f"{run.name} {name}:", file=sys.stderr, flush=True)
            try:
                found = search(plan, say)
            except EdgesegError as error:
                say(str(error))
                continue
            yield scored(found, reference, plan.aside, data)


def scored(found: Search, reference: Evaluation, folder: Path, data: Data) -> Row:
    """The float run, plain int8 and the chosen artifact on the test images."""
    whole = next(trial for trial in found.trials if trial.precision == "int8")
    half = next((trial for trial in found.trials if trial.precision == "fp16"), None)
    answer = None if found.chosen is None else found.trials[found.chosen]

    def lost(trial: Trial | None) -> Drop | None:
        if trial is None or not (folder / trial.folder / "manifest.json").exists():
            return None
        artifact = Artifact.open(folder / trial.folder)
        return paired_drop(reference, evaluate(artifact.folder, artifact, artifact.sha256, data, data.test, "artifact"))

    return Row(found, reference.score.miou, whole, lost(whole), half, answer, lost(answer))


def document(made: Sequence[Row], data: Data, images: int) -> str:
    """The table as Markdown, and the words of every search."""
    lines = [
        "# Whole numbers",
        "",
        f"Made by `python -m benchmarks.int8`: `{data.spec.partition(':')[0]}` [{data.test}], calibrated on {images} images of [{data.fit}], searched on",
        f"[{data.select}]. mIoU lost in points against the run in PyTorch, with its 95 % interval over images; times are medians",
        "measured in turns with the float artifact of the same runtime, with their 95 % interval. Labels baked in.",
        "",
        "| " + " | ".join(HEADS) + " |",
        "| --- | --- |" + " ---: |" * (len(HEADS) - 2),
    ]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in made]
    lines += ["", "## What each search says", ""]
    lines += [f"- {row.search.student} on {row.search.target}: {row.search.words}" for row in made]
    return "\n".join(lines) + "\n"


def cells(row: Row) -> list[str]:
    """A line of the table."""
    first = row.search.trials[0]
    half = "" if row.half is None else f"{_times(row.half)} ({row.half.executed})"
    sizes = f"{first.megabytes}, {row.whole.megabytes}"
    answer = "DON'T SHIP" if row.answer is None else f"SHIP {called(row.answer)}"
    at = "" if row.answer is None else _times(row.answer)
    return [
        row.search.student, row.search.target, f"{row.miou:.2f}", _drop(row.whole_drop), _times(row.whole), half, sizes,
        answer, _drop(row.answer_drop), at,
    ]  # fmt: skip


def _drop(drop: Drop | None) -> str:
    return "" if drop is None else f"{drop.points:+.2f} ({drop.low:+.2f} to {drop.high:+.2f})"


def _times(trial: Trial) -> str:
    time = trial.time
    return "" if time is None else f"{time.ratio:.3f} ({time.low:.3f} to {time.high:.3f})"


def main() -> int:
    """Search what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--to", default="onnxruntime,openvino,litert,executorch")
    parser.add_argument("--work", type=Path, required=True, help="where artifacts go")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--images", type=int, default=64)
    given: Any = parser.parse_args()
    data = load_data(given.data)
    made: list[Row] = []
    for row in rows(given.runs, given.to.split(","), data, given.work, given.threads, given.images):
        made.append(row)
        write_text(given.out / "int8.md", document(made, data, given.images))
    return 0


if __name__ == "__main__":
    sys.exit(main())
