"""`edgeseg sweep`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeseg.cli.app import Json, app, emit, table, talk

if TYPE_CHECKING:
    from edgeseg.runtimes.farm import Job, Outcome


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(metavar="SWEEP.yaml", help="Artifacts, devices, threads, protocol.")],
    out: Annotated[Path, typer.Option(help="The folder of the records and of the queue.")],
    again: Annotated[bool, typer.Option("--again", help="Also what failed, or has no figure to quote.")] = False,
    engine: Annotated[str, typer.Option(help="Who measures: local, or ray (the cluster at RAY_ADDRESS).")] = "local",
    as_json: Json = False,
) -> None:
    """Measure artifacts on many devices, a worker each. Stopped, the same command goes on; nothing is measured twice.

    Example: edgeseg sweep sweep.yaml --out records
    """
    from edgeseg.runtimes.farm import swept
    from edgeseg.runtimes.farm.sweep import verdict_of

    def tell(job: Job, device: str, outcome: Outcome) -> None:
        talk.print(f"{device}: {_title(job)} {outcome.state}{f', {outcome.reason}' if outcome.reason else ''}")

    jobs, left_out = swept(file, out, tell, again, engine)
    rows = [[_title(job), job.pool, job.device, job.state, job.tries, job.reason] for job in jobs]
    document = {"jobs": [asdict(job) for job in jobs], "left_out": left_out}
    emit(document, as_json, table("", ["artifact", "pool", "device", "state", "tries", "why"], rows))
    if error := verdict_of(jobs, left_out):
        raise error


def _title(job: Job) -> str:
    folder = Path(job.artifact)
    return f"{folder.parent.name}/{folder.name}, {job.threads} threads, {job.protocol}"
