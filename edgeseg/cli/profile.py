"""`edgeseg profile`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgeseg.cli.app import Json, app, emit, is_artifact, progress, table
from edgeseg.errors import EdgesegError


@app.command()
def profile(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT")],
    device: Annotated[str, typer.Option("-d", "--device", help="local")] = "local",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of the runtime.")] = 1,
    runs: Annotated[int, typer.Option(min=1, help="Frames that each time is a mean of.")] = 20,
    top: Annotated[int, typer.Option(min=0, help="How many of the dearest operators to show one by one.")] = 10,
    image: Annotated[
        Path | None, typer.Option(help="A JPEG or PNG to feed; the artifact's first evidence image by default.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Where the time of a frame goes, operator by operator, and where each ran. No latency: keeping account costs time.

    Example: edgeseg profile out/cam/onnxruntime --threads 2
    """
    from edgeseg import schema
    from edgeseg.runtimes.devices import open_device
    from edgeseg.runtimes.profile import profile as measure

    if device != "local":
        open_device(device).close()  # which says so of one that nobody knows
        raise EdgesegError(f"profile runs on `local` only; run edgeseg on {device} itself, with -d local")
    if not is_artifact(artifact):
        raise EdgesegError(f"{artifact} is a run; export it, a profile is of an artifact")
    evidence = artifact / "evidence" / "01-image.jpg"
    with progress(f"profiling {artifact}", unit=False):
        found = measure(artifact, threads, runs, image or (evidence if evidence.exists() else None))
    execution, total = found.execution, found.total_ms
    title = f"{artifact} on {found.device.name}, {execution.runtime} {execution.version}, {execution.threads} threads"
    columns = ["operator", "on", "precision", "count", "ms", "%"]
    kinds = [
        (kind.kind, kind.where, kind.precision, kind.count, f"{kind.ms:.3f}", f"{100 * kind.share:.1f}")
        for kind in found.kinds
    ]
    dearest = sorted(found.operators, key=lambda each: -each.ms)[:top]
    each = [(one.name, one.kind, f"{one.ms:.3f}", f"{100 * one.ms / total:.1f}", _kib(one.bytes)) for one in dearest]
    ones = [
        table(
            f"the {len(each)} dearest of {len(found.operators)}",
            ["name", "operator", "ms", "%", "output KiB"],
            each,
            (2, 3, 4),
        )
    ]
    emit(
        schema.dump(found),
        as_json,
        table(title, columns, kinds, (3, 4, 5)),
        *(ones if each else []),
        f"{total:.3f} ms in operators while keeping account, {found.p50_ms:.3f} ms a frame without; "
        f"load {found.load_ms:.1f} ms; peak memory {_mib(found.peak_memory_bytes)}, of it the model {_mib(found.model_memory_bytes)}",
    )


def _kib(size: int | None) -> str | None:
    return None if size is None else f"{size / 1024:.0f}"


def _mib(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 2**20:.0f} MiB"
