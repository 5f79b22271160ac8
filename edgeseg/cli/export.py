"""`edgeseg export` and `edgeseg verify`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer
from rich.text import Text

from edgeseg.cli.app import TRUSTED, Json, app, emit, is_artifact, parse_size, progress, say, table
from edgeseg.errors import EdgesegError, MissingTool
from edgeseg.manifest import Sizes

if TYPE_CHECKING:
    from rich.table import Table

    from edgeseg.artifact import Artifact
    from edgeseg.data import Data
    from edgeseg.export.apart import Outcome
    from edgeseg.export.target import Target
    from edgeseg.manifest import Source
    from edgeseg.runs import RunCard


ALL = "all"
"""For `--to`: every target there is."""

Images = Annotated[str | None, typer.Option(help="Images for the proof; the run's own data by default.")]


@app.command()
def export(
    run: Annotated[str, typer.Argument(metavar="RUN|NAME", help="A run, or a student by name with fresh weights.")],
    to: Annotated[
        str,
        typer.Option(
            metavar="TARGET[,TARGET]", help="onnxruntime, openvino, litert, ... as `edgeseg doctor` names them, or all"
        ),
    ],
    out: Annotated[Path, typer.Option(help="Each artifact goes into a folder of its own in here, e.g. OUT/openvino.")],
    precision: Annotated[str, typer.Option(help="fp32, fp16, or both: fp32,fp16")] = "fp32",
    size: Annotated[
        str | None,
        typer.Option(
            metavar="HxW[,HxW]",
            help="Height x width; the size the run was trained at by default. 192x256-720x960 is one file for all between, where the "
            "target has that.",
        ),
    ] = None,
    batch: Annotated[
        int, typer.Option(min=1, help="One file for up to so many images at once, where the target has that.")
    ] = 1,
    bake: Annotated[
        str, typer.Option(help="pre: uint8 RGB in; bgr: that in BGR; labels: uint8 label map out; e.g. pre,labels")
    ] = "",
    ops: Annotated[
        str, typer.Option(help="How wkv, selective_scan and label_map run: auto, plugin or graph (standard operators).")
    ] = "auto",
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="TARGET.OPTION=VALUE", help="An option of one target, e.g. coreml.deployment=iOS18."
        ),
    ] = None,
    classes: Annotated[int, typer.Option(help="For a NAME: the number of classes.")] = 19,
    data: Images = None,
    as_json: Json = False,
) -> None:
    """Export a run, prove each artifact, and put it in place when it is complete.

    Each target works in a process of its own: one that fails is a line in the table, and the others go on.

    Example: edgeseg export runs/cam --to onnxruntime,openvino --out out/cam --bake pre,labels
    Example: edgeseg export runs/cam --to tensorrt --out out/cam --size 192x256-720x960 --batch 4
    """
    from edgeseg.export.apart import Job, export_apart

    targets = chosen_targets(to, precision, ops, options or [])
    spans = [parse_span(part) for part in words(size or "")]
    for span in spans or [((1, 1), (1, 1))]:
        freed(targets, span, batch, to == ALL)  # refuses before anything is written
    outcomes = []
    folder, source, usual, images = subject(run, [most for _, most in spans], classes, data, out)
    for span in spans or [(each, each) for each in usual]:
        at = span[0] if span[0] == span[1] else usual[0]  # of the span, or the nearest to it
        for target in freed(targets, span, batch, to == ALL):
            place = str(out / folder_name(target, at if len(spans) > 1 else None))
            job = Job(str(folder), target.options(), place, at, words(bake), images, source, list(TRUSTED))
            with progress(f"exporting and verifying {place}") as bar:
                outcomes.append(export_apart(job, target, bar))
    report(outcomes, to == ALL, as_json)


Span: TypeAlias = tuple[tuple[int, int], tuple[int, int]]
"""The least and the largest (height, width)."""


def parse_span(text: str) -> Span:
    """`192x256-720x960`, or `360x480` for a span of one size."""
    least, _, most = text.partition("-")
    first = parse_size(least)
    second = parse_size(most) if most else first
    assert first is not None and second is not None
    return first, second


def freed(targets: Sequence[Target], span: Span, batch: int, everything: bool) -> list[Target]:
    """The targets with what their files take beside one size and one image; of `everything` those that can."""
    if span[0] == span[1] and batch == 1:
        return list(targets)
    sizes, made = Sizes(*span, batch), []
    for target in targets:
        try:
            made.append(replace(target, sizes=sizes))
        except EdgesegError as error:
            if not everything:
                raise
            say(str(error))
    if not made:
        raise EdgesegError(f"no target takes {sizes}")
    return made


def subject(
    run: str, sizes: list[tuple[int, int]], classes: int, data: str | None, out: Path
) -> tuple[Path, Source, list[tuple[int, int]], str | None]:
    """What to export: the folder of a run, where it comes from, the size it was trained at, the images to prove it on.

    A student by name is one with fresh weights, which is kept in `out`, so that what is made of it can be verified again.
    """
    from edgeseg.export.apart import fresh
    from edgeseg.manifest import Source
    from edgeseg.runs import read_card
    from edgeseg.students import STUDENTS

    by_name = not Path(run).exists() and run in STUDENTS
    if by_name and not sizes:
        raise EdgesegError(f"{run} is a student without training: say at which --size, e.g. 360x480")
    folder = fresh(run, classes, sizes[0], out / run) if by_name else Path(run)
    card = read_card(folder)
    if not sizes and card.size is None:
        raise EdgesegError(f"{run} does not say at which size it was trained; give one with --size, e.g. 360x480")
    images = proof_data(data, card.training.data if card.training else None)
    usual = [card.size] if card.size else sizes
    return folder, Source(str(folder), card.sha256), usual, images.spec if images else None


def chosen_targets(to: str, precision: str, ops: str, options: list[str]) -> list[Target]:
    """The targets named, in each of the precisions named, with their own options."""
    from edgeseg import schema
    from edgeseg.export import TARGETS
    from edgeseg.quantize.scheme import ALSO

    given: dict[str, dict[str, str]] = {}
    for entry in options:
        name, dot, rest = entry.partition(".")
        key, equals, value = rest.partition("=")
        if not (dot and equals and key):
            raise EdgesegError(f"--set takes TARGET.OPTION=VALUE, got {entry!r}; e.g. coreml.deployment=iOS18")
        given.setdefault(TARGETS[name].name, {})[key] = value
    kinds = list(dict.fromkeys(TARGETS[name] for name in (TARGETS if to == ALL else words(to))))
    if unused := set(given) - {kind.name for kind in kinds}:
        raise EdgesegError(f"--set is for {', '.join(sorted(unused))}, which --to does not name")
    targets = []
    for each in dict.fromkeys(ALSO.get(word, word) for word in words(precision)):
        for kind in kinds:
            try:
                targets.append(
                    schema.parse(kind, {"precision": each, "ops": ops} | given.get(kind.name, {}), kind.name)
                )
            except EdgesegError as error:
                if to != ALL or kind.name in given:
                    raise
                say(str(error))  # all means all that can
    if not targets:
        raise EdgesegError(f"no target can do precision {precision} with ops {ops}")
    return targets


def words(text: str) -> list[str]:
    """`a,b` as a list."""
    return [word.strip() for word in text.split(",") if word.strip()]


def folder_name(target: Target, size: tuple[int, int] | None) -> str:
    """What an artifact's folder is called: the target, its precision unless fp32, and the size where there are several."""
    name = target.name if target.precision == "fp32" else f"{target.name}-{target.precision}"
    if size is None:
        return name
    return f"{name}-{size[0]}x{size[1]}" if target.sizes is None else f"{name}-{target.sizes}"


