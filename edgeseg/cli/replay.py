"""`edgeseg replay`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeseg.cli.app import Json, app, emit, progress, say
from edgeseg.cli.export import proof_data, source_run
from edgeseg.cli.measure import record_table
from edgeseg.errors import ParityFailed


@app.command()
def replay(
    path: Annotated[Path, typer.Argument(metavar="MANIFEST|RECORD", help="An artifact's manifest.json, or a record.")],
    run: Annotated[Path | None, typer.Option(help="The run, where the manifest's own is not there.")] = None,
    as_json: Json = False,
) -> None:
    """Export or measure again exactly as before, and report the drift.

    Example: edgeseg replay out/cam/openvino/manifest.json
    """
    from edgeseg.replay import kind_of

    if kind_of(path) == "manifest":
        _export(path if path.is_dir() else path.parent, run, as_json)
    else:
        _record(path, as_json)


def _export(folder: Path, run: Path | None, as_json: bool) -> None:
    from edgeseg import schema
    from edgeseg.artifact import Artifact
    from edgeseg.replay import drift_lines, replay_export

    artifact = Artifact.open(folder)
    source, card = source_run(artifact, run)
    with progress(f"exporting {folder} again"):
        drift = replay_export(artifact, source, proof_data(None, card.training.data if card.training else None))
    emit(schema.dump(drift), as_json, *drift_lines(drift))
    if not drift.passed:
        raise ParityFailed(f"exported again, {folder} no longer draws the masks of its run")


def _record(path: Path, as_json: bool) -> None:
    from edgeseg import schema
    from edgeseg.replay import replay_record
    from edgeseg.runtimes import record as records

    with progress(f"measuring {path.name} again", unit=False) as bar:
        again, comparison = replay_record(records.read(path), lambda share: bar(share, 1.0))
    ratio = (
        ""
        if comparison.ratio is None
        else f", {comparison.ratio:.3f} of the time ({comparison.low:.3f} to {comparison.high:.3f})"
    )
    document = {"record": schema.dump(again), "comparison": schema.dump(comparison)}
    emit(document, as_json, record_table(again), f"against {path}: {comparison.verdict}{ratio}")
    for line in comparison.why:
        say(line)
