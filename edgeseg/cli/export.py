"""`edgeseg export` and `edgeseg verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeseg.cli.app import Json, Size, app, emit, is_artifact, parse_size, progress, table, talk
from edgeseg.errors import EdgesegError, ParityFailed

if TYPE_CHECKING:
    from rich.table import Table

    from edgeseg.artifact import Artifact
    from edgeseg.data import Data
    from edgeseg.runs import RunCard


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN")],
    to: Annotated[str, typer.Option(metavar="TARGET[,TARGET]", help="onnxruntime, openvino")],
    out: Annotated[Path, typer.Option(help="Each artifact goes into a folder of its own in here, e.g. OUT/openvino.")],
    precision: Annotated[str, typer.Option(help="fp32 or fp16")] = "fp32",
    size: Size = None,
    bake: Annotated[str, typer.Option(help="pre: uint8 RGB in; labels: uint8 label map out; or pre,labels")] = "",
    ops: Annotated[
        str, typer.Option(help="How wkv, selective_scan and label_map run: auto, plugin or graph (standard operators).")
    ] = "auto",
    data: Annotated[str | None, typer.Option(help="Images for the proof; the run's own data by default.")] = None,
    as_json: Json = False,
) -> None:
    """Export a run, prove each artifact, and put it in place when it is complete.

    Example: edgeseg export runs/cam --to onnxruntime,openvino --out out/cam --bake pre,labels
    """
    from edgeseg import schema
    from edgeseg.export import TARGETS, export_model
    from edgeseg.manifest import Source
    from edgeseg.runs import load_run, read_card

    kinds = [TARGETS[name.strip()] for name in to.split(",")]
    baked = [name.strip() for name in bake.split(",") if name.strip()]
    card = read_card(run)
    wanted = parse_size(size) or card.size
    if wanted is None:
        raise EdgesegError(f"{run} does not say at which size it was trained; give one with --size, e.g. 360x480")
    targets = [kind(precision=precision, ops=ops) for kind in kinds]  # type: ignore[arg-type]  # checked when it is built
    student = load_run(run)
    images = proof_data(data, card.training.data if card.training else None)
    made = []
    for target in targets:
        folder = out / (target.name if target.precision == "fp32" else f"{target.name}-{target.precision}")
        with progress(f"exporting and verifying {folder}") as bar:
            source = Source(str(run), card.sha256)
            made.append(export_model(student, target, folder, wanted, baked, source, images, bar))
    emit([schema.dump(artifact.manifest) for artifact in made], as_json, *[ledger_table(artifact) for artifact in made])
    refuse_failed(made)


@app.command()
def verify(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT")],
    against: Annotated[
        Path | None, typer.Option(help="The run; the one the artifact was made from by default.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Images to compare on; the run's own data by default.")] = None,
    split: Annotated[str | None, typer.Option(help="The data set's selection split by default.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Images to compare on.")] = 8,
    as_json: Json = False,
) -> None:
    """Compare an artifact with its run on real images, mask by mask, and renew its ledger.

    Example: edgeseg verify out/cam/openvino --data camvid:PATH --split test --count 50
    """
    from edgeseg import schema
    from edgeseg.artifact import Artifact
    from edgeseg.parity import verify_with
    from edgeseg.runs import load_run

    if not is_artifact(artifact):
        raise EdgesegError(f"{artifact} is a run; verify takes an artifact and compares it with its run")
    opened = Artifact.open(artifact)
    run, card = source_run(opened, against)
    images = proof_data(data, card.training.data if card.training else None)
    with progress(f"verifying {artifact}") as bar:
        verified = verify_with(opened, load_run(run), images, split, count, bar)
    assert verified.manifest.ledger is not None
    emit(schema.dump(verified.manifest.ledger), as_json, ledger_table(verified))
    refuse_failed([verified])


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
        talk.print(
            f"[yellow]note:[/] {run} has other weights than those {artifact.folder} was made from", soft_wrap=True
        )
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
        talk.print(
            f"[yellow]note:[/] comparing on generated scenes, since the run's own data is gone: {error}", soft_wrap=True
        )
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
            "[green]pass[/]" if hop.passed else "[red]FAIL[/]",
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
        whole=(0, 1, 7),
    )


def refuse_failed(artifacts: list[Artifact]) -> None:
    """End with exit code 2 when a ledger failed."""
    from edgeseg.parity import bad_hops

    for artifact in artifacts:
        ledger = artifact.manifest.ledger
        if ledger is not None and not ledger.passed:
            raise ParityFailed(f"{artifact.folder} does not draw the masks of its run: {'; '.join(bad_hops(ledger))}")
