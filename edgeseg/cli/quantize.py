"""`edgeseg quantize`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.text import Text

from edgeseg.cli.app import TRUSTED, Json, app, counting, emit, parse_size, progress, say, table, talk
from edgeseg.cli.export import Images, chosen_targets, folder_name, report, subject, words
from edgeseg.errors import EdgesegError
from edgeseg.quantize.findings import FEWEST, TRIALS

if TYPE_CHECKING:
    from rich.table import Table

    from edgeseg.data import Data
    from edgeseg.export.target import Target
    from edgeseg.manifest import Source
    from edgeseg.quantize.calibration import CalibrationSet
    from edgeseg.quantize.findings import Damage, Search
    from edgeseg.quantize.scheme import Recipe
    from edgeseg.students import Student


@app.command()
def quantize(
    run: Annotated[str, typer.Argument(metavar="RUN|NAME", help="A run, or a student by name with fresh weights.")],
    to: Annotated[str, typer.Option(metavar="TARGET[,TARGET]", help="onnxruntime, openvino, litert, executorch, ...")],
    calib: Annotated[str, typer.Option(help="Where calibration images come from, e.g. camvid:PATH; never guessed.")],
    out: Annotated[Path, typer.Option(help="Each artifact goes into a folder in here, e.g. OUT/openvino-int8.")],
    precision: Annotated[
        str, typer.Option(help="int8 or w8a8 (weights and activations), w8a32 (weights alone), or several: int8,w8a32")
    ] = "int8",
    images: Annotated[int, typer.Option(min=1, help="Calibration images, spread over the split.")] = 64,
    split: Annotated[str | None, typer.Option(help="The split to calibrate on; that to learn from by default.")] = None,
    ranges: Annotated[
        Literal["auto", "minmax", "percentile", "mse", "entropy"],
        typer.Option(help="How the range of an activation is taken; auto: as keeps most labels, in PyTorch."),
    ] = "auto",
    keep: Annotated[str, typer.Option(metavar="MODULE[,MODULE]", help="Modules that stay in float.")] = "",
    equalise: Annotated[bool, typer.Option("--equalise", help="Cross-layer equalisation first.")] = False,
    bias_correction: Annotated[
        bool,
        typer.Option(help="Correct the biases for the mean error of rounded weights; with auto only if that helps."),
    ] = True,
    curve: Annotated[
        bool, typer.Option("--curve", help="Also say what fewer calibration images would do: are these enough?")
    ] = False,
    aware_epochs: Annotated[
        int,
        typer.Option(
            min=0, help="Train so many epochs with the rounding first, taught by the float run: a run of its own."
        ),
    ] = 0,
    max_drop: Annotated[
        float | None,
        typer.Option(help="Search: points of mIoU that may be lost; blocks go back into float until it is kept."),
    ] = None,
    budget_ms: Annotated[float | None, typer.Option(help="Search: the median of a frame may take so long.")] = None,
    on: Annotated[str, typer.Option("--on", metavar="DEVICE", help="Search: where it is measured.")] = "local",
    threads: Annotated[int, typer.Option(min=1, help="Search: threads that it is measured with.")] = 1,
    trials: Annotated[
        int, typer.Option(min=FEWEST, help="Search: artifacts that are made at most, those of --time-blocks too.")
    ] = TRIALS,
    time_blocks: Annotated[
        int, typer.Option(min=0, help="Search: measure what so many of the most damaged blocks take in float.")
    ] = 0,
    metric: Annotated[Literal["miou"], typer.Option(help="Search: what may be lost.")] = "miou",
    size: Annotated[str | None, typer.Option(metavar="HxW", help="The size the run was trained at by default.")] = None,
    bake: Annotated[
        str, typer.Option(help="pre: uint8 RGB in; bgr: that in BGR; labels: uint8 label map out")
    ] = "pre,labels",
    options: Annotated[
        list[str] | None, typer.Option("--set", metavar="TARGET.OPTION=VALUE", help="An option of one target.")
    ] = None,
    data: Images = None,
    as_json: Json = False,
) -> None:
    """Quantize a run with calibration images, prove each artifact, and put it in place when it is complete.

    The proof tells what whole numbers do to the masks (student -> graph) from what the runtime adds (graph -> runtime).
    With --max-drop or --budget-ms it searches: float, half precision, whole numbers, and whole numbers with the most damaged
    blocks in float are scored and timed, and the fastest that keeps the masks is put in place. That may be the float one.

    With --on DEVICE they are timed there; a device that goes away ends the search, and the same command goes on.

    Example: edgeseg quantize runs/cam --to openvino,litert --calib camvid:PATH --out out/cam --max-drop 0.5
    """
    from edgeseg.data import load_data
    from edgeseg.evaluate import check_classes
    from edgeseg.quantize.calibration import choose_images
    from edgeseg.quantize.scheme import Recipe
    from edgeseg.runs import load_run

    targets = chosen_targets(to, precision, "auto", options or [])
    recipe = Recipe(ranges, bias_correction, equalise, tuple(words(keep)))
    parsed = parse_size(size)
    source_data = load_data(calib)
    searching = max_drop is not None or budget_ms is not None
    if on != "local" and not searching:
        raise EdgesegError(
            f"--on {on} is where a search measures; say what to search for with --max-drop or --budget-ms"
        )
    if not searching and (threads, trials, time_blocks) != (1, TRIALS, 0):
        raise EdgesegError(
            "--threads, --trials and --time-blocks are a search's; say what for with --max-drop or --budget-ms"
        )
    if curve and len(targets) > 1:
        raise EdgesegError(f"--curve is of one target and precision, {len(targets)} are named; name one")
    sizes, classes = [parsed] if parsed else [], len(source_data.class_names)
    folder, source, usual, proof = subject(run, sizes, classes, data, out)
    student = load_run(folder)
    check_classes(student, source_data)
    judged = load_data(proof) if proof else source_data
    with counting(f"reading {images} calibration images") as count:
        chosen = choose_images(source_data, split, images, count, student.look, judged)
    at = parsed or usual[0]
    for warning in chosen.warnings(at):
        say(warning)
    base = _Base(folder, source, student, at, words(bake), chosen, recipe, out, student)
    if curve:
        base = _curve(base, targets[0], judged)
    if aware_epochs:
        base = _aware(base, targets[0], source_data, aware_epochs)
    if searching:
        limits = (0.5 if max_drop is None else max_drop, budget_ms, threads, trials)
        _search(base, targets, judged, limits, on, time_blocks, as_json)
    else:
        _once(base, targets, judged.spec, as_json)


@dataclass(frozen=True)
class _Base:
    """What every artifact of one command has in common."""

    folder: Path
    source: Source
    student: Student
    size: tuple[int, int]
    bake: list[str]
    chosen: CalibrationSet
    recipe: Recipe
    out: Path
    reference: Student


def _curve(base: _Base, target: Target, data: Data) -> _Base:
    """The same with what fewer calibration images do in its card, which is shown."""
    from edgeseg.export import networks
    from edgeseg.export.deployed import ImageNetwork
    from edgeseg.parity import choose
    from edgeseg.quantize.choice import PROBES
    from edgeseg.quantize.curve import curve_words, size_curve

    if base.student.task != "semantic":
        raise EdgesegError(
            f"{base.student.name} is promptable; --curve counts labels, which only a semantic student gives"
        )
    network = networks(base.student, base.size, base.bake, target.interface)[0]
    assert isinstance(network, ImageNetwork)
    _, pictures = choose(data, None, PROBES, base.size)
    with progress("calibrating on fewer images") as bar:
        made = size_curve(network, target.name, target.precision, base.recipe, base.chosen, pictures, bar)
    rows = [[str(at.count), *(f"{100 * share:.3f} %" for share in (at.kept, at.low, at.high))] for at in made]
    talk.print(
        table(f"labels that stay on {target.name}", ["images", "mean", "lowest", "highest"], rows, right=range(4))
    )
    talk.print(curve_words(made), soft_wrap=True)
    return replace(base, chosen=replace(base.chosen, card=replace(base.chosen.card, curve=made)))


def _aware(base: _Base, target: Target, data: Data, epochs: int) -> _Base:
    """The same from a run that has learned to be rounded as the first target rounds; losses still count against the float run."""
    from edgeseg.manifest import Source
    from edgeseg.quantize.aware import Aware, train_aware
    from edgeseg.runs import read_card, save
    from edgeseg.students import Semantic

    if not isinstance(base.student, Semantic):
        raise EdgesegError(f"{base.student.name} is promptable; --aware-epochs is for students that name classes")
    folder = base.out / "run-aware"
    with progress(f"training {folder} with the rounding of {target.name}") as bar:
        learned = train_aware(
            base.student, target, base.chosen, base.recipe.fixed, data, base.size, Aware(epochs=epochs), bar
        )
    save(learned, folder, base.size, base=base.source.sha256)
    source = Source(str(folder), read_card(folder).sha256)
    return replace(base, folder=folder, source=source, student=learned)


def _once(base: _Base, targets: Sequence[Target], proof: str, as_json: bool) -> None:
    """Every target quantized as the recipe says."""
    from edgeseg.data import load_data
    from edgeseg.export.apart import Job, Outcome, export_apart
    from edgeseg.parity import choose
    from edgeseg.quantize.choice import PROBES
    from edgeseg.quantize.model import quantize as quantized

    outcomes = []
    _, probes = choose(load_data(proof), None, PROBES, base.size)
    for target in targets:
        place = str(base.out / folder_name(target, None))
        try:
            with progress(f"calibrating {place}"):
                made = quantized(base.student, target, base.size, base.bake, base.chosen, base.recipe, probes)
        except EdgesegError as error:
            outcomes.append(Outcome(target, base.size, None, error))
            continue
        job = Job(
            run=str(base.folder),
            target=target.options(),
            out=place,
            size=base.size,
            bake=base.bake,
            data=proof,
            source=base.source,
            trust=list(TRUSTED),
            quantization=made,
            calibration=base.chosen.card,
        )
        with progress(f"exporting and verifying {place}") as bar:
            outcomes.append(export_apart(job, target, bar))
    report(outcomes, False, as_json)


def _search(
    base: _Base,
    targets: Sequence[Target],
    data: Data,
    limits: tuple[float, float | None, int, int],
    device: str,
    time_blocks: int,
    as_json: bool,
) -> None:
    """Every target searched; the first without an answer ends the command when all are done."""
    from edgeseg import schema
    from edgeseg.quantize.search import Plan, refusal, search

    max_drop, budget_ms, threads, trials = limits
    found = []
    for target in targets:
        plan = Plan(
            folder=base.folder,
            source=base.source,
            student=base.student,
            target=target,
            size=base.size,
            bake=base.bake,
            chosen=base.chosen,
            data=data,
            split=data.select,
            out=base.out / folder_name(target, None),
            max_drop=max_drop,
            budget_ms=budget_ms,
            threads=threads,
            trials=trials,
            recipe=base.recipe,
            trust=list(TRUSTED),
            reference=base.reference,
            device=device,
            time_blocks=time_blocks,
        )
        found.append(search(plan, lambda words: talk.print(words, soft_wrap=True)))
    documents = [schema.dump(one) for one in found]
    shown: list[Table | str] = []
    for one in found:
        shown += [front_table(one), *_damage(one.sensitivity), f"{one.target}: {one.words}", *_took(one)]
    emit(documents if len(documents) > 1 else documents[0], as_json, *shown)
    for one in found:
        if error := refusal(one):
            raise error


def front_table(found: Search) -> Table:
    """The trials of a search, a line each; the wider side of an interval, which JSON and the report have both sides of."""
    from edgeseg.quantize.findings import called

    def wide(value: float, low: float, high: float, form: str) -> str:
        return f"{value:{form}} ±{max(value - low, high - value):{form.lstrip('+')}}"

    rows = []
    for trial in found.trials:
        time, drop = trial.time, trial.drop
        rows.append(
            [
                Text("*", "bold green") if trial.number == found.chosen else "",
                called(trial),
                None if trial.miou is None else f"{trial.miou:.2f}",
                None if drop is None else wide(drop.points, drop.low, drop.high, "+.2f"),
                None if time is None else wide(time.ratio, time.low, time.high, ".3f"),
                None if trial.megabytes is None else f"{trial.megabytes:.1f}",
                Text("fails", "red") if trial.failed else "",
            ]
        )
    where = "" if found.device == "local" else f" of {found.device}"
    title = f"{found.student} on {found.target}, {found.images}, {found.threads} thread(s){where}"
    columns = ["", "artifact", "mIoU", "drop", "time / float's", "MB", "proof"]
    return table(title, columns, rows, right=(2, 3, 4, 5), whole=range(2, 7))


def _took(found: Search) -> list[str]:
    """How long it took; of a search that did not count, nothing."""
    if found.seconds is None:
        return []
    return [f"{found.target}: the search took {found.seconds / 60:.1f} minutes, all its sessions together"]


def _damage(rows: Sequence[Damage]) -> list[Table]:
    """The blocks that lose most, where they were looked at."""
    lines = []
    for row in rows[:8]:
        price = None if row.price is None else f"{row.price.ratio:.3f} ({row.price.low:.3f} to {row.price.high:.3f})"
        lines.append([row.block, f"{row.drop:+.2f}", f"{row.boundary:+.2f}", f"{100 * row.changed:.2f} %", price])
    columns = ["block", "mIoU", "boundary F", "labels changed", "time with it in float"]
    if all(row.price is None for row in rows):
        columns, lines = columns[:-1], [line[:-1] for line in lines]
    title = "each block alone in whole numbers"
    return [table(title, columns, lines, right=tuple(range(1, len(columns))))] if lines else []
