"""The table of a trained folder: `python -m benchmarks.accuracy DIR [--out benchmarks/results/NAME.md]`.

Reads what `edgeseg train`, `eval` and `export` left in DIR; measures nothing itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from edgeseg.drops import paired_drop
from edgeseg.files import write_text
from edgeseg.metrics import Evaluation
from edgeseg.results import Results, collect


def tables(results: Results) -> Iterator[str]:
    """Markdown, one section per run that was evaluated."""
    for run in results.runs:
        training = run.card.training
        evaluations = [e for e in results.evaluations_of(run.card.sha256) if isinstance(e, Evaluation)]
        if training is None or not evaluations:
            continue
        yield f"## {run.card.name}\n"
        yield (
            f"{training.best_epoch} of {training.epochs} epochs on `{training.split}` ({training.seconds / 60:.0f} minutes, "
            f"{training.threads} threads, {training.machine}), chosen by mIoU {training.select_miou:.2f} on `{training.select_split}`; "
            f"{run.card.params:,} parameters, input {run.card.size}.\n"
        )
        for evaluation in evaluations:
            yield from section(results, run.card.sha256, evaluation)


def section(results: Results, run_sha256: str, reference: Evaluation) -> Iterator[str]:
    """The run and its artifacts on one split, class by class."""
    columns = {"trained": reference}
    for artifact in results.artifacts:
        if artifact.manifest.source.sha256 == run_sha256:
            for evaluation in results.evaluations_of(artifact.sha256):
                if isinstance(evaluation, Evaluation) and (evaluation.data, evaluation.split) == (
                    reference.data,
                    reference.split,
                ):
                    columns[Path(artifact.folder).name] = evaluation
    rows = [
        [name, *(_percent(one.score.iou[index]) for one in columns.values())]
        for index, name in enumerate(reference.class_names)
    ]
    scores = [one.score for one in columns.values()]
    rows.append(["**mIoU**", *(f"**{score.miou:.2f}**" for score in scores)])
    rows.append(["pixel accuracy", *(_percent(score.pixel_accuracy) for score in scores)])
    rows.append(["boundary F, 2 px", *(_percent(score.boundary_f) for score in scores)])
    drops = [paired_drop(reference, one) for one in list(columns.values())[1:]]
    rows.append(
        ["drop of mIoU (95 %)", "", *(f"{drop.points:+.3f} ({drop.low:+.3f} to {drop.high:+.3f})" for drop in drops)]
    )
    yield f"`{reference.split}`, {reference.score.images} images, IoU in percent:\n"
    yield "| class | " + " | ".join(columns) + " |"
    yield "|---|" + "---:|" * len(columns)
    yield from ("| " + " | ".join(row) + " |" for row in rows)
    yield ""


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def main() -> None:
    """Print the tables, and store them when asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    text = "\n".join(tables(collect(options.folder)))
    print(text)
    if options.out:
        write_text(options.out, text + "\n")


if __name__ == "__main__":
    main()
