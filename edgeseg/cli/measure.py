"""`edgeseg bench` and `edgeseg compare`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgeseg.cli.app import Json, Size, app, emit, is_artifact, parse_size, progress, table, talk
from edgeseg.errors import EdgesegError, InvalidMeasurement

if TYPE_CHECKING:
    from rich.table import Table

    from edgeseg.runtimes.record import Record


@app.command()
def bench(
    subject: Annotated[Path, typer.Argument(metavar="ARTIFACT|RUN")],
    device: Annotated[
        str,
        typer.Option("-d", "--device", help="local, ssh://user@host[:port], or a name from `edgeseg devices list`."),
    ] = "local",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of the runtime.")] = 1,
    protocol: Annotated[str, typer.Option(help="quick, mlperf-mobile, or smoke (no figure to quote)")] = "quick",
    e2e: Annotated[bool, typer.Option("--e2e", help="Time decode, resize, infer and labels apart as well.")] = False,
    image: Annotated[
        Path | None, typer.Option(help="A JPEG or PNG to feed; the artifact's first evidence image by default.")
    ] = None,
    size: Size = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="The record; SUBJECT/records/... by default.")] = None,
    as_json: Json = False,
) -> None:
    """Measure an artifact, or a run in eager PyTorch, in a fresh process; every sample is kept.

    Over ssh an artifact is measured by an agent that is sent along; the device needs Python 3.8, NumPy and the runtime.

    Example: edgeseg bench out/cam/openvino --threads 2 --protocol quick --e2e
    """
    from edgeseg import schema
    from edgeseg.provenance import now
    from edgeseg.runtimes import record as records
    from edgeseg.runtimes.measure import Failed, measure
    from edgeseg.runtimes.protocol import parse

    is_artifact(subject)
    evidence = subject / "evidence" / "01-image.jpg"
    picture = image or (evidence if evidence.exists() else None)
    place = re.sub(r"[^\w.@-]+", "-", device)
    begun = now().replace(":", "").replace("+0000", "")
    path = out or subject / "records" / f"{place}-t{threads}-{protocol}-{begun}.json"
    try:
        with progress(f"measuring {subject}", unit=False) as bar:
            result = measure(
                subject,
                protocol=parse(protocol),
                threads=threads,
                e2e=e2e,
                image=picture,
                size=parse_size(size),
                progress=lambda share: bar(share, 1.0),
                device=device,
            )
    except Failed as failed:
        raise InvalidMeasurement(f"{failed}; kept in {schema.write(path, failed.failure)}") from failed
    records.write(path, result)
    emit(schema.dump(result), as_json, record_table(result), str(path))
    if not result.valid:
        raise InvalidMeasurement(f"not to be quoted: {'; '.join(result.reasons)}")


def record_table(record: Record) -> Table:
    """A record for people: figures in ms, from the samples."""
    latency, execution = record.latency, record.execution
    rows: list[tuple[str, object]] = [
        (
            "executed by",
            f"{execution.runtime} {execution.version}, {execution.threads} threads, {execution.precision or 'precision unknown'}",
        ),
        ("p50", f"{latency.p50_ms:.3f} ms ({latency.p50_low_ms:.3f} to {latency.p50_high_ms:.3f})"),
        ("p90", _p90(latency.p90_ms, latency.p90_upper_ms)),
        ("sustained", f"{latency.sustained_fps:.2f} FPS over {latency.wall_s:.1f} s, {latency.count} samples"),
        ("load, first inference", f"{record.load_ms:.1f} ms, {record.first_ms:.1f} ms"),
        ("peak memory", None if record.peak_memory_bytes is None else f"{record.peak_memory_bytes / 2**20:.0f} MiB"),
        (
            "A/A gap",
            f"{100 * record.noise.gap:+.2f} % ({100 * record.noise.low:+.2f} to {100 * record.noise.high:+.2f})",
        ),
    ]
    if record.e2e is not None:
        rows.append(("end to end", f"p50 {record.e2e.p50_ms:.3f} ms, {record.e2e.sustained_fps:.2f} FPS"))
        rows += [(f"  {stage.name}", f"p50 {stage.p50_ms:.3f} ms") for stage in record.stages or []]
    return table(f"{record.subject.path} on {record.device.name}, {record.protocol.name}", ["", ""], rows)


def _p90(value: float | None, upper: float | None) -> str:
    if value is None or upper is None:
        return "needs 64 samples"
    return f"{value:.3f} ms, at most {upper:.3f} (99 % early-stopping bound)"


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="RECORD|ARTIFACT|RUN")],
    second: Annotated[Path, typer.Argument(metavar="RECORD|ARTIFACT|RUN")],
    threads: Annotated[int, typer.Option(min=1, help="For artifacts and runs.")] = 1,
    pairs: Annotated[int, typer.Option(min=3, help="For artifacts and runs: interleaved pairs of bursts.")] = 12,
    as_json: Json = False,
) -> None:
    """Is the second faster, slower, equivalent (within 2 %), or is it inconclusive?

    Two records are compared as they were stored; two artifacts are measured now, in turns, which is the better evidence.

    Example: edgeseg compare out/cam/onnxruntime out/cam/openvino --threads 2
    """
    from edgeseg import schema
    from edgeseg.runtimes import record as records
    from edgeseg.runtimes.compare import compare_paired, compare_records

    if first.is_file() != second.is_file():
        raise EdgesegError("compare takes two records or two folders, not one of each")
    if first.is_file():
        result = compare_records(records.read(first), records.read(second))
    else:
        for folder in (first, second):
            is_artifact(folder)
        with progress("measuring in turns", unit=False) as bar:
            result = compare_paired(first, second, pairs=pairs, threads=threads, progress=lambda share: bar(share, 1.0))
    if result.ratio is None:
        sentence = f"{second} against {first}: {result.verdict}"
    else:
        sentence = f"{second} is [bold]{result.verdict}[/]: {result.ratio:.3f} of the time of {first} ({result.low:.3f} to {result.high:.3f})"
    if result.noise is not None:
        low, high = (100 * (2.718281828**value - 1) for value in (result.noise.low, result.noise.high))
        sentence += f"\nthe first against itself: {low:+.1f} to {high:+.1f} %"
    emit(schema.dump(result), as_json, sentence)
    for line in result.why:
        talk.print(f"[yellow]note:[/] {line}", soft_wrap=True)
    if result.ratio is None:
        raise InvalidMeasurement(f"the two cannot be compared: {'; '.join(result.why)}")
