"""`edgeseg build`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeseg.cli.app import Json, app, emit, is_artifact, progress, say, table
from edgeseg.cli.export import ledger_table, proof_data, refuse_failed, source_run
from edgeseg.errors import EdgesegError, MissingTool


@app.command()
def build(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="An artifact for tensorrt.")],
    workspace_mb: Annotated[
        int | None, typer.Option(help="The most memory for a layer, in MiB; all by default.")
    ] = None,
    timing_cache: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Measured layers: read if it is there, and added to.")
    ] = None,
    trtexec: Annotated[bool, typer.Option("--trtexec", help="Only print the lines that do it without Python.")] = False,
    verify: Annotated[bool, typer.Option("--verify/--no-verify", help="Prove the engine against the run.")] = True,
    against: Annotated[Path | None, typer.Option(help="The run, where the manifest's own is not there.")] = None,
    data: Annotated[str | None, typer.Option(help="Images for the proof; the run's own data by default.")] = None,
    as_json: Json = False,
) -> None:
    """Build the TensorRT engine of an artifact on the device that will run it, and prove it there.

    Example: edgeseg build out/cam/tensorrt --timing-cache orin.cache
    """
    from edgeseg import schema
    from edgeseg.artifact import Artifact
    from edgeseg.export.tensorrt_build import Options, build_engines, trtexec_lines
    from edgeseg.parity import verify_with
    from edgeseg.runs import load_run
    from edgeseg.runtimes.tensorrt_engine import tensorrt

    if not is_artifact(artifact):
        raise EdgesegError(f"{artifact} is a run; export it with --to tensorrt, then build the artifact")
    opened, options = Artifact.open(artifact), Options(workspace_mb, timing_cache)
    lines = trtexec_lines(opened, options)
    if not trtexec:
        try:
            tensorrt()
        except MissingTool:
            emit({"trtexec": lines}, as_json, *lines)
            raise
    if trtexec:
        emit({"trtexec": lines}, as_json, *lines)
        return
    run, card = source_run(opened, against) if verify else (None, None)  # before the minutes that a build takes
    with progress(f"building {artifact}") as bar:
        cards = build_engines(opened, options, bar)
    proven = Artifact.open(artifact)
    if run is not None and card is not None:
        images = proof_data(data, card.training.data if card.training else None)
        with progress(f"verifying {artifact}") as bar:
            proven = verify_with(proven, load_run(run), images, progress=bar)
    else:
        say(f"nothing is proven of this engine yet: edgeseg verify {artifact}")
    columns = ["engine", "TensorRT", "GPU", "seconds", "MiB"]
    rows = [[i, c.tensorrt, c.gpu.name, c.seconds, f"{c.bytes / 2**20:.1f}"] for i, c in enumerate(cards, 1)]
    document = {"engines": [schema.dump(each) for each in cards], "manifest": schema.dump(proven.manifest)}
    tables = [table(str(artifact), columns, rows, right=(3, 4)), *([ledger_table(proven)] if run is not None else [])]
    emit(document, as_json, *tables)
    refuse_failed([proven])