def report(outcomes: list[Outcome], everything: bool, as_json: bool) -> None:
    """Show what became of exports; the error of a single one, or the first of several, ends the command.

    everything: all targets were asked for, so that one whose extra is not installed is a line and no error.
    """
    from edgeseg import schema

    several = len({one.size for one in outcomes}) > 1
    names = [folder_name(one.target, one.size if several else None) for one in outcomes]
    errors = [one for one in outcomes if one.error is not None]
    if len(outcomes) == 1 and errors and errors[0].artifact is None:
        raise errors[0].error  # type: ignore[misc]
    documents = [
        schema.dump(one.artifact.manifest)
        if one.artifact
        else {"target": one.target.options(), "size": one.size, "error": str(one.error)}
        for one in outcomes
    ]
    proven = [one.artifact for one in outcomes if one.artifact]
    ledgers = [ledger_table(artifact) for artifact in proven] if len(proven) <= LEDGERS else []
    summary = [] if len(outcomes) == 1 else [outcome_table(names, outcomes)]
    reasons = [f"{name}: {one.error}" for name, one in zip(names, outcomes, strict=True) if one.error and summary]
    emit(documents, as_json, *ledgers, *summary, *reasons)
    grave = [one for one in errors if not (everything and isinstance(one.error, MissingTool))]
    if grave:
        failed = [one for one in grave if one.artifact] or grave
        first = failed[0].error
        assert first is not None
        if len(outcomes) == 1:
            raise first
        raise type(first)(f"{len(grave)} of {len(outcomes)} exports failed, see above")


