"""`edgeseg report RUN`: how a run learned, what it gets wrong and where, on one page that needs no network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from edgeseg.data.base import Data
from edgeseg.data.statistics import LabelStatistics, label_statistics
from edgeseg.errors import EdgesegError
from edgeseg.files import read_json, write_text
from edgeseg.metrics import Evaluation, iou, unpack_confusions
from edgeseg.report import curves
from edgeseg.report.charts import DESK, PHONE
from edgeseg.report.images import Overlay, jpeg, marked, small, tinted
from edgeseg.report.layout import lay_out
from edgeseg.report.view import Figure
from edgeseg.results import parse_evaluation
from edgeseg.runs import CARD, RunCard, load_run, read_card
from edgeseg.train.errors import Errors, ImageErrors, errors_on, look, worst
from edgeseg.train.log import Log, read_log

MISTAKES = 8
"""Lines on what is taken for what."""

HEAT = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], np.float64)
"""From none to most: dark to light by even steps of lightness, told apart by all eyes."""

Progress = Callable[[str, int, int], None]
"""Called with (what, done, all)."""


@dataclass(frozen=True)
class Scores:
    """IoU in percent of each class, where they are from, and the confusion matrix where there is one."""

    on: str
    iou: list[float | None]
    matrix: NDArray[np.int64] | None


@dataclass(frozen=True)
class Seen:
    """What only the data can tell: errors on the images of a split, and the labels that the run learned from."""

    split: str
    fit: str
    errors: Errors
    labels: LabelStatistics
    worst: list[tuple[str, list[Poor]]]


@dataclass(frozen=True)
class Poor:
    """An image on which the run does badly."""

    found: ImageErrors
    overlays: list[Overlay]


@dataclass(frozen=True)
class ClassRow:
    """One class; a figure that nothing says is null. `taken_for`: the class that most of its wrong pixels got."""

    name: str
    colour: str
    spark: Markup | None
    iou: float | None
    recall: float | None
    precision: float | None
    taken_for: str
    share: float | None
    seen: float | None
    region: float | None


@dataclass(frozen=True)
class TrainingPage:
    """The page from top to bottom; `missing`: what could not be drawn, and why."""

    title: str
    answer: str
    facts: list[tuple[str, str, str]]
    figures: list[Figure]
    on: str
    rows: list[ClassRow]
    confusion: Figure | None
    mistakes: list[str]
    against: list[Figure]
    seen: Seen | None
    maps: list[Overlay]
    missing: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def write_training_report(
    folder: Path,
    out: Path,
    data: Data | None = None,
    split: str | None = None,
    count: int = 4,
    progress: Progress = lambda what, done, every: None,
) -> list[str]:
    """Write the page about a run to `out`; what could not be drawn, and why.

    data:  what it was trained on, for all that needs images; `split` of it, by default the one that chose the epoch.
    count: the worst images to show by each measure.

    Raises:
        EdgesegError: the run says nothing at all, the data is not its data, or `out` cannot be written.
    """
    card = read_card(folder) if (folder / CARD).exists() else None
    missing: list[str] = []
    try:
        log = read_log(folder / "log.jsonl")
    except EdgesegError as error:
        if card is None:
            raise
        log = Log()
        missing.append(f"curves: {error}")
    seen = _look(folder, card, data, split, count, progress) if data else None
    scores = _scores(folder, card, log, seen, missing)
    if seen is None:
        missing.append(
            "worst images, where it errs, what the labels are made of: all of that needs the data; name it with `--data`"
        )
    write_text(out, lay_out("training.html.j2", _page(card, log, scores, seen, missing)))
    return missing


def _look(folder: Path, card: RunCard | None, data: Data, split: str | None, count: int, progress: Progress) -> Seen:
    from edgeseg.evaluate import check_classes
    from edgeseg.students import Semantic
    from edgeseg.students.assisted import is_assisted

    if card is None:
        raise EdgesegError(
            f"{folder} has no weights yet: training has not evaluated; leave --data out to see its curves"
        )
    student = load_run(folder)
    check_classes(student, data)
    if not isinstance(student, Semantic) or is_assisted(student):
        raise EdgesegError(f"{card.name} does not label the pixels of an image by itself; leave --data out")
    chosen = split or (card.training.select_split if card.training else data.select)
    fit = card.training.split if card.training and card.training.split in data.splits else data.fit
    part, classes = data.split(chosen), len(data.class_names)
    errors = errors_on(student, part, classes, partial(progress, f"looking at {chosen}"))
    labels = label_statistics(data.split(fit), classes, partial(progress, f"counting labels of {fit}"))
    drawn: dict[int, Poor] = {}

    def poor(found: ImageErrors) -> Poor:
        if found.index not in drawn:
            image, truth = part[found.index]
            drawn[found.index] = Poor(
                found, list(_overlays(image, truth, look(student, image, truth)[0], card.palette))
            )
        return drawn[found.index]

    measures: dict[str, Callable[[ImageErrors], float]] = {
        "Highest loss": lambda image: image.loss,
        "Worst boundaries": lambda image: -image.boundary_f,
    }
    shown = [(name, [poor(one) for one in worst(errors.images, of, count)]) for name, of in measures.items()]
    return Seen(chosen, fit, errors, labels, shown)


def _overlays(
    image: NDArray[np.uint8], truth: NDArray[np.uint8], labels: NDArray[np.uint8], palette: list[tuple[int, int, int]]
) -> Iterator[Overlay]:
    from PIL import Image

    size = small(image.shape[1], image.shape[0])
    photo = Image.fromarray(image).resize(size, Image.Resampling.LANCZOS)
    wrong = (labels != truth) & (truth != 255)
    for title, picture in {
        "Labelled by hand": tinted(photo, truth, palette),
        "Labelled by the run": tinted(photo, labels, palette),
        "Wrong": marked(photo, wrong, grown=1),
    }.items():
        yield Overlay(title, jpeg(picture), *size)


def _scores(folder: Path, card: RunCard | None, log: Log, seen: Seen | None, missing: list[str]) -> Scores | None:
    """From the images if they were looked at, else from a stored evaluation, else from the log."""
    if seen is not None:
        each = iou(seen.errors.confusion)
        return Scores(seen.split, [_known(value) for value in each], seen.errors.confusion)
    if card is None or card.task == "promptable":
        why = "training was not evaluated yet" if card is None else "a promptable run has none"
        missing.append(f"classes and confusion: {why}")
        return None
    if stored := list(_evaluations(folder, card, missing)):
        last = max(stored, key=lambda found: found.created)
        matrix = unpack_confusions(last.confusions, len(last.class_names)).sum(0)
        return Scores(f"{last.data} [{last.split}]", list(last.score.iou), matrix)
    missing.append(
        f"confusion: nothing counted it; name the data with `--data`, or run `edgeseg eval {folder} --data DATA`"
    )
    best = next((s for s in reversed(log.scores) if card.training and s.epoch == card.training.best_epoch), None)
    values = best.score.get("iou") if best else None
    if best is None or not isinstance(values, list) or len(values) != card.classes:
        missing.append("IoU of each class: the log has none of the epoch that was kept")
        return None
    return Scores(str(best.score["select"]), [None if value is None else float(value) for value in values], None)


def _evaluations(folder: Path, card: RunCard, missing: list[str]) -> Iterator[Evaluation]:
    """The stored evaluations of these very weights."""
    for path in sorted(folder.glob("eval-*.json")):
        try:
            found = parse_evaluation(read_json(path), str(path))
        except EdgesegError as error:
            missing.append(str(error))
            continue
        if found.sha256 == card.sha256:
            yield found


def _page(card: RunCard | None, log: Log, scores: Scores | None, seen: Seen | None, missing: list[str]) -> TrainingPage:
    training = card.training if card else None
    names = card.class_names if card else []
    return TrainingPage(
        title=_title(card, log),
        answer=_answer(card, log),
        facts=list(_facts(card)),
        figures=list(_figures(log, training.best_epoch if training else None)),
        on=scores.on if scores else "",
        rows=list(_rows(card, log, scores, seen)) if card and scores else [],
        confusion=_confusion(scores.matrix, names, missing) if scores and scores.matrix is not None else None,
        mistakes=list(_mistakes(scores.matrix, names)) if scores and scores.matrix is not None else [],
        against=list(_against(scores, seen, names)) if scores and seen else [],
        seen=seen,
        maps=list(_maps(seen.errors)) if seen else [],
        missing=missing,
        problems=log.problems,
    )


def _title(card: RunCard | None, log: Log) -> str:
    best = max((score.figure for score in log.scores), default=None)
    if card and card.training:
        return f"{card.name}: {card.training.select_miou:.1f} % mIoU"
    return f"{card.name if card else 'A run that is not finished'}{'' if best is None else f': {best:.1f} % mIoU'}"


def _answer(card: RunCard | None, log: Log) -> str:
    """What the curves say, in a sentence."""
    training = card.training if card else None
    if training is None:
        return "Training was not evaluated yet." if card is None else "These weights were not trained here."
    kept = f"Epoch {training.best_epoch} of {training.epochs} was kept, the best on {training.select_split}."
    if not log.scores:
        return kept
    last = max(score.epoch for score in log.scores)
    if last < training.epochs:
        return f"{kept} Training has come to epoch {last} and is not over."
    if training.best_epoch == last:
        return f"{kept} It is the last one: longer training may give more."
    after = last - training.best_epoch
    return f"{kept} The {f'{after} epochs' if after > 1 else 'epoch'} after it gained nothing."


def _facts(card: RunCard | None) -> Iterator[tuple[str, str, str]]:
    if card is None:
        return
    yield (
        "Parameters",
        f"{card.params / 1e6:.2f} M",
        f"{card.classes} classes" if card.task == "semantic" else card.task,
    )
    if card.size:
        yield "Size", f"{card.size[0]}x{card.size[1]}", "height x width"
    if (training := card.training) is None:
        return
    recipe = training.recipe
    yield "Epochs", str(training.epochs), f"of {training.split}, batches of {recipe.get('batch', 'unknown size')}"
    yield (
        "Time",
        _hours(training.seconds),
        f"to epoch {training.best_epoch}, {training.threads} thread{'s' if training.threads != 1 else ''}, {training.machine}",
    )
    optimizer = recipe.get("optimizer") or {}
    yield "Learning rate", f"{optimizer.get('lr', 'not known')}", str(optimizer.get("type", ""))
    yield "Loss", str((recipe.get("loss") or {}).get("type", "not known")), str(recipe.get("precision", ""))


def _hours(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{max(1, minutes)} min"


def _figure(title: str, caption: str, draw: Callable[[int], Markup], key: Sequence[tuple[str, str]] = ()) -> Figure:
    return Figure(title, caption, draw(PHONE), draw(DESK), list(key))


def _figures(log: Log, best: int | None) -> Iterator[Figure]:
    """Loss, score and learning rate, each where the log has it."""
    losses = [name for name in log.series if name.startswith("loss")]
    if losses:
        drawn = [(name, f"c{index % 6 + 1}", log.series[name]) for index, name in enumerate(losses)]
        key = [(colour, name) for name, colour, _ in drawn] if len(drawn) > 1 else []
        caption = "On the batches of training, augmentation included: pale as logged, strong the mean of each epoch."
        yield _figure("Loss", caption, partial(curves.curves, drawn, "loss"), key)
    if log.scores:
        named = {
            "mIoU": "miou",
            "after 1 click": "miou_1",
            "pixel accuracy": "pixel_accuracy",
            "boundary F": "boundary_f",
        }
        series = {
            label: [(float(s.epoch), float(s.score[name])) for s in log.scores if s.score.get(name) is not None]
            for label, name in named.items()
        }
        shown = [(label, f"c{i + 1}", points) for i, (label, points) in enumerate(series.items()) if points]
        caption = f"Percent on {log.scores[-1].score['select']}, of the averaged weights where there are such."
        key = [(colour, f"{label} {points[-1][1]:.1f}") for label, colour, points in shown]
        yield _figure("Score", caption, partial(curves.curves, shown, "percent", best=best), key)
    if "lr" in log.series:
        rate = [("lr", "c1", log.series["lr"])]
        yield _figure("Learning rate", "As the schedule gave it.", partial(curves.curves, rate, "rate"))


def _rows(card: RunCard, log: Log, scores: Scores, seen: Seen | None) -> Iterator[ClassRow]:
    history = [s.score["iou"] for s in log.scores if len(s.score.get("iou") or []) == card.classes]
    taken = None if scores.matrix is None else curves.of_truth(scores.matrix)
    for index, name in enumerate(card.class_names):
        matrix = scores.matrix
        red, green, blue = card.palette[index]
        yield ClassRow(
            name=name,
            colour=f"rgb({red} {green} {blue})",
            spark=curves.spark([each[index] for each in history]) if len(history) > 1 else None,
            iou=scores.iou[index],
            recall=None if taken is None else _known(100 * taken[index, index]),
            precision=None if matrix is None else _share(matrix[index, index], matrix[:, index].sum()),
            taken_for="" if matrix is None else _most(matrix[index], index, card.class_names),
            share=_known(100 * seen.labels.share[index]) if seen else None,
            seen=_known(100 * seen.labels.seen[index]) if seen else None,
            region=_known(seen.labels.region[index]) if seen else None,
        )


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _share(part: int, whole: int) -> float | None:
    return 100 * float(part) / float(whole) if whole else None


def _most(row: NDArray[np.int64], own: int, names: Sequence[str]) -> str:
    others = row.copy()
    others[own] = 0
    return f"{names[int(others.argmax())]} {100 * others.max() / row.sum():.0f} %" if others.any() else ""


def _confusion(matrix: NDArray[np.int64], names: Sequence[str], missing: list[str]) -> Figure | None:
    if len(names) > curves.CELLS:
        missing.append(
            f"confusion as a chart: {len(names)} classes are too many cells; the largest mistakes are listed"
        )
        return None
    caption = (
        "Rows are the truth and add up to 100 %, columns what its pixels were taken for, by the number of the class. "
        "Blue is right."
    )
    return _figure("Confusion", caption, partial(curves.confusion, matrix, names))


def _mistakes(matrix: NDArray[np.int64], names: Sequence[str]) -> Iterator[str]:
    """The largest by pixels."""
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    for flat in np.argsort(wrong, axis=None)[::-1][:MISTAKES]:
        row, column = divmod(int(flat), len(names))
        if wrong[row, column]:
            own, all_ = wrong[row, column] / matrix[row].sum(), wrong[row, column] / wrong.sum()
            yield f"{names[row]} taken for {names[column]}: {own:.1%} of {names[row]}, {all_:.1%} of all that is wrong"


def _against(scores: Scores, seen: Seen, names: Sequence[str]) -> Iterator[Figure]:
    """IoU against what the labels have of a class, with the rank correlation."""
    labels = seen.labels
    for title, across, values in (
        ("Share of the pixels", "share of labelled pixels, %", 100 * labels.share),
        ("Number of images", "images that have it", labels.seen * labels.images),
        ("Size of its regions", "mean region, px", labels.region),
    ):
        points = [
            (name, float(value), score)
            for name, value, score in zip(names, values, scores.iou, strict=True)
            if score is not None and value > 0
        ]
        if not points:
            continue
        rho = curves.rank_correlation([x for _, x, _ in points], [y for *_, y in points])
        said = "too few classes for a correlation" if rho is None else f"rank correlation with IoU {rho:+.2f}"
        caption = f"In the labels of {seen.fit}, {labels.images} images; {said}."
        yield _figure(title, caption, partial(curves.against, points, across))


def _maps(errors: Errors) -> Iterator[Overlay]:
    """The mean image, and where it is wrong and hard, averaged over all images."""
    from PIL import Image

    for title, values, scale, unit in (
        ("Wrong pixels", errors.wrong, 100.0, " %"),
        ("Cross-entropy", errors.hardness, 1.0, ""),
    ):
        most = float(np.nanmax(values)) if np.isfinite(values).any() else 0.0
        picture = Image.fromarray(heat(values / most if most > 0 else values))
        size = small(4 * picture.width, 4 * picture.height)
        words = f"{title}, black is none, white {most * scale:.3g}{unit}"
        yield Overlay(words, jpeg(picture.resize(size, Image.Resampling.BILINEAR)), *size)
    photo = Image.fromarray(errors.photo)
    size = small(4 * photo.width, 4 * photo.height)
    yield Overlay("The mean of all images", jpeg(photo.resize(size, Image.Resampling.BILINEAR)), *size)


def heat(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Values 0..1 as colours `[..., 3]`, NaN grey."""
    places = np.linspace(0, 1, len(HEAT))
    drawn = np.stack([np.interp(np.nan_to_num(values), places, HEAT[:, channel]) for channel in range(3)], -1)
    drawn[~np.isfinite(values)] = 128
    return drawn.round().astype(np.uint8)
