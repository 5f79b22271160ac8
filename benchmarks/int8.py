"""What whole numbers bring and cost: every run on every target, searched, and scored on the test images.

    python -m benchmarks.int8 runs/cam runs/lraspp --data camvid:PATH --work out/int8 --out benchmarks/results

A search makes the artifacts in float, half precision and whole numbers, and with blocks back in float where that is needed
(`edgeseg.quantize.search`). Images that a search chooses by are never those that this table scores. Searches go on where they
were stopped. `--aware 1` trains each run for an epoch with the rounding of the first target, and every target's int8 is made of that too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeseg import schema
from edgeseg.artifact import Artifact
from edgeseg.data import Data, load_data
from edgeseg.drops import Drop, paired_drop
from edgeseg.errors import EdgesegError
from edgeseg.evaluate import Predictor, evaluate
from edgeseg.files import write_text
from edgeseg.manifest import Source
from edgeseg.metrics import Evaluation
from edgeseg.quantize.findings import Search, Trial, called
from edgeseg.runs import RunCard, load_run, read_card, save

if TYPE_CHECKING:
    from edgeseg.export.target import Target
    from edgeseg.quantize.calibration import CalibrationSet
    from edgeseg.students import Semantic

HEADS = (
    "student", "target", "float mIoU", "int8: mIoU lost", "after training: mIoU lost", "int8: time / float's",
    "half: time / float's", "MB float, int8", "answer", "its mIoU lost", "its time / float's",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One search, and what its artifacts lose on the test images."""

    search: Search
    miou: float
    whole: Trial
    whole_drop: Drop | None
    taught_drop: Drop | None
    half: Trial | None
    answer: Trial | None
    answer_drop: Drop | None


def rows(
    runs: Sequence[Path], targets: Sequence[str], data: Data, work: Path, threads: int, images: int, aware: int
) -> Iterator[Row]:
    """Search and score, one after the other."""
    from edgeseg.export import TARGETS
    from edgeseg.quantize.calibration import choose_images
    from edgeseg.quantize.search import Plan, search
    from edgeseg.students import Semantic

    for run in runs:
        card, student = read_card(run), load_run(run)
        chosen = choose_images(data, None, images, look=student.look)
        assert card.size is not None
        reference = scored(run, student, card.sha256, data, "run")
        taught = None
        if aware:
            assert isinstance(student, Semantic)
            print(f"{run.name}: training with the rounding of {targets[0]}", file=sys.stderr, flush=True)
            taught = _taught(student, card, TARGETS[targets[0]](precision="int8"), chosen, data, work / run.name, aware)
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
            after = None if taught is None else _of_taught(taught, target, chosen, data)
            yield compared(found, reference, plan.aside, after, data)


def _taught(
    student: Semantic, card: RunCard, target: Target, chosen: CalibrationSet, data: Data, work: Path, epochs: int
) -> Path:
    """The run that learned to be rounded, made if it is not there."""
    from edgeseg.quantize.aware import Aware, train_aware
    from edgeseg.quantize.scheme import Recipe

    folder = work / f"run-aware-{epochs}"
    if not (folder / "model.json").exists():
        assert card.size is not None
        learned = train_aware(student, target, chosen, Recipe(), data, card.size, Aware(epochs=epochs))
        save(learned, folder, card.size, base=card.sha256)
    return folder


def _of_taught(run: Path, target: Target, chosen: CalibrationSet, data: Data) -> Artifact | None:
    """Its int8 artifact, whole; null where there is none."""
    from edgeseg.export.apart import Job, export_apart
    from edgeseg.parity import choose
    from edgeseg.quantize.choice import PROBES
    from edgeseg.quantize.model import quantize
    from edgeseg.quantize.scheme import Recipe

    card, out = read_card(run), run.parent / f"{target.name}-{run.name}"
    assert card.size is not None
    if (out / "manifest.json").exists():
        return Artifact.open(out)
    bake, options = ["pre", "labels"], target.options()
    _, probes = choose(data, None, PROBES, card.size)
    made = quantize(load_run(run), target, card.size, bake, chosen, Recipe("auto"), probes)
    source = Source(str(run), card.sha256)
    job = Job(
        str(run), options, str(out), card.size, bake, data.spec, source, quantization=made, calibration=chosen.card
    )
    return export_apart(job, target).artifact


def scored(path: Path, predictor: Predictor, sha256: str, data: Data, kind: str) -> Evaluation:
    """On the test images; kept, since it takes minutes."""
    file = path / f"eval-{data.test}.json"
    if file.exists() and (kept := schema.read(Evaluation, file)).sha256 == sha256:
        return kept
    return evaluate(path, predictor, sha256, data, data.test, kind)


def compared(found: Search, reference: Evaluation, folder: Path, taught: Artifact | None, data: Data) -> Row:
    """The float run, plain int8, int8 after training and the chosen artifact on the test images."""
    whole = next(trial for trial in found.trials if trial.precision == "int8")
    half = next((trial for trial in found.trials if trial.precision == "fp16"), None)
    answer = None if found.chosen is None else found.trials[found.chosen]

    def lost(trial: Trial | None) -> Drop | None:
        there = trial is not None and (folder / trial.folder / "manifest.json").exists()
        return drop(Artifact.open(folder / trial.folder)) if trial is not None and there else None

    def drop(artifact: Artifact) -> Drop:
        return paired_drop(reference, scored(artifact.folder, artifact, artifact.sha256, data, "artifact"))

    after = None if taught is None else drop(taught)
    return Row(found, reference.score.miou, whole, lost(whole), after, half, answer, lost(answer))


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
        row.search.student, row.search.target, f"{row.miou:.2f}", _drop(row.whole_drop), _drop(row.taught_drop),
        _times(row.whole), half, sizes, answer, _drop(row.answer_drop), at,
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
    parser.add_argument("--aware", type=int, default=0, help="epochs of training with the rounding, 0 for none")
    given: Any = parser.parse_args()
    data = load_data(given.data)
    made: list[Row] = []
    for row in rows(given.runs, given.to.split(","), data, given.work, given.threads, given.images, given.aware):
        made.append(row)
        write_text(given.out / "int8.md", document(made, data, given.images))
    return 0


if __name__ == "__main__":
    sys.exit(main())
