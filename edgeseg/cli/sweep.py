"""`edgeseg sweep`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeseg.cli.app import Json, app, emit, table, talk

if TYPE_CHECKING:
    from edgeseg.runtimes.farm import Job, Order, Outcome


@app.command()
def sweep(
    file: Annotated[
        Path, typer.Argument(metavar="SWEEP.yaml", help="Artifacts or runs to export, devices, threads, protocol.")
    ],
    out: Annotated[Path, typer.Option(help="The folder of the records, of the queue and of what was exported.")],
    again: Annotated[bool, typer.Option("--again", help="Also what failed, or has no figure to quote.")] = False,
    engine: Annotated[str, typer.Option(help="Who works: local, or ray (the cluster at RAY_ADDRESS).")] = "local",
    as_json: Json = False,
) -> None:
    """Export runs and measure artifacts on many devices, a worker each. Stopped, the same command goes on; nothing is done twice.

    Example: edgeseg sweep sweep.yaml --out records
    """
    from edgeseg.runtimes.farm import swept
    from edgeseg.runtimes.farm.sweep import verdict_of

    def tell(job: Job, device: str, outcome: Outcome) -> None:
        talk.print(f"{device}: {_title(job)} {outcome.state}{f', {outcome.reason}' if outcome.reason else ''}")

    def tell_export(order: Order, outcome: Outcome) -> None:
        talk.print(f"{order.name}: {outcome.state}{f', {outcome.reason}' if outcome.reason else ''}", soft_wrap=True)

    found = swept(file, out, tell, again, engine, tell_export)
    rows: list[list[object]] = [[name, None, None, one.state, None, one.reason] for name, one in found.exports.items()]
    rows += [[_title(job), job.pool, job.device, job.state, job.tries, job.reason] for job in found.jobs]
    document = {
        "exports": [{"name": name, "state": one.state, "reason": one.reason} for name, one in found.exports.items()],
        "jobs": [asdict(job) for job in found.jobs],
        "left_out": found.left_out,
    }
    emit(document, as_json, table("", ["artifact", "pool", "device", "state", "tries", "why"], rows))
    if error := verdict_of(found):
        raise error


def _title(job: Job) -> str:
    folder = Path(job.artifact)
    return f"{folder.parent.name}/{folder.name}, {job.threads} threads, {job.protocol}"
