"""What whole numbers bring and cost: every run on every target, searched, and scored on the test images.

    python -m benchmarks.int8 runs/cam runs/lraspp --data camvid:PATH --work out/int8 --out benchmarks/results

A search makes the artifacts in float, half precision and whole numbers, and with blocks back in float where that is needed
(`edgeseg.quantize.search`). Images that a search chooses by are never those that this table scores. Searches go on where they
were stopped; a row that is done is kept in `int8.jsonl` beside the table, of a run and target done anew the last, so that one
table is filled on several days. `--aware 1` trains each run for an epoch with the rounding of the first target, and every
target's int8 is made of that too.
"""

from __future__ import annotations

import argparse
import json
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
from edgeseg.schema import STRICT
from edgeseg.verdict import MAX_DROP

if TYPE_CHECKING:
    from edgeseg.export.target import Target
    from edgeseg.quantize.calibration import CalibrationSet
    from edgeseg.students import Semantic

HEADS = (
    "student", "target", "float mIoU", "int8: mIoU lost", "after training: mIoU lost", "int8: time / float's",
    "half: time / float's", "MB float, int8", "answer", "its mIoU lost", "its time / float's", "its time / half's",
    "search, minutes",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One search, and what its artifacts lose on the test images against the run; null where there is no such artifact.

    seconds:  that the search took, all its sessions together.
    max_drop: points of mIoU that were allowed, on the images of the search; here the answer is held to it on the test images.
    """

    __pydantic_config__ = STRICT
    created: str
    data: str
    calibrated_on: int
    student: str
    target: str
    miou: float
    first: Trial
    whole: Trial
    whole_drop: Drop | None
    taught_drop: Drop | None
    half: Trial | None
    answer: Trial | None
    answer_drop: Drop | None
    words: str
    max_drop: float = MAX_DROP
    seconds: float | None = None


@dataclass(frozen=True)
class Asked:
    """What decides the rows, as the options of the command have it; `size` null takes that of the run's crops."""

    data: Data
    work: Path
    size: tuple[int, int] | None
    threads: int
    images: int
    aware: int


def rows(runs: Sequence[Path], targets: Sequence[str], asked: Asked) -> Iterator[Row]:
    """Search and score, one after the other."""
    from edgeseg.export import TARGETS
    from edgeseg.quantize.calibration import choose_images
    from edgeseg.quantize.search import Plan, search
    from edgeseg.students import Semantic

    data = asked.data
    for run in runs:
        card, student, work = read_card(run), load_run(run), asked.work / run.name
        chosen = choose_images(data, None, asked.images, look=student.look)
        size = asked.size or card.size
        assert size is not None
        reference = scored(run, student, card.sha256, data, "run")
        taught = None
        if asked.aware:
            assert isinstance(student, Semantic)
            print(f"{run.name}: training with the rounding of {targets[0]}", file=sys.stderr, flush=True)
            first = TARGETS[targets[0]](precision="int8")
            taught = _taught(student, card, size, first, chosen, data, work, asked.aware)
        for name in targets:
            target = TARGETS[name](precision="int8")
            plan = Plan(
                folder=run,
                source=Source(str(run), card.sha256),
                student=student,
                target=target,
                size=size,
                bake=["pre", "labels"],
                chosen=chosen,
                data=data,
                split=data.select,
                out=work / f"{target.name}-int8",
                threads=asked.threads,
            )
            say = partial(print, f"{run.name} {name}:", file=sys.stderr, flush=True)
            try:
                found = search(plan, say)
            except EdgesegError as error:
                say(str(error))
                continue
            after = None if taught is None else _of_taught(taught, target, chosen, data)
            yield compared(found, reference, plan.aside, after, data, asked.images)


def _taught(
    student: Semantic,
    card: RunCard,
    size: tuple[int, int],
    target: Target,
    chosen: CalibrationSet,
    data: Data,
    work: Path,
    epochs: int,
) -> Path:
    """The run that learned to be rounded, made if it is not there."""
    from edgeseg.quantize.aware import Aware, train_aware
    from edgeseg.quantize.scheme import Recipe

    folder = work / f"run-aware-{epochs}"
    if not (folder / "model.json").exists():
        save(
            train_aware(student, target, chosen, Recipe(), data, size, Aware(epochs=epochs)),
            folder,
            size,
            base=card.sha256,
        )
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


def compared(
    found: Search, reference: Evaluation, folder: Path, taught: Artifact | None, data: Data, images: int
) -> Row:
    """The float run, plain int8, int8 after training and the chosen artifact on the test images."""
    whole = next(trial for trial in found.trials if trial.precision == "int8")
    half = next((trial for trial in found.trials if trial.precision == "fp16"), None)
    answer = None if found.chosen is None else found.trials[found.chosen]

    def lost(trial: Trial | None) -> Drop | None:
        there = trial is not None and (folder / trial.folder / "manifest.json").exists()
        return drop(Artifact.open(folder / trial.folder)) if trial is not None and there else None

    def drop(artifact: Artifact) -> Drop:
        return paired_drop(reference, scored(artifact.folder, artifact, artifact.sha256, data, "artifact"))

    return Row(
        created=found.created,
        data=f"{data.spec.partition(':')[0]}[{data.test}]",
        calibrated_on=images,
        student=found.student,
        target=found.target,
        miou=reference.score.miou,
        first=found.trials[0],
        whole=whole,
        whole_drop=lost(whole),
        taught_drop=None if taught is None else drop(taught),
        half=half,
        answer=answer,
        answer_drop=lost(answer),
        words=found.words,
        max_drop=found.max_drop,
        seconds=found.seconds,
    )


def read(file: Path) -> list[Row]:
    """The rows that were made so far: of one that was made anew the last, in the order of the registries."""
    from edgeseg.export import TARGETS
    from edgeseg.students import STUDENTS

    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    rows = (schema.parse(Row, json.loads(line), str(file)) for line in lines)
    order = [*STUDENTS], [TARGETS[name].name for name in TARGETS]
    last = {(row.data, row.student, row.target): row for row in rows}
    return sorted(last.values(), key=lambda row: (row.data, order[0].index(row.student), order[1].index(row.target)))


def keep(file: Path, row: Row) -> None:
    """One more row in the file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as out:
        out.write(json.dumps(schema.dump(row)) + "\n")


def document(made: Sequence[Row]) -> str:
    """The table as Markdown, and the words of every search."""
    about = ", ".join(
        dict.fromkeys(f"`{row.data}` (calibrated on {row.calibrated_on} training images)" for row in made)
    )
    lines = [
        "# Whole numbers",
        "",
        f"Made by `python -m benchmarks.int8`: {about}; searched on other training images.",
        "mIoU lost in points against the run in PyTorch, with its 95 % interval over images; times are medians",
        "measured in turns with the float artifact of the same runtime, with their 95 % interval; a target that does not run here",
        "has none, and one whose masks are refused is not timed. An answer ships where it loses no more on the test images than was allowed.",
        "Its ratio to half precision is that of both to float, with the widest interval that those leave. Labels baked in.",
        "",
        "| " + " | ".join(HEADS) + " |",
        "| --- | --- |" + " ---: |" * (len(HEADS) - 2),
    ]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in made]
    lines += ["", "## What each search says", ""]
    lines += [f"- {row.student} on {row.target}: {row.words}" for row in made]
    return "\n".join(lines) + "\n"


def cells(row: Row) -> list[str]:
    """A line of the table."""
    half = "" if row.half is None or row.half.time is None else f"{_times(row.half)} ({row.half.executed})"
    if row.half is not None and row.half.failed is not None:
        half = f"failed: {_line(row.half.failed.removeprefix(f'{row.half.folder} '))}"
    sizes = f"{row.first.megabytes}, {row.whole.megabytes}"
    at = "" if row.answer is None else _times(row.answer)
    return [
        row.student, row.target, f"{row.miou:.2f}", _drop(row.whole_drop), _drop(row.taught_drop),
        "refused" if row.whole.failed else _times(row.whole), half, sizes, _answer(row), _drop(row.answer_drop), at, _to_half(row),
        "" if row.seconds is None else f"{row.seconds / 60:.1f}",
    ]  # fmt: skip


def _answer(row: Row) -> str:
    """What to do, as a verdict would say it: the artifact was chosen on other images than it is held to the limit on."""
    if row.answer is None:
        return "DON'T SHIP"
    name, lost = called(row.answer), row.answer_drop
    if lost is None:
        return f"UNDECIDED: {name} was not scored"
    if not lost.points <= row.max_drop:
        word = "UNDECIDED" if lost.low <= row.max_drop else "DON'T SHIP"
        return f"{word}: {name} loses more than {row.max_drop:g}"
    return (
        f"{name} keeps the masks" if row.answer.time is None else f"SHIP {name}"
    )  # nothing is known of its speed here


def _to_half(row: Row) -> str:
    """The answer's time to that of half precision; the widest interval that those of both to float's leave."""
    if row.answer is None or row.half is None or row.answer.time is None or row.half.time is None:
        return ""
    if row.answer.number == row.half.number:
        return "1.000"
    ours, theirs = row.answer.time, row.half.time
    return f"{ours.ratio / theirs.ratio:.3f} ({ours.low / theirs.high:.3f} to {ours.high / theirs.low:.3f})"


def _line(text: str) -> str:
    """What fits into a cell."""
    return " ".join(text.split()).replace("|", "\\|")


def _drop(drop: Drop | None) -> str:
    return "" if drop is None else f"{drop.points:+.2f} ({drop.low:+.2f} to {drop.high:+.2f})"


def _times(trial: Trial) -> str:
    time = trial.time
    return "" if time is None else f"{time.ratio:.3f} ({time.low:.3f} to {time.high:.3f})"


def main() -> int:
    """Search what is missing and write the table."""
    from edgeseg.cli.app import parse_size

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--to", default="onnxruntime,openvino,litert,executorch,coreml,tensorrt")
    parser.add_argument("--work", type=Path, required=True, help="where artifacts go")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--aware", type=int, default=0, help="epochs of training with the rounding, 0 for none")
    parser.add_argument("--size", help="of the artifacts, e.g. 360x480; of the run's crops where nothing is said")
    given: Any = parser.parse_args()
    asked = Asked(load_data(given.data), given.work, parse_size(given.size), given.threads, given.images, given.aware)
    store = given.out / "int8.jsonl"
    for row in rows(given.runs, given.to.split(","), asked):
        keep(store, row)
        write_text(given.out / "int8.md", document(read(store)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