LEDGERS = 2
"""Artifacts whose whole ledgers are shown after an export; of more there is a line each."""


def outcome_table(names: list[str], outcomes: list[Outcome]) -> Table:
    """A line for each export."""
    rows = []
    for name, one in zip(names, outcomes, strict=True):
        if one.artifact is None:
            rows.append([name, None, None, None, None, None, MISSING if isinstance(one.error, MissingTool) else FAIL])
            continue
        manifest = one.artifact.manifest
        hop = manifest.ledger.hops[-1] if manifest.ledger else None
        tiers = ", ".join(f"{operator} {tier}" for operator, tier in manifest.op_tiers.items())
        rms = None if hop is None or hop.relative_rms is None else f"{hop.relative_rms:.1e}"
        same = None if hop is None else f"{100 * hop.same_label:.3f}%"
        size = f"{sum(file.bytes for file in manifest.files) / 1e6:.1f}"
        seconds = str(manifest.conversion.get("seconds", "-"))
        rows.append([name, rms, same, size, seconds, tiers, PASS if one.error is None else FAIL])
    columns = ["artifact", "rel. RMS", "same label", "MB", "s", "operators", ""]
    return table("", columns, rows, right=(1, 2, 3, 4), whole=(0, 1, 2, 6))


PASS, FAIL, MISSING = Text("pass", "green"), Text("FAIL", "red"), Text("missing", "red")


@app.command()
def verify(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT")],
    against: Annotated[
        Path | None, typer.Option(help="The run; the one the artifact was made from by default.")
    ] = None,
    data: Images = None,
    split: Annotated[str | None, typer.Option(help="The data set's selection split by default.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Images to compare on.")] = 8,
    bisect: Annotated[
        bool,
        typer.Option(
            "--bisect",
            help="Also: the first module (of Core ML: and operator) whose output differs, and where in the picture.",
        ),
    ] = False,
    device: Annotated[
        str | None,
        typer.Option("-d", "--device", help="Instead: the artifact there against the same here, e.g. emulated://pi5."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare an artifact with its run on real images, mask by mask, and renew its ledger.

    With -d DEVICE it is the last hop: what the artifact draws there against what it draws here. The ledger stays as it is.

    Example: edgeseg verify out/cam/openvino --data camvid:PATH --split test --count 50
    """
    from edgeseg import schema
    from edgeseg.artifact import Artifact
    from edgeseg.export.apart import ask
    from edgeseg.parity import refusal

    if not is_artifact(artifact):
        raise EdgesegError(f"{artifact} is a run; verify takes an artifact and compares it with its run")
    opened = Artifact.open(artifact)
    if device is not None:
        if against or bisect:
            raise EdgesegError("-d compares an artifact there with the same one here; leave --against and --bisect out")
        on_device(opened, device, data, split, count, as_json)
        return
    run, card = source_run(opened, against)
    images = proof_data(data, card.training.data if card.training else None)
    where = {"artifact": str(artifact), "run": str(run), "data": images.spec if images else None, "split": split}
    noun = f"the process that verifies {artifact}"
    with progress(f"verifying {artifact}") as bar:
        ask("verify", noun, bar, **where, count=count, trust=list(TRUSTED))
    verified = Artifact.open(artifact)
    assert verified.manifest.ledger is not None
    before, after = (
        None if one.manifest.ledger is None else one.manifest.ledger.hops[0].images for one in (opened, verified)
    )
    if before is not None and after is not None and after < before:
        say(
            f"the proof in {artifact} was on {before} images and is on {after} now; --count {before} renews the stronger one"
        )
    found = None
    if bisect:
        with progress(f"bisecting {artifact}") as bar:
            found = ask("bisect", noun, bar, **where, trust=list(TRUSTED))
    ledger = schema.dump(verified.manifest.ledger)
    tables = [ledger_table(verified), *([stage_table(found), found["words"]] if found else [])]
    emit(ledger | {"bisect": found} if found else ledger, as_json, *tables)
    if error := refusal(verified):
        raise error


def on_device(artifact: Artifact, device: str, data: str | None, split: str | None, count: int, as_json: bool) -> None:
    """Show what the artifact draws on a device against here; generated scenes where no images are named."""
    from edgeseg import schema
    from edgeseg.data import load_data
    from edgeseg.parity import choose
    from edgeseg.runtimes.devices.agreement import agree, refusal

    generated = "synthetic_objects" if artifact.manifest.student.task == "promptable" else "synthetic"
    where, pictures = choose(load_data(data or generated), split, count, artifact.size)
    with progress(f"drawing on {device}") as bar:
        found = agree(artifact, device, where, [one.image for one in pictures], bar)
    rows: list[tuple[str, object]] = [
        ("board", f"{found.model or 'unknown'}, {found.cpu or 'unknown'}"),
        ("runtime, precision", f"{found.runtime}, {found.precision}"),
        ("images", f"{len(found.shares)} of {found.images}"),
        ("other labels", f"{found.different} of {found.pixels}"),
        ("same labels", f"{found.same:.4%}, at least {found.limit:.2%}; worst image {min(found.shares):.4%}"),
    ]
    emit(schema.dump(found), as_json, table(f"{artifact.folder} on {device} against here", ["", ""], rows))
    if error := refusal(found):
        raise error


def refuse_failed(artifacts: list[Artifact]) -> None:
    """End with exit code 2 when a ledger failed."""
    from edgeseg.parity import refusal

    for artifact in artifacts:
        if error := refusal(artifact):
            raise error


def stage_table(found: dict[str, Any]) -> Table:
    """The modules that were looked at, for people."""

    def shown(error: float | None) -> str:
        return "not finite" if error is None else f"{error:.1e}"

    rows = [
        [
            stage["module"],
            stage["kind"],
            "x".join(map(str, stage["shape"])),
            shown(stage["graph"]),
            shown(stage["file"]),
        ]
        + [Text("fits", "green") if stage["fits"] else Text("differs", "red")]
        for stage in found["stages"]
    ]
    title = f"modules in the order they run, within {found['within']:g}"
    return table(title, ["module", "kind", "output", "folded", "in the file", ""], rows, right=(3, 4), whole=(5,))


def source_run(artifact: Artifact, given: Path | None) -> tuple[Path, RunCard]:
    """The run an artifact is compared with, and its card: the one given, or the one the manifest names, by its hash."""
    from edgeseg.runs import read_card

    source = artifact.manifest.source
    if given is None and source.run is None:
        raise EdgesegError(f"{artifact.folder} does not say which run it was made from; name it with --against RUN")
    run = given or Path(str(source.run))
    if given is None and not run.exists():
        raise EdgesegError(
            f"the run {run} that {artifact.folder} was made from is not there; name it with --against RUN"
        )
    card = read_card(run)
    if source.sha256 is not None and card.sha256 != source.sha256:
        say(f"{run} has other weights than those {artifact.folder} was made from")
    return run, card


def proof_data(spec: str | None, trained_on: str | None) -> Data | None:
    """What to compare on: what was asked for, else what the run was trained on, else generated scenes (None)."""
    from edgeseg.data import load_data

    if spec is not None:
        return load_data(spec)
    if trained_on is None:
        return None
    try:
        return load_data(trained_on)
    except EdgesegError as error:
        say(f"comparing on generated scenes, since the run's own data is gone: {error}")
        return None


def ledger_table(artifact: Artifact) -> Table:
    """The ledger for people."""
    ledger = artifact.manifest.ledger
    assert ledger is not None
    rows = [
        [
            hop.name,
            hop.precision,
            None if hop.relative_rms is None else f"{hop.relative_rms:.2e}",
            f"{100 * hop.same_label:.3f}%",
            f"{hop.boundary_f:.4f}",
            f"{hop.worst_class_iou:.4f} {hop.worst_class or ''}".strip(),
            hop.nonfinite,
            PASS if hop.passed else FAIL,
        ]
        for hop in ledger.hops
    ]
    columns = ["hop", "as", "rel. RMS", "same label", "bound. F", "worst IoU", "NaN", ""]
    tiers = "".join(f"; {name}: {tier}" for name, tier in artifact.manifest.op_tiers.items())
    return table(
        f"{artifact.folder}: {ledger.hops[0].images} images of {ledger.data}{tiers}",
        columns,
        rows,
        right=(2, 3, 4, 6),
        whole=(1, 2, 3, 4, 6, 7),
    )
